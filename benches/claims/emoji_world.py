"""What RPO, early stopping and lambda_val do on the embedded world, over held-out subjects and seeds.

    make world-claims                 # a release build and all three parts
    python3 benches/claims/emoji_world.py [--main] [--ablation] [--late] [--quick] [--binary target/release/preftune]

The main part trains every subject with every seed by RPO as the quick start does (beta .1) and at the paper's beta of 1,
by DreamBooth (similarity loss alone) and by DreamBooth with prior preservation: equal photos, learning rate, steps and validations, every checkpoint kept, no patience. The step
that early stopping keeps is read off `metrics.jsonl`: a run that is stopped early is a prefix of the full run. One run
is made with patience to show that. The chosen steps are then judged by `preftune eval subject` on prompts of which
neither training nor validation knows the place or colour, by the reward's encoder and by an independent one.

`--ablation` varies one choice of RPO at beta 1 at a time, with the official code's semantics as one row. `--late` isolates why
the reward falls when RPO runs on: see ARMS. Two single-threaded processes run side by side; what exists is not computed
again. Tables go to stdout and, as Markdown and JSON with date and machine, to benches/results/. Exit code 1: a claim
does not hold.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import time
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

CONFIG = "configs/image/quickstart.toml"
# Those that both encoders know for what they are in nine of ten scenes; chosen before any run was made on these weights.
SUBJECTS = ["apple", "cake", "dog", "house"]
LAMBDAS = ("0.3", "0.5", "0.7")
ENCODERS = ("reward", "judge")
FIGURES = ("harmonic_0.3", "harmonic_0.5", "harmonic_0.7", "clip_i", "clip_t")
NAMES = {"harmonic_0.3": "r .3", "harmonic_0.5": "r .5", "harmonic_0.7": "r .7", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}
RESAMPLES = 4000

DREAMBOOTH = ["objective.kind=dreambooth"]
# DreamBooth's prior: images of the class alone, as many as RPO has negatives.
PRIOR = DREAMBOOTH + ["objective.prior_weight=1.0", 'negatives.prompts=["a photo of a {class}"]', "negatives.per_prompt=32"]
# The paper's strength; the quick start's own is what the ablation has found better here.
PAPER_BETA = ["objective.beta=1.0"]
METHODS = {"rpo": [], "rpo-beta-1": PAPER_BETA, "dreambooth": DREAMBOOTH, "prior": PRIOR}
TITLES = {"rpo": "RPO, beta .1", "rpo-beta-1": "RPO, beta 1", "dreambooth": "DreamBooth", "prior": "DreamBooth + prior"}
TUNED = ("rpo", "rpo-beta-1")
# RPO's best step is the one that early stopping keeps, but for patience.
UNREAD = [f"{name} best" for name in TUNED]

# One choice each, beside beta 1.
ABLATION = {
    "base: soft labels, tau 1, beta 1, shared noise": [],
    "labels sampled": ["objective.labels=sampled"],
    "noise independent": ["objective.shared_noise=false"],
    "official semantics (`--paper`)": ["--paper"],
    "tau 0.1": ["objective.tau=0.1"],
    "tau 0.03": ["objective.tau=0.03"],
    "beta 0.1": ["objective.beta=0.1"],
    "beta 10": ["objective.beta=10.0"],
    "beta 100": ["objective.beta=100.0"],
    "preference weight 0": ["objective.preference_weight=0.0"],
    "preference weight 0.3": ["objective.preference_weight=0.3"],
    "preference weight 3": ["objective.preference_weight=3.0"],
    "label lambda 0.5": ["objective.lambda=0.5"],
    "label lambda 1": ["objective.lambda=1.0"],
}

# The preference term's gradient on a generated image's error is beta (sigmoid(beta k) - y): positive, it is learnt
# again, negative, it is pushed away. Labels decide its sign once the margin k has grown; the arms set the label without
# touching anything else, and the last two put the gradient in by hand or leave it out.
ARMS = {
    "soft labels, tau 1": [],
    "labels 0 (tau 0.01)": ["objective.tau=0.01"],
    "labels 1/2 exactly (tau 1e9)": ["objective.tau=1e9"],
    "labels near 1 (lambda 1, tau 0.03)": ["objective.lambda=1.0", "objective.tau=0.03"],
    "no preference term": ["objective.preference_weight=0.0"],
    "no preference term, negatives learnt with weight 0.1": DREAMBOOTH + ["objective.prior_weight=0.1"],
}


class Bench:
    """Where things are, and the processes."""

    def __init__(self, args):
        self.args = args
        self.root = pathlib.Path(args.runs)
        self.world = pathlib.Path(args.world)
        subjects = json.loads((self.world / "subjects/subjects.json").read_text())
        self.classes = {row["name"]: row["class"] for row in subjects}
        self.failed = []

    def preftune(self, *arguments):
        command = ["nice", "-n", str(self.args.nice), self.args.binary, *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        return done.stdout

    def each(self, work, items):
        """`work` of all items, some side by side, in their order."""
        items = list(items)
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(work, item) for item in items]
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                future.result()
                print(f"  {number} of {len(items)}", file=sys.stderr, flush=True)
        return [future.result() for future in futures]

    def run(self, name, subject, seed, recipe, steps, negatives=None, every=None):
        """Trains, or finds trained, one run with all its checkpoints; returns its folder."""
        folder = self.root / name / subject / f"seed-{seed}"
        manifest = folder / "manifest.json"
        if manifest.exists() and json.loads(manifest.read_text())["status"] == "finished":
            return folder
        every = every or self.args.every
        values = {
            "model.base": self.world,
            "reward.encoder": self.world / "reward",
            "negatives.prompts": self.world / "prompts/train.txt",
            "validation.prompts": self.world / "prompts/validation.txt",
            "run.seed": seed,
            "run.device": "cpu",
            "train.steps": steps,
            "validation.every": every,
            "validation.patience": 0,
            "checkpoint.every": every,
            "checkpoint.keep": 1000,
            **dict(pair.split("=", 1) for pair in self.args.set),
        }
        if negatives is not None:
            values["negatives.folder"] = negatives
        flags = [flag for flag in recipe if flag.startswith("--")]
        sets = [f"{key}={value}" for key, value in values.items()] + [pair for pair in recipe if pair not in flags]
        self.preftune(
            "train", self.args.config, "--resume", "--quiet", "--output", folder, *flags,
            "--photos", self.world / "subjects" / subject, "--class", self.classes[subject],
            *(word for pair in sets for word in ("--set", pair)),
        )
        # The optimiser's moments are two thirds of a checkpoint, and nothing is resumed from here.
        for moments in folder.glob("checkpoints/*/optimizer.safetensors"):
            moments.unlink()
        return folder

    def judge(self, folder, steps, seed, base=False):
        """Figures of some steps of a run on the test prompts, {step: {encoder: {figure: value}}}; step 0 is the
        untuned model."""
        wanted = sorted(step for step in steps if step > 0)
        report = folder / f"judged-{'-'.join(map(str, wanted))}{'-base' if base else ''}.json"
        if not report.exists():
            self.preftune(
                "eval", "subject", folder, "--prompts", self.world / "prompts/test.txt", "--judge", self.world / "judge",
                "--images-per-prompt", self.args.images, "--seed", seed, "--quiet", "--device", "cpu", f"--json={report}",
                "--checkpoint", ",".join(map(str, wanted)), *([] if base else ["--no-base"]),
            )
        runs = json.loads(report.read_text())["runs"]
        found = {run["step"]: run["mean"] for run in runs}
        if base:
            found[0] = runs[0]["base"]["mean"]
        return found

    def claim(self, text, holds):
        if not holds:
            self.failed.append(text)
        return f"- {'holds' if holds else '**does not hold**'}: {text}"


def metrics(folder, kind):
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def stopped(rows, figure, patience):
    """Step that early stopping keeps, and the step at which it stops."""
    best, since = None, 0
    for row in rows:
        if best is None or row[figure] > best[figure]:
            best, since = row, 0
        else:
            since += 1
        if patience and since >= patience:
            break
    return best["step"], row["step"]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def interval(clusters, within=False):
    """Mean and 95 % percentile bootstrap over clusters; `within` draws the values of a drawn cluster anew too."""
    draw = random.Random(0)
    centre = mean(mean(values) for values in clusters)
    if len(clusters) < 2:
        return centre, None
    means = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(clusters, k=len(clusters))
        means.append(mean(mean(draw.choices(values, k=len(values)) if within else values) for values in chosen))
    means.sort()
    return centre, (means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)])


def over_pairs(figures):
    """Of {(subject, seed): value}: every pair of subject and seed is a cluster."""
    return interval([[value] for value in figures.values()])


def over_subjects(figures):
    """Of {(subject, seed): value}: subjects are drawn, then seeds within them."""
    subjects = sorted({subject for subject, _ in figures})
    return interval([[value for (of, _), value in figures.items() if of == subject] for subject in subjects], True)


def cell(estimate, sign=""):
    centre, ends = estimate
    number = lambda value: f"{value:{sign}.3f}"
    return number(centre) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else "")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def store(bench, name, text, data, seconds):
    """Prints a part and stores it with date and machine."""
    date = datetime.date.today().isoformat()
    head = f"{date}, {machine.described()}, {bench.args.jobs} single-threaded processes"
    text += f"\n{head}; {seconds:.0f} s in this call.\n"
    print(text, flush=True)
    if bench.args.quick:
        return
    folder = pathlib.Path(bench.args.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"emoji_world_{name}.md").write_text(text)
    record = {"date": date, "machine": machine.described(), "seconds": round(seconds), **data}
    (folder / f"emoji_world_{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def pairs_of(bench, seeds):
    return [(subject, seed) for subject in bench.args.subjects for seed in range(seeds)]


def train_methods(bench, pair):
    subject, seed = pair
    return {name: bench.run(name, subject, seed, recipe, bench.args.steps) for name, recipe in METHODS.items()}


def main_part(bench):
    """RPO beside the untuned model and DreamBooth; early stopping; lambda_val."""
    started, args = time.time(), bench.args
    pairs = pairs_of(bench, args.seeds)
    print("training", file=sys.stderr)
    folders = dict(zip(pairs, bench.each(lambda pair: train_methods(bench, pair), pairs)))
    logs = {pair: {name: metrics(folder, "validation") for name, folder in of.items()} for pair, of in folders.items()}
    last = args.steps
    # Steps by row of the tables.
    chosen = {}
    for pair in pairs:
        own = {name: stopped(rows, "reward", 0)[0] for name, rows in logs[pair].items()}
        chosen[pair] = {"untuned": ("rpo", 0)}
        for name in METHODS:
            chosen[pair][f"{name} best"] = (name, own[name])
            chosen[pair][f"{name} last"] = (name, last)
            for value in LAMBDAS if name in TUNED else ():
                step = stopped(logs[pair][name], f"reward_{value}", args.patience)[0]
                chosen[pair][f"{name} {value}"] = (name, step)
    print("judging", file=sys.stderr)

    def judge(pair):
        steps = {}
        for row, (name, step) in chosen[pair].items():
            if row not in UNREAD:
                steps.setdefault(name, set()).add(step)
        return {name: bench.judge(folders[pair][name], of, pair[1], base=name == "rpo") for name, of in steps.items()}

    judged = dict(zip(pairs, bench.each(judge, pairs)))

    def figures(row, encoder, figure):
        found = {}
        for pair in pairs:
            name, step = chosen[pair][row]
            # A best step of 0 is the untuned model, which was judged once.
            found[pair] = judged[pair]["rpo" if step == 0 else name][step][encoder][figure]
        return found

    def gain(row, other, encoder, figure):
        ours, theirs = figures(row, encoder, figure), figures(other, encoder, figure)
        return {pair: ours[pair] - theirs[pair] for pair in pairs}

    rows = {
        "untuned": "untuned model",
    }
    for name, title in TITLES.items():
        if name in TUNED:
            rows[f"{name} 0.5"] = f"{title}, early stopping (lambda_val .5, patience {args.patience})"
        else:
            rows[f"{name} best"] = f"{title}, its own best step"
        rows[f"{name} last"] = f"{title}, all {last} steps"
    steps = {row: mean(chosen[pair][row][1] for pair in pairs) for row in rows}
    text = f"## RPO, DreamBooth and the untuned model: {len(args.subjects)} held-out subjects x {args.seeds} seeds\n"
    data = {"subjects": args.subjects, "seeds": args.seeds, "steps": last, "rows": {}}
    for encoder in ENCODERS:
        whose = "the reward's encoder" if encoder == "reward" else "the independent encoder"
        text += f"\nBy {whose}; 95 % bootstrap over (subject, seed):\n\n"
        lines = []
        for row, title in rows.items():
            cells = {figure: over_pairs(figures(row, encoder, figure)) for figure in FIGURES}
            data["rows"].setdefault(row, {"title": title, "mean_step": steps[row]})[encoder] = cells
            lines.append([title, f"{steps[row]:.0f}", *map(cell, cells.values())])
        text += table(["", "step", *(NAMES[figure] for figure in FIGURES)], lines)
    text += "\nDifferences, paired by subject and seed; 95 % bootstrap over subjects, then seeds:\n\n"
    lines, data["differences"] = [], {}
    others = {"untuned": "untuned model", "dreambooth best": "DreamBooth", "prior best": "DreamBooth + prior"}
    compared = [(name, other, title) for name in TUNED for other, title in {**others, f"{name} last": "itself at all steps"}.items()]
    compared.append(("rpo", "rpo-beta-1 0.5", TITLES["rpo-beta-1"]))
    for name, other, title in compared:
        for encoder in ENCODERS:
            cells = {figure: over_subjects(gain(f"{name} 0.5", other, encoder, figure)) for figure in FIGURES}
            data["differences"].setdefault(f"{name} less {other}", {})[encoder] = cells
            lines.append([f"{TITLES[name]}; less {title}", encoder, *(cell(value, "+") for value in cells.values())])
    text += table(["", "encoder", *(NAMES[figure] for figure in FIGURES)], lines)

    text += "\n## Early stopping\n\n"
    lines, data["early_stopping"] = [], {}
    for name, title in TITLES.items():
        shares, made = [], []
        for pair in pairs:
            of = {row["step"]: row["reward"] for row in logs[pair][name]}
            kept, end = stopped(logs[pair][name], "reward", args.patience)
            shares.append(of[kept] / max(of.values()))
            made.append(end)
        data["early_stopping"][name] = {"share_mean": mean(shares), "share_least": min(shares), "steps": mean(made)}
        lines.append([title, f"{100 * mean(shares):.2f} %", f"{100 * min(shares):.2f} %", f"{mean(made):.0f} of {last}"])
    text += table(["", "reward kept / best of the full run, mean", "least", "steps made, mean"], lines)
    text += "\n" + prefix(bench, pairs[0], logs) + "\n"

    text += "\n## lambda_val: which step of the same runs is kept\n\n"
    lines, data["lambda_val"], moved = [], {}, {}
    likeness_and_alignment = [(encoder, figure) for encoder in ENCODERS for figure in ("clip_i", "clip_t")]
    for name in TUNED:
        for value in LAMBDAS:
            row = f"{name} {value}"
            step = mean(chosen[pair][row][1] for pair in pairs)
            cells = [over_pairs(figures(row, *of)) for of in likeness_and_alignment]
            data["lambda_val"][row] = {"mean_step": step, "figures": cells}
            lines.append([f"{TITLES[name]}: {value}", f"{step:.0f}", *map(cell, cells)])
        moved[name] = [over_subjects(gain(f"{name} 0.7", f"{name} 0.3", *of)) for of in likeness_and_alignment]
        data["lambda_val"][f"{name} 0.7 less 0.3"] = moved[name]
        lines.append([".7 less .3", "", *(cell(value, "+") for value in moved[name])])
    text += table(["lambda_val", "step", *(f"{NAMES[figure]} ({encoder})" for encoder, figure in likeness_and_alignment)], lines)

    claims = []
    for name in TUNED:
        title = TITLES[name]
        for encoder in ENCODERS:
            for figure in ("harmonic_0.5", "clip_i"):
                ours, theirs = (over_pairs(figures(row, encoder, figure)) for row in (f"{name} 0.5", "untuned"))
                apart = ours[1] is not None and ours[1][0] > theirs[1][1]
                claims.append(bench.claim(f"{title}: with early stopping beats the untuned model on {NAMES[figure]} by the {encoder} encoder, intervals apart", apart))
            lost = [mean(gain(row, "untuned", encoder, "clip_t").values()) for row in (f"{name} 0.5", "dreambooth best")]
            claims.append(bench.claim(f"{title}: loses less CLIP-T than DreamBooth at its own best step by the {encoder} encoder ({lost[0]:+.4f}, {lost[1]:+.4f})", lost[0] > lost[1]))
        stop = data["early_stopping"][name]
        claims.append(bench.claim(f"{title}: early stopping reaches 99 % of the best reward of the full run in every run (least {100 * stop['share_least']:.2f} %)", stop["share_least"] >= 0.99))
        claims.append(bench.claim(f"{title}: in fewer steps ({stop['steps']:.0f} of {last})", stop["steps"] < last))
        for encoder, (likeness, alignment) in zip(ENCODERS, (moved[name][:2], moved[name][2:])):
            claims.append(bench.claim(f"{title}: lambda_val from .3 to .7 moves CLIP-I up and CLIP-T down by the {encoder} encoder ({likeness[0]:+.4f}, {alignment[0]:+.4f})", likeness[0] > 0 > alignment[0]))
    text += "\n## Claims\n\n" + "\n".join(claims) + "\n"
    data["claims"] = claims
    store(bench, "main", text, data, time.time() - started)


def prefix(bench, pair, logs):
    """One run made with patience, beside the full run of the same seed."""
    subject, seed = pair
    recipe = [f"validation.patience={bench.args.patience}"]
    folder = bench.run("patience", subject, seed, recipe, bench.args.steps)
    without_time = lambda rows: [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    short, full = without_time(metrics(folder, "validation")), without_time(logs[pair]["rpo"])
    kept, end = stopped(full, "reward", bench.args.patience)
    manifest = json.loads((folder / "manifest.json").read_text())
    same = short == full[: len(short)] and manifest["best"][0] == kept and manifest["steps"] == end
    return bench.claim(f"a run made with patience (`{subject}`, seed {seed}) is the full run's first {manifest['steps']} steps, to the last digit, and keeps step {kept}", same)


def ablation(bench):
    """One choice of RPO changed at a time."""
    started, args = time.time(), bench.args
    pairs = pairs_of(bench, args.ablation_seeds)

    def work(item):
        number, (pair, recipe) = item
        subject, seed = pair
        # Every row compares the photos with the same images.
        negatives = bench.run("rpo-beta-1", subject, seed, PAPER_BETA, args.steps) / "negatives"
        if not recipe:
            folder = negatives.parent
        else:
            folder = bench.run(f"ablation-{number}", subject, seed, PAPER_BETA + recipe, args.steps, negatives)
        rows = metrics(folder, "validation")
        kept, end = stopped(rows, "reward", args.patience)
        found = bench.judge(folder, {kept, args.steps}, seed, base=kept == 0)
        label = mean(row["label"] for row in metrics(folder, "train"))
        return {"kept": kept, "end": end, "label": label, "at": found[kept], "last": found[args.steps]}

    # The base first: its runs hold the negatives of all others.
    print("ablation", file=sys.stderr)
    bench.each(lambda pair: bench.run("rpo-beta-1", *pair, PAPER_BETA, args.steps), pairs)
    items = [(number, (pair, recipe)) for number, recipe in enumerate(ABLATION.values()) for pair in pairs]
    found = bench.each(work, items)
    lines, data = [], {"subjects": args.subjects, "seeds": args.ablation_seeds, "steps": args.steps, "rows": {}}
    of_base = found[: len(pairs)]
    for number, title in enumerate(ABLATION):
        of = found[number * len(pairs): (number + 1) * len(pairs)]
        value = lambda encoder, figure, when="at": {pair: one[when][encoder][figure] for pair, one in zip(pairs, of)}
        less = {pair: one["at"]["judge"]["harmonic_0.5"] - other["at"]["judge"]["harmonic_0.5"] for pair, one, other in zip(pairs, of, of_base)}
        row = {
            "label": mean(one["label"] for one in of),
            "step": mean(one["kept"] for one in of),
            "r .5 (reward)": over_pairs(value("reward", "harmonic_0.5")),
            "r .5 (judge)": over_pairs(value("judge", "harmonic_0.5")),
            "less base": over_subjects(less),
            "CLIP-I (judge)": over_pairs(value("judge", "clip_i")),
            "CLIP-T (judge)": over_pairs(value("judge", "clip_t")),
            "r .5 at the last step (judge)": over_pairs(value("judge", "harmonic_0.5", "last")),
        }
        data["rows"][title] = row
        cells = [cell(item, "+" if name == "less base" else "") if isinstance(item, tuple) else item for name, item in row.items()]
        lines.append([title, f"{row['label']:.3f}", f"{row['step']:.0f}", *cells[2:]])
    text = f"## Ablation of RPO: {len(args.subjects)} subjects x {args.ablation_seeds} seeds, {args.steps} steps, early stopping\n\n"
    text += table(["", *row], lines)
    text += "\nless base: r .5 by the independent encoder, paired by subject and seed\n"
    store(bench, "ablation", text, data, time.time() - started)


def late(bench):
    """Why the reward falls when RPO runs on."""
    started, args = time.time(), bench.args
    pairs = [(subject, 0) for subject in args.subjects[: args.late_subjects]]
    every = max(1, args.late_steps // 10)

    def work(item):
        number, (pair, recipe) = item
        subject, seed = pair
        negatives = bench.run("rpo-beta-1", subject, seed, PAPER_BETA, args.steps) / "negatives"
        folder = bench.run(f"late-{number}", subject, seed, PAPER_BETA + recipe, args.late_steps, negatives, every)
        rows, steps = metrics(folder, "validation"), metrics(folder, "train")
        best = max(rows[1:], key=lambda row: row["reward"])["step"]
        at = {row["step"]: row for row in rows}
        tail = [row for row in steps if row["step"] > args.late_steps - every]
        of = lambda name: mean(row.get(name, 0.0) for row in tail)
        # The likeness is what falls: its highest value beside the mean of the last three validations.
        likeness = [row["image_similarity"] for row in rows]
        judged = bench.judge(folder, {best, args.late_steps}, seed)
        fall = {figure: judged[args.late_steps]["judge"][figure] - judged[best]["judge"][figure] for figure in ("clip_i", "clip_t")}
        return {
            "label": of("label"), "margin": of("margin"), "generated_error": of("generated_error"), "best": best,
            "reward_fall": mean(row["reward"] for row in rows[-3:]) - at[best]["reward"],
            "likeness_fall": mean(likeness[-3:]) - max(likeness), **fall,
            "curve": [[row["step"], row["reward"], row["image_similarity"], row["text_similarity"]] for row in rows],
        }

    print("late", file=sys.stderr)
    bench.each(lambda pair: bench.run("rpo-beta-1", *pair, PAPER_BETA, args.steps), pairs)
    items = [(number, (pair, recipe)) for number, recipe in enumerate(ARMS.values()) for pair in pairs]
    found = bench.each(work, items)
    lines, curves, data = [], [], {"subjects": [pair[0] for pair in pairs], "steps": args.late_steps, "arms": {}}
    for number, title in enumerate(ARMS):
        of = found[number * len(pairs): (number + 1) * len(pairs)]
        data["arms"][title] = of
        average = lambda name: mean(one[name] for one in of)
        preference = "no preference term" not in title
        lines.append([
            title, f"{average('label'):.3f}" if preference else "-", f"{average('margin'):.3f}" if preference else "-",
            f"{average('generated_error'):.3f}" if any(one["generated_error"] for one in of) else "-", f"{average('best'):.0f}",
            *(f"{average(name):+.4f}" for name in ("reward_fall", "likeness_fall")),
            *(f"{average(name):+.3f}" for name in ("clip_i", "clip_t")),
        ])
        curves.append([title, *(f"{mean(one['curve'][at][1] for one in of):.3f}" for at in range(len(of[0]["curve"])))])
    text = f"## Why the reward falls late: {args.late_steps} steps, {len(pairs)} subjects\n\n"
    text += table(["", "label", "margin k", "error on negatives", "best step", "reward, last 3 less best", "I, last 3 less highest", "CLIP-I (judge), last less best", "CLIP-T (judge)"], lines)
    text += "\nlabel, margin and error: means of the last tenth; reward and I on the validation prompts\n"
    text += "\nReward by step:\n\n" + table(["", *(row[0] for row in found[0]["curve"])], curves)
    store(bench, "late", text, data, time.time() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--world", default="assets/emoji-world", help="model, encoders, subjects and prompts")
    parser.add_argument("--subjects", type=lambda text: text.split(","), default=SUBJECTS, help="names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=20, help="steps between validations")
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--images", type=int, default=4, help="images for each test prompt")
    parser.add_argument("--main", action="store_true", help="RPO beside DreamBooth; what is done where no part is named")
    parser.add_argument("--ablation", action="store_true", help="the ablation table")
    parser.add_argument("--ablation-seeds", type=int, default=1)
    parser.add_argument("--late", action="store_true", help="the experiment on the late fall")
    parser.add_argument("--late-steps", type=int, default=400)
    parser.add_argument("--late-subjects", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--runs", default="runs/claims")
    parser.add_argument("--results", default="benches/results")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few steps, two subjects, one seed; stores no tables")
    args = parser.parse_args()
    bench = Bench(args)
    if args.quick:
        args.subjects, args.seeds, args.steps, args.every, args.images = args.subjects[:2], 1, 4, 1, 1
        args.late_steps, args.patience, args.runs = 10, 2, f"{args.runs}-quick"
        args.set += ["sampler.steps=2", "validation.images_per_prompt=1", "negatives.per_prompt=1"]
        bench.root = pathlib.Path(args.runs)
    parts = [main_part] * args.main + [ablation] * args.ablation + [late] * args.late
    for part in parts or [main_part]:
        part(bench)
    if bench.failed and not args.quick:
        print(f"{len(bench.failed)} claims do not hold", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
