"""`preftune rank` against choix and evalica on the same comparisons: strengths, time, memory, and what each does with
sets that have no maximum-likelihood strengths.

    pip install choix==0.4.1 evalica==0.4.2
    cargo build --release
    python benches/versus_python/ranking.py [--binary target/release/preftune] [--repeats 5] [--real llmfao.csv]

Of a peer, `its fit` is the call alone with everything in memory in the form that it likes best (evalica: lists; choix:
a dense matrix of wins), `read and fit` adds reading the file with pandas and bringing it into that form, `as a command`
is a Python that imports both peers, does this and prints JSON. Ours `as a command` is the whole of `preftune rank`: start,
read, check connectivity, fit by maximum likelihood, count cycles, calibrate, print JSON; without its start it is
`read and fit`.
Ties are half a win for evalica; choix knows no ties, so both sides drop them.
Medians and their ratios, theirs by ours, go to `benches/results/ranking.md`; fails if strengths differ by more than 1e-6.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version

import choix
import evalica
import numpy as np
import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

TOLERANCE = 1e-6
SIZES = [(100, 50_000), (1_000, 1_000_000)]
# What the others would need a dense matrix of 800 MB for.
ALONE = [(1_000, 4_000_000), (1_000, 10_000_000), (10_000, 1_000_000)]
# Winner and loser of each game: two islands, one of them with an item that never lost; and one undefeated item.
HARD = {
    "disconnected": [("a", "b")] * 5 + [("c", "d")] * 3 + [("d", "c")] + [("d", "e")] * 2 + [("e", "d")] * 2,
    "undefeated": [("a", "b"), ("a", "c"), ("b", "c"), ("c", "b")],
}


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


def command(binary, path, *more):
    return [binary, "rank", "--input", path, "--errors", "none", *more]


def ours(binary, path, ties):
    arguments = command(binary, path, "--prior", "0", "--ties", ties, "--json")
    ranking = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
    return {row["item"]: row["strength"] for row in ranking["standings"]}


def peak(arguments):
    """Largest resident memory of a command, in MB; asked for by a small process, as a child begins with its parent's."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return int(ran.stdout) / 1024


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


# How it takes ties, how it reads a file, how it fits.
PEERS = {"evalica": ("half", evalica_lists, evalica_fit), "choix": ("drop", choix_matrix, choix_fit)}


def largest_difference(one, other):
    """Of strengths with mean zero."""
    assert one.keys() == other.keys()
    a, b = (np.array([table[name] for name in sorted(one)]) for table in (one, other))
    return np.abs((a - a.mean()) - (b - b.mean())).max()


def versus(binary, path, start, repeats, show):
    """One line for each peer on one file; the number of items and games."""
    table = pd.read_csv(path, usecols=["left", "right"])
    items, games = len(set(table["left"]) | set(table["right"])), len(table)
    for name, (ties, load, fit) in PEERS.items():
        seconds, strengths = timed(lambda: ours(binary, path, ties), repeats)
        loaded = load(path)
        fit_seconds, reference = timed(lambda: fit(loaded), repeats)
        read_seconds, _ = timed(lambda: fit(load(path)), repeats)
        peer = [sys.executable, __file__, "--as-command", name, path]
        whole_seconds, _ = timed(lambda: subprocess.run(peer, check=True, capture_output=True), repeats)
        difference = largest_difference(strengths, reference)
        # A difference of two starts is no more exact than this.
        least, beyond = 0.01, seconds - start
        own, ratio = (f"{beyond:.3f}", f"{read_seconds / beyond:.1f}") if beyond >= least else ("< 0.01", f"> {read_seconds / least:.1f}")
        show(
            f"| {items} | {games} | {name} | {fit_seconds:.3f} | {read_seconds:.3f} | {whole_seconds:.3f} | "
            f"{own} | {seconds:.3f} | {ratio} | "
            f"{whole_seconds / seconds:.1f} | {difference:.1e} |"
        )
        assert difference <= TOLERANCE, f"{name} finds other strengths"


def alone(binary, path, repeats, show, items, games):
    seconds, _ = timed(lambda: ours(binary, path, "half"), repeats)
    megabytes = pathlib.Path(path).stat().st_size / 1e6
    memory = peak(command(binary, path, "--prior", "0", "--json"))
    show(f"| {items} | {games} | {megabytes:.0f} | {seconds:.2f} | {memory:.0f} |")


def said(function):
    """What a call returns, as one line, or the error that it ends with."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return " ".join(str(function()).split())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def refused(binary, path, prior):
    """Our strengths with the warning, or our error."""
    ran = subprocess.run(command(binary, path, "--prior", prior, "--json"), capture_output=True, text=True)
    lines = ran.stderr.strip().splitlines()
    if ran.returncode != 0:
        return f"exit code {ran.returncode}: {lines[0]}"
    standings = json.loads(ran.stdout)["standings"]
    strengths = ", ".join(f"{row['item']} {row['strength']:.3f}" for row in standings)
    return f"{strengths}; {lines[0]}"


def hard(binary, folder, show):
    """What each says of games without maximum-likelihood strengths."""
    for name, games in HARD.items():
        path = pathlib.Path(folder) / f"{name}.csv"
        path.write_text("winner,loser\n" + "".join(f"{one},{other}\n" for one, other in games))
        names = sorted({item for pair in games for item in pair})
        wins = np.zeros((len(names), len(names)))
        for one, other in games:
            wins[names.index(one), names.index(other)] += 1
        indices = [(names.index(one), names.index(other)) for one, other in games]
        lists = [list(side) for side in zip(*games)] + [[evalica.Winner.X] * len(games)]
        rows = [
            ("preftune, `--prior 0`", refused(binary, str(path), "0")),
            ("preftune, its prior", refused(binary, str(path), "0.1")),
            ("evalica `bradley_terry`", said(lambda: evalica.bradley_terry(*lists).scores.to_dict())),
            ("choix `ilsr_pairwise_dense`", said(lambda: choix.ilsr_pairwise_dense(wins))),
            ("choix `mm_pairwise`", said(lambda: choix.mm_pairwise(len(names), indices))),
            ("choix `opt_pairwise`", said(lambda: choix.opt_pairwise(len(names), indices).round(3))),
        ]
        for who, what in rows:
            show(f"| {name} | {who} | {what.replace('|', '/')} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--real", help="also this file of comparisons, with columns left, right, winner")
    parser.add_argument("--results", default=pathlib.Path(__file__).parents[1] / "results" / "ranking.md")
    parser.add_argument("--as-command", nargs=2, metavar=("PEER", "FILE"), help="only read, fit and print by a peer")
    arguments = parser.parse_args()
    if arguments.as_command:
        name, path = arguments.as_command
        _, load, fit = PEERS[name]
        print(json.dumps(fit(load(path))))
        return
    binary, repeats = arguments.binary, arguments.repeats
    lines = []

    def show(line):
        print(line, flush=True)
        lines.append(line)

    show("# Ranking: `preftune rank` beside choix and evalica\n")
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as games:
        games.write("left,right,winner\na,b,left\nb,a,left\n")
        games.flush()
        # Help and version do not load libtorch; ranking two games does, and little else.
        command = [binary, "rank", "--input", games.name]
        start, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True), 15)
    show(
        f"{machine.today_on_it()}, choix {version('choix')}, evalica {version('evalica')}, Python "
        f"{platform.python_version()}; medians of {repeats}, in seconds. Our command starts in {start:.3f}, most of it loading libtorch.\n"
    )
    show(
        "| items | games | peer | its fit | read and fit | as a command | ours, read and fit | as a command | "
        "ratio of read and fit | of commands | largest difference |"
    )
    show("|" + " --- |" * 11)
    with tempfile.TemporaryDirectory() as folder:
        path = lambda items, games: str(pathlib.Path(folder) / f"{items}_{games}.csv")
        if arguments.real:
            versus(binary, arguments.real, start, repeats, show)
        for items, games in SIZES:
            write_games(path(items, games), items, games, seed=items)
            versus(binary, path(items, games), start, repeats, show)
        show("\nOurs alone. Memory is the largest that was resident, about 110 MB of libtorch included; it is bounded by the number")
        show("of different games (pair and outcome, up to 1.5 million of 1000 items), not by that of rows.\n")
        show("| items | games | MB of text | s | MB of memory |")
        show("| --- | --- | --- | --- | --- |")
        for items, games in SIZES + ALONE:
            if not os.path.exists(path(items, games)):
                write_games(path(items, games), items, games, seed=items)
            alone(binary, path(items, games), min(repeats, 3), show, items, games)
        show("\nGames without maximum-likelihood strengths:\n")
        show("| games | tool | what it says |")
        show("| --- | --- | --- |")
        hard(binary, folder, show)
    pathlib.Path(arguments.results).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
