"""Names and shapes of all tensors in single files of Stable Diffusion 1, 2 and XL at full size, and those that diffusers'
converters make of them: `NAME.txt.gz`, a line `>` for each tensor of the file, a line `<` for each of a part.

No weights: everything is on torch's device `meta`. diffusers is the judge of the names on the left: its converters must give
exactly the tensors of its models.
"""
import gzip
import pathlib
import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ATTENDING = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
SD = dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, sample_size=64, down_block_types=ATTENDING[0],
          up_block_types=ATTENDING[1])
UNETS = {
    "sd1": dict(cross_attention_dim=768, attention_head_dim=8, **SD),
    "sd2": dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, **SD),
    "sdxl": dict(
        block_out_channels=(320, 640, 1280), layers_per_block=2, sample_size=128, cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816),
}
VAE = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
           down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408)
CLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, vocab_size=49408,
              projection_dim=1024)
CLIP_G = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, vocab_size=49408,
              projection_dim=1280)
RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
            "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
TOP = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
       "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
       "conv_out": "out.2"}


def unet_name(name: str, attending: list[bool]) -> str:
    for new, old in TOP.items():
        if name.startswith(new + "."):
            return old + name[len(new):]
    side, block, kind, layer, rest = re.fullmatch(r"(\w+?)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", name).groups()
    block, layer = int(block or 0), int(layer)
    if kind == "resnets":
        layer_name, last = rest.rsplit(".", 1)
        rest = f"{RESIDUAL[layer_name]}.{last}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{3 * block + layer + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 + attending[block]}.{rest}"
    return f"output_blocks.{3 * block + layer}.{int(kind == 'attentions')}.{rest}"


def vae_name(name: str) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    for new, old in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{3 - int(found[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample", name)


def open_clip(width: int, inner: int, layers: int) -> dict:
    shapes = {"positional_embedding": [77, width], "token_embedding.weight": [49408, width], "ln_final.weight": [width],
              "ln_final.bias": [width], "text_projection": [width, width], "logit_scale": []}
    for layer in range(layers):
        block = {"ln_1": [width], "ln_2": [width], "attn.in_proj": [3 * width, width], "attn.out_proj": [width, width],
                 "mlp.c_fc": [inner, width], "mlp.c_proj": [width, inner]}
        for part, shape in block.items():
            join = "_" if part == "attn.in_proj" else "."
            shapes[f"transformer.resblocks.{layer}.{part}{join}weight"] = shape
            shapes[f"transformer.resblocks.{layer}.{part}{join}bias"] = shape[:1]
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def same(converted: dict, model: dict, what: str) -> None:
    shapes = [{name.removeprefix("text_model."): tensor.shape for name, tensor in tensors.items()
               if not name.endswith("position_ids")} for tensors in (converted, model)]
    assert shapes[0] == shapes[1], (what, set(shapes[0].items()) ^ set(shapes[1].items()))


def family(name: str) -> tuple[dict, dict]:
    """Tensors of the file, and those of each part."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
        vae = AutoencoderKL(**VAE)
        clip = CLIPTextModel(CLIPTextConfig(**CLIP_L))
        second = CLIPTextModel(CLIPTextConfig(**{**CLIP_H, "num_hidden_layers": 23})) if name == "sd2" else (
            CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)))
    attending = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
    file = {f"model.diffusion_model.{unet_name(key, attending)}": value for key, value in unet.state_dict().items()}
    parts = {"unet": convert.convert_ldm_unet_checkpoint(dict(file), unet.config)}
    same(parts["unet"], unet.state_dict(), "unet")
    for key, value in vae.state_dict().items():
        kernel = ".attentions." in key and value.dim() == 2
        file[f"first_stage_model.{vae_name(key)}"] = value[:, :, None, None] if kernel else value
    parts["vae"] = convert.convert_ldm_vae_checkpoint(dict(file), vae.config)
    same(parts["vae"], vae.state_dict(), "vae")
    if name != "sd2":
        prefix = "cond_stage_model.transformer." if name == "sd1" else "conditioner.embedders.0.transformer."
        for key, value in clip.state_dict().items():
            file[f"{prefix}text_model.{key.removeprefix('text_model.')}"] = value
        file[f"{prefix}text_model.embeddings.position_ids"] = torch.empty([1, 77], dtype=torch.int64, device="meta")
        parts["text_encoder"] = convert.convert_ldm_clip_checkpoint(dict(file))
        same(parts["text_encoder"], clip.state_dict(), "text_encoder")
    if name != "sd1":
        prefix = "cond_stage_model.model." if name == "sd2" else "conditioner.embedders.1.model."
        sizes = (1024, 4096, 24) if name == "sd2" else (1280, 5120, 32)
        file.update({prefix + key: value for key, value in open_clip(*sizes).items()})
        part = "text_encoder" if name == "sd2" else "text_encoder_2"
        parts[part] = convert.convert_open_clip_checkpoint(second, dict(file), prefix=prefix)
        same(parts[part], second.state_dict(), part)
    # What such files have besides, and nobody needs.
    file["model_ema.diffusion_modelinput_blocks00weight"] = torch.empty([320, 4, 3, 3], device="meta")
    file["alphas_cumprod"] = torch.empty([1000], device="meta")
    return file, parts


def make(out: pathlib.Path) -> None:
    for name in UNETS:
        file, parts = family(name)
        shape = lambda tensor: ",".join(map(str, tensor.shape))  # noqa: E731
        lines = [f"> {key} {shape(value)}" for key, value in file.items()]
        for part, tensors in parts.items():
            lines += [f"< {part}/{key} {shape(value)}" for key, value in tensors.items() if not key.endswith("position_ids")]
        with gzip.GzipFile(out / f"{name}.txt.gz", "wb", mtime=0) as packed:
            packed.write("\n".join(lines).encode())
