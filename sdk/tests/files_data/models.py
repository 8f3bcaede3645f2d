"""Writes traced.pt, scripted_f16.pt and parallel.pth: python models.py, with PyTorch 2.15.

Value i of a tensor is ((i + letters of its name) mod 64) / 4 - 8.
"""
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Attention(nn.Module):
    """The names of torch's, in fewer lines of TorchScript."""

    def __init__(self, width):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        query, key, value = (x @ self.in_proj_weight.T + self.in_proj_bias).chunk(3, -1)
        return self.out_proj(torch.softmax(query @ key.transpose(1, 2), -1) @ value)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict([
            ("c_fc", nn.Linear(width, 2 * width)),
            ("gelu", nn.GELU()),
            ("c_proj", nn.Linear(2 * width, width)),
        ]))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = nn.Sequential(Block(width))

    def forward(self, x):
        return self.resblocks(x)


class Vision(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 2, 2, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(5, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width)
        self.proj = nn.Parameter(torch.empty(width, 4))

    def forward(self, image):
        x = self.conv1(image).flatten(2).permute(0, 2, 1)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], 1) + self.positional_embedding
        return self.transformer(self.ln_pre(x))[:, 0] @ self.proj


class Clip(nn.Module):
    """The names of OpenAI's models; the sizes as buffers, or as plain numbers."""

    def __init__(self, width=8, buffers=True):
        super().__init__()
        self.visual = Vision(width)
        self.transformer = Transformer(width)
        self.token_embedding = nn.Embedding(11, width)
        self.positional_embedding = nn.Parameter(torch.empty(6, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, 4))
        self.logit_scale = nn.Parameter(torch.empty([]))
        for name, size in [("input_resolution", 4), ("context_length", 6), ("vocab_size", 11)]:
            if buffers:
                self.register_buffer(name, torch.tensor(size))
            else:
                setattr(self, name, size)
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if tensor.is_floating_point():
                    count = torch.arange(tensor.numel()) + len(name)
                    tensor.copy_((count % 64 / 4 - 8).reshape(tensor.shape))

    def forward(self, image, text):
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x))[:, -1] @ self.text_projection
        return self.logit_scale.exp() * self.visual(image) @ x.T


class Constant(Clip):
    """Of whose weights one is a constant of the code as well: a storage in two places."""

    def forward(self, image, text):
        return super().forward(image, text) + table.sum()


clip = Constant()
table = clip.visual.positional_embedding.data
inputs = (torch.zeros(1, 3, 4, 4), torch.zeros(1, 6, dtype=torch.int64))
torch.jit.trace(clip, inputs, check_trace=False).save(HERE / "traced.pt")
torch.jit.script(Clip(buffers=False).half()).save(HERE / "scripted_f16.pt")

parallel = {"module." + name: tensor for name, tensor in clip.visual.ln_pre.state_dict().items()}
torch.save(
    {"epoch": 3, "state_dict": parallel},
    HERE / "parallel.pth",
    _use_new_zipfile_serialization=False,
    pickle_protocol=4,
)
