#!/usr/bin/env python3
"""Makes the frozen general extractor: `models/onnx/general.onnx`, and its manifest `general.toml`.

    general_extractor.py --data tiny-imagenet-public100.tar.gz

reads the images, trains (going on from the checkpoint if there is one), and writes both files. To do one step alone:

    general_extractor.py train  --data DIR    train to the end of the plan
    general_extractor.py export --data DIR    write the files from the checkpoint, also from one half-way
    general_extractor.py probe  --images DIR  accuracy of linear classifiers on the features of other images, in
                                              DIR/train/<class>/ and DIR/test/<class>/

The data are class folders of JPEG files, or an archive of them: the 100 public classes of Tiny ImageNet.
`models/onnx/general.md` tells what came out.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import general_export
import general_images
import general_probe
import general_training

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 40
SCRATCH = ROOT / "target" / "general-extractor"
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.step == "probe":
        probe(options)
        return
    images, labels, names = general_images.load(options.data, options.cache)
    pixel_scale = general_images.pixel_normalisation(images)
    print(f"{len(images)} images of {len(names)} classes", flush=True)
    if options.step in ("all", "train"):
        plan = general_training.Plan(options.epochs, options.seed)
        general_training.train(images, labels, len(names), pixel_scale, plan, options.checkpoint, options.resume)
    if options.step in ("all", "export"):
        network, plan, epoch = general_training.averaged_network(options.checkpoint)
        print(f"exporting the network of epoch {epoch} of {plan.epochs}", flush=True)
        general_training.recalibrate(network, images, pixel_scale)
        command = f"python3 models/export/general_extractor.py --epochs {plan.epochs} --seed {plan.seed}"
        general_export.export(network, images, labels, pixel_scale, command, options.out)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("step", nargs="?", choices=["all", "train", "export", "probe"], default="all")
    add("--data", type=Path, help="folder of class folders, or a .tar.gz of it")
    add("--out", type=Path, default=ROOT / "models" / "onnx" / "general.onnx", help="the ONNX file")
    add("--epochs", type=int, default=EPOCHS, help="passes over the images (default %(default)s)")
    add("--seed", type=int, default=1, help="of weights, order and variation (default %(default)s)")
    add("--checkpoint", type=Path, default=SCRATCH / "checkpoint.pt", help="written every epoch (default %(default)s)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the checkpoint")
    add("--cache", type=Path, default=SCRATCH / "images.npz", help="decoded images, 0.6 GB; delete it for other --data")
    add("--threads", type=int, default=1, help="of PyTorch; more only on an idle machine (default %(default)s)")
    add("--images", type=Path, help="for `probe`: the folder with train/ and test/")
    options = parser.parse_args()
    needed = "images" if options.step == "probe" else "data"
    if getattr(options, needed) is None:
        parser.error(f"--{needed} is missing")
    return options


def probe(options):
    """Prints the accuracy of linear discriminant analysis and of weighted ridge on the ONNX file's features."""
    content = options.out.read_bytes()
    pixel_scale = general_export.pixel_scale_of(options.out)
    parts = {}
    for part in ("train", "test"):
        images, labels = labelled_images(options.images / part)
        parts[part] = general_export.run_onnx(content, images, pixel_scale), labels
    features = *parts["train"], *parts["test"]
    print(f"{len(features[1])} training and {len(features[3])} test images, {features[0].shape[1]} features")
    print(f"LDA   {100 * general_probe.lda_accuracy(*features):.2f} %")
    print(f"ridge {100 * general_probe.ridge_accuracy(*features):.2f} %", flush=True)


def labelled_images(folder):
    """Images u8 [n][3][side][side] as a device resizes them, and class numbers [n], of class folders."""
    images, labels = [], []
    for number, name in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(path for path in name.rglob("*") if path.suffix.lower() in SUFFIXES):
            image = Image.open(file).convert("RGB")
            if image.size != (general_images.SIDE, general_images.SIDE):
                image = image.resize((general_images.SIDE, general_images.SIDE), Image.Resampling.BILINEAR)
            images.append(np.asarray(image).transpose(2, 0, 1))
            labels.append(number)
    return torch.from_numpy(np.stack(images)), np.array(labels)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"general_extractor.py: {error}") from error
