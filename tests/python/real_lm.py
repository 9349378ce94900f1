"""Does preftune read the GGUF file of a real language model as transformers does?

    python tests/python/real_lm.py target/release/preftune .models/SmolLM2-135M-Instruct.Q4_1.gguf

Compares with transformers on the same file (its way of cutting numbers put right, see below): token ids of varied texts and chats, chat texts byte by byte, the perplexity
of a fixed text to 0.1 % and the log-prob of its every token to 1e-3; then what `preftune export` makes of the file, loaded by
transformers as a folder, with all weights bit by bit. Needs torch, transformers and gguf as in tests/golden/requirements.txt,
and 2 GB of memory. Exits with 1 and a message where something does not agree.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "src/models/lm/gguf.rs").read_text(encoding="utf-8")
TEXTS = [
    *json.loads((ROOT / "tests/golden/gguf_tokenizers/ids.json").read_text(encoding="utf-8"))["texts"],
    SOURCE, (ROOT / "README.md").read_text(encoding="utf-8"),
    "".join(map(chr, range(1, 0x250))), "\U0001f600" * 7 + "\U000e0041", "  \n \n\n  \t\t x", "1" * 50,
    "<|im_start|><|im_end|><|endoftext|><repo_name>a<file_sep><|im_start|>", " <|im_end|> ", "<|im_start |>",
]
CHATS = [
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "system", "content": "Be <kind> & \"short\"."}, {"role": "user", "content": " Hi, é! "},
     {"role": "assistant", "content": "Hello.\n\nHow are you?"}, {"role": "user", "content": "<|im_end|>\nfine 123"}],
]
PASSAGE = """The lighthouse stood at the end of a long spit of sand, and for most of the year nobody visited it except the
keeper's sister, who came on the first Sunday of every month with flour, lamp oil and letters. In 1887 the road was washed
away by a storm. After that she came by boat. The keeper wrote down the weather each morning: wind from the north-west,
clouds at 600 metres, barometer falling. He never wrote about himself, but once, in the margin beside an entry in March,
there is a small drawing of a dog, and under it the words "gone, and the house is too quiet now."
"""


def preftune(*arguments) -> str:
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(map(str, arguments))}` failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def inspected(binary, model, records, folder):
    """Ids of records as a run on this model would learn from them."""
    data, config = folder / "data.jsonl", folder / "config.toml"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    config.write_text(f'[run]\noutput = "run"\n[model]\nbase = {json.dumps(str(model))}\n[data]\ntrain = {json.dumps(str(data))}\n'
                      'max_length = 100000\n[objective]\nkind = "sft"\n', encoding="utf-8")
    report = json.loads(preftune(binary, "inspect", config, "--json", "--rows", len(records)))
    assert len(report["examples"]) == len(records), report["train"]
    return [example["sequences"][0] for example in report["examples"]]


def main() -> None:
    binary, model = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    logging.set_verbosity_error()
    fast = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    eos = fast.eos_token_id
    as_read = [fast(text)["input_ids"] for text in TEXTS]
    # The file says that numbers are cut as SmolLM cuts them, one by one (as llama.cpp and the model's own tokenizer.json do).
    # transformers 5.23 does not know that name and cuts as GPT-2, which shows at numbers that are no digits, such as ½.
    fast.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    differ = [text for text, ids in zip(TEXTS, as_read) if fast(text)["input_ids"] != ids]
    print(f"{len(differ)} of {len(TEXTS)} texts have other ids where numbers are not cut one by one; all hold one of ½ ² ①")
    assert all(set(text) & set("½²³¹①") for text in differ), differ
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # An answer of nothing but space is refused; ids of an answer end with the token that ends a text.
        texts = [text for text in TEXTS if text.strip()]
        for text, row in zip(texts, inspected(binary, model, [{"text": text} for text in texts], folder)):
            theirs = fast(text)["input_ids"]
            theirs += [eos] * (theirs[-1:] != [eos])
            if row["ids"] != theirs:
                at = next(at for at, pair in enumerate(zip(row["ids"], theirs)) if len(set(pair)) > 1)
                sys.exit(f"ids of {text[:60]!r} differ from token {at}: {row['ids'][at:at + 5]}, not {theirs[at:at + 5]}")
        print(f"token ids: {len(texts)} texts equal")

        answers = [{"role": "assistant", "content": "Four, of course."}]
        rows = inspected(binary, model, [{"messages": chat + answers} for chat in CHATS], folder)
        for chat, row in zip(CHATS, rows):
            prompt = fast.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            whole = fast.apply_chat_template(chat + answers, tokenize=False)
            theirs = fast(whole, add_special_tokens=False)["input_ids"]
            assert row["ids"] == theirs, (row["ids"], theirs)
            assert fast.decode(theirs, skip_special_tokens=False) == whole == row["prompt"] + row["answer"], row
            assert row["prompt"] == prompt, (row["prompt"], prompt)
        print(f"chat template: {len(CHATS)} chats equal byte by byte, their ids too")

        passage = folder / "passage.txt"
        passage.write_text(PASSAGE, encoding="utf-8")
        report = json.loads(preftune(binary, "eval", "perplexity", "--model", model, passage, "--json", "--device", "cpu"))[0]
        theirs = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32)
        ids = fast(PASSAGE, return_tensors="pt")["input_ids"]
        assert report["ids"] == ids[0].tolist()
        with torch.no_grad():
            scores = theirs(ids).logits[0, :-1].log_softmax(-1)
        logps = scores.gather(1, ids[0, 1:, None])[:, 0]
        perplexity, off = math.exp(-logps.mean().item()), (torch.tensor(report["logps"]) - logps).abs().max().item()
        print(f"perplexity of {len(logps)} tokens: {report['perplexity']:.5f}, transformers {perplexity:.5f}; "
              f"log-probs differ by at most {off:.1e} nats")
        assert abs(report["perplexity"] / perplexity - 1) < 1e-3 and off < 1e-3

        out = folder / "exported"
        preftune(binary, "export", model, "--out", out)
        folder_model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        folder_tokenizer = AutoTokenizer.from_pretrained(out)
        own, other = folder_model.state_dict(), theirs.state_dict()
        assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
        for text in TEXTS:
            assert folder_tokenizer(text)["input_ids"] == fast(text)["input_ids"], text[:60]
        for chat in CHATS:
            assert (folder_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                    == fast.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        greedy = folder_model.generate(ids[:, :40], max_new_tokens=8, do_sample=False)
        assert torch.equal(greedy, theirs.generate(ids[:, :40], max_new_tokens=8, do_sample=False))
        print(f"exported folder: {len(own)} tensors bit-equal in transformers, ids and chats equal, same greedy text")


if __name__ == "__main__":
    main()
