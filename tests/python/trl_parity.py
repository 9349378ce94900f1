"""Does preftune train as TRL's trainers do?

    python tests/python/trl_parity.py target/release/preftune [--model FOLDER --steps N]

Both tune the same model on the same pairs in the same order, all weights in f32, without shuffling or dropout: by default
the tiny Llama of tests/golden/text, 50 steps of DPO and 6 of every other objective that TRL has with the same definition,
by its DPOTrainer, CPOTrainer (SimPO), ORPOTrainer and KTOTrainer. Losses, rewards and gradient norms of every step must agree to 1e-3, relative where they exceed 1. Needs torch, transformers, trl
and datasets. Exits with 1 and a message where something does not agree.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.kto import KTOConfig, KTOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, RATE, BETA, TOLERANCE = 4, 5e-4, 0.3, 1e-3
# preftune's name and numbers, TRL's. Of those with like names, `cdpo` is not among them because TRL 0.29 smooths no labels of
# `sigmoid`, and `nll_weight` because TRL's `sft` is a mean over a batch's tokens, preftune's one over its answers.
OBJECTIVES = [
    ("dpo", {"beta": BETA}, {"loss_type": "sigmoid"}),
    ("rdpo", {"beta": BETA, "label_smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
    ("hinge", {"beta": BETA}, {"loss_type": "hinge"}),
    ("ipo", {"tau": BETA}, {"loss_type": "ipo"}),
    ("sppo_hard", {"beta": BETA}, {"loss_type": "sppo_hard"}),
    ("fdpo_forward_kl", {"beta": BETA}, {"loss_type": "sigmoid", "f_divergence_type": "forward_kl"}),
    ("fdpo_js", {"beta": BETA}, {"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}),
    ("fdpo_alpha", {"beta": BETA, "alpha": 0.5},
     {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.25}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0}),
    ("orpo", {"lambda": 0.1}, {"beta": 0.1}),
    ("kto", {"beta": BETA, "undesirable_weight": 1.5}, {"undesirable_weight": 1.5}),
]
# How TRL's own definitions come to be preftune's. ORPO: TRL's likelihood term is a mean over the tokens of all prompts and
# answers of a batch, preftune's one over answers of means over their tokens: the same without prompts, answer by answer.
# KTO: TRL has prompts meet the answer before theirs, preftune the one after: the same in batches of two.
SHAPES = {"orpo": {"batch": 1, "prompts": False}, "kto": {"batch": 2}}
METRICS = {"loss": "loss", "grad_norm": "gradient_norm", "rewards/chosen": "rewards/chosen",
           "rewards/rejected": "rewards/rejected", "rewards/margins": "rewards/margins",
           "rewards/accuracies": "rewards/accuracies"}


def in_order(trainer):
    """The trainer without its shuffling."""
    return type("InOrder", (trainer,), {"_get_train_sampler": lambda self, *arguments: SequentialSampler(self.train_dataset)})


TRAINERS = {kind: (in_order(trainer), config) for kind, trainer, config in [
    ("simpo", CPOTrainer, CPOConfig), ("orpo", ORPOTrainer, ORPOConfig), ("kto", KTOTrainer, KTOConfig)]}
DPO = (in_order(DPOTrainer), DPOConfig)


def records(count: int) -> list[dict]:
    """Pairs of many lengths from nothing but arithmetic."""
    subjects, verbs = ["sky", "river", "old dog", "map", "engine of the boat"], ["is", "was never", "becomes"]
    words = ["blue", "a kind of soup", "very slow today", "soft and made of paper, they say", "warm", "louder than before"]
    rows = []
    for row in range(count):
        prompt = f"The {subjects[row % 5]} {verbs[row % 3]}"
        rows.append({"prompt": prompt, "chosen": f" {words[row % 6]}.", "rejected": f" {words[(row * 5 + 2) % 6]}?"})
    return rows


def reshaped(kind: str, rows: list[dict]) -> list[dict]:
    """Pairs in the form that an objective takes."""
    if kind == "kto":
        return [{"prompt": row["prompt"], "completion": row["chosen" if number % 3 else "rejected"], "label": bool(number % 3)}
                for number, row in enumerate(rows)]
    if not SHAPES.get(kind, {}).get("prompts", True):
        return [{"prompt": ""} | {key: row["prompt"] + row[key] for key in ["chosen", "rejected"]} for row in rows]
    return rows


def theirs(model: pathlib.Path, rows: list[dict], steps: int, kind: str, numbers: dict, folder: pathlib.Path) -> list[dict]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    beta = {} if "beta" in numbers else {"beta": BETA}
    trainer, config = TRAINERS.get(kind, DPO)
    batch = SHAPES.get(kind, {}).get("batch", BATCH)
    # KTO compares within a batch: there, one batch is a step.
    accumulation = 1 if kind == "kto" else BATCH // batch
    config = config(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=steps, learning_rate=RATE, max_length=256,
        lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, report_to=[], bf16=False,
        save_strategy="no", use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, optim="adamw_torch", **beta, **numbers)
    load = lambda: AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    models = [load()] if kind in ["simpo", "orpo"] else [load(), load()]
    trainer = trainer(*models, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def ours(binary, model: pathlib.Path, rows: list[dict], steps: int, kind: str, numbers: dict, folder: pathlib.Path) -> list[dict]:
    data, config, run = folder / "pairs.jsonl", folder / "config.toml", folder / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    numbers = "\n".join(f"{key} = {value}" for key, value in numbers.items())
    config.write_text(f"""
[run]
output = {json.dumps(str(run))}
device = "cpu"
[model]
base = {json.dumps(str(model))}
[data]
train = {json.dumps(str(data))}
shuffle = false
max_length = 256
[adapter]
kind = "full"
[objective]
kind = "{kind}"
{numbers}
[train]
steps = {steps}
batch = {2 if kind == "kto" else BATCH}
learning_rate = {RATE}
schedule = "constant"
weight_decay = 0.01
log_every = 1
[validation]
every = 0
patience = 0
[checkpoint]
every = {steps}
""", encoding="utf-8")
    done = subprocess.run([str(binary), "train", str(config), "--quiet"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"preftune failed with {done.returncode}:\n{done.stderr}")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, help="a folder; with it only DPO is compared")
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    model = (arguments.model or ROOT / "tests/golden/text/model").resolve()
    failures = []
    for place, (kind, numbers, of_trl) in enumerate(OBJECTIVES[:1] if arguments.model else OBJECTIVES):
        steps = 6 if place else arguments.steps
        # One epoch and a half: the second one begins anew.
        rows = records(max(2 * steps // 3, 2) * BATCH)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            rows = reshaped(kind, rows)
            expected = theirs(model, rows, steps, kind, of_trl, folder / "trl")
            actual = ours(arguments.binary.resolve(), model, rows, steps, kind, numbers, folder)
        assert len(expected) == len(actual) == steps, (len(expected), len(actual))
        largest = {}
        for step, (row, other) in enumerate(zip(actual, expected)):
            for name, own in METRICS.items():
                # A batch of KTO may lack one of the two kinds of answers.
                if name not in other or own not in row:
                    assert kind == "kto" and name.startswith("rewards/"), (kind, name)
                    continue
                value = float(other[name])
                if kind == "sppo_hard" and name in ["loss", "grad_norm"]:
                    value /= 2  # preftune means both answers' squares, TRL sums them
                off = abs(row[own] - value) / max(1.0, abs(value))
                largest[name] = max(largest.get(name, 0.0), off)
                if off > TOLERANCE:
                    failures.append(f"{kind} {numbers}, step {step}, {name}: {row[own]}, TRL {value}")
        first, last = float(expected[0]["loss"]), float(expected[-1]["loss"])
        print(f"{kind} {numbers}: {steps} steps, TRL's loss {first:.5f} -> {last:.5f}, "
              f"largest differences loss {largest['loss']:.1e}, gradient norm {largest['grad_norm']:.1e}, "
              f"rewards {max(largest[name] for name in largest if name.startswith('rewards/')):.1e}", flush=True)
    for failure in failures[:20]:
        print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
