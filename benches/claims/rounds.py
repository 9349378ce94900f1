"""What rounds on a model's own images add to a run on a subject, on the embedded world, over held-out subjects and seeds.

    make rounds-claims                 # a release build, then all parts: about four hours on two cores
    python3 benches/claims/rounds.py [--part search|report] [--budget MINUTES] [--binary target/release/preftune]

A row is a start with a way of going on, on one subject with one seed, judged by `preftune eval subject` on prompts of which neither
training nor validation knows the place or colour, by the reward's encoder and by one that gave no reward. Starts are runs as
`benches/claims/world.py` makes them; one that lies in `--runs` is not made again. Finished rows lie in
benches/results/rounds_rows.jsonl under a hash of all that decides them. Tables of what is there go to stdout and to
benches/results/rounds.md. Exit code 1: a claim does not hold, or rows are missing.

CRITERIA, written before the rows were made:
- The way for the default is that of the search with the largest mean hypervolume (CLIP-I x CLIP-T x class kept) by the encoder that gave
  no reward, on the search's subjects.
- On the report's subjects it is to beat its start and every row of DreamBooth on the reward at .5 and on hypervolume, with paired
  intervals above 0, by the encoder that gave no reward.
- It is to keep .95 of the likeness that its start gains with the token (CLIP-I above the untuned model's), by both encoders.
- Intervals are 95 % percentile bootstraps over subjects, then seeds within them.
"""

import pathlib
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import world  # noqa: E402
from world import METHODS, UNTUNED, cell, interval, less, machine, mean  # noqa: E402

CONFIG = pathlib.Path("configs/image/rounds.toml")
ROWS = pathlib.Path("benches/results/rounds_rows.jsonl")
TABLE = pathlib.Path("benches/results/rounds.md")
START = "RPO, class-word negatives + prior"
# Settings beside those of the configuration, all of which are named, so that a new default there moves no row.
PLAIN = {"objective.kind": "dpo", "objective.beta": "0.02", "objective.nll_weight": "1", "anchor.weight": "1", "images.class_alone": "true",
         "images.per_prompt": "8", "labels.pairs": "percentile", "labels.positive": "0.85", "labels.negative": "0.15",
         "validation.reward": "specific", "train.learning_rate": "3e-5", "train.steps": "40", "rounds.count": "2", "reward.lambda": "0.5"}
# One thing at a time.
WAYS = {
    "dpo": [],
    "dpo, no anchor": ["anchor.weight=0"],
    "dpo, no nll": ["objective.nll_weight=0"],
    "dpo, no class-word prompts": ["images.class_alone=false", "images.per_prompt=16", "labels.positive=0.93", "labels.negative=0.07"],
    "dpo, kept by the harmonic reward": ["validation.reward=harmonic"],
    "dpo, rate 6e-5": ["train.learning_rate=6e-5"],
    "dpo, beta .1": ["objective.beta=0.1"],
    "dpo, 4 rounds": ["rounds.count=4"],
    "ipo": ["objective.kind=ipo"],
    "sppo": ["objective.kind=sppo"],
    "dno": ["objective.kind=dno"],
}
# The report has the search's choice too, after each of these starts.
STARTS = [START, "RPO, class-word negatives, beta 1", "DreamBooth + prior", "DreamBooth"]


class Bench(world.Bench):
    """Rows of starts, and of rounds after them: a method is a start's name and settings of rounds, or None."""

    def __init__(self, args):
        super().__init__(args, ROWS)
        named = {"adapter.start", *PLAIN, *(pair.split("=", 1)[0] for sets in WAYS.values() for pair in sets)}
        self.unnamed = world.flatten(tomllib.loads(CONFIG.read_text()), named | world.PLACE)

    def settings(self, method):
        start, sets = method
        own = None if sets is None else PLAIN | dict(pair.split("=", 1) for pair in sets)
        settings = {"start": super().settings(METHODS[start]), "rounds": own}
        return settings if own is None else settings | {"unnamed": self.unnamed}

    def train(self, settings, subject, seed):
        start, seconds = super().train(settings["start"], subject, seed)
        if settings["rounds"] is None:
            return start, seconds
        folder = pathlib.Path(self.args.runs) / self.key(settings, subject, seed)
        used = self.run("rounds", CONFIG, settings["rounds"] | {"adapter.start": str(start)}, subject, seed, folder)
        return folder, used


def parts():
    search = {START: (START, None)} | {f"rounds: {name}": (START, sets) for name, sets in WAYS.items()}
    report = {start: (start, None) for start in STARTS}
    return {"search": (world.SEARCH, search), "report": (world.REPORT, report)}


def with_choice(bench, found):
    """The report's methods with the search's best way after each start; the way, or None before all rows of the search are there."""
    ways = {name: method for name, method in found["search"][1].items() if method[1] is not None}
    chosen = world.best_of_search(bench, ways)
    if chosen is not None:
        for start in STARTS:
            found["report"][1][f"{start}; {chosen}"] = (start, ways[chosen][1])
    return chosen


def claims(bench, methods, chosen, failed):
    """The criteria, read off the report's rows."""
    pairs = [(subject, seed) for subject in world.REPORT for seed in world.SEEDS["report"]]
    ours = methods[f"{START}; {chosen}"]
    text = f"\n## Claims for {START}; {chosen}\n\n"

    def claim(words, holds):
        nonlocal text
        text += f"- {'holds' if holds else '**does not hold**'}: {words}\n"
        if not holds:
            failed.append(words)

    for other, method in methods.items():
        if method[1] is not None or other not in (START, *(name for name in methods if name.startswith("DreamBooth"))):
            continue
        for figure, what in [("harmonic_0.5", "reward at .5"), ("hypervolume", "volume")]:
            gain = interval(less(bench.figures(ours, pairs, "judge", figure), bench.figures(method, pairs, "judge", figure)))
            claim(f"its {what} less that of {other} is {cell(gain, '+')}", gain[1] is not None and gain[1][0] > 0)
    for encoder, whose in world.ENCODERS.items():
        get = lambda method: bench.figures(method, pairs, encoder, "clip_i")
        gains = [mean(less(get(method), get(UNTUNED)).values()) for method in (ours, methods[START])]
        claim(f"by {whose}, it keeps {gains[0] / gains[1]:.2f} of its start's gain in likeness (.95 asked)", gains[0] >= 0.95 * gains[1])
    return text


def main():
    found = parts()
    args = world.arguments(__doc__, found)
    bench = Bench(args)
    for part in args.part or found:
        if part == "report":
            with_choice(bench, found)
        subjects, methods = found[part]
        bench.compute(subjects, world.SEEDS[part], list(methods.values()))
    failed = []
    chosen = with_choice(bench, found)
    there, wanted = world.count(bench, found)
    text = f"# The embedded world: rounds after a run on a subject\n\n{there} of {wanted} rows; {machine.described()}. Criteria and methods: "
    text += "`benches/claims/rounds.py`. Seconds are those of the rounds alone.\n\n"
    text += "\n".join(world.described(bench, part, found) for part in found)
    if there == wanted and chosen is not None:
        text += claims(bench, found["report"][1], chosen, failed)
    else:
        failed.append(f"{wanted - there} rows are missing")
    world.finish(TABLE, text, failed)


if __name__ == "__main__":
    main()
