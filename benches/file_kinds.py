"""How exactly the kinds of files that people have are read: the largest errors beside Python, kind by kind.

    python3 benches/file_kinds.py

Runs the tests that compare with figures of transformers, open_clip, diffusers, PEFT, LyCORIS and `gguf` (tests/golden has the files and the
Python that made them) and writes what they print to benches/results/file_kinds.md. An error is relative to the largest value of the
tensor that is compared.
"""

import collections
import pathlib
import re
import subprocess
import sys

import machine

GROUPS = {
    "encoder_kinds": "SigLIP, SigLIP 2, OpenCLIP, DINOv2, DINOv3, HPSv2.1's layout; transformers, open_clip",
    "encoders": "CLIP, ALIGN, DINO; transformers",
    "adapter_settings": "LoRA of PEFT with its settings; PEFT",
    "lora_files": "LoRA files and kinds: kohya, diffusers, DoRA; PEFT, LyCORIS",
    "lora": "LoRA in a U-Net; diffusers with PEFT",
    "overlays": "LoRA files laid over a model: LoHa, LoKr, text encoders; LyCORIS",
}
TABLE = pathlib.Path("benches/results/file_kinds.md")


def main():
    filters = [f"{group}::" for group in GROUPS]
    done = subprocess.run(["cargo", "test", "--test", "tests", "--", "--nocapture", "--test-threads", "1", *filters],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    errors = collections.defaultdict(list)
    group = test = None
    for line in done.stdout.splitlines():
        begun = re.match(r"test (\w+)::(\w+) \.\.\. ", line)
        if begun:
            group, test = begun.groups()
            line = line[begun.end():]
        error = re.match(r"(.+): relative error (\S+) ", line)
        # In bf16 rounding is all there is to see.
        if error and not error.group(1).startswith(("bf16", "f16")):
            errors[group, test].append((float(error.group(2)), error.group(1)))
    rows = ["| kinds of files; beside | test | compared | largest relative error | of |", "|---|---|---|---|---|"]
    for (group, test), found in errors.items():
        if group in GROUPS:
            largest, which = max(found)
            rows.append(f"| {GROUPS[group]} | `{group}::{test}` | {len(found)} | {largest:.1e} | {which} |")
    page = f"# How exactly files are read\n\n{machine.described()}; `python3 benches/file_kinds.py`. Single files beside diffusers' pictures: "
    page += "[single_files.md](single_files.md).\nWeights as PyTorch saves them, GGUF encodings and token ids are equal bit by "
    page += "bit (`cargo test pickles gguf encoder_kinds`). kohya's files hold f16.\n\n"
    TABLE.write_text(page + "\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
