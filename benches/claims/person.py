"""From a hundred keys to a tuned model: what a simulated person likes, a model tuned to their pairs has more of.

    cargo build --release
    python3 benches/claims/person.py [--binary target/release/preftune] [--work FOLDER] [--keys 100] [--steps 200] [--rate 1e-4]

The embedded model draws 5 pictures of each of 10 prompts. A simulated person compares them through the page's own interface, as a
browser does: one who likes warm colours (red less blue), one who likes the subject large (pixels that are not of the border's
colour), both with noise: a difference of one standard deviation of the pictures is told apart in 9 of 10 cases. `preftune
train` tunes a LoRA to their pairs (`[pairs]`, dpo). Both models then draw 2 pictures of each of 16 held-out prompts from the same
noise, and the same person compares these, without knowing whose they are, until it is settled or all are seen.

Claims, of both: the tuned model's win rate has an interval above one half, and the person agrees with themselves. What is there
in `--work` is not made again: an interrupted call goes on. A table goes to stdout and to benches/results/compare_person.md; the
run's report page has the figures too. Needs Python's standard library alone. Exit code 1: a claim does not hold.
"""

import argparse
import http.client
import json
import math
import pathlib
import random
import re
import signal
import struct
import subprocess
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import machine  # noqa: E402

THINGS = ["dog", "cat", "house", "fish", "apple", "tree", "car", "cake", "flower", "monkey", "plane", "rabbit", "pig", "bus", "cup", "chick"]
PLACES = ["in the snow", "on the beach", "in the city", "on the grass", "in the jungle"]
LEARNT, HELD_OUT, EACH, EACH_HELD_OUT, SAMPLER_STEPS = 10, 16, 5, 2, 10
CONFIG = """
[run]
output = "{output}"
[model]
base = "{root}/assets/emoji-world"
[pairs]
train = "{pairs}"
images = "{images}"
validation_share = 0.1
[objective]
kind = "dpo"
[train]
steps = {steps}
batch = 4
learning_rate = {rate}
[validation]
every = {steps}
patience = 0
[sampler]
steps = 20
guidance = 3.0
"""


def pixels(path: pathlib.Path) -> tuple[int, int, list[bytearray]]:
    """Width, height and rows of an RGB picture as preftune writes it."""
    data = path.read_bytes()
    place, idat, width, height = 8, b"", 0, 0
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place:place + 8])
        body = data[place + 8:place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2), path
        if kind == b"IDAT":
            idat += body
        place += 12 + length
    raw, stride, rows = zlib.decompress(idat), 3 * width, []
    before = bytearray(stride)
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride):
            a, b, c = (row[x - 3] if x > 2 else 0), before[x], (before[x - 3] if x > 2 else 0)
            if kind == 1:
                row[x] = (row[x] + a) & 255
            elif kind == 2:
                row[x] = (row[x] + b) & 255
            elif kind == 3:
                row[x] = (row[x] + (a + b) // 2) & 255
            elif kind == 4:
                nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
                row[x] = (row[x] + nearest) & 255
        rows.append(row)
        before = row
    return width, height, rows


def warm(path: pathlib.Path) -> float:
    """Mean red less mean blue, of 255."""
    width, height, rows = pixels(path)
    return sum(sum(row[0::3]) - sum(row[2::3]) for row in rows) / (width * height)


def large(path: pathlib.Path) -> float:
    """Share of the pixels that are far from the colours of the border."""
    width, height, rows = pixels(path)
    edge = [rows[y][3 * x:3 * x + 3] for y in (0, height - 1) for x in range(width)]
    middle = [sorted(pixel[channel] for pixel in edge)[len(edge) // 2] for channel in range(3)]
    far = sum(max(abs(row[3 * x + channel] - middle[channel]) for channel in range(3)) > 60 for row in rows for x in range(width))
    return far / (width * height)


LIKES = {"warm": warm, "large": large}


class Person:
    """Answers by what they like, with noise, from the pictures alone."""

    def __init__(self, likes, pictures: list[pathlib.Path], seed: int):
        self.value = {path.read_bytes(): likes(path) for path in pictures}
        values = list(self.value.values())
        mean = sum(values) / len(values)
        self.spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        self.draw = random.Random(seed)

    def says(self, left: bytes, right: bytes) -> str:
        difference = (self.value[left] - self.value[right]) / self.spread
        # Odds of nine to one at one standard deviation.
        return "left" if self.draw.random() < 1 / (1 + math.exp(-math.log(9) * difference)) else "right"


def judge(binary: str, folders: list[pathlib.Path], session: pathlib.Path, name: str, person: Person, most: int) -> dict:
    """Judges through the page's interface; what the program says at the end."""
    log = session.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as errors:
        program = subprocess.Popen([binary, "compare", *map(str, folders), "--session", str(session), "--judge", name, "--no-open",
                                    "--json"], stdout=subprocess.PIPE, stderr=errors, text=True)
    end = time.monotonic() + 300
    while not (found := re.search(r"http://127.0.0.1:(\d+)(/\w+/)", log.read_text(encoding="utf-8"))):
        if program.poll() is not None or time.monotonic() > end:
            sys.exit(log.read_text(encoding="utf-8"))
        time.sleep(.1)
    port, base = int(found[1]), found[2]

    def ask(place: str, value=None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        if value is None:
            connection.request("GET", base + place)
        else:
            connection.request("POST", base + place, json.dumps(value), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (place, answer.status, body)
        return body

    state = json.loads(ask("state"))
    while state["pair"] and state["done"] < most and not state["settled"]:
        left, right = (ask(f"item/{state['pair'][side]['item']}") for side in ("left", "right"))
        key = {"ticket": state["ticket"], "choice": person.says(left, right), "seconds": 1.0}
        state = json.loads(ask("answer", key))
    program.send_signal(signal.SIGINT)
    return json.loads(program.communicate(timeout=300)[0])


def whole_way(arguments, name: str) -> dict:
    work, binary = arguments.work.resolve(), str(arguments.binary.resolve())
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)

    def run(*words) -> None:
        subprocess.run([binary, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def draw(out: pathlib.Path, model, prompts: list[str], count: int, seed: int) -> None:
        if not (out / "done").exists():
            words = [word for prompt in prompts for word in ("--prompt", prompt)]
            run("generate", "--model", model, *words, "--count", count, "--seed", seed, "--steps", SAMPLER_STEPS, "--guidance", 3, "--out", out)
            (out / "done").touch()

    world = ROOT / "assets/emoji-world"
    draw(work / "pool", world, [f"a {thing} {PLACES[number % 5]}" for number, thing in enumerate(THINGS[:LEARNT])], EACH, 0)
    # The same things in other places.
    held_out = [f"a {thing} {PLACES[(number + 2) % 5]}" for number, thing in enumerate(THINGS[:HELD_OUT])]
    draw(work / "base", world, held_out, EACH_HELD_OUT, 500)
    pool = sorted((work / "pool").glob("*.png"))
    said = judge(binary, [work / "pool"], folder / "pairs", name, Person(LIKES[name], pool, 1), arguments.keys)
    tuned = folder / "run"
    config = folder / "pairs.toml"
    config.write_text(CONFIG.format(output=tuned, root=ROOT, pairs=folder / "pairs/pairs.jsonl", images=work / "pool", steps=arguments.steps, rate=arguments.rate))
    if not (tuned / "manifest.json").exists() or json.loads((tuned / "manifest.json").read_text())["status"] != "finished":
        run("train", config, "--quiet", *(["--resume"] if (tuned / "metrics.jsonl").exists() else []))
    draw(folder / "tuned", tuned, held_out, EACH_HELD_OUT, 500)
    shown = sorted((work / "base").glob("*.png")) + sorted((folder / "tuned").glob("*.png"))
    found = judge(binary, [work / "base", folder / "tuned"], tuned / "eval/compare", name, Person(LIKES[name], pool + shown, 2), 10_000)
    run("report", tuned)
    mean = {place: sum(map(LIKES[name], sorted(where.glob("*.png")))) / (HELD_OUT * EACH_HELD_OUT)
            for place, where in (("base", work / "base"), ("tuned", folder / "tuned"))}
    return {"pairs": said, "against": found["figures"]["sources"][0], "mean": mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/preftune")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/claims/person")
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--only", choices=LIKES)
    arguments = parser.parse_args()
    lines = [
        "# From a hundred keys to a tuned model",
        "",
        f"{machine.today_on_it()}. {arguments.keys} keys, {arguments.steps} steps of 4 pairs (dpo, learning rate {arguments.rate:g}); "
        "`benches/claims/person.py` says what is compared. The interval of 95 % holds though the person stops when it is settled.",
        "",
        "| likes | keys | same answer again | held-out win rate | match-ups | value, untuned -> tuned |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    broken = []
    for name in [arguments.only] if arguments.only else LIKES:
        found = whole_way(arguments, name)
        own, against = found["pairs"]["figures"]["judges"][0], found["against"]
        low, high = against["interval"]
        count = against["wins"] + against["ties"] + against["losses"]
        lines.append(f"| {name} | {own['keys']} | {own['same']} of {own['repeats']} | {against['win_rate']:.3f} [{low:.3f}, {high:.3f}] | "
                     f"{count:.0f} | {found['mean']['base']:.3f} -> {found['mean']['tuned']:.3f} |")
        print(lines[-1], flush=True)
        broken += [] if low > .5 else [f"{name}: the tuned model does not win"]
        broken += [] if own["same"] >= .7 * own["repeats"] else [f"{name}: does not agree with themselves"]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.only:
        (ROOT / "benches/results/compare_person.md").write_text(text)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
