#!/usr/bin/env python3
"""Runs an exported model in onnxruntime and compares its outputs with given ones.

    export_check.py MODEL.onnx CASES.json

CASES.json: {"cases": [{"input": [numbers, flat], "shape": [1, 1, 8, 8], "logits": [numbers],
                        "probabilities": [numbers]}]}
Prints "N passed, M failed"; exit code 0 only if every case passed and there was one. Needs numpy and onnxruntime.
"""
import json
import sys

import numpy
import onnxruntime

TOLERANCE = 1e-4


def problem(session, case):
    """Why a case fails, or None."""
    image = numpy.asarray(case["input"], dtype=numpy.float32).reshape(case["shape"])
    names = ["logits", "probabilities"]
    values = session.run(names, {session.get_inputs()[0].name: image})
    for name, value in zip(names, values):
        actual = numpy.asarray(value, dtype=numpy.float64)[0]
        expected = numpy.asarray(case[name], dtype=numpy.float64)
        if actual.shape != expected.shape:
            return f"{name} of shape {actual.shape}, expected {expected.shape}"
        distance = numpy.abs(actual - expected).max()
        # Not `>`: a difference that is not a number is no agreement.
        if not distance <= TOLERANCE:
            return f"{name} differ by {distance:g}"
    return None


def main(arguments):
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    session = onnxruntime.InferenceSession(arguments[0], providers=["CPUExecutionProvider"])
    with open(arguments[1], encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    failed = 0
    for index, case in enumerate(cases):
        reason = problem(session, case)
        if reason:
            failed += 1
            print(f"case {index}: {reason}", file=sys.stderr)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 0 if cases and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
