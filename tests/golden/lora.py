"""What diffusers and PEFT make of a LoRA on the tiny U-Nets of the area `diffusion`, and the original block names.

`*_peft` is a file as diffusers saves it (matrices as trained, alpha in the header); `*_unet` holds the output with the
adapter and the gradients of all A and B; `names.json` maps diffusers module paths to the original (sgm) ones, as
diffusers' own conversion of original checkpoints sees them.
"""
import json
import pathlib

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

DIFFUSION = pathlib.Path(__file__).resolve().parent / "diffusion"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALL_LINEAR = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CASES = {
    "sd1_attention": dict(family="sd1", r=4, lora_alpha=2, target_modules=ATTENTION),
    "sd1_all_linear": dict(family="sd1", r=3, lora_alpha=4.5, target_modules=ALL_LINEAR),
    "sd1_conv": dict(family="sd1", r=2, lora_alpha=2, target_modules=["conv1", "conv_shortcut", "downsamplers.0.conv"]),
    "sd1_ranks": dict(family="sd1", r=4, lora_alpha=2, target_modules=ATTENTION,
                      rank_pattern={"to_q": 2}, alpha_pattern={"to_v": 6}),
    "sdxl_all_linear": dict(family="sdxl", r=2, lora_alpha=1, target_modules=ALL_LINEAR),
}


def make_case(name: str, family: str, out: pathlib.Path, **config) -> None:
    # In f64, so that gradients which are sums that cancel are exact too.
    unet = UNet2DConditionModel.from_pretrained(DIFFUSION / family, subfolder="unet", torch_dtype=torch.float64)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(**config))
    generator = torch.Generator().manual_seed(11)
    adapters = {key: value for key, value in unet.named_parameters() if "lora_" in key}
    for value in adapters.values():
        value.data = torch.randn(value.shape, generator=generator).mul(0.25).half().to(value.dtype)
    given = load_file(DIFFUSION / f"{family}_unet.safetensors")
    given = {key.removeprefix("even."): value.double() for key, value in given.items() if key.startswith("even.")}
    added = None
    if family == "sdxl":
        added = {key: given[key] for key in ["text_embeds", "time_ids"]}
    output = unet(given["sample"], given["timesteps"], given["context"], added_cond_kwargs=added).sample
    loss = torch.nn.functional.mse_loss(output, given["target"])
    loss.backward()
    tensors = {"output": output.detach(), "loss": loss.detach()}
    tensors |= {f"grad.{key.replace('.default', '')}": value.grad for key, value in adapters.items()}
    save_file({key: value.float() for key, value in tensors.items()}, out / f"{name}_unet.safetensors")
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    layers = {key: value.float() for key, value in get_peft_model_state_dict(unet).items()}
    pipeline.save_lora_weights(out, layers, weight_name=f"{name}_peft.safetensors",
                               **_collate_lora_metadata({"unet": unet}))


def original_names(layers: int, levels: list[bool]):
    """Module names in the order in which the original code numbers its blocks; `levels` says which have attention."""
    resnet = ["in_layers.2", "out_layers.3", "emb_layers.1", "skip_connection"]
    attention = ["proj_in", "proj_out", *(f"transformer_blocks.0.{layer}" for layer in [
        *(f"attn{number}.{part}" for number in (1, 2) for part in ATTENTION), "ff.net.0.proj", "ff.net.2"])]
    yield from ["time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2", "input_blocks.0.0", "out.2"]
    number = 1
    for level, attends in enumerate(levels):
        for _ in range(layers):
            yield from (f"input_blocks.{number}.0.{name}" for name in resnet)
            if attends:
                yield from (f"input_blocks.{number}.1.{name}" for name in attention)
            number += 1
        if level + 1 < len(levels):
            yield f"input_blocks.{number}.0.op"
            number += 1
    for number, names in enumerate([resnet, attention, resnet]):
        yield from (f"middle_block.{number}.{name}" for name in names)
    number = 0
    for level, attends in reversed(list(enumerate(levels))):
        for layer in range(layers + 1):
            yield from (f"output_blocks.{number}.0.{name}" for name in resnet)
            if attends:
                yield from (f"output_blocks.{number}.1.{name}" for name in attention)
            if level > 0 and layer == layers:
                yield f"output_blocks.{number}.{2 if attends else 1}.conv"
            number += 1


def make_names(out: pathlib.Path) -> None:
    names = {}
    for family, levels in {"sd1": [True, True, True, False], "sdxl": [False, True, True]}.items():
        originals = list(original_names(2, levels))
        checkpoint = {}
        for index, name in enumerate(originals):
            checkpoint[f"model.diffusion_model.{name}.weight"] = torch.tensor(index)
            checkpoint[f"model.diffusion_model.{name}.bias"] = torch.tensor(index)
        config = {"layers_per_block": 2, "addition_embed_type": "text_time" if family == "sdxl" else None}
        converted = convert_ldm_unet_checkpoint(checkpoint, config)
        names[family] = {name.removesuffix(".weight"): originals[int(index)]
                         for name, index in sorted(converted.items()) if name.endswith(".weight")}
    (out / "names.json").write_text(json.dumps(names, indent=0) + "\n")


def make(out: pathlib.Path) -> None:
    for name, case in CASES.items():
        make_case(name, out=out, **case)
    make_names(out)
