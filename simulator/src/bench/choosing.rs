//! Choosing hyper-parameters on samples held out of the training samples, each method for itself.

use super::federation::Outcome;
use super::fleet::Validation;
use super::grid::Point;
use super::{Bench, BenchError, VALIDATION_SHARE, results};
use crate::report::results::Trial;

/// What a method's runs are made with.
pub(super) struct Chosen {
    pub(super) point: Point,
    /// What it did on held-out samples, fold after fold and seed after seed; empty where nothing had to be chosen.
    pub(super) held_out: Vec<Outcome>,
}

impl Bench<'_> {
    /// Chooses a point for each method: that of the best mean balanced accuracy over the seeds' validation samples, the
    /// first among equals.
    pub(super) fn choose(&self, plans: &[Vec<Point>]) -> Result<(Vec<Chosen>, Vec<Trial>), BenchError> {
        // A logit offset is tried on the held-out samples too.
        let is_tried = |points: &[Point]| points.len() > 1 || !self.options.logit_offset.methods.is_empty();
        let tried: Vec<&Point> = plans.iter().filter(|points| is_tried(points)).flatten().collect();
        let folds = (0..self.options.folds.max(1)).map(|fold| {
            let validation = Validation { share: VALIDATION_SHARE, fold };
            Ok(self.run_points(&tried, Some(validation))?.into_iter())
        });
        let mut folds = folds.collect::<Result<Vec<_>, BenchError>>()?;
        let seeds = self.options.seeds.len();
        let (mut chosen, mut trials) = (Vec::new(), Vec::new());
        for points in plans {
            if !is_tried(points) {
                chosen.push(Chosen { point: points[0].clone(), held_out: Vec::new() });
                continue;
            }
            let of_point = |_: &Point| {
                // Half a search chooses nothing.
                let of_seeds = folds.iter_mut().flat_map(|fold| fold.by_ref().take(seeds));
                of_seeds.collect::<Option<Vec<Outcome>>>().ok_or(BenchError::Stopped)
            };
            let mut by_point = points.iter().map(of_point).collect::<Result<Vec<_>, _>>()?;
            let mut results: Vec<Trial> =
                points.iter().zip(&by_point).map(|(point, outcomes)| results::trial(point, outcomes, seeds)).collect();
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
