"""Tokenizers, image preprocessing, and tiny CLIP, DINO and ALIGN checkpoints with random weights, as transformers has
them. Images go through the PIL processors (`...Pil`), the reference for preprocessing.

Needs the tiny Stable Diffusion folders of the area `diffusion`, and PREFTUNE_SHARED for the photos and the emoji world.
"""
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import torch
from diffusion import MERGES, byte_symbols, randomise, store, write_json
from PIL import Image
from transformers import (
    AlignConfig,
    AlignModel,
    AutoTokenizer,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    EfficientNetImageProcessorPil,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

HERE = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ["PREFTUNE_SHARED"])
LONG = "a photo of a dog and the red cat on the beach, " * 8 + "the very end"
PROMPTS = [
    "a photo of a [V] dog on the beach",
    "",
    "   ",
    "  The\t\tred \n CAT  ",
    LONG,
    "wow! dogs!! (and 1234 cats), isn't it? I'll say they've; we'd 'tis",
    "naïve café — Ünïcödé ﬁne Straße İstanbul",
    "cafe\u0301 vs café",
    "一只红色的狗 in 北京",
    "🐶 a dog 👩‍👩‍👧‍👦 emoji ❤️",
    "half-open <|endoftext|> in the middle <|STARTOFTEXT|>",
    "x\u00a0y\u3000z\u200bq",
    "!",
    "dog" * 200,
    "# ~ `code` a_b @you $5.00 50% \\ / | ^ ü²½",
    "the DOG'S ball",
    "[PAD] [UNK] [CLS] unaffable [mask]",
    "مرحبا שלום привет",
]
STATES = [0, 1, 4, 5]  # the prompts whose embeddings are kept
PHOTOS = [f"{name}/00.jpg" for name in ["backpack", "berry_bowl", "can", "cat2", "dog6", "red_cartoon", "teapot", "vase"]]


def ids_of(tokenizer, length=None) -> list:
    kind = dict(padding="max_length", truncation=True, max_length=length)
    return [tokenizer(prompt, **kind).input_ids for prompt in PROMPTS]


def make_bert_tokenizer(folder: pathlib.Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "photo", "of", "un", "##aff", "##able", "red", "一", "北"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words += list(letters) + ["##" + letter for letter in letters + "0123456789"] + list("0123456789!?.,'()-[]@#%$")
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {
        "do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 64, "strip_accents": None,
        "tokenize_chinese_chars": True, "pad_token": "[PAD]"})


def make_tokens(out: pathlib.Path) -> None:
    shutil.rmtree(out / "tokenizer_json", ignore_errors=True)
    shutil.rmtree(out / "bert", ignore_errors=True)
    ids = {}
    for family in ["sd1", "sd2"]:
        folder = HERE / "diffusion" / family / "tokenizer"
        ids[f"diffusion/{family}/tokenizer"] = ids_of(CLIPTokenizer.from_pretrained(folder))
    # The same vocabulary in the one file that transformers writes now.
    CLIPTokenizer.from_pretrained(HERE / "diffusion/sd1/tokenizer").save_pretrained(out / "tokenizer_json")
    ids["encoders/tokenizer_json"] = ids_of(AutoTokenizer.from_pretrained(out / "tokenizer_json"))
    make_bert_tokenizer(out / "bert")
    ids["encoders/bert"] = ids_of(BertTokenizer.from_pretrained(out / "bert"))
    for name in ["tokenizer", "reward"]:
        ids[f"shared/{name}"] = ids_of(AutoTokenizer.from_pretrained(SHARED / "emoji-world-poc" / name), 16)
    rows = [f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(row) for row in value) + "\n]" for key, value in ids.items()]
    prompts = ",\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in PROMPTS)
    (out / "tokens.json").write_text("{\"prompts\": [\n" + prompts + "\n],\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


@torch.no_grad()
def make_prompts(out: pathlib.Path) -> None:
    """What a U-Net is conditioned on, by the rules of the diffusers pipelines."""
    tensors = {}
    prompts = [PROMPTS[index] for index in STATES]
    for family, suffixes in {"sd1": [""], "sd2": [""], "sdxl": ["", "_2"]}.items():
        folder = HERE / "diffusion" / family
        states = []
        for suffix in suffixes:
            tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}")
            kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
            model = kind.from_pretrained(folder / f"text_encoder{suffix}", dtype=torch.float32).eval()
            ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            output = model(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2] if family == "sdxl" else output.last_hidden_state)
            if suffix:
                tensors[f"{family}.pooled"] = output.text_embeds
        tensors[f"{family}.context"] = torch.cat(states, -1)
    store(tensors, out / "prompts.safetensors")


def make(out: pathlib.Path) -> None:
    make_tokens(out)
    make_prompts(out)
