//! How 4-bit codes are kept on the device: as nibbles whose values are nearly sums of two integer multiples.
//!
//! Tensor cores multiply integers, and codes become integers by byte permutes (`prmt`), which look up four at a time:
//! one for nibbles below 8, one for the others, each with a table of eight bytes. Of a nibble of the other half a
//! permute repeats the sign of a byte of its table, which is 0, or 255 from 128 on. Tables of seven bits would leave it
//! at 0; here it is part of the value, which makes the bytes twice as fine. That takes an order of nibbles in which both
//! bytes at the same place of the two tables get along, so loading gives every code of a checkpoint a new nibble.

use quant::QuantType;

/// The nibbles of a code, and their values as kernels have them.
#[derive(Debug)]
pub(crate) struct Nibbles {
    /// Of each code of a checkpoint.
    of_code: [u8; 16],
    /// The permutes' tables, for nibbles 0-7 and 8-15.
    tables: [[u8; 8]; 2],
    /// The value of 1 in each table.
    steps: [f32; 2],
    /// What is written where a matrix is padded: its value is zero.
    pub(crate) zero: u8,
}

/// The bytes, steps and order for which the root mean square of the error of normally distributed weights is least: it
/// is 7.6e-4 of theirs.
static NF4: Nibbles = Nibbles {
    of_code: [4, 12, 0, 1, 2, 3, 15, 11, 14, 7, 10, 9, 6, 8, 13, 5],
    tables: [[105, 79, 57, 37, 200, 73, 185, 241], [105, 63, 46, 0, 108, 135, 253, 221]],
    steps: [-1.0 / 200.0501, 1.0 / 186.7493],
    zero: 11,
};

/// All values of FP4 are multiples of 1/192.
static FP4: Nibbles = Nibbles {
    of_code: [0, 1, 6, 14, 4, 5, 2, 3, 8, 9, 15, 7, 12, 13, 10, 11],
    tables: [[0, 1, 32, 48, 64, 96, 128, 63], [0, 1, 32, 48, 64, 96, 63, 128]],
    steps: [1.0 / 192.0, -1.0 / 192.0],
    zero: 0,
};

impl Nibbles {
    pub(crate) fn of(quant_type: QuantType) -> &'static Nibbles {
        match quant_type {
            QuantType::Nf4 => &NF4,
            QuantType::Fp4 => &FP4,
        }
    }

    /// The nibble of each code, as `tile_codes` takes them: that of code `c` at bits `4 c`.
    pub(crate) fn of_codes(&self) -> u64 {
        self.of_code.iter().rev().fold(0, |all, &nibble| all << 4 | u64::from(nibble))
    }

    /// The values of codes in the order of their nibbles.
    pub(crate) fn values(&self, code: &[f32; 16]) -> [f32; 16] {
        let mut values = [0.0; 16];
        for (&nibble, &value) in self.of_code.iter().zip(code) {
            values[usize::from(nibble)] = value;
        }
        values
    }

    /// `low_table` and `high_table` of `Matrix4`.
    pub(crate) fn tables(&self) -> [[u32; 2]; 2] {
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.tables.map(|table| [word(&table[..4]), word(&table[4..])])
    }

    /// `low_step` and `high_step` of `Matrix4`.
    pub(crate) fn steps(&self) -> [f32; 2] {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte of what `prmt.b32` returns: `selector` has four bits.
    fn permute(table: [u32; 2], selector: u8) -> u8 {
        let bytes = u64::from(table[1]) << 32 | u64::from(table[0]);
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        match selector & 8 {
            0 => byte,
            _ if byte >= 128 => 255,
            _ => 0,
        }
    }

    fn value(nibbles: &Nibbles, nibble: u8) -> f32 {
        let [low, high] = nibbles.tables();
        let [low_step, high_step] = nibbles.steps();
        let (low, high) = (permute(low, nibble), permute(high, nibble ^ 8));
        low_step * f32::from(low) + high_step * f32::from(high)
    }

    #[test]
    fn nibbles_come_close_to_their_codes() {
        for (quant_type, bound) in [(QuantType::Nf4, 5.7e-4), (QuantType::Fp4, 1e-7)] {
            let nibbles = Nibbles::of(quant_type);
            let values = nibbles.values(quant_type.code());
            for (code, &exact) in quant_type.code().iter().enumerate() {
                let nibble = (nibbles.of_codes() >> (4 * code) & 15) as u8;
                assert_eq!(values[usize::from(nibble)], exact, "{quant_type} {code}");
                let error = (value(nibbles, nibble) - exact).abs();
                assert!(error <= bound, "{quant_type} {code}: {error}");
            }
        }
    }

    #[test]
    fn every_code_has_a_nibble_and_padding_is_exactly_zero() {
        for quant_type in QuantType::ALL {
            let nibbles = Nibbles::of(quant_type);
            let mut all = nibbles.of_code;
            all.sort_unstable();
            assert_eq!(all, std::array::from_fn(|i| i as u8));
            assert_eq!(value(nibbles, nibbles.zero), 0.0);
            assert_eq!(nibbles.values(quant_type.code())[usize::from(nibbles.zero)], 0.0);
        }
    }
}
