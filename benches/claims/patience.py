"""Which patience keeps what a longer run would have found, on the embedded world.

    python3 benches/claims/patience.py [--binary target/release/preftune] [--runs runs/patience]

Every run makes all its steps (`validation.patience = 0`). A run that patience ends is a prefix of it, so that every rule is
read off the same curves. Written before the runs: of the rules whose reward is on average at most .002 below the full run's
best and nowhere more than .01 below, over the subjects and seeds of the search, the one with the fewest steps is taken. It is
reported on other subjects and another seed. Two single-threaded processes run side by side; a finished run is not made again.
The table goes to stdout and to benches/results/patience.md.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

CONFIG = "configs/image/quickstart.toml"
WORLD = pathlib.Path("assets/emoji-world/subjects")
SEARCH = [(subject, seed) for subject in ["apple", "cake", "dog", "house"] for seed in [0, 1]]
MEAN, WORST = 0.002, 0.01
RULES = [(patience, gain) for gain in [0.0, -0.005, -0.01] for patience in [2, 3, 4, 5, 6]]


def train(args, run):
    subject, seed = run
    folder = args.runs / f"{subject}-{seed}"
    if not (folder / "report.html").exists():
        command = [args.binary, "train", CONFIG, "--photos", WORLD / subject, "--class", args.classes[subject], "--quiet",
                   "--resume", "--set", f"run.output={folder}", "--set", f"run.seed={seed}", "--set", "run.device=cpu",
                   "--set", "validation.patience=0"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["reward"]) for row in rows if row["kind"] == "validation"]


def stop(curve, patience, gain):
    """The step at which a run ends and the best reward until then, as `src/trainer/early_stopping.rs` decides."""
    best = gained = None
    since = 0
    for step, reward in curve:
        start = best if gained is None else gained
        better = best is None or reward > best
        best = reward if better else best
        if start is None or reward > start + gain:
            since, gained = 0, None
        else:
            since, gained = since + 1, start if better else gained
        if since >= patience:
            break
    return step, best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/patience"))
    args = parser.parse_args()
    subjects = json.loads((WORLD / "subjects.json").read_text())
    args.classes = {row["name"]: row["class"] for row in subjects}
    report = [(name, 2) for name in args.classes if name not in {subject for subject, _ in SEARCH}]
    args.runs.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        curves = list(pool.map(lambda run: train(args, run), SEARCH + report))
    parts = {"search": curves[:len(SEARCH)], "report": curves[len(SEARCH):]}

    def figures(part, rule):
        ends = [stop(curve, *rule) for curve in parts[part]]
        lost = [max(reward for _, reward in curve) - best for curve, (_, best) in zip(parts[part], ends)]
        return sum(step for step, _ in ends) / len(ends), sum(lost) / len(lost), max(lost)

    rows = {rule: [figures(part, rule) for part in parts] for rule in RULES}
    good = [rule for rule, (found, _) in rows.items() if found[1] <= MEAN and found[2] <= WORST]
    chosen = min(good, key=lambda rule: rows[rule][0][0], default=None)
    lines = [f"# Patience on the embedded world ({machine.today_on_it()})", "",
             f"`benches/claims/patience.py`: {len(parts['search'])} runs to choose by, {len(parts['report'])} of other subjects and "
             f"another seed to report on, {curves[0][-1][0]} steps each. `lost`: best reward of all steps less that of the steps "
             f"until patience ended, mean and worst. Asked of a rule: {MEAN} and {WORST} at most in the search; of those the fewest steps.", "",
             "| patience | min_gain | search: steps | lost | worst | report: steps | lost | worst |", "|---|---|---|---|---|---|---|---|"]
    for rule, both in rows.items():
        mark = "**" if rule == chosen else ""
        cells = [f"{mark}{rule[0]}{mark}", f"{rule[1]:g}"]
        cells += [cell for part in both for cell in (f"{part[0]:.0f}", f"{part[1]:.4f}", f"{part[2]:.4f}")]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    pathlib.Path("benches/results/patience.md").write_text(text)
    return 0 if chosen else 1


if __name__ == "__main__":
    sys.exit(main())
