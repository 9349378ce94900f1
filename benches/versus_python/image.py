"""The image path beside torch, diffusers and transformers: the same checkpoints, batches, precision and threads in one go.

    make versus-python [FULL_SIZE=FOLDER] [PHOTOS=FOLDER]
    python3 benches/versus_python/image.py [PART ..] [--threads 2] [--full-size FOLDER] [--photos FOLDER]

Parts, each with its peer:

  start    `preftune generate --help`, and one training step of a tiny model from the start of the process to its end;
           Python's imports of torch, diffusers and transformers alone
  sample   images a second at batches of 1, 8 and 32: diffusers' StableDiffusionPipeline, the same DDIM steps, guidance
           and initial noise; the images must agree; with `--full-size` at Stable Diffusion 1.5's size too
  score    photos a second, decoding and resizing included: transformers' CLIPModel and PIL processor; likenesses must
           agree
  step     an RPO training step, all weights and LoRA: a plain diffusers and peft loop with the same mathematics (policy
           and frozen base on both images of each pair, clipping, fused AdamW), everything encoded once (`cached`) or
           autoencoder and text encoder run at every step beside a second U-Net as in the official code
           (`official`), against ours as it is and with a bank of draws (`objective.noise_bank`)
  full_size
           the same at Stable Diffusion 1.5's size and 256 pixels with a LoRA; with all weights, which want more than
           20 GB there in f32, at half its width
  subject  a run from the photos to the best weights (`configs/image/rpo_sd15_full.toml` on the embedded world without
           patience, start and loading included); the phases of the official code in plain diffusers with its numbers of
           images and steps (`subject.py`), a share of each timed and multiplied, without imports
  adamw    an update of the U-Net's tensors with clipping: torch's AdamW, fused and for-each, after clip_grad_norm_

What a command needs to start and load is taken off ours by timing it at two sizes, which the peers, already loaded,
do not need. Where it takes long, both sides run in turns. Medians and ratios (peer / ours) go to stdout and, part by part,
to benches/results/versus_python_image.{json,md}. That the mathematics agree, gradient by gradient, is tested
(`tests/training.rs`, `tests/pipeline.rs`); here outputs are compared once more. `score` and `full_size` want
`--full-size`, a folder that tests/python/full_size.py has filled; `score` wants `--photos`, a clone of google/dreambooth.
"""

import argparse
import copy
import csv
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORLD = ROOT / "assets/emoji-world"
RESULTS = ROOT / "benches/results/versus_python_image.md"
PARTS = ("start", "sample", "score", "step", "full_size", "adamw", "subject")
# Draws of noise that a run comes back to, where it asks for a bank.
BANK = 16
COLUMNS = ("case", "unit", "ours", "peer", "ratio", "note")


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_of(repeats, run):
    """Median seconds of `run` after one call that warms up."""
    run()
    return statistics.median(seconds_of(run) for _ in range(repeats))


def in_turns(rounds, **timed):
    """Seconds by name, a list of one for each round, where every round runs all of `timed` (functions that return seconds)
    one after another: a machine whose speed drifts slows both sides of a round alike."""
    found = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            found[name].append(run())
    return found


class Bench:
    def __init__(self, args):
        self.args = args
        self.rows = []
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
        self.environment.pop("PYTHONPATH", None)

    def preftune(self, *words):
        command = [self.args.binary, *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def row(self, part, case, unit, ours, peer, agreement=""):
        """`ours` and `peer` in seconds a piece, a list each of as many rounds: medians, and the median of their ratios."""
        ratio = statistics.median(b / a for a, b in zip(ours, peer, strict=True))
        ours, peer = statistics.median(ours), statistics.median(peer)
        self.rows.append((part, case, unit, ours, peer, ratio, agreement))
        print(f"{part:<7} {case:<38} {unit:<10} {ours * 1e3:10.2f} ms {peer * 1e3:10.2f} ms {ratio:7.2f} x  {agreement}", flush=True)

    # start

    def start(self):
        imports = "import torch, diffusers, transformers; from diffusers import StableDiffusionPipeline"
        environment = {**self.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        python = median_of(3, lambda: subprocess.run([sys.executable, "-c", imports], env=environment, check=True))
        self.row("start", "generate --help", "command", [median_of(9, lambda: self.preftune("generate", "--help"))], [python])
        with tempfile.TemporaryDirectory() as folder:
            count = iter(range(1000))
            (pathlib.Path(folder) / "prompts.txt").write_text("a {token} dog in the snow\n")
            tiny = ROOT / "tests/golden/diffusion/sd1"

            def one_step():
                self.preftune(
                    "train", ROOT / "configs/image/dreambooth_sd15_lora.toml", "--quiet",
                    "--output", f"{folder}/{next(count)}", "--photos", WORLD / "subjects/dog", "--class", "dog",
                    *self.sets({"model.base": tiny, "reward.encoder": ROOT / "tests/golden/encoders/clip",
                                "objective.prior_weight": 0, "train.resolution": 32, "train.steps": 1,
                                "validation.every": 0, "validation.patience": 0}),
                )
            self.row("start", "first training step of a tiny model", "command", [median_of(3, one_step)], [python])

    @staticmethod
    def sets(values):
        words = []
        for key, value in values.items():
            text = json.dumps(str(value)) if isinstance(value, pathlib.Path) else json.dumps(value)
            words += ["--set", f"{key}={text}"]
        return words

    # sample

    def sample(self):
        import safetensors.torch
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        prompts = [line for line in (WORLD / "prompts/samples.txt").read_text().splitlines() if line]
        guidance = 5.0
        # Model, side of its images and latents, steps, batches, and how many images more the second timing makes.
        cases = [("", WORLD, 64, 16, 20, (1, 8, 32), 32)]
        if self.args.full_size:
            cases.append(("SD 1.5 size, ", self.args.full_size / "sd15", 256, 32, 4, (1,), 2))
        for name, model, side, latent, steps, batches, more in cases:
            pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
            pipeline.set_progress_bar_config(disable=True)
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)

                def ours(batch, count):
                    latents = torch.randn(count, 4, latent, latent, generator=torch.Generator().manual_seed(count))
                    safetensors.torch.save_file({"latents": latents}, folder / "latents.safetensors")
                    chosen = [prompts[i % len(prompts)] for i in range(count)]
                    (folder / "prompts.txt").write_text("\n".join(chosen))
                    self.preftune(
                        "generate", "--model", model, "--prompts", folder / "prompts.txt", "--sampler", "ddim",
                        "--steps", steps, "--guidance", guidance, "--batch", batch, "--quiet", "--out", folder / "out",
                        "--width", side, "--height", side, "--latents", folder / "latents.safetensors",
                        "--tensors", folder / "images.safetensors",
                    )
                    return chosen, latents

                def theirs(chosen, latents):
                    return pipeline(
                        chosen, latents=latents, num_inference_steps=steps, guidance_scale=guidance, height=side, width=side,
                        output_type="pt",
                    ).images

                for batch in batches:
                    small, large = batch, batch + max(more, batch)
                    chosen, latents = ours(batch, batch)
                    mine = safetensors.torch.load_file(folder / "images.safetensors")["images"]
                    difference = (mine - theirs(chosen, latents)).abs().max().item()
                    assert difference < 1e-3, f"images differ by {difference}"
                    seconds = in_turns(
                        3,
                        small=lambda: seconds_of(lambda: ours(batch, small)),
                        large=lambda: seconds_of(lambda: ours(batch, large)),
                        peer=lambda: seconds_of(lambda: theirs(chosen, latents)),
                    )
                    self.row("sample", f"{name}batch {batch}, {steps} DDIM steps, {side} px", "image",
                             [(b - a) / (large - small) for a, b in zip(seconds["small"], seconds["large"])],
                             [value / batch for value in seconds["peer"]], f"images within {difference:.0e}")

    # score

    def score(self):
        import torch
        from PIL import Image
        from transformers import CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        if not (self.args.full_size and self.args.photos):
            print("score: wants --full-size and --photos")
            return
        encoder = self.args.full_size / "clip"
        files = sorted(path for path in self.args.photos.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
        model = CLIPModel.from_pretrained(encoder).eval()
        processor = CLIPImageProcessorPil.from_pretrained(encoder)

        @torch.no_grad()
        def embed(paths):
            features = []
            for at in range(0, len(paths), 32):
                images = [Image.open(path).convert("RGB") for path in paths[at : at + 32]]
                pixels = processor(images, return_tensors="pt")["pixel_values"]
                found = model.get_image_features(pixel_values=pixels)
                features.append(getattr(found, "pooler_output", found))
            return torch.nn.functional.normalize(torch.cat(features), dim=-1)

        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            references = files[:5]
            for name, paths in (("references", references), ("few", files[:30]), ("all", files)):
                (folder / name).mkdir()
                for index, path in enumerate(paths):
                    (folder / name / f"{index:04}{path.suffix}").symlink_to(path.resolve())

            def ours(name):
                self.preftune("score", "--references", folder / "references", "--images", folder / name, "--encoder", encoder,
                              "--prompt", "a dog", "--csv", folder / f"{name}.csv", "--quiet")

            ours("all")
            cosines = embed(files) @ embed(references).T
            with open(folder / "all.csv") as file:
                mine = torch.tensor([float(row["image"]) for row in csv.DictReader(file)])
            theirs = (cosines.mean(1) + 1) / 2
            difference = (mine - theirs).abs().max().item()
            assert difference < 1e-4, f"likenesses differ by {difference}"
            seconds = in_turns(
                3,
                few=lambda: seconds_of(lambda: ours("few")),
                all=lambda: seconds_of(lambda: ours("all")),
                peer=lambda: seconds_of(lambda: embed(files)),
            )
            self.row("score", f"{len(files)} photos, CLIP ViT-B/32 size", "photo",
                     [(b - a) / (len(files) - 30) for a, b in zip(seconds["few"], seconds["all"])],
                     [value / len(files) for value in seconds["peer"]], f"likeness within {difference:.0e}")

    # step

    def step(self):
        self.step_of("step", "embedded world, 64 px, 4 pairs", WORLD, WORLD / "reward", 64, 4, 40)

    def full_size(self):
        if not self.args.full_size:
            print("full_size: wants --full-size")
            return
        folder = self.args.full_size
        self.step_of("full_size", "SD 1.5 size, 256 px, 1 pair", folder / "sd15", folder / "clip", 256, 1, 4, ["lora"])
        self.step_of("full_size", "half the width, 256 px, 1 pair", folder / "sd15_half", folder / "clip", 256, 1, 4, ["full"])

    def step_of(self, part, case, base, encoder, side, pairs, steps, kinds=("full", "lora")):
        for kind in kinds:
            # The bank is filled before the first step: its share of a run of 400 steps is part of each.
            passes = self.base_passes(base, encoder, pairs)

            def ours(bank):
                a_step, a_pass = self.our_step(base, encoder, side, pairs, steps, kind, bank)
                return a_step + passes * a_pass if bank else a_step

            cached, official = self.their_steps(base, side, pairs, kind)
            repeats = max(3, steps // 2)
            seconds = in_turns(
                3,
                cached=lambda: median_of(repeats, cached),
                ours=lambda: ours(0),
                official=lambda: median_of(repeats, official),
                bank=lambda: ours(BANK),
            )
            self.row(part, f"{case}, {kind}, cached", "step", seconds["ours"], seconds["cached"])
            self.row(part, f"{case}, {kind}, official", "step", seconds["ours"], seconds["official"])
            self.row(part, f"{case}, {kind}, official, bank", "step", seconds["bank"], seconds["official"],
                     f"{passes:.2f} base passes a step of 400 for {2 * pairs}")

    def base_passes(self, base, encoder, pairs):
        """Images that the base model sees for each step of a subject's run with a bank."""
        plan = json.loads(self.preftune(
            "plan", ROOT / "configs/image/rpo_sd15_lora.toml", "--json", "--memory-only",
            *self.sets({"model.base": base, "reward.encoder": encoder, "subject.photos": WORLD / "subjects/dog",
                        "subject.class": "dog", "train.batch": pairs, "train.steps": 400, "objective.noise_bank": BANK}),
        ))
        return plan["work"]["unet_forwards_training"] / 400 - 2 * pairs

    def our_step(self, base, encoder, side, pairs, steps, kind, bank=0):
        """Seconds of a step, and of the base model's pass of an image where there is a bank."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "prompts.txt").write_text("a {token} {class} in the snow\n")
            self.preftune(
                "train", ROOT / "configs/image/quickstart.toml", "--quiet", "--output", folder / "run",
                *self.sets({
                    "model.base": base, "reward.encoder": encoder, "adapter.kind": kind, "train.resolution": side,
                    "train.batch": pairs, "train.steps": steps, "train.log_every": 1, "validation.every": 0,
                    "validation.patience": 0, "negatives.prompts": folder / "prompts.txt", "negatives.per_prompt": 4 if side < 256 else 1,
                    "sampler.steps": 2, "sampler.batch": 4, "checkpoint.every": steps, "objective.noise_bank": bank,
                }),
            )
            rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
            manifest = json.loads((folder / "run/manifest.json").read_text())
        at = [row["seconds"] for row in rows if row["kind"] == "train"]
        base_passes = manifest["counts"]["unet_forwards_training"] - 2 * pairs * steps
        return statistics.median(b - a for a, b in zip(at, at[1:])), manifest["seconds"].get("base errors", 0) / base_passes

    def their_steps(self, base, side, pairs, kind):
        """The peer's step with everything encoded once, and in the official order, of one U-Net."""
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        torch.manual_seed(0)
        load = lambda model, name: model.from_pretrained(base / name, torch_dtype=torch.float32).eval()
        unet = load(UNet2DConditionModel, "unet")
        vae, text = load(AutoencoderKL, "vae"), load(CLIPTextModel, "text_encoder")
        separate = copy.deepcopy(unet)
        if kind == "lora":
            from peft import LoraConfig

            unet.requires_grad_(False)
            unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        trained = [tensor for tensor in unet.parameters() if tensor.requires_grad]
        # The official code leaves AdamW as it is, on a CPU a loop over the tensors.
        fused, loop = (torch.optim.AdamW(trained, lr=1e-4, fused=fused) for fused in (True, False))
        images = torch.rand(2 * pairs, 3, side, side) * 2 - 1
        ids = torch.randint(0, 40, (2 * pairs, 77 if base != WORLD else 16))
        ids = ids[:, : text.config.max_position_embeddings]
        with torch.no_grad():
            posterior, tokens = vae.encode(images).latent_dist, text(ids)[0]

        def cached():
            # An adapter is switched off for the base; with all weights trained there is no way around a second U-Net.
            step(posterior, tokens, kind == "lora", fused)

        def official():
            with torch.no_grad():
                posterior, tokens = vae.encode(images).latent_dist, text(ids)[0]
            step(posterior, tokens, False, loop)

        def step(posterior, tokens, switch_off, optimizer):
            clean = posterior.sample() * vae.config.scaling_factor
            noise = torch.randn(pairs, *clean.shape[1:]).repeat(2, 1, 1, 1)
            at = torch.randint(0, 1000, (pairs,)).repeat(2)
            keep = torch.cos(at / 1000 * torch.pi / 2).view(-1, 1, 1, 1)
            noisy = keep * clean + (1 - keep**2).sqrt() * noise
            with torch.no_grad():
                if switch_off:
                    unet.disable_adapters()
                    base_prediction = unet(noisy, at, tokens).sample
                    unet.enable_adapters()
                else:
                    base_prediction = separate(noisy, at, tokens).sample
            prediction = unet(noisy, at, tokens).sample
            errors = ((prediction - noise) ** 2).mean((1, 2, 3))
            before = ((base_prediction - noise) ** 2).mean((1, 2, 3))
            margin = (before - errors)[:pairs] - (before - errors)[pairs:]
            label = 0.6
            preference = -(label * torch.nn.functional.logsigmoid(margin) + (1 - label) * torch.nn.functional.logsigmoid(-margin))
            loss = (errors[:pairs] + preference).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

        return cached, official

    # subject

    def subject(self):
        import subject

        photos = WORLD / "subjects/dog"
        files = sorted(photos.glob("*.png"))
        prompts = (WORLD / "prompts/train.txt").read_text().splitlines()
        filled = [line.replace("{token}", "[V]").replace("{class}", "dog") for line in prompts if line]
        count = lambda name, work: f"{name}: {work['sampling']:,} + {work['training']:,} U-Net forwards, {work['encodes']:,} reward encodes"
        theirs = count("official", {"sampling": subject.UNET_SAMPLING, "training": subject.UNET_TRAINING,
                                    "encodes": subject.REWARD_ENCODES})
        notes = {}

        def official():
            phases = subject.official(WORLD, WORLD / "reward", files, filled, 64)
            print("subject", {phase: round(seconds, 1) for phase, seconds in phases.items()}, flush=True)
            return sum(phases.values())

        def ours(bank):
            with tempfile.TemporaryDirectory() as folder:
                run = pathlib.Path(folder) / "run"
                seconds = seconds_of(lambda: self.preftune(
                    "train", ROOT / "configs/image/rpo_sd15_full.toml", "--quiet", "--output", run,
                    *self.sets({"model.base": WORLD, "reward.encoder": WORLD / "reward", "subject.photos": photos,
                                "subject.class": "dog", "subject.live": True, "train.resolution": 64,
                                "train.checkpoint_activations": False, "train.first_moment": "fp32", "validation.patience": 0,
                                "objective.noise_bank": bank}),
                ))
                manifest = json.loads((run / "manifest.json").read_text())
            done = manifest["counts"]
            notes[bank] = count("ours", {"sampling": done["unet_forwards_sampling"], "training": done["unet_forwards_training"],
                                         "encodes": done["reward_image_encodes"]})
            print("subject", {phase: round(value, 1) for phase, value in manifest["seconds"].items()}, flush=True)
            return seconds

        seconds = in_turns(3, plain=lambda: ours(0), official=official, bank=lambda: ours(BANK))
        self.row("subject", "all 400 steps", "run", seconds["plain"], seconds["official"], f"{notes[0]}; {theirs}")
        self.row("subject", f"all 400 steps, a bank of {BANK} draws", "run", seconds["bank"], seconds["official"],
                 f"{notes[BANK]}; {theirs}")

    # adamw

    def adamw(self):
        import torch

        from diffusers import UNet2DConditionModel

        command = ["cargo", "bench", "--quiet", "--bench", "core", "--", "adamw"]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, stdout=subprocess.DEVNULL)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        estimates = json.loads((target / "criterion/adamw/new/estimates.json").read_text())
        ours = estimates["median"]["point_estimate"] / 1e9
        shapes = [tensor.shape for tensor in UNet2DConditionModel.from_pretrained(WORLD / "unet").parameters()]
        for name, options in (("fused", {"fused": True}), ("for-each", {"foreach": True})):
            tensors = [torch.randn(shape).requires_grad_(True) for shape in shapes]
            optimizer = torch.optim.AdamW(tensors, lr=1e-4, **options)
            for tensor in tensors:
                tensor.grad = torch.randn_like(tensor)

            def update():
                torch.nn.utils.clip_grad_norm_(tensors, 1.0)
                optimizer.step()

            self.row("adamw", f"U-Net of the embedded world, torch {name}", "update", [ours], [median_of(20, update)])

    def keep(self, part):
        """Puts the rows of a part in place of those of its last run on this machine; other parts and machines stay."""
        import torch

        path = self.args.results.with_suffix(".json")
        kept = json.loads(path.read_text()) if path.exists() else {}
        rows = [row for row in self.rows if row[0] == part]
        if not rows:
            return
        own = kept.setdefault(machine.described(), {})
        own[part] = {
            "date": str(datetime.date.today()), "threads": self.args.threads, "torch": torch.__version__,
            "rows": [dict(zip(COLUMNS, row[1:])) for row in rows],
        }
        kept[machine.described()] = {name: own[name] for name in PARTS if name in own}
        path.write_text(json.dumps(kept, indent=1) + "\n")
        lines = [
            "# The image path beside Python", "",
            "`make versus-python`, or a part of it: `python3 benches/versus_python/image.py PART` (its header says what each",
            "part does). Medians of rounds in which both sides take turns, and of the rounds' ratios: Python's time / ours.",
        ]
        parts = [(where, name, part) for where, own in sorted(kept.items()) for name, part in own.items()]
        for where, name, part in parts:
            lines += [
                "", f"## {where}: {name}", "",
                f"{part['date']}, {part['threads']} threads, torch {part['torch']}", "",
                "| case | of a | ours, ms | Python, ms | ratio | |", "|---|---|---|---|---|---|",
            ]
            for row in part["rows"]:
                ours, peer = (f"{row[key] * 1e3:.2f}" for key in ("ours", "peer"))
                lines.append(f"| {row['case']} | {row['unit']} | {ours} | {peer} | {row['ratio']:.2f} | {row['note']} |")
        self.args.results.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--binary", default=str(ROOT / "target/release/preftune"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full-size", type=pathlib.Path)
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    import torch

    torch.set_num_threads(args.threads)
    bench = Bench(args)
    for part in args.parts:
        getattr(bench, part)()
        bench.keep(part)


if __name__ == "__main__":
    main()
