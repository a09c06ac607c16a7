//! Choosing hyper-parameters on samples held out of the training samples, each method for itself.

use super::federation::Outcome;
use super::grid::Point;
use super::{Bench, BenchError, VALIDATION_SHARE, results};
use crate::report::results::Trial;

/// What a method's runs are made with.
pub(super) struct Chosen {
    pub(super) point: Point,
    /// What it did on each seed's held-out samples; empty where nothing had to be chosen.
    pub(super) held_out: Vec<Outcome>,
}

impl Bench<'_> {
    /// Chooses a point for each method: that of the best mean balanced accuracy over the seeds' validation samples, the
    /// first among equals.
    pub(super) fn choose(&self, plans: &[Vec<Point>]) -> Result<(Vec<Chosen>, Vec<Trial>), BenchError> {
        // A dial is turned on the held-out samples too.
        let is_tried = |points: &[Point]| points.len() > 1 || !self.options.dial.methods.is_empty();
        let tried: Vec<&Point> = plans.iter().filter(|points| is_tried(points)).flatten().collect();
        let mut outcomes = self.run_points(&tried, Some(VALIDATION_SHARE))?.into_iter();
        let (mut chosen, mut trials) = (Vec::new(), Vec::new());
        for points in plans {
            if !is_tried(points) {
                chosen.push(Chosen { point: points[0].clone(), held_out: Vec::new() });
                continue;
            }
            let of_point = |_: &Point| {
                // Half a search chooses nothing.
                let outcomes = outcomes.by_ref().take(self.options.seeds.len()).collect::<Option<Vec<Outcome>>>();
                outcomes.ok_or(BenchError::Stopped)
            };
            let mut by_point = points.iter().map(of_point).collect::<Result<Vec<_>, _>>()?;
            let mut results: Vec<Trial> =
                points.iter().zip(&by_point).map(|(point, outcomes)| results::trial(point, outcomes)).collect();
            let best = results.iter().map(|trial| trial.validation_accuracy).fold(f64::MIN, f64::max);
            let at = results.iter().position(|trial| trial.validation_accuracy >= best).unwrap_or(0);
            results[at].chosen = true;
            if points.len() > 1 {
                trials.extend(results);
            }
            chosen.push(Chosen { point: points[at].clone(), held_out: by_point.swap_remove(at) });
        }
        Ok((chosen, trials))
    }
}
