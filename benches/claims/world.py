"""What RPO, its rivals and early stopping do on the embedded world, over held-out subjects and seeds.

    make world-claims                  # a release build, then all parts: about four hours on two cores
    python3 benches/claims/world.py [--part binding|search|report] [--budget MINUTES] [--binary target/release/preftune]

A row is one method on one subject with one seed: a run as the quick start makes it with the method's settings, stopped by its
own validation reward, and judged by `preftune eval subject` on prompts of which neither training nor validation knows the place or
colour, by the reward's encoder and by one that gave no reward. The methods of one subject and seed are judged in one call, in which
the untuned model's images are made once. Finished rows lie in benches/results/world_rows.jsonl under a hash of all that decides
them, so that a row is computed once; `--budget` ends a call after so many minutes, and the next one goes on.
Tables of what is there go to stdout and to benches/results/world.md. Exit code 1: a claim does not hold, or rows are missing.

CRITERIA, written before the rows were made:
- Binding, the first test: DreamBooth with prior has, on four of the report's six subjects at least, a likeness with the token
  (CLIP-I by the encoder that gave no reward) of .5 at least and .2 above the untuned model's, and of the class word alone at most .05
  above the untuned model's.
- The method for the default is RPO's of the search with the largest mean hypervolume (CLIP-I x CLIP-T x class kept) by the
  encoder that gave no reward, on the search's subjects.
- On the report's subjects it is to keep at least .95 of the likeness that DreamBooth gains with the token (CLIP-I above the untuned
  model's), to leak at most .02 (CLIP-I of the class word alone above the untuned model's), and to beat every row of DreamBooth on
  hypervolume with a paired interval above 0 under both encoders.
- Intervals are 95 % percentile bootstraps over subjects, then seeds within them.
"""

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

CONFIG = pathlib.Path("configs/image/quickstart.toml")
WORLD = pathlib.Path("assets/emoji-world")
ROWS = pathlib.Path("benches/results/world_rows.jsonl")
TABLE = pathlib.Path("benches/results/world.md")
SEARCH = ["poodle", "cupcake", "trolleybus", "garden-house"]
REPORT = ["apple", "bus", "cake", "dog", "house", "monkey"]
SEEDS = {"binding": [0], "search": [0], "report": [0, 1, 2]}
ENCODERS = {"reward": "the reward's encoder", "judge": "an encoder that gave no reward"}
FIGURES = {"harmonic_0.3": "r .3", "harmonic_0.5": "r .5", "harmonic_0.7": "r .7", "clip_i": "CLIP-I", "pres": "CLIP-I, class word",
           "clip_t": "CLIP-T", "class_kept": "class kept", "div": "DIV", "hypervolume": "volume"}
RESAMPLES = 4000
# Methods that are trained before they are judged together.
TOGETHER = 5

DREAMBOOTH = ["objective.kind=dreambooth"]
CLASS = ["negatives.token=false"]
# Settings beside the quick start's, all of which are named, so that a new default there moves no row.
PLAIN = {"objective.kind": "rpo", "objective.beta": "0.1", "negatives.token": "true", "negatives.per_prompt": "4",
         "validation.reward": "harmonic", "validation.every": "40", "validation.patience": "3", "train.steps": "200"}
PLACE = {"run.output", "subject.photos", "subject.class"}
METHODS = {
    "DreamBooth": DREAMBOOTH,
    "DreamBooth + prior": DREAMBOOTH + ["objective.prior_weight=1"],
    "RPO, beta .1": [],
    "RPO, class-word negatives, beta 1": CLASS + ["objective.beta=1"],
    "RPO, class-word negatives + prior": CLASS + ["objective.beta=1", "objective.prior_weight=1"],
    "DreamBooth + DOP": DREAMBOOTH + ["objective.dop_weight=1"],
    "RPO, beta .1 + DOP": ["objective.dop_weight=1"],
    "RPO, class-word negatives, specific": CLASS + ["objective.beta=1", "validation.reward=specific"],
    "RPO as in the paper, beta 1": ["objective.beta=1"],
    "DreamBooth, all 200 steps": DREAMBOOTH + ["validation.every=0", "validation.patience=0"],
}
# What of the negatives does the work: their prompts, the preference's strength, their number; beside the plain prior.
ABLATION = {
    "RPO, class-word negatives, beta 5": CLASS + ["objective.beta=5"],
    "RPO, class-word negatives + prior + DOP": CLASS + ["objective.beta=1", "objective.prior_weight=1", "objective.dop_weight=1"],
    "RPO, class-word negatives, beta 2": CLASS + ["objective.beta=2"],
    "RPO, class-word negatives, beta .3": CLASS + ["objective.beta=0.3"],
    "RPO, class-word negatives, beta 1 + DOP .3": CLASS + ["objective.beta=1", "objective.dop_weight=0.3"],
    "RPO, both kinds of negatives, beta 1": ["negatives.token=both", "negatives.per_prompt=2", "objective.beta=1"],
    "RPO, class-word negatives, beta 1, 8 images": CLASS + ["objective.beta=1", "negatives.per_prompt=1"],
    "DreamBooth + prior .5": DREAMBOOTH + ["objective.prior_weight=0.5"],
    "DreamBooth + prior 2": DREAMBOOTH + ["objective.prior_weight=2"],
    "DreamBooth + prior 1, 8 images": DREAMBOOTH + ["objective.prior_weight=1", "negatives.per_prompt=1"],
    "DreamBooth + DOP .3": DREAMBOOTH + ["objective.dop_weight=0.3"],
}
PRIOR = "DreamBooth + prior"
# The report has the search's choice too, where that is one of the ablation.
PARTS = {"binding": (REPORT, {PRIOR: METHODS[PRIOR]}), "search": (SEARCH, {**METHODS, **ABLATION}), "report": (REPORT, METHODS)}
UNTUNED = "untuned"


def digest(*parts):
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return hashed.hexdigest()[:16]


def unnamed(config):
    """The quick start's settings that no method names: a new default of the others moves no row."""
    named = {key for sets in (PLAIN, *(dict(pair.split("=", 1) for pair in sets) for sets in (METHODS | ABLATION).values())) for key in sets}
    return flatten(config, named | PLACE)


def flatten(config, without):
    """The values of a configuration by their whole keys."""
    flat = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    return {key: value for key, value in flat.items() if key not in without}


class Bench:
    """Rows of a file, computed where they are not there yet."""

    def __init__(self, args, path):
        self.args = args
        self.path = path
        self.started = time.time()
        self.classes = {entry["name"]: entry["class"] for entry in json.loads((WORLD / "subjects/subjects.json").read_text())}
        files = sorted(path for path in WORLD.rglob("*") if path.suffix in (".safetensors", ".txt", ".json"))
        self.world = digest(*(path.read_bytes() for path in files), unnamed(tomllib.loads(CONFIG.read_text())))
        self.rows = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[row["hash"]] = row

    def key(self, method, subject, seed):
        return digest(self.world, method, subject, seed, self.args.images)

    def settings(self, sets):
        return PLAIN | dict(pair.split("=", 1) for pair in sets)

    def preftune(self, *words):
        env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        child = subprocess.Popen([self.args.binary, *map(str, words)], env=env, stdout=subprocess.DEVNULL)
        # Processor time, not the clock's: what else the machine does moves it little.
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, child.args)
        return round(used.ru_utime + used.ru_stime)

    def run(self, verb, config, settings, subject, seed, folder):
        """Makes a run or finishes it: the processor time that it took, `None` where a part of it was there."""
        resumed = folder.exists()
        used = self.preftune(verb, config, "--resume", "--quiet", "--output", folder, "--photos", WORLD / "subjects" / subject, "--class",
                             self.classes[subject], "--set", f"run.seed={seed}", "--set", "run.device=cpu",
                             *(word for pair in settings.items() for word in ("--set", "=".join(pair))))
        return None if resumed else used

    def train(self, settings, subject, seed):
        """The folder of a method's run, and the processor time that it took."""
        folder = pathlib.Path(self.args.runs) / self.key(settings, subject, seed)
        return folder, self.run("train", CONFIG, settings, subject, seed, folder)

    def make(self, subject, seed, methods):
        """Trains the methods on one subject with one seed and judges them together, as many as there is time for."""
        folders, seconds = {}, {}
        for sets in methods:
            if self.args.budget and time.time() - self.started > 60 * self.args.budget:
                break
            settings = self.settings(sets)
            row = self.key(settings, subject, seed)
            folder, seconds[row] = self.train(settings, subject, seed)
            folders[row] = (folder, settings)
        if not folders:
            return []
        report = pathlib.Path(self.args.runs) / f"{next(iter(folders))}.json"
        self.preftune("eval", "subject", *(folder for folder, _ in folders.values()), "--prompts", WORLD / "prompts/test.txt", "--judge",
                      WORLD / "judge", "--device", "cpu", "--images-per-prompt", self.args.images, "--seed", seed, "--quiet",
                      f"--json={report}")
        judged = json.loads(report.read_text())["runs"]
        common = {"subject": subject, "seed": seed}
        rows = [common | {"hash": row, "step": run["step"], "cpu_seconds": seconds[row], "settings": settings,
                          **{name: run["mean"][name] for name in ENCODERS}}
                for (row, (_, settings)), run in zip(folders.items(), judged, strict=True)]
        untuned = {name: judged[0]["base"]["mean"][name] for name in ENCODERS}
        # The untuned model's figures are of one subject and seed, whatever the method: the first call makes them.
        return rows + [common | {"hash": self.key(UNTUNED, subject, seed), "step": 0, "cpu_seconds": 0, "settings": UNTUNED, **untuned}]

    def compute(self, subjects, seeds, methods):
        groups = []
        for first in range(0, len(methods), TOGETHER):
            for pair in itertools.product(subjects, seeds):
                rows = [sets for sets in methods[first:first + TOGETHER] if self.key(self.settings(sets), *pair) not in self.rows]
                if rows:
                    groups.append((*pair, rows))
        of, left = len(subjects) * len(seeds) * len(methods), sum(len(rows) for *_, rows in groups)
        print(f"{of - left} of {of} rows are there; a row takes about two minutes on one core", file=sys.stderr)
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(self.make, *group) for group in groups]
            for future in concurrent.futures.as_completed(futures):
                new = [row for row in future.result() if row["hash"] not in self.rows]
                self.rows |= {row["hash"]: row for row in new}
                with self.path.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
                left -= sum(row["settings"] != UNTUNED for row in new)
                print(f"  {left} left", file=sys.stderr, flush=True)

    def figures(self, method, pairs, encoder, figure):
        """{(subject, seed): value} of the pairs whose row is there."""
        found = {}
        for pair in pairs:
            row = self.rows.get(self.key(method if method == UNTUNED else self.settings(method), *pair))
            value = row and (row[figure] if encoder is None else row[encoder][figure])
            if value is not None:
                found[pair] = value
        return found


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def interval(figures):
    """Of {(subject, seed): value}: mean over subjects, and its bootstrap over subjects, then seeds within them."""
    clusters = [[value for (of, _), value in figures.items() if of == subject] for subject in sorted({of for of, _ in figures})]
    centre = mean(map(mean, clusters))
    if len(clusters) < 2:
        return centre, None
    draw = random.Random(0)
    means = sorted(mean(mean(draw.choices(values, k=len(values))) for values in draw.choices(clusters, k=len(clusters)))
                   for _ in range(RESAMPLES))
    return centre, (means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)])


def cell(estimate, sign=""):
    centre, ends = estimate
    return f"{centre:{sign}.3f}" + (f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else "")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def less(ours, theirs):
    return {pair: ours[pair] - theirs[pair] for pair in ours if pair in theirs}


def best_of_search(bench, methods):
    """The method with the largest mean volume on the search's subjects, by the encoder that gave no reward; None before all rows are
    there."""
    pairs = [(subject, seed) for subject in SEARCH for seed in SEEDS["search"]]
    volumes = {name: bench.figures(sets, pairs, "judge", "hypervolume") for name, sets in methods.items()}
    if any(len(figures) < len(pairs) for figures in volumes.values()):
        return None
    return max(volumes, key=lambda name: mean(volumes[name].values()))


def take_choice(bench):
    """RPO's best method of the search, which the report then has too."""
    methods = PARTS["search"][1]
    chosen = best_of_search(bench, {name: sets for name, sets in methods.items() if name.startswith("RPO")})
    if chosen is not None:
        METHODS[chosen] = methods[chosen]
    return chosen


def described(bench, part, parts):
    subjects, methods = parts[part]
    pairs = [(subject, seed) for subject in subjects for seed in SEEDS[part]]
    text = f"## {part.capitalize()}: {', '.join(subjects)}; {len(SEEDS[part])} seeds\n"
    known = {name: sets for name, sets in methods.items() if bench.figures(sets, pairs, None, "step")}
    if not known:
        return text + "\nNo row yet.\n"
    for encoder, whose in ENCODERS.items():
        text += f"\nBy {whose}:\n\n"
        rows = []
        for name, sets in {UNTUNED: UNTUNED, **known}.items():
            steps, seconds = (bench.figures(sets, pairs, None, figure) for figure in ("step", "cpu_seconds"))
            cells = [cell(interval(bench.figures(sets, pairs, encoder, figure))) for figure in FIGURES]
            rows.append([name, *cells, f"{mean(steps.values()):.0f}", f"{mean(seconds.values()):.0f}" if seconds else "", len(steps)])
        text += table(["", *FIGURES.values(), "step", "CPU s", "rows"], rows)
    return text


def binding(bench, failed):
    """Whether a token binds and a class can be lost, subject by subject."""
    rows = []
    for subject in REPORT:
        pair = [(subject, 0)]
        found = [bench.figures(sets, pair, "judge", figure) for figure in ("clip_i", "pres") for sets in (UNTUNED, METHODS[PRIOR])]
        if not all(found):
            continue
        before, after, class_before, class_after = (value[subject, 0] for value in found)
        holds = after >= 0.5 and after - before >= 0.2 and class_after - class_before <= 0.05
        rows.append([subject, *(f"{value:.3f}" for value in (before, after, class_before, class_after)), "yes" if holds else "no"])
    bound = sum(row[-1] == "yes" for row in rows)
    if bound < 4:
        failed.append(f"a token binds on four subjects ({bound} of {len(rows)})")
    header = ["", "untuned", "tuned", "class word, untuned", "class word, tuned", "binds"]
    return f"## Binding: {PRIOR}, CLIP-I by {ENCODERS['judge']}\n\n" + table(header, rows)


def claims(bench, chosen, failed):
    """The criteria, read off the report's rows for the method that the search chose."""
    subjects, methods = PARTS["report"]
    pairs = [(subject, seed) for subject in subjects for seed in SEEDS["report"]]
    text = f"\n## Claims for {chosen}\n\n"

    def claim(words, holds):
        nonlocal text
        text += f"- {'holds' if holds else '**does not hold**'}: {words}\n"
        if not holds:
            failed.append(words)

    for encoder, whose in ENCODERS.items():
        get = lambda sets, figure: bench.figures(sets, pairs, encoder, figure)
        gains = {name: mean(less(get(methods[name], "clip_i"), get(UNTUNED, "clip_i")).values()) for name in (chosen, "DreamBooth")}
        share = gains[chosen] / gains["DreamBooth"]
        claim(f"by {whose}, it keeps {share:.2f} of DreamBooth's gain in likeness (.95 asked)", share >= 0.95)
        leak = interval(less(get(methods[chosen], "pres"), get(UNTUNED, "pres")))
        claim(f"by {whose}, the class word's likeness is {cell(leak, '+')} above the untuned model's (.02 at most)", leak[0] <= 0.02)
        for other in (name for name in methods if name.startswith("DreamBooth")):
            gain = interval(less(get(methods[chosen], "hypervolume"), get(methods[other], "hypervolume")))
            claim(f"by {whose}, its volume less that of {other} is {cell(gain, '+')}", gain[1] is not None and gain[1][0] > 0)
    return text


def arguments(doc, parts):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=parts, action="append")
    parser.add_argument("--budget", type=float, help="minutes after which no further row is begun")
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--runs", default="runs/world_claims")
    parser.add_argument("--images", type=int, default=6, help="images for each test prompt")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


def count(bench, parts):
    """Rows that are there, and all."""
    there = wanted = 0
    for part, (subjects, methods) in parts.items():
        pairs = [(subject, seed) for subject in subjects for seed in SEEDS[part]]
        wanted += len(pairs) * len(methods)
        there += sum(len(bench.figures(sets, pairs, None, "step")) for sets in methods.values())
    return there, wanted


def finish(path, text, failed):
    """Writes the page and says what does not hold."""
    path.write_text(text)
    print(text)
    for words in failed:
        print(f"does not hold: {words}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def main():
    args = arguments(__doc__, PARTS)
    bench = Bench(args, ROWS)
    for part in args.part or PARTS:
        if part == "report":
            take_choice(bench)
        subjects, methods = PARTS[part]
        bench.compute(subjects, SEEDS[part], list(methods.values()))
    failed = []
    chosen = take_choice(bench)
    there, wanted = count(bench, PARTS)
    text = f"# The embedded world: RPO beside DreamBooth\n\n{there} of {wanted} rows; {machine.described()}. Criteria and methods: "
    text += "`benches/claims/world.py`.\n\n" + binding(bench, failed) + "\n"
    text += "\n".join(described(bench, part, PARTS) for part in ("search", "report"))
    if there == wanted:
        text += claims(bench, chosen, failed)
    else:
        failed.append(f"{wanted - there} rows are missing")
    finish(TABLE, text, failed)


if __name__ == "__main__":
    main()
