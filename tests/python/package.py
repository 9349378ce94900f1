"""Does the program run where it was not built?

    python tests/python/package.py [--release] [--full]

Builds the wheel and the archive (of the debug build, so that tests need no second one) and uses them as a stranger would: an empty
folder, no Rust toolchain and no compiler on the PATH. The wheel goes into a fresh virtual environment; libtorch is then missing,
comes by `preftune setup` (with a stand-in for pip that links the files of this repository's libtorch), and the quick start is run to its report. The
archive is unpacked and draws an image where there is no Python. The pair of programs is copied elsewhere and run. `--full` runs the quick start with
all its steps instead of a few. Needs Python's own library, pip, and maturin on the PATH.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBTORCH = pathlib.Path(os.environ.get("LIBTORCH") or ROOT / ".libtorch/torch").resolve()
FEW = "train.steps=4 validation.every=2 negatives.per_prompt=1 validation.images_per_prompt=1 train.batch=2".split()
# The part of pip that `preftune setup` uses, without a network.
PIP = """#!/bin/sh
while [ "$1" != --target ]; do shift; done
/bin/cp -al {packages}/torch {packages}/torch-*.dist-info {packages}/nvidia "$2/"
"""


def run(command, env, cwd, code=0):
    begin = time.monotonic()
    done = subprocess.run(command, env=env, cwd=cwd, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    shown = " ".join(str(word) for word in command)
    print(f"$ {shown}  [{time.monotonic() - begin:.1f} s]", flush=True)
    if done.returncode != code:
        sys.exit(f"{shown}: exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}")
    return done


def expect(condition, message):
    if not condition:
        sys.exit(f"failed: {message}")


def quickstart(preftune, env, folder, full):
    few = [] if full else [word for key in FEW for word in ("--set", key)]
    done = run([preftune, "quickstart", "--subject", "cake", *few], env, folder)
    page = folder / "runs/quickstart/report.html"
    expect(page.stat().st_size > 100_000, "the report is there")
    expect("rpo: likeness" in done.stdout.lower(), done.stdout)
    print(done.stdout[-900:])


def wheel(temporary, env, profile, full):
    build(profile, "wheel")
    package = max((ROOT / "target/package").glob("preftune-*.whl"), key=lambda path: path.stat().st_mtime)
    print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")
    run([sys.executable, "-m", "venv", temporary / "venv"], env, temporary)
    run([temporary / "venv/bin/pip", "install", "--quiet", "--no-index", package], env, temporary)
    preftune = temporary / "venv/bin/preftune"
    empty = temporary / "empty"
    empty.mkdir()

    # Help needs no libtorch, everything else says what is missing.
    run([preftune, "generate", "--help"], env, empty)
    missing = run([preftune, "loss", "--list"], env, empty, code=1).stderr
    expect("libtorch 2.11 is not there" in missing and "preftune setup" in missing, missing)
    missing = run([preftune, "doctor"], env, empty, code=1)
    expect("not in order: libtorch" in missing.stderr, missing.stderr)
    asked = run([preftune, "setup"], env, empty, code=2)
    expect("533 MB" in asked.stdout and "--yes" in asked.stderr, asked.stdout + asked.stderr)

    pip = temporary / "pip"
    pip.write_text(PIP.format(packages=LIBTORCH.parent))
    pip.chmod(0o755)
    run([preftune, "setup", "--cpu", "--yes", "--python", pip], env, empty)
    found = {row["name"]: row["found"] for row in json.loads(run([preftune, "doctor", "--json"], env, empty).stdout)}
    expect(str(temporary / "data/preftune/libtorch/torch/lib") in found["libtorch"], found)
    expect(str(temporary / "venv/share/preftune") == found["its files"], found)
    size = sum(path.stat().st_size for path in (temporary / "data").rglob("*") if path.is_file())
    print(f"libtorch on disk: {size / 1e6:.0f} MB")
    run([preftune, "check", "configs/text/dpo.toml", "--set", "model.base=M", "--set", "data.train=d.jsonl"], env, empty)
    quickstart(preftune, env, empty, full)

    # PyTorch in the same environment comes first, and one of another version is passed over.
    packages = next((temporary / "venv/lib").glob("python3*/site-packages"))
    (packages / "torch/lib").mkdir(parents=True)
    shutil.copy(LIBTORCH / "version.py", packages / "torch/version.py")
    for library in (LIBTORCH / "lib").iterdir():
        if library.is_file():
            os.link(library, packages / "torch/lib" / library.name)
    os.symlink(LIBTORCH.parent / "nvidia", packages / "nvidia")
    found = run([preftune, "doctor"], env, empty).stdout
    expect(f"{packages}/torch/lib" in found, found)
    (packages / "torch/version.py").write_text("__version__ = '2.5.1+cpu'\n")
    found = run([preftune, "doctor"], env, empty).stdout
    expect(str(temporary / "data") in found, found)

    # The pair of programs somewhere else.
    moved = temporary / "a folder"
    moved.mkdir()
    for name in ("preftune", "preftune-torch"):
        shutil.copy(temporary / "venv/bin" / name, moved)
    run([moved / "preftune", "loss", "--list"], env, empty)


def archive(temporary, env, profile):
    build(profile, "archive")
    package = max((ROOT / "target/package").glob("preftune-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")
    with tarfile.open(package) as packed:
        packed.extractall(temporary, filter="data")
    folder = next(temporary.glob("preftune-*-cpu"))
    # Nobody else's libtorch.
    env = {**env, "XDG_DATA_HOME": "/nonexistent"}
    found = run([folder / "bin/preftune", "doctor"], env, temporary).stdout
    expect(f"{folder}/lib" in found and f"{folder}/share/preftune" in found, found)
    model = folder / "share/preftune/assets/emoji-world"
    run([folder / "bin/preftune", "generate", "--model", model, "--prompt", "a dog in the snow", "--steps", "4", "--out", "out"], env, temporary)
    expect((temporary / "out/00000.png").stat().st_size > 1000, "the image is there")


def build(profile, kind):
    env = {**os.environ, "PROFILE": profile}
    subprocess.run([ROOT / "packaging/build.sh", kind], env=env, check=True, cwd=ROOT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", action="store_true", help="of the release build")
    parser.add_argument("--full", action="store_true", help="the quick start with all its steps")
    args = parser.parse_args()
    profile = "release" if args.release else "dev"
    with tempfile.TemporaryDirectory() as name:
        temporary = pathlib.Path(name).resolve()
        # No toolchain, no compiler, no Python, no shell's tools.
        env = {"PATH": "/nonexistent", "HOME": str(temporary), "XDG_DATA_HOME": str(temporary / "data")}
        wheel(temporary, env, profile, args.full)
        archive(temporary, env, profile)
    print("the package runs where it was not built")


main()
