"""Objectives of pairs on denoising errors: what each does to a model whose preferred pictures are the warmer ones.

    cargo build --release
    python3 benches/claims/image_pairs.py [--binary target/release/preftune] [--only dpo,ipo] [--seeds 2]

Scenes of the emoji world stand beside themselves in a warmer light (more red, less blue), which is preferred. Each objective
tunes a LoRA of the embedded model to 96 such pairs, with its own default numbers, equal steps, batch, seed and learning
rate. Then, beside the untuned model and always from the same noise: how many of 24 held-out pairs the policy tells apart
(objectives with a reference compare log-ratios; those without compare log-probs, of which the warm scenes have the lower ones
to begin with), the errors of denoising on both sides, and the warmth of sampled pictures (mean red less mean blue, of 255).

Claims, of every seed: pictures become warmer; the preferred scenes are denoised better; objectives with a reference tell at
least 95 % of the held-out pairs apart. A table goes to stdout and to benches/results/image_pairs.md. Exit code 1: a claim does
not hold. Needs Pillow.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image, ImageStat

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import machine  # noqa: E402

REFERENCED = ["dpo", "cdpo", "rdpo", "hinge", "ipo", "ipo_sum", "fdpo_reverse_kl", "fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "tdpo1",
              "tdpo2", "sppo_hard", "dno_prct", "inpo"]
ALONE = ["simpo", "orpo", "asft"]
PAIRS, STEPS, BATCH = 120, 120, 4
CONFIG = f"""
[model]
base = "{ROOT}/assets/emoji-world"
[pairs]
train = "scenes"
validation_share = 0.2
[train]
steps = {STEPS}
batch = {BATCH}
learning_rate = 1e-4
[validation]
every = {STEPS}
patience = 0
[preview]
prompts = ["a dog on the left", "a house at the top", "a blue fish", "a red apple in the centre"]
images_per_prompt = 8
[sampler]
steps = 20
guidance = 3.0
"""


def make_pairs(binary: str, folder: pathlib.Path) -> None:
    scenes = folder / "scenes"
    subprocess.run([binary, "world", "--out", scenes, "--count", str(PAIRS), "--sprites", ROOT / "assets/sprites"], check=True,
                   stdout=subprocess.DEVNULL)
    rows = []
    for line in (scenes / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        red, green, blue = Image.open(scenes / row["file_name"]).convert("RGB").split()
        warm = f"warm_{row['file_name']}"
        Image.merge("RGB", (red.point(lambda v: min(255, int(v * 1.15 + 20))), green, blue.point(lambda v: int(v * 0.75)))).save(scenes / warm)
        rows.append(json.dumps({"prompt": row["text"], "chosen": warm, "rejected": row["file_name"]}))
    (scenes / "pairs.jsonl").write_text("\n".join(rows) + "\n")


def warmth(folder: pathlib.Path) -> float:
    means = [ImageStat.Stat(Image.open(file).convert("RGB")).mean for file in sorted(folder.glob("*.png"))]
    return sum(mean[0] - mean[2] for mean in means) / len(means)


def run(binary: str, folder: pathlib.Path, objective: str, seed: int) -> dict:
    output = folder / f"{objective}-{seed}"
    values = [f"run.output={output}", f"run.seed={seed}", f"objective.kind={objective}"]
    command = [binary, "train", "pairs.toml", "--quiet"] + [part for value in values for part in ("--set", value)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    before, after = [row for row in rows if row["kind"] == "validation"]
    manifest = json.loads((output / "manifest.json").read_text())
    return {
        "accuracy": after["accuracy"],
        "margin": after["rewards/margins"],
        "chosen": after["error/chosen"] - before["error/chosen"],
        "rejected": after["error/rejected"] - before["error/rejected"],
        "cold": warmth(output / "samples/step-000000"),
        "warm": warmth(output / f"samples/step-{STEPS:06}"),
        "seconds": manifest["seconds"]["train"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/preftune"))
    parser.add_argument("--only", default=",".join(REFERENCED + ALONE))
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    lines = [
        "# Objectives of pairs on denoising errors",
        "",
        f"{machine.today_on_it()}. {STEPS} steps of {BATCH} pairs, learning rate 1e-4, {arguments.seeds} seed(s), means; "
        "`benches/claims/image_pairs.py` says what is compared. Errors: change of the mean squared error, in thousandths.",
        "",
        "| objective | held-out accuracy | margin | error, preferred | error, other | warmth, untuned -> tuned | s to train |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    broken = []
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        make_pairs(arguments.binary, folder)
        (folder / "pairs.toml").write_text(CONFIG)
        for objective in arguments.only.split(","):
            runs = [run(arguments.binary, folder, objective, seed) for seed in range(arguments.seeds)]
            for seed, found in enumerate(runs):
                claims = {
                    "pictures become warmer": found["warm"] > found["cold"],
                    "preferred scenes are denoised better": found["chosen"] < 0,
                    "pairs are told apart": objective in ALONE or found["accuracy"] >= 0.95,
                }
                broken += [f"{objective}, seed {seed}: {claim}" for claim, holds in claims.items() if not holds]
            mean = {key: sum(found[key] for found in runs) / len(runs) for key in runs[0]}
            lines.append(f"| {objective} | {mean['accuracy']:.2f} | {mean['margin']:.2f} | {1e3 * mean['chosen']:+.1f} | "
                         f"{1e3 * mean['rejected']:+.1f} | {mean['cold']:.1f} -> {mean['warm']:.1f} | {mean['seconds']:.0f} |")
            print(lines[-1], flush=True)
    holds = "All claims hold." if not broken else "Claims that do not hold: " + "; ".join(broken) + "."
    text = "\n".join([*lines, "", holds]) + "\n"
    (ROOT / "benches/results/image_pairs.md").write_text(text)
    print(text)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
