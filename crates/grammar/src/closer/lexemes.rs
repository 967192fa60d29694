//! The lexer's automaton, and the shortest way from each of its states to the end of a lexeme.

use std::collections::{HashMap, VecDeque};

use llguidance::api::ParserLimits;
use llguidance::earley::CGrammar;
use llguidance::earley::lexerspec::LexemeIdx;
use llguidance::earley::regexvec::{LexemeSet, NextByte, RegexVec, StateID};

use super::{Cost, NEVER};

/// States that a search for the end of a lexeme may visit. Strings whose `minLength` is ten thousand need as many.
const MAX_SEARCH: usize = 60_000;

/// States that it visits yet once it has met an end by way of states whose distance is known: some of them may be nearer.
const MORE_SEARCH: usize = 500;

/// Work of the automaton that one token may cause; llguidance's own measure, on the order of 100 ns each.
const STEP_FUEL: u64 = 1_000_000;

/// The automaton of all lexemes of a grammar. States are made as they are met, and kept.
pub(crate) struct Lexemes {
    dfa: RegexVec,
    /// A byte for each class of bytes that no lexeme tells apart: ASCII first, and among it what is pleasant to read.
    representatives: Vec<u8>,
    /// From a state of one lexeme: bytes to the lexeme's end, and the first of them.
    nearest: HashMap<StateID, (Cost, u8)>,
    num_lexemes: usize,
}

impl Lexemes {
    pub(crate) fn new(grammar: &CGrammar, limits: &ParserLimits) -> Result<Self, String> {
        let spec = grammar.lexer_spec();
        let mut dfa = spec.to_regex_vec(&mut limits.clone()).map_err(|e| e.to_string())?;
        dfa.set_max_states(limits.max_lexer_states);
        let mut seen = vec![false; 256];
        let pleasant = |byte: u8| match byte {
            b'0' | b'a' => 0,
            b'1'..=b'9' | b'b'..=b'z' => 1,
            b' '..=b'~' => 2,
            0..=0x7f => 3,
            _ => 4,
        };
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.sort_by_key(|&byte| pleasant(byte));
        let representatives = bytes
            .into_iter()
            .filter(|&byte| {
                let class = dfa.alpha().map(byte);
                !std::mem::replace(&mut seen[class.min(255)], true)
            })
            .collect();
        let num_lexemes = spec.lexemes.len();
        Ok(Lexemes { dfa, representatives, nearest: HashMap::new(), num_lexemes })
    }

    /// Begins the work for one token.
    ///
    /// # Errors
    /// If earlier work went beyond what is bounded.
    pub(crate) fn refuel(&mut self) -> Result<(), String> {
        self.dfa.set_fuel(STEP_FUEL);
        match self.dfa.get_error() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    pub(crate) fn no_lexemes(&self) -> LexemeSet {
        LexemeSet::new(self.num_lexemes)
    }

    pub(crate) fn start(&mut self, allowed: &LexemeSet) -> StateID {
        self.dfa.initial_state(allowed)
    }

    pub(crate) fn step(&mut self, state: StateID, byte: u8) -> StateID {
        self.dfa.transition(state, byte)
    }

    /// Whether nothing can be added to what has been read, so that the lexeme ends here.
    pub(crate) fn must_end(&mut self, state: StateID) -> bool {
        self.dfa.next_byte(state) == NextByte::ForcedEOI
    }

    /// Lexemes that may end here.
    pub(crate) fn ending(&self, state: StateID) -> &[LexemeIdx] {
        self.dfa.state_desc(state).greedy_accepting.as_slice()
    }

    /// Lexemes that end here at once, as nothing can be added.
    pub(crate) fn ending_at_once(&self, state: StateID) -> &[LexemeIdx] {
        self.dfa.state_desc(state).lazy_accepting.as_slice()
    }

    /// Lexemes that what has been read may become.
    pub(crate) fn possible(&self, state: StateID) -> Vec<LexemeIdx> {
        self.dfa.state_desc(state).possible.iter().collect()
    }

    /// Bytes from the beginning to the end of a lexeme.
    pub(crate) fn least(&mut self, lexeme: LexemeIdx) -> Cost {
        let mut one = self.no_lexemes();
        one.add(lexeme);
        let state = self.dfa.initial_state(&one);
        self.distance(state)
    }

    /// Bytes from a state to the end of one of its lexemes.
    pub(crate) fn least_from(&mut self, state: StateID, lexeme: LexemeIdx) -> Cost {
        let state = self.only(state, lexeme);
        self.distance(state)
    }

    /// Writes the bytes from a state, or the beginning, to the end of a lexeme.
    pub(crate) fn complete(
        &mut self,
        from: Option<StateID>,
        lexeme: LexemeIdx,
        bytes: &mut Vec<u8>,
    ) {
        let mut one = self.no_lexemes();
        one.add(lexeme);
        let mut state = match from {
            Some(state) => self.dfa.limit_state_to(state, &one),
            None => self.dfa.initial_state(&one),
        };
        let mut left = self.distance(state);
        while left != 0 && left != NEVER {
            let Some(&(_, byte)) = self.nearest.get(&state) else { return };
            bytes.push(byte);
            state = self.dfa.transition(state, byte);
            left = self.distance(state);
        }
    }

    fn only(&mut self, state: StateID, lexeme: LexemeIdx) -> StateID {
        let mut one = self.no_lexemes();
        one.add(lexeme);
        self.dfa.limit_state_to(state, &one)
    }

    fn accepts(&self, state: StateID) -> bool {
        !self.ending(state).is_empty() || !self.ending_at_once(state).is_empty()
    }

    /// Bytes from a state of one lexeme to its end.
    fn distance(&mut self, state: StateID) -> Cost {
        if state.is_dead() {
            return NEVER;
        }
        if self.accepts(state) {
            return 0;
        }
        if let Some(&(cost, _)) = self.nearest.get(&state) {
            return cost;
        }
        // Characters beyond ASCII take several states each, and are hardly ever the shorter way.
        let ascii = self.representatives.partition_point(u8::is_ascii);
        match self.search(state, ascii) {
            NEVER => {
                let cost = self.search(state, self.representatives.len());
                if cost == NEVER {
                    self.nearest.insert(state, (NEVER, 0));
                }
                cost
            }
            cost => cost,
        }
    }

    /// Breadth first by the first `choices` of the representatives, until an end is met, or states whose distance is known make
    /// a nearer one unlikely.
    fn search(&mut self, from: StateID, choices: usize) -> Cost {
        // How each state was reached: from which, by which byte, after how many bytes.
        let mut reached: HashMap<StateID, (StateID, u8, Cost)> = HashMap::new();
        reached.insert(from, (from, 0, 0));
        let mut more = MORE_SEARCH;
        let mut queue = VecDeque::from([from]);
        let mut best: Option<(Cost, StateID)> = None;
        while let Some(state) = queue.pop_front() {
            let depth = reached[&state].2;
            if let Some((cost, _)) = best {
                more -= 1;
                if depth + 1 >= cost || more == 0 {
                    break;
                }
            }
            if reached.len() > MAX_SEARCH {
                break;
            }
            for at in 0..choices {
                let byte = self.representatives[at];
                let next = self.dfa.transition(state, byte);
                if next.is_dead() || reached.contains_key(&next) {
                    continue;
                }
                reached.insert(next, (state, byte, depth + 1));
                let known = if self.accepts(next) {
                    Some(0)
                } else {
                    self.nearest.get(&next).map(|&(cost, _)| cost)
                };
                match known {
                    Some(NEVER) => {}
                    Some(rest) if best.is_none_or(|(cost, _)| depth + 1 + rest < cost) => {
                        best = Some((depth + 1 + rest, next));
                    }
                    Some(_) => {}
                    None => queue.push_back(next),
                }
            }
        }
        let Some((total, end)) = best else { return NEVER };
        // All states of the way have their distance now.
        let mut state = end;
        while state != from {
            let (before, byte, depth) = reached[&state];
            self.nearest.insert(before, (total - depth + 1, byte));
            state = before;
        }
        total
    }
}
