#!/usr/bin/env python3
"""Makes the tables of this folder again: every method on every setting of the lists below, with `fleet bench`.

    cargo build --release
    python3 simulator/results/make.py [--npz FILE.npz] [--images DATA] [--hundred DATA] [--only TEXT] [--jobs 1] [--write]

A table that was made stays in target/results, and one that stands on a page stays on it; neither is made again, unless
--fresh says so. So a run that was stopped goes on where it was, on another machine too. --write only writes the pages from
what is there. Needs Python 3.9 and nothing else. Data that are not given leave their tables as they are; accuracies depend
on the data, so no download is hidden in here.
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
# Those of the summary of a page.
COLUMNS = ("fedavg", "logit-adjusted", "creff", "redgrape", "redgrape-live", "redgrape-plus", "ridge", "lda")
SEEDS = 3
ROUNDS = 20
# As many as the expectations of the reference simulation.
MANY_ROUNDS = 60
PARTITIONS = ("global-prior", "symmetric")
FLEETS = (("full", 10, 10), ("partial", 50, 10))
ALPHAS = ("1", "0.1", "0.5")
IMAGE_RATIOS = ("100", "50", "10")
# What a fleet without much time comes to.
FEW_ROUNDS = (5, 10)
# Twelve samples each; a hundred devices take part in a round.
CROWD = ("crowd", 1000, 100)
# Of 100 classes with 256 features: what sends or makes class gradients takes minutes a run, and hours in all.
HUNDRED = "fedavg,fed-focal,logit-adjusted,post-hoc,redgrape-live,redgrape-plus,ncm,ridge,ridge-plain,lda"

# What a page says above its tables.
NOTES = {
    "hundred": "The general extractor was trained on images of these very classes, so its features are better here than on "
    "classes that it has not seen: the tables compare methods, they do not say what 100 new classes would give.",
}
PAGES = {
    "digits": "Handwritten digits, 360 training images of imbalance ratio 50, the shipped extractor",
    "npz": "CIFAR-10-LT, imbalance ratio 100, 128 features extracted elsewhere (an .npz)",
    "images": "CIFAR-10-LT, images through the general extractor (256 features)",
    "hundred": "100 classes of Tiny ImageNet with a long tail, images through the general extractor (256 features)",
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


def logit_offset(page):
    """With the dial of redgrape-plus. Where tables take seconds, every training sample is held out once for its choice."""
    return ("--logit-offset", "redgrape-plus", *(() if page == "images" else ("--folds", "5")))


def grid(page, name, data, title=""):
    """Both partitions, full and partial, every alpha; with the dial of redgrape-plus at alpha 1."""
    tables = []
    for alpha in ALPHAS:
        for partition in PARTITIONS:
            for fleet in FLEETS:
                more = logit_offset(page) if alpha == "1" else ()
                one = table(page, name, data, partition, fleet, alpha, more=more)
                tables.append({**one, "title": title + one["title"]})
    return tables


def started(page, name, data, title=""):
    """Every method that trains from the same start and averaged, at a learning rate and a lambda chosen on held-out samples."""
    more = ("--init", "lda", "--averaged", "--grid", "learning_rate=0.01,0.05", "--grid", "lambda=0.1,1", *logit_offset(page))
    settings = [(partition, fleet) for partition in PARTITIONS for fleet in FLEETS]
    tables = [table(page, f"{name}-started", data, *setting, "1", methods=STARTED, more=more) for setting in settings]
    return [{**one, "title": "every method from lda and averaged, " + title + one["title"]} for one in tables]


def wanted(npz, images, hundred):
    """All tables, the most telling first."""
    tables = started("digits", "digits", []) + grid("digits", "digits", [])
    if npz:
        data = ["--data", npz]
        for fleet in FLEETS:
            tables.append(table("npz", "npz", data, "global-prior", fleet, "1", rounds=MANY_ROUNDS))
        tables += started("npz", "npz", data)
        tables += grid("npz", "npz", data)
        for fleet in FLEETS:
            tables += [table("npz", "npz", data, "global-prior", fleet, "1", rounds=rounds) for rounds in FEW_ROUNDS]
        for partition in PARTITIONS:
            tables.append(table("npz", "npz", data, partition, CROWD, "1"))
    if hundred:
        data = ["--data", hundred, "--extractor", "models/onnx/general.toml", "--imbalance", "100"]
        for partition in PARTITIONS:
            for fleet in FLEETS:
                tables.append(table("hundred", "hundred", data, partition, fleet, "1", methods=HUNDRED))
    for ratio in IMAGE_RATIOS if images else ():
        data = ["--data", images, "--extractor", "models/onnx/general.toml", "--imbalance", ratio]
        tables += started("images", f"images-ir{ratio}", data, title=f"imbalance ratio {ratio}, ")
        tables += grid("images", f"images-ir{ratio}", data, title=f"imbalance ratio {ratio}, ")
    # Of every data set the tables of the first alpha before those of the next.
    return sorted(tables, key=lambda one: ALPHAS.index(one["alpha"]))


def make(one, jobs):
    """Runs the bench."""
    results, text = MADE / (one["name"] + ".json"), MADE / (one["name"] + ".txt")
    began = time.monotonic()
    command = [TARGET / "release" / "fleet", "-q", "bench", *one["arguments"], "--json", results]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(jobs)} if jobs else None
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
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
    against = [rival for dial in report(one)["logit_offsets"] for rival in dial["against"]]
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


def is_made(one):
    return all((MADE / (one["name"] + ending)).exists() for ending in (".json", ".txt"))


def heading(one):
    return "## " + one["title"].capitalize()


def row(one):
    """The line of the summary."""
    accuracies = means(one)
    cells = [f"{accuracies[column]:.1f}" if column in accuracies else "-" for column in COLUMNS]
    return f"| {one['title']} | {next(iter(accuracies))} | " + " | ".join([*cells, dialled(one)]) + " |"


def section(one):
    """The table below its command."""
    text = (MADE / (one["name"] + ".txt")).read_text().rstrip()
    return "\n".join([heading(one), "", verdict(means(one)), "", "```", "$ " + shown(one), text, "```"])


def written(name):
    """What the page has: the rows of its summary by title, and its sections by heading."""
    path = HERE / f"{name}.md"
    if not path.exists():
        return {}, {}
    summary, *sections = ("\n" + path.read_text()).split("\n## ")
    rows = [line for line in summary.splitlines() if line.startswith("| ") and not line.startswith("| setting")]
    return {line.split(" | ")[0][2:]: line for line in rows}, {
        "## " + text.split("\n", 1)[0]: "## " + text.rstrip() for text in sections
    }


def page(name, tables):
    """The page of one data set: a summary of all its settings, then every table below its command."""
    old_rows, old_sections = written(name)
    there = [one for one in tables if is_made(one) or one["title"] in old_rows]
    if not there:
        return
    rows = [row(one) if is_made(one) else old_rows[one["title"]] for one in there]
    sections = [section(one) if is_made(one) else old_sections[heading(one)] for one in there]
    lines = [f"# {PAGES[name]}", ""]
    lines += ["Written by [make.py](make.py); do not edit. Balanced accuracy on the balanced test set, mean over the seeds, in"]
    lines += ["percent; hyper-parameters are the methods' own unless a table says otherwise.", ""]
    lines += [NOTES[name], ""] if name in NOTES else []
    best = [row.split(" | ")[1] for row in rows]
    counts = ", ".join(f"{method} in {best.count(method)}" for method in dict.fromkeys(best))
    lines += [f"Best of {len(rows)} settings: {counts}. *LogitOffset*: rivals over which redgrape-plus, at a tau chosen on held-out training"]
    lines += ["samples, has at least the head and at least the balanced accuracy.", ""]
    lines += ["| setting | best | " + " | ".join(COLUMNS) + " | logit_offset |", "|---|---|" + "---|" * (len(COLUMNS) + 1), *rows]
    (HERE / f"{name}.md").write_text("\n".join(lines) + "\n\n" + "\n\n".join(sections) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--npz", help="train_features, train_labels, test_features and test_labels of CIFAR-10-LT")
    parser.add_argument("--images", help="CIFAR-10 as an image folder or archive, with train and test")
    parser.add_argument("--hundred", help="Tiny ImageNet's 100 classes as an image folder or archive")
    parser.add_argument("--only", default="", help="make only tables whose name has this in it")
    parser.add_argument("--jobs", type=int, help="threads of a bench; all cores, if it is not given")
    parser.add_argument("--fresh", action="store_true", help="make tables again that are there")
    parser.add_argument("--write", action="store_true", help="make no table, write the pages")
    arguments = parser.parse_args()
    MADE.mkdir(parents=True, exist_ok=True)
    tables = wanted(arguments.npz, arguments.images, arguments.hundred)
    on_pages = {(name, title) for name in PAGES for title in written(name)[0]}
    for one in tables if not arguments.write else ():
        is_there = is_made(one) or (one["page"], one["title"]) in on_pages
        if arguments.only in one["name"] and (arguments.fresh or not is_there):
            make(one, arguments.jobs)
    for name in PAGES:
        page(name, [one for one in tables if one["page"] == name])


if __name__ == "__main__":
    main()
