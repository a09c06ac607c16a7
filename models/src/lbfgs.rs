//! The aggregator's descent where devices send the gradient of all their samples: the limited-memory quasi-Newton method
//! of Nocedal (Mathematics of Computation, 1980), one gradient a round.
//!
//! There is no line search, which would cost rounds. A step that went too far shows in the slope at its end, which rises
//! where it fell at the beginning. Then the next step begins where this one began, and is another because of what this
//! one told of the curvature. So every round teaches something, and rounds in which a few devices are missing add noise
//! and no more.

use alloc::vec::Vec;

use crate::cholesky::{difference, dot};

/// Steps that are remembered.
const MOST_PAIRS: usize = 8;
/// Vectors that [`Lbfgs::write`] writes at most.
pub(crate) const MOST_VECTORS: usize = 2 + 2 * MOST_PAIRS;
/// A step whose end rises more than this share of what its beginning fell went too far.
const TOO_FAR: f64 = 0.5;
/// Steps with less curvature than this, relative to their lengths, are rounding.
const LEAST_CURVATURE: f64 = 1e-10;

/// Where a descent is. All vectors have the same length.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lbfgs {
    /// The best point known.
    pub(crate) base: Vec<f64>,
    /// The gradient there.
    gradient: Vec<f64>,
    /// Steps and by how much the gradient changed over each, the oldest first.
    pairs: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Lbfgs {
    /// At the first point, whose gradient is known.
    pub(crate) fn new(base: Vec<f64>, gradient: Vec<f64>) -> Self {
        Self { base, gradient, pairs: Vec::new() }
    }

    /// Takes in the gradient at the point that was tried, and what it tells of the curvature.
    pub(crate) fn update(&mut self, tried: Vec<f64>, gradient: Vec<f64>) {
        let step = difference(&tried, &self.base);
        let change = difference(&gradient, &self.gradient);
        let curvature = dot(&step, &change);
        let lengths = libm::sqrt(dot(&step, &step) * dot(&change, &change));
        self.judge(tried, gradient);
        if curvature > LEAST_CURVATURE * lengths {
            if self.pairs.len() == MOST_PAIRS {
                self.pairs.remove(0);
            }
            self.pairs.push((step, change));
        }
    }

    /// Takes in a gradient that is too uncertain to tell of the curvature. Says whether the point is the best one now, or
    /// the step to it went too far.
    pub(crate) fn accept_step(&mut self, tried: Vec<f64>, gradient: Vec<f64>) -> bool {
        self.pairs.clear();
        self.judge(tried, gradient)
    }

    fn judge(&mut self, tried: Vec<f64>, gradient: Vec<f64>) -> bool {
        let step = difference(&tried, &self.base);
        let (fell, rises) = (dot(&self.gradient, &step), dot(&gradient, &step));
        let is_better = rises <= TOO_FAR * fell.abs();
        if is_better {
            (self.base, self.gradient) = (tried, gradient);
        }
        is_better
    }

    /// The point to try next. `precondition` applies an inverse of the curvature, as far as it is known beforehand; its
    /// scale is corrected by the newest step. Before there is one, `step` of it is taken.
    pub(crate) fn next(&self, step: f64, precondition: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let mut next = self.base.clone();
        if !self.pairs.is_empty() {
            let direction = self.direction(&precondition);
            if dot(&direction, &self.gradient) > 0.0 {
                add(&mut next, -1.0, &direction);
                return next;
            }
        }
        add(&mut next, -step, &precondition(&self.gradient));
        next
    }

    /// The two loops of Nocedal's method.
    fn direction(&self, precondition: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let mut direction = self.gradient.clone();
        let mut shares = Vec::with_capacity(self.pairs.len());
        for (step, change) in self.pairs.iter().rev() {
            let share = dot(step, &direction) / dot(step, change);
            add(&mut direction, -share, change);
            shares.push(share);
        }
        direction = precondition(&direction);
        if let Some((step, change)) = self.pairs.last() {
            let scale = dot(step, change) / dot(change, &precondition(change));
            direction.iter_mut().for_each(|value| *value *= scale);
        }
        for ((step, change), share) in self.pairs.iter().zip(shares.iter().rev()) {
            let back = dot(change, &direction) / dot(step, change);
            add(&mut direction, share - back, step);
        }
        direction
    }

    /// As numbers that can be stored: the base, the gradient, then step and change of every pair.
    pub(crate) fn write(&self, numbers: &mut Vec<f32>) {
        let pairs = self.pairs.iter().flat_map(|(step, change)| [step, change]);
        let vectors = [&self.base, &self.gradient].into_iter().chain(pairs);
        numbers.extend(vectors.flatten().map(|&value| value as f32));
    }

    /// What [`Lbfgs::write`] wrote of vectors of this length; `None` of anything else.
    pub(crate) fn read(numbers: &[f32], length: usize) -> Option<Self> {
        let mut vectors = numbers.chunks_exact(length).map(|vector| vector.iter().map(|&v| f64::from(v)).collect());
        let (base, gradient) = (vectors.next()?, vectors.next()?);
        let mut pairs = Vec::new();
        while let (Some(step), Some(change)) = (vectors.next(), vectors.next()) {
            pairs.push((step, change));
        }
        Some(Self { base, gradient, pairs })
    }
}

/// `to += factor * vector`.
fn add(to: &mut [f64], factor: f64, vector: &[f64]) {
    to.iter_mut().zip(vector).for_each(|(value, entry)| *value += factor * entry);
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// `sum c_j (exp(x_j) - x_j)`, whose minimum is at zero and whose curvatures differ a thousandfold.
    fn gradient(at: &[f64]) -> Vec<f64> {
        let curvatures = [1.0, 30.0, 1000.0, 3.0];
        at.iter().zip(curvatures).map(|(x, c)| c * (libm::exp(*x) - 1.0)).collect()
    }

    fn run(rounds: usize, precondition: impl Fn(&[f64]) -> Vec<f64>) -> Lbfgs {
        let start = vec![1.5, -2.0, 0.5, 1.0];
        let mut lbfgs = Lbfgs::new(start.clone(), gradient(&start));
        for _ in 0..rounds {
            let tried = lbfgs.next(1.0, &precondition);
            let there = gradient(&tried);
            lbfgs.update(tried, there);
        }
        lbfgs
    }

    #[test]
    fn a_minimum_is_found_in_few_rounds_though_steps_go_too_far() {
        let known = run(25, |g| g.iter().zip([1.0, 30.0, 1000.0, 3.0]).map(|(g, c)| g / (0.2 * c)).collect());
        assert!(known.base.iter().all(|x| x.abs() < 1e-3), "{known:?}");
        let unknown = run(60, |g| g.iter().map(|g| g / 100.0).collect());
        assert!(unknown.base.iter().all(|x| x.abs() < 0.02), "{unknown:?}");
    }

    #[test]
    fn it_goes_on_from_what_was_stored() {
        let lbfgs = run(5, |g| g.iter().map(|g| g / 100.0).collect());
        let mut numbers = vec![];
        lbfgs.write(&mut numbers);
        let again = Lbfgs::read(&numbers, 4).unwrap();
        assert_eq!(again.pairs.len(), lbfgs.pairs.len());
        assert!(again.base.iter().zip(&lbfgs.base).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(Lbfgs::read(&numbers[..7], 4).is_none());
    }

    /// At zero, where the function falls with slope one along the only axis.
    fn on_a_slope() -> Lbfgs {
        Lbfgs::new(vec![0.0], vec![-1.0])
    }

    #[test]
    fn a_step_is_kept_until_its_end_rises_half_as_much_as_its_beginning_fell() {
        let mut lbfgs = on_a_slope();
        assert!(lbfgs.accept_step(vec![2.0], vec![0.5]), "the end rises by exactly half");
        assert_eq!((lbfgs.base, lbfgs.gradient), (vec![2.0], vec![0.5]));
        let mut lbfgs = on_a_slope();
        assert!(!lbfgs.accept_step(vec![2.0], vec![0.5 + 1e-9]));
        assert_eq!((lbfgs.base, lbfgs.gradient), (vec![0.0], vec![-1.0]), "the next step begins where this one began");
        let mut lbfgs = on_a_slope();
        lbfgs.update(vec![2.0], vec![0.6]);
        assert_eq!((lbfgs.base[0], lbfgs.pairs.len()), (0.0, 1), "a step that went too far tells of the curvature");
    }

    #[test]
    fn only_steps_that_curve_upwards_are_remembered() {
        let remembered = |gradient: f64| {
            let mut lbfgs = on_a_slope();
            lbfgs.update(vec![1.0], vec![gradient]);
            lbfgs.pairs.len()
        };
        assert_eq!((remembered(-0.5), remembered(-1.0), remembered(-1.5)), (1, 0, 0));
        // Almost at right angles: below and above what counts as rounding.
        let across = |curvature: f64, length: f64| {
            let mut lbfgs = Lbfgs::new(vec![0.0, 0.0], vec![0.0, 0.0]);
            lbfgs.update(vec![length, 0.0], vec![curvature * length, length]);
            lbfgs.pairs.len()
        };
        assert_eq!((across(0.5e-10, 1.0), across(2e-10, 1.0)), (0, 1));
        assert_eq!((across(0.5e-10, 100.0), across(2e-10, 100.0)), (0, 1), "relative to the lengths");
    }

    #[test]
    fn the_newest_steps_are_remembered_and_an_uncertain_gradient_forgets_them() {
        let mut lbfgs = Lbfgs::new(vec![1024.0], vec![1024.0]);
        for round in 1..=MOST_PAIRS + 2 {
            let at = 1024.0 / f64::from(1_i32 << round);
            lbfgs.update(vec![at], vec![at]);
        }
        let steps: Vec<f64> = lbfgs.pairs.iter().map(|(step, _)| -step[0]).collect();
        assert_eq!(steps, [128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0], "the oldest first");
        let mut numbers = vec![];
        lbfgs.write(&mut numbers);
        assert_eq!(numbers.len(), MOST_VECTORS, "as many vectors of one number as there can be");
        assert!(lbfgs.accept_step(vec![0.0], vec![0.0]) && lbfgs.pairs.is_empty());
    }

    #[test]
    fn a_known_curvature_gives_the_step_of_newton() {
        // Half of 4 x² + y², at (1, 3), after one step along each axis.
        let mut lbfgs = Lbfgs::new(vec![3.0, 4.0], vec![12.0, 4.0]);
        lbfgs.update(vec![1.0, 4.0], vec![4.0, 4.0]);
        lbfgs.update(vec![1.0, 3.0], vec![4.0, 3.0]);
        let next = lbfgs.next(1.0, <[f64]>::to_vec);
        assert!(next.iter().all(|value| value.abs() < 1e-12), "{next:?} is not the minimum");
        // The scale of the preconditioner does not matter then; of the axes that no step took, it is all that is known.
        let scaled = lbfgs.next(1.0, |vector| vector.iter().map(|value| 7.0 * value).collect());
        assert!(scaled.iter().all(|value| value.abs() < 1e-12), "{scaled:?}");
    }

    #[test]
    fn without_a_remembered_step_the_preconditioned_gradient_is_followed() {
        let lbfgs = Lbfgs::new(vec![1.0, 1.0], vec![2.0, -4.0]);
        let next = lbfgs.next(0.25, |vector| vec![vector[0] * 0.5, vector[1] * 2.0]);
        assert_eq!(next, [1.0 - 0.25, 1.0 + 2.0]);
        // A direction that would go up is not taken.
        let mut lbfgs = Lbfgs::new(vec![0.0], vec![1.0]);
        lbfgs.pairs.push((vec![1.0], vec![-1.0]));
        assert_eq!(lbfgs.next(0.5, <[f64]>::to_vec), [-0.5]);
    }
}
