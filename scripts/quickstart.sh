#!/usr/bin/env bash
# A small model tuned to a subject, beside DreamBooth at equal steps, judged and reported. Minutes on two cores.
# SUBJECT picks another of assets/emoji-world/subjects; CLASS is its class word.
set -euo pipefail
cd "$(dirname "$0")/.."

preftune=target/release/preftune
world=assets/emoji-world
runs=runs/quickstart
subject=${SUBJECT:-dog}
class=${CLASS:-$(python3 - "$world/subjects/subjects.json" "$subject" <<'PYTHON'
import json, sys
classes = {row["name"]: row["class"] for row in json.load(open(sys.argv[1]))}
print(classes.get(sys.argv[2]) or sys.exit(f"error: no subject `{sys.argv[2]}`; there are {', '.join(classes)}"))
PYTHON
)}
train=("$preftune" train configs/image/quickstart.toml --photos "$world/subjects/$subject" --class "$class" --resume)

# Two single-threaded processes side by side are faster than one with two threads.
export OMP_NUM_THREADS=1
echo "tuning to the subject $subject (a $class): RPO, and DreamBooth beside it" >&2
"${train[@]}" --output "$runs/dreambooth" --quiet --set objective.kind=dreambooth --set validation.patience=0 \
    >/dev/null &
dreambooth=$!
trap 'kill "$dreambooth" 2>/dev/null || true' EXIT
"${train[@]}" --output "$runs/rpo"
wait "$dreambooth"
trap - EXIT

"$preftune" eval subject "$runs/rpo" "$runs/dreambooth" --prompts "$world/prompts/test.txt" --judge "$world/judge" \
    --json "$runs/eval.json"
"$preftune" report "$runs/rpo" "$runs/dreambooth" --out "$runs/report.html"

python3 - "$runs" <<'PYTHON'
import json, sys
report = json.load(open(f"{sys.argv[1]}/eval.json"))
print()
for run in report["runs"]:
    before, after = run["base"]["mean"]["judge"], run["mean"]["judge"]
    said = [f"{name} {before[key]:.3f} -> {after[key]:.3f}" for name, key in
            (("likeness (CLIP-I)", "clip_i"), ("alignment (CLIP-T)", "clip_t"), ("reward at lambda .5", "harmonic_0.5"))]
    print(f"{run['objective']}: {', '.join(said)}; untuned -> tuned, by the independent encoder")
PYTHON
cat <<TEXT

$runs/report.html has the curves, images and figures of both runs.
Your own photos, with Stable Diffusion 1.5 and a CLIP on a GPU of 8 GB (SDXL: rpo_sdxl_lora.toml):
  $preftune train configs/image/rpo_sd15_lora.toml --set model.base=SD15 --set reward.encoder=CLIP \\
      --photos my-photos --class dog
  $preftune eval subject runs/rpo_sd15_lora --judge ANOTHER-CLIP
TEXT
