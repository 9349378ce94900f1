"""Tokenizers in GGUF files, one for each way of cutting texts that preftune knows, and a model with one.

`KIND.gguf` holds a byte-level BPE of a few hundred tokens, trained on this folder's own text with the pre-tokenizer of a
published family; `ids.json` has what the package `tokenizers` makes of `TEXTS` with it, which transformers' reader of GGUF
files must confirm where it knows the kind. `model.gguf` is a tiny Llama with the first of them and a chat template; `model.json`
has transformers' chat texts, token ids and log-probs of it.
"""
import json

import numpy as np
import torch
from diffusion import write_json
from gguf import GGUFWriter
from lm import GGUF_NAMES, close, in_pairs, randomise
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), BYTES])


KINDS = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS]),
    "gpt-2": WORDS,
    "llama-bpe": split(LLAMA3),
    "qwen2": split(LLAMA3.replace("{1,3}", "")),
    "tekken": split(TEKKEN),
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEXTS = [
    "The quick brown fox can't jump over 1234567 lazy dogs; they've 3.14 reasons.",
    "  leading, trailing  \n\n\ttabs\r\nand   runs of   spaces    ",
    "def f(x):\n    return {'a': x**2, \"b\": [1, 2]}  # code_with_CamelCase HTTPServer",
    "naïve café, Ünïcödé: 日本語のテキスト, русский текст, العربية, हिन्दी, e\u0301 and \u00e9",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and symbols ≤≥≠ €100 ½ ² ①",
    "<|im_start|>user\nHi!<|im_end|>\n<|endoftext|> <think> x</think>",
    "", " ", "\n", "a", "I'M HE'LL we'D 'tis o'clock", "0 00 000 0000 1,000,000.00 -5 +7e-9",
    "\u200bzero\u00a0width\u3000ideographic \ufeff bom", "http://example.org/a?b=c&d=%20#e ../path/to\\file",
]
CHATS = [
    [{"role": "user", "content": " What is 2+2? "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, é!"},
     {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And\nnow?"}],
]


def train(kind, corpus):
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ["llama-bpe", "tekken"]))
    tokenizer.pre_tokenizer = KINDS[kind]
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=480, show_progress=False, special_tokens=SPECIALS,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def describe(writer, kind, tokenizer, bos):
    state = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.get)
    kinds = {**dict.fromkeys(SPECIALS, CONTROL), "<think>": USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(bos)
    writer.add_chat_template(TEMPLATE)


def shape(writer, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)


def make_model(tokenizer, config, out):
    model = LlamaForCausalLM(config)
    randomise(model, 5)
    writer = GGUFWriter(out / "model.gguf", "llama")
    shape(writer, config)
    describe(writer, "smollm", tokenizer, bos=False)
    for name, value in model.state_dict().items():
        value = value.half().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if name == "lm_head.weight":
            continue
        if heads:
            value = in_pairs(value, heads)
        for old, new in GGUF_NAMES.items():
            name = name.replace(old, new)
        name = "output_norm.weight" if name == "norm.weight" else name
        writer.add_tensor(name, np.ascontiguousarray(value if value.ndim == 2 else value.astype(np.float32)))
    close(writer)

    fast = AutoTokenizer.from_pretrained(out, gguf_file="model.gguf")
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf", dtype=torch.float32)
    cases = []
    for chat in CHATS:
        text = fast.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        cases.append(dict(messages=chat, text=text, ids=fast(text, add_special_tokens=False)["input_ids"]))
    text = " ".join(TEXTS[:4])
    ids = fast(text)["input_ids"]
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    logps = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    write_json(out / "model.json", dict(chats=cases, text=text, ids=ids, logps=logps.tolist()))


def make(out):
    corpus = [open(__file__, encoding="utf-8").read(), *TEXTS] * 2
    ids = {}
    for kind in KINDS:
        tokenizer = train(kind, corpus)
        config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                             tie_word_embeddings=True)
        writer = GGUFWriter(out / f"{kind}.gguf", "llama")
        shape(writer, config)
        bos = kind == "llama-bpe"
        describe(writer, kind, tokenizer, bos)
        writer.add_tensor("token_embd.weight", np.zeros((tokenizer.get_vocab_size(), 32), np.float16))
        close(writer)
        ids[kind] = [[1] * bos + tokenizer.encode(text).ids for text in TEXTS]
        # transformers gives files of Qwen no NFC, which the family's own tokenizer has, and knows no kind of its merges.
        fast = AutoTokenizer.from_pretrained(out, gguf_file=f"{kind}.gguf")
        for text, own in zip(TEXTS, ids[kind]):
            theirs = fast(text)["input_ids"]
            if theirs != own:
                print(f"{kind}: transformers differs on {text!r}\n  {own}\n  {theirs}")
        if kind == "smollm":
            make_model(tokenizer, config, out)
    write_json(out / "ids.json", dict(texts=TEXTS, ids=ids))
