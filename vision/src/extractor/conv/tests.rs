use tract_onnx::tract_core::ops::cnn::{PaddingSpec, PoolSpec};

use super::*;

/// A convolution with made-up numbers.
#[derive(Clone, Copy, Debug)]
struct Case {
    inputs: usize,
    outputs: usize,
    size: [usize; 2],
    window: [usize; 2],
    stride: [usize; 2],
    before: [usize; 2],
    after: [usize; 2],
    rectify: bool,
}

const PLAIN: Case = Case {
    inputs: 3,
    outputs: 16,
    size: [6, 6],
    window: [3, 3],
    stride: [1, 1],
    before: [1, 1],
    after: [1, 1],
    rectify: false,
};

/// Numbers between -1 and 1 without a pattern to speak of.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7_919 + seed * 104_729) % 2_003) as f32 / 1_001.0 - 1.0).collect()
}

impl Case {
    fn model(&self, group: usize) -> TypedModel {
        let Self { inputs, outputs, size, window, stride, .. } = *self;
        let mut model = TypedModel::default();
        let image = model.add_source("image", f32::fact([1, inputs, size[0], size[1]])).unwrap();
        let kernel_shape = [outputs, inputs / group, window[0], window[1]];
        let kernel = numbers(kernel_shape.iter().product(), 1);
        let kernel = model.add_const("kernel", Tensor::from_shape(&kernel_shape, &kernel).unwrap()).unwrap();
        let bias = model.add_const("bias", Tensor::from_shape(&[outputs], &numbers(outputs, 2)).unwrap()).unwrap();
        let pool_spec = PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: window.as_slice().into(),
            padding: PaddingSpec::Explicit(self.before.as_slice().into(), self.after.as_slice().into()),
            dilations: None,
            strides: Some(stride.as_slice().into()),
            input_channels: inputs,
            output_channels: outputs,
        };
        let convolution = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params: None };
        let mut output = model.wire_node("convolution", convolution, &[image, kernel, bias]).unwrap();
        if self.rectify {
            let zero = model.add_const("zero", Tensor::from_shape(&[1, 1, 1, 1], &[0.0_f32]).unwrap()).unwrap();
            output = model.wire_node("rectified", TypedBinOp(Box::new(Max), None), &[output[0], zero]).unwrap();
        }
        model.select_output_outlets(&output).unwrap();
        model
    }

    fn image(&self) -> Tensor {
        let shape = [1, self.inputs, self.size[0], self.size[1]];
        Tensor::from_shape(&shape, &numbers(shape.iter().product(), 3)).unwrap()
    }
}

fn run(model: TypedModel, image: Tensor) -> (Vec<usize>, Vec<f32>) {
    let plan = model.into_optimized().unwrap().into_runnable().unwrap();
    let output = plan.run(tvec!(image.into())).unwrap().remove(0);
    (output.shape().to_vec(), output.view().as_slice::<f32>().unwrap().to_vec())
}

fn replaced(mut model: TypedModel) -> TypedModel {
    replace_strided(&mut model).unwrap();
    let mut model = model.into_decluttered().unwrap();
    replace(&mut model).unwrap();
    model
}

/// Those of this processor.
fn all_vectors() -> Vec<Vectors> {
    let level = Level::try_detect().unwrap();
    let avx512 = level.as_avx512().map(Vectors::Avx512);
    level.as_avx2().map(Vectors::Avx2).into_iter().chain(avx512).collect()
}

fn direct(model: &TypedModel) -> Vec<&Direct> {
    model.nodes().iter().filter_map(|node| node.op_as::<Direct>()).collect()
}

#[test]
fn every_kind_gives_what_the_runtime_gives() {
    if Vectors::best().is_none() {
        return;
    }
    let cases = [
        PLAIN,
        Case { rectify: true, ..PLAIN },
        Case { inputs: 1, outputs: 1, size: [1, 1], ..PLAIN },
        Case { outputs: 17, size: [5, 7], rectify: true, ..PLAIN },
        Case { outputs: 48, size: [9, 4], stride: [2, 2], ..PLAIN },
        // Three blocks of channels together, and two by themselves of which one is not full.
        Case { outputs: 70, size: [7, 7], rectify: true, ..PLAIN },
        Case { outputs: 5, size: [11, 10], stride: [3, 2], before: [0, 1], after: [1, 0], ..PLAIN },
        Case { inputs: 20, outputs: 33, window: [1, 1], before: [0, 0], after: [0, 0], stride: [2, 2], ..PLAIN },
        Case { inputs: 2, size: [8, 9], window: [5, 5], before: [2, 2], after: [2, 2], rectify: true, ..PLAIN },
        Case { size: [13, 13], window: [7, 7], before: [3, 3], after: [3, 3], stride: [2, 2], ..PLAIN },
        Case { size: [4, 12], window: [1, 7], before: [0, 3], after: [0, 3], ..PLAIN },
        Case { size: [12, 4], window: [5, 1], before: [0, 0], after: [3, 0], ..PLAIN },
        // More border than the windows reach, and rows that no window reaches.
        Case { size: [8, 8], stride: [4, 4], before: [0, 0], after: [0, 0], ..PLAIN },
    ];
    for case in cases {
        let (shape, expected) = run(case.model(1), case.image());
        let model = replaced(case.model(1));
        assert!(matches!(direct(&model)[..], [Direct { rectify, .. }] if *rectify == case.rectify), "{case:?}");
        for vectors in all_vectors() {
            let mut outputs = vec![f32::NAN; expected.len()];
            direct(&model)[0].run(vectors, case.image().view().as_slice().unwrap(), &mut outputs).unwrap();
            for (output, expected) in outputs.iter().zip(&expected) {
                assert!((output - expected).abs() < 1e-4, "{case:?}, {vectors:?}: {output} instead of {expected}");
            }
        }
        assert_eq!(run(model, case.image()).0, shape, "{case:?}");
    }
}

#[test]
fn what_does_not_fit_is_left_to_the_runtime() {
    for (model, what) in [
        (Case { inputs: 4, outputs: 4, ..PLAIN }.model(4), "depth-wise"),
        (Case { inputs: 4, outputs: 6, ..PLAIN }.model(2), "groups"),
        (Case { window: [3, 4], ..PLAIN }.model(1), "an even width"),
    ] {
        let model = replaced(model);
        assert!(direct(&model).is_empty(), "{what}");
    }
}

#[test]
fn what_is_no_number_is_not_rectified_away() {
    let case = Case { rectify: true, ..PLAIN };
    let shape = [1, case.inputs, case.size[0], case.size[1]];
    let image = Tensor::from_shape(&shape, &[f32::NAN; 108]).unwrap();
    let (_, outputs) = run(replaced(case.model(1)), image);
    assert!(outputs.iter().all(|output| output.is_nan()), "{outputs:?}");
}
