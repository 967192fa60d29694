//! One output that several threads fill, each in columns of its own.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// A row-major matrix `[rows, cols]`, or some columns of a wider one, whose elements threads write, no element by two of
/// them.
pub(crate) struct DisjointColumns<'a> {
    /// The first row's first column.
    data: *mut f32,
    rows: usize,
    cols: usize,
    /// Elements from a row to the next.
    stride: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow, and the contract of `row_part` keeps the threads' elements apart.
unsafe impl Send for DisjointColumns<'_> {}
// SAFETY: as above.
unsafe impl Sync for DisjointColumns<'_> {}

impl<'a> DisjointColumns<'a> {
    /// Takes `[rows, cols]`.
    pub(crate) fn new(data: &'a mut [f32], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols));
        DisjointColumns {
            data: data.as_mut_ptr(),
            rows: data.len() / cols,
            cols,
            stride: cols,
            borrowed: PhantomData,
        }
    }

    /// Takes `[rows, sum of widths]` and parts it into matrices that lie side by side.
    pub(crate) fn split(
        data: &'a mut [f32],
        widths: impl Iterator<Item = usize> + Clone,
    ) -> Vec<Self> {
        let stride: usize = widths.clone().sum();
        let whole = DisjointColumns::new(data, stride);
        let mut start = 0;
        let part = |cols| {
            // SAFETY: `start + cols <= stride`, so it points into the first row, if there is one, or to the end.
            let data = if whole.rows == 0 { whole.data } else { unsafe { whole.data.add(start) } };
            start += cols;
            DisjointColumns { data, rows: whole.rows, cols, stride, borrowed: PhantomData }
        };
        widths.map(part).collect()
    }

    /// Columns `start..start + len` of a row, to be written.
    ///
    /// # Safety
    /// While the slice lives, no other slice from this matrix may share an element with it.
    #[allow(clippy::mut_from_ref)] // that is what the type is for
    pub(crate) unsafe fn row_part(&self, row: usize, start: usize, len: usize) -> &mut [f32] {
        assert!(row < self.rows && start + len <= self.cols);
        // SAFETY: within the borrowed matrix by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), len) }
    }
}
