"""Tiny language models with random weights and what transformers and PEFT make of them.

A folder for each family, weights stored as f16; beside it a file with logits of batches padded on the right and on the
left, greedy texts, log-probs of responses, and the gradients of a DPO loss for every tensor. `rope` holds logits under
every scaling of rotary positions; `*_adapter` are PEFT folders; `heads` and `sampling` are functions alone; `*.gguf` hold some
of the same models as llama.cpp has them, and `blocks` every number encoding. All is computed in f64.
"""
import json
import pathlib

import numpy as np
import torch
from diffusion import write_json
from peft import LoraConfig, get_peft_model
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

VOCAB = 96
SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
FAMILIES = {
    "llama": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "smollm": LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5,
                         max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=True, head_dim=12),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1,
                       eos_token_id=2, scale_attn_by_inverse_layer_idx=True),
}
ROPES = {
    "default": dict(rope_parameters=dict(rope_type="default", rope_theta=300.0)),
    "linear": dict(rope_scaling=dict(type="linear", factor=2.5), rope_theta=10000.0),
    "dynamic": dict(rope_scaling=dict(type="dynamic", factor=2.0), rope_theta=10000.0),
    "llama3": dict(rope_parameters={**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 12}),
    "yarn": dict(rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                      original_max_position_embeddings=64)),
    "yarn_smooth": dict(rope_parameters=dict(rope_type="yarn", rope_theta=500.0, factor=3.0, beta_fast=4, beta_slow=0.5,
                                             mscale=1.2, mscale_all_dim=0.7, truncate=False,
                                             original_max_position_embeddings=32)),
}
LENGTHS = [12, 9, 11, 5]
PROMPTS = [3, 4, 3, 2]
BETA = 0.5


def randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        is_norm = any(part in name for part in ["norm", "ln_"]) and name.endswith("weight")
        value.data = (1 + noise * 0.2 if is_norm else noise * 0.25).half().to(value.dtype)


def selected(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def response_logps(model, ids, mask, labels):
    logits = model(ids, attention_mask=mask).logits
    scored = labels[:, 1:] != -100
    logps = selected(logits[:, :-1], labels[:, 1:].clamp_min(0))
    return logits, (logps * scored).sum(-1)


def left(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The right-padded rows padded on the left, and their mask."""
    rows = [torch.cat([torch.zeros(ids.shape[1] - length, dtype=torch.long), row[:length]])
            for row, length in zip(ids, LENGTHS)]
    mask = torch.stack([torch.arange(ids.shape[1]) >= ids.shape[1] - length for length in LENGTHS])
    return torch.stack(rows), mask


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
    columns = torch.arange(12)
    mask = torch.stack([columns < length for length in LENGTHS])
    ids[2, :3] = ids[0, :3]
    ids = ids * mask
    labels = torch.where(mask & torch.stack([columns >= start for start in PROMPTS]), ids, -100)
    return dict(ids=ids, mask=mask, labels=labels, reference=torch.tensor([-30.0, -18.0, -35.0, -12.0]))


def store(tensors: dict, path: pathlib.Path) -> None:
    convert = {torch.float64: torch.float32}
    save_file({key: value.detach().to(convert.get(value.dtype, value.dtype)).contiguous()
               for key, value in tensors.items()}, path)


def make_family(name: str, config, out: pathlib.Path) -> None:
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, len(name))
    model.half().save_pretrained(out / name)
    config_file = out / name / "config.json"
    settings = json.loads(config_file.read_text())
    settings.pop("transformers_version")
    if name == "qwen2":  # as files from before transformers 5 have it
        settings["rope_theta"] = settings.pop("rope_parameters")["rope_theta"]
        settings["torch_dtype"] = settings.pop("dtype")
        settings.pop("layer_types")
    write_json(config_file, settings)
    model = AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float64)

    given = batch()
    ids, mask = given["ids"], given["mask"]
    logits, logps = response_logps(model, ids, mask.long(), given["labels"])
    tensors = {"logits": logits * mask.unsqueeze(-1), "logps": logps}
    chosen, rejected = (logps - given["reference"]).chunk(2)
    loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
    loss.backward()
    tensors["loss"] = loss
    tensors |= {f"grad.{key}": value.grad for key, value in model.named_parameters()}

    ids, mask = left(ids)
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    logits = model(ids, attention_mask=mask.long(), position_ids=positions).logits
    tensors["logits_left"] = logits * mask.unsqueeze(-1)

    def write(end: int | None) -> torch.Tensor:
        texts = model.generate(ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=14, pad_token_id=0,
                               eos_token_id=end)
        return texts[:, ids.shape[1]:]
    endless = write(-1)
    end = endless[1, 5].item()
    tensors |= {"greedy": endless, "greedy_ended": write(end), "end": torch.tensor(end)}
    store(tensors, out / f"{name}.safetensors")
    write_json(out / name / "generation_config.json", {"eos_token_id": [end]})


def make_ropes(out: pathlib.Path) -> None:
    ids = torch.randint(3, VOCAB, (1, 24), generator=torch.Generator().manual_seed(9))
    tensors = {"ids": ids}
    changes = {name: {**rope, "max_position_embeddings": 16} for name, rope in ROPES.items()}
    settings = json.loads((out / "llama" / "config.json").read_text())
    settings.pop("rope_parameters")
    for name, rope in changes.items():
        config = LlamaConfig(**{**settings, **json.loads(json.dumps(rope))})
        model = AutoModelForCausalLM.from_pretrained(out / "llama", config=config, dtype=torch.float64)
        tensors[name] = model(ids).logits[:, -8:]
    write_json(out / "rope.json", changes)
    store(tensors, out / "rope.safetensors")


def make_adapter(family: str, out: pathlib.Path, **config) -> None:
    model = AutoModelForCausalLM.from_pretrained(out / family, dtype=torch.float64)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(13)
    adapters = {key: value for key, value in model.named_parameters() if "lora_" in key}
    for value in adapters.values():
        value.data = torch.randn(value.shape, generator=generator).mul(0.25).half().to(value.dtype)
    given = batch()
    logits, logps = response_logps(model, given["ids"], given["mask"].long(), given["labels"])
    logps.sum().backward()
    tensors = {"logits": logits * given["mask"].unsqueeze(-1)}
    tensors |= {f"grad.{key.removeprefix('base_model.model.').replace('.default', '')}": value.grad
                for key, value in adapters.items()}
    store(tensors, out / f"{family}_lora.safetensors")
    folder = out / f"{family}_adapter"
    model.half().save_pretrained(folder)
    (folder / "README.md").unlink()
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = family
    settings["target_modules"].sort()
    write_json(folder / "adapter_config.json", settings)


def make_heads(out: pathlib.Path) -> None:
    """Log-probs, divergence and entropy of a head over states, and the gradients of an objective that couples them."""
    generator = torch.Generator().manual_seed(17)
    states, reference = (torch.randn(11, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, frozen = (torch.randn(50, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    states, reference, weight, frozen = (value.float().double() for value in (states, reference, weight, frozen))
    targets = torch.randint(0, 50, (11,), generator=generator)
    states.requires_grad_()
    weight.requires_grad_()
    logps = (states @ weight.T).log_softmax(-1)
    other = (reference @ frozen.T).log_softmax(-1)
    chosen = logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    kl = (other.exp() * (other - logps)).sum(-1)
    loss = torch.logsumexp(chosen, 0) + (chosen[:5].sum() * kl[3:].square().sum()).tanh() + kl.max()
    loss.backward()
    store(dict(states=states, weight=weight, reference=reference, frozen=frozen, targets=targets, logps=chosen, kl=kl,
               entropy=-(logps.exp() * logps).sum(-1), loss=loss, grad_states=states.grad, grad_weight=weight.grad),
          out / "heads.safetensors")


def make_sampling(out: pathlib.Path) -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(19)) * 3
    tensors = {"logits": logits}
    for temperature, top_k, top_p in [(1.0, None, 1.0), (0.7, None, 0.8), (1.5, 10, 1.0), (1.2, 20, 0.6)]:
        scores = TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        tensors[f"{temperature}_{top_k or 0}_{top_p}"] = scores.softmax(-1)
    store(tensors, out / "sampling.safetensors")


def make_blocks(out: pathlib.Path) -> None:
    """Random blocks of every encoding, two rows of 256 numbers each, and what the package `gguf` reads in them."""
    random = np.random.default_rng(23)
    writers = [GGUFWriter(out / "blocks.gguf", "llama"),
               GGUFWriter(out / "split.gguf", "llama", split_max_tensors=6)]
    tensors = {}
    # Where the scales lie in the blocks that the package cannot quantise to.
    scales = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
              "IQ4_NL": range(0, 144, 18)}
    for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K",
                 "IQ4_NL", "IQ4_XS", "MXFP4"]:
        kind = GGMLQuantizationType[name]
        if name in scales:
            shape = quants.quant_shape_to_byte_shape((2, 256), kind)
            data = random.integers(0, 256, shape, dtype=np.uint8)
            for at in scales[name]:
                data[:, at : at + 2] = random.normal(size=(2, 1)).astype(np.float16).view(np.uint8)
        else:
            data = quants.quantize(random.normal(size=(2, 256)).astype(np.float32), kind)
        tensors[name] = torch.from_numpy(quants.dequantize(data, kind).copy())
        for writer in writers:
            writer.add_tensor(name, data, raw_dtype=kind)
    for writer in writers:
        close(writer)
    store(tensors, out / "blocks.safetensors")


def close(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF_NAMES = {
    "model.": "", "transformer.": "", "lm_head": "output", "embed_tokens": "token_embd", "layers.": "blk.",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.": "attn_", "mlp.": "ffn_",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ffn_c_fc": "ffn_up", "ffn_c_proj": "ffn_down",
    "_proj": "", "attn_o.": "attn_output.", "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
    "h.": "blk.", "ln_1": "attn_norm", "ln_2": "ffn_norm",
}


def in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head with the two of a rotated pair side by side, as llama.cpp has them in its `llama` models."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def make_gguf(family: str, architecture: str, out: pathlib.Path) -> None:
    config = json.loads((out / family / "config.json").read_text())
    writer = GGUFWriter(out / f"{family}.gguf", architecture)
    gpt2 = architecture == "gpt2"
    writer.add_context_length(config["n_positions" if gpt2 else "max_position_embeddings"])
    writer.add_embedding_length(config["n_embd" if gpt2 else "hidden_size"])
    writer.add_feed_forward_length(4 * config["n_embd"] if gpt2 else config["intermediate_size"])
    writer.add_block_count(config["n_layer" if gpt2 else "num_hidden_layers"])
    writer.add_head_count(config["n_head" if gpt2 else "num_attention_heads"])
    if gpt2:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(5e5 if family == "llama" else config["rope_parameters"]["rope_theta"])
    writer.add_token_list(["a", "b"])
    writer.add_eos_token_id(2)
    heads = {"q_proj": 4, "k_proj": 2}
    for name, value in load_file(out / family / "model.safetensors").items():
        value = value.numpy()
        if architecture == "llama" and (part := name.split(".")[-2]) in heads:
            value = in_pairs(value, heads[part])
        if gpt2 and value.ndim == 2 and ".h." in name:
            value = value.T
        for old, new in GGUF_NAMES.items():
            name = name.replace(old, new)
        name = "output_norm.weight" if name == "norm.weight" else name
        writer.add_tensor(name, np.ascontiguousarray(value if value.ndim == 2 else value.astype(np.float32)))
    if family == "llama":  # the effect of Llama 3.1's scaling on each frequency, as llama.cpp's converter writes it
        frequencies = 5e5 ** -(np.arange(0, 8, 2) / 8)
        lengths = 2 * np.pi / frequencies
        smooth = np.clip((8192 / lengths - 1) / 3, 0, 1)
        writer.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32))
    close(writer)


def make(out: pathlib.Path) -> None:
    store(batch(), out / "batch.safetensors")
    for name, config in FAMILIES.items():
        make_family(name, config, out)
    make_ropes(out)
    make_adapter("llama", out, r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"],
                 rank_pattern={"v_proj": 2}, alpha_pattern={"down_proj": 3})
    make_adapter("gpt2", out, r=3, lora_alpha=3, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True,
                 use_rslora=True)
    make_heads(out)
    make_sampling(out)
    make_blocks(out)
    for family, architecture in [("llama", "llama"), ("smollm", "llama"), ("qwen3", "qwen3"), ("gpt2", "gpt2")]:
        make_gguf(family, architecture, out)
