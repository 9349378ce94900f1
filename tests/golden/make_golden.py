"""Writes the golden files that the Rust tests compare with: run it by hand when a pin below moves.

    python3 -m venv .venv && .venv/bin/pip install -r tests/golden/requirements.txt
    .venv/bin/python tests/golden/make_golden.py [area ...]

Each area is a module beside this file with a function `make(out: pathlib.Path)` that writes tiny random
checkpoints in Hugging Face layout and what Python computes with them.
"""
import importlib
import pathlib
import sys

import torch

HERE = pathlib.Path(__file__).resolve().parent
AREAS = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "make_golden")

if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for area in sys.argv[1:] or AREAS:
        out = HERE / area
        out.mkdir(exist_ok=True)
        importlib.import_module(area).make(out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{area}: {size / 1e6:.2f} MB")
