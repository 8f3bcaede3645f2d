"""The operations of `twinspan bench ops` in PyTorch: the same names, shapes and JSON.

    python ops.py [--filter NAME] [--json FILE] [--against FILE]

`--against` reads the JSON that twinspan wrote and prints how many times longer it took (below 1
it was faster), by the shortest times.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F


def heads(x, n):
    b, rows, width = x.shape
    return x.view(b, rows, n, width // n).transpose(1, 2)


def attention(n, causal):
    def call(t):
        q, k, v = (heads(x, n) for x in t)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return y.transpose(1, 2).reshape(t[0].shape)

    return call


def conv(stride, padding):
    return lambda t: F.conv2d(t[0], t[1], t[2], stride=stride, padding=padding)


def correlate(t):
    x, k, b = t
    n, c, h, w = x.shape
    y = F.conv2d(x.reshape(1, n * c, h, w), k, b, padding=1, groups=n)
    return y.transpose(0, 1)


def cases():
    """Name, shapes, how many arguments from the first get a gradient, call."""
    for n, k in [(768, 768), (3072, 768), (768, 3072)]:
        yield "linear_frozen", [[2708, k], [n], [n, k]], 1, lambda t: F.linear(t[0], t[2], t[1])
        yield "linear", [[2708, k], [n, k], [n]], 3, lambda t: F.linear(*t)
    yield "attention", [[4, 677, 768]] * 3, 3, attention(12, False)
    yield "attention causal", [[4, 17, 512]] * 3, 3, attention(8, True)
    norm = lambda t: F.layer_norm(t[0], t[1].shape, t[1], t[2])
    yield "layer_norm", [[4, 677, 768], [768], [768]], 3, norm
    yield "layer_norm frozen", [[4, 677, 768], [768], [768]], 1, norm
    yield (
        "batch_norm",
        [[4, 512, 26, 26]] + [[512]] * 4,
        3,
        lambda t: F.batch_norm(t[0], t[3].detach(), t[4].detach() ** 2, t[1], t[2]),
    )
    yield (
        "batch_norm_train",
        [[4, 512, 26, 26]] + [[512]] * 2,
        3,
        lambda t: F.batch_norm(t[0], None, None, t[1], t[2], training=True),
    )
    yield "conv2d", [[1, 512, 26, 26], [512, 512, 3, 3], [512]], 3, conv(1, 1)
    yield "conv2d", [[1, 512, 52, 52], [512, 512, 3, 3], [512]], 3, conv(1, 1)
    yield "conv2d", [[1, 512, 104, 104], [256, 512, 3, 3], [256]], 3, conv(1, 1)
    yield "conv2d patch embedding", [[1, 3, 416, 416], [768, 3, 16, 16], [768]], 3, conv(16, 0)
    yield "conv2d 1x1", [[1, 1536, 26, 26], [512, 1536, 1, 1], [512]], 3, conv(1, 0)
    yield (
        "conv_transpose2d",
        [[1, 256, 52, 52], [256, 128, 2, 2], [128]],
        3,
        lambda t: F.conv_transpose2d(t[0], t[1], t[2], stride=2),
    )
    yield "correlate_per_sample", [[4, 256, 104, 104], [4, 256, 3, 3], [4]], 3, correlate
    yield (
        "resize bilinear",
        [[1, 512, 26, 26]],
        1,
        lambda t: F.interpolate(t[0], (52, 52), mode="bilinear", align_corners=False),
    )
    yield (
        "resize bicubic",
        [[1, 1, 104, 104]],
        1,
        lambda t: F.interpolate(t[0], (416, 416), mode="bicubic", align_corners=True),
    )
    yield "avg_pool2d", [[1, 512, 52, 52]], 1, lambda t: F.avg_pool2d(t[0], 2)
    wide, tokens, masks = [4, 677, 3072], [4, 677, 768], [8, 1, 416, 416]
    yield "gelu", [wide], 1, lambda t: F.gelu(t[0])
    yield "gelu_tanh", [wide], 1, lambda t: F.gelu(t[0], approximate="tanh")
    yield "quick_gelu", [wide], 1, lambda t: t[0] * torch.sigmoid(1.702 * t[0])
    yield "relu", [wide], 1, lambda t: F.relu(t[0])
    yield "sigmoid", [tokens], 1, lambda t: torch.sigmoid(t[0])
    yield "tanh", [tokens], 1, lambda t: torch.tanh(t[0])
    yield "softmax", [[12, 677, 677]], 1, lambda t: F.softmax(t[0], -1)
    yield "dropout", [tokens], 1, lambda t: F.dropout(t[0], 0.1, training=True)
    yield (
        "bce_with_logits",
        [masks, masks],
        1,
        lambda t: F.binary_cross_entropy_with_logits(*t),
    )
    for other in [tokens, [768], [1, 677, 768], [4, 1, 768]]:
        yield "add", [tokens, other], 2, lambda t: t[0] + t[1]
        yield "mul", [tokens, other], 2, lambda t: t[0] * t[1]
    yield "mul", [[4, 512, 26, 26], [512, 1, 1]], 2, lambda t: t[0] * t[1]
    yield "concat", [tokens, [4, 16, 768]], 2, lambda t: torch.cat(t, 1)
    rows = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    yield "select", [tokens], 1, lambda t: t[0].index_select(0, rows)


def measure(f):
    f()
    times = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < 0.3 and len(times) < 100):
        start = time.perf_counter()
        f()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def run(pattern):
    for name, shapes, trained, call in cases():
        if pattern and pattern not in name:
            continue
        arguments = [torch.randn(s) for s in shapes]
        shape = json.dumps(shapes).replace(" ", "")

        def forward():
            with torch.no_grad():
                call(arguments)

        tracked = [t.clone().requires_grad_(i < trained) for i, t in enumerate(arguments)]

        def both():
            for t in tracked:
                t.grad = None
            y = call(tracked)
            y.backward(torch.ones_like(y))

        for label, f in [("forward", forward), ("forward+backward", both)]:
            times = measure(f)
            yield {
                "name": name,
                "shape": shape,
                "pass": label,
                "milliseconds_median": statistics.median(times),
                "milliseconds_best": min(times),
                "repeats": len(times),
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter")
    parser.add_argument("--json", help="write the timings here")
    parser.add_argument("--against", help="timings that twinspan wrote")
    options = parser.parse_args()
    torch.set_num_threads(2)
    timings = list(run(options.filter))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(timings, file, indent=1)
    key = lambda t: (t["name"], t["shape"], t["pass"])
    ours = {}
    if options.against:
        with open(options.against) as file:
            ours = {key(t): t for t in json.load(file)}
    for t in timings:
        line = f"{t['name']:24}{t['pass']:18}{t['milliseconds_best']:9.3f}"
        if key(t) in ours:
            own = ours[key(t)]["milliseconds_best"]
            line += f"{own:9.3f}{own / t['milliseconds_best']:7.2f}"
        print(line, t["shape"])


if __name__ == "__main__":
    main()
