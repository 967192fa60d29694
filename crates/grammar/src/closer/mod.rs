//! The shortest way to the end of an answer, from any point of it.
//!
//! llguidance says which tokens may come next, not how far the end is. So the grammar that it has compiled is read back
//! ([`table`]), and each answer is parsed a second time with it, by Earley's algorithm over llguidance's own lexer
//! ([`chart`], [`lexemes`]). As every row of the chart keeps what the parts that wait there need at least, the least number of
//! bytes to the end is known after every token, whatever is open: strings, keys, branches, recursion.
//!
//! "Shortest" is exact in bytes, but for patterns where it would take characters beyond ASCII or many states to see; of the tokens,
//! the fewest that write those bytes are taken. Another document may have more bytes and yet fewer tokens. A number of bytes is
//! never less than the number of tokens that they need.

mod chart;
mod lexemes;
mod table;

pub(crate) use chart::{Chart, Piece, Tail};
pub(crate) use lexemes::Lexemes;
pub(crate) use table::Table;

/// A number of bytes (a special token counts as one), or [`NEVER`].
pub(crate) type Cost = u32;

/// No end can be reached.
pub(crate) const NEVER: Cost = Cost::MAX;
