#!/usr/bin/env python3
"""Times an extractor in `fleet` (tract) and in onnxruntime side by side: one image at a time, one thread each.

    cargo build --release
    python3 models/export/compare_runtimes.py                     # the shipped extractor
    python3 models/export/compare_runtimes.py other.onnx --size 224x224 --json

The two run in turns, each turn in a process of its own, and each turn gives a median over its images; what is printed is
the median turn and the quickest. On a machine that does other things too, the quickest says more.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 10


def main():
    arguments = parse()
    extractor = arguments.extractor
    onnx = extractor.with_name(tomllib.loads(extractor.read_text())["file"]) if extractor.suffix == ".toml" else extractor
    tract, reference = [], []
    for turn in range(arguments.turns):
        if sys.stderr.isatty():
            print(f"turn {turn + 1} of {arguments.turns}", end="\r", file=sys.stderr, flush=True)
        inspection = inspect(arguments)
        tract.append(inspection["trial"]["image_ms"])
        reference.append(in_onnxruntime(onnx, inspection["trial"]["input_shape"], arguments.images))
    report(arguments, inspection, tract, reference)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor", type=Path, nargs="?", default=ROOT / "models/onnx/general.toml",
                        help="a manifest or an ONNX file")
    parser.add_argument("--fleet", type=Path, default=ROOT / "target/release/fleet", help="the program `fleet`")
    parser.add_argument("--size", help="columns and rows, such as 224x224, where the model takes any")
    parser.add_argument("--turns", type=int, default=7, help="turns of each runtime")
    parser.add_argument("--images", type=int, default=300, help="images per turn")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    # A turn of onnxruntime, in the process that this one starts for it.
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        turn(arguments.extractor, json.loads(arguments.turn), arguments.images)
        sys.exit()
    if not arguments.fleet.exists():
        parser.error(f"there is no {arguments.fleet}; run `cargo build --release`, or give --fleet")
    return arguments


def inspect(arguments):
    command = [arguments.fleet, "extractor", "inspect", arguments.extractor, "--json", "--images", str(arguments.images)]
    answer = subprocess.run(command + (["--size", arguments.size] if arguments.size else []), capture_output=True, text=True)
    if answer.returncode != 0:
        reason = json.loads(answer.stdout)["failure"] if answer.stdout else answer.stderr.strip()
        sys.exit(f"error: {reason}")
    return json.loads(answer.stdout)


def in_onnxruntime(onnx, shape, images):
    command = [sys.executable, __file__, onnx, "--turn", json.dumps(shape), "--images", str(images)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        sys.exit(f"error: onnxruntime: {answer.stderr.strip().splitlines()[-1]}")
    return float(answer.stdout)


def turn(onnx, shape, images):
    """Prints the median time of one image, in milliseconds."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    # The numbers that `fleet extractor inspect` takes.
    image = ((np.arange(np.prod(shape)) * 37 % 101).astype(np.float32) / np.float32(50) - 1).reshape(shape)
    times = []
    for number in range(WARM_UP + images):
        began = time.perf_counter()
        session.run(None, {name: image})
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - began))
    print(statistics.median(times))


def report(arguments, inspection, tract, reference):
    figures = {
        "extractor": str(arguments.extractor),
        "multiply_adds": inspection["trial"]["multiply_adds"],
        "turns": arguments.turns,
        "images_per_turn": arguments.images,
        "tract_ms": {"median": statistics.median(tract), "least": min(tract)},
        "onnxruntime_ms": {"median": statistics.median(reference), "least": min(reference)},
        "ratio": {
            "median": statistics.median(tract) / statistics.median(reference),
            "least": min(tract) / min(reference),
        },
    }
    if arguments.json:
        show(json.dumps(figures, indent=2))
        return
    show(f"{arguments.extractor}: {figures['multiply_adds']:,} multiply-adds an image, {arguments.turns} turns")
    show(f"{'ms an image':<14}{'median turn':>12}{'quickest':>12}")
    for name in ("tract", "onnxruntime"):
        times = figures[f"{name}_ms"]
        show(f"{name:<14}{times['median']:>12.3f}{times['least']:>12.3f}")
    show(f"{'ratio':<14}{figures['ratio']['median']:>12.2f}{figures['ratio']['least']:>12.2f}")


def show(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
