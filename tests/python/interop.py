"""Does Python diffusers draw the same pictures from what preftune writes as preftune itself?

    python tests/python/interop.py target/release/preftune [--model FOLDER ...] [--run FOLDER ...]

For each model folder (by default the tiny ones of tests/golden/diffusion, and the embedded world): a random LoRA goes through `preftune export` to a PEFT file, a kohya file and
a merged model, and a changed U-Net to a full model. On the embedded world, `preftune train` then makes a few
steps, for a LoRA and for the whole U-Net; their best weights are exported, and so are those of the runs that are named.
`preftune generate` and diffusers start from the same noise, and their pictures, with values in [0, 1], must agree
to 1e-3. The world's two encoders are loaded by transformers, and its cosines must be those of `preftune score` to 1e-4.
Needs the packages of tests/golden/requirements.txt. Exits with 1 and a message where something does not agree.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from PIL import Image
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORLD = ROOT / "assets/emoji-world"
PROMPT = "a photo of a [V] dog on the beach"
STEPS, GUIDANCE, IMAGES = 8, 3.0, 2
TOLERANCE = 1e-3
# Kohya files hold f16; that is their readers' convention.
F16_TOLERANCE = 2e-2
# Below this a LoRA that is dropped would not be noticed.
LEAST_EFFECT = 20 * TOLERANCE
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]


class Checks:
    def __init__(self, binary: pathlib.Path):
        self.binary = binary
        self.failures = []

    def preftune(self, *arguments) -> str:
        command = [str(self.binary), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"`{' '.join(command)}` failed with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def compare(self, what: str, ours: torch.Tensor, theirs: torch.Tensor, base: torch.Tensor | None = None,
                tolerance: float = TOLERANCE) -> None:
        if ours.shape != theirs.shape:
            self.failures.append(f"{what}: sizes {tuple(ours.shape)} and {tuple(theirs.shape)}")
            return
        difference = (ours - theirs).abs().max().item()
        line = f"{what}: largest difference {difference:.1e}"
        if base is not None:
            effect = (theirs - base).abs().max().item()
            line += f", effect of the tuning {effect:.2f}"
            if effect < LEAST_EFFECT:
                self.failures.append(f"{what}: the tuning changes the pictures by {effect:.1e} only")
        if not difference <= tolerance:
            self.failures.append(f"{what}: pictures differ by {difference:.1e}, allowed {tolerance}")
        print(line, flush=True)

    def generate(self, out: pathlib.Path, noise: pathlib.Path, size: tuple[int, int], *model) -> torch.Tensor:
        height, width = size
        tensors = out.with_suffix(".safetensors")
        self.preftune("generate", *model, "--prompt", PROMPT, "--count", IMAGES, "--sampler", "ddim", "--steps", STEPS,
                      "--guidance", GUIDANCE, "--height", height, "--width", width, "--latents", noise,
                      "--tensors", tensors, "--device", "cpu", "--out", out, "--quiet")
        return load_file(tensors)["images"]


def open_pipeline(folder: pathlib.Path) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw(pipeline: DiffusionPipeline, noise: pathlib.Path, size: tuple[int, int]) -> torch.Tensor:
    latents = load_file(noise)["latents"]
    return pipeline(prompt=[PROMPT] * IMAGES, latents=latents, height=size[0], width=size[1],
                    num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt").images.float()


def make_noise(pipeline: DiffusionPipeline, path: pathlib.Path) -> tuple[int, int]:
    """Writes the noise that both sides start from and returns the picture's height and width."""
    side = pipeline.unet.config.sample_size
    latents = torch.randn(IMAGES, pipeline.unet.config.in_channels, side, side + side // 2,
                          generator=torch.Generator().manual_seed(1))
    save_file({"latents": latents}, path)
    return side * pipeline.vae_scale_factor, (side + side // 2) * pipeline.vae_scale_factor


def attach_random_lora(pipeline: DiffusionPipeline, folder: pathlib.Path, spread: float) -> None:
    """Saved as a training script of diffusers saves it: matrices as they are, alpha in the header."""
    unet = pipeline.unet
    unet.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(2)
    for name, value in unet.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) * spread / value[0].numel() ** 0.5
    layers = get_peft_model_state_dict(unet)
    type(pipeline).save_lora_weights(folder, layers, **_collate_lora_metadata({"unet": unet}))


def save_changed_unet(model: pathlib.Path, folder: pathlib.Path, spread: float) -> None:
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for value in unet.parameters():
        value.data += torch.randn(value.shape, generator=generator) * spread * value.abs().mean()
    unet.save_pretrained(folder)


def check_lora_file(checks: Checks, what: str, model: pathlib.Path, file: pathlib.Path, ours: torch.Tensor,
                    noise: pathlib.Path, size: tuple[int, int], base: torch.Tensor) -> None:
    pipeline = open_pipeline(model)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    checks.compare(what, ours, draw(pipeline, noise, size), base)


def check_model(checks: Checks, model: pathlib.Path, work: pathlib.Path) -> None:
    name = model.name
    noise = work / "noise.safetensors"
    pipeline = open_pipeline(model)
    size = make_noise(pipeline, noise)
    base = draw(pipeline, noise, size)
    checks.compare(f"{name}, base", checks.generate(work / "base", noise, size, "--model", model), base)

    attach_random_lora(pipeline, work / "lora", 0.5)
    # Before any file: were the export to change the strength, both readers of its files would agree on the wrong one.
    attached = draw(pipeline, noise, size)
    checks.preftune("export", work / "lora", "--base", model, "--out", work / "files", "--name", "random")
    for file, tolerance in [("pytorch_lora_weights.safetensors", TOLERANCE), ("random.safetensors", F16_TOLERANCE)]:
        path = work / "files" / file
        ours = checks.generate(work / path.stem, noise, size, "--model", model, "--lora", path)
        checks.compare(f"{name}, {file} and the adapter before its export", ours, attached, base, tolerance)
        check_lora_file(checks, f"{name}, {file}", model, path, ours, noise, size, base)

    checks.preftune("export", work / "lora", "--base", model, "--out", work / "merged", "--format", "merged",
                    "--dtype", "f32")
    save_changed_unet(model, work / "unet", 0.1)
    checks.preftune("export", work / "unet", "--base", model, "--out", work / "full")
    for kind in ["merged", "full"]:
        ours = checks.generate(work / f"{kind}_images", noise, size, "--model", work / kind)
        checks.compare(f"{name}, {kind} model", ours, draw(open_pipeline(work / kind), noise, size), base)
        if kind == "merged":
            checks.compare(f"{name}, merged model and the adapter before its export", ours, attached, base)


def check_run(checks: Checks, run: pathlib.Path, work: pathlib.Path) -> None:
    """A run's best weights: drawn by preftune from the run, by diffusers from what the export makes of it."""
    manifest = json.loads((run / "manifest.json").read_text())
    model = pathlib.Path(manifest["base_model"])
    noise = work / "noise.safetensors"
    size = make_noise(open_pipeline(model), noise)
    ours = checks.generate(work / "run", noise, size, "--model", run)
    base = draw(open_pipeline(model), noise, size)
    out = work / "export"
    checks.preftune("export", run, "--out", out)
    if manifest["adapter"] == "lora":
        for file in sorted(out.glob("*.safetensors")):
            check_lora_file(checks, f"{run.name}, {file.name}", model, file, ours, noise, size, base)
        best = run / "best/pytorch_lora_weights.safetensors"
        check_lora_file(checks, f"{run.name}, best", model, best, ours, noise, size, base)
    else:
        checks.compare(f"{run.name}, full model", ours, draw(open_pipeline(out), noise, size), base)


def check_training(checks: Checks, model: pathlib.Path, work: pathlib.Path) -> None:
    for kind in ["lora", "full"]:
        run = work / f"trained_{kind}"
        config = work / f"{kind}.toml"
        config.write_text(CONFIG.format(run=run, model=model, kind=kind))
        checks.preftune("train", config, "--quiet")
        (work / kind).mkdir()
        check_run(checks, run, work / kind)


# The last weights are the best where nothing is validated.
CONFIG = """
run = {{ output = "{run}", device = "cpu" }}
model = {{ base = "{model}" }}
subject = {{ photos = "{model}/subjects/cat", class = "cat", live = false, prompt = "a {{token}} {{class}}" }}
adapter = {{ kind = "{kind}" }}
reward = {{ encoder = "{model}/reward" }}
negatives = {{ per_prompt = 1 }}
train = {{ steps = 4, batch = 4, learning_rate = 1e-3, warmup = 0 }}
validation = {{ every = 0, patience = 0 }}
sampler = {{ steps = 4, guidance = 3.0 }}
"""


@torch.no_grad()
def check_encoder(checks: Checks, folder: pathlib.Path) -> None:
    """Cosines of photos among themselves and with a prompt: transformers, and the scores of preftune."""
    photos = sorted((WORLD / "subjects/cat").glob("*.png"))
    prompt = "a red cat in the snow"
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)([prompt], padding=True, return_tensors="pt")
    pictures = [Image.open(photo).convert("RGB") for photo in photos]
    pixels = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")(pictures, return_tensors="pt")
    outputs = model(**{key: value for key, value in {**tokens, **pixels}.items() if key != "token_type_ids"})
    unit = lambda rows: rows / rows.norm(dim=-1, keepdim=True)
    images, text = unit(outputs.image_embeds), unit(outputs.text_embeds)
    scores = json.loads(checks.preftune("score", "--references", photos[0].parent, "--images", photos[0].parent, "--prompt",
                                        prompt, "--encoder", folder, "--report-encoder", folder, "--json", "--quiet"))
    ours = torch.tensor([[row["clip_i"], row["clip_t"]] for row in scores["images"]])
    theirs = torch.stack([(images @ images.T).mean(dim=1), (images @ text.T)[:, 0]], dim=1)
    checks.compare(f"{folder.name}, cosines", ours, theirs, tolerance=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, action="append", help="model folder")
    parser.add_argument("--run", type=pathlib.Path, action="append", default=[], help="finished run of preftune train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    # Says for every LoRA that it does not adapt the text encoder.
    diffusers_logging.set_verbosity_error()
    checks = Checks(arguments.binary.resolve())
    tiny = [ROOT / "tests/golden/diffusion" / family for family in ["sd1", "sd2", "sdxl"]]
    trained = [WORLD]
    for encoder in ["reward", "judge"]:
        check_encoder(checks, WORLD / encoder)
    for check, folders in [
        (check_model, arguments.model or tiny + trained),
        (check_training, trained),
        (check_run, arguments.run),
    ]:
        for folder in folders:
            with tempfile.TemporaryDirectory() as work:
                check(checks, folder.resolve(), pathlib.Path(work))
    if checks.failures:
        sys.exit("\n".join(["diffusers and preftune do not agree:", *checks.failures]))
    print("diffusers and preftune draw the same pictures")


if __name__ == "__main__":
    main()
