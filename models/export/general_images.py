"""Images for the general extractor: read once into one array, then cut, resized and varied a batch at a time.

The data set is Tiny ImageNet (64x64, some of it grey): one folder for each class, JPEG files anywhere below it. A
`.tar.gz` of such folders does as well.
"""
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

STORED = 64
SIDE = 32
GREY = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)


def load(source, cache):
    """Images u8 [n][3][STORED][STORED], class numbers [n] and class names, in the order of their names."""
    cache = Path(cache)
    if not cache.exists():
        files = from_archive(source) if Path(source).is_file() else from_folder(source)
        named = sorted(files)
        if not named:
            raise ValueError(f"{source} holds no class folder with JPEG files; unpack Tiny ImageNet there")
        names = sorted({name for name, _, _ in named})
        number = {name: position for position, name in enumerate(names)}
        images = np.stack([decode(content) for _, _, content in named])
        labels = np.array([number[name] for name, _, _ in named])
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open(cache, "wb") as file:
            np.savez(file, images=images, labels=labels, names=np.array(names))
    stored = np.load(cache)
    return torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"]), [str(n) for n in stored["names"]]


def from_folder(source):
    """(class, file name, bytes) of every JPEG file below a class folder."""
    for path in Path(source).glob("*/**/*.JPEG"):
        yield path.relative_to(source).parts[0], path.name, path.read_bytes()


def from_archive(source):
    """The same out of a `.tar.gz`; the class is the part of the file name before the underscore."""
    with tarfile.open(source) as archive:
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and name.endswith(".JPEG") and "_" in name:
                yield name.split("_")[0], name, archive.extractfile(member).read()


def decode(content):
    """JPEG bytes to u8 [3][STORED][STORED]; grey becomes three equal channels."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.size != (STORED, STORED):
        image = image.resize((STORED, STORED), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def pixel_normalisation(images):
    """Mean and standard deviation of pixel / 255 for each channel, f32 of the six decimals in the manifest."""
    sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for part in images.split(2000):
        scaled = part.double() / 255.0
        sums += scaled.sum(dim=(0, 2, 3))
        squares += (scaled * scaled).sum(dim=(0, 2, 3))
    count = len(images) * STORED * STORED
    mean = sums / count
    std = (squares / count - mean * mean).sqrt()
    return [torch.tensor([float(f"{v:.6f}") for v in values], dtype=torch.float32) for values in (mean, std)]


def normalise(images, mean, std):
    """Values 0..255 [n][3][..] to what the extractor takes."""
    images = images.float() / 255.0
    return (images - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1)


def as_devices_see(images, side=SIDE):
    """Whole images resized as Pillow's BILINEAR does it and rounded to bytes, f32 0..255 [n][3][side][side]."""
    if images.shape[-1] == side:
        return images.float()
    count = len(images)
    zero, whole = torch.zeros(count), torch.full((count,), float(images.shape[-1]))
    weights = window(zero, whole, side, torch.ones(count), images.shape[-1])
    return resample(images.float(), weights, weights).round()


def vary(images, side, generator, least_area=0.25):
    """A random cut of each image with flip, brightness, contrast, colour and now and then grey, f32 0..255.

    The cut keeps `least_area` to 1 of the area and is averaged down, never sampled, so nothing aliases.
    """
    count = len(images)
    uniform = lambda low, high: torch.empty(count).uniform_(low, high, generator=generator)
    area, stretch = uniform(least_area, 1.0), uniform(-0.2877, 0.2877).exp()
    height = (STORED * (area / stretch).sqrt()).clamp(max=STORED)
    width = (STORED * (area * stretch).sqrt()).clamp(max=STORED)
    top, left = uniform(0, 1) * (STORED - height), uniform(0, 1) * (STORED - width)
    softness = uniform(0, 1)
    rows = window(top, height, side, softness)
    columns = window(left, width, side, softness)
    flipped = uniform(0, 1) < 0.5
    columns = torch.where(flipped[:, None, None], columns.flip(1), columns)
    return vary_colour(resample(images.float(), rows, columns), uniform)


def vary_colour(images, uniform):
    """Brightness, contrast and colour each by a factor of 0.6 to 1.4; one image in ten becomes grey."""
    factor = lambda: uniform(0.6, 1.4).reshape(-1, 1, 1, 1)
    grey = (images * GREY).sum(dim=1, keepdim=True)
    colour = factor() * (uniform(0, 1) >= 0.1).float().reshape(-1, 1, 1, 1)
    images = grey + (images - grey) * colour
    middle = grey.mean(dim=(2, 3), keepdim=True)
    return ((middle + (images - middle) * factor()) * factor()).clamp(0.0, 255.0)


def window(start, length, side, softness, stored=STORED):
    """Weights [n][side][stored] that average `length` pixels from `start` down to `side`.

    Softness 0 is the mean over each cell, softness 1 the triangle filter of Pillow's BILINEAR, between is a blend.
    """
    pixel = torch.arange(stored).reshape(1, 1, -1)
    step = (length / side).reshape(-1, 1, 1)
    low = start.reshape(-1, 1, 1) + torch.arange(side).reshape(1, -1, 1) * step
    cell = (torch.minimum(low + step, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0.0)
    reach = step.clamp(min=1.0)
    triangle = (1.0 - (pixel + 0.5 - low - step / 2).abs() / reach).clamp(min=0.0)
    blend = softness.reshape(-1, 1, 1)
    unit = lambda weights: weights / weights.sum(dim=2, keepdim=True)
    return (1.0 - blend) * unit(cell) + blend * unit(triangle)


def resample(images, rows, columns):
    """`rows` x image x `columns` transposed, for each image and channel."""
    return torch.matmul(torch.matmul(rows.unsqueeze(1), images), columns.unsqueeze(1).transpose(2, 3))
