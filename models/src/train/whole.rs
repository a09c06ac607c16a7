//! One step down the gradient of all samples: what a device answers where the aggregator does the descent.

use alloc::vec;
use alloc::vec::Vec;

use super::Samples;
use crate::exp::softmax_error;
use crate::head::{Head, Heads};
use crate::kernel;
use crate::sampling::class_counts;

/// Rows that are taken through the head at a time.
const ROWS: usize = 256;

/// The heads with the main one less by the gradient of the mean cross-entropy of the summed head on all samples, step
/// size 1. A mean of such heads, weighted by samples, is the received head less the fleet's gradient: the merge of heads
/// is a merge of gradients. The supplementary one is not trained: zeros come back, which are not sent. Samples of a class
/// of which the device holds less than `least` add nothing, since the gradient of a sample reveals it. Asks `goes_on` now
/// and then; `None` where that said no.
pub(crate) fn whole_step(
    samples: Samples<'_>,
    heads: Heads,
    least: u16,
    goes_on: &mut dyn FnMut() -> bool,
) -> Option<Heads> {
    let (shape, count) = (samples.shape(), samples.labels().len());
    let classes = shape.classes();
    let summed = heads.summed();
    let mut main = heads.main;
    let mut gradient = Head::zeros(shape);
    let mut logits = vec![0.0; ROWS.min(count) * classes];
    let counts = class_counts(samples.labels(), classes);
    let is_shared = |label: &u16| counts[usize::from(*label)] >= u32::from(least);
    let indices: Vec<u32> =
        (0_u32..).zip(samples.labels()).filter(|(_, label)| is_shared(label)).map(|(i, _)| i).collect();
    let share = 1.0 / count.max(1) as f32;
    for batch in indices.chunks(ROWS) {
        if !goes_on() {
            return None;
        }
        let rows = samples.rows(batch);
        let logits = &mut logits[..batch.len() * classes];
        kernel::logits_of(rows, &summed.weight, &summed.bias, logits);
        for (row, &index) in logits.chunks_exact_mut(classes).zip(batch) {
            softmax_error(row, usize::from(samples.labels()[index as usize]), share);
        }
        kernel::gradient_of(logits, rows, true, &mut gradient.weight, &mut gradient.bias);
    }
    main.weight.iter_mut().zip(&gradient.weight).for_each(|(weight, g)| *weight -= g);
    main.bias.iter_mut().zip(&gradient.bias).for_each(|(bias, g)| *bias -= g);
    Some(Heads { main, supplementary: Head::zeros(shape) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn what_comes_back_is_the_gradient_of_the_classes_that_may_be_shared() {
        let shape = Shape::new(2, 2).unwrap();
        let features = [1.0, 2.0, 3.0, -1.0, 7.0, 7.0];
        let samples = Samples::new(shape, &features, &[0, 0, 1]).unwrap();
        let zeros = || Heads::zeros(shape);
        // At zeros both classes are as likely: the gradient is half a sample, towards its class.
        let all = whole_step(samples, zeros(), 1, &mut || true).unwrap().main;
        let expected = [(1.0 + 3.0 - 7.0) / 6.0, (2.0 - 1.0 - 7.0) / 6.0];
        assert!(all.weight[..2].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{all:?}");
        assert!((all.bias[0] - 1.0 / 6.0).abs() < 1e-6 && all.bias[0] == -all.bias[1]);
        let shared = whole_step(samples, zeros(), 2, &mut || true).unwrap().main;
        assert!((shared.weight[0] - 4.0 / 6.0).abs() < 1e-6 && (shared.weight[1] - 1.0 / 6.0).abs() < 1e-6);
        let none = whole_step(samples, zeros(), 3, &mut || true).unwrap();
        assert_eq!(none, zeros());
        assert!(whole_step(samples, zeros(), 1, &mut || false).is_none());
    }

    #[test]
    fn the_loss_is_that_of_both_heads() {
        let shape = Shape::new(2, 1).unwrap();
        let samples = Samples::new(shape, &[1.0], &[0]).unwrap();
        let mut heads = Heads::zeros(shape);
        heads.supplementary.bias = vec![-20.0, 20.0];
        let after = whole_step(samples, heads, 1, &mut || true).unwrap();
        assert_eq!(after.supplementary, Head::zeros(shape));
        assert!((after.main.weight[0] - 1.0).abs() < 1e-6 && (after.main.bias[1] + 1.0).abs() < 1e-6, "{after:?}");
    }
}
