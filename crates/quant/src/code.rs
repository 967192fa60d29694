//! The two 16-entry codes.

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
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
        code[i + 8] = -code[i];
        i += 1;
    }
    code
};
