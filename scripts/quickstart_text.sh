#!/usr/bin/env bash
# A small language model tuned to write more positively, from its own answers: sampled, scored by VADER, paired, tuned by
# DPO, and judged on prompts that it was not tuned on. RUNS is the folder of the result, PREFTUNE the binary.
set -euo pipefail
cd "$(dirname "$0")/.."

preftune=${PREFTUNE:-target/release/preftune}
prompts=assets/sentiment
runs=${RUNS:-runs/quickstart-text}
model=$(./scripts/smollm2.sh)
mkdir -p "$runs"
sample=("$preftune" generate --temperature 1.0 --top-k 50 --max-tokens 24 --batch 32)

if [ ! -e "$runs/pairs.jsonl" ]; then
    echo "sampling eight answers to each of $(wc -l < $prompts/train.txt) prompts" >&2
    "${sample[@]}" --model "$model" --prompts $prompts/train.txt --count 8 --out "$runs/answers.jsonl"
    "$preftune" label --answers "$runs/answers.jsonl" --reward sentiment --per-prompt 4 --out "$runs/pairs.jsonl"
fi
"$preftune" train configs/text/sentiment.toml --output "$runs/dpo" --set data.train="$runs/pairs.jsonl" --resume

# Fresh pairs of the untuned model, on prompts that neither training nor validation has seen.
"${sample[@]}" --model "$model" --prompts $prompts/test.txt --count 4 --seed 1000 --out "$runs/before.jsonl"
"${sample[@]}" --model "$runs/dpo" --prompts $prompts/test.txt --count 4 --seed 1000 --out "$runs/after.jsonl"
"$preftune" label --answers "$runs/before.jsonl" --reward sentiment --per-prompt 2 --out "$runs/test.jsonl"
echo
"$preftune" score --answers "$runs/before.jsonl" "$runs/after.jsonl" --reward sentiment
"$preftune" score --answers "$runs/before.jsonl" "$runs/after.jsonl" --reward sentiment --json > "$runs/score.json"
echo
"$preftune" eval text "$runs/dpo" --data "$runs/test.jsonl" --json="$runs/eval.json"
"$preftune" report "$runs/dpo" --out "$runs/report.html"

python3 - "$runs" <<'PYTHON'
import json, pathlib, sys
runs = pathlib.Path(sys.argv[1])
read = lambda name: [json.loads(line) for line in (runs / name).read_text(encoding="utf-8").splitlines()]
print("\nfirst answers, before and after:")
seen = set()
for before, after in zip(read("before.jsonl"), read("after.jsonl")):
    prompt = before["prompt"][-1]["content"]
    if prompt not in seen and len(seen) < 3:
        seen.add(prompt)
        print(f"  {prompt}\n    before: {' '.join(before['text'].split())}\n    after:  {' '.join(after['text'].split())}")
before, after = json.loads((runs / "score.json").read_text())["files"]
figures = {figure["name"]: figure["value"] for figure in json.loads((runs / "eval.json").read_text())["figures"]}
low, high = after["difference"]["interval"]
print(f"\nsentiment {before['reward']['mean']:.3f} -> {after['reward']['mean']:.3f} (gain {low:.3f} to {high:.3f}), "
      f"win rate {after['win_rate']['mean']:.3f}, pair accuracy {figures['accuracy']:.3f}, "
      f"KL a token {figures['KL a token, chosen']:.4f} nats")
PYTHON
cat <<TEXT
$runs/report.html has the curves and figures of the run.
Next: your own pairs, and your own model (a Hugging Face folder or a GGUF file):
  $preftune inspect configs/text/dpo.toml --set model.base=MODEL --set data.train=pairs.jsonl
  $preftune train   configs/text/dpo.toml --set model.base=MODEL --set data.train=pairs.jsonl
The tuned model as a folder for transformers:
  $preftune export $runs/dpo --out exported/
TEXT
