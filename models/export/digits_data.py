#!/usr/bin/env python3
"""Writes the digits data set that the demo runs on: `simulator/data/digits.bin` and its licence note.

The 1,797 images of scikit-learn's `load_digits`: the test part of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), 8x8 grey, values 0..16.

Format of `digits.bin`, in this order:
    magic   10 bytes  `GVDIGITS1` and a line feed
    count   u32, little endian
    height  u8 = 8
    width   u8 = 8
    labels  count bytes, 0..9
    pixels  count * height * width bytes, row by row, round(value * 255 / 16)

The split, the same wherever these images are used: the last 50 images of each class in file order are the test set
(500 images, balanced); all others are the training pool.
"""
import hashlib
import struct
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "simulator" / "data" / "digits.bin"
MAGIC = b"GVDIGITS1\n"
CLASSES = 10
TEST_PER_CLASS = 50

LICENCE = """# digits.bin

Optical Recognition of Handwritten Digits, by E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
<https://doi.org/10.24432/C50P49>, licensed under the Creative Commons Attribution 4.0 International licence
(CC BY 4.0, <https://creativecommons.org/licenses/by/4.0/>).

Obtained through scikit-learn (`sklearn.datasets.load_digits`): the 1,797 images of the set's test part, 8x8 pixels.
Changed: pixel values 0..16 are scaled to 0..255 and stored as bytes in one file; labels and order are as given.
`models/export/digits_data.py` writes the file and describes its format.

SHA-256 of `digits.bin`: `{digest}`
"""


def main():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images, digits.target
    count, height, width = images.shape
    pixels = np.floor(images * 255.0 / 16.0 + 0.5).astype(np.uint8)
    header = MAGIC + struct.pack("<IBB", count, height, width)
    content = header + labels.astype(np.uint8).tobytes() + pixels.tobytes()
    DATA.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    DATA.with_name("digits.LICENSE.md").write_text(LICENCE.format(digest=digest), encoding="utf-8")
    print(f"{DATA.name}: {count} images, {len(content)} bytes, sha256 {digest}")


def load(path=DATA):
    """Images [n][8][8] in 0..255 and labels [n] from the file, checked."""
    content = Path(path).read_bytes()
    start = len(MAGIC) + 6
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a digits file; run digits_data.py")
    count, height, width = struct.unpack("<IBB", content[len(MAGIC) : start])
    if len(content) != start + count * (1 + height * width):
        raise ValueError(f"{path} has the wrong length; run digits_data.py")
    labels = np.frombuffer(content, np.uint8, count, start)
    pixels = np.frombuffer(content, np.uint8, count * height * width, start + count)
    return pixels.reshape(count, height, width), labels


def split(labels):
    """Indices of the training pool and of the test set: the last 50 of each class in file order."""
    test = np.sort(np.concatenate([np.flatnonzero(labels == c)[-TEST_PER_CLASS:] for c in range(CLASSES)]))
    return np.setdiff1d(np.arange(len(labels)), test), test


if __name__ == "__main__":
    main()
