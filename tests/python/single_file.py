"""Does diffusers read the single files that preftune writes, and preftune those of others, in every precision and container?

    python tests/python/single_file.py target/debug/preftune

For tiny models of Stable Diffusion 1, 2 and XL with CLIP's own vocabulary: `preftune export --format single-file` as f16, bf16 and f32;
diffusers' converters must make of each file the tensors of the folder, bit by bit in the file's type. The same file as PyTorch saves it,
with EMA weights and the rest of a trainer's checkpoint around it, must give the pictures of the folder.
Needs the packages of tests/golden/requirements.txt. Exits with 1 and a message where something does not agree.
"""
import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vocabulary() -> tuple[dict, str]:
    merges = gzip.open(ROOT / "assets/clip/merges.txt.gz", "rt", encoding="utf-8").read()
    symbols = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    symbols += [chr(256 + number) for number in range(256 - len(symbols))]
    words = symbols + [symbol + "</w>" for symbol in symbols] + [line.replace(" ", "") for line in merges.splitlines()]
    return {word: number for number, word in enumerate(words + ["<|startoftext|>", "<|endoftext|>"])}, merges


def widened(family: str, to: pathlib.Path) -> None:
    """The golden model with CLIP's vocabulary and a table of its size."""
    shutil.copytree(ROOT / "tests/golden/diffusion" / family, to)
    words, merges = vocabulary()
    torch.manual_seed(0)
    for suffix in ["", "_2"]:
        encoder = to / f"text_encoder{suffix}"
        if not encoder.exists():
            continue
        (to / f"tokenizer{suffix}/vocab.json").write_text(json.dumps(words), encoding="utf-8")
        (to / f"tokenizer{suffix}/merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        config = json.loads((encoder / "config.json").read_text())
        (encoder / "config.json").write_text(json.dumps({**config, "vocab_size": len(words)}))
        tensors = load_file(encoder / "model.safetensors")
        name = next(name for name in tensors if name.endswith("token_embedding.weight"))
        tensors[name] = (torch.randn(len(words), tensors[name].shape[1]) * 0.3).half()
        save_file(tensors, encoder / "model.safetensors", {"format": "pt"})


def parts(folder: pathlib.Path, file: dict) -> dict:
    """What diffusers makes of a file, and the tensors that it should be, by part."""
    config = lambda part: json.loads((folder / part / "config.json").read_text())  # noqa: E731
    unet = UNet2DConditionModel.from_config(config("unet")).config
    found = {"unet": convert.convert_ldm_unet_checkpoint(dict(file), unet)}
    vae = AutoencoderKL.from_config(config("vae")).config
    found["vae"] = convert.convert_ldm_vae_checkpoint(dict(file), vae)
    for part, kind in [("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)]:
        if not (folder / part).exists():
            continue
        prefix = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}[part]
        if any(name.startswith(prefix) for name in file):
            model = kind(CLIPTextConfig(**config(part)))
            found[part] = convert.convert_open_clip_checkpoint(model, dict(file), prefix=prefix)
        else:
            found[part] = convert.convert_ldm_clip_checkpoint(dict(file))
    return found


def plain(name: str) -> str:
    for old, new in OLD.items():
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name.removeprefix("text_model.")


def compare(what: str, folder: pathlib.Path, file: dict, kind: torch.dtype) -> list[str]:
    failures, count = [], 0
    for part, found in parts(folder, file).items():
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        meant = {plain(name): tensor for name, tensor in load_file(folder / part / f"{stem}.safetensors").items()
                 if not name.endswith("position_ids")}
        found = {plain(name): tensor for name, tensor in found.items()}
        if found.keys() != meant.keys():
            failures.append(f"{what}, {part}: other names: {sorted(found.keys() ^ meant.keys())[:4]}")
            continue
        for name, tensor in meant.items():
            count += 1
            if found[name].dtype != kind or not torch.equal(found[name].reshape(tensor.shape), tensor.to(kind)):
                failures.append(f"{what}, {part}: `{name}` differs")
    print(f"{what}: {count} tensors, {len(failures)} differ", flush=True)
    return failures


def main() -> None:
    binary = pathlib.Path(sys.argv[1]).resolve()
    failures = []

    def preftune(*arguments) -> None:
        done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"`{' '.join(map(str, arguments))}` failed with {done.returncode}:\n{done.stderr}")

    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)

        def picture(model: pathlib.Path) -> torch.Tensor:
            preftune("generate", "--model", model, "--prompt", "a photo of a cat", "--steps", 3, "--seed", 1, "--device", "cpu",
                     "--out", root / "images", "--tensors", root / "images.safetensors", "--quiet")
            shutil.rmtree(root / "images")
            return load_file(root / "images.safetensors")["images"]

        for family in ["sd1", "sd2", "sdxl"]:
            folder = root / family
            widened(family, folder)
            meant = picture(folder)
            for name, kind in KINDS.items():
                out = root / f"{family}-{name}"
                preftune("export", folder / "unet", "--base", folder, "--format", "single-file", "--dtype", name, "--name", "whole",
                         "--out", out)
                file = load_file(out / "whole.safetensors")
                failures += compare(f"{family} as {name}", folder, file, kind)
                difference = (picture(out / "whole.safetensors") - meant).abs().max().item()
                print(f"{family} as {name}: pictures differ by {difference:.1e}")
                if name != "bf16" and difference > 0:
                    failures.append(f"{family} as {name}: pictures differ by {difference:.1e}")
            # As a trainer of PyTorch leaves it. The settings that its header has are not in it: tiny heads are not those of the
            # family, so that tensors are compared and no pictures.
            file = load_file(root / f"{family}-f32" / "whole.safetensors")
            file |= {"model_ema." + name.replace(".", ""): tensor for name, tensor in file.items() if "diffusion_model" in name}
            file["model_ema.decay"] = torch.tensor(0.9999)
            for old in [False, True]:
                whole = {"state_dict": file, "epoch": 1, "global_step": 2, "optimizer_states": [{"state": {}, "param_groups": []}]}
                torch.save(whole, root / "whole.ckpt", _use_new_zipfile_serialization=not old)
                preftune("export", folder / "unet", "--base", root / "whole.ckpt", "--format", "single-file", "--dtype", "f32",
                         "--name", "whole", "--out", root / "again", "--force")
                again = load_file(root / "again/whole.safetensors")
                marks = {"v_pred", "ztsnr"}
                wanted = {name: tensor for name, tensor in file.items() if not name.startswith("model_ema")}
                same = again.keys() - marks == wanted.keys() - marks and all(
                    torch.equal(again[name], tensor) for name, tensor in wanted.items() if name not in marks)
                print(f"{family} through {'an old' if old else 'a'} checkpoint of PyTorch: {'the same' if same else 'other'} tensors")
                if not same:
                    failures.append(f"{family}: a checkpoint of PyTorch gives other tensors")
    if failures:
        sys.exit("\n".join(failures[:20]))


if __name__ == "__main__":
    main()
