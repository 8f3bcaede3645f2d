"""DINOv2 with registers, and a small DETRIS, as numbers to compare with.

    python detris.py --towers DIR --model DIR

Writes `golden.json` and `golden.safetensors` into each folder. A weight is a function of its name
and shape (`drawn.py`), so no file holds weights. Everything runs in f64 and is stored
as f32; what is drawn is an f32 value.

`--towers`: transformers' `Dinov2WithRegistersModel` at the size of its table of positions and at
two others, its embedding with positions resized at an offset too, and `CLIPTextModelWithProjection`.

`--model`: DETRIS (arXiv 2501.08580) written down here from its description, function by function,
over the canonical names of twinspan: two towers, both adapters, the head with its residual, the
loss and its gradients. Nothing of it is shared with the code it is compared with.

Needs: pip install torch==2.15.0 transformers==5.24.0 safetensors numpy
"""

import argparse
import json
import math
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.numpy import save_file

import drawn

def noise(name, shape):
    return torch.from_numpy(drawn.noise(name, shape))


def weight(name, shape):
    return torch.from_numpy(np.asarray(drawn.drawn(name, shape)))


def written(folder, note, tensors):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note = json.dumps(note, indent=1)
    (folder / "golden.json").write_text(note + "\n")
    save_file(
        {
            name: np.ascontiguousarray(
                t.detach().numpy().astype(np.uint32 if t.dtype == torch.int64 else np.float32)
            )
            for name, t in tensors.items()
        },
        folder / "golden.safetensors",
    )


# ---- Towers -------------------------------------------------------------------------------

DINO = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    mlp_ratio=3,
    image_size=24,
    patch_size=4,
    num_register_tokens=4,
)
WORDS = dict(
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=12,
    vocab_size=100,
    projection_dim=20,
    hidden_act="quick_gelu",
    bos_token_id=98,
    eos_token_id=99,
)
# The names of the files on the hub, which transformers renames when it reads them.
HUB = [
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
]


def hub(name):
    for here, there in HUB:
        name = name.replace(here, there)
    return name


def filled(model, prefix):
    model = model.eval().double()
    shapes = {}
    for name, tensor in model.state_dict().items():
        published = hub(name)
        shapes[published] = list(tensor.shape)
        tensor.copy_(weight(prefix + published, tuple(tensor.shape)))
    return model, shapes


def offset_positions(model, side, offset=0.1):
    """DINOv2's own resize, by a scale factor and without antialiasing."""
    table = model.embeddings.position_embeddings
    native = math.isqrt(table.shape[1] - 1)
    grid = table[:, 1:].reshape(1, native, native, -1).permute(0, 3, 1, 2)
    factor = (side + offset) / native
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    assert grid.shape[-2:] == (side, side)
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)], 1)


def towers(folder):
    vision, vision_shapes = filled(
        transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**DINO)),
        "dino.",
    )
    text, text_shapes = filled(
        transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**WORDS)), "clip."
    )
    tensors = {}
    with torch.no_grad():
        for size in (16, 24, 40):
            image = noise(f"image.{size}", (2, 3, size, size)).float().double()
            out = vision(image, output_hidden_states=True)
            for i, hidden in enumerate(out.hidden_states):
                if size == 24 or i == 0:
                    tensors[f"vision.{size}.hidden.{i}"] = hidden
            tensors[f"vision.{size}.last"] = out.last_hidden_state
            tensors[f"vision.{size}.class"] = out.pooler_output
        for size in (16, 40):
            side = size // DINO["patch_size"]
            tensors[f"vision.{size}.offset"] = offset_positions(vision, side)[0]
        tokens = torch.tensor(drawn.sentences(12, (6, 9)))
        tensors["tokens"] = tokens
        out = text(tokens)
        tensors["text.last"] = out.last_hidden_state
        tensors["text.pooled"] = out.text_embeds
    note = dict(
        source=f"transformers {transformers.__version__}, torch {torch.__version__}",
        vision=dict(config=DINO, parameters=vision_shapes),
        text=dict(config=WORDS, parameters=text_shapes),
    )
    written(folder, note, tensors)


# ---- DETRIS -------------------------------------------------------------------------------


class Model:
    """Parameters by twinspan's names, made when they are first asked for."""

    def __init__(self, training):
        self.parameters, self.training = {}, training

    def of(self, name, *shape):
        if name not in self.parameters:
            value = weight(name, shape)
            trained = name.split(".")[0] in ("head", "dense-aligner", "text-adapter")
            trained = trained and "running" not in name
            self.parameters[name] = value.requires_grad_(trained)
        return self.parameters[name]

    def linear(self, x, name, out, bias=True):
        weight = self.of(f"{name}.weight", out, x.shape[-1])
        return F.linear(x, weight, self.of(f"{name}.bias", out) if bias else None)

    def layer_norm(self, x, name, eps=1e-5):
        d = x.shape[-1]
        return F.layer_norm(x, (d,), self.of(f"{name}.weight", d), self.of(f"{name}.bias", d), eps)

    def batch_norm(self, x, name, eps=1e-5):
        d = x.shape[1]
        mean, var = self.of(f"{name}.running_mean", d), self.of(f"{name}.running_var", d)
        weight, bias = self.of(f"{name}.weight", d), self.of(f"{name}.bias", d)
        return F.batch_norm(
            x, mean.clone(), var.clone(), weight, bias, self.training, 0.1, eps
        )

    def attend(self, query, key, value, name, heads, hidden=None):
        """Multi-head attention from projected inputs to an output projection."""
        width = query.shape[-1]
        split = lambda t: t.unflatten(-1, (heads, -1)).transpose(1, 2)
        q = split(self.linear(query, f"{name}.query", width))
        k = split(self.linear(key, f"{name}.key", width))
        v = split(self.linear(value, f"{name}.value", width))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.linear(mixed, f"{name}.output", width)

    def conv(self, x, name, out, kernel, padding=0):
        weight = self.of(f"{name}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, padding=padding)

    # The adapters.

    def unit(self, x, name, out, kernel):
        shape = (out, x.shape[1]) + (kernel,) * (x.dim() - 2)
        weight, bias = self.of(f"{name}.conv.weight", *shape), self.of(f"{name}.conv.bias", out)
        convolve = F.conv2d if x.dim() == 4 else F.conv1d
        y = convolve(x, weight, bias, padding=kernel // 2)
        return self.batch_norm(y, f"{name}.norm", 1e-3).relu()

    def branches(self, m, name):
        d = m.shape[1]
        b1 = self.unit(m, f"{name}.branch1", d // 2, 1)
        b2 = self.unit(torch.cat([m, b1], 1), f"{name}.branch2.0", d // 16, 1)
        b2 = self.unit(b2, f"{name}.branch2.1", d // 4, 3)
        b3 = self.unit(torch.cat([m, b1, b2], 1), f"{name}.branch3.0", d // 16, 1)
        b3 = self.unit(b3, f"{name}.branch3.1", d // 4, 5)
        return torch.cat([b1, b2, b3], 1)

    def dense_aligner(self, x, words, name, dim, width, heads, special):
        narrow = self.linear(x, f"{name}.down", dim).relu()
        patches = narrow[:, special:]
        side = math.isqrt(patches.shape[1])
        m = patches.transpose(1, 2).unflatten(2, (side, side))
        y = (self.branches(m, name) + m).flatten(2).transpose(1, 2)
        query = self.linear(y, f"{name}.image", width)
        memory = self.linear(words, f"{name}.text", width)
        y = self.attend(query, memory, memory, f"{name}.attention", heads)
        y = self.linear(y, f"{name}.back", dim)
        y = torch.cat([narrow[:, :special], y], 1) + narrow
        return self.linear(y, f"{name}.up", x.shape[-1])

    def text_adapter(self, x, name, dim):
        narrow = self.linear(x, f"{name}.down", dim).relu()
        y = self.branches(narrow[:, 1:].transpose(1, 2), name).transpose(1, 2)
        y = torch.cat([narrow[:, :1], y], 1) + narrow
        return self.linear(y, f"{name}.up", x.shape[-1])


CONFIG = dict(
    vision=dict(layers=6, width=32, heads=4, mlp=64, patch=4, image_size=24, registers=4),
    text=dict(layers=4, width=24, heads=2, context=12, vocabulary=100, mlp=48),
    embed_dim=20,
    input_size=16,
    words=9,
    vision_blocks=[1, 3, 5],
    text_blocks=[1, 3],
    dim=32,
    attention_dim=16,
    attention_heads=4,
    text_dim=16,
    depths=[2, 4],
    width=16,
    layers=2,
    heads=4,
    ffn=24,
)


def vision_positions(model, c):
    side = c["image_size"] // c["patch"]
    to = CONFIG["input_size"] // c["patch"]
    table = model.of("vision.position", side * side + 1, c["width"])
    grid = table[1:].T.reshape(1, -1, side, side)
    factor = (to + 0.1) / side
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    assert grid.shape[-1] == to
    return torch.cat([table[:1], grid[0].flatten(1).T])


def block(model, x, name, c, activation, eps, scaled, hidden, beside):
    """One block; `beside` gives what is added to its MLP, from the stream and its norm."""
    normed = model.layer_norm(x, f"{name}.attention.norm", eps)
    y = model.attend(normed, normed, normed, f"{name}.attention", c["heads"], hidden)
    scale = lambda y, part: y * model.of(f"{name}.{part}.scale", c["width"]) if scaled else y
    x = x + scale(y, "attention")
    normed = model.layer_norm(x, f"{name}.mlp.norm", eps)
    y = activation(model.linear(normed, f"{name}.mlp.up", c["mlp"]))
    y = model.linear(y, f"{name}.mlp.down", c["width"])
    return x + scale(y + beside(x, normed), "mlp")


def text_tower(model, tokens):
    c = CONFIG["text"]
    table = model.of("text.token.weight", c["vocabulary"], c["width"])
    n = tokens.shape[1]
    x = table[tokens] + model.of("text.position", c["context"], c["width"])[:n]
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    quick_gelu = lambda x: x * torch.sigmoid(1.702 * x)
    for i in range(c["layers"]):
        name = f"text-adapter.text.blocks.{i}.mlp"
        adapted = i in CONFIG["text_blocks"]
        beside = lambda x, _: (
            0.2 * model.text_adapter(x, name, CONFIG["text_dim"]) if adapted else 0
        )
        x = block(model, x, f"text.blocks.{i}", c, quick_gelu, 1e-5, False, later, beside)
    words = model.layer_norm(x, "text.norm")
    state = words[torch.arange(len(tokens)), tokens.argmax(-1)]
    return words, model.linear(state, "text.joint", CONFIG["embed_dim"], bias=False)


def vision_tower(model, image, words):
    c = CONFIG["vision"]
    d, patch = c["width"], c["patch"]
    weight = model.of("vision.patch.weight", d, 3, patch, patch)
    x = F.conv2d(image, weight, model.of("vision.patch.bias", d), stride=patch)
    x = x.flatten(2).transpose(1, 2)
    batch = len(x)
    front = model.of("vision.class", d).expand(batch, 1, d)
    x = torch.cat([front, x], 1) + vision_positions(model, c)
    registers = model.of("vision.registers", c["registers"], d).expand(batch, -1, d)
    x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
    special = 1 + c["registers"]
    maps = []
    for i in range(c["layers"]):
        name = f"dense-aligner.vision.blocks.{i}.mlp"
        sizes = (CONFIG["dim"], CONFIG["attention_dim"], CONFIG["attention_heads"])
        adapted = i in CONFIG["vision_blocks"]
        beside = lambda _, normed: (
            0.2 * model.dense_aligner(normed, words, name, *sizes, special) if adapted else 0
        )
        x = block(model, x, f"vision.blocks.{i}", c, F.gelu, 1e-6, True, None, beside)
        if i in CONFIG["depths"]:
            maps.append(x)
    maps.append(model.layer_norm(x, "vision.norm_out", 1e-6))
    side = CONFIG["input_size"] // patch
    return [m[:, special:].transpose(1, 2).unflatten(2, (side, side)) for m in maps]


def neck(model, maps, state):
    width, heads = CONFIG["width"], CONFIG["heads"]
    normed = lambda x, name: model.batch_norm(x, f"{name}.norm").relu()
    sentence = model.linear(state, "head.neck.sentence", width)[:, None]
    gated = []
    for i, m in enumerate(maps):
        name = f"head.neck.maps.{i}"
        if i < 2:
            m = normed(model.conv(m, f"{name}.conv", width, 1), name)
        else:
            weight = model.of(f"{name}.conv.weight", m.shape[1], width, 1, 1)
            m = normed(F.conv_transpose2d(m, weight), name)
        pixels = m.flatten(2).transpose(1, 2)
        seen = model.attend(pixels, sentence, sentence, f"head.neck.gates.{i}", heads)
        gated.append((pixels * seen).transpose(1, 2).unflatten(2, m.shape[2:]))
    merged = torch.cat(gated, 1)
    merged = normed(model.conv(merged, "head.neck.merge.conv", width, 1), "head.neck.merge")
    batch, _, rows, columns = merged.shape
    x = torch.linspace(-1, 1, columns, dtype=torch.float64).expand(batch, 1, rows, columns)
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None].expand(batch, 1, rows, columns)
    placed = torch.cat([merged, x, y], 1)
    for i in range(2):
        name = f"head.neck.place.{i}"
        placed = normed(model.conv(placed, f"{name}.conv", width, 3, 1), name)
    return placed + merged


def sines(count, width):
    at = torch.arange(count, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * -(math.log(1e4) / width))
    return torch.stack([(at * rate).sin(), (at * rate).cos()], -1).flatten(1)


def decoder(model, m, words, hidden):
    width, heads = CONFIG["width"], CONFIG["heads"]
    rows, columns = m.shape[2:]
    right = sines(columns, width // 2).expand(rows, columns, -1)
    down = sines(rows, width // 2)[:, None].expand(rows, columns, -1)
    pos = torch.cat([right, down], -1).flatten(0, 1)
    keys = words + sines(words.shape[1], words.shape[2])
    v = m.flatten(2).transpose(1, 2)
    for i in range(CONFIG["layers"]):
        name = f"head.decoder.layers.{i}"
        here = f"{name}.self_attention"
        u = model.layer_norm(v, f"{here}.norm_in")
        u = model.attend(u + pos, u + pos, u, here, heads)
        v = v + model.layer_norm(u, f"{here}.norm_out")
        here = f"{name}.cross_attention"
        u = model.layer_norm(v, f"{here}.norm_in")
        u = model.attend(u + pos, keys, words, here, heads, hidden[:, None, None])
        v = v + model.layer_norm(u, f"{here}.norm_out")
        here = f"{name}.feed_forward"
        u = model.layer_norm(v, f"{here}.norm_in")
        u = model.linear(u, f"{here}.up", CONFIG["ffn"]).relu()
        v = v + model.linear(model.layer_norm(u, f"{here}.norm"), f"{here}.down", width)
    v = model.layer_norm(v, "head.decoder.norm")
    return v.transpose(1, 2).unflatten(2, (rows, columns))


def projector(model, m, state):
    width = CONFIG["width"]
    half = width // 2
    for i, out in enumerate((width, half)):
        m = F.interpolate(m, scale_factor=2, mode="bilinear")
        name = f"head.projector.refine.{i}"
        m = model.conv(m, f"{name}.conv", out, 3, 1)
        m = model.batch_norm(m, f"{name}.norm").relu()
    m = model.conv(m, "head.projector.output", half, 1)
    m = m + model.of("head.projector.output.bias", half)[:, None, None]
    made = model.linear(state, "head.projector.kernel", half * 9 + 1)
    logits = [
        F.conv2d(m[i : i + 1], made[i, :-1].reshape(1, half, 3, 3), made[i, -1:], padding=1)
        for i in range(len(m))
    ]
    return torch.cat(logits)


def detris(model, image, tokens):
    words, state = text_tower(model, tokens)
    maps = vision_tower(model, image, words)
    necked = neck(model, maps, state)
    decoded = decoder(model, necked, words, tokens == 0)
    logits = projector(model, decoded, state)
    parts = {f"vision.{i}": m for i, m in enumerate(maps)}
    return parts | dict(words=words, state=state, neck=necked, decoder=decoded, logits=logits)


def model(folder):
    size = CONFIG["input_size"]
    image = noise("image", (2, 3, size, size)).float().double()
    tokens = torch.tensor(drawn.sentences(CONFIG["words"], (6, 9)))
    # As large as the logits: nothing is resized.
    mask = (noise("mask", (2, 1, size, size)) > 0.2).double()
    tensors = {"input.tokens": tokens, "input.mask": mask}
    with torch.no_grad():
        for name, value in detris(Model(training=False), image, tokens).items():
            tensors[f"eval.{name}"] = value
    trained = Model(training=True)
    logits = detris(trained, image, tokens)["logits"]
    tensors["train.logits"] = logits
    loss = F.binary_cross_entropy_with_logits(logits, mask)
    loss.backward()
    gradients = {}
    for name, value in trained.parameters.items():
        if value.requires_grad:
            g = value.grad
            probe = (g * noise(f"probe.{name}", tuple(g.shape))).sum()
            gradients[name] = dict(norm=g.norm().item(), probe=probe.item())
    note = dict(
        source=f"examples/baselines/detris.py, torch {torch.__version__}",
        config=CONFIG,
        loss=loss.item(),
        gradients=gradients,
    )
    written(folder, note, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towers", help="folder for the numbers of transformers' towers")
    parser.add_argument("--model", help="folder for the numbers of a small DETRIS")
    args = parser.parse_args()
    if args.towers:
        towers(args.towers)
    if args.model:
        model(args.model)


if __name__ == "__main__":
    main()
