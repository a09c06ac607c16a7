#!/usr/bin/env python3
"""Makes the tables of this folder again: every method on every setting of the lists below, with `fleet bench`.

    cargo build --release
    python3 simulator/results/make.py [--npz FILE.npz] [--images FOLDER-OR-ARCHIVE] [--only TEXT] [--write]

A table that was made stays in target/results and is not made again: delete it there, or give --fresh, for another one. So
a run that was stopped goes on where it was. --write only writes the pages from what is there. Needs Python 3.9 and nothing
else. Without --npz or --images those tables are left out; accuracies depend on the data, so no download is hidden in here.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MADE = TARGET / "results"

METHODS = (
    "fedavg,fedprox,fed-focal,ratio-loss,climb,creff,logit-adjusted,post-hoc,redgrape,redgrape-no-prototypes,"
    "redgrape-no-supplementary,redgrape-live,redgrape-plus,ncm,ridge,ridge-plain,lda"
)
# Each rival on the same start and mean as redgrape-plus, at its own learning rate.
STARTED = "fedavg,fedprox,fed-focal,logit-adjusted,redgrape,redgrape-live,redgrape-plus,lda"
SEEDS = 3
ROUNDS = 20
# As many as the expectations of the reference simulation.
MANY_ROUNDS = 60
PARTITIONS = ("global-prior", "symmetric")
FLEETS = (("full", 10, 10), ("partial", 50, 10))
ALPHAS = ("1", "0.1", "0.5")
IMAGE_RATIOS = ("100", "50", "10")

PAGES = {
    "digits": "Handwritten digits, 360 training images of imbalance ratio 50, the shipped extractor",
    "npz": "CIFAR-10-LT, imbalance ratio 100, 128 features extracted elsewhere (an .npz)",
    "images": "CIFAR-10-LT, images through the general extractor (256 features)",
}


def table(page, name, data, partition, fleet, alpha, rounds=ROUNDS, methods=METHODS, more=()):
    """One table: its page, its name, and the arguments of `fleet bench`."""
    participation, devices, participants = fleet
    arguments = [*data, "--methods", methods, "--partition", partition, "--alpha", alpha, "--devices", str(devices)]
    arguments += ["--participants", str(participants), "--rounds", str(rounds), "--seeds", str(SEEDS), *more]
    return {
        "page": page,
        "alpha": alpha,
        "name": f"{name}-{partition}-{participation}-alpha{alpha}-{rounds}",
        "title": f"{partition}, {participation} ({participants} of {devices}), alpha {alpha}, {rounds} rounds, {SEEDS} seeds",
        "arguments": arguments,
    }


def grid(page, name, data, title=""):
    """Both partitions, full and partial, every alpha; with the dial of redgrape-plus at alpha 1."""
    tables = []
    for alpha in ALPHAS:
        for partition in PARTITIONS:
            for fleet in FLEETS:
                dial = ("--dial", "redgrape-plus") if alpha == "1" else ()
                one = table(page, name, data, partition, fleet, alpha, more=dial)
                tables.append({**one, "title": title + one["title"]})
    return tables


def wanted(npz, images):
    """All tables, the most telling first."""
    tables = grid("digits", "digits", [])
    if npz:
        data = ["--data", npz]
        for fleet in FLEETS:
            tables.append(table("npz", "npz", data, "global-prior", fleet, "1", rounds=MANY_ROUNDS))
        for fleet in FLEETS:
            started = ("--warm-start", "lda", "--average", "--grid", "lr=0.01,0.05", "--dial", "redgrape-plus")
            one = table("npz", "npz-started", data, "global-prior", fleet, "1", methods=STARTED, more=started)
            tables.append({**one, "title": "every method from lda and averaged, " + one["title"]})
        tables += grid("npz", "npz", data)
    for ratio in IMAGE_RATIOS if images else ():
        data = ["--data", images, "--extractor", "models/onnx/general.toml", "--imbalance", ratio]
        tables += grid("images", f"images-ir{ratio}", data, title=f"imbalance ratio {ratio}, ")
    # Of every data set the tables of the first alpha before those of the next.
    return sorted(tables, key=lambda one: ALPHAS.index(one["alpha"]))


def make(one):
    """Runs the bench, unless it has run already."""
    results, text = MADE / (one["name"] + ".json"), MADE / (one["name"] + ".txt")
    if results.exists() and text.exists():
        return
    began = time.monotonic()
    command = [TARGET / "release" / "fleet", "-q", "bench", *one["arguments"], "--json", results]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        results.unlink(missing_ok=True)
        sys.exit(f"{one['name']}: fleet bench ended with {done.returncode}")
    text.write_text(done.stdout)
    print(f"{one['name']}: {time.monotonic() - began:.0f} s", flush=True)


def shown(one):
    """The command for people: the data by the name of its file."""
    words = [Path(word).name if before == "--data" else word for before, word in pairs(one["arguments"])]
    return "cargo run --release -- bench " + " ".join(shlex.quote(word) for word in words)


def pairs(words):
    return zip(["", *words], words)


def report(one):
    return json.loads((MADE / (one["name"] + ".json")).read_text())


def dialled(one):
    """Over how many rivals the dial of redgrape-plus is ahead in both, at a tau chosen on held-out samples."""
    against = [rival for dial in report(one)["dials"] for rival in dial["against"]]
    return f"{sum(rival['dominates'] for rival in against)} of {len(against)}" if against else "-"


def means(one):
    """Balanced accuracy of each method in percent, mean over the seeds, best first."""
    by_method = {}
    for run in report(one)["runs"]:
        by_method.setdefault(run["method"], []).append(100 * run["balanced_accuracy"])
    means = {method: sum(values) / len(values) for method, values in by_method.items()}
    return dict(sorted(means.items(), key=lambda entry: -entry[1]))


def verdict(accuracies):
    """Which is best, and which of the others are ahead of redgrape and of redgrape-plus."""
    best = next(iter(accuracies))
    lines = [f"Best: **{best}**, {accuracies[best]:.1f} %."]
    for method in ("redgrape", "redgrape-plus"):
        if method not in accuracies:
            continue
        ahead = [f"{name} {value:.1f}" for name, value in accuracies.items() if value > accuracies[method]]
        behind = f"loses to {', '.join(ahead)}" if ahead else "loses to none"
        lines.append(f"{method}, {accuracies[method]:.1f} %, {behind}.")
    return " ".join(lines)


def page(name, tables):
    """The page of one data set: a summary of all its settings, then every table below its command."""
    columns = ("fedavg", "logit-adjusted", "creff", "redgrape", "redgrape-live", "redgrape-plus", "ridge", "lda")
    lines = [f"# {PAGES[name]}", ""]
    lines += ["Written by [make.py](make.py); do not edit. Balanced accuracy on the balanced test set, mean over the seeds, in"]
    lines += ["percent; hyper-parameters are the methods' own unless a table says otherwise.", ""]
    made = [(one, means(one)) for one in tables]
    best = [next(iter(accuracies)) for _, accuracies in made]
    counts = ", ".join(f"{method} in {best.count(method)}" for method in dict.fromkeys(best))
    lines += [f"Best of {len(made)} settings: {counts}. *Dial*: rivals over which redgrape-plus, at a tau chosen on held-out training"]
    lines += ["samples, has at least the head and at least the balanced accuracy.", ""]
    lines += ["| setting | best | " + " | ".join(columns) + " | dial |", "|---|---|" + "---|" * (len(columns) + 1)]
    for one, accuracies in made:
        cells = [f"{accuracies[column]:.1f}" if column in accuracies else "-" for column in columns]
        lines.append(f"| {one['title']} | {next(iter(accuracies))} | " + " | ".join([*cells, dialled(one)]) + " |")
    for one, accuracies in made:
        text = (MADE / (one["name"] + ".txt")).read_text().rstrip()
        lines += ["", f"## {one['title'].capitalize()}", "", verdict(accuracies), "", "```", "$ " + shown(one), text, "```"]
    (HERE / f"{name}.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--npz", help="train_features, train_labels, test_features and test_labels of CIFAR-10-LT")
    parser.add_argument("--images", help="CIFAR-10 as an image folder or archive, with train and test")
    parser.add_argument("--only", default="", help="make only tables whose name has this in it")
    parser.add_argument("--fresh", action="store_true", help="make tables again that are there")
    parser.add_argument("--write", action="store_true", help="make no table, write the pages")
    arguments = parser.parse_args()
    MADE.mkdir(parents=True, exist_ok=True)
    tables = wanted(arguments.npz, arguments.images)
    for one in tables if not arguments.write else ():
        if arguments.only in one["name"]:
            if arguments.fresh:
                (MADE / (one["name"] + ".txt")).unlink(missing_ok=True)
            make(one)
    for name in PAGES:
        there = [one for one in tables if one["page"] == name and (MADE / (one["name"] + ".txt")).exists()]
        if there:
            page(name, there)


if __name__ == "__main__":
    main()
