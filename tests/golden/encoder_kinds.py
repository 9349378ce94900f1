"""Tiny SigLIP, SigLIP 2, DINOv2, DINOv3 and OpenCLIP models with random weights, as transformers and open_clip have them.

Each is a folder (of HPSv2's kind a file) beside a safetensors file of its vectors: of the prompts of the area `encoders`, of
its pieces of photos, and of the photos. `tokens.json` has the ids of the tokenizers, `pixels.safetensors` what the image
processors make of the pieces. Needs the area `encoders`, and PREFTUNE_SHARED for the photos.
"""
import gzip
import json
import pathlib
import shutil

import open_clip
import sentencepiece
import tokenizers
import torch
from diffusion import MERGES, randomise, store, write_json
from encoders import PHOTOS, PROMPTS, load_photo, pixels_of, unit
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

HERE = pathlib.Path(__file__).resolve().parent
MENDED = ["it’s a “red” dog", "the ﬂat oﬃce", "salt &amp; pepper", "5 &lt; 6 &quot;so&quot;", "rock ‘n’ roll — now"]
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


class Pictures:
    def __init__(self) -> None:
        self.pieces = [Image.open(HERE / f"encoders/images/{number}.png").convert("RGB") for number in range(4)]
        self.photos = [load_photo(name) for name in PHOTOS]
        self.pixels = {}

    def vectors(self, name: str, pixels_of_all, features) -> dict:
        """Vectors of both groups; every seventh pixel of the pieces is kept."""
        pixels = {"images": pixels_of_all(self.pieces), "photos": pixels_of_all(self.photos)}
        self.pixels[name] = pixels["images"][:, :, ::7, ::7]
        return {group: unit(features(batch)) for group, batch in pixels.items()}


def fresh(folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@torch.no_grad()
def make_dinos(out: pathlib.Path, pictures: Pictures) -> None:
    sizes = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3)
    # The published models have positions for 518 pixels and see 224 of them.
    v2 = dict(sizes, image_size=42, patch_size=6)
    v3 = dict(sizes, hidden_size=48, intermediate_size=60, num_register_tokens=3, image_size=40, patch_size=8)
    bit = BitImageProcessorPil(size={"shortest_edge": 45}, crop_size={"height": 38, "width": 38}, resample=3, **IMAGENET)
    numbers = DINOv3ViTImageProcessor(size={"height": 40, "width": 40})
    kinds = {
        "dino2": (Dinov2Model, Dinov2Config(**v2), bit),
        "dino2_gated": (Dinov2Model, Dinov2Config(**v2, use_swiglu_ffn=True), bit),
        "dino2_registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**v2, num_register_tokens=3), bit),
        "dino3": (DINOv3ViTModel, DINOv3ViTConfig(**v3), numbers),
        "dino3_gated": (DINOv3ViTModel, DINOv3ViTConfig(**v3, use_gated_mlp=True, hidden_act="silu", key_bias=True), numbers),
    }
    for number, (name, (kind, config, processor)) in enumerate(kinds.items()):
        folder = fresh(out / name)
        model = randomise(kind(config), 40 + number, 1.5)
        tensors = pictures.vectors(name, lambda images: pixels_of(processor, images),
                                   lambda pixels: model(pixels).last_hidden_state[:, 0])
        store(tensors, out / f"{name}.safetensors")
        processor.save_pretrained(folder)
        model.half().save_pretrained(folder)


def train_pieces(folder: pathlib.Path) -> None:
    """A unigram model as T5 has them, which SigLIP took over; `tokenizer.json` beside it says the same."""
    text = folder / "text.txt"
    text.write_text("\n".join([prompt for prompt in PROMPTS if prompt.strip()] + ["a red dog", "the cat on the beach"] * 20).lower())
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=150, model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, normalization_rule_name="identity", hard_vocab_limit=False, num_threads=1, minloglevel=2)
    text.unlink()
    (folder / "spiece.vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    pieces = [(model.id_to_piece(index), model.get_score(index)) for index in range(model.get_piece_size())]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2, byte_fallback=False))
    fast.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    fast.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "model_max_length": 64, "pad_token": "</s>", "eos_token": "</s>",
        "unk_token": "<unk>", "model_input_names": ["input_ids"]})


def make_gemma(folder: pathlib.Path) -> PreTrainedTokenizerFast:
    """Byte-fallback BPE as Gemma has it, in small letters for SigLIP 2; the file does not know of the small letters."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = sorted(set("".join(PROMPTS[:6]).lower().replace(" ", "▁")) | set("▁abcdefghijklmnopqrstuvwxyz"))
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("d", "o"), ("do", "g"), ("▁", "dog"), ("▁", "a"), ("p", "h")]
    words = special + [f"<0x{byte:02X}>" for byte in range(256)] + letters + ["".join(merge) for merge in merges]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    normalizers = tokenizers.normalizers

    def build(*first) -> tokenizers.Tokenizer:
        model = tokenizers.models.BPE(vocab=vocab, merges=merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True)
        built = tokenizers.Tokenizer(model)
        built.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
        built.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", behavior="merged_with_previous")
        built.post_processor = tokenizers.processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
        return built

    build().save(str(folder / "tokenizer.json"))
    named = dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>", mask_token="<mask>")
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "GemmaTokenizer", "model_max_length": 1000000000000000019884624838656, "padding_side": "right", **named})
    return PreTrainedTokenizerFast(tokenizer_object=build(normalizers.Lowercase()), padding_side="right", **named)


@torch.no_grad()
def make_siglips(out: pathlib.Path, pictures: Pictures, ids: dict) -> None:
    for number, name in enumerate(["siglip", "siglip2"]):
        folder = fresh(out / name)
        if name == "siglip":
            train_pieces(folder)
            tokenizer = SiglipTokenizer(str(folder / "spiece.model"))
            (folder / "spiece.model").unlink()
        else:
            tokenizer = make_gemma(folder)
        rows = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=64).input_ids
        ids[name] = rows
        text = dict(vocab_size=max(map(max, rows)) + 200, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                    num_attention_heads=3, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=0)
        vision = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, image_size=48, patch_size=16)
        model = randomise(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), 50 + number, 1.5)
        processor = SiglipImageProcessorPil(size={"height": 48, "width": 48})
        tensors = pictures.vectors(name, lambda images: pixels_of(processor, images),
                                   lambda pixels: model.get_image_features(pixels).pooler_output)
        tensors["texts"] = unit(model.get_text_features(torch.tensor(rows)).pooler_output)
        store(tensors, out / f"{name}.safetensors")
        processor.save_pretrained(folder)
        model.half().save_pretrained(folder)


class LongestFilled:
    """How HPSv2 makes images square: `ResizeMaxSize` of its open_clip."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.rest = image_transform_v2(PreprocessCfg(size=side), is_train=False)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        scale = self.side / max(image.size)
        small = image.resize([round(size * scale) for size in image.size], Image.Resampling.BICUBIC)
        square = Image.new("RGB", (self.side, self.side))
        square.paste(small, tuple((self.side - size) // 2 for size in small.size))
        return self.rest(square)


@torch.no_grad()
def make_open_clips(out: pathlib.Path, pictures: Pictures, ids: dict) -> None:
    merges = out / "merges.txt.gz"
    with gzip.open(merges, "wt", encoding="utf-8") as file:
        file.write("version\n" + "\n".join(MERGES))
    small = open_clip.SimpleTokenizer(str(merges))
    merges.unlink()
    vision = dict(layers=2, width=32, head_width=8, mlp_ratio=1.5, patch_size=9, image_size=45)
    text = dict(context_length=77, vocab_size=538, width=24, heads=3, layers=2, mlp_ratio=2.0)
    for number, (name, quick, preprocess) in enumerate([
        ("open_clip", False, {}),
        ("open_clip_squash", True, dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], interpolation="bilinear", resize_mode="squash")),
    ]):
        folder = fresh(out / name)
        vision_cfg, text_cfg = open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text)
        model = randomise(open_clip.CLIP(20, vision_cfg, text_cfg, quick_gelu=quick), 60 + number, 1.5)
        transform = image_transform_v2(PreprocessCfg(size=45, **preprocess), is_train=False)
        keep_open_clip(out, name, model, transform, small, pictures, ids)
        config = dict(embed_dim=20, vision_cfg=vision, text_cfg=text)
        config |= dict(quick_gelu=True) if quick else {}
        write_json(folder / "open_clip_config.json", dict(model_cfg=config, preprocess_cfg=preprocess))
        for file in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"]:
            shutil.copy(HERE / "diffusion/sd1/tokenizer" / file, folder)
        state = model.half().state_dict()
        if quick:
            torch.save(state, folder / "open_clip_pytorch_model.bin")
        else:
            store(state, folder / "open_clip_model.safetensors", {"format": "pt"})


def keep_open_clip(out, name, model, transform, tokenizer, pictures, ids) -> None:
    rows = tokenizer(PROMPTS)
    ids[name] = rows.tolist()
    tensors = pictures.vectors(name, lambda images: torch.stack([transform(image) for image in images]),
                               lambda pixels: model.encode_image(pixels))
    tensors["texts"] = unit(model.encode_text(rows))
    store(tensors, out / f"{name}.safetensors")


@torch.no_grad()
def make_hps(out: pathlib.Path, pictures: Pictures, ids: dict) -> None:
    """A file as HPSv2.1's: a state dict beside other things, no settings, the whole vocabulary."""
    vision_cfg = open_clip.CLIPVisionCfg(layers=1, width=128, mlp_ratio=0.5, patch_size=9, image_size=45)
    text_cfg = open_clip.CLIPTextCfg(width=64, heads=1, layers=2, mlp_ratio=0.5)
    model = randomise(open_clip.CLIP(20, vision_cfg, text_cfg), 70, 1.5)
    # Rows that overlap: 49,408 of them in the room of as many numbers.
    numbers = torch.randn(49408 + 64, generator=torch.Generator().manual_seed(71)).mul(0.3).half()
    table = numbers.as_strided((49408, 64), (1, 1))
    model.token_embedding.weight.data = table.float()
    keep_open_clip(out, "hps", model, LongestFilled(45), open_clip.get_tokenizer("ViT-H-14"), pictures, ids)
    ids["mended prompts"], ids["mended"] = MENDED, open_clip.get_tokenizer("ViT-H-14")(MENDED).tolist()
    state = {key: value.half() for key, value in model.state_dict().items()}
    state["token_embedding.weight"] = table
    torch.save({"epoch": 1, "name": "hps", "state_dict": state}, out / "HPS_v2.1_tiny.pt")


def make_shapes(out: pathlib.Path) -> None:
    """Names and shapes of whole models' tensors, without numbers, and what open_clip says of their sizes."""
    said = {}
    for name in ["ViT-B-32", "ViT-L-14", "ViT-H-14", "ViT-bigG-14"]:
        config = open_clip.get_model_config(name)
        with torch.device("meta"):
            model = open_clip.CLIP(**config)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        vision, text = model.visual.transformer.resblocks, model.transformer.resblocks
        said[name] = {
            "vision": [len(vision), vision[0].attn.num_heads, vision[0].mlp.c_fc.out_features, model.visual.image_size[0]],
            "text": [len(text), text[0].attn.num_heads, text[0].mlp.c_fc.out_features, model.context_length],
            "shapes": shapes}
    (out / "sizes.json").write_text(json.dumps(said) + "\n")


def make(out: pathlib.Path) -> None:
    pictures, ids = Pictures(), {}
    make_dinos(out, pictures)
    make_siglips(out, pictures, ids)
    make_open_clips(out, pictures, ids)
    make_hps(out, pictures, ids)
    make_shapes(out)
    rows = [f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(row) for row in value) + "\n]" for key, value in ids.items()]
    (out / "tokens.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    store(pictures.pixels, out / "pixels.safetensors")
