"""Reward models on a tiny language model, trained by a plain torch loop around transformers' classifier, in f64.

`scalar` and `rated` are `LlamaForSequenceClassification` folders (one that pads with a token of its own, one that pads
with the token that ends texts), `embeddings.parquet` and `ragged.parquet` embeddings,
`general` a language model with a general preference head, `adapter` PEFT's folder of a
classifier. `margins.jsonl` are pairs with strengths, `rated.jsonl` and `strengths.jsonl` rows in HelpSteer2's columns.
`curves.json` has losses and gradient norms of ten steps, the rewards before the first and after the last;
`gradients.safetensors` those of the first step by tensor.
"""
import json
import pathlib

import pyarrow
import pyarrow.parquet
import torch
from diffusion import write_json
from lm import randomise
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from text import PAIRS, chat, plain
from transformers import LlamaForSequenceClassification, LlamaModel, PreTrainedTokenizerFast

STEPS, RATE, DECAY = 10, 2e-3, 0.01
MARGINS = [1.0, 2.0, 3.0, 0.5]
TURNS = "<extra_id_1>"
NAMES = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
ASKED = ["What is 2+2?", f"Hi\n{TURNS}Assistant\nHello.\n{TURNS}User\nAnd now?"]
RATED = [(0, "Four.", [4, 4, 4, 1, 0]), (0, "Fish, I think, or soup.", [0, 0, 3, 2, 2]),
         (1, "Now we talk.", [3, 4, 4, 1, 1]), (1, "No", [1, 2, 3, 0, 0])]
PLANES, TAU = 2, 0.1


def messages(prompt):
    turns = prompt.split(TURNS)
    roles = [("user", turns[0])] + [(turn.split("\n", 1)[0].lower(), turn.split("\n", 1)[1]) for turn in turns[1:]]
    return [{"role": role, "content": text.removesuffix("\n")} for role, text in roles]


def padded(sequences, pad):
    longest = max(len(ids) for ids, _ in sequences)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in sequences])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in sequences])
    return ids, mask


def train(model, parameters, loss_of, rewards_of):
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    rows, gradients = [], {}
    with torch.no_grad():
        before = rewards_of().tolist()
    for step in range(STEPS):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rows.append({"loss": loss.item(), "gradient_norm": norm.item()})
    with torch.no_grad():
        after = rewards_of().tolist()
    return {"rows": rows, "before": before, "after": after}, gradients


def pairs_loss(kind, rewards):
    chosen, rejected = rewards[:, 0].chunk(2)
    log, margin = torch.nn.functional.logsigmoid, torch.tensor(MARGINS)
    lead = chosen - rejected
    return {"bradley_terry": -log(lead), "margin_bradley_terry": -log(lead - margin),
            "scaled_bradley_terry": -margin * log(lead)}[kind].mean()


class General(torch.nn.Module):
    """States, embeddings of length 1 and scales, as the authors' inference code has them, with a bias."""

    def __init__(self, folder):
        super().__init__()
        self.body = LlamaModel.from_pretrained(folder, dtype=torch.float64)
        width = self.body.config.hidden_size
        self.value = torch.nn.Linear(width, 2 * PLANES)
        self.gate = torch.nn.Linear(width, PLANES, bias=False)

    def forward(self, sequences):
        ids, mask = padded(sequences, 0)
        states = self.body(ids, attention_mask=mask).last_hidden_state
        rows = torch.arange(len(ids))
        last = states[rows, mask.sum(1) - 1]
        prompt = states[rows, torch.tensor([prompt - 1 for _, prompt in sequences])]
        value = torch.nn.functional.normalize(self.value(last), dim=-1)
        scales = PLANES * self.gate(prompt).softmax(-1)
        (a, b), scales = [half.view(-1, PLANES, 2) for half in value.chunk(2)], scales.chunk(2)[0]
        return (scales * (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])).sum(-1)


def classifier(folder, source, names, pad, seed):
    model = LlamaForSequenceClassification.from_pretrained(source, num_labels=len(names), pad_token_id=pad)
    generator = torch.Generator().manual_seed(seed)
    model.score.weight.data = torch.randn(model.score.weight.shape, generator=generator) * 0.1
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.half().save_pretrained(folder)


def make(out: pathlib.Path) -> None:
    torch.set_default_dtype(torch.float64)
    base = out.parent / "text" / "model"
    fast = PreTrainedTokenizerFast.from_pretrained(base)
    classifier(out / "scalar", base, ["reward"], 0, 1)
    classifier(out / "rated", base, NAMES, 2, 2)
    fast.save_pretrained(out / "scalar")
    fast.save_pretrained(out / "rated")

    rows = [row | {"margin": margin} for row, margin in zip(PAIRS, MARGINS)]
    rated = [{"prompt": ASKED[at], "response": text} | dict(zip(NAMES, values)) for at, text, values in RATED]
    strengths = [{"prompt": ASKED[at], "response_1": RATED[2 * at][1], "response_2": RATED[2 * at + 1][1],
                  "preference_strength": strength} for at, strength in [(0, -2), (1, 3)]]
    strengths.append(strengths[0] | {"preference_strength": 0})
    for name, lines in [("margins", rows), ("rated", rated), ("strengths", strengths)]:
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def load(name):
        model = LlamaForSequenceClassification.from_pretrained(out / name, dtype=torch.float64)
        # A token that pads gets no gradient in torch where it is real text too. TRL names it after the table is made.
        model.model.embed_tokens.padding_idx = None
        return model

    pairs = [plain(fast, row["prompt"], row[key]) for key in ["chosen", "rejected"] for row in PAIRS]
    curves, gradients = {}, {}
    for kind in ["bradley_terry", "margin_bradley_terry", "scaled_bradley_terry"]:
        model = load("scalar")
        ids, mask = padded(pairs, 0)
        rewards = lambda: model(ids, attention_mask=mask).logits
        curves[kind], own = train(model, list(model.parameters()), lambda: pairs_loss(kind, rewards()), rewards)
        gradients |= own if kind == "bradley_terry" else {}

    answered = [chat(fast, messages(row["prompt"]), [{"role": "assistant", "content": row["response"]}]) for row in rated]
    model = load("rated")
    ids, mask = padded(answered, 2)
    targets = torch.tensor([values for _, _, values in RATED], dtype=torch.float64)
    rewards = lambda: model(ids, attention_mask=mask).logits
    curves["regression"], _ = train(model, list(model.parameters()),
                                    lambda: ((rewards() - targets) ** 2).mean(), rewards)

    torch.manual_seed(3)
    model = General(base)
    body = {"model." + name: tensor.half().contiguous() for name, tensor in model.body.state_dict().items()}
    (out / "general" / "head").mkdir(parents=True, exist_ok=True)
    save_file(body, out / "general" / "model.safetensors")
    config = json.loads((base / "config.json").read_text()) | {"architectures": ["LlamaModel"], "pad_token_id": 0}
    write_json(out / "general" / "config.json", config)
    fast.save_pretrained(out / "general")
    width = model.body.config.hidden_size
    write_json(out / "general" / "head" / "config.json",
               {"input": width, "hidden": [], "bias": False, "kind": "general_preference", "planes": PLANES, "unit": True,
                "gate": {"input": width, "sum": float(PLANES)}, "tau": TAU})
    model.value.weight.data, model.value.bias.data = model.value.weight.data.float().double(), torch.tensor([0.1, 0.4, 0.0, 0.3])
    model.value.bias.data = model.value.bias.data.float().double()
    model.gate.weight.data = model.gate.weight.data.float().double()
    save_file({"value.0.weight": model.value.weight.float(), "value.0.bias": model.value.bias.float(),
               "gate.0.weight": model.gate.weight.float()}, out / "general" / "head" / "model.safetensors")
    scores = lambda: model(pairs)
    log = torch.nn.functional.logsigmoid
    curves["general_preference"], _ = train(model, list(model.parameters()), lambda: -log(scores() / TAU).mean(), scores)

    torch.manual_seed(4)
    model = get_peft_model(load("scalar"), LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"],
                                                      task_type="SEQ_CLS", modules_to_save=["score"]))
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            tensor.data = (torch.randn(tensor.shape) * 0.1).float().double()
    # The base of the file is the language model: its head comes with the adapter.
    model.peft_config["default"].base_model_name_or_path = "BASE"
    model.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    ids, mask = padded(pairs, 0)
    rewards = lambda: model(ids, attention_mask=mask).logits
    curves["lora"], own = train(model, trained, lambda: pairs_loss("bradley_terry", rewards()), rewards)
    gradients |= own
    write_json(out / "curves.json", curves)
    rows = [{"id": f"item {row}", "responses": [float(row), 0.5, -0.25 * row],
             "prompts": [1.0, float(row)] if row < 2 else None} for row in range(12)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out / "embeddings.parquet")
    rows = [{"embedding": [0.0, 1.0, 2.0]}, {"embedding": [0.0, 1.0]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out / "ragged.parquet")
    save_file({name: tensor.float().contiguous() for name, tensor in gradients.items()}, out / "gradients.safetensors")
    torch.set_default_dtype(torch.float32)
