#!/usr/bin/env python3
"""Golden cases for the methods besides RedGrape: an independent float64 computation (numpy only).

Gradients are central differences of the losses as the papers write them down, so nothing here repeats a derivation of
the code under test. `python3 make_golden.py [folder]` writes them again, the same bytes for the same numpy.
"""
import json
import os
import sys

import numpy as np


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def slope(loss, at, by=1e-5):
    """Central differences of `loss` in every entry of the array `at`."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        values = []
        for sign in (1, -1):
            moved = at.copy()
            moved[index] += sign * by
            values.append(loss(moved))
        gradient[index] = (values[0] - values[1]) / (2 * by)
    return gradient


def slopes(loss, weight, bias):
    return slope(lambda w: loss(w, bias), weight), slope(lambda b: loss(weight, b), bias)


def sample_losses(case, weight, bias, x, y):
    log_p = log_softmax(x @ weight.T + bias)[np.arange(len(y)), y]
    hyper = case["hyper"]
    if case["method"] == "fed-focal":
        return -((1 - np.exp(log_p)) ** hyper["gamma"]) * log_p
    if case["method"] == "ratio-loss":
        return -np.array(case["class_weights"])[y] * log_p
    return -log_p


def train(case):
    hyper = case["hyper"]
    x_all, y_all = np.array(case["features"]), np.array(case["labels"])
    W, b = np.array(case["main"]["weight"]), np.array(case["main"]["bias"])
    start = W.copy(), b.copy()
    momentum = [np.zeros_like(t) for t in (W, b)]
    trace = []
    for batch in case["batches"]:
        x, y = x_all[batch], y_all[batch]

        def local(weight, bias):
            mean = sample_losses(case, weight, bias, x, y).mean()
            held = hyper.get("mu", 0.0) / 2 * (((weight - start[0]) ** 2).sum() + ((bias - start[1]) ** 2).sum())
            return mean + held

        g = slopes(local, W, b)
        total = np.sqrt(sum((t**2).sum() for t in g))
        scale = min(1.0, hyper["clip"] / (total + 1e-6))
        momentum = [hyper["momentum"] * m + scale * t for m, t in zip(momentum, g)]
        W, b = W - hyper["lr"] * momentum[0], b - hyper["lr"] * momentum[1]
        trace.append(float(np.linalg.norm(W)))
    head = lambda w, a: {"weight": w.tolist(), "bias": a.tolist()}
    return {"main": head(W, b), "supplementary": case["supplementary"], "main_weight_norm_after_each_batch": trace}


def training_case(rng, name, method, **more):
    C, d, n, size = 4, 3, 18, 5
    centres = rng.normal(size=(C, d)) * 1.5
    labels = rng.choice(C, size=n, p=[0.5, 0.3, 0.15, 0.05])
    features = centres[labels] + rng.normal(size=(n, d))
    batches = []
    for _ in range(2):
        order = rng.permutation(n)
        batches += [[int(i) for i in order[s : s + size]] for s in range(0, n, size)]
    head = lambda s: {"weight": (rng.normal(size=(C, d)) * s).tolist(), "bias": (rng.normal(size=C) * s).tolist()}
    zeros = {"weight": np.zeros((C, d)).tolist(), "bias": np.zeros(C).tolist()}
    case = {
        "name": name, "method": method, "classes": C, "features_per_sample": d, "features": features.tolist(),
        "labels": labels.tolist(), "main": head(0.4), "supplementary": zeros,
        "balanced_samples": [], "batches": batches,
        "hyper": {"lr": 0.2, "momentum": 0.9, "lambda": 0.5, "T": 50, "clip": 1.0, **more},
    }
    if method == "ratio-loss":
        case["class_weights"] = [1.1, 1.6, 3.0, 11.0]
    case["expected"] = train(case)
    return case


def ratio_case(rng, name):
    C, d, n = 4, 3, 5
    weight, bias = rng.normal(size=(C, d)), rng.normal(size=C)
    labels = np.repeat(np.arange(C), n)
    features = rng.normal(size=(C * n, d)) + labels[:, None] * 0.3
    own = {"method": "", "hyper": {}}
    of = lambda c: slope(lambda a: sample_losses(own, weight, a, features[labels == c], labels[labels == c]).mean(), bias)
    moves = np.stack([of(c) for c in range(C)])
    alpha, beta = 1.0, 0.1
    ratios = [abs(moves[c, c]) / abs(np.delete(moves[:, c], c).mean()) for c in range(C)]
    return {
        "name": name, "kind": "ratio", "classes": C, "features_per_sample": d, "main": {"weight": weight.tolist(), "bias": bias.tolist()},
        "features": features.tolist(), "labels": labels.tolist(), "alpha": alpha, "beta": beta,
        "expected": [alpha + beta * ratio for ratio in ratios],
    }


def climb_case(rng, name):
    """Three devices, three rounds; the third does not take part in the second."""
    C, d, step, tolerance = 2, 2, 0.7, 0.05
    samples = [10, 30, 5]
    multipliers, rounds, merged = {}, [], None
    for number in range(3):
        taking_part = [0, 1] if number == 1 else [0, 1, 2]
        heads = {k: {"weight": rng.normal(size=(C, d)).tolist(), "bias": rng.normal(size=C).tolist()} for k in taking_part}
        losses = {k: float(rng.uniform(0.1, 2.5)) for k in taking_part}
        mean = np.mean(list(multipliers.values())) if multipliers else 0.0
        weights = {k: samples[k] * max(0.0, 1 + multipliers.get(k, 0.0) - mean) for k in taking_part}
        total = sum(weights.values())
        merged = {t: (sum(weights[k] * np.array(heads[k][t]) for k in taking_part) / total).tolist() for t in ("weight", "bias")}
        average = np.mean(list(losses.values()))
        for k in taking_part:
            multipliers[k] = float(np.clip(multipliers.get(k, 0.0) + step * (losses[k] - average - tolerance), 0, 5))
        rounds.append({"heads": {str(k): h for k, h in heads.items()}, "losses": {str(k): l for k, l in losses.items()}, "expected": merged})
    return {
        "name": name, "kind": "climb", "classes": C, "features_per_sample": d, "samples": samples, "dual_step": step,
        "tolerance": tolerance, "rounds": rounds, "expected_multipliers": {str(k): m for k, m in multipliers.items()},
    }


def creff_case(rng, name):
    """Few enough federated features that re-training has one batch: the order of its rows does not matter."""
    C, d, m, steps, rate, epochs, retrain_rate = 3, 2, 4, 6, 0.3, 8, 0.5
    weight, bias = rng.normal(size=(C, d)) * 0.5, rng.normal(size=C) * 0.2
    features = rng.normal(size=(C, m, d))
    sent = [0, 2]  # nobody sent the gradient of class 1
    wanted = {c: (rng.normal(size=(C, d)), rng.normal(size=C)) for c in sent}
    plain = {"method": "", "hyper": {}}

    def gradient(f, c):
        p = np.exp(log_softmax(f @ weight.T + bias))
        p[:, c] -= 1
        return p.T @ f / len(f), p.mean(axis=0)

    def distance(f, c):
        g, gb = gradient(f, c)
        w, wb = wanted[c]
        cos = lambda a, k: (a * k).sum() / (np.linalg.norm(a) * np.linalg.norm(k) + 1e-6)
        return sum(1 - cos(g[r], w[r]) for r in range(C)) + 1 - cos(gb, wb)

    moved = features.copy()
    for c in sent:
        for _ in range(steps):
            moved[c] = moved[c] - rate * slope(lambda f: distance(f, c), moved[c])
    rows, labels = moved.reshape(C * m, d), np.repeat(np.arange(C), m)
    W, b = np.zeros((C, d)), np.zeros(C)
    for _ in range(epochs):
        g = slopes(lambda w, a: sample_losses(plain, w, a, rows, labels).mean(), W, b)
        W, b = W - retrain_rate * g[0], b - retrain_rate * g[1]
    head = lambda w, a: {"weight": w.tolist(), "bias": a.tolist()}
    return {
        "name": name, "kind": "creff", "classes": C, "features_per_sample": d, "main": head(weight, bias),
        "prototypes": {str(c): head(*wanted[c]) for c in sent}, "federated_features": features.tolist(),
        "features_per_class": m, "match_steps": steps, "match_rate": rate, "retrain_epochs": epochs,
        "retrain_rate": retrain_rate, "expected": head(W, b), "expected_features": moved.tolist(),
    }


def scaffold_case(rng, name):
    """Three devices, three rounds; the third does not take part in the second. Batches hold all samples of a device, so
    that their order does not matter."""
    C, d, epochs, lr, server_lr = 3, 2, 3, 0.2, 1.3
    plain = {"method": "", "hyper": {}}
    labels = [np.array([0, 0, 0, 1]), np.array([1, 1, 2]), np.array([2, 0, 1, 2, 2])]
    centres = rng.normal(size=(C, d)) * 1.5
    features = [centres[y] + rng.normal(size=(len(y), d)) for y in labels]
    add = lambda *terms: [sum(factor * head[t] for factor, head in terms) for t in (0, 1)]
    zeros = [np.zeros((C, d)), np.zeros(C)]
    x, c = zeros, zeros
    own, counted, rounds = {}, {}, []
    for number in range(3):
        taking_part = [0, 1] if number == 1 else [0, 1, 2]
        trained, variates = {}, {}
        for k in taking_part:
            y = x
            for _ in range(epochs):
                g = slopes(lambda w, b: sample_losses(plain, w, b, features[k], labels[k]).mean(), *y)
                y = add((1, y), (-lr, g), (lr, own.get(k, zeros)), (-lr, c))  # equation 3
            trained[k] = y
            variates[k] = add((1, own.get(k, zeros)), (-1, c), (1 / (epochs * lr), x), (-1 / (epochs * lr), y))  # equation 4
        own.update(variates)
        counted.update({k: len(labels[k]) for k in taking_part})
        here = sum(len(labels[k]) for k in taking_part)
        mean = add(*[(len(labels[k]) / here, trained[k]) for k in taking_part])
        x = add((1 - server_lr, x), (server_lr, mean))
        # Equation 5 keeps the mean of all control variates, here by samples.
        c = add(*[(counted[k] / sum(counted.values()), own[k]) for k in counted])
        head = lambda h: {"weight": h[0].tolist(), "bias": h[1].tolist()}
        rounds.append({"devices": taking_part, "expected": head(x), "expected_variate": head(c)})
    return {
        "name": name, "kind": "scaffold", "classes": C, "features_per_sample": d, "epochs": epochs, "lr": lr,
        "server_learning_rate": server_lr, "labels": [y.tolist() for y in labels],
        "features": [f.tolist() for f in features], "rounds": rounds,
    }


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
    rng = np.random.default_rng(20261124)
    for case in [
        training_case(rng, "fedprox", "fedprox", mu=0.7),
        training_case(rng, "fedprox-unclipped", "fedprox", mu=2.0, clip=100.0),
        training_case(rng, "fed-focal", "fed-focal", gamma=2.0),
        training_case(rng, "fed-focal-gentle", "fed-focal", gamma=0.5, clip=100.0),
        training_case(rng, "ratio-loss", "ratio-loss"),
        ratio_case(rng, "ratio-weights"),
        climb_case(rng, "climb"),
        creff_case(rng, "creff"),
        scaffold_case(rng, "scaffold"),
    ]:
        with open(os.path.join(folder, case["name"] + ".json"), "w") as file:
            json.dump(case, file, indent=None, separators=(",", ":"))


main()
