"""Small reference models of the presets' kinds, computed by transformers and open_clip.

    python goldens.py --out DIR [NAME ...]
    python goldens.py --list

For each variant two files: NAME.json (the source, its configuration, the names and shapes of its
parameters, what it stands for) and NAME.safetensors (inputs and outputs in f32, no weights). A
weight is a function of its name and shape (`drawn.py`), so whoever knows the names has the weights.
Models run in f64, whose rounding is far below that of the f32 that is stored.

The variants named `preprocess_*` are pictures instead: NAME.safetensors holds what the library
makes of the PNG files beside it.

Needs: pip install torch==2.15.0 torchvision==0.29.2 transformers==5.24.0 open_clip_torch==3.3.0 \
timm==1.0.31 pillow==13.0.0
"""

import argparse
import json
import math
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import open_clip
import PIL
import timm
import torch
import torchvision
import transformers
from open_clip.transform import image_transform
from PIL import Image
from safetensors.numpy import save_file
from timm.models import VisionTransformer, register_model

from drawn import BEGIN, END, drawn, noise
from drawn import sentences as rows

BATCH = 2
VARIANTS = {}


def variant(make):
    """Its docstring is the note in the JSON."""
    VARIANTS[make.__name__] = make
    return make


def note(name):
    return " ".join(VARIANTS[name].__doc__.split())


# ---- Weights ------------------------------------------------------------------------------


def filled(model, prefix):
    """The model in f64 with drawn weights. `state_dict` leaves out the buffers that are computed,
    such as the causal mask."""
    model = model.eval().double()
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.from_numpy(np.asarray(drawn(prefix + name, tuple(tensor.shape)))))
    return model


# ---- Inputs -------------------------------------------------------------------------------


def pictures(prefix, size, batch=BATCH):
    """Values that f32 holds, so that file and model see the same."""
    values = noise(prefix + "image", (batch, 3, size, size)).astype(np.float32)
    return torch.from_numpy(values).double()


def sentences(*args, **kwargs):
    return torch.tensor(rows(*args, **kwargs))


# ---- Running ------------------------------------------------------------------------------


def golden(source, config, prefix, model, inputs, outputs):
    parameters = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    facts = {"source": source, "prefix": prefix, **config, "parameters": parameters}
    return facts, {**{f"input.{name}": x for name, x in inputs.items()}, **outputs}


def versions(*modules):
    return {module.__name__: module.__version__.split("+")[0] for module in modules}


def run_hf(model, prefix, image, tokens):
    model = filled(model, prefix)
    out = model(input_ids=tokens, pixel_values=image, output_hidden_states=True)
    outputs = {
        "output.image_embeds": out.image_embeds,
        "output.text_embeds": out.text_embeds,
        "output.logits_per_image": out.logits_per_image,
    }
    for tower, tensors in [("vision", out.vision_model_output), ("text", out.text_model_output)]:
        outputs[f"{tower}.last"] = tensors.last_hidden_state
        for i, hidden in enumerate(tensors.hidden_states):
            outputs[f"{tower}.hidden.{i}"] = hidden
    config = {"config": json.loads(model.config.to_json_string())}
    inputs = {"tokens": tokens, "image": image}
    return golden(versions(transformers, torch), config, prefix, model, inputs, outputs)


def watched(blocks, tower, outputs):
    """Fills `{tower}.hidden.I`: what enters block I, and after the last what leaves it."""

    def before(i):
        return lambda _, args: outputs.__setitem__(f"{tower}.hidden.{i}", args[0])

    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(before(i))
    leave = lambda _, args, out: outputs.__setitem__(f"{tower}.hidden.{len(blocks)}", out)
    blocks[-1].register_forward_hook(leave)


def run_open_clip(model_cfg, prefix, image, tokens, extra=None):
    settings = dict(model_cfg)
    custom = settings.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = filled(kind(**settings), prefix)
    inside = {}
    visual, text = model.visual, model.text if custom else model
    if hasattr(visual, "trunk"):
        watched(visual.trunk.blocks, "vision", inside)
    elif hasattr(visual, "transformer"):
        watched(visual.transformer.resblocks, "vision", inside)
    else:
        keep = lambda _, args, out: inside.__setitem__("vision.layer4", out)
        visual.layer4.register_forward_hook(keep)
    watched(text.transformer.resblocks, "text", inside)
    outputs = {
        "output.image": model.encode_image(image),
        "output.text": model.encode_text(tokens),
        "output.logits_per_image": model.get_logits(image, tokens)[0],
        **inside,
    }
    source = versions(open_clip, *([timm] if hasattr(visual, "trunk") else []), torch)
    config = {"model_cfg": model_cfg, **(extra or {})}
    inputs = {"tokens": tokens, "image": image}
    return golden(source, config, prefix, model, inputs, outputs)


# ---- transformers -------------------------------------------------------------------------


def hf_config(kind, vision, text, **more):
    config = kind(vision_config=vision, text_config=text, **more)
    config._attn_implementation = "sdpa"
    return config


def hf_clip(prefix, act, end, tokens):
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3)
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    vision.update(image_size=18, patch_size=6, hidden_act=act, projection_dim=16)
    text.update(vocab_size=100, max_position_embeddings=12, hidden_act=act, projection_dim=16)
    text.update(bos_token_id=BEGIN, eos_token_id=end, pad_token_id=1)
    config = hf_config(transformers.CLIPConfig, vision, text, projection_dim=16)
    model = transformers.CLIPModel(config)
    return run_hf(model, prefix, pictures(prefix, 18), tokens)


@variant
def hf_clip_quick_gelu():
    """openai/clip-vit-*: quick_gelu; eos_token_id 2 in the file means that a sentence ends at
    its highest id, the first if there are several.
    """
    tokens = sentences(12, pad=END)
    return hf_clip("hfq.", "quick_gelu", 2, tokens)


@variant
def hf_clip_gelu():
    """laion/CLIP-ViT-* as converted: exact gelu; an eos_token_id other than 2 means the first
    place that holds it, here id 50 with higher ids before and behind it.
    """
    tokens = sentences(12, begin=BEGIN, end=50, pad=97)
    tokens[1, 3] = END
    return hf_clip("hfg.", "gelu", 50, tokens)


def siglip(prefix, vision=None, text=None):
    vision = {
        **dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4),
        **dict(image_size=18, patch_size=6),
        **(vision or {}),
    }
    text = {
        **dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4),
        **dict(vocab_size=100, max_position_embeddings=12),
        **dict(bos_token_id=BEGIN, eos_token_id=1, pad_token_id=1),
        **(text or {}),
    }
    model = transformers.SiglipModel(hf_config(transformers.SiglipConfig, vision, text))
    tokens = sentences(12, begin=7, end=1, pad=1)
    return run_hf(model, prefix, pictures(prefix, vision["image_size"]), tokens)


@variant
def siglip_hf():
    """google/siglip-*-patch16-*, google/siglip2-*-patch16-* of fixed resolution but giant-opt."""
    return siglip("sgh.")


@variant
def siglip_hf_remainder():
    """google/siglip-so400m-patch14-384: the picture is no multiple of the patch (384 = 27 * 14
    + 6), and the rows and columns left over are not seen. An mlp width that is no multiple of
    the width.
    """
    vision = dict(image_size=20, intermediate_size=119)
    return siglip("sgr.", vision, dict(intermediate_size=119))


@variant
def siglip_hf_projection():
    """google/siglip2-giant-opt-patch16-*: a text tower narrower than the vision tower,
    projection_size is the vision tower's width.
    """
    return siglip("sgp.", dict(hidden_size=48), dict(projection_size=48))


# ---- open_clip ----------------------------------------------------------------------------


def text_cfg(**more):
    return {"context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2, **more}


def vit_cfg(**more):
    return {"image_size": 18, "layers": 2, "width": 48, "head_width": 16, "patch_size": 6, **more}


@variant
def open_clip_vit_gelu():
    """ViT-B-32, ViT-B-32-256, ViT-B-16, ViT-B-16-plus-240, ViT-L-14, ViT-L-14-336 and the like
    without -quickgelu: exact gelu, heads of 64.
    """
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": text_cfg(),
    }
    return run_open_clip(cfg, "ocg.", pictures("ocg.", 16), sentences(12))


@variant
def open_clip_vit_quick_gelu():
    """ViT-*-quickgelu, and OpenAI's weights in open_clip's names."""
    cfg = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": vit_cfg(),
        "text_cfg": text_cfg(),
    }
    return run_open_clip(cfg, "ocq.", pictures("ocq.", 18), sentences(12))


@variant
def open_clip_vit_head_width():
    """ViT-H-14, ViT-H-14-378, ViT-g-14, ViT-bigG-14: heads that are not 64 wide, an mlp of
    floor(width * mlp_ratio), here 196.
    """
    vision = vit_cfg(width=40, head_width=10, mlp_ratio=4.9231)
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text_cfg(width=36, heads=3)}
    return run_open_clip(cfg, "och.", pictures("och.", 18), sentences(12))


@variant
def open_clip_vit_clipa():
    """ViT-{L,H,bigG}-14-CLIPA[-336]: no norm before the blocks, the mean of the patches (not of
    the class token), normed after; sentences unmasked, read at the last place.
    """
    vision = vit_cfg(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True)
    text = {
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        **text_cfg(pool_type="last", no_causal_mask=True),
    }
    cfg = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    return run_open_clip(cfg, "oca.", pictures("oca.", 18), sentences(12))


@variant
def open_clip_vit_eos():
    """ViT-{L,H,bigG}-14-worldwide*: a sentence ends at the first place that holds eos_id, which
    is not the highest id.
    """
    text = {"hf_tokenizer_name": "facebook/xlm-v-base", **text_cfg(pool_type="eos", eos_id=2)}
    cfg = {"embed_dim": 16, "vision_cfg": vit_cfg(), "text_cfg": text}
    tokens = sentences(12, begin=0, end=2, pad=1)
    tokens[0, -1] = 2
    return run_open_clip(cfg, "oce.", pictures("oce.", 18), tokens)


@variant
def open_clip_custom_text():
    """Any ViT preset made with force_custom_text: the text tower's names begin with text."""
    cfg = {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": vit_cfg(),
        "text_cfg": text_cfg(),
    }
    return run_open_clip(cfg, "occ.", pictures("occ.", 18), sentences(12))


def resnet(prefix, layers, width, quick, heads=None):
    vision = {"image_size": 64, "layers": layers, "width": width, "patch_size": None}
    cfg = {
        "embed_dim": 16,
        **({"quick_gelu": True} if quick else {}),
        "vision_cfg": {**vision, **(heads or {})},
        "text_cfg": text_cfg(),
    }
    image = pictures(prefix, 64, batch=1)
    return run_open_clip(cfg, prefix, image, sentences(12))


@variant
def open_clip_resnet_quick_gelu():
    """RN*-quickgelu and OpenAI's RN50, RN101, RN50x4, RN50x16, RN50x64: heads of 64."""
    return resnet("ocrq.", [2, 1, 2, 1], 8, True)


@variant
def open_clip_resnet_gelu():
    """RN* without -quickgelu: exact gelu in the text tower; a width that is no power of two."""
    return resnet("ocrg.", [1, 2, 1, 2], 10, False, {"head_width": 40})


# ---- SigLIP in open_clip ------------------------------------------------------------------


def trunk(name, **settings):
    """Makes `timm.create_model` know a small SigLIP trunk, and says what it is made of."""
    settings = {"class_token": False, "global_pool": "map", **settings}

    def build(pretrained, pretrained_cfg, pretrained_cfg_overlay, cache_dir=None, **more):
        return VisionTransformer(**{**settings, **more})

    build.__name__, build.__module__ = name, VisionTransformer.__module__
    register_model(build)
    return settings


def siglip_in_open_clip(prefix, embed_dim, vision, **text):
    name = f"vit_golden_{prefix[:-1]}"
    settings = trunk(name, **vision)
    vision = {
        "image_size": settings["img_size"],
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        **text_cfg(no_causal_mask=True, pool_type="last", norm_kwargs={"eps": 1e-6}),
        **text,
    }
    cfg = {
        "embed_dim": embed_dim,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    image, tokens = pictures(prefix, settings["img_size"]), sentences(12, begin=7, end=1, pad=1)
    return run_open_clip(cfg, prefix, image, tokens, {"timm_kwargs": settings})


SMALL = {"img_size": 18, "patch_size": 6, "embed_dim": 32, "depth": 2, "num_heads": 4}


@variant
def siglip_open_clip():
    """ViT-B-16-SigLIP*, ViT-L-16-SigLIP-*, ViT-SO400M-14-SigLIP*: exact gelu in both towers, where
    transformers has the tanh one for the same weights.
    """
    return siglip_in_open_clip("soc.", 32, SMALL, proj_bias=True)


@variant
def siglip_open_clip_tanh():
    """ViT-gopt-16-SigLIP2-*, and in the activations alone ViT-SO400M-16-SigLIP2-*,
    ViT-B-32-SigLIP2-256, ViT-L-16-SigLIP2-512: tanh gelu in both towers; the text tower narrower
    than the joint space, an mlp of floor(width * mlp_ratio), here 119.
    """
    vision = {**SMALL, "embed_dim": 48, "act_layer": "gelu_tanh"}
    more = {"mlp_ratio": 3.7362, "act_kwargs": {"approximate": "tanh"}, "proj_bias": True}
    return siglip_in_open_clip("sot.", 48, vision, **more)


@variant
def siglip_open_clip_mixed():
    """ViT-B-16-SigLIP2*, ViT-L-16-SigLIP2-{256,384}, ViT-SO400M-14-SigLIP2*: exact gelu in the
    vision tower, tanh in the text tower. The picture is no multiple of the patch, as in
    ViT-SO400M-14-SigLIP-384; mlp_ratio 3.7362 in both towers.
    """
    vision = {**SMALL, "img_size": 20, "mlp_ratio": 3.7362}
    more = {"mlp_ratio": 3.7362, "act_kwargs": {"approximate": "tanh"}, "proj_bias": True}
    return siglip_in_open_clip("som.", 32, vision, **more)


@variant
def siglip_open_clip_no_projection():
    """ViT-SO400M-16-SigLIP-i18n-256: no projection after the text tower; tanh gelu in vision."""
    vision = {**SMALL, "act_layer": "gelu_tanh"}
    return siglip_in_open_clip("son.", 32, vision, proj_type="none")


# ---- Preparation --------------------------------------------------------------------------

SIZE = 24
PICTURES = {"landscape": (63, 43), "portrait": (43, 60), "small": (13, 17)}


def picture(name):
    """A gradient under noise, as bytes [H, W, 3]."""
    width, height = PICTURES[name]
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(255, 0, height)[:, None, None]
    slope = np.concatenate([across + 0 * down, down + 0 * across, (across + down) / 2], axis=2)
    noisy = slope + 60 * noise(f"preprocess.{name}", (height, width, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def prepared(settings, source, prepare):
    outputs = {f"{name}.pixels": prepare(Image.fromarray(picture(name))) for name in PICTURES}
    facts = {"source": versions(*source), **settings}
    facts["pictures"] = {name: f"preprocess_{name}.png" for name in PICTURES}
    return facts, outputs


def by_transformers(kind, **settings):
    processor = kind(**settings)
    prepare = lambda image: processor(image, return_tensors="pt")["pixel_values"][0]
    config = {"preprocessor_config": json.loads(processor.to_json_string())}
    return prepared(config, [transformers, torchvision, PIL], prepare)


def by_open_clip(**preprocess_cfg):
    cfg = {
        "size": SIZE,
        "mode": "RGB",
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
        **preprocess_cfg,
    }
    options = {key: value for key, value in cfg.items() if key not in ("size", "mode")}
    transform = image_transform(cfg["size"], is_train=False, **options)
    source = [open_clip, torchvision, PIL]
    return prepared({"preprocess_cfg": cfg}, source, transform)


SQUARE = {"height": SIZE, "width": SIZE}


@variant
def preprocess_clip_hf():
    """CLIP on PIL: the longer edge is floored; a crop with an odd remainder begins at its floor."""
    size = {"size": {"shortest_edge": SIZE}, "crop_size": SQUARE}
    return by_transformers(transformers.CLIPImageProcessorPil, **size)


@variant
def preprocess_siglip_hf():
    """SigLIP on PIL: squashed, bicubic."""
    return by_transformers(transformers.SiglipImageProcessorPil, size=SQUARE)


@variant
def preprocess_siglip2_hf():
    """SigLIP 2 of fixed resolution on PIL: squashed, bilinear, where open_clip is bicubic."""
    return by_transformers(transformers.SiglipImageProcessorPil, size=SQUARE, resample=2)


@variant
def preprocess_shortest():
    """open_clip's default: the longer edge is floored; a crop with an odd remainder begins at
    half of it, rounded to the even side.
    """
    return by_open_clip()


@variant
def preprocess_squash():
    """open_clip for SigLIP and SigLIP 2: squashed, bicubic."""
    half = [0.5] * 3
    return by_open_clip(resize_mode="squash", mean=half, std=half)


@variant
def preprocess_squash_bilinear():
    """open_clip for CLIPA: squashed, bilinear."""
    mean, std = list(timm.data.IMAGENET_DEFAULT_MEAN), list(timm.data.IMAGENET_DEFAULT_STD)
    return by_open_clip(resize_mode="squash", interpolation="bilinear", mean=mean, std=std)


@variant
def preprocess_longest():
    """open_clip's letterbox: the shorter edge is rounded (half to even); with an odd rest the
    border right and below is one wider; the border is fill_color before the norm.
    """
    return by_open_clip(resize_mode="longest", fill_color=114)


# ---- Files --------------------------------------------------------------------------------


def stored(tensor):
    tensor = tensor.detach()
    whole = not tensor.is_floating_point()
    return np.ascontiguousarray(tensor.numpy() if whole else tensor.float().numpy())


def compact(value, depth=0):
    """JSON with a line for each entry but lists of numbers on one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    pad = " " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {compact(v, depth + 1)}" for key, v in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


def write(folder, name):
    facts, tensors = VARIANTS[name]()
    facts = {"note": note(name), **facts}
    (folder / f"{name}.json").write_text(compact(facts) + "\n")
    path = folder / f"{name}.safetensors"
    save_file({key: stored(tensor) for key, tensor in tensors.items()}, path)
    print(f"{name}: {len(tensors)} tensors, {path.stat().st_size / 1000:.1f} kB")


def main():
    docs = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=docs)
    parser.add_argument("names", nargs="*", metavar="NAME", help="variants to write, default all")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="folder to write into")
    parser.add_argument("--list", action="store_true", help="list the variants and what they are")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in VARIANTS]
    if unknown:
        parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    names = options.names or list(VARIANTS)
    if options.list:
        for name in names:
            print(f"{name}: {note(name)}")
    elif options.out is None:
        parser.error("--out DIR says where to write, --list what there is")
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        if any(name.startswith("preprocess_") for name in names):
            for name in PICTURES:
                Image.fromarray(picture(name)).save(options.out / f"preprocess_{name}.png")
        for name in names:
            write(options.out, name)


if __name__ == "__main__":
    main()
