//! Rotary frequencies.

use crate::{Config, RopeScaling};

/// The frequencies of `config`, computed in `f32` as transformers computes them.
/// `[head_dim / 2]`, in radians a position.
pub fn inv_freq(config: &Config) -> Vec<f32> {
    let inv_freq = (0..config.head_dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        let frequency = 1.0 / (config.rope_theta as f32).powf(exponent);
        scale(frequency, &config.rope_scaling)
    });
    inv_freq.collect()
}

fn scale(frequency: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        // Meta's rule for Llama 3.1: see `RopeScaling::Llama3`.
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f32;
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            let stretched = frequency / factor as f32;
            let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
            if wavelength < original / high {
                frequency
            } else if wavelength > original / low {
                stretched
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * stretched + smooth * frequency
            }
        }
    }
}
