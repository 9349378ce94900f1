"""Files of weights as `torch.save` writes them, of every form that is read, and what must be refused.

Needs the folders of the areas `encoders`, `lm` and `lora`.
"""
import collections
import json
import pathlib
import sys
import types

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent


def states() -> dict:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    state = collections.OrderedDict()
    state["float32"] = base
    state["transposed"] = base.t()  # the same storage
    state["row"] = base[2]
    state["column"] = base[:, 3]
    state["steps"] = base[1:, 1::2]
    state["expanded"] = base[:, :1].expand(4, 3)
    for kind in [torch.float64, torch.float16, torch.bfloat16]:
        state[str(kind).removeprefix("torch.")] = torch.randn(3, 5).to(kind)
    for kind in [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]:
        state[str(kind).removeprefix("torch.")] = torch.randint(0, 100, (7,)).to(kind)
    state["bool"] = torch.tensor([True, False, True])
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    state["parameter"] = torch.nn.Parameter(torch.randn(2, 2))
    marked = torch.randn(2)
    marked.note = "an attribute"  # goes through _rebuild_from_type_v2
    state["marked"] = marked
    state["count"] = 3  # no tensor
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return state


def a_class(module: str, name: str) -> type:
    """A class that pickles by name, of a package that is not there."""
    made = type(name, (), {"__module__": module})
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        package = ".".join(parts[:end])
        sys.modules.setdefault(package, types.ModuleType(package)).__path__ = []
    setattr(sys.modules[module], name, made)
    return made


def lightning(state) -> dict:
    checkpoint = a_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    settings = a_class("omegaconf.dictconfig", "DictConfig")()
    settings.lr = 1e-4
    return {
        "epoch": 3, "global_step": 1200, "pytorch-lightning_version": "1.4.2", "state_dict": state,
        "callbacks": {checkpoint: {"best_model_score": torch.tensor(0.5), "best": np.float64(0.25)}},
        "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [], "hyper_parameters": settings,
    }


def make(out: pathlib.Path) -> None:
    state = states()
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, out / "expected.safetensors")
    torch.save(state, out / "zip.pt")
    torch.save(state, out / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(state, out / "protocol4.pt", pickle_protocol=4)
    for key in ["model", "module"]:
        torch.save({key: state, "epoch": 1}, out / f"{key}.pth")
    torch.save(lightning(state), out / "lightning.ckpt")
    torch.serialization.set_crc32_options(False)
    torch.save(state, out / "no_checksum.pt")
    torch.serialization.set_crc32_options(True)

    names = list(tensors)
    for number, part in enumerate([names[:9], names[9:]], 1):
        file = out / "sharded" / f"pytorch_model-0000{number}-of-00002.bin"
        file.parent.mkdir(exist_ok=True)
        torch.save({name: tensors[name] for name in part}, file)
        shards = {name: file.name for name in part}
        part = {} if number == 1 else weight_map
        weight_map = {**part, **shards}
    (out / "sharded/pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    torch.save({"a": torch.zeros(2, dtype=torch.complex64), "b": torch.ones(2)}, out / "complex.pt")
    torch.save({"a": torch.eye(3).to_sparse()}, out / "sparse.pt")
    torch.save({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, out / "quantised.pt")
    torch.save({"a": torch.zeros(2, dtype=torch.complex64).conj().imag}, out / "negated.pt")
    torch.save(torch.nn.Linear(2, 2), out / "module.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(out / "script.pt")

    # Encoders as they are published: old files with `position_ids`, in both formats.
    clip = load_file(HERE / "encoders/clip/model.safetensors")
    for part in ["text", "vision"]:
        length = clip[f"{part}_model.embeddings.position_embedding.weight"].shape[0]
        clip[f"{part}_model.embeddings.position_ids"] = torch.arange(length).expand((1, -1))
    torch.save(clip, out / "clip.bin")
    dino = load_file(HERE / "encoders/dino/model.safetensors")
    torch.save(dino, out / "dino.bin", _use_new_zipfile_serialization=False)
    adapter = load_file(HERE / "lm/llama_adapter/adapter_model.safetensors")
    torch.save(adapter, out / "adapter_model.bin")
