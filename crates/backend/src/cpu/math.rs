//! Elementwise functions, compiled once more for AVX2 where the processor has it.
#![allow(unsafe_code)] // calls of functions compiled for a detected feature

/// Defines a function whose body the compiler may vectorize with AVX2 and FMA where they are there.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: both features are there.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

/// `e^x` within 2 units in the last place for x in [-87, 88]; 0 below, about 1e38 above.
///
/// `x = n ln 2 + r`, `e^r` by its Taylor polynomial of degree 7 (remainder below 2e-9 for `|r| <= ln 2 / 2`). No
/// branches, so that loops over it vectorize.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 9 bits: n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

vectorized! {
    /// `gate = silu(gate) * up`, `silu(x) = x / (1 + e^-x)`.
    pub(crate) fn silu_mul(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

vectorized! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    pub(crate) fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

vectorized! {
    /// [`rms_norm_row`] in place.
    pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w;
        }
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let chunks = x.chunks_exact(16);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    let mut sums = [0.0f32; 16];
    for chunk in chunks {
        for i in 0..16 {
            sums[i] += chunk[i] * chunk[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

vectorized! {
    /// `y += a * x`.
    pub(crate) fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}

vectorized! {
    /// Softmax of the scores of query `t` of `num_queries`, which lie in `scores[block * num_queries + t]`; those of
    /// keys outside `visible` (counted from the first block) become 0. Scores are multiplied by `scale` first.
    pub(crate) fn softmax_blocks(
        scores: &mut [[f32; 16]],
        num_queries: usize,
        t: usize,
        visible: std::ops::Range<usize>,
        scale: f32,
    ) {
        let mut maxima = [f32::NEG_INFINITY; 16];
        for (block, scores) in scores.iter_mut().skip(t).step_by(num_queries).enumerate() {
            if block * 16 < visible.start || block * 16 + 16 > visible.end {
                for (i, score) in scores.iter_mut().enumerate() {
                    if !visible.contains(&(block * 16 + i)) {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            for i in 0..16 {
                scores[i] *= scale;
                maxima[i] = if scores[i] > maxima[i] { scores[i] } else { maxima[i] };
            }
        }
        let max = maxima.iter().fold(f32::NEG_INFINITY, |max, &v| if v > max { v } else { max });
        let mut sums = [0.0f32; 16];
        for scores in scores.iter_mut().skip(t).step_by(num_queries) {
            for i in 0..16 {
                scores[i] = exp(scores[i] - max);
                sums[i] += scores[i];
            }
        }
        let inverse = 1.0 / sums.iter().sum::<f32>();
        for scores in scores.iter_mut().skip(t).step_by(num_queries) {
            for score in scores {
                *score *= inverse;
            }
        }
    }
}

/// Softmax in place, in the plain way: for the few scores of a router.
pub(crate) fn softmax(x: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    for v in x.iter_mut() {
        *v = (*v - max).exp();
    }
    let sum: f32 = x.iter().sum();
    for v in x {
        *v /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_one() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e4), 0.0);
        assert!(exp(1e4) > 1e38);
    }
}
