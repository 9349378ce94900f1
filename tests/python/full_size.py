"""Writes checkpoints of full size with random weights, for measuring memory and time without a download.

    python tests/python/full_size.py OUT    # OUT/sd15: Stable Diffusion 1.5's configuration; OUT/clip: CLIP ViT-B/32;
                                            # OUT/sd15_half: as sd15 with a U-Net of half the width

Weights are f32, about 5.6 GB in all. The tokenizer is the tiny one of tests/golden: only its ids matter here.
"""
import json
import pathlib
import shutil
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


def unet(*channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=channels,
    )


def main(out: pathlib.Path) -> None:
    torch.manual_seed(0)
    sd15 = out / "sd15"
    shutil.copytree(GOLDEN / "diffusion" / "sd1" / "tokenizer", sd15 / "tokenizer")
    shutil.copytree(GOLDEN / "diffusion" / "sd1" / "scheduler", sd15 / "scheduler")
    shutil.copy(GOLDEN / "diffusion" / "sd1" / "model_index.json", sd15)
    unet(320, 640, 1280, 1280).save_pretrained(sd15 / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(sd15 / "vae")
    text = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768, bos_token_id=0, eos_token_id=2)
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(sd15 / "text_encoder")

    half = out / "sd15_half"
    half.mkdir()
    for part in sd15.iterdir():
        if part.name != "unet":
            (half / part.name).symlink_to(pathlib.Path("..") / "sd15" / part.name)
    unet(160, 320, 640, 640).save_pretrained(half / "unet")

    clip = out / "clip"
    shutil.copytree(GOLDEN / "diffusion" / "sd1" / "tokenizer", clip)
    CLIPModel(CLIPConfig(projection_dim=512)).save_pretrained(clip)
    (clip / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 224},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
