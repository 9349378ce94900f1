"""Does `preftune train` on pairs of images make the steps that diffusers and torch make?

    python tests/python/pairs_parity.py target/release/preftune

The whole U-Net of the tiny SD 1 of tests/golden learns from eight pairs by Diffusion-DPO: preftune as a user runs it, and
a loop of torch over diffusers' modules with the loss as Wallace et al. (arXiv 2311.12908, equation 14) define it, on the
same latents, noises and timesteps. These come from seeds that are hashes of (seed, purpose, counters), as
`src/ops/random.rs` documents. The losses of 50 steps must agree to 1e-3, the errors on the preferred and on the other images
to 1e-5. Needs the packages of tests/golden/requirements.txt.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import AutoTokenizer, CLIPTextModel
from transformers.utils import logging

MODEL = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/diffusion/sd1"
SEED, STEPS, BATCH, PAIRS, SIDE = 5, 50, 4, 8, 16
# As Salesforce's and diffusers' scripts name it; `objective.beta` is this over `denoising.scale`.
# This untrained model errs by more than 1, and beta times the rounding of that in f32 is the rounding of a margin: at the
# 2000 of the paper torch's own losses are off by some 1e-3.
BETA, SCALE = 200.0, 2000.0
# An epsilon above the rounding of gradients that are 0 in exact arithmetic, whose signs are random.
OPTIMISER = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01)
TOLERANCES = torch.tensor([1e-3, 1e-5, 1e-5])
CONFIG = f"""
run = {{{{ output = "run", seed = {SEED}, device = "cpu", precision = "fp32" }}}}
model = {{{{ base = "{MODEL}" }}}}
pairs = {{{{ train = "pairs.jsonl" }}}}
adapter = {{{{ kind = "full" }}}}
objective = {{{{ kind = "dpo", beta = {BETA / SCALE} }}}}
denoising = {{{{ scale = {SCALE}, shared_noise = {{shared}} }}}}
train = {{{{ resolution = {SIDE}, steps = {STEPS}, batch = {BATCH}, learning_rate = {OPTIMISER["lr"]}, epsilon = {OPTIMISER["eps"]}, clip_norm = 1.0 }}}}
validation = {{{{ every = 0, patience = 0 }}}}
"""


def derive_seed(purpose: str, *counters: int, seed: int = SEED) -> int:
    pack = lambda number: number.to_bytes(8, "little")
    text = pack(seed) + purpose.encode() + b"\0" + b"".join(map(pack, counters))
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


class SplitMix:
    def __init__(self, seed: int):
        self.state = seed

    def next(self) -> int:
        mask = 2**64 - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)


def permutation(seed: int, count: int) -> list[int]:
    state, order = SplitMix(seed), list(range(count))
    for last in range(count - 1, 0, -1):
        other = state.next() % (last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def randn(purpose: str, *counters: int, shape) -> torch.Tensor:
    torch.manual_seed(derive_seed(purpose, *counters))
    return torch.randn(shape)


def make_pairs(folder: pathlib.Path) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    generator = numpy.random.default_rng(3)
    rows = []
    for number in range(PAIRS):
        picture = lambda: generator.integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
        pictures = {"chosen": picture(), "rejected": picture()}
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        tensor = lambda name: torch.from_numpy(pictures[name]).permute(2, 0, 1).float() / 127.5 - 1
        rows.append((f"a dog number {number % 3}", tensor("chosen"), tensor("rejected")))
    lines = [json.dumps({"prompt": prompt, "chosen": f"chosen{number}.png", "rejected": f"rejected{number}.png"})
             for number, (prompt, _, _) in enumerate(rows)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return rows


def reference_losses(rows, shared: bool) -> torch.Tensor:
    """Loss, error on the preferred and error on the other images of each step, `[steps, 3]`."""
    load = lambda kind, name: kind.from_pretrained(MODEL / name, local_files_only=True).float().requires_grad_(False)
    vae, text = load(AutoencoderKL, "vae"), load(CLIPTextModel, "text_encoder")
    unet, base = load(UNet2DConditionModel, "unet").requires_grad_(True), load(UNet2DConditionModel, "unet")
    schedule = DDPMScheduler.from_pretrained(MODEL / "scheduler")
    tokenizer = AutoTokenizer.from_pretrained(MODEL / "tokenizer", local_files_only=True)
    with torch.no_grad():
        posteriors = [[vae.encode(image[None]).latent_dist for image in pair] for _, *pair in rows]
        tokens = tokenizer([row[0] for row in rows], padding="max_length", max_length=tokenizer.model_max_length,
                           truncation=True, return_tensors="pt").input_ids
        contexts = text(tokens)[0]
    optimizer = torch.optim.AdamW(unet.parameters(), **OPTIMISER)
    found = []
    for step in range(STEPS):
        clean, noise, timesteps, context = [], [], [], []
        for side in range(2):
            for position in range(step * BATCH, (step + 1) * BATCH):
                epoch, place = divmod(position, PAIRS)
                pair = permutation(derive_seed("pairs", epoch), PAIRS)[place]
                posterior = posteriors[pair][side]
                draw = randn("posterior", position, side, shape=posterior.mean.shape)
                clean.append((posterior.mean + posterior.std * draw) * vae.config.scaling_factor)
                own = 0 if shared else side
                noise.append(randn("noise", position, own, shape=posterior.mean.shape))
                timesteps.append(SplitMix(derive_seed("timestep", position, own)).next() % schedule.config.num_train_timesteps)
                context.append(contexts[pair])
        clean, noise, context = torch.cat(clean), torch.cat(noise), torch.stack(context)
        timesteps = torch.tensor(timesteps)
        noisy = schedule.add_noise(clean, noise, timesteps)
        errors = lambda model: (model(noisy, timesteps, context).sample - noise).square().mean(dim=(1, 2, 3))
        with torch.no_grad():
            base_chosen, base_rejected = errors(base).chunk(2)
        chosen, rejected = errors(unet).chunk(2)
        inside = -0.5 * BETA * ((chosen - rejected) - (base_chosen - base_rejected))
        loss = -torch.nn.functional.logsigmoid(inside).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(torch.stack([loss.detach(), chosen.mean().detach(), rejected.mean().detach()]))
    return torch.stack(found)


def main() -> None:
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for shared in [True, False]:
        with tempfile.TemporaryDirectory() as work:
            folder = pathlib.Path(work)
            rows = make_pairs(folder)
            (folder / "pairs.toml").write_text(CONFIG.format(shared=str(shared).lower()))
            done = subprocess.run([binary, "train", "pairs.toml", "--quiet"], cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stderr)
            metrics = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
            ours = torch.tensor([[row["loss"], row["error/chosen"], row["error/rejected"]] for row in metrics if row["kind"] == "train"])
        theirs = reference_losses(rows, shared)
        differences = (ours - theirs).abs().amax(dim=0)
        print(f"{'one noise' if shared else 'two noises'} a pair: losses {theirs[0, 0]:.4f} to {theirs[-1, 0]:.4f}, "
              f"largest difference in {STEPS} steps {differences[0]:.1e}, of errors {differences[1:].max():.1e}", flush=True)
        if not (differences <= TOLERANCES).all():
            sys.exit(f"preftune and torch differ by {differences.tolist()}, allowed {TOLERANCES.tolist()}")


if __name__ == "__main__":
    main()
