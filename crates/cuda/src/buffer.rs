//! Activations on the device.

use crate::params::{GROUP, SLICE};

/// How a buffer's values lie at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32, row by row.
    Rows,
    /// f16 in the order of the tensor cores, see `common.cuh`; with the buffer's number of groups.
    Groups,
}

/// Activations `[rows, cols]`.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) address: u64,
    pub(crate) cols: usize,
    pub(crate) rows_max: usize,
    /// Rows of the last operation that set it.
    pub(crate) rows: usize,
    pub(crate) form: Form,
}

impl Buffer {
    /// Elements from a row to the next, where it holds rows.
    pub(crate) fn ld(&self) -> u32 {
        row_len(self.cols) as u32
    }

    /// Groups from a column block to the next, where it holds groups.
    pub(crate) fn groups(&self) -> u32 {
        self.rows_max.div_ceil(GROUP) as u32
    }
}

/// Elements that a row of f32 takes: rows begin at multiples of 16 bytes.
pub(crate) fn row_len(cols: usize) -> usize {
    cols.next_multiple_of(4)
}

/// Bytes of groups that hold `slots` rows of `cols` columns.
pub(crate) fn group_bytes(slots: usize, cols: usize) -> usize {
    slots.next_multiple_of(GROUP) * cols.next_multiple_of(SLICE) * 2
}

/// Bytes of a buffer that may hold either form.
pub(crate) fn num_bytes(rows_max: usize, cols: usize) -> usize {
    (4 * rows_max * row_len(cols)).max(group_bytes(rows_max, cols))
}
