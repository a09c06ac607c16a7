#!/usr/bin/env python3
"""Makes the frozen digits extractor: `models/onnx/digits.onnx`, and its manifest `digits.toml`.

Recipe, without labels (after A. Coates, A. Ng, H. Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature
Learning", AISTATS 2011): spherical k-means on whitened 3x3 patches of the training pool gives the filters, the
whitening is folded into one convolution, a threshold and ReLU follow, then average pooling over quadrants.
Only images of the training pool are used (see `digits_data.py`), never the test images, and no labels beyond those
that make the split.
"""
import hashlib
from pathlib import Path

import numpy as np

import digits_data

ONNX = digits_data.ROOT / "models" / "onnx" / "digits.onnx"
FILTERS = 16
SIDE = 3
POOL = 3
THRESHOLD = 0.25
WHITENING = 0.1
K_MEANS_STEPS = 50
SEED = 2011
OPSET = 13
IR_VERSION = 8


def main():
    images, labels = digits_data.load()
    pool, _ = digits_data.split(labels)
    mean, std = pixel_normalisation(images[pool])
    inputs = normalise(images[pool], mean, std)
    weight, bias = filters(inputs)
    features = extract(inputs, weight, bias)
    content = onnx_bytes(weight, bias, features.shape[1])
    ONNX.write_bytes(content)
    agree = check_against_onnxruntime(content, inputs, features)
    write_manifest(content, mean, std, features)
    print(f"{ONNX.name}: {len(content)} bytes, {features.shape[1]} features, largest difference {agree:.1e}")


def pixel_normalisation(images):
    """Mean and standard deviation of pixel / 255 over all pixels, f32 of the six decimals in the manifest."""
    scaled = images.astype(np.float64) / 255.0
    return np.float32(f"{scaled.mean():.6f}"), np.float32(f"{scaled.std():.6f}")


def normalise(images, mean, std):
    """Bytes [n][8][8] to what the extractor takes, f32 [n][8][8]."""
    return ((images.astype(np.float32) / np.float32(255.0)) - mean) / std


def patches(inputs):
    """All SIDE x SIDE patches, [n][rows][columns][SIDE * SIDE]."""
    windows = np.lib.stride_tricks.sliding_window_view(inputs, (SIDE, SIDE), axis=(1, 2))
    return windows.reshape(*windows.shape[:3], SIDE * SIDE)


def filters(inputs, count=FILTERS, threshold=THRESHOLD, whitening=WHITENING, seed=SEED):
    """Convolution weight [count][SIDE * SIDE] and bias [count] with whitening and threshold folded in."""
    rows = patches(inputs).reshape(-1, SIDE * SIDE).astype(np.float64)
    rows = rows[rows.std(axis=1) > 1e-6]  # empty background says nothing about strokes
    centre = rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows - centre, rowvar=False))
    whiten = vectors @ np.diag(1.0 / np.sqrt(values + whitening)) @ vectors.T
    centroids = spherical_k_means((rows - centre) @ whiten, count, np.random.default_rng(seed))
    weight = centroids @ whiten
    bias = -weight @ centre - threshold
    return weight.astype(np.float32), bias.astype(np.float32)


def spherical_k_means(rows, count, generator):
    """Unit centroids [count][len] with signed, damped updates (Coates and Ng 2012, section 3)."""
    centroids = generator.normal(size=(count, rows.shape[1]))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    for _ in range(K_MEANS_STEPS):
        scores = rows @ centroids.T
        nearest = scores.argmax(axis=1)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, rows * scores[np.arange(len(rows)), nearest, None])
        centroids = centroids + sums
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return centroids


def extract(inputs, weight, bias):
    """What the ONNX file computes, in numpy and f64: features [n][filters * quadrants]."""
    maps = np.maximum(patches(inputs).astype(np.float64) @ weight.T.astype(np.float64) + bias, 0.0)
    count, rows, columns, channels = maps.shape
    pooled = maps.reshape(count, rows // POOL, POOL, columns // POOL, POOL, channels).mean(axis=(2, 4))
    return pooled.transpose(0, 3, 1, 2).reshape(count, -1)


def onnx_bytes(weight, bias, features):
    """The ONNX model, serialised: Conv, Relu, AveragePool, Flatten with batch 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["image", "filters", "offsets"], ["maps"], kernel_shape=[SIDE, SIDE]),
        helper.make_node("Relu", ["maps"], ["strokes"]),
        helper.make_node("AveragePool", ["strokes"], ["pooled"], kernel_shape=[POOL, POOL], strides=[POOL, POOL]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(weight.reshape(len(weight), 1, SIDE, SIDE), "filters"),
        numpy_helper.from_array(bias, "offsets"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    output = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features])
    graph = helper.make_graph(nodes, "digits", [image], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "models/export/digits_extractor.py"
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def check_against_onnxruntime(content, inputs, expected, tolerance=1e-4):
    """Runs every image through onnxruntime; returns the largest difference from numpy, refuses a large one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = [session.run(["features"], {"image": image[None, None]})[0][0] for image in inputs]
    difference = float(np.abs(np.stack(rows) - expected).max())
    if difference > tolerance:
        raise ValueError(f"onnxruntime and numpy differ by {difference}; the graph is not what `extract` computes")
    return difference


def write_manifest(content, mean, std, features):
    """`digits.toml`, in the form that `vision/src/manifest/mod.rs` reads."""
    lines = [
        'name = "digits"',
        f'file = "{ONNX.name}"',
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"',
        'license = "weights: MIT OR Apache-2.0; data: CC BY 4.0 (E. Alpaydin, C. Kaynak, UCI), see README.md"',
        'made_by = "python3 models/export/digits_extractor.py"',
        "",
        "[input]",
        "width = 8",
        "height = 8",
        "channels = 1",
        'layout = "NCHW"',
        f"mean = {numbers([mean])}",
        f"std = {numbers([std])}",
        "",
        "[output]",
        'name = "features"',
        f"features = {features.shape[1]}",
        f"mean = {numbers(features.mean(axis=0))}",
        f"std = {numbers(features.std(axis=0))}",
    ]
    ONNX.with_suffix(".toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbers(values):
    """A TOML array, eight to a line. Six decimals hide the last bits, in which linear algebra libraries differ."""
    texts = [f"{value:.6f}" for value in values]
    if len(texts) <= 8:
        return f"[{', '.join(texts)}]"
    rows = [", ".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    return "[\n" + "".join(f"  {row},\n" for row in rows) + "]"


if __name__ == "__main__":
    main()
