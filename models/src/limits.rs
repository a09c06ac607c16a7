//! Every limit of the mathematics, in one place, with its unit.

/// Most classes a head may have.
pub const MAX_CLASSES: usize = 1_000;
/// Most features per sample.
pub const MAX_FEATURES: usize = 2_048;
/// Most samples one device may claim or hold; keeps every weighted sum inside its accumulator.
pub const MAX_SAMPLES: u32 = 1 << 24;
/// Most devices in one merge.
pub const MAX_DEVICES: usize = 1 << 16;
/// Largest absolute value of one standardised feature. Standardised features have a spread of about
/// `4 / sqrt(d)`; anything near this bound is a broken extractor or a forged message.
pub const MAX_FEATURE_VALUE: f32 = 256.0;
/// Largest absolute value of one head parameter.
pub const MAX_PARAMETER_VALUE: f32 = 65_536.0;
/// Largest absolute value of one gradient entry: `|p - e| <= 1` times a feature.
pub const MAX_GRADIENT_VALUE: f32 = MAX_FEATURE_VALUE;

/// Largest weight of a class in a local loss.
pub const MAX_CLASS_WEIGHT: f32 = 65_536.0;
/// Largest mean loss a device may report: no cross-entropy of logits within the limits is larger.
pub const MAX_LOSS: f32 = 1.0e11;
/// Largest weight of one device in a merge.
pub const MAX_DEVICE_WEIGHT: u32 = 256;
/// Most numbers that a method may keep from round to round.
pub const MAX_SERVER_STATE_NUMBERS: usize = 1 << 26;

/// Fractional bits of a device's weight in a merge: a resolution of 2e-4.
pub(crate) const WEIGHT_FRACTION_BITS: u32 = 12;
/// Fractional bits of a merged head parameter: a resolution of 1e-12.
pub(crate) const HEAD_FRACTION_BITS: u32 = 40;
/// Fractional bits of a merged gradient entry: a resolution of 6e-11.
pub(crate) const GRADIENT_FRACTION_BITS: u32 = 34;
/// Fractional bits of a feature inside the class sums: a resolution of 6e-8.
pub(crate) const SUM_FRACTION_BITS: u32 = 24;
/// Fractional bits of a feature before two are multiplied: a resolution of 1e-6.
pub(crate) const FACTOR_FRACTION_BITS: u32 = 20;
/// Fractional bits of the second moment: a resolution of 1e-6.
pub(crate) const MOMENT_FRACTION_BITS: u32 = 20;

const fn log2_ceil(value: u128) -> u32 {
    u128::BITS - (value - 1).leading_zeros()
}

const WEIGHT_BITS: u32 = WEIGHT_FRACTION_BITS
    + log2_ceil(MAX_DEVICE_WEIGHT as u128)
    + log2_ceil(MAX_SAMPLES as u128)
    + log2_ceil(MAX_DEVICES as u128);
// A head sum is an i128 of `parameter * weight * samples` over all devices.
const _: () = assert!(HEAD_FRACTION_BITS + log2_ceil(MAX_PARAMETER_VALUE as u128) + WEIGHT_BITS < 127);
// The sum of `weight * samples` over all devices fits a `u64`.
const _: () = assert!(WEIGHT_BITS < 64);
// A prototype sum is an i64 of gradient entries over all devices.
const _: () =
    assert!(GRADIENT_FRACTION_BITS + log2_ceil(MAX_GRADIENT_VALUE as u128) + log2_ceil(MAX_DEVICES as u128) < 63);
// Two factors fit an `i32` each, their product an `i64`.
const _: () = assert!(FACTOR_FRACTION_BITS + log2_ceil(MAX_FEATURE_VALUE as u128) < 31);
// The second moment of one device's most samples at their largest fits an `i64`.
const _: () =
    assert!(MOMENT_FRACTION_BITS + 2 * log2_ceil(MAX_FEATURE_VALUE as u128) + log2_ceil(MAX_SAMPLES as u128) < 63);
// So does a class sum.
const _: () = assert!(SUM_FRACTION_BITS + log2_ceil(MAX_FEATURE_VALUE as u128) + log2_ceil(MAX_SAMPLES as u128) < 63);
// A class index fits the `u16` of labels.
const _: () = assert!(MAX_CLASSES <= u16::MAX as usize);
