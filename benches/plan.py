"""What `preftune plan` says of runs beside what they then take, and how time and memory grow.

    python3 benches/plan.py [PART ..] [--threads 2] [--full-size FOLDER]

Parts:

  quickstart  the quick start's run, without patience
  sd15        a LoRA at Stable Diffusion 1.5's size and 256 pixels, a few steps; wants `--full-size`, a folder that
              tests/python/full_size.py has filled
  batch       growth with the pairs of a step on the embedded world
  resolution  growth with the side of the images, in pixels
  images      growth with the number of sampled images (`generate`)

Memory is the highest resident size that the system has seen of the process. Tables go to stdout and, part by part, to
benches/results/plan.{json,md}.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "versus_python"))
from image import ROOT, WORLD, Bench, machine  # noqa: E402

RESULTS = ROOT / "benches/results/plan.md"
PARTS = ("quickstart", "sd15", "batch", "resolution", "images")
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
