"""Adapter folders of PEFT whose settings change what the matrices mean, on the tiny language models of the area `lm`.

Each case is a folder as PEFT saves it; `logits.safetensors` holds what PEFT computes after it has read the folder onto
the unchanged base: decompositions that it takes out of the base's weights, patterns of ranks and strengths, choices of
layers.
"""
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

LM = pathlib.Path(__file__).resolve().parent / "lm"
LLAMA = ["q_proj", "v_proj", "down_proj"]
CASES = {
    "pissa": ("llama", dict(r=3, lora_alpha=5, target_modules=LLAMA, init_lora_weights="pissa")),
    "pissa_gpt2": ("gpt2", dict(r=3, lora_alpha=3, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True,
                                init_lora_weights="pissa")),
    "pissa_converted": ("llama", dict(r=2, lora_alpha=3, target_modules=LLAMA, init_lora_weights="pissa")),
    "olora": ("llama", dict(r=4, lora_alpha=3, use_rslora=True, target_modules=LLAMA, init_lora_weights="olora")),
    "eva": ("llama", dict(r=2, lora_alpha=3, target_modules=LLAMA, init_lora_weights="eva")),
    "orthogonal": ("llama", dict(r=2, lora_alpha=3, target_modules=LLAMA, init_lora_weights="orthogonal")),
    "patterns": ("llama", dict(
        r=4, lora_alpha=6, target_modules=r".*\.(self_attn\.[qv]|mlp\.down)_proj",
        rank_pattern={r"down_proj": 3, r"layers\.0\..*q_proj": 2, r"model\.layers\.(?!0)\d+\..*\.(q|v)_proj": 5},
        alpha_pattern={r"(self_attn|mlp)\.v_proj": 9, r"^model.layers.1.self_attn.q_proj": 1.5, r"q_proj": 20})),
    "layers": ("llama", dict(r=2, lora_alpha=6, target_modules=LLAMA, layers_to_transform=[1], layers_pattern="layers",
                             use_rslora=True)),
    "excluded": ("llama", dict(r=2, lora_alpha=6, target_modules="all-linear", exclude_modules=r".*mlp.*|.*k_proj")),
}
IDS = torch.tensor([[5, 9, 17, 33, 2, 90, 41, 7], [88, 3, 3, 60, 12, 54, 1, 29]])


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def base(family: str):
    return AutoModelForCausalLM.from_pretrained(LM / family, dtype=torch.float32)


def make_case(name: str, family: str, config: dict, out: pathlib.Path) -> torch.Tensor:
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    more = {}
    model = get_peft_model(base(family), LoraConfig(task_type="CAUSAL_LM", **config))
    if name == "pissa_converted":
        start = out / "start"
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(start)
        model.peft_config["default"].init_lora_weights = "pissa"
        more = dict(path_initial_model_for_weight_conversion=str(start))
    generator = torch.Generator().manual_seed(17)
    for key, value in model.named_parameters():
        if "lora_" in key:
            noise = torch.randn(value.shape, generator=generator) * 0.15
            value.data = (value.data + noise).half().to(value.dtype)
    model.save_pretrained(folder, **more)
    shutil.rmtree(out / "start", ignore_errors=True)
    (folder / "README.md").unlink()
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = family
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    write_json(folder / "adapter_config.json", settings)
    with torch.no_grad():
        plain = base(family)(IDS).logits
        logits = PeftModel.from_pretrained(base(family), folder)(IDS).logits
    assert (logits - plain).abs().max() > 0.01, name
    return logits


def make(out: pathlib.Path) -> None:
    tensors = {"ids": IDS}
    for name, (family, config) in CASES.items():
        tensors[name] = make_case(name, family, config, out)
    save_file(tensors, out / "logits.safetensors")
