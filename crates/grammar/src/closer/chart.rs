//! One answer as far as it is: Earley's chart, and the least number of bytes that end the answer.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use llguidance::earley::lexerspec::LexemeIdx;
use llguidance::earley::regexvec::StateID;

use super::table::{END, Symbol};
use super::{Cost, Lexemes, NEVER, Table};

/// A rule with a dot in it (a position in [`Table::right`]), and the row where the rule began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Item {
    at: u32,
    start: u32,
}

/// Items of a row whose dot is before the same nonterminal.
struct Waiting {
    symbol: Symbol,
    /// Bytes to the end once that nonterminal is complete, and the item by which.
    after: Cost,
    best: Item,
    items: Vec<Item>,
}

/// An item whose dot is before a terminal, and the bytes to the end after it.
struct Terminal {
    symbol: Symbol,
    item: Item,
    after: Cost,
}

/// What may follow at one point between lexemes.
struct Row {
    /// By symbol, in ascending order.
    waiting: Vec<Waiting>,
    terminals: Vec<Terminal>,
    /// Whether the answer may end here.
    accepts: bool,
    /// Bytes to the end from here.
    total: Cost,
}

/// An answer as far as it is.
#[derive(Clone)]
pub(crate) struct Chart {
    rows: Vec<Arc<Row>>,
    state: StateID,
    /// Whether a lexeme has begun.
    inside: bool,
}

/// A point of an answer to go back to.
pub(crate) struct Mark {
    rows: usize,
    state: StateID,
    inside: bool,
}

/// A part of an ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    Special(u32),
}

/// What ends an answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Vec<Piece>);

impl Tail {
    /// Where bytes are to be appended.
    fn bytes(&mut self) -> &mut Vec<u8> {
        if !matches!(self.0.last(), Some(Piece::Bytes(_))) {
            self.0.push(Piece::Bytes(Vec::new()));
        }
        match self.0.last_mut() {
            Some(Piece::Bytes(bytes)) => bytes,
            _ => unreachable!("bytes were pushed"),
        }
    }
}

impl Chart {
    /// An answer that has not begun.
    pub(crate) fn new(table: &Table, lexemes: &mut Lexemes) -> Chart {
        let mut chart = Chart { rows: Vec::new(), state: StateID::DEAD, inside: false };
        let first = &table.symbols[table.start as usize].rules;
        let seeds = first.iter().map(|&at| Item { at, start: 0 }).collect();
        chart.push_row(table, lexemes, seeds, table.initial_skip);
        chart
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { rows: self.rows.len(), state: self.state, inside: self.inside }
    }

    /// Takes back everything since `mark`.
    pub(crate) fn rewind(&mut self, mark: &Mark) {
        self.rows.truncate(mark.rows);
        self.state = mark.state;
        self.inside = mark.inside;
    }

    /// Takes a byte, as llguidance's lexer would: lexemes are as long as they can be. `false`: it does not fit, and the chart
    /// has to be taken back to a mark.
    pub(crate) fn push_byte(&mut self, table: &Table, lexemes: &mut Lexemes, byte: u8) -> bool {
        let next = lexemes.step(self.state, byte);
        if next.is_dead() {
            if !self.end_lexeme(table, lexemes) {
                return false;
            }
            let first = lexemes.step(self.state, byte);
            if first.is_dead() {
                return false;
            }
            self.state = first;
            self.inside = true;
            return !lexemes.must_end(first) || self.end_lexeme(table, lexemes);
        }
        self.state = next;
        self.inside = true;
        if next.has_lowest_match() {
            let ending = lexemes.ending_at_once(next).to_vec();
            return self.scan(table, lexemes, &ending);
        }
        true
    }

    /// Takes a special token.
    pub(crate) fn push_special(&mut self, table: &Table, lexemes: &mut Lexemes, id: u32) -> bool {
        if self.inside && !self.end_lexeme(table, lexemes) {
            return false;
        }
        let terminals = &self.last().terminals;
        let lexeme = terminals.iter().find_map(|terminal| {
            let info = &table.symbols[terminal.symbol as usize];
            info.lexeme.filter(|_| info.special == Some(id))
        });
        lexeme.is_some_and(|lexeme| self.scan(table, lexemes, &[lexeme]))
    }

    /// Whether nothing may follow, as far as the chart knows: white space at the end is the lexer's.
    pub(crate) fn is_finished(&self) -> bool {
        let row = self.last();
        !self.inside && row.accepts && row.terminals.is_empty()
    }

    /// Bytes to the end; 0 where the answer may end.
    pub(crate) fn least(&self, table: &Table, lexemes: &mut Lexemes) -> Cost {
        self.nearest(table, lexemes).0
    }

    /// What ends the answer with the fewest bytes; `None` if nothing does.
    pub(crate) fn tail(&self, table: &Table, lexemes: &mut Lexemes) -> Option<Tail> {
        let (cost, way) = self.nearest(table, lexemes);
        if cost == NEVER {
            return None;
        }
        let mut tail = Tail::default();
        let mut item = match way {
            Way::Here => return Some(tail),
            Way::Skip(lexeme) => {
                lexemes.complete(Some(self.state), lexeme, tail.bytes());
                let row = self.last();
                if row.accepts {
                    return Some(tail);
                }
                let terminal = row.terminals.iter().min_by_key(|t| from_start(table, t))?;
                symbol_text(table, lexemes, terminal.symbol, &mut tail);
                terminal.item
            }
            Way::Lexeme(at) => {
                let terminal = &self.last().terminals[at];
                match table.symbols[terminal.symbol as usize].lexeme {
                    Some(lexeme) if self.inside => {
                        lexemes.complete(Some(self.state), lexeme, tail.bytes());
                    }
                    _ => symbol_text(table, lexemes, terminal.symbol, &mut tail),
                }
                terminal.item
            }
        };
        // Up through all that is open: the rest of each rule, then of the rule that waits for it.
        loop {
            let mut at = item.at as usize + 1;
            while table.right[at] != END {
                symbol_text(table, lexemes, table.right[at], &mut tail);
                at += 1;
            }
            let symbol = table.left[item.at as usize];
            if symbol == table.start && item.start == 0 {
                return Some(tail);
            }
            item = self.rows[item.start as usize].waiting(symbol)?.best;
        }
    }

    fn last(&self) -> &Arc<Row> {
        &self.rows[self.rows.len() - 1]
    }

    /// The nearest end, and the way there.
    fn nearest(&self, table: &Table, lexemes: &mut Lexemes) -> (Cost, Way) {
        let row = self.last();
        let mut best = (NEVER, Way::Here);
        if !self.inside {
            if row.accepts {
                return (0, Way::Here);
            }
            for (at, terminal) in row.terminals.iter().enumerate() {
                let cost = from_start(table, terminal);
                if cost < best.0 {
                    best = (cost, Way::Lexeme(at));
                }
            }
            return best;
        }
        for lexeme in lexemes.possible(self.state) {
            let left = lexemes.least_from(self.state, lexeme);
            if left == NEVER {
                continue;
            }
            if table.skips[lexeme.as_usize()] {
                let cost = left.saturating_add(row.total);
                if cost < best.0 {
                    best = (cost, Way::Skip(lexeme));
                }
                continue;
            }
            for (at, terminal) in row.terminals.iter().enumerate() {
                if table.symbols[terminal.symbol as usize].lexeme == Some(lexeme) {
                    let cost = left.saturating_add(terminal.after);
                    if cost < best.0 {
                        best = (cost, Way::Lexeme(at));
                    }
                }
            }
        }
        best
    }

    /// Ends the lexeme that has begun.
    fn end_lexeme(&mut self, table: &Table, lexemes: &mut Lexemes) -> bool {
        if !self.inside {
            return false;
        }
        let ending = lexemes.ending(self.state).to_vec();
        !ending.is_empty() && self.scan(table, lexemes, &ending)
    }

    /// Goes on to the row after one of these lexemes.
    fn scan(&mut self, table: &Table, lexemes: &mut Lexemes, ending: &[LexemeIdx]) -> bool {
        let last = self.last();
        if ending.iter().any(|lexeme| table.skips[lexeme.as_usize()]) {
            // What may follow is the same, but for a second skip.
            let row = Arc::clone(last);
            let mut allowed = lexemes.no_lexemes();
            for terminal in &row.terminals {
                if let Some(lexeme) = table.symbols[terminal.symbol as usize].lexeme {
                    allowed.add(lexeme);
                }
            }
            self.state = lexemes.start(&allowed);
            self.inside = false;
            self.rows.push(row);
            return true;
        }
        let scanned = last.terminals.iter().filter(|terminal| {
            let lexeme = table.symbols[terminal.symbol as usize].lexeme;
            lexeme.is_some_and(|lexeme| ending.contains(&lexeme))
        });
        let seeds: Vec<Item> = scanned.map(|terminal| terminal.item.advanced()).collect();
        !seeds.is_empty() && self.push_row(table, lexemes, seeds, true)
    }

    fn push_row(
        &mut self,
        table: &Table,
        lexemes: &mut Lexemes,
        seeds: Vec<Item>,
        skip: bool,
    ) -> bool {
        let row = Builder::new(table, &self.rows, seeds).build();
        let mut allowed = lexemes.no_lexemes();
        for terminal in &row.terminals {
            let info = &table.symbols[terminal.symbol as usize];
            if let Some(lexeme) = info.lexeme {
                allowed.add(lexeme);
            }
            if let Some(lexeme) = info.skip.filter(|_| skip) {
                allowed.add(lexeme);
            }
        }
        self.state = lexemes.start(&allowed);
        self.inside = false;
        self.rows.push(Arc::new(row));
        true
    }
}

/// How the nearest end is reached.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The answer may end here.
    Here,
    /// By this one of the row's terminals.
    Lexeme(usize),
    /// By what stands between lexemes, then as from the row's beginning.
    Skip(LexemeIdx),
}

impl Item {
    fn advanced(self) -> Item {
        Item { at: self.at + 1, start: self.start }
    }
}

impl Row {
    fn waiting(&self, symbol: Symbol) -> Option<&Waiting> {
        let at = self.waiting.binary_search_by_key(&symbol, |waiting| waiting.symbol).ok()?;
        Some(&self.waiting[at])
    }
}

/// Bytes to the end from before a terminal.
fn from_start(table: &Table, terminal: &Terminal) -> Cost {
    table.symbols[terminal.symbol as usize].least.saturating_add(terminal.after)
}

/// Writes the shortest text of a symbol.
fn symbol_text(table: &Table, lexemes: &mut Lexemes, symbol: Symbol, tail: &mut Tail) {
    let info = &table.symbols[symbol as usize];
    if let Some(special) = info.special {
        tail.0.push(Piece::Special(special));
    } else if let Some(lexeme) = info.lexeme {
        lexemes.complete(None, lexeme, tail.bytes());
    } else if let Some(rule) = info.shortest {
        let mut at = rule as usize;
        while table.right[at] != END {
            symbol_text(table, lexemes, table.right[at], tail);
            at += 1;
        }
    }
}

/// A row in the making.
struct Builder<'a> {
    table: &'a Table,
    rows: &'a [Arc<Row>],
    /// Index of this row.
    row: u32,
    agenda: Vec<Item>,
    seen: HashSet<Item, BuildHasherDefault<Mixer>>,
}

impl<'a> Builder<'a> {
    fn new(table: &'a Table, rows: &'a [Arc<Row>], seeds: Vec<Item>) -> Self {
        let row = rows.len() as u32;
        let mut builder =
            Builder { table, rows, row, agenda: Vec::new(), seen: HashSet::default() };
        seeds.into_iter().for_each(|item| builder.add(item));
        builder
    }

    fn add(&mut self, item: Item) {
        if self.seen.insert(item) {
            self.agenda.push(item);
        }
    }

    fn build(mut self) -> Row {
        let table = self.table;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut terminals = Vec::new();
        let mut accepts = self.row == 0 && table.symbols[table.start as usize].nullable;
        let mut next = 0;
        while let Some(&item) = self.agenda.get(next) {
            next += 1;
            let symbol = table.right[item.at as usize];
            if symbol == END {
                let complete = table.left[item.at as usize];
                accepts |= complete == table.start && item.start == 0;
                // What is complete without a byte is nullable, which is seen to below.
                if item.start < self.row {
                    let rows = self.rows;
                    let row = &rows[item.start as usize];
                    for waiting in row.waiting(complete).map_or(&[][..], |w| &w.items) {
                        self.add(waiting.advanced());
                    }
                }
                continue;
            }
            let info = &table.symbols[symbol as usize];
            if info.lexeme.is_some() {
                terminals.push(Terminal { symbol, item, after: NEVER });
                continue;
            }
            match waiting.binary_search_by_key(&symbol, |waiting| waiting.symbol) {
                Ok(at) => waiting[at].items.push(item),
                Err(at) => {
                    let fresh = Waiting { symbol, after: NEVER, best: item, items: vec![item] };
                    waiting.insert(at, fresh);
                    for &rule in &info.rules {
                        self.add(Item { at: rule, start: self.row });
                    }
                }
            }
            if info.nullable {
                self.add(item.advanced());
            }
        }
        let mut row = Row { waiting, terminals, accepts, total: NEVER };
        self.weigh(&mut row);
        row
    }

    /// Finds the bytes to the end after everything that waits in the row. A rule that began in this row depends on others of
    /// it, so this is repeated until nothing becomes shorter.
    fn weigh(&self, row: &mut Row) {
        loop {
            let mut changed = false;
            // A nonterminal is predicted by what waits for another, mostly one with a smaller index.
            for at in 0..row.waiting.len() {
                let (mut after, mut best) = (row.waiting[at].after, row.waiting[at].best);
                for &item in &row.waiting[at].items {
                    let cost = self.after(row, item);
                    if cost < after {
                        (after, best, changed) = (cost, item, true);
                    }
                }
                (row.waiting[at].after, row.waiting[at].best) = (after, best);
            }
            if !changed {
                break;
            }
        }
        for at in 0..row.terminals.len() {
            row.terminals[at].after = self.after(row, row.terminals[at].item);
        }
        let table = self.table;
        let shortest = row.terminals.iter().map(|terminal| from_start(table, terminal)).min();
        row.total = if row.accepts { 0 } else { shortest.unwrap_or(NEVER) };
    }

    /// Bytes to the end after the symbol at an item's dot.
    fn after(&self, row: &Row, item: Item) -> Cost {
        let symbol = self.table.left[item.at as usize];
        let outside = if symbol == self.table.start && item.start == 0 {
            0
        } else {
            let row = self.rows.get(item.start as usize).map_or(row, |row| &**row);
            row.waiting(symbol).map_or(NEVER, |waiting| waiting.after)
        };
        self.table.rest[item.at as usize + 1].saturating_add(outside)
    }
}

/// Hashes an item, which is two small numbers.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
