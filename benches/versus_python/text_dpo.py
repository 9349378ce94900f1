"""DPO of a language model with a LoRA: preftune beside TRL's DPOTrainer, tokens a second and peak memory.

    ./scripts/smollm2.sh; cargo build --release
    python benches/versus_python/text_dpo.py [--cpu 1] [--steps 5] [--rounds 2] [--pairs-in-batch 2]

Both tune SmolLM2-135M-Instruct on the same pairs in the same order, in f32, in a process of their own that is pinned to the same
core, with one thread, one after the other and interleaved over the rounds: once with the reference's log-probs computed at every
step, once with them cached. The first step is not timed. Before any time is compared, the summed log-probs of both answers at the
first step must agree to 1e-4 and all losses to 0.05 (the adapters start from other random numbers). Writes
benches/results/versus_python_text_dpo.md. Needs torch, transformers, trl, peft and datasets.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/preftune"
GGUF = ROOT / ".models/SmolLM2-135M-Instruct.Q4_1.gguf"
RATE, BETA, RANK = 1e-4, 0.1, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def records(count: int) -> list[dict]:
    """Chats whose prompt and answers are about equally long, out of a text that is at hand."""
    words = " ".join((ROOT / name).read_text(encoding="utf-8") for name in ["README.md", "LICENSE-APACHE"]).split()
    rows, at = [], 0
    for row in range(count):
        take = lambda number: " ".join(words[at:at + number])
        say = lambda role, text: [{"role": role, "content": text}]
        prompt = take(40 + 7 * (row % 4))
        at += 60
        chosen = take(30 + 11 * (row % 3))
        at += 60
        rejected = take(25 + 13 * ((row + 1) % 3))
        at = (at + 60) % (len(words) - 200)
        rows.append({"prompt": say("user", prompt), "chosen": say("assistant", chosen), "rejected": say("assistant", rejected)})
    return rows


def trl(job: dict) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer

    logging.set_verbosity_error()
    torch.set_num_threads(1)

    class Clock(TrainerCallback):
        ends = []

        def on_train_begin(self, *_, **__):
            self.ends.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            self.ends.append(time.perf_counter())

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *arguments):
            return SequentialSampler(self.train_dataset)

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    config = DPOConfig(
        output_dir=job["out"], per_device_train_batch_size=job["batch"], max_steps=job["steps"], learning_rate=RATE, beta=BETA,
        max_length=512, lr_scheduler_type="constant", max_grad_norm=1.0, logging_steps=1, report_to=[], bf16=False,
        save_strategy="no", use_cpu=True, gradient_checkpointing=False, disable_tqdm=False,
        precompute_ref_log_probs=job["cached"], precompute_ref_batch_size=job["batch"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    trainer = InOrder(model, args=config, train_dataset=Dataset.from_list(job["rows"]), processing_class=tokenizer,
                      callbacks=[Clock()],
                      peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=LINEAR))
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    seconds = [end - begin for begin, end in zip(Clock.ends, Clock.ends[1:])]
    report = {"losses": [float(row["loss"]) for row in rows], "seconds": seconds,
              "logps": [float(rows[0]["logps/chosen"]), float(rows[0]["logps/rejected"])], "tokens": rows[-1]["num_tokens"]}
    pathlib.Path(job["report"]).write_text(json.dumps(report))


def preftune(job: dict, folder: pathlib.Path) -> list[str]:
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in job["rows"]), encoding="utf-8")
    config = folder / "config.toml"
    config.write_text(f"""
[run]
output = {json.dumps(job["out"])}
device = "cpu"
precision = "fp32"
[model]
base = {json.dumps(job["model"])}
[data]
train = {json.dumps(str(data))}
shuffle = false
max_length = 512
[adapter]
kind = "lora"
rank = {RANK}
alpha = {2 * RANK}
targets = "all-linear"
[objective]
kind = "dpo"
beta = {BETA}
[reference]
mode = "{"cached" if job["cached"] else "live"}"
[train]
steps = {job["steps"]}
batch = {job["batch"]}
learning_rate = {RATE}
schedule = "constant"
weight_decay = 0.0
log_every = 1
[validation]
every = 0
patience = 0
[checkpoint]
every = {job["steps"]}
""", encoding="utf-8")
    return [job["binary"], "train", str(config), "--quiet"]


def read_preftune(job: dict) -> dict:
    lines = (pathlib.Path(job["out"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    # Rows say the time since the start of training.
    ends = [0.0] + [row["seconds"] for row in rows]
    return {"losses": [row["loss"] for row in rows], "seconds": [end - begin for begin, end in zip(ends, ends[1:])],
            "logps": [rows[0]["logps/chosen"], rows[0]["logps/rejected"]]}


def measured(tool: str, job: dict, folder: pathlib.Path, cpu: int) -> dict:
    """One run in a pinned process of its own; peak memory is the kernel's count for that process."""
    report = folder / "report.json"
    job = {**job, "out": str(folder / "run"), "report": str(report)}
    if tool == "preftune":
        command = preftune(job, folder)
    else:
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, __file__, "--trl", str(folder / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    log = open(folder / "log", "w")
    child = subprocess.Popen(["taskset", "-c", str(cpu), *command], env=environment, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        sys.exit(f"{tool} failed:\n{(folder / 'log').read_text()[-3000:]}")
    result = read_preftune(job) if tool == "preftune" else json.loads(report.read_text())
    return {**result, "peak": usage.ru_maxrss * 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trl", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--binary", type=pathlib.Path, default=BINARY)
    parser.add_argument("--cpu", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pairs-in-batch", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.trl:
        return trl(json.loads(arguments.trl.read_text()))
    batch, steps = arguments.pairs_in_batch, arguments.steps
    results: dict = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = folder / "model"
        subprocess.run([arguments.binary, "export", GGUF, "--out", model], check=True, stdout=subprocess.DEVNULL)
        job = {"binary": str(arguments.binary.resolve()), "model": str(model), "rows": records(batch * steps), "batch": batch, "steps": steps}
        for number in range(arguments.rounds):
            for cached in [False, True]:
                for tool in ["preftune", "trl"]:
                    place = folder / f"{tool}-{cached}-{number}"
                    place.mkdir()
                    result = measured(tool, {**job, "cached": cached}, place, arguments.cpu)
                    results.setdefault((tool, cached), []).append(result)
                    print(f"{tool}, reference {'cached' if cached else 'live'}: {statistics.median(result['seconds'][1:]):.2f} s a "
                          f"step, {result['peak'] / 2**30:.2f} GiB", flush=True)
    tokens = results["trl", False][0]["tokens"] / steps
    lines = [
        "# DPO with a LoRA: preftune and TRL", "",
        f"SmolLM2-135M-Instruct, f32, {batch} pairs a step ({tokens:.0f} tokens with padding left out), {steps - 1} timed steps in each of "
        f"{arguments.rounds} rounds, pinned to one core with one thread, one tool after the other; "
        f"medians of all steps. {machine.today_on_it()}.", "",
        "| reference | tool | s a step | tokens/s | peak RSS, GiB |", "| --- | --- | ---: | ---: | ---: |"]
    ratios = []
    for cached in [False, True]:
        figures = {}
        ours, theirs = results["preftune", cached][0], results["trl", cached][0]
        for own, other in zip(ours["logps"], theirs["logps"]):
            assert abs(own / other - 1) < 1e-4, (ours["logps"], theirs["logps"])
        assert all(abs(own - other) < 0.05 for own, other in zip(ours["losses"], theirs["losses"])), (ours, theirs)
        for tool in ["preftune", "trl"]:
            runs = results[tool, cached]
            seconds = statistics.median(second for run in runs for second in run["seconds"][1:])
            figures[tool] = (seconds, max(run["peak"] for run in runs) / 2**30)
            lines.append(f"| {'cached' if cached else 'live'} | {tool} | {seconds:.2f} | {tokens / seconds:.0f} | {figures[tool][1]:.2f} |")
        ratios.append(f"Reference {'cached' if cached else 'live'}: {figures['trl'][0] / figures['preftune'][0]:.2f} times TRL's tokens/s, "
                      f"{figures['preftune'][1] / figures['trl'][1]:.2f} times its memory.")
    lines += ["", *ratios, "", "Log-probs of both answers at the first step agree to 1e-4, losses of all steps to 0.05."]
    text = "\n".join(lines) + "\n"
    print(text)
    (ROOT / "benches/results/versus_python_text_dpo.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
