"""Makes the images beside this file, and `expected.json`: what Pillow turns each of them into.

    python3 vision/tests/pillow/make.py        (NumPy, and Pillow as in models/export/requirements.txt)

An image becomes pixels as the scripts in models/export make it: `ImageOps.exif_transpose`, `convert("RGB")` or
`convert("L")`, `resize(size, BILINEAR)`. Since version 13 Pillow resizes an image down before across where its height
shrinks by more than twice as many pixels as its width, which changes single values by a level; before, it always went
across first.
"""
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

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


def packet(orientation):
    """An XMP packet that says nothing else."""
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
            f'</rdf:RDF></x:xmpmeta>')


def profile(orientation):
    """Exif data as ImageMagick and older programs put them into a PNG file."""
    content = oriented(orientation).tobytes()
    return f"\nexif\n{len(content):8}\n{content.hex()}\n"


def with_text(image, path, keyword, text, kind):
    info = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        info.add_itxt(keyword, text)
    else:
        info.add_text(keyword, text, zip=kind == "zTXt")
    image.save(path, pnginfo=info)


def make_turned(odd):
    odd.save(HERE / "turned-3.png", exif=oriented(3))
    odd.save(HERE / "turned-6.png", exif=oriented(6))
    for orientation in (2, 4, 5, 6, 7, 8):
        odd.save(HERE / f"turned-{orientation}.jpg", quality=92, subsampling=0, exif=oriented(orientation))
    odd.save(HERE / "turned-xmp-6.jpg", quality=92, subsampling=0, xmp=packet(6).encode())
    # Exif goes before XMP, also where it says that nothing is to be turned.
    odd.save(HERE / "turned-both.jpg", quality=92, subsampling=0, xmp=packet(6).encode(), exif=oriented(1))
    with_text(odd, HERE / "turned-xmp-8.png", "XML:com.adobe.xmp", packet(8), "iTXt")
    with_text(odd, HERE / "turned-profile-6.png", "Raw profile type exif", profile(6), "tEXt")
    with_text(odd, HERE / "turned-profile-5.png", "Raw profile type exif", profile(5), "zTXt")
    # Behind the pixels, where programs put what they add.
    with_text(odd, HERE / "turned-late-3.png", "Raw profile type exif", profile(3), "tEXt")
    late = (HERE / "turned-late-3.png").read_bytes()
    start = late.index(b"tEXt") - 4
    end = start + 12 + int.from_bytes(late[start:start + 4], "big")
    (HERE / "turned-late-3.png").write_bytes(late[:start] + late[end:-12] + late[start:end] + late[-12:])


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
    make_turned(odd)
    Image.fromarray(picture(8, 32)).save(HERE / "tall.png")
    Image.fromarray(picture(3, 600)).convert("L").save(HERE / "tallest.png")
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
            levels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
            cases.append({"file": path.name, "width": size[0], "height": size[1], "channels": len(image.getbands()),
                          "levels": bytes(levels.ravel()).hex()})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    make()
    expected()
