#!/usr/bin/env python3
"""Writes the tokenizers of assets/emoji-world from the world's vocabulary, which it reads from standard input:

    preftune world --words | python3 scripts/world_tokenizers.py assets/emoji-world

One word is one token. The pipeline's text encoder (CLIP's) gets a tokenizer.json, the reward and the judge (ALIGN,
whose text encoder is BERT) a vocab.txt without the words that mean one drawing or subject. Sizes and special tokens in the configurations are set to fit.
"""

import json
import pathlib
import sys

LENGTH = 16
SPRITES = pathlib.Path(__file__).resolve().parent.parent / "assets/sprites/index.json"


def clip(words):
    # The end has the largest id: an old rule of transformers (the pooled state is that of the largest id) and the
    # new one (that of `eos_token_id`) then mean the same.
    vocabulary = ["<unk>", "<bos>", *words, "<eos>"]
    ids = {word: index for index, word in enumerate(vocabulary)}
    special = lambda name: {"id": name, "ids": [ids[name]], "tokens": [name]}
    piece = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": LENGTH}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": ids["<eos>"], "pad_type_id": 0, "pad_token": "<eos>",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("<bos>"), text, piece("<eos>")],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: special(name) for name in ("<bos>", "<eos>")},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH,
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>", "unk_token": "<unk>",
    }
    return tokenizer, settings, len(vocabulary)


def bert(words):
    names = {sprite.get("called") for sprite in json.loads(SPRITES.read_text())["sprites"]}
    plain = (word for word in words if word not in names and not word.startswith("["))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *plain]
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": LENGTH, "do_lower_case": True}
    return vocabulary, settings


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def update(path, *keys, **values):
    config = json.loads(path.read_text())
    inner = config
    for key in keys:
        inner = inner[key]
    inner.update(values)
    write(path, config)


def main():
    root = pathlib.Path(sys.argv[1])
    words = sys.stdin.read().split()
    tokenizer, settings, size = clip(words)
    write(root / "tokenizer" / "tokenizer.json", tokenizer)
    write(root / "tokenizer" / "tokenizer_config.json", settings)
    ids = {"vocab_size": size, "bos_token_id": 1, "eos_token_id": size - 1, "pad_token_id": size - 1}
    update(root / "text_encoder" / "config.json", **ids)
    vocabulary, settings = bert(words)
    for encoder in ("reward", "judge"):
        (root / encoder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        write(root / encoder / "tokenizer_config.json", settings)
        update(root / encoder / "config.json", "text_config", vocab_size=len(vocabulary))


if __name__ == "__main__":
    main()
