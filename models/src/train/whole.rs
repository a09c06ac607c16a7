//! The gradient of all samples: what a device answers where the aggregator does the descent.

use alloc::vec;
use alloc::vec::Vec;

use crate::exp::softmax_error;
use crate::head::{Head, Heads};
use crate::kernel;
use crate::samples::Samples;
use crate::sampling::class_counts;

/// Rows that are taken through the head at a time.
const ROWS: usize = 256;

/// The gradient, in the main head, of the mean cross-entropy of the summed head on all samples; where there is an
/// `reference_point`, less the gradient with that main head in place of the received one. Samples of a class of which the
/// device holds less than `least` add nothing, since the gradient of a sample reveals it.
/// Asks `goes_on` now and then; `None` where that said no.
pub(crate) fn whole_gradient(
    samples: Samples<'_>,
    heads: &Heads,
    reference_point: Option<&Head>,
    least: u16,
    goes_on: &mut dyn FnMut() -> bool,
) -> Option<Head> {
    let (shape, count) = (samples.shape(), samples.labels().len());
    let classes = shape.classes();
    let summed = heads.summed();
    let anchored = reference_point.map(|reference_point| reference_point.plus(&heads.supplementary));
    let mut gradient = Head::zeros(shape);
    let mut logits = vec![0.0; ROWS.min(count) * classes];
    let mut others = vec![0.0; if anchored.is_some() { logits.len() } else { 0 }];
    let counts = class_counts(samples.labels(), classes);
    let is_shared = |label: &u16| counts[usize::from(*label)] >= u32::from(least);
    let indices: Vec<u32> =
        (0_u32..).zip(samples.labels()).filter(|(_, label)| is_shared(label)).map(|(i, _)| i).collect();
    let share = 1.0 / count.max(1) as f32;
    let errors = |head: &Head, batch: &[u32], logits: &mut [f32]| {
        kernel::logits_of(samples.rows(batch), &head.weight, &head.bias, logits);
        for (row, &index) in logits.chunks_exact_mut(classes).zip(batch) {
            softmax_error(row, usize::from(samples.labels()[index as usize]), share);
        }
    };
    for batch in indices.chunks(ROWS) {
        if !goes_on() {
            return None;
        }
        let logits = &mut logits[..batch.len() * classes];
        errors(&summed, batch, logits);
        if let Some(anchored) = &anchored {
            let others = &mut others[..batch.len() * classes];
            errors(anchored, batch, others);
            logits.iter_mut().zip(others).for_each(|(error, other)| *error -= *other);
        }
        let Head { weight, bias } = &mut gradient;
        kernel::gradient_of(logits, samples.rows(batch), true, weight, bias);
    }
    Some(gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn the_gradient_is_of_the_classes_that_may_be_shared() {
        let shape = Shape::new(2, 2).unwrap();
        let features = [1.0, 2.0, 3.0, -1.0, 7.0, 7.0];
        let samples = Samples::new(shape, &features, &[0, 0, 1]).unwrap();
        let zeros = Heads::zeros(shape);
        let of = |least| whole_gradient(samples, &zeros, None, least, &mut || true).unwrap();
        // At zeros both classes are as likely: the gradient is half a sample, away from its class.
        let all = of(1);
        let expected = [(7.0 - 1.0 - 3.0) / 6.0, (7.0 + 1.0 - 2.0) / 6.0];
        assert!(all.weight[..2].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{all:?}");
        assert!((all.bias[0] + 1.0 / 6.0).abs() < 1e-6 && all.bias[0] == -all.bias[1]);
        let shared = of(2);
        assert!((shared.weight[0] + 4.0 / 6.0).abs() < 1e-6 && (shared.weight[1] + 1.0 / 6.0).abs() < 1e-6);
        assert_eq!(of(3), Head::zeros(shape));
        assert!(whole_gradient(samples, &zeros, None, 1, &mut || false).is_none());
    }

    #[test]
    fn the_loss_is_that_of_both_heads() {
        let shape = Shape::new(2, 1).unwrap();
        let samples = Samples::new(shape, &[1.0], &[0]).unwrap();
        let mut heads = Heads::zeros(shape);
        heads.supplementary.bias = vec![-20.0, 20.0];
        let gradient = whole_gradient(samples, &heads, None, 1, &mut || true).unwrap();
        assert!((gradient.weight[0] + 1.0).abs() < 1e-6 && (gradient.bias[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn an_anchor_takes_its_own_gradient_off() {
        let shape = Shape::new(3, 1).unwrap();
        let samples = Samples::new(shape, &[0.5, -1.0, 2.0, 0.1], &[0, 1, 2, 2]).unwrap();
        let heads = |weight: [f32; 3]| Heads {
            main: Head { weight: weight.to_vec(), bias: vec![0.1, 0.0, -0.2] },
            supplementary: Head { weight: vec![0.0; 3], bias: vec![-1.0, -2.0, -0.5] },
        };
        let (here, there) = (heads([0.3, -0.4, 1.0]), heads([-0.5, 0.25, 0.0]));
        let of = |heads, reference_point| whole_gradient(samples, heads, reference_point, 1, &mut || true).unwrap();
        let (difference, here_alone, there_alone) = (of(&here, Some(&there.main)), of(&here, None), of(&there, None));
        for ((difference, here), there) in difference.weight.iter().zip(&here_alone.weight).zip(&there_alone.weight) {
            assert!((difference - (here - there)).abs() < 1e-6);
        }
        assert_eq!(of(&here, Some(&here.main)), Head::zeros(shape));
    }
}
