//! The two 16-entry codes and the thresholds between their values.

use std::fmt;

/// Which 16 values the 4-bit codes stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantType {
    /// 4-bit NormalFloat: quantiles of a normal distribution, scaled to [-1, 1]
    /// (Dettmers et al., "QLoRA", 2023, appendix E).
    Nf4,
    /// A sign, two exponent bits and one mantissa bit, in bitsandbytes' own arrangement.
    Fp4,
}

impl QuantType {
    /// Both types.
    pub const ALL: [QuantType; 2] = [QuantType::Nf4, QuantType::Fp4];

    /// The value of each code, as bitsandbytes 0.50.2 has them.
    pub const fn code(self) -> &'static [f32; 16] {
        match self {
            QuantType::Nf4 => &NF4,
            QuantType::Fp4 => &FP4,
        }
    }

    /// The name bitsandbytes uses in `quant_type` and in tensor names: `nf4` or `fp4`.
    pub const fn name(self) -> &'static str {
        match self {
            QuantType::Nf4 => "nf4",
            QuantType::Fp4 => "fp4",
        }
    }

    /// The inverse of [`QuantType::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "nf4" => Some(QuantType::Nf4),
            "fp4" => Some(QuantType::Fp4),
            _ => None,
        }
    }

    pub(crate) const fn codebook(self) -> &'static Codebook {
        match self {
            QuantType::Nf4 => &NF4_CODEBOOK,
            QuantType::Fp4 => &FP4_CODEBOOK,
        }
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What quantizing needs of a code: the values sorted, and the midpoints between them.
///
/// A value scaled to [-1, 1] has the rank "number of thresholds strictly below it"; `codes[rank]` is its code.
pub(crate) struct Codebook {
    /// Midpoints of neighbouring values, ascending, computed in `f32` as bitsandbytes does.
    pub(crate) thresholds: [f32; 15],
    /// Codes in ascending order of their values.
    pub(crate) codes: [u8; 16],
}

impl Codebook {
    const fn new(code: &[f32; 16], codes: [u8; 16]) -> Self {
        let mut thresholds = [0.0; 15];
        let mut i = 0;
        while i < 15 {
            thresholds[i] = (code[codes[i] as usize] + code[codes[i + 1] as usize]) / 2.0;
            i += 1;
        }
        Codebook { thresholds, codes }
    }

    /// Code of a value that is scaled to [-1, 1].
    pub(crate) fn code_of(&self, scaled: f32) -> u8 {
        let rank = self.thresholds.iter().filter(|&&threshold| scaled > threshold).count();
        self.codes[rank]
    }
}

static NF4_CODEBOOK: Codebook =
    Codebook::new(&NF4, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

// Codes 0 and 8 are both zero: their threshold is 0, so a tiny positive value becomes 8 and any other tiny one 0.
static FP4_CODEBOOK: Codebook =
    Codebook::new(&FP4, [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]);

// Every digit that bitsandbytes prints is kept: the text and the value can be compared at a glance.
#[allow(clippy::excessive_precision)]
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

const FP4: [f32; 16] = {
    let twelfths = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut code = [0.0; 16];
    let mut i = 0;
    while i < 8 {
        code[i] = twelfths[i] / 12.0;
        // 0 - 0 is +0: code 8 is a positive zero in bitsandbytes too (there an integer is negated).
        code[i + 8] = 0.0 - code[i];
        i += 1;
    }
    code
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codebooks_are_sorted_and_complete() {
        for quant_type in QuantType::ALL {
            let book = quant_type.codebook();
            let values = book.codes.map(|code| quant_type.code()[code as usize]);
            assert!(values.is_sorted(), "{quant_type}: {values:?}");
            assert!(book.thresholds.is_sorted());
            let mut codes = book.codes;
            codes.sort_unstable();
            assert_eq!(codes, std::array::from_fn(|i| i as u8));
        }
    }

    #[test]
    fn a_tie_takes_the_lower_value() {
        for quant_type in QuantType::ALL {
            let book = quant_type.codebook();
            for (rank, &threshold) in book.thresholds.iter().enumerate() {
                assert_eq!(book.code_of(threshold), book.codes[rank]);
                assert_eq!(book.code_of(threshold.next_up()), book.codes[rank + 1]);
            }
            assert_eq!(book.code_of(-1.0), book.codes[0]);
            assert_eq!(book.code_of(1.0), book.codes[15]);
        }
    }

    #[test]
    fn zeros_are_positive() {
        for quant_type in QuantType::ALL {
            assert!(quant_type.code().iter().all(|v| *v != 0.0 || v.is_sign_positive()));
        }
    }
}
