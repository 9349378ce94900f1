"""`preftune rank` against choix and evalica on generated comparisons: the same strengths, and how long each takes.

    pip install choix==0.4.1 evalica==0.4.2
    cargo build --release
    python benches/versus_python/ranking.py [--binary target/release/preftune] [--repeats 5]

Ours is the whole command: start, read the CSV file, check connectivity, fit by maximum likelihood, count cycles,
calibrate, print JSON. Of the others, `fit` is the call alone with everything in memory in the form it likes best
(evalica: lists; choix: a dense matrix of wins), and `whole` adds reading the file with pandas and bringing it into
that form, but neither starting Python nor importing; the start of our command, most of it loading libtorch, is in
`ours` and printed by itself too. Ties are half a win for evalica; choix knows no ties, so both sides drop them.
Prints medians and the ratio whole / ours; fails if strengths differ by more than 1e-6.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

import choix
import evalica
import numpy as np
import pandas as pd

TOLERANCE = 1e-6
SIZES = [(100, 50_000), (1_000, 1_000_000)]


def write_games(path, items, games, seed):
    """Games between random pairs by Bradley-Terry strengths of unit spread; 15 % are ties."""
    random = np.random.default_rng(seed)
    theta = random.normal(size=items)
    left = random.integers(0, items, games)
    right = (left + 1 + random.integers(0, items - 1, games)) % items
    won = random.random(games) < 1 / (1 + np.exp(theta[right] - theta[left]))
    winner = np.where(random.random(games) < 0.15, "tie", np.where(won, "left", "right"))
    table = pd.DataFrame({"left": left, "right": right, "winner": winner})
    table["left"] = "item" + table["left"].astype(str)
    table["right"] = "item" + table["right"].astype(str)
    table.to_csv(path, index=False)


def timed(function, repeats):
    """Median seconds and the last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def ours(binary, path, ties):
    command = [binary, "rank", "--input", path, "--prior", "0", "--ties", ties, "--errors", "none", "--json"]
    ranking = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {row["item"]: row["strength"] for row in ranking["standings"]}


def evalica_lists(path):
    table = pd.read_csv(path)
    words = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    return table["left"].tolist(), table["right"].tolist(), table["winner"].map(words).tolist()


def evalica_fit(lists):
    result = evalica.bradley_terry(*lists, tolerance=1e-12, limit=10_000)
    return np.log(result.scores).to_dict()


def choix_matrix(path):
    """Wins of row over column, and the names."""
    table = pd.read_csv(path)
    table = table[table["winner"] != "tie"]
    codes, names = pd.factorize(pd.concat([table["left"], table["right"]]))
    left, right = codes[: len(table)], codes[len(table) :]
    won = (table["winner"] == "left").to_numpy()
    wins = np.zeros((len(names), len(names)))
    np.add.at(wins, (np.where(won, left, right), np.where(won, right, left)), 1)
    return wins, list(names)


def choix_fit(matrix):
    wins, names = matrix
    theta = choix.ilsr_pairwise_dense(wins, max_iter=1_000, tol=1e-10)
    return dict(zip(names, theta))


def largest_difference(one, other):
    """Of strengths with mean zero."""
    assert one.keys() == other.keys()
    a, b = (np.array([table[name] for name in sorted(one)]) for table in (one, other))
    return np.abs((a - a.mean()) - (b - b.mean())).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    start, _ = timed(lambda: subprocess.run([arguments.binary, "--version"], check=True, capture_output=True), 5)
    print(f"start of the command: {start:.3f} s")
    print(f"{'items':>6} {'games':>9}  {'peer':<8} {'fit s':>8} {'whole s':>8} {'ours s':>8} {'ratio':>6}  {'difference':>10}")
    peers = [("evalica", "half", evalica_lists, evalica_fit), ("choix", "drop", choix_matrix, choix_fit)]
    with tempfile.TemporaryDirectory() as folder:
        for items, games in SIZES:
            path = str(pathlib.Path(folder) / f"{items}.csv")
            write_games(path, items, games, seed=items)
            for name, ties, load, fit in peers:
                seconds, strengths = timed(lambda: ours(arguments.binary, path, ties), arguments.repeats)
                loaded = load(path)
                fit_seconds, reference = timed(lambda: fit(loaded), arguments.repeats)
                whole_seconds, _ = timed(lambda: fit(load(path)), arguments.repeats)
                difference = largest_difference(strengths, reference)
                print(
                    f"{items:>6} {games:>9}  {name:<8} {fit_seconds:8.3f} {whole_seconds:8.3f} {seconds:8.3f} "
                    f"{whole_seconds / seconds:6.1f}  {difference:10.1e}",
                    flush=True,
                )
                assert difference <= TOLERANCE, f"{name} finds other strengths"


if __name__ == "__main__":
    main()
