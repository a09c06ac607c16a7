//! What local training needs to know of the hyper-parameters.

/// The settings of local training. A method gives them, see [`crate::ValidParams::training`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingConfig {
    /// Step size, for standardised features.
    pub learning_rate: f32,
    /// Momentum of the local step; it starts at zero every round.
    pub momentum: f32,
    /// Weight of the balanced step against the local one.
    pub lambda: f32,
    /// Samples a device must hold of a class to be rich in it.
    pub rich_samples: u16,
    /// Global L2 norm to which the local gradient is clipped.
    pub clip: f32,
    /// Samples per mini-batch.
    pub batch: u16,
    /// Passes over the local samples.
    pub epochs: u16,
    /// Whether a supplementary head is trained beside the main one.
    pub supplementary: bool,
    /// Whether the main head takes a balanced step after every local one.
    pub balanced: bool,
}
