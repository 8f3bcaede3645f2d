"""Do transformers and open_clip load what `twinspan merge` writes, and compute what the model did?

Makes small models with random weights as these libraries save them, trains adapters on each with
`twinspan train`, merges, and compares the vectors that the library computes over the merged file
with those that `twinspan embed --model` computes with the adapters beside the frozen weights. Files
are loaded strictly: a name too many or too few is an error.

    python examples/baselines/merged.py --twinspan target/debug/twinspan

Needs: pip install torch==2.15.0 transformers==5.24.0 open_clip_torch==3.3.0 pillow==13.0.0
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

SIDE = 64
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5] * 3, [0.5] * 3)
# Of one letter a word, so that a vocabulary without merges has them.
SENTENCES = ["a b c d", "e", "x y z"]

RECIPE = """
[backbone]
use = "{use}"
weights = "{weights}"
tokenizer = "bytes"
{extra}
[task]
use = "referring-segmentation"
words = 24
width = 32
layers = 1
heads = 2
ffn = 32

[train]
steps = 8
batch = 2
rate = 1e-2
"""


def clip_ids():
    """CLIP's ids of one-letter words: 256 bytes, the same at a word's end, begin, end; letters
    stand at their place among the printable bytes, which begin at `!`."""
    rows = []
    for sentence in SENTENCES:
        words = [256 + ord(letter) - ord("!") for letter in sentence.split()]
        row = [512, *words, 513]
        rows.append(row + [0] * (32 - len(row)))
    return torch.tensor(rows)


def siglip_ids():
    """The bytes behind three special ids; the end, which is the padding too."""
    rows = []
    for sentence in SENTENCES:
        row = [*(3 + byte for byte in sentence.encode()), 1]
        rows.append(row + [1] * (32 - len(row)))
    return torch.tensor(rows)


def pixels(paths, mean, std):
    pictures = [np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in paths]
    values = (np.stack(pictures) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


# ---- Models as the libraries save them ----------------------------------------------------


def hf_clip(folder):
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3)
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
    vision.update(image_size=SIDE, patch_size=8, projection_dim=24)
    text.update(vocab_size=514, max_position_embeddings=32, projection_dim=24)
    text.update(bos_token_id=512, eos_token_id=513, pad_token_id=1)
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    transformers.CLIPModel(config).save_pretrained(folder)


def hf_siglip(folder):
    sizes = dict(intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, hidden_size=32)
    vision = dict(sizes, image_size=SIDE, patch_size=8)
    text = dict(sizes, vocab_size=260, max_position_embeddings=32, projection_size=32)
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    transformers.SiglipModel(config).save_pretrained(folder)


def load_hf(folder, file):
    """A file in the place of the base's, beside its configuration."""
    file.replace(folder / "model.safetensors")
    model, said = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


def run_hf(model, image, tokens):
    out = model(input_ids=tokens, pixel_values=image)
    # These are of length 1.
    return out.image_embeds, out.text_embeds


TEXT = dict(context_length=32, vocab_size=514, width=32, heads=2, layers=3)
OPEN_CLIP = {
    "small-vit": dict(image_size=SIDE, patch_size=8, width=48, head_width=16, layers=3),
    "small-resnet": dict(image_size=SIDE, width=16, layers=[1, 1, 2, 1]),
    "small-custom": dict(image_size=SIDE, patch_size=8, width=48, head_width=16, layers=3),
}


def config_of(name):
    config = dict(embed_dim=24, vision_cfg=OPEN_CLIP[name], text_cfg=TEXT, quick_gelu=True)
    return dict(config, custom_text=True) if name == "small-custom" else config


def open_clip_base(name):
    def save(folder):
        folder.mkdir()
        (folder / f"{name}.json").write_text(json.dumps(config_of(name)))
        described = {"model_cfg": config_of(name), "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        open_clip.add_model_config(folder / f"{name}.json")
        model = open_clip.create_model(name)
        tensors = {key: t.contiguous().clone() for key, t in model.state_dict().items()}
        save_file(tensors, folder / "open_clip_model.safetensors")

    return save


def open_clip_load(name):
    return lambda _, file: open_clip.create_model(name, pretrained=str(file)).eval()


def run_open_clip(model, image, tokens):
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    return unit(model.encode_image(image)), unit(model.encode_text(tokens))


EVERY = "query,key,value,output,up,down"
VIT = f"lora[rank=4]@{EVERY} + lora[rank=2]@patch,token + unfreeze[roles=[\"bias\", \"position\"]]"
CONVOLUTIONS = "lora[rank=2]@conv1,conv2,conv3,query,value,token + unfreeze[roles=[\"norm\"]]"
TRIALS = [
    ("CLIPModel", "clip", "hf", VIT, hf_clip, load_hf, run_hf, clip_ids, CLIP),
    ("SiglipModel", "siglip", "hf", VIT, hf_siglip, load_hf, run_hf, siglip_ids, HALF),
]
for name in OPEN_CLIP:
    adapters = CONVOLUTIONS if "resnet" in name else VIT
    layout = "custom_text" if "custom" in name else "open_clip"
    load = open_clip_load(name)
    of_clip = open_clip_base(name), load, run_open_clip, clip_ids, CLIP
    TRIALS.append((f"open_clip {name}", "clip", layout, adapters, *of_clip))


# ---- The whole way ------------------------------------------------------------------------


def trial(program, work, data, name, use, layout, adapters, save, load, run, ids, colours):
    base, model = work / "base", work / "run"
    save(base)
    recipe = work / "recipe.toml"
    recipe.write_text(RECIPE.format(use=use, weights=base, extra=EXTRA.get(name, "")))
    program("train", recipe, "--data", data, "--out", model, "--adapters", adapters)
    file, vectors = work / "merged.safetensors", work / "vectors.safetensors"
    said = program("merge", "--model", model, "--out", file, "--layout", layout)
    print(f"$ {name}: twinspan merge --layout {layout}")
    print(said.replace(str(work), "WORK"), end="")
    paths = sorted((data / "images").rglob("*.*"))[:3]
    look = [f"--image={path}" for path in paths] + [f"--text={text}" for text in SENTENCES]
    program("embed", "--model", model, "--unit", "--out", vectors, *look)
    wanted = load_file(vectors)
    inputs = pixels(paths, *colours), ids()
    (own,) = base.glob("*.safetensors")
    with torch.no_grad():
        before, found = run(load(base, own), *inputs), run(load(base, file), *inputs)
    worst = 0.0
    for kind, bare, merged in zip(["image", "text"], before, found):
        moved, off = [np.abs(x.numpy() - wanted[kind]).max() for x in (bare, merged)]
        print(f"{kind:5} vectors: differ by {off:.1e} at most, those of the base by {moved:.1e}")
        assert moved > 1e-2, "the adapters changed nothing"
        worst = max(worst, off)
    print()
    return worst


# Lines of the recipe's backbone.
EXTRA = {"open_clip small-resnet": 'batch_norm = "train"'}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--twinspan", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    def program(*words):
        command = [arguments.twinspan, *map(str, words)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
        return ran.stdout

    torch.manual_seed(1)
    libraries = [torch, transformers, open_clip]
    print(", ".join(f"{m.__name__} {m.__version__.split('+')[0]}" for m in libraries), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        program("synth", "--out", data, "--images", 20, "--size", SIDE)
        offs = []
        for i, one in enumerate(TRIALS):
            work = pathlib.Path(folder) / str(i)
            work.mkdir()
            offs.append(trial(program, work, data, *one))
    assert max(offs) < 1e-5, offs
    print(f"{len(offs)} models: all differ by less than 1e-5")


if __name__ == "__main__":
    main()
