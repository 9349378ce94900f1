"""The GPU path without a GPU: every verb and objective in small on the fake device of tests/fake_cuda.

    python tests/python/gpu_rehearsal.py target/debug/preftune [--only NAME] [--sites NAME] [--markdown FILE]

Each run must end with exit code 0 and without a device fault: a tensor on the wrong device, or memory of the device that the CPU
touches. Runs in f32 are made on the CPU too, and their figures must agree to TOLERANCE. What one training step, one denoising step
and one generated token cost is held against BUDGETS, and all is printed. `--sites NAME` lists the places in the source that
copied, waited or launched in the run NAME; `--markdown FILE` writes the table. Needs Python's own library and a C++
compiler. Exits with 1 and a list of what is wrong.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
WORLD = ROOT / "assets/emoji-world"
TOLERANCE = 2e-3
SECONDS = 300

# What may be spent: (of what, figure) to the most. Stalls are waits that leave the device without work.
BUDGETS = {
    ("RPO step, all weights", "stalls"): 0,
    ("RPO step, all weights", "waits"): 1,
    ("RPO step, all weights", "launches"): 1370,
    ("RPO step, LoRA, SDXL", "stalls"): 0,
    ("RPO step, LoRA, SDXL", "launches"): 2576,
    ("RPO step, LoRA, SDXL", "waits"): 1,
    ("step on pairs of images", "waits"): 1,
    ("step of DPO on texts", "waits"): 1,
    ("step on pairs of images", "stalls"): 0,
    ("step on pairs of images", "launches"): 1175,
    ("step of DPO on texts", "stalls"): 0,
    ("step of DPO on texts", "launches"): 457,
    ("long prompts, grouped queries", "stalls"): 0,
    ("long prompts, grouped queries", "peak_bytes"): 4_500_000,
    ("step of KTO on texts", "stalls"): 0,
    ("step of KTO on texts", "launches"): 681,
    ("step of SFT on texts", "stalls"): 0,
    ("step of SFT on texts", "launches"): 295,
    ("step of a reward on texts", "stalls"): 0,
    ("step of a reward on texts", "launches"): 307,
    ("denoising step", "waits"): 0,
    ("denoising step", "h2d"): 0,
    ("denoising step", "launches"): 239,
    ("denoising step of a run", "waits"): 0,
    ("denoising step of a run", "launches"): 239,
    ("generated token", "waits"): 1,
    ("generated token", "d2h"): 1,
    ("generated token", "h2d"): 0,
    ("generated token", "launches"): 87,
}
SHOWN = ["launches", "h2d", "d2h", "waits", "stalls"]


class Runs:
    """The runs of one rehearsal, each with the report of the fake device."""

    def __init__(self, program, fake, folder):
        # Without the launcher, which would put libtorch's folder before that of the fake device.
        self.program, self.fake, self.folder = program.with_name("preftune-torch"), fake, folder
        self.reports, self.problems, self.seconds = {}, [], {}

    def run(self, name, *words, device="cuda", memory=4096, mark="_fused_adamw_", fails=False):
        """A command on the fake device, or on the CPU; what it printed."""
        report = self.folder / f"{name}.report"
        environment = dict(os.environ, OMP_NUM_THREADS="1", FAKE_CUDA_REPORT=str(report), FAKE_CUDA_MEMORY_MB=str(memory),
                           FAKE_CUDA_MARK=mark, LD_LIBRARY_PATH=str(self.fake), **({"FAKE_CUDA_SITES": "all"} if self.sites == name else {}))
        words = [str(word) for word in words] + (["--device", device] if device else [])
        start = time.monotonic()
        try:
            done = subprocess.run([self.program, *words], cwd=self.folder, env=environment, capture_output=True, text=True,
                                  timeout=SECONDS)
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, said = None, f"more than {SECONDS} s"
        self.seconds[name] = time.monotonic() - start
        if (code != 0) != fails:
            self.problems.append(f"{name}: exit code {code}: {' '.join(words)}\n{said[-1500:]}")
        if device == "cuda":
            self.reports[name] = read_report(report)
            if self.reports[name]["total"].get("launches", 0) == 0:
                self.problems.append(f"{name}: nothing ran on the device")
            if self.reports[name]["total"].get("faults", 0):
                sites = [line for line in report.read_text().splitlines() if line.startswith("site faults")]
                self.problems.append(f"{name}: {len(sites)} device faults, such as {sites[0][:160]}")
        return said

    sites = None

    def both(self, name, *words, **more):
        """On the device and on the CPU in f32, whose figures must agree. `OUT` in the words is the run's folder."""
        for device in ("cuda", "cpu"):
            own = [str(word).replace("OUT", f"{name}-{device}") for word in words]
            self.run(name if device == "cuda" else f"{name}-cpu", *own, device=device, **more)
        self.compare(name, *(self.folder / f"{name}-{device}" for device in ("cuda", "cpu")))

    def compare(self, name, *folders):
        """Metrics of two runs."""
        one, two = [folder / "metrics.jsonl" for folder in folders]
        if not (one.exists() and two.exists()):
            self.problems.append(f"{name}: no metrics to compare")
            return
        rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in (one, two)]
        if [len(part) for part in rows] != [len(rows[0])] * 2 or not rows[0]:
            self.problems.append(f"{name}: {len(rows[0])} rows of metrics on the device, {len(rows[1])} on the CPU")
        for number, (ours, theirs) in enumerate(zip(*rows)):
            for key, value in numbers(theirs):
                own = dict(numbers(ours)).get(key)
                # Counts of what is on which side of a threshold jump by rounding.
                if "accurac" in key and own is not None:
                    continue
                if own is None or abs(own - value) > TOLERANCE * max(1.0, abs(value)):
                    self.problems.append(f"{name}: row {number + 1}, `{key}` is {own} on the device and {value} on the CPU")


def numbers(row, prefix=""):
    """All figures of a row of metrics but times."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and "second" not in key:
            yield prefix + key, value


def read_report(path):
    report = {"total": {}, "steps": [], "ops": {}}
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, *rest = line.split()
        pairs = {name: int(value) for name, value in (part.split("=") for part in rest if "=" in part)}
        if kind == "total":
            report["total"] = pairs
        elif kind == "step":
            report["steps"].append(pairs)
        elif kind == "op":
            report["ops"][rest[0]] = int(rest[1])
    return report


def write_inputs(folder):
    """Pairs of images, texts, prompts and a judge."""
    images = sorted((WORLD / "subjects").glob("*/0[01].png"))
    for index, image in enumerate(images):
        shutil.copy(image, folder / f"{index}.png")
    lines(folder / "image_pairs.jsonl", [{"prompt": "a photo of a dog", "chosen": f"{i}.png", "rejected": f"{i + 1}.png"}
                                         for i in range(0, len(images) - 1, 2)])
    words = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold", "teal", "plum", "rose"]
    # Long prompts are shared by both answers; questions of several lengths are padded.
    pairs = [{"prompt": "Tell me, " * (1 + index % 3) + f"is it {word}?", "chosen": f"Yes, it is {word}.", "rejected": "No."}
             for index, word in enumerate(words)]
    lines(folder / "pairs.jsonl", pairs)
    lines(folder / "long.jsonl", [pair | {"prompt": "word " * 40 + pair["prompt"]} for pair in pairs])
    lines(folder / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in pairs])
    lines(folder / "marked.jsonl", [{"prompt": pair["prompt"], "completion": pair["chosen"], "label": index % 2 == 0}
                                    for index, pair in enumerate(pairs)])
    (folder / "train.txt").write_text("a {token} {class} on the moon\na green {token} {class}\n")
    (folder / "validation.txt").write_text("a {token} {class} at the beach\n")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


SMALL = {"train.steps": 4, "train.log_every": 1, "validation.patience": 0, "checkpoint.every": 0}
SUBJECT = SMALL | {"negatives.per_prompt": 2, "negatives.prompts": "train.txt", "validation.prompts": "validation.txt", "validation.every": 4,
                   "validation.images_per_prompt": 1, "sampler.steps": 2}
TEXT = SMALL | {"model.base": GOLDEN / "text/model", "data.chat": "raw", "train.batch": 2, "train.accumulation": 1, "train.learning_rate": 1e-3,
                "validation.every": 4, "data.validation_share": 0.3}
PAIRS = SMALL | {"pairs.train": "image_pairs.jsonl", "pairs.validation_share": 0.3, "validation.every": 4, "train.accumulation": 1,
                 "preview.images_per_prompt": 1, "sampler.steps": 2, "adapter.rank": 4, "train.batch": 2}


def subject(runs):
    config = ROOT / "configs/image/quickstart.toml"
    runs.run("rpo", "train", config, *settings(SUBJECT | {"run.output": "rpo", "run.precision": "bf16"}))
    # Weights in f32, as training has them, are cast once a validation and not at every denoising step. The step changes
    # nothing, so that neither run stores its weights as the best.
    for steps in (2, 6):
        runs.run(f"validated-{steps}", "train", config,
                 *settings(SUBJECT | {"run.output": f"validated-{steps}", "run.precision": "bf16", "train.steps": 1, "validation.every": 1,
                                      "train.learning_rate": 1e-30, "sampler.steps": steps}))
    runs.run("rpo-resumed", "train", config, "--resume", *settings(SUBJECT | {"run.output": "rpo", "run.precision": "bf16", "train.steps": 6}))
    # What was trained, from the images to the figures.
    runs.run("generate-few", "generate", "--model", WORLD, "--prompt", "a photo of a dog", "--steps", 2, "--out", "few")
    runs.run("generate-more", "generate", "--model", WORLD, "--prompt", "a photo of a dog", "--steps", 6, "--out", "more")
    runs.run("generate-run", "generate", "--model", "rpo", "--prompt", "a photo of a [V] dog", "--steps", 2, "--count", 3, "--out", "tuned")
    runs.run("eval-subject", "eval", "subject", "rpo", "--steps", 2, "--images-per-prompt", 1, "--prompts", "validation.txt")
    runs.run("score-images", "score", "--references", WORLD / "subjects/dog", "--images", "tuned", "--prompt", "a photo of a dog", "--encoder",
             WORLD / "reward")
    runs.run("plan", "plan", config, *settings(SUBJECT | {"run.output": "planned"}))


def sdxl(runs):
    runs.both("sdxl", "train", ROOT / "configs/image/rpo_sdxl_lora.toml",
              *settings(SUBJECT | {"run.output": "OUT", "run.precision": "fp32", "model.base": GOLDEN / "diffusion/sdxl", "train.resolution": 16,
                                   "subject.photos": WORLD / "subjects/dog", "subject.class": "dog", "reward.encoder": GOLDEN / "encoders/clip",
                                   "train.batch": 1, "train.accumulation": 1, "adapter.rank": 2, "train.checkpoint_activations": "false"}))


def pairs(runs):
    config = ROOT / "configs/image/dpo_sd15_lora.toml"
    world = PAIRS | {"model.base": WORLD, "train.resolution": 64, "train.checkpoint_activations": "false"}
    runs.run("pairs", "train", config, *settings(world | {"run.output": "pairs", "run.precision": "bf16"}))
    runs.both("pairs-f32", "train", config, *settings(world | {"run.output": "OUT", "run.precision": "fp32", "train.steps": 2}))


def texts(runs):
    config = ROOT / "configs/text/dpo.toml"
    runs.run("dpo", "train", config, *settings(TEXT | {"run.output": "dpo", "run.precision": "bf16", "data.train": "pairs.jsonl"}))
    runs.both("dpo-f32", "train", config, *settings(TEXT | {"run.output": "OUT", "run.precision": "fp32", "data.train": "pairs.jsonl"}))
    # Rows of one shared prompt, under a mask; the model has two heads for keys and four for queries.
    runs.run("long", "train", config, *settings(TEXT | {"run.output": "long", "run.precision": "bf16", "data.train": "long.jsonl",
                                                        "train.batch": 4, "validation.every": 0}))
    if "_scaled_dot_product_efficient_attention" not in runs.reports["long"]["ops"]:
        runs.problems.append("long: attention under a mask is not fused")
    runs.both("kto", "train", ROOT / "configs/text/kto.toml",
              *settings(TEXT | {"run.output": "OUT", "run.precision": "fp32", "data.train": "marked.jsonl", "train.batch": 4}))
    runs.both("sft", "train", ROOT / "configs/text/sft.toml",
              *settings(TEXT | {"run.output": "OUT", "run.precision": "fp32", "data.train": "pairs.jsonl"}))
    runs.both("reward", "train", ROOT / "configs/reward/language_model.toml",
              *settings({key: value for key, value in TEXT.items() if key != "data.chat"} |
                        {"run.output": "OUT", "run.precision": "fp32", "data.train": "pairs.jsonl"}))
    runs.run("score-texts", "score", "--reward", "reward-cuda", "--data", "pairs.jsonl")
    runs.run("label", "label", "--reward", "reward-cuda", "--data", "pairs.jsonl", "--out", "labelled.jsonl")
    runs.run("eval-text", "eval", "text", "dpo", "--data", "pairs.jsonl")
    runs.run("perplexity", "eval", "perplexity", "--model", GOLDEN / "text/model", "train.txt")


def generation(runs):
    for name, tokens in (("tokens-few", 4), ("tokens-more", 12)):
        # One prompt, greedy: every token alike. The token that ends a text may not come.
        runs.run(name, "generate", "--model", GOLDEN / "text/model", "--prompt", "Say", "--raw", "--temperature", 1, "--max-tokens", tokens)
    runs.run("tokens-padded", "generate", "--model", GOLDEN / "text/model", "--prompts", "prompts.jsonl", "--raw", "--max-tokens", 6, "--out",
             "answers.jsonl")
    (runs.folder / "rounds.toml").write_text(
        f'run = {{ output = "rounds" }}\nmodel = {{ base = "{GOLDEN}/text/model" }}\ndata = {{ prompts = "prompts.jsonl", validation_share = 0.3 }}\n'
        "rounds = { count = 1, epochs = 1 }\ngenerate = { samples = 2, max_tokens = 6, batch = 8, raw = true }\n"
        'scorer = { kind = "length", target = 3 }\nobjective = { kind = "sppo", beta = 0.1 }\nadapter = { targets = "all-linear" }\n'
        "train = { batch = 2, learning_rate = 1e-3 }\n")
    runs.run("rounds", "rounds", "rounds.toml")


def from_scratch(runs):
    world = {"run.precision": "bf16", "world.sprites": ROOT / "assets/sprites", "world.scenes": 8, "world.validation_scenes": 4, "train.steps": 2, "train.batch": 4, "validation.every": 2,
             "train.log_every": 1}
    runs.run("pretrain-vae", "pretrain", ROOT / "configs/world/vae.toml", *settings(world | {"run.output": "vae"}))
    runs.run("pretrain-unet", "pretrain", ROOT / "configs/world/unet.toml",
             *settings(world | {"run.output": "unet", "part.vae": WORLD / "vae", "sampler.steps": 2, "sampler.batch": 4}))
    runs.run("pretrain-encoder", "pretrain", ROOT / "configs/world/reward.toml", *settings(world | {"run.output": "encoder"}))


def out_of_memory(runs):
    """A batch that the device cannot hold is halved; a model that it cannot hold is refused in words."""
    runs.run("halved", "generate", "--model", WORLD, "--prompt", "a photo of a dog", "--steps", 2, "--count", 16, "--batch", 16, "--out", "halved",
             memory=60)
    said = runs.run("too-small", "generate", "--model", WORLD, "--prompt", "a photo of a dog", "--steps", 2, "--out", "none", memory=8, fails=True)
    if not re.search(r"out of memory on the GPU: a tensor of .*, .* of .* are free", said) or "internal error" in said or len(said) > 1000:
        runs.problems.append(f"too-small: not in words: {said[:600]}")


PARTS = [subject, texts, pairs, generation, sdxl, from_scratch, out_of_memory]


def figures(reports):
    """Figures of one step, one denoising step, one token."""
    table = {}

    def step(name, run):
        # The last: loading and the first validation come before the first update, and the last validation after this one.
        steps = reports.get(run, {}).get("steps", [])
        if steps:
            table[name] = steps[-1] | {"peak_bytes": reports[run]["total"].get("peak_bytes", 0)}

    def between(name, few, more, count):
        if few in reports and more in reports:
            few, more = reports[few]["total"], reports[more]["total"]
            table[name] = {key: (more[key] - few.get(key, 0)) / count for key in SHOWN if key in more}
            table[name]["peak_bytes"] = more.get("peak_bytes", 0)

    step("RPO step, all weights", "rpo")
    step("RPO step, LoRA, SDXL", "sdxl")
    step("step on pairs of images", "pairs")
    step("step of DPO on texts", "dpo")
    step("long prompts, grouped queries", "long")
    step("step of KTO on texts", "kto")
    step("step of SFT on texts", "sft")
    step("step of a reward on texts", "reward")
    between("denoising step", "generate-few", "generate-more", 4)
    # One batch of negatives, and two at each of two validations: with the token and without.
    between("denoising step of a run", "validated-2", "validated-6", 5 * 4)
    between("generated token", "tokens-few", "tokens-more", 8)
    return table


def markdown(table):
    rows = ["| | launches | copies up | copies down | waits | stalls | peak, MB |", "|---|---|---|---|---|---|---|"]
    for name, counts in table.items():
        cells = [f"{counts.get(key, 0):,.6g}" for key in SHOWN] + [f"{counts['peak_bytes'] / 1e6:.1f}"]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def over_budget(table, whole):
    for (name, figure), most in BUDGETS.items():
        if not whole and name not in table:
            continue
        value = table.get(name, {}).get(figure)
        print(f"{name:28} {figure:9} {'none' if value is None else format(value, ',.6g'):>8}  at most {most:,}")
        if value is None or value > most:
            yield f"{name}: {figure} {value}, at most {most}"


def show_sites(report, program):
    """Places of a report by file and line: the innermost three frames of ours."""
    sites = []
    for line in report.read_text().splitlines():
        if line.startswith("site "):
            _, kind, op, count, amount, *offsets = line.split()
            sites.append((kind, op, int(count), int(amount), [offset for offset in "".join(offsets).split(",") if offset]))
    wanted = sorted({offset for site in sites for offset in site[4]})
    shown = subprocess.run(["addr2line", "-aCfie", program], input="\n".join("0x" + offset for offset in wanted), text=True,
                           capture_output=True, check=True).stdout
    frames, current, rows = {}, None, iter(shown.splitlines())
    for row in rows:
        if row.startswith("0x"):
            current = frames.setdefault(format(int(row, 16), "x"), [])
        else:
            current.append(next(rows))
    sums = collections.Counter()
    amounts = collections.Counter()
    for kind, op, count, amount, offsets in sites:
        places = [found.group(1) for offset in offsets for place in frames.get(offset, [])
                  if "/registry/" not in place and "/rustc/" not in place and (found := re.search(r"\bsrc/(\S+:\d+)", place))]
        key = (kind, op, " < ".join(places[:3]) or "(the autograd thread)")
        sums[key] += count
        amounts[key] += amount
    for (kind, op, where), count in sorted(sums.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{kind:9} {count:6} {amounts[kind, op, where]:12} {op:32} {where}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program", type=pathlib.Path)
    arguments.add_argument("--only", help="one of " + ", ".join(part.__name__ for part in PARTS))
    arguments.add_argument("--sites", metavar="NAME")
    arguments.add_argument("--markdown", type=pathlib.Path)
    given = arguments.parse_args()
    fake = ROOT / "target/fake_cuda"
    subprocess.run([ROOT / "tests/fake_cuda/build.sh", fake], check=True)
    start = time.monotonic()
    checked = subprocess.run([fake / "self_check", fake / "libtorch_cuda.so"], env=dict(os.environ, FAKE_CUDA_REPORT=os.devnull),
                             capture_output=True, text=True)
    if checked.returncode:
        print(checked.stdout + checked.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(given.program.resolve(), fake, pathlib.Path(folder))
        runs.sites = given.sites
        write_inputs(runs.folder)
        parts = [part for part in PARTS if given.only in (None, part.__name__)]
        with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for done in [pool.submit(part, runs) for part in parts]:
                done.result()
        if given.sites:
            show_sites(runs.folder / f"{given.sites}.report", runs.program)
    table = figures(runs.reports)
    print(markdown(table))
    if given.markdown:
        given.markdown.write_text(markdown(table))
    problems = runs.problems + list(over_budget(table, given.only is None))
    print(f"{len(runs.reports)} runs on the device in {time.monotonic() - start:.0f} s")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
