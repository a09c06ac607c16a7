"""From a trained network to `general.onnx` and its manifest `general.toml`."""
import copy
import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import general_images
from digits_extractor import numbers
from general_net import Unit, means

SIDE = general_images.SIDE
OPSET = 13
IR_VERSION = 8
MOST_MULTIPLY_ADDS = 60_000_000
MOST_BYTES = 4_000_000
TOLERANCE = 1e-4
CHECKED_IMAGES = 500
FEATURES = 256


def export(network, images, labels, pixel_scale, command, path):
    """Writes the ONNX file and its manifest; refuses a network over the limits or a file that computes otherwise."""
    frozen = Frozen(network)
    operations = frozen.multiply_adds()
    if operations > MOST_MULTIPLY_ADDS:
        raise ValueError(f"{operations} multiply-adds, the limit is {MOST_MULTIPLY_ADDS}; make a smaller network")
    features = frozen.extract(images, pixel_scale)
    frozen.kept = most_telling(features, labels.numpy(), FEATURES)
    content = onnx_bytes(frozen)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content)} bytes, the limit is {MOST_BYTES}; make a smaller network")
    difference = check_against_onnxruntime(content, images[:: len(images) // CHECKED_IMAGES], frozen, pixel_scale)
    path = Path(path)
    path.write_bytes(content)
    write_manifest(path, content, pixel_scale, features[:, frozen.kept], command)
    print(f"{path.name}: {len(content)} bytes, {operations} multiply-adds, {len(frozen.kept)} features")
    print(f"largest difference between onnxruntime and PyTorch: {difference:.1e}", flush=True)


class Frozen(nn.Module):
    """What the ONNX file computes: the network with its norms folded in, then the means of its maps that are kept.

    Weights are rounded to f16, as the file stores them; every sum is in f32.
    """

    def __init__(self, network):
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        for unit in self.network.modules():
            if isinstance(unit, Unit):
                unit.conv, unit.norm = fold(unit), nn.Identity()
        self.kept = slice(None)

    def forward(self, inputs):
        return means(self.network(inputs))[:, self.kept]

    @torch.no_grad()
    def extract(self, images, pixel_scale):
        """Features f32 [n][d] of u8 images [n][3][..], seen as a device sees them."""
        rows = []
        for part in images.split(500):
            inputs = general_images.normalise(general_images.as_devices_see(part), *pixel_scale)
            rows.append(self(inputs.contiguous(memory_format=torch.channels_last)).numpy())
        return np.concatenate(rows)

    @torch.no_grad()
    def multiply_adds(self):
        """Of all convolutions, for one image."""
        counts = []
        count = lambda conv, _, maps: counts.append(maps.numel() * conv.weight[0].numel())
        hooks = [m.register_forward_hook(count) for m in self.modules() if isinstance(m, nn.Conv2d)]
        self(torch.zeros(1, 3, SIDE, SIDE))
        for hook in hooks:
            hook.remove()
        return sum(counts)


def most_telling(features, labels, count):
    """Indices, rising, of the `count` features that together tell the classes apart best.

    Backward elimination: again and again the feature goes without which the trace of W^-1 B, the scatter between
    class means over the scatter within classes, loses least.
    """
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    centres = np.stack([features[labels == c].mean(axis=0, dtype=np.float64) for c in np.unique(labels)])
    rest = features - centres[np.searchsorted(np.unique(labels), labels)]
    within = rest.T @ rest / len(rest)
    between = centres.T @ centres / len(centres)
    inverse = np.linalg.inv(0.99 * within + 0.01 * np.eye(len(within)))
    kept = np.arange(len(inverse))
    while len(kept) > count:
        loss = np.diag(inverse @ between @ inverse) / np.diag(inverse)
        least = int(loss.argmin())
        inverse -= np.outer(inverse[least], inverse[least]) / inverse[least, least]
        inverse, between = (np.delete(np.delete(m, least, 0), least, 1) for m in (inverse, between))
        kept = np.delete(kept, least)
    return kept


def fold(unit):
    """The convolution that does what a unit's convolution and norm do, rounded to f16."""
    conv, norm = unit.conv, unit.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        folded.weight.copy_((conv.weight * scale.reshape(-1, 1, 1, 1)).half())
        folded.bias.copy_(norm.bias - norm.running_mean * scale)
    return folded


def onnx_bytes(frozen):
    """The model, serialised: one image [1, 3, 32, 32] to features [1, d]."""
    graph = Graph()
    maps = graph.relu(graph.convolution("image", frozen.network.stem.conv))
    ends = [maps]
    for stage in frozen.network.stages:
        for block in stage:
            inner = graph.relu(graph.convolution(maps, block.first.conv))
            inner = graph.convolution(inner, block.second.conv)
            shortcut = maps if isinstance(block.shortcut, nn.Identity) else graph.convolution(maps, block.shortcut.conv)
            maps = graph.relu(graph.add("Add", [inner, shortcut]))
        ends.append(maps)
    pooled = [graph.add("GlobalAveragePool", [maps]) for maps in ends]
    joined = graph.add("Flatten", [graph.add("Concat", pooled, axis=1)], axis=1)
    kept = graph.constant(frozen.kept.astype(np.int64), "kept")
    graph.add("Gather", [joined, kept], output="features", axis=1)
    return graph.serialise(features=len(frozen.kept))


class Graph:
    """Nodes and constants of an ONNX graph under construction."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, operation, inputs, output=None, **attributes):
        """Appends a node; the name of its output."""
        output = output or f"{operation.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def constant(self, values, name):
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def relu(self, maps):
        return self.add("Relu", [maps])

    def convolution(self, maps, conv):
        """A convolution whose weights the file holds in f16 and a Cast widens when the model is loaded."""
        weight = self.constant(conv.weight.detach().half().numpy(), f"weight{len(self.constants)}")
        bias = self.constant(conv.bias.detach().numpy(), f"bias{len(self.constants)}")
        wide = self.add("Cast", [weight], to=TensorProto.FLOAT)
        side, stride, edge = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        return self.add(
            "Conv", [maps, wide, bias], kernel_shape=[side] * 2, strides=[stride] * 2, pads=[edge] * 4
        )

    def serialise(self, features):
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
        output = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features])
        graph = helper.make_graph(self.nodes, "general", [image], [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "models/export/general_extractor.py"
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def check_against_onnxruntime(content, images, frozen, pixel_scale):
    """Runs images through onnxruntime; returns the largest difference from PyTorch, refuses a large one."""
    rows = run_onnx(content, images, pixel_scale)
    difference = float(np.abs(rows - frozen.extract(images, pixel_scale)).max())
    if difference > TOLERANCE:
        raise ValueError(f"onnxruntime and PyTorch differ by {difference}; the graph is not what the network computes")
    return difference


def run_onnx(content, images, pixel_scale):
    """Features f32 [n][d] of u8 images [n][3][..] by the ONNX file itself, image by image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = general_images.normalise(general_images.as_devices_see(images), *pixel_scale).numpy()
    return np.concatenate([session.run(["features"], {"image": image[None]})[0] for image in inputs])


def pixel_scale_of(path):
    """Mean and standard deviation of the input, from the manifest of an ONNX file."""
    declared = tomllib.loads(Path(path).with_suffix(".toml").read_text(encoding="utf-8"))["input"]
    return torch.tensor(declared["mean"]), torch.tensor(declared["std"])


def write_manifest(path, content, pixel_scale, features, command):
    """The manifest beside the ONNX file, in the form that `vision/src/manifest/mod.rs` reads."""
    mean, std = pixel_scale
    lines = [
        f'name = "{path.stem}"',
        f'file = "{path.name}"',
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"',
        'license = "weights: MIT OR Apache-2.0; data: Tiny ImageNet (ImageNet), research use only, see general.md"',
        f'made_by = "{command}"',
        "",
        "[input]",
        f"width = {SIDE}",
        f"height = {SIDE}",
        "channels = 3",
        'layout = "NCHW"',
        f"mean = {numbers(mean.tolist())}",
        f"std = {numbers(std.tolist())}",
        "",
        "[output]",
        'name = "features"',
        f"features = {features.shape[1]}",
        f"mean = {numbers(features.mean(axis=0, dtype=np.float64))}",
        f"std = {numbers(features.std(axis=0, dtype=np.float64))}",
    ]
    path.with_suffix(".toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
