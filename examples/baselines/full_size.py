"""The whole way from files to numbers at released sizes, against transformers.

Makes a CLIP ViT-B/32 and a SigLIP base with drawn weights, saves them as the hub has them, and
compares what `twinspan check --json` computes for pictures and sentences with what transformers
computes: names, tokenizer, preparation of pictures, towers, scale and bias. (The published values
beside them are of the released weights, so `check` itself says that they differ.)

    python examples/baselines/full_size.py --twinspan target/release/twinspan --pictures FOLDER \\
        --clip-vocabulary FOLDER --siglip-tokenizer FOLDER

FOLDER of pictures: 000000039769.png and franz-kafka.jpg, see `twinspan check --help`; vocabulary:
vocab.json and merges.txt; tokenizer: SigLIP's tokenizer.json and its configuration. Needs torch,
transformers, pillow (< 13 for equal bytes), 2 GB of memory and of disk.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile

import tokenizers
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

CAT = ["a photo of a cat", "a photo of a dog"]
MAN = ["a photo of a man", "a photo of a woman"]
TWO = ["a photo of 2 cats", "a photo of 2 dogs"]
CLIP_PICTURES = {
    "crop_size": 224,
    "do_center_crop": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def drawn(model):
    """Biases away from zero, so that a lost one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" not in name and "logit" not in name:
                parameter.normal_(0, 0.02)
    return model.eval()


def opened(path, processor):
    return processor(Image.open(path).convert("RGB"), return_tensors="pt").pixel_values


def clip(folder, pictures, vocabulary):
    model = drawn(CLIPModel(CLIPConfig()))
    model.save_pretrained(folder)
    for name in ["vocab.json", "merges.txt"]:
        shutil.copy(vocabulary / name, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP_PICTURES))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)

    def outputs(pixels, texts):
        return model(pixel_values=pixels, **tokenizer(texts, padding=True, return_tensors="pt"))

    grey = torch.full((2, 3, 224, 224), 0.25)
    grey[1] = 0.75
    kafka = opened(pictures / "franz-kafka.jpg", processor)
    return {
        'logits of 000000039769.png with "a photo of a cat", "a photo of a dog"': outputs(
            opened(pictures / "000000039769.png", processor), CAT
        ).logits_per_image,
        'logits of inputs of [0.25, 0.75] with "a photo of a cat", "a photo of a dog"': outputs(
            grey, CAT
        ).logits_per_text,
        'logits of franz-kafka.jpg with "a photo of a man", "a photo of a woman"': outputs(
            kafka, MAN
        ).logits_per_image,
    }


def siglip(folder, pictures, source):
    model = drawn(SiglipModel(SiglipConfig()))
    model.save_pretrained(folder)
    for name in ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]:
        shutil.copy(source / name, folder)
    # The ids of both sentences as the released tokenizer gives them, padded with its end.
    encode = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json")).encode
    ids = torch.tensor([(encode(text).ids + [1] * 64)[:64] for text in TWO])
    pixels = opened(pictures / "000000039769.png", SiglipImageProcessorPil())
    logits = model(pixel_values=pixels, input_ids=ids).logits_per_image
    return {'logits of 000000039769.png with "a photo of 2 cats", "a photo of 2 dogs"': logits}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--twinspan", type=pathlib.Path, required=True)
    parser.add_argument("--pictures", type=pathlib.Path, required=True)
    parser.add_argument("--clip-vocabulary", type=pathlib.Path)
    parser.add_argument("--siglip-tokenizer", type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    makers = [(clip, args.clip_vocabulary), (siglip, args.siglip_tokenizer)]
    for make, vocabulary in makers:
        if vocabulary is None:
            continue
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            folder = pathlib.Path(name)
            wanted = make(folder, args.pictures, vocabulary)
            command = [args.twinspan, "check", "--weights", folder, "--pictures", args.pictures]
            said = subprocess.run([*command, "--json"], capture_output=True, text=True)
            rows = {row["what"]: row["got"] for row in json.loads(said.stdout)}
            for what, values in wanted.items():
                values = values.flatten().tolist()
                far = max(abs(a - b) for a, b in zip(values, rows[what], strict=True))
                print(f"{make.__name__}: {what}: {values}, largest difference {far:.1e}")


if __name__ == "__main__":
    main()
