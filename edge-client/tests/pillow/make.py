"""Makes the images beside this file, and `expected.json`: what Pillow turns each of them into.

    python3 edge-client/tests/pillow/make.py        (Pillow 12 or later, NumPy)

An image becomes pixels as the scripts in models/export make it: `ImageOps.exif_transpose`, `convert("RGB")` or
`convert("L")`, `resize(size, BILINEAR)`, across before down. Since version 13 Pillow itself goes down first where that
is less work, which changes single values by a level.
"""
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
EXIF_ORIENTATION = 0x0112


def picture(width, height, channels=3):
    """Slopes, edges and a little noise, u8 [height][width][channels]."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    slopes = x * (11 + 3 * c) + y * (7 - 2 * c) + 40 * c
    edges = 90 * (((x // 5) + (y // 4)) % 2)
    noise = np.random.default_rng(7).integers(0, 12, slopes.shape)
    return ((slopes + edges + noise) % 256).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, interlaced, data):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def rows(pixels):
    """Unfiltered scan lines of an array [height][width][..] in big-endian."""
    return b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)


def interlaced(pixels):
    """The seven passes of Adam7."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return b"".join(rows(pixels[top::down, left::right]) for top, left, down, right in passes
                    if pixels[top::down, left::right].size)


def oriented(orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def make():
    rgb = Image.fromarray(picture(13, 11))
    square = Image.fromarray(picture(64, 64))
    odd = Image.fromarray(picture(33, 17))
    grey = square.convert("L")
    rgba = Image.fromarray(picture(13, 11, 4))
    deep = picture(13, 11).astype(np.uint16) * 256 + picture(13, 11)[:, ::-1]
    rgb.save(HERE / "colour.png")
    grey.save(HERE / "grey.png")
    rgba.save(HERE / "colour-alpha.png")
    Image.fromarray(picture(13, 11, 2), "LA").save(HERE / "grey-alpha.png")
    (HERE / "colour-16.png").write_bytes(png(13, 11, 16, 2, 0, rows(deep)))
    (HERE / "grey-16.png").write_bytes(png(13, 11, 16, 0, 0, rows(deep[:, :, 0])))
    (HERE / "interlaced.png").write_bytes(png(33, 17, 8, 2, 1, interlaced(np.asarray(odd))))
    palette = square.quantize(23)
    palette.save(HERE / "palette.png")
    palette.save(HERE / "palette-alpha.png", transparency=3)
    square.convert("1").save(HERE / "one-bit.png")
    odd.save(HERE / "turned-3.png", exif=oriented(3))
    odd.save(HERE / "turned-6.png", exif=oriented(6))
    for orientation in (2, 4, 5, 6, 7, 8):
        odd.save(HERE / f"turned-{orientation}.jpg", quality=92, subsampling=0, exif=oriented(orientation))
    odd.save(HERE / "full-colour.jpg", quality=90, subsampling=0)
    odd.save(HERE / "half-colour.jpg", quality=90, subsampling=1)
    square.save(HERE / "quarter-colour.jpg", quality=90, subsampling=2)
    odd.save(HERE / "odd-quarter-colour.jpg", quality=90, subsampling=2)
    odd.save(HERE / "progressive.jpg", quality=90, progressive=True, subsampling=0)
    grey.save(HERE / "grey.jpg", quality=90)
    square.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)


def opened(path):
    """Upright. Pillow makes white of all 16-bit grey above 255; the upper byte is meant, as in its 16-bit colour."""
    image = ImageOps.exif_transpose(Image.open(path))
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode == "I;16" else image


def expected():
    cases = []
    for path in sorted([*HERE.glob("*.png"), *HERE.glob("*.jpg")]):
        for mode, size in (("RGB", (5, 4)), ("L", (8, 8)), ("RGB", (20, 12)), ("RGB", (64, 64))):
            image = opened(path).convert(mode)
            if size == (64, 64) and path.name != "quarter-colour.jpg":
                continue
            across = image.resize((size[0], image.height), Image.Resampling.BILINEAR)
            levels = np.asarray(across.resize(size, Image.Resampling.BILINEAR))
            cases.append({"file": path.name, "width": size[0], "height": size[1], "channels": len(image.getbands()),
                          "levels": bytes(levels.ravel()).hex()})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    make()
    expected()
