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


def load_photo(name: str) -> Image.Image:
    return Image.open(SHARED / "dreambench/dataset" / name).convert("RGB")


def make_images(out: pathlib.Path) -> list:
    """Pieces of photos, stored as PNG so that no JPEG decoder is in the comparison."""
    (out / "images").mkdir(exist_ok=True)  # its LICENSE.md stays
    boxes = {"berry_bowl/00.jpg": (150, 120), "dog6/00.jpg": (97, 131), "teapot/00.jpg": (40, 40), "can/00.jpg": (31, 90)}
    images = []
    for number, (name, (width, height)) in enumerate(boxes.items()):
        photo = load_photo(name)
        left, top = (photo.width - width) // 2, (photo.height - height) // 2
        piece = photo.crop((left, top, left + width, top + height))
        piece.save(out / f"images/{number}.png", optimize=True)
        images.append(piece)
    return images


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()


PROCESSORS = {
    "clip224": (CLIPImageProcessorPil, dict()),
    "vit224": (ViTImageProcessorPil, dict(resample=3, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
    "align289": (EfficientNetImageProcessorPil, dict(
        do_center_crop=True, include_top=False, do_normalize=False, resample=2, rescale_factor=1 / 127.5,
        rescale_offset=True)),
    "clip_lanczos": (CLIPImageProcessorPil, dict(resample=1, size=50, crop_size={"height": 61, "width": 44})),
    "efficientnet": (EfficientNetImageProcessorPil, dict(size={"height": 41, "width": 33})),
    "raw": (ViTImageProcessorPil, dict(do_rescale=False, size=20)),
    "clip": (CLIPImageProcessorPil, dict(size={"shortest_edge": 48}, crop_size=48)),
    "dino": (ViTImageProcessorPil, dict(size=40)),
    "align": (EfficientNetImageProcessorPil, dict(
        do_center_crop=True, include_top=False, do_normalize=False, resample=2, rescale_factor=1 / 127.5,
        rescale_offset=True, size={"height": 46, "width": 46}, crop_size={"height": 37, "width": 37})),
}


def make_preprocessing(out: pathlib.Path, images: list) -> dict:
    """Samples before normalisation as digests, pixel values of the small ones as tensors."""
    processors, digests, tensors = {}, {}, {}
    for name, (kind, settings) in PROCESSORS.items():
        shutil.rmtree(out / name, ignore_errors=True)
        processors[name] = processor = kind(**settings)
        processor.save_pretrained(out / name)
        plain = kind(**{**settings, "do_rescale": False, "do_normalize": False, "include_top": False,
                        "rescale_offset": False})
        digests[name] = [digest(plain(image)["pixel_values"][0].transpose(1, 2, 0)) for image in images]
        digests[name + " photos"] = [digest(plain(load_photo(photo))["pixel_values"][0].transpose(1, 2, 0))
                                     for photo in PHOTOS]
        pixels = torch.stack([torch.tensor(processor(image)["pixel_values"][0], dtype=torch.float32) for image in images])
        tensors[name] = pixels[:, :, ::7, ::7]
    digests["photos"] = PHOTOS
    write_json(out / "preprocess.json", digests)
    store(tensors, out / "preprocess.safetensors")
    return processors


def unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def pixels_of(processor, images: list) -> torch.Tensor:
    return torch.from_numpy(np.stack([processor(image)["pixel_values"][0] for image in images])).float()


@torch.no_grad()
def make_clip(out: pathlib.Path, processor, images: list, photos: list) -> None:
    folder = out / "clip"
    text = dict(vocab_size=538, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=77, bos_token_id=536, eos_token_id=537, pad_token_id=537)
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=48,
                  patch_size=16)
    model = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)), 10, 1.5)
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"]:
        shutil.copy(HERE / "diffusion/sd1/tokenizer" / name, folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    inputs = tokenizer(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    tensors = {"texts": unit(model.get_text_features(**inputs).pooler_output)}
    for name, group in {"images": images, "photos": photos}.items():
        tensors[name] = unit(model.get_image_features(pixels_of(processor, group)).pooler_output)
    store(tensors, out / "clip.safetensors")
    model.half().save_pretrained(folder)


@torch.no_grad()
def make_dino(out: pathlib.Path, processor, images: list, photos: list) -> None:
    config = ViTConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=40,
                       patch_size=8)
    model = randomise(ViTModel(config), 20, 1.5)
    tensors = {}
    for name, group in {"images": images, "photos": photos}.items():
        tensors[name] = unit(model(pixels_of(processor, group)).last_hidden_state[:, 0])
    store(tensors, out / "dino.safetensors")
    model.half().save_pretrained(out / "dino")


@torch.no_grad()
def make_align(out: pathlib.Path, processor, images: list, photos: list) -> None:
    folder = out / "align"
    text = dict(vocab_size=len((out / "bert/vocab.txt").read_text(encoding="utf-8").splitlines()), hidden_size=24,
                intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=64)
    vision = dict(width_coefficient=0.25, depth_coefficient=1.1, kernel_sizes=[3, 3, 5, 5], in_channels=[32, 16, 24, 40],
                  out_channels=[16, 24, 40, 80], depthwise_padding=[5], strides=[1, 2, 2, 1],
                  num_block_repeats=[1, 2, 2, 1], expand_ratios=[1, 6, 6, 6], hidden_dim=64, image_size=37)
    model = randomise(AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=24)), 30, 2.0)
    # Statistics near those of the data, as in a trained model: with arbitrary ones activations grow to 1e5, the gates
    # become steps, and transformers differs from itself by 2e-5 between batches of one and of eight.
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    model.get_image_features(pixels_of(processor, photos))
    generator = torch.Generator().manual_seed(31)
    for norm in norms:
        norm.eval()
        for statistic in [norm.running_mean, norm.running_var]:
            statistic.copy_((statistic * (0.8 + 0.4 * torch.rand(statistic.shape, generator=generator))).half())
    for name in ["vocab.txt", "tokenizer_config.json"]:
        shutil.copy(out / "bert" / name, folder)
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
    tensors = {"texts": unit(model.get_text_features(**inputs).pooler_output)}
    for name, group in {"images": images, "photos": photos}.items():
        tensors[name] = unit(model.get_image_features(pixels_of(processor, group)).pooler_output)
    store(tensors, out / "align.safetensors")
    model.half().save_pretrained(folder)


@torch.no_grad()
def make_reward(out: pathlib.Path) -> None:
    """The CLIP of the emoji world: a word-level tokenizer and the legacy `eos_token_id`."""
    folder = SHARED / "emoji-world-poc"
    model = CLIPModel.from_pretrained(folder / "reward").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "reward")
    prompts = [prompt for prompt in PROMPTS if prompt.strip()]
    ids = tokenizer(prompts, padding="max_length", truncation=True, max_length=16, return_tensors="pt").input_ids
    images = [Image.open(folder / f"subjects/cup/0{number}.png").convert("RGB") for number in range(5)]
    pixels = pixels_of(CLIPImageProcessorPil.from_pretrained(folder / "reward"), images)
    store({"texts": unit(model.get_text_features(ids).pooler_output),
           "images": unit(model.get_image_features(pixels).pooler_output)}, out / "reward.safetensors")


def make(out: pathlib.Path) -> None:
    make_tokens(out)
    make_prompts(out)
    images = make_images(out)
    photos = [load_photo(name) for name in PHOTOS]
    processors = make_preprocessing(out, images)
    make_clip(out, processors["clip"], images, photos)
    make_dino(out, processors["dino"], images, photos)
    make_align(out, processors["align"], images, photos)
    make_reward(out)
