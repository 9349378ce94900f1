"""What diffusers and PEFT make of a LoRA on the tiny U-Nets of the area `diffusion`, and the original block names.

`*_peft` is a file as diffusers saves it (matrices as trained, alpha in the header); `*_unet` holds the output with the
adapter and the gradients of all A and B; `names.json` maps diffusers module paths to the original (sgm) ones, as
diffusers' own conversion of original checkpoints sees them.

`overlay_*` are adapters of other kinds, from PEFT as folders and with LyCORIS' formulas in one file; `overlays` holds the
weights that they make of the base's. `text_*` are kohya files that adapt the text encoders too; `text` holds what diffusers
then encodes.
"""
import json
import pathlib

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.training_utils import _collate_lora_metadata
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

DIFFUSION = pathlib.Path(__file__).resolve().parent / "diffusion"
PROMPTS = ["a photo of a [V] dog on the beach", "The red CAT, and 2 dogs!"]
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


LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KERNEL = "down_blocks.0.downsamplers.0.conv"
POINT = "down_blocks.1.resnets.0.conv_shortcut"
MODULES = [LINEAR, KERNEL, POINT]
OVERLAYS = {
    "dora": LoraConfig(r=3, lora_alpha=2, use_dora=True, target_modules=MODULES),
    "loha": LoHaConfig(r=3, alpha=2, target_modules=MODULES, use_effective_conv2d=True),
    "loha_flat": LoHaConfig(r=2, alpha=2, target_modules=MODULES, rank_pattern={"to_q": 3}, alpha_pattern={"to_q": 6}),
    "lokr": LoKrConfig(r=1, alpha=2, target_modules=MODULES, decompose_both=True, use_effective_conv2d=True),
    "lokr_whole": LoKrConfig(r=8, alpha=2, target_modules=MODULES, decompose_factor=2),
}


def make_overlays(out: pathlib.Path) -> None:
    merged = {}
    for name, config in OVERLAYS.items():
        unet = UNet2DConditionModel.from_pretrained(DIFFUSION / "sd1", subfolder="unet", torch_dtype=torch.float32)
        unet.name_or_path = ""
        model = get_peft_model(unet, config)
        generator = torch.Generator().manual_seed(12)
        for key, value in model.named_parameters():
            if value.requires_grad:
                noise = torch.randn(value.shape, generator=generator).mul(0.4)
                value.data = (noise.abs() + 0.5 if "magnitude" in key else noise).half().float()
        model.save_pretrained(out / f"overlay_{name}")
        (out / f"overlay_{name}/README.md").unlink(missing_ok=True)
        weights = model.merge_and_unload().state_dict()
        merged |= {f"{name}.{module}": weights[f"{module}.weight"].clone() for module in MODULES}
    merged |= lycoris(out)
    save_file(merged, out / "overlays.safetensors")


def lycoris(out: pathlib.Path) -> dict:
    """One file with a module of each kind, and the weights that LyCORIS' formulas make of the base's."""
    base = load_file(DIFFUSION / "sd1/unet/diffusion_pytorch_model.safetensors")
    generator = torch.Generator().manual_seed(13)
    file, merged = {}, {}

    def noise(*shape, spread=0.4):
        return torch.randn(shape, generator=generator).mul(spread).half().float()

    def add(module, difference, norm_axis=None, alpha=None, **parts):
        weight = base[f"{module}.weight"].float()
        value = weight + difference.reshape(weight.shape)
        name = "lora_unet_" + module.replace(".", "_")
        if alpha is not None:
            parts["alpha"] = torch.tensor(float(alpha))
        if norm_axis is not None:
            axes = [axis for axis in range(value.dim()) if axis != norm_axis]
            norm = value.square().sum(axes, keepdim=True).sqrt()
            scale = noise(*norm.shape).abs() + 0.5
            parts["dora_scale"] = scale
            value = value * (scale / (norm + torch.finfo(torch.float32).eps))
        file.update({f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()})
        merged[f"lycoris.{module}"] = value

    def rebuild(core, left, right):
        return torch.einsum("i j k l, i p, j r -> p r k l", core, left, right)

    def place(kind, number):
        """The n-th module of this shape of weight."""
        shapes = {"linear": (12, 12), "square": (4, 4, 3, 3), "kernel": (8, 4, 3, 3), "wide": (12, 8, 3, 3), "point": (8, 4, 1, 1)}
        found = [key.removesuffix(".weight") for key, value in sorted(base.items()) if value.shape == shapes[kind]]
        return found[number]

    up, down = noise(12, 3), noise(3, 12)
    add(place("linear", 0), up @ down * (2 / 3), 0, 2, **{"lora_up.weight": up, "lora_down.weight": down})
    up, down = noise(12, 3), noise(3, 12)
    add(place("linear", 1), up @ down * (2 / 3), 1, 2, **{"lora_up.weight": up, "lora_down.weight": down})
    up, down, core = noise(8, 2, 1, 1), noise(2, 4, 1, 1), noise(2, 2, 3, 3)
    add(place("kernel", 0), rebuild(core, up[:, :, 0, 0].T, down[:, :, 0, 0]) * (3 / 2), 1, 3,
        **{"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": core})
    a1, b1, a2, b2 = noise(12, 3), noise(3, 12), noise(12, 3), noise(3, 12)
    add(place("linear", 2), (a1 @ b1) * (a2 @ b2) * (2 / 3), None, 2, hada_w1_a=a1, hada_w1_b=b1, hada_w2_a=a2,
        hada_w2_b=b2)
    a1, b1, a2, b2, c1, c2 = noise(2, 4), noise(2, 4), noise(2, 4), noise(2, 4), noise(2, 2, 3, 3), noise(2, 2, 3, 3)
    add(place("square", 0), rebuild(c1, a1, b1) * rebuild(c2, a2, b2) * (3 / 2), 0, 3, hada_w1_a=a1, hada_w1_b=b1,
        hada_w2_a=a2, hada_w2_b=b2, hada_t1=c1, hada_t2=c2)
    w1, a2, b2 = noise(3, 2), noise(4, 2), noise(2, 6)
    add(place("linear", 3), torch.kron(w1, a2 @ b2) * (1 / 2), None, 1, lokr_w1=w1, lokr_w2_a=a2, lokr_w2_b=b2)
    w1, w2 = noise(3, 2), noise(4, 6)
    # Whole factors have no strength, whatever alpha says.
    add(place("linear", 4), torch.kron(w1, w2), 1, 7, lokr_w1=w1, lokr_w2=w2)
    a1, b1, a2, b2, core = noise(2, 2), noise(2, 2), noise(2, 6), noise(2, 4), noise(2, 2, 3, 3)
    add(place("wide", 0), torch.kron((a1 @ b1)[:, :, None, None], rebuild(core, a2, b2).contiguous()) * (3 / 2), None, 3,
        lokr_w1_a=a1, lokr_w1_b=b1, lokr_w2_a=a2, lokr_w2_b=b2, lokr_t2=core)
    a1, b1, a2, b2 = noise(2, 1), noise(1, 2), noise(2, 1), noise(1, 2 * 9)
    add(place("square", 1), torch.kron(a1 @ b1, a2 @ b2) * 2, None, 2, lokr_w1_a=a1, lokr_w1_b=b1, lokr_w2_a=a2,
        lokr_w2_b=b2)
    difference = noise(8, 4, 1, 1)
    add(place("point", 0), difference, diff=difference)
    save_file(file, out / "overlay_lycoris.safetensors")
    return merged


def make_text(out: pathlib.Path) -> None:
    encoded = {}
    for family, kind, prefixes in [("sd1", StableDiffusionPipeline, ["te"]),
                                   ("sdxl", StableDiffusionXLPipeline, ["te1", "te2"])]:
        pipeline = kind.from_pretrained(DIFFUSION / family, torch_dtype=torch.float32)
        generator = torch.Generator().manual_seed(14)

        def noise(*shape):
            return torch.randn(shape, generator=generator).mul(0.3).half()

        file = {}
        for prefix in prefixes:
            width = (pipeline.text_encoder_2 if prefix == "te2" else pipeline.text_encoder).config.hidden_size
            for layer in range(3):
                for module in ["self_attn_q_proj", "self_attn_out_proj", "mlp_fc1"]:
                    name = f"lora_{prefix}_text_model_encoder_layers_{layer}_{module}"
                    outputs = 2 * width if module == "mlp_fc1" else width
                    file |= {f"{name}.lora_down.weight": noise(2, width), f"{name}.lora_up.weight": noise(outputs, 2),
                             f"{name}.alpha": torch.tensor(1.0)}
        block, width = {"sd1": ("mid_block_attentions_0", 12), "sdxl": ("middle_block_1", 8)}[family]
        name = f"lora_unet_{block}_transformer_blocks_0_attn1_to_q"
        file |= {f"{name}.lora_down.weight": noise(2, width), f"{name}.lora_up.weight": noise(width, 2),
                 f"{name}.alpha": torch.tensor(1.0)}
        path = out / f"text_{family}.safetensors"
        save_file(file, path)
        pipeline.load_lora_weights(path)
        with torch.no_grad():
            given = pipeline.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1,
                                           do_classifier_free_guidance=False)
        encoded[f"{family}.context"] = given[0].contiguous()
        if family == "sdxl":
            encoded["sdxl.pooled"] = given[2].contiguous()
    save_file(encoded, out / "text.safetensors")


def make(out: pathlib.Path) -> None:
    for name, case in CASES.items():
        make_case(name, out=out, **case)
    make_names(out)
    make_overlays(out)
    make_text(out)
