"""Writes cases.json and expected.png beside this file: what Pillow and
torchvision's rules make of pictures of a formula, for tests/prepare.rs.

    python3 tasks/tests/data/prepare/make.py    # needs numpy and Pillow < 13

Pillow 13 resizes downwards first where a picture shrinks more in height;
published encoders were trained with the order of the versions before.
"""
import json
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
SIZES = [(61, 43), (43, 61), (16, 16), (1, 1), (1, 50), (50, 1), (3, 300), (300, 3), (17, 16),
         (16, 17), (18, 16), (19, 16), (16, 21), (16, 23), (7, 5), (5, 7), (120, 33), (33, 120)]


def picture(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint32)
    mixed = (x * 73856093) ^ (y * 19349663) ^ (c * 83492791)
    return Image.fromarray(((mixed >> 7) & 255).astype(np.uint8))


def crop(image, size, resampling):
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    width, height = (size, longer) if width <= height else (longer, size)
    image = image.resize((width, height), resampling)
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def squash(image, size, resampling):
    return image.resize((size, size), resampling)


cases, expected = [], []
for number, (width, height) in enumerate(SIZES):
    size = 16 if number % 3 else 15
    for fit in (crop, squash):
        for resampling, kind in FILTERS.items():
            cases.append(dict(width=width, height=height, size=size, fit=fit.__name__,
                              resampling=resampling))
            expected.append(np.asarray(fit(picture(width, height), size, kind)).reshape(-1))

folder = Path(__file__).parent
lines = ",\n".join(json.dumps(case) for case in cases)
(folder / "cases.json").write_text(f"[\n{lines}\n]\n")
flat = np.concatenate(expected)
flat = np.pad(flat, (0, -len(flat) % 256)).reshape(-1, 256)
Image.fromarray(flat).save(folder / "expected.png", optimize=True)
