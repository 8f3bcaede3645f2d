"""What the reference models of this folder are fed: weights that are functions of their names and
shapes, and sentences. Needs numpy alone."""

import math

import numpy as np

BEGIN, END = 98, 99


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def noise(name, shape):
    """Values in [-1, 1) that depend on the name alone, f64."""
    count = math.prod(shape)
    z = np.uint64(fnv1a64(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) / 2**24 * 2 - 1).reshape(shape)


def drawn(name, shape):
    """The weight `name`: an f32 value, held in f64."""
    v, last = noise(name, shape), name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        value = np.zeros(shape)
    elif last == "running_var":
        value = 1 + 0.5 * v
    elif last == "running_mean":
        value = 0.1 * v
    elif last == "logit_scale":
        value = np.full(shape, math.log(1 / 0.07))
    elif last == "bias" or last.endswith("_bias") or last == "class_embedding":
        value = 0.1 * v
    elif len(shape) <= 1:
        value = 1 + 0.1 * v
    else:
        value = v * math.sqrt(3 / math.prod(shape[1:]))
    return value.astype(np.float32).astype(np.float64)


def sentences(context, lengths=(5, 9), begin=BEGIN, end=END, pad=0, below=90):
    """Begin, some words, end, padding, as rows of ids. Word ids lie under `below`."""
    rows = []
    for n, length in enumerate(lengths):
        words = [(17 * i + 41 * n + 3) % (below - 1) + 1 for i in range(length - 2)]
        rows.append([begin, *words, end] + [pad] * (context - length))
    return rows
