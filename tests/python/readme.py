"""Do the documents say what the program does?

    python tests/python/readme.py target/debug/preftune [--list]

Copies the tracked files as a fresh clone has them into a temporary folder, puts tiny inputs under the names that the README
uses, and runs every command of its `sh` blocks there, one after the other, with the settings of TINY added. Commands that
take long or need a network (NOT_RUN) are looked up instead: the verb and each flag must be in its help, the target in the
Makefile. So are the commands of the other pages, of sentences, and of the comments in configurations. The verb table must name every verb, links must
lead somewhere, and paths in backticks must exist. Needs Python's own library alone. `--list` shows what is run and what is
looked up. Exits with 1 and a list of what is wrong.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_WORDS = 2000

IMAGES = ("--set train.steps=2 --set train.batch=1 --set train.accumulation=1 --set train.resolution=16 --set validation.every=2 "
          "--set sampler.steps=2 --set adapter.rank=2")
SUBJECT = IMAGES + " --set negatives.per_prompt=1 --set validation.images_per_prompt=1"
PAIRS = IMAGES + " --set preview.images_per_prompt=1"
TEXT = "--set train.steps=2 --set train.batch=1 --set train.accumulation=1 --set validation.every=1"
ROUNDS = ("--set rounds.count=1 --set train.steps=1 --set train.batch=1 --set train.accumulation=1 --set generate.max_tokens=8 "
          "--set generate.samples=2")
# The first words of a command and the settings that make it small.
TINY = [
    ("preftune train configs/image/rpo_sd15_lora.toml", SUBJECT),
    ("preftune train configs/image/dreambench.toml", SUBJECT + " --set model.base=SD15 --set reward.encoder=CLIP"),
    ("preftune train configs/image/dpo_sd15_lora.toml", PAIRS),
    ("preftune train configs/text", TEXT),
    ("preftune train configs/reward", TEXT),
    ("preftune rounds", ROUNDS),
    ("preftune plan", SUBJECT),
    ("preftune check", ""),
    ("preftune inspect configs/image", "--set model.base=SD15"),
    ("preftune inspect configs/text", ""),
    ("preftune generate --model runs/rpo_sd15_lora", "--steps 2 --width 16 --height 16"),
    ("preftune generate --model runs/dpo", "--max-tokens 8"),
    ("preftune eval subject", "--steps 2 --images-per-prompt 1 --prompts few.txt"),
    ("preftune eval dreambench", "--steps 2 --images-per-prompt 1"),
    ("preftune eval text", ""),
    ("preftune eval confidence", "--bootstrap 20"),
    ("preftune report", ""),
    ("preftune doctor", ""),
    ("preftune export", ""),
    ("preftune score --reward", ""),
    ("preftune label --reward", ""),
    ("preftune rank", ""),
]
NOT_RUN = [
    ("make quickstart", "a release build, and minutes of training"),
    ("make build", "a release build"),
    ("make test", "runs this"),
    ("make wheel", "a release build"),
    ("make archive", "a release build"),
    ("pip install", "tests/python/package.py does"),
    ("preftune setup", "a download"),
    ("preftune fetch stable-diffusion-v1-5/stable-diffusion-v1-5 openai/clip-vit-base-patch16", "a download"),
    ("preftune quickstart", "minutes of training; tests/python/package.py runs it"),
]
# Names in the documents that stand for files of the reader.
INPUTS = {
    "SD15": "tests/golden/diffusion/sd1",
    "CLIP": "tests/golden/encoders/clip",
    "CLIP-B16": "tests/golden/encoders/clip",
    "ANOTHER-CLIP": "tests/golden/encoders/align",
    "DINO-S16": "tests/golden/encoders/dino",
    "MODEL": "tests/golden/text/model",
    "my-photos": "assets/emoji-world/subjects/dog",
}
GAMES = ["chess", "go", "draughts"]
PROMPTS = """Classes
subject_name,class
dog,dog
cat,cat

Prompts
Object Prompts
prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
]

Live Subject Prompts
prompt_list = [
'a {0} {1} on the beach'.format(unique_token, class_token),
]
"""


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def clone(folder):
    """The tracked files as they lie here, with what is put beside them by hand."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    for name, source in INPUTS.items():
        (folder / name).symlink_to(folder / source)
    bench = folder / "DREAMBOOTH/dataset"
    bench.mkdir(parents=True)
    (bench / "prompts_and_classes.txt").write_text(PROMPTS, encoding="utf-8")
    for name in ("dog", "cat"):
        (bench / name).symlink_to(folder / f"assets/emoji-world/subjects/{name}")
    (folder / "my-pairs").mkdir()
    images = sorted((folder / "assets/emoji-world/subjects").glob("*/0[01].png"))
    for index, image in enumerate(images):
        (folder / f"my-pairs/{index}.png").write_bytes(image.read_bytes())
    lines(folder / "my-pairs/pairs.jsonl", [{"prompt": f"picture {i}", "chosen": f"{i}.png", "rejected": f"{i + 1}.png"}
                                            for i in range(0, len(images) - 1, 2)])
    (folder / "few.txt").write_text("a {token} {class} in the snow\na red {token} {class}\n", encoding="utf-8")
    words = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold", "teal", "plum", "rose"]
    pairs = [{"prompt": f"Is it {word}?", "chosen": f"Yes, it is {word}.", "rejected": "No."} for word in words]
    lines(folder / "pairs.jsonl", pairs)
    lines(folder / "test.jsonl", pairs[:4])
    lines(folder / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in pairs])
    lines(folder / "responses.jsonl", [{"prompt": pair["prompt"], "responses": [pair["chosen"], pair["rejected"], word]}
                                       for pair, word in zip(pairs, words)])
    lines(folder / "answers.jsonl", [{"item": word, "group": "colours", "prompt": "Name a colour.", "response": word} for word in words])
    (folder / "answers.csv").write_text("item,correct,confidence\n" + "".join(
        f"{word},{index % 2},{index / 12}\n" for index, word in enumerate(words)), encoding="utf-8")
    (folder / "games.csv").write_text("left,right,winner\n" + "".join(
        f"{a},{b},{a if len(a + b) % 3 else b}\n" for a in GAMES for b in GAMES if a != b), encoding="utf-8")
    (folder / "judge.py").write_text(
        "import json, sys\nfor line in sys.stdin:\n    row = json.loads(line)\n"
        "    print(json.dumps({'reward': len(row['response'])}), flush=True)\n", encoding="utf-8")


def blocks(text):
    """The fenced blocks: the word behind the fence, and the commands."""
    for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        body = re.sub(r"\\\n\s*", "", body)
        yield kind, [line for line in map(str.strip, body.splitlines()) if re.match(r"(preftune|make) ", line)]


def commands_in_sentences(text):
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose) if re.match(r"(SUBJECT=\w+ )?(preftune|make) \S", code)]


class Program:
    def __init__(self, binary):
        self.binary, self.helps = binary, {}

    def help(self, verb):
        if verb not in self.helps:
            done = subprocess.run([self.binary, *verb, "--help"], capture_output=True, text=True, env=dict(os.environ, COLUMNS="100"))
            self.helps[verb] = done.stdout if done.returncode == 0 else ""
        return self.helps[verb]

    def verbs_below(self, verb):
        part = re.search(r"^Commands:\n(.*?)(\n\n|\Z)", self.help(verb), re.M | re.S)
        names = re.findall(r"^  (\S+)", part[1], re.M) if part else []
        return [name for name in names if name != "help"]

    def aliases_below(self, verb):
        return re.findall(r"\w+", " ".join(re.findall(r"\[alias(?:es)?: ([\w, ]+)\]", self.help(verb))))

    def all_verbs(self, above=()):
        for name in self.verbs_below(above):
            below = list(self.all_verbs((*above, name)))
            yield from below or [(*above, name)]

    def problem(self, command):
        """Why a command cannot be one of this program's or of the Makefile's."""
        words = shlex.split(re.sub(r"\s#.*", "", re.sub(r"^\w+=\S+ ", "", command)), posix=True)
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
            return next((f"no target `{word}`" for word in words[1:] if "=" not in word and word not in targets), None)
        verb, rest = (), words[1:]
        while rest and rest[0] in self.verbs_below(verb) + self.aliases_below(verb):
            verb, rest = (*verb, rest[0]), rest[1:]
        if (not verb or self.verbs_below(verb)) and rest and not rest[0].startswith("-"):
            return f"no verb `{' '.join((*verb, rest[0]))}`"
        known = re.findall(r"--[\w-]+", self.help(verb)) + re.findall(r"(?<!\w)-\w\b", self.help(verb))
        flags = [word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
        return next((f"no flag `{flag}`" for flag in flags if flag not in known), None)


def commands_in_comments(text):
    """Of a configuration: what its comments say to type."""
    text = re.sub(r"\\\n#\s*", "", text)
    return [line.strip() for line in re.findall(r"^#\s+(preftune .*)$", text, re.M)]


def anchors(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{page.relative_to(ROOT)}: the link {target} leads nowhere"
        elif anchor and anchor not in anchors(file):
            yield f"{page.relative_to(ROOT)}: {target}: no such heading"


def wrong_paths(page):
    for path in re.findall(r"`((?:src|tests|configs|benches|assets|scripts|examples|compat|\.ci|\.github)/[\w./*-]*)`",
                           page.read_text(encoding="utf-8")):
        if "NAME" not in path and not list(ROOT.glob(path.rstrip("/"))):
            yield f"{page.relative_to(ROOT)}: there is no `{path}`"


def run(command, folder, path):
    """Runs a command in the clone; what is wrong, and the seconds."""
    extra = next((extra for start, extra in TINY if command.startswith(start)), None)
    if extra is None:
        return "neither TINY nor NOT_RUN knows it", 0.0
    start = time.monotonic()
    done = subprocess.run(["bash", "-c", f"{command} {extra}"], cwd=folder, capture_output=True, text=True, timeout=300,
                          env=dict(os.environ, OMP_NUM_THREADS="1", PATH=f"{path}:{os.environ['PATH']}"))
    problem = None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()[-600:]}"
    return problem, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    program, problems = Program(arguments.binary.resolve()), []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = len(readme.split())
    if words > MOST_WORDS:
        problems.append(f"README.md has {words} words: {MOST_WORDS} at most")

    names = subprocess.run(["git", "ls-files", "*.md", "configs/*.toml", "src/lib.rs"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pages = [ROOT / name for name in names.split() if not name.startswith("tests/golden")]
    looked_up = 0
    for page in pages:
        problems += wrong_links(page)
        problems += wrong_paths(page)
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".toml":
            commands = commands_in_comments(text)
        else:
            commands = commands_in_sentences(text) + [command for _, block in blocks(text) for command in block]
        for command in commands:
            looked_up += 1
            problem = program.problem(command)
            if problem:
                problems.append(f"{page.relative_to(ROOT)}: `{command}`: {problem}")

    table = {tuple(row.split()) for row in re.findall(r"^\| `preftune ([a-z ]+?)(?: [A-Z.]+)?` \|", readme, re.M)}
    real = set(program.all_verbs())
    problems += [f"the table of verbs lacks `{' '.join(verb)}`" for verb in sorted(real - table)]
    problems += [f"the table of verbs has `{' '.join(verb)}`, which is not there" for verb in sorted(table - real)]

    commands = [command for kind, block in blocks(readme) if kind == "sh" for command in block]
    used, total = set(), 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        clone(folder)
        for command in commands:
            reason = next((reason for start, reason in NOT_RUN if command == start), None)
            if reason:
                print(f"looked up  {command}  ({reason})")
                continue
            used.update(start for start, _ in TINY if command.startswith(start))
            if arguments.list:
                print(f"run        {command}")
                continue
            problem, seconds = run(command, folder, arguments.binary.resolve().parent)
            total += seconds
            print(f"run {seconds:5.1f} s  {command}", flush=True)
            if problem:
                problems.append(f"README.md: `{command}`: {problem}")
    problems += [f"no command of the README begins with `{start}`" for start, _ in TINY if start not in used]
    print(f"\nREADME.md: {words} words, {len(commands)} commands, {total:.0f} s; {looked_up} commands looked up in {len(pages)} pages")
    if problems:
        sys.exit("\n".join(["", "wrong:", *problems]))


if __name__ == "__main__":
    main()
