"""Does diffusers read the single files that preftune writes, and preftune those of others, in every precision and container?
Do both draw the same pictures from one, and read the same autoencoder from a file of its own?

    python tests/python/single_file.py target/debug/preftune

For tiny models of Stable Diffusion 1, 2 and XL with CLIP's own vocabulary: `preftune export --format single-file` as f16, bf16 and f32;
diffusers' converters must make of each file the tensors of the folder, bit by bit in the file's type. The same file as PyTorch saves it,
with EMA weights and the rest of a trainer's checkpoint around it, must give the tensors of the folder. From the parts that diffusers'
converters make of a file, its pipeline draws from the same noise what `preftune generate` draws from the file, to 1e-3 of the unit range.
An autoencoder in a file of its own, as safetensors and as PyTorch's, is the one that diffusers' converter makes of it, to the same bound.
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
from diffusers import (AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline,
                       UNet2DConditionModel)
from diffusers.loaders import single_file_utils as convert
from safetensors.torch import load_file, save_file
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
PROMPT, STEPS, GUIDANCE = "a photo of a cat", 8, 3.0
TOLERANCE = 1e-3
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


def loaded(model, found: dict):
    """The model with the tensors that a converter made; names and forms are those of the model."""
    own = {plain(name): name for name in model.state_dict()}
    found = {own[plain(name)]: tensor for name, tensor in found.items() if not name.endswith("position_ids")}
    meant = model.state_dict()
    missing = [name for name in meant if name not in found and not name.endswith("position_ids")]
    if missing:
        raise KeyError(f"no converter made {missing[:4]}")
    model.load_state_dict({name: tensor.float().reshape(meant[name].shape) for name, tensor in found.items()}, strict=False)
    return model.float().eval()


def pipeline(folder: pathlib.Path, file: dict, vae: AutoencoderKL | None = None):
    """diffusers' pipeline of the parts that its converters make of a file; settings and vocabularies are those of the folder."""
    config = lambda part: json.loads((folder / part / "config.json").read_text())  # noqa: E731
    found = parts(folder, file)
    built = {"unet": loaded(UNet2DConditionModel.from_config(config("unet")), found["unet"]),
             "vae": vae or loaded(AutoencoderKL.from_config(config("vae")), found["vae"]),
             "scheduler": DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
             "text_encoder": loaded(CLIPTextModel(CLIPTextConfig(**config("text_encoder"))), found["text_encoder"]),
             "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")}
    if "text_encoder_2" in found:
        encoder = CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))
        built |= {"text_encoder_2": loaded(encoder, found["text_encoder_2"]),
                  "tokenizer_2": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer_2")}
        index = json.loads((folder / "model_index.json").read_text())
        made = StableDiffusionXLPipeline(**built, add_watermarker=False,
                                         force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt", True))
    else:
        made = StableDiffusionPipeline(**built, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@torch.no_grad()
def drawn(made, noise: torch.Tensor) -> torch.Tensor:
    height, width = [side * made.vae_scale_factor for side in noise.shape[2:]]
    return made(prompt=[PROMPT] * len(noise), latents=noise, height=height, width=width, num_inference_steps=STEPS,
                guidance_scale=GUIDANCE, output_type="pt").images.float()


def random_vae(scale: float) -> AutoencoderKL:
    """With the groups of 32 channels that a file in the first authors' names has, and levels as the tiny models have them."""
    torch.manual_seed(3)
    vae = AutoencoderKL(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=32,
                        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, scaling_factor=scale)
    for value in vae.parameters():
        value.data += torch.randn(value.shape) * 0.05
    return vae.eval()


def main() -> None:
    binary = pathlib.Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
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

        def from_noise(model: pathlib.Path, noise: torch.Tensor, *more) -> torch.Tensor:
            save_file({"latents": noise}, root / "noise.safetensors")
            preftune("generate", "--model", model, "--prompt", PROMPT, "--count", len(noise), "--sampler", "ddim", "--steps", STEPS,
                     "--guidance", GUIDANCE, "--latents", root / "noise.safetensors", "--device", "cpu", "--out", root / "images",
                     "--tensors", root / "images.safetensors", "--quiet", *more)
            shutil.rmtree(root / "images")
            return load_file(root / "images.safetensors")["images"]

        def same_picture(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
            difference = (ours - theirs).abs().max().item()
            print(f"{what}: pictures of preftune and diffusers differ by {difference:.1e}", flush=True)
            if not difference <= TOLERANCE:
                failures.append(f"{what}: pictures differ by {difference:.1e}, allowed {TOLERANCE}")

        for family in ["sd1", "sd2", "sdxl"]:
            folder = root / family
            widened(family, folder)
            side = json.loads((folder / "unet/config.json").read_text())["sample_size"]
            noise = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))
            meant = picture(folder)
            for name, kind in KINDS.items():
                out = root / f"{family}-{name}"
                preftune("export", folder / "unet", "--base", folder, "--format", "single-file", "--dtype", name, "--name", "whole",
                         "--out", out)
                file = load_file(out / "whole.safetensors")
                failures += compare(f"{family} as {name}", folder, file, kind)
                same_picture(f"{family} as {name}", from_noise(out / "whole.safetensors", noise), drawn(pipeline(folder, file), noise))
                difference = (picture(out / "whole.safetensors") - meant).abs().max().item()
                print(f"{family} as {name}: pictures differ by {difference:.1e}")
                if name != "bf16" and difference > 0:
                    failures.append(f"{family} as {name}: pictures differ by {difference:.1e}")
            # An autoencoder in a file of its own: its tensors in the first authors' names, with and without a prefix.
            scale = json.loads((folder / "vae/config.json").read_text()).get("scaling_factor", 0.18215)
            vae = random_vae(scale)
            vae.save_pretrained(root / f"{family}-vae")
            preftune("export", folder / "unet", "--base", folder, "--vae", root / f"{family}-vae", "--format", "single-file", "--dtype",
                     "f32", "--name", "whole", "--out", root / f"{family}-other")
            file = load_file(root / f"{family}-other/whole.safetensors")
            prefixed = {name: tensor for name, tensor in file.items() if name.startswith("first_stage_model.")}
            bare = {name.removeprefix("first_stage_model."): tensor for name, tensor in prefixed.items()}
            made = convert.convert_ldm_vae_checkpoint(dict(bare), vae.config)
            unequal = [name for name, tensor in vae.state_dict().items()
                       if not torch.equal({plain(n): t for n, t in made.items()}[plain(name)].reshape(tensor.shape), tensor)]
            print(f"{family}: the baked autoencoder: {len(made)} tensors through diffusers' converter, {len(unequal)} differ")
            if unequal or len(made) != len(vae.state_dict()):
                failures.append(f"{family}: diffusers' converter makes another autoencoder: {unequal[:4]}")
            theirs = drawn(pipeline(folder, file, loaded(AutoencoderKL.from_config(vae.config), made)), noise)
            save_file(bare, root / "vae.safetensors")
            save_file(prefixed, root / "prefixed.safetensors")
            torch.save({"state_dict": bare | {"loss.logvar": torch.zeros(1)}, "epoch": 1}, root / "vae.ckpt")
            whole = root / f"{family}-f32/whole.safetensors"
            for model, beside in [(folder, root / f"{family}-vae"), (whole, root / "vae.safetensors"),
                                  (whole, root / "prefixed.safetensors"), (folder, root / "vae.ckpt")]:
                ours = from_noise(model, noise, "--vae", beside)
                same_picture(f"{family}, the autoencoder of `{beside.name}` beside `{model.name}`", ours, theirs)
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
    print("diffusers and preftune read the same files and draw the same pictures")


if __name__ == "__main__":
    main()
