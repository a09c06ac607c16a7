//! A small balanced set that is drawn anew for every step: as many rows of each class, own samples of the classes a
//! device has enough of, draws from the class's normal distribution for the others.

use alloc::vec;
use alloc::vec::Vec;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Samples;
use crate::aid::Gaussians;
use crate::kernel;
use crate::params::ValidParams;

/// Draws of a round that virtual rows scatter by, each either way: drawing one for every row of every step would be most
/// of the work of a round.
const POOL: usize = 256;

/// How a set is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Redraw<'a> {
    /// The classes as normal distributions.
    pub gaussians: &'a Gaussians,
    /// Factor of the scatter about the class means.
    pub spread: f32,
    /// Rows of each class.
    pub rows: u16,
}

pub(super) struct Redrawn<'a> {
    samples: Samples<'a>,
    rng: ChaCha8Rng,
    /// Where the own rows come from, one for each; they stand first.
    own: Vec<Vec<u32>>,
    rows_per_class: usize,
    /// Class means, one for each virtual row, `[row][d]`.
    means: Vec<f32>,
    /// Draws from the covariance, times the spread, `[POOL][d]`.
    pool: Vec<f32>,
    /// The set: `[row][d]`, own rows first.
    pub(super) rows: Vec<f32>,
    pub(super) labels: Vec<u16>,
    /// The same for every row, so that they sum to one.
    pub(super) weights: Vec<f32>,
}

impl<'a> Redrawn<'a> {
    /// `None` where there is no class to draw from.
    pub(super) fn new(
        samples: Samples<'a>,
        redraw: Redraw<'_>,
        params: &ValidParams,
        mut rng: ChaCha8Rng,
    ) -> Option<Self> {
        let (classes, d) = (samples.shape().classes(), samples.shape().features());
        let rows_per_class = usize::from(redraw.rows);
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); classes];
        for (index, &label) in (0_u32..).zip(samples.labels()) {
            members[usize::from(label)].push(index);
        }
        let (mut own, mut labels, mut virtual_labels, mut means) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (class, members) in (0_u16..).zip(members) {
            if members.len() >= usize::from(params.rich_samples) {
                own.push(members);
                labels.extend(core::iter::repeat_n(class, rows_per_class));
            } else if let Some(mean) = redraw.gaussians.means.by_class.get(&class) {
                virtual_labels.extend(core::iter::repeat_n(class, rows_per_class));
                (0..rows_per_class).for_each(|_| means.extend_from_slice(mean));
            }
        }
        labels.extend(virtual_labels);
        if labels.is_empty() {
            return None;
        }
        let pool = if means.is_empty() { Vec::new() } else { pool(redraw, d, &mut rng) };
        Some(Self {
            samples,
            rng,
            own,
            rows_per_class,
            pool,
            means,
            rows: vec![0.0; labels.len() * d],
            weights: vec![1.0 / labels.len() as f32; labels.len()],
            labels,
        })
    }

    /// Draws the next set into `rows`.
    pub(super) fn draw(&mut self) {
        let d = self.samples.shape().features();
        let (own, drawn) = self.rows.split_at_mut(self.own.len() * self.rows_per_class * d);
        let sources = self.own.iter().flat_map(|members| core::iter::repeat_n(members, self.rows_per_class));
        for (row, members) in own.chunks_exact_mut(d).zip(sources) {
            let place = (u64::from(self.rng.next_u32()) * members.len() as u64) >> 32;
            self.samples.gather(&[members[place as usize]], row);
        }
        for (row, mean) in drawn.chunks_exact_mut(d).zip(self.means.chunks_exact(d)) {
            let bits = self.rng.next_u32();
            let scatter = &self.pool[(bits >> 1) as usize % POOL * d..][..d];
            let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
            row.iter_mut()
                .zip(mean.iter().zip(scatter))
                .for_each(|(row, (mean, scatter))| *row = mean + sign * scatter);
        }
    }
}

/// Draws from the covariance, times the spread, `[POOL][d]`.
fn pool(redraw: Redraw<'_>, d: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut noise = vec![0.0; POOL * d];
    fill_with_noise(&mut noise, rng);
    let mut pool = vec![0.0; POOL * d];
    kernel::accumulate_product(&noise, &transposed(&redraw.gaussians.root, d, redraw.spread), d, &mut pool);
    pool
}

/// The lower triangle, row after row, as a full `[d][d]` matrix, transposed and scaled.
fn transposed(root: &[f32], d: usize, factor: f32) -> Vec<f32> {
    let mut full = vec![0.0; d * d];
    let mut entries = root.iter();
    for row in 0..d {
        for (column, entry) in (0..=row).zip(entries.by_ref()) {
            full[column * d + row] = factor * entry;
        }
    }
    full
}

/// Zero mean and unit variance: the number of ones among 16 random bits, which is all but normal, and mixed by the root
/// afterwards. Sixteen bits of a random stream are much cheaper than a logarithm.
fn fill_with_noise(noise: &mut [f32], rng: &mut ChaCha8Rng) {
    for four in noise.chunks_mut(4) {
        let mut bits = rng.next_u64();
        for value in four {
            *value = ((bits & 0xffff).count_ones() as f32 - 8.0) * 0.5;
            bits >>= 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::params::{Params, Sums};
    use crate::shape::Shape;
    use crate::statistics::{Means, Statistics};
    use crate::{Method, oneshot};

    #[test]
    fn noise_has_the_moments_of_a_normal_distribution() {
        let mut noise = vec![0.0; 400_001];
        fill_with_noise(&mut noise, &mut ChaCha8Rng::seed_from_u64(3));
        let moment = |power: i32| noise.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / noise.len() as f64;
        for (power, expected, within) in [(1, 0.0, 0.01), (2, 1.0, 0.01), (3, 0.0, 0.03), (4, 3.0 - 2.0 / 16.0, 0.05)] {
            assert!((moment(power) - expected).abs() < within, "moment {power}: {}", moment(power));
        }
    }

    /// Draws of one class have the fleet's mean and covariance.
    #[test]
    fn virtual_rows_scatter_as_the_fleet_does() {
        let shape = Shape::new(2, 3).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut features = Vec::new();
        let labels: Vec<u16> = (0..4_000).map(|at| at % 2).collect();
        for &label in &labels {
            let mut noise = [0.0; 3];
            fill_with_noise(&mut noise, &mut rng);
            let [a, b, c] = noise;
            features.extend([a + f32::from(label), 0.5 * a + 0.2 * b, c - 2.0 * b]);
        }
        let fleet = Samples::new(shape, &features, &labels).unwrap();
        let statistics = Statistics::of(&fleet, Sums::SecondMoment, 1);
        let gaussians = oneshot::gaussians(&statistics, 0.0);
        let means = &gaussians.means;
        let params = Params::defaults(Method::RedGrapePlus, 2).check().unwrap();
        let empty = Samples::new(shape, &[], &[]).unwrap();
        let redraw = Redraw { gaussians: &gaussians, spread: 1.0, rows: 2 };
        let (mut drawn, mut drawn_labels) = (Vec::new(), Vec::new());
        for round in 0..100 {
            let rng = ChaCha8Rng::seed_from_u64(round);
            let mut set = Redrawn::new(empty, redraw, &params, rng).unwrap();
            for _ in 0..400 {
                set.draw();
                drawn.extend_from_slice(&set.rows);
                drawn_labels.extend_from_slice(&set.labels);
            }
        }
        let virtual_fleet = Samples::new(shape, &drawn, &drawn_labels).unwrap();
        let again = Statistics::of(&virtual_fleet, Sums::SecondMoment, 1);
        for (class, mean) in &means.by_class {
            for (a, b) in mean.iter().zip(&again.means().by_class[class]) {
                assert!((a - b).abs() < 0.05, "mean of class {class}: {a} and {b}");
            }
        }
        let root = oneshot::gaussians(&again, 0.0).root;
        for (a, b) in gaussians.root.iter().zip(&root) {
            assert!((a - b).abs() < 0.05, "{:?} and {root:?}", gaussians.root);
        }
    }

    #[test]
    fn own_samples_stand_for_the_classes_a_device_is_rich_in() {
        let shape = Shape::new(4, 1).unwrap();
        let features: Vec<f32> = (0..11).map(|at| at as f32).collect();
        // Nine of class 0, two of class 1; nobody holds class 3.
        let labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        let samples = Samples::new(shape, &features, &labels).unwrap();
        let means = Means { by_class: [(0, vec![-1.0]), (1, vec![-2.0]), (2, vec![-3.0])].into() };
        let gaussians = Gaussians { means, root: vec![0.0] };
        let params = Params::defaults(Method::RedGrapePlus, 4).check().unwrap();
        let redraw = Redraw { gaussians: &gaussians, spread: 1.0, rows: 3 };
        let mut set = Redrawn::new(samples, redraw, &params, ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert_eq!(set.labels, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert!((set.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let mut seen = [false; 9];
        for _ in 0..100 {
            set.draw();
            set.rows[..3].iter().for_each(|row| seen[*row as usize] = true);
            assert_eq!(set.rows[3..], [-2.0, -2.0, -2.0, -3.0, -3.0, -3.0]);
        }
        assert_eq!(seen, [true; 9], "every own sample is drawn now and then");
        let none = Gaussians { means: Means::default(), root: vec![0.0] };
        let poor = Samples::new(shape, &features[9..], &labels[9..]).unwrap();
        let redraw = Redraw { gaussians: &none, spread: 1.0, rows: 3 };
        assert!(Redrawn::new(poor, redraw, &params, ChaCha8Rng::seed_from_u64(1)).is_none());
    }
}
