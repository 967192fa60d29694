//! A compiled grammar in the form that the chart reads.

use std::collections::HashMap;

use llguidance::earley::lexerspec::LexemeIdx;
use llguidance::earley::{CGrammar, CSymIdx};

use super::{Cost, Lexemes, NEVER};

/// Index of a symbol in [`Table::symbols`].
pub(crate) type Symbol = u32;

/// The end of a rule, in [`Table::right`].
pub(crate) const END: Symbol = Symbol::MAX;

/// A terminal or a nonterminal.
pub(crate) struct SymbolInfo {
    pub(crate) lexeme: Option<LexemeIdx>,
    /// What may stand between lexemes before this one.
    pub(crate) skip: Option<LexemeIdx>,
    /// The special token that this lexeme is.
    pub(crate) special: Option<u32>,
    pub(crate) nullable: bool,
    /// Where the right sides of its rules begin.
    pub(crate) rules: Vec<u32>,
    /// Bytes of its shortest text.
    pub(crate) least: Cost,
    /// The rule of that text; none for a terminal, or if the text is empty.
    pub(crate) shortest: Option<u32>,
}

/// A grammar: rules as positions in one array, as an Earley item is a position and a row.
pub(crate) struct Table {
    pub(crate) symbols: Vec<SymbolInfo>,
    /// Right sides, each ending with [`END`].
    pub(crate) right: Vec<Symbol>,
    /// The symbol whose rule a position belongs to.
    pub(crate) left: Vec<Symbol>,
    /// Bytes of the shortest text of what stands at a position and after it.
    pub(crate) rest: Vec<Cost>,
    pub(crate) start: Symbol,
    /// Whether a lexeme is one that may stand between others, by its index.
    pub(crate) skips: Vec<bool>,
    pub(crate) initial_skip: bool,
}

impl Table {
    /// Reads a grammar back. `specials`: special tokens that it may use. `None` if it has what the chart does not know
    /// (Lark's lazy and parametric rules).
    pub(crate) fn new(
        grammar: &CGrammar,
        lexemes: &mut Lexemes,
        specials: &[u32],
    ) -> Option<Table> {
        let spec = grammar.lexer_spec();
        if grammar.parametric() || spec.has_stop || spec.has_max_tokens {
            return None;
        }
        let mut table = Table {
            symbols: Vec::new(),
            right: Vec::new(),
            left: Vec::new(),
            rest: Vec::new(),
            start: 0,
            skips: vec![false; spec.lexemes.len()],
            initial_skip: spec.allow_initial_skip,
        };
        for &skip in &spec.skip_by_class {
            table.skips[skip.as_usize()] = true;
        }
        table.read(grammar, specials);
        table.weigh(lexemes);
        Some(table)
    }

    fn read(&mut self, grammar: &CGrammar, specials: &[u32]) {
        let spec = grammar.lexer_spec();
        let mut ids: HashMap<CSymIdx, Symbol> = HashMap::from([(grammar.start(), 0)]);
        let mut found = vec![grammar.start()];
        let mut next = 0;
        while let Some(&symbol) = found.get(next) {
            let data = grammar.sym_data(symbol);
            let skip = data.lexeme.map(|_| spec.skip_id(data.props.grammar_id));
            let special = data.lexeme.and_then(|lexeme| {
                let lexeme = spec.lexeme_spec(lexeme);
                specials.iter().copied().find(|&token| lexeme.contains_token(token))
            });
            let mut rules = Vec::new();
            for &rule in &data.rules {
                rules.push(self.right.len() as u32);
                let (symbols, ..) = grammar.rule_rhs(rule);
                for &part in symbols {
                    let id = *ids.entry(part).or_insert_with(|| {
                        found.push(part);
                        found.len() as u32 - 1
                    });
                    self.right.push(id);
                    self.left.push(next as u32);
                }
                self.right.push(END);
                self.left.push(next as u32);
            }
            self.symbols.push(SymbolInfo {
                lexeme: data.lexeme,
                skip,
                special,
                nullable: data.is_nullable,
                rules,
                least: NEVER,
                shortest: None,
            });
            next += 1;
        }
        self.rest = vec![NEVER; self.right.len()];
    }

    /// Finds the shortest text of every symbol: again and again, until nothing becomes shorter.
    fn weigh(&mut self, lexemes: &mut Lexemes) {
        for symbol in &mut self.symbols {
            if symbol.nullable {
                symbol.least = 0;
            } else if symbol.special.is_some() {
                symbol.least = 1;
            } else if let Some(lexeme) = symbol.lexeme {
                symbol.least = lexemes.least(lexeme);
            }
        }
        loop {
            let mut changed = false;
            for at in (0..self.right.len()).rev() {
                let symbol = self.right[at];
                self.rest[at] = if symbol == END {
                    0
                } else {
                    self.symbols[symbol as usize].least.saturating_add(self.rest[at + 1])
                };
            }
            for symbol in &mut self.symbols {
                for &rule in &symbol.rules {
                    let cost = self.rest[rule as usize];
                    if cost < symbol.least {
                        symbol.least = cost;
                        symbol.shortest = Some(rule);
                        changed = true;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }
}
