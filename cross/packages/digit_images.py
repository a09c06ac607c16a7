"""Writes some of the shipped digits as images: FOLDER/<digit>/<number>.png, COUNT of each digit.

    python3 cross/packages/digit_images.py COUNT FOLDER
"""

import pathlib
import struct
import sys
import zlib

SIDE = 8
FILE = pathlib.Path(__file__).parents[2] / "simulator/data/digits.bin"
HEADER = len(b"GVDIGITS1\n") + 4 + 2


def chunk(kind: bytes, data: bytes) -> bytes:
    """One part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: bytes) -> bytes:
    """A grey image."""
    rows = b"".join(b"\0" + pixels[row * SIDE : (row + 1) * SIDE] for row in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def main() -> None:
    """See the head of this file."""
    most, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    data = FILE.read_bytes()
    (count,) = struct.unpack_from("<I", data, HEADER - 6)
    labels, pixels = data[HEADER : HEADER + count], data[HEADER + count :]
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        chosen = [index for index, label in enumerate(labels) if label == digit][:most]
        for index in chosen:
            image = png(pixels[index * SIDE * SIDE : (index + 1) * SIDE * SIDE])
            (folder / str(digit) / f"{index:04}.png").write_bytes(image)


main()
