"""All objectives of language models on controlled sentiment: reward, KL, entropy, log-probs, accuracy, seconds.

    cargo build --release
    python3 benches/claims/sentiment.py [--binary target/release/preftune] [--only dpo,ipo] [--seeds 2] [--rounds]

A word-level language model is made in seconds by `preftune pretrain` on film reviews of a small grammar, in which good and
bad words are equally likely. It answers prompts, a lexicon scores the answers (good words less bad words), and each
objective learns from one and the same set of answers: best and worst as a pair, all of them as a list, or marked. Equal
steps, batch and seed; the learning rate is one for all, beta is each objective's own (see OBJECTIVES). Policies then answer
held-out prompts.

The sign of every objective's gradient for the chosen and the rejected log-prob is checked at the start, where policy and
reference agree, and far past any target, where some turn round and others do not; and that the run moves the margin, or
the chosen log-prob, as the signs say. `--rounds` runs five of them in rounds by
`preftune iterate`. What exists is not computed again, and with `--only` the figures of all others stay as they were. Tables go to stdout and, as Markdown and JSON with date and machine,
to benches/results/. Exit code 1: a claim does not hold. Only Python's own library is needed.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine  # noqa: E402

GOOD = ["great", "good", "lovely", "brilliant", "moving", "funny"]
BAD = ["awful", "bad", "boring", "weak", "clumsy", "dull"]
NOUNS = ["film", "plot", "acting", "music", "ending", "dialogue", "story", "cast"]
VERBS = ["was", "is", "felt", "seemed"]
ADVERBS = ["very", "rather", "quite", "truly"]
WORDS = ["the", "and", "but", "."] + NOUNS + VERBS + ADVERBS + GOOD + BAD
SPECIALS = ["<unk>", "<s>", "</s>"]
LENGTH = 32

# Numbers of each, and what a run must do: answers share parameters, so that of objectives of margins only the margin's
# direction is certain; a likelihood term pulls the chosen answers up.
OBJECTIVES = {
    "dpo": ("beta = 0.1", "margin"),
    "cdpo": ("beta = 0.1\nlabel_smoothing = 0.1", "margin"),
    "rdpo": ("beta = 0.1\nlabel_smoothing = 0.1", "margin"),
    "hinge": ("beta = 0.1", "margin"),
    "ipo": ("tau = 0.5", "margin"),
    "ipo_sum": ("tau = 0.1", "margin"),
    "fdpo_reverse_kl": ("beta = 0.1", "margin"),
    "fdpo_forward_kl": ("beta = 0.1", "margin"),
    "fdpo_js": ("beta = 0.1", "margin"),
    "fdpo_alpha": ("beta = 0.1\nalpha = 0.5", "margin"),
    "tdpo1": ("beta = 0.1", "margin"),
    "tdpo2": ("beta = 0.1\nalpha = 0.5", "margin"),
    "sppo": ("beta = 0.05", "margin"),
    "sppo_hard": ("beta = 0.05", "margin"),
    "dno": ("eta = 0.1", "margin"),
    "dno_prct": ("eta = 0.1", "margin"),
    "inpo": ("eta = 0.05", "margin"),
    "inpo_expected": ("eta = 0.05", "margin"),
    "gpo": ("beta = 0.3", "margin"),
    "gpo_length_normalised": ("beta = 3.0", "margin"),
    "asft": ("lambda = 1.0", "up"),
    "orpo": ("lambda = 0.1", "up"),
    "simpo": ("beta = 2.0\ngamma_beta_ratio = 0.25", "margin"),
    "kto": ("beta = 0.1", "margin"),
    "sft": ("", "up"),
    "pro": ("sft_weight = 0.05", "list"),
    "brain": ("gamma = 1.0", "list"),
}
# Those with a target: past it, the chosen log-prob is pushed down and the rejected one up. All others never turn round.
BOUNDED = {"cdpo", "ipo", "ipo_sum", "sppo", "sppo_hard", "dno", "inpo", "inpo_expected", "gpo",
           "gpo_length_normalised"}
ROUNDS = ["sppo", "dno", "inpo", "gpo", "brain"]


def reward(text):
    words = text.split()
    return sum(word in GOOD for word in words) - sum(word in BAD for word in words)


def sentence(rng):
    adjective = lambda: rng.choice(GOOD if rng.random() < 0.5 else BAD)
    phrase = lambda: f"the {rng.choice(NOUNS)} {rng.choice(VERBS)} {rng.choice(ADVERBS) + ' ' if rng.random() < 0.5 else ''}{adjective()}"
    return phrase() + (f" {rng.choice(['and', 'but'])} {phrase()}" if rng.random() < 0.6 else "") + " ."


def template(folder):
    """The architecture and a tokenizer of whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {word: index for index, word in enumerate(SPECIALS + WORDS)}
    special = [{"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for index, token in enumerate(SPECIALS)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": None, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(vocab), "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "silu",
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    }
    for name, content in [("tokenizer.json", tokenizer), ("config.json", config),
                          ("tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})]:
        (folder / name).write_text(json.dumps(content, indent=1))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Bench:
    def __init__(self, args):
        self.args, self.failed, self.notes = args, [], []
        self.root = pathlib.Path(args.runs)
        self.root.mkdir(parents=True, exist_ok=True)

    def preftune(self, *arguments):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run([self.args.binary, *map(str, arguments)], capture_output=True, text=True, env=environment)
        if ran.returncode:
            raise SystemExit(f"{' '.join(map(str, arguments))}:\n{ran.stderr}")
        return ran.stdout

    def claim(self, holds, text):
        self.notes.append(f"- {'holds' if holds else 'DOES NOT HOLD'}: {text}")
        if not holds:
            self.failed.append(text)

    def model(self):
        """The first policy, pretrained on the grammar."""
        template(self.root / "template")
        rng = random.Random(0)
        write_lines(self.root / "corpus.jsonl", [{"text": sentence(rng)} for _ in range(4000)])
        prompts = [f"the {noun} {verb}" for noun in NOUNS for verb in VERBS]
        rng.shuffle(prompts)
        rows = [{"prompt": prompt, "split": "test" if number < 8 else "train"} for number, prompt in enumerate(prompts)]
        write_lines(self.root / "prompts.jsonl", rows)
        run = self.root / "lm"
        if not (run / "best").exists():
            started = time.time()
            self.preftune("pretrain", "configs/text/lm.toml", "--quiet", "--resume", "--set", f"run.output={run}", "--set",
                          f"model.base={self.root / 'template'}", "--set", f"data.train={self.root / 'corpus.jsonl'}", "--set",
                          f"train.steps={self.args.pretrain_steps}", "--set", "run.device=cpu")
            (run / "seconds").write_text(f"{time.time() - started:.1f}")
        return run / "best"

    def iterate(self, name, objective, numbers, rounds, more=()):
        """A run in rounds; of one round, its answers and records are what objectives are compared on."""
        args = self.args
        config = self.root / f"{name}.toml"
        config.write_text(
            f'[run]\noutput = "{self.root / name}"\ndevice = "cpu"\n[model]\nbase = "{self.root / "lm" / "best"}"\n'
            f'[data]\nprompts = "{self.root / "prompts.jsonl"}"\nmax_length = {LENGTH + 8}\n[rounds]\ncount = {rounds}\nepochs = 1000.0\n'
            f'[generate]\nsamples = {args.samples}\nmax_tokens = {LENGTH}\nbatch = 512\nraw = true\nvalidation_samples = {args.answers}\n'
            f'[scorer]\nkind = "words"\ngood = {json.dumps(GOOD)}\nbad = {json.dumps(BAD)}\n[labels]\npairs = "all"\nmin_gap = 0.2\n'
            f'[objective]\nkind = "{objective}"\n{numbers}\n[adapter]\nkind = "full"\n'
            f'[train]\nsteps = {args.steps}\nbatch = {args.batch}\nlearning_rate = {args.rate}\nweight_decay = 0.0\n'
            f'warmup = 0\nlog_every = 1\n[checkpoint]\nevery = 0\n')
        return self.preftune("iterate", config, "--resume", "--quiet", *more)


def rows_of(path, kind):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def mean(values):
    values = list(values)
    return sum(values) / max(len(values), 1)


def one(bench, name, seed):
    """One objective for one round: figures of the policy and of its run."""
    numbers, _ = OBJECTIVES[name]
    run = f"{name}-{seed}"
    started = time.time()
    more = ["--set", f"run.seed={seed}"]
    if name in ("pro", "brain"):
        # A record has all answers of a prompt: as many answers a step as pairs have.
        more += ["--set", f"train.batch={max(1, 2 * bench.args.batch // bench.args.samples)}"]
    bench.iterate(run, name, numbers, 1, more)
    folder = bench.root / run
    policies = rows_of(folder / "metrics.jsonl", "validation")
    steps = rows_of(folder / "round-1" / "train" / "metrics.jsonl", "train")
    manifest = json.loads((folder / "round-1" / "train" / "manifest.json").read_text())
    # One batch says little of log-probs, which go with the lengths of its answers: a tenth of the steps at either end.
    tenth = max(1, len(steps) // 10)
    over = lambda rows, name: mean(row[name] for row in rows if name in row) if any(name in row for row in rows) else None
    figure = lambda name: over(steps[-tenth:], name)
    answers = [json.loads(line) for line in (folder / "round-1" / "validation.jsonl").read_text().splitlines()]
    texts = [text for row in answers for text in row["responses"]]
    return {
        "reward": policies[1]["reward"], "untuned": policies[0]["reward"], "kl": policies[1]["kl"], "win_rate": policies[1]["win_rate"],
        "entropy": figure("entropy"), "different": len(set(texts)) / len(texts),
        "chosen": figure("logps/chosen"), "rejected": figure("logps/rejected"), "accuracy": figure("rewards/accuracies"),
        "chosen_0": over(steps[:tenth], "logps/chosen"), "rejected_0": over(steps[:tenth], "logps/rejected"),
        "loss_0": steps[0]["loss"], "loss": figure("loss"),
        "seconds": manifest["seconds"].get("train", 0.0), "total_seconds": time.time() - started,
    }


def gradients(bench, name, lead):
    """Gradient for the chosen and the rejected log-prob (of KTO a marked answer each) where they lead the reference by `lead`."""
    numbers = [part.split(" = ") for part in OBJECTIVES[name][0].splitlines()]
    flags = [flag for key, value in numbers for flag in (f"--{key.replace('_', '-')}", value)]
    row = {"reference_chosen": -60.0, "reference_rejected": -62.0, "previous_chosen": -60.0, "previous_rejected": -62.0,
           "policy_chosen": -60.0 + lead, "policy_rejected": -62.0 - lead, "length_chosen": 8, "length_rejected": 8,
           "win_chosen": 0.8, "win_rejected": 0.2, "score_chosen": 1.0, "score_rejected": -1.0, "token_kl_chosen": 0.5,
           "token_kl_rejected": 0.5}
    rows = [row]
    if name == "kto":
        rows = [{"policy": -60.0 + lead, "reference": -60.0, "desirable": True, "mismatched": 0.0},
                {"policy": -62.0 - lead, "reference": -62.0, "desirable": False, "mismatched": 0.0}]
    elif name == "sft":
        rows = [{"policy": -60.0 + lead, "length": 8}]
    elif name in ("pro", "brain"):
        rows = [{"policy": [-60.0, -60.0, -60.0], "prior": [-60.0] * 3, "proposal": [-60.0] * 3, "length": [8] * 3,
                 "reward": [2.0, 0.5, -1.0]}]
    write_lines(bench.root / "rows.jsonl", rows)
    report = json.loads(bench.preftune("loss", "--objective", name, "--input", bench.root / "rows.jsonl", "--json", *flags))
    values = [row["gradient"] for row in report["rows"]]
    if name == "kto":
        return [gradient["policy"] for gradient in values]
    if name == "sft":
        return [values[0]["policy"], 0.0]
    if name in ("pro", "brain"):
        return values[0]["policy"]
    return [values[0]["policy_chosen"], values[0]["policy_rejected"]]


def signs(bench, found):
    """Signs of the formulas, and directions of the runs that follow from them."""
    for name, runs in found.items():
        _, sign = OBJECTIVES[name]
        start = gradients(bench, name, 0.0)
        if sign == "list":
            total = f", and they sum to {sum(start):.0e}" if name == "brain" else ""
            bench.claim(start[0] < 0 < start[-1] and (name != "brain" or abs(sum(start)) < 1e-9),
                        f"{name}: the gradient pulls the best sample up and the worst down at the start{total}")
        else:
            rejected = start[1] >= 0 if name == "sft" else start[1] > 0
            bench.claim(start[0] < 0 and rejected, f"{name}: the gradient pulls the chosen answer up and the rejected down at the start")
            past = gradients(bench, name, 40.0)
            if name in BOUNDED:
                bench.claim(past[0] > 0 > past[1], f"{name}: past its target it turns round")
            else:
                bench.claim(past[0] <= 0 <= past[1], f"{name}: it never turns round")
        average = lambda key: mean(run[key] for run in runs if run[key] is not None)
        up = average("reward") - average("untuned")
        if name != "sft":
            bench.claim(up > 0, f"{name}: the reward on held-out prompts rises ({average('untuned'):+.2f} to {average('reward'):+.2f})")
        if sign == "list":
            continue
        chosen = average("chosen") - average("chosen_0")
        if sign == "up":
            bench.claim(chosen > 0, f"{name}: a likelihood term pulls the chosen answers up ({chosen:+.2f} nats)")
        else:
            rejected = average("rejected") - average("rejected_0")
            bench.claim(chosen > rejected, f"{name}: the margin grows (chosen {chosen:+.2f}, rejected {rejected:+.2f} nats)")


def table(header, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/preftune")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pretrain-steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="pairs a step")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--samples", type=int, default=8, help="answers to a training prompt")
    parser.add_argument("--answers", type=int, default=32, help="answers to a held-out prompt")
    parser.add_argument("--rounds", action="store_true", help="five objectives in three rounds too")
    parser.add_argument("--note", default="", help="a sentence on the circumstances, for the table")
    parser.add_argument("--runs", default="runs/sentiment")
    parser.add_argument("--results", default="benches/results")
    args = parser.parse_args()
    bench = Bench(args)
    started = time.time()
    bench.model()
    results = pathlib.Path(args.results)
    kept = json.loads((results / "sentiment.json").read_text()) if (results / "sentiment.json").exists() else {}
    found = {name: runs for name, runs in kept.get("objectives", {}).items() if name in OBJECTIVES and name not in args.only}
    for name in args.only:
        found[name] = [one(bench, name, seed) for seed in range(args.seeds)]
        run = found[name][0]
        print(f"{name}: reward {run['untuned']:+.3f} to {run['reward']:+.3f}, KL {run['kl']:.3f}, {run['seconds']:.0f} s", flush=True)
    found = {name: found[name] for name in OBJECTIVES if name in found}
    signs(bench, found)
    cell = lambda runs, key, form: (form.format(mean(run[key] for run in runs)) if runs[0][key] is not None else "-")
    lines = [[name, cell(runs, "reward", "{:+.2f}"), cell(runs, "win_rate", "{:.2f}"), cell(runs, "kl", "{:.2f}"),
              cell(runs, "entropy", "{:.2f}"), cell(runs, "different", "{:.2f}"), cell(runs, "chosen", "{:.1f}"),
              cell(runs, "rejected", "{:.1f}"), cell(runs, "accuracy", "{:.2f}"), cell(runs, "seconds", "{:.0f}")]
             for name, runs in found.items()]
    first = next(iter(found.values()))[0]
    text = "# Controlled sentiment: all objectives on one set of scored answers\n\n"
    text += f"{machine.today_on_it()}, one thread, {args.seeds} seed(s), {args.steps} steps of "
    text += f"{args.batch} pairs, learning rate {args.rate:g}. Untuned: reward {first['untuned']:+.2f}; first tenth of the steps: chosen {first['chosen_0']:.1f}, "
    text += f"rejected {first['rejected_0']:.1f} nats.\n\n" if first["chosen_0"] is not None else "\n\n"
    text += table(["objective", "reward", "win rate", "KL", "entropy a token", "different answers", "chosen", "rejected", "accuracy",
                   "s to train"], lines)
    text += "\nReward, win rate against the untuned policy, KL from it (nats an answer): answers to held-out prompts. The rest: mean "
    text += f"over the last tenth of the steps, on the answers that are learnt from. {args.note}\n\n" + "\n".join(bench.notes) + "\n"
    data = {"objectives": found}
    data["rounds"] = kept.get("rounds", {})
    if args.rounds:
        for name in ROUNDS:
            numbers, _ = OBJECTIVES[name]
            bench.iterate(f"rounds-{name}", name, numbers, 3)
            data["rounds"][name] = rows_of(bench.root / f"rounds-{name}" / "metrics.jsonl", "validation")
    if data["rounds"]:
        lines = [[name, *(f"{row['reward']:+.2f} ({row['kl']:.2f})" for row in policies)] for name, policies in data["rounds"].items()]
        text += "\n## Rounds: reward (KL from the first policy)\n\n" + table(["objective", "first", "1", "2", "3"], lines)
    print(text)
    results.mkdir(parents=True, exist_ok=True)
    (results / "sentiment.md").write_text(text)
    data |= {"date": str(datetime.date.today()), "machine": machine.described(), "seconds": round(time.time() - started)}
    (results / "sentiment.json").write_text(json.dumps(data, indent=1) + "\n")
    if bench.failed:
        print(f"{len(bench.failed)} claims do not hold", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
