"""What `preftune plan` says of runs beside what they then take, and how time and memory grow.

    python3 benches/plan.py [PART ..] [--threads 2] [--full-size FOLDER]

Parts:

  quickstart  the quick start's run, without patience
  sd15        a LoRA at Stable Diffusion 1.5's size and 256 pixels, a few steps; wants `--full-size`, a folder that
              tests/python/full_size.py has filled
  batch       growth with the pairs of a step on the embedded world
  resolution  growth with the side of the images, in pixels
  images      growth with the number of sampled images (`generate`)
  text        DPO and TDPO2 of SmolLM2-135M (scripts/smollm2.sh) on pairs of two lengths, with a LoRA and with all weights

Memory is the highest resident size that the system has seen of the process. Tables go to stdout and, part by part, to
benches/results/plan.{json,md}.
"""

import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "versus_python"))
from image import ROOT, WORLD, Bench, machine  # noqa: E402

RESULTS = ROOT / "benches/results/plan.md"
PARTS = ("quickstart", "sd15", "batch", "resolution", "images", "text")
QUICKSTART = ROOT / "configs/image/quickstart.toml"


def measured(args, words):
    """Seconds and highest resident bytes of a command."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    process = subprocess.Popen([args.binary, *map(str, words)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{words} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def both(args, config, values):
    """What `plan` says, and what the run's manifest, metrics and process say."""
    sets = Bench.sets(values)
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
    plan = subprocess.run([args.binary, "plan", config, *sets, "--json"], cwd=ROOT, env=environment, check=True, capture_output=True)
    plan = json.loads(plan.stdout)
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        _, peak = measured(args, ["train", config, *sets, "--quiet", "--output", run])
        manifest = json.loads((run / "manifest.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    at = {row["step"]: row["seconds"] for row in rows if row["kind"] == "train"}
    steps = [at[step] - at[step - 1] for step in at if step - 1 in at]
    # What lies between two steps may be a validation.
    return plan, {"trained": manifest["trainable_parameters"], "peak": peak, "step": statistics.median(steps),
                  "counts": manifest["counts"], **manifest["seconds"]}


def compare(args, config, values):
    plan, run = both(args, config, values)
    seconds = plan["seconds"]
    rows = [("trained parameters", plan["trained"], run["trained"], ""),
            ("U-Net forwards, sampling", plan["work"]["unet_forwards_sampling"], run["counts"]["unet_forwards_sampling"], ""),
            ("U-Net forwards, training", plan["work"]["unet_forwards_training"], run["counts"]["unet_forwards_training"], ""),
            ("reward encodes", plan["work"]["reward_image_encodes"], run["counts"]["reward_image_encodes"], ""),
            ("peak memory", plan["peak_bytes"] / 1e9, run["peak"] / 1e9, "GB"),
            ("negatives", seconds["negatives"], run["negatives"], "s"),
            ("encode", seconds["encode"], run["encode"], "s"),
            ("a step", seconds["step"], run["step"], "s"),
            ("steps and validations", seconds["steps"] + seconds["validations"], run["train"], "s")]
    parts = ", ".join(f"{part['name']} {part['bytes'] / 1e9:.3f}" for part in plan["memory"])
    table = [["", "plan", "run", "error"]]
    for name, said, was, unit in rows:
        show = (lambda value: f"{value:,.3f} {unit}") if unit else (lambda value: f"{value:,}")
        table.append([name, show(said), show(was), f"{100 * (said / was - 1):+.1f} %" if was else "-"])
    return table, f"Memory by `plan`, GB: {parts}."


def quickstart(args):
    return compare(args, QUICKSTART, {"validation.patience": 0})


def sd15(args):
    if not args.full_size:
        sys.exit("sd15: wants --full-size")
    with tempfile.TemporaryDirectory() as folder:
        prompts = pathlib.Path(folder) / "prompts.txt"
        prompts.write_text("a {token} {class} in the snow\n")
        return compare(args, ROOT / "configs/image/rpo_sd15_lora.toml", {
            "model.base": args.full_size / "sd15", "reward.encoder": args.full_size / "clip",
            "subject.photos": WORLD / "subjects/dog", "subject.class": "dog", "train.resolution": 256, "train.steps": 6,
            "negatives.prompts": prompts, "negatives.per_prompt": 4, "sampler.steps": 4, "sampler.batch": 4,
            "validation.every": 0, "validation.patience": 0})


def growth(args, axis, values, changes):
    table = [[axis, "a step, ms", "plan", "peak, GB", "plan"]]
    for value in values:
        plan, run = both(args, QUICKSTART, {
            "train.steps": 12, "validation.every": 0, "validation.patience": 0, "sampler.steps": 2, "sampler.batch": 4,
            "negatives.per_prompt": 2, **changes(value)})
        table.append([str(value), f"{run['step'] * 1e3:.1f}", f"{plan['seconds']['step'] * 1e3:.1f}",
                      f"{run['peak'] / 1e9:.3f}", f"{plan['peak_bytes'] / 1e9:.3f}"])
        print(table[-1], flush=True)
    return table, ""


def batch(args):
    return growth(args, "pairs", (1, 2, 4, 8, 16), lambda value: {"train.batch": value})


def resolution(args):
    return growth(args, "pixels", (32, 64, 96, 128, 192), lambda value: {"train.batch": 2, "train.resolution": value})


def images(args):
    table = [["images", "seconds", "peak, GB"]]
    with tempfile.TemporaryDirectory() as folder:
        for count in (8, 16, 32, 64, 128):
            seconds, peak = measured(args, [
                "generate", "--model", WORLD, "--prompt", "a dog in the snow", "--count", count, "--batch", 8, "--steps", 10,
                "--quiet", "--out", f"{folder}/{count}"])
            table.append([str(count), f"{seconds:.2f}", f"{peak / 1e9:.3f}"])
    return table, "Batches of 8, 10 steps; starting and loading included."


def pairs_of(words, tokens, count):
    """Pairs of texts that differ in their answers, about `tokens` tokens each with the prompt, which is half of it."""
    draw = random.Random(0)
    text = lambda length: " ".join(draw.choices(words, k=max(1, round(length * draw.uniform(0.6, 1.0)))))
    return [{"prompt": text(tokens / 2), "chosen": " " + text(tokens / 2), "rejected": " " + text(tokens / 2)} for _ in range(count)]


def text(args):
    model = subprocess.run([ROOT / "scripts/smollm2.sh"], check=True, capture_output=True, text=True).stdout.strip()
    words = sorted({word for line in (ROOT / "assets/sentiment/train.txt").read_text().splitlines() for word in line.split() if word.isalpha()})
    lora, full = {"adapter.kind": "lora"}, {"adapter.kind": "full"}
    cases = [
        ("LoRA, 4 pairs", 96, {**lora, "train.batch": 4}),
        ("LoRA, 4 pairs", 256, {**lora, "train.batch": 4}),
        ("LoRA, 4 pairs, checkpointed", 256, {**lora, "train.batch": 4, "train.checkpoint_activations": True}),
        ("all weights, 4 pairs", 96, {**full, "train.batch": 4}),
        ("all weights, TDPO2, 2 pairs", 96, {**full, "train.batch": 2, "objective.kind": "tdpo2"}),
    ]
    table = [["", "words", "peak, GB", "plan", "reference, s", "plan", "steps and validations, s", "plan"]]
    with tempfile.TemporaryDirectory() as folder:
        for name, length, values in cases:
            data = pathlib.Path(folder) / "pairs.jsonl"
            data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs_of(words, length, 20)))
            plan, run = both(args, ROOT / "configs/text/dpo.toml", {
                "model.base": model, "data.train": data, "data.validation_share": 0.2, "train.steps": 6, "train.accumulation": 1,
                "train.log_every": 1, "validation.every": 3, "validation.patience": 0, **values})
            for count in ("examples", "tokens"):
                assert plan["work"][count] == run["counts"][count], f"{name}: {count}"
            assert plan["trained"] == run["trained"]
            seconds = plan["seconds"]
            table.append([name, str(length), f"{run['peak'] / 1e9:.3f}", f"{plan['peak_bytes'] / 1e9:.3f}",
                          f"{run['reference']:.1f}", f"{seconds['reference']:.1f}", f"{run['train']:.1f}",
                          f"{seconds['steps'] + seconds['validations']:.1f}"])
            print(table[-1], flush=True)
    return table, "Six steps, two validations and that of the untuned model; counts of examples and tokens are equal."


def keep(args, part, table, note):
    path = args.results.with_suffix(".json")
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[part] = {"date": str(datetime.date.today()), "machine": machine.described(), "threads": args.threads, "table": table, "note": note}
    kept = {name: kept[name] for name in PARTS if name in kept}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    lines = ["# What `preftune plan` says beside what runs take", "", "`python3 benches/plan.py PART`; its header says what each part does."]
    for name, part in kept.items():
        lines += ["", f"## {name}", "", f"{part['date']}, {part['machine']}, {part['threads']} threads", ""]
        head, *rows = part["table"]
        lines += ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
        lines += ["", part["note"]] if part["note"] else []
    args.results.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--binary", default=str(ROOT / "target/release/preftune"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full-size", type=pathlib.Path)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    for part in args.parts:
        table, note = globals()[part](args)
        for row in table:
            print("  ".join(f"{cell:>26}" for cell in row), flush=True)
        print(note, flush=True)
        keep(args, part, table, note)


if __name__ == "__main__":
    main()
