"""Tuning language models: chat templates as transformers renders them, and training curves of a plain torch loop.

`model` is a tiny Llama with a byte-level tokenizer and a chat template; `templates.json` has templates in the manner of
published models with what `apply_chat_template` makes of conversations; `pairs.jsonl`, `chats.jsonl`, `tooled.jsonl`, `marked.jsonl`,
`margins.jsonl` and `sampled.jsonl` are data, the first two also as Parquet; `curves.json` has their token ids and the metrics of some steps under each objective, in f64.
"""
import json
import os

import pyarrow
import pyarrow.parquet
import torch
from diffusion import write_json
from lm import randomise
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = """{%- if tools %}
    {{- '<s>system\\n' + (messages[0]['content'] if messages[0]['role'] == 'system' else 'Be brief.') }}
    {{- "\\n\\nYou may call:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools></s>\\n" }}
{%- elif messages[0]['role'] == 'system' -%}
    {{- '<s>system\\n' + messages[0]['content'] + '</s>\\n' }}
{%- else -%}
    {{- '<s>system\\nBe brief.</s>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<s>assistant' }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<call>{"name": "' + tool_call.name + '", "arguments": ' + (tool_call.arguments | tojson) + '}</call>' }}
        {%- endfor %}
        {{- '</s>\\n' }}
    {%- elif (message.role == "user") or (message.role == "assistant") %}
        {{- '<s>' + message.role + '\\n' + message.content + '</s>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<s>user\\n<tool>' + message.content + '</tool></s>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<s>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
# In the manner of Llama 3.1: tools in the first user message or before it, a date, names with defaults.
LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "[system]\\n" }}
{%- if tools is not none %}
    {{- "Tools are there.\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message + eos_token }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content'] | trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("no first user message to put the tools in") }}
    {%- endif %}
    {{- '[user]\\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) + "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + eos_token }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']\\n' + message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function if message.tool_calls[0].function is defined else message.tool_calls[0] %}
        {{- '[assistant]\\n{"name": "' + tool_call.name + '", "parameters": ' + tool_call.arguments | tojson + "}" + eos_token }}
    {%- else %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- "[ipython]\\n" + message.content | tojson + eos_token }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant]\\n' }}
{%- endif %}
"""
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MODERN = """{{- bos_token }}
{% set ns = namespace(first=true) %}
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
        {{- 'no system; ' }}
    {% endif %}
    {% set content = message.content if message.content is string else '' %}
    {% if '</think>' in content %}
        {% set content = content.split('</think>')[-1].lstrip('\\n') %}
    {% endif %}
    {% if message.role == 'system' and not ns.first %}{% continue %}{% endif %}
    {{- message['role'] | upper + ': ' + content.strip().replace('a', 'A') + '\\n' }}
    {% if message.tool_calls is defined and message.tool_calls %}
        {{- message.tool_calls | tojson }}
        {{- message.tool_calls[0].arguments | tojson(indent=2) }}
        {% for key, value in message.tool_calls[0].arguments.items() %}
            {{- key ~ '=' ~ value }}
        {% endfor %}
    {% endif %}
    {% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}
    {% set ns.first = false %}
{% endfor %}
{% if add_generation_prompt %}
    {{- 'ASSISTANT: ' }}
{% endif %}
"""
CONVERSATIONS = [
    [{"role": "user", "content": " What is 2+2? "}],
    [{"role": "system", "content": "Be <kind> & \"short\"."}, {"role": "user", "content": "Hi, é!"},
     {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."}, {"role": "user", "content": "And now?"}],
    [{"role": "user", "content": "Call it"},
     {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"zeta": 1, "a": "ü<b>", "c": [1, 2.5]}}]},
     {"role": "tool", "content": "3"}],
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Says the weather, <b>é</b>", "parameters": {
        "type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["town"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},
]
# What `apply_chat_template` is given beside the messages.
VARIABLES = [{}, {"tools": TOOLS}, {"tools": TOOLS, "tools_in_user_message": False, "date_string": "1 May 2025"},
             {"enable_thinking": False, "eos_token": "<end>"}]
CALL = {"role": "assistant", "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Rome", "days": 2}}}]}
# Pairs of chats with tools; the prompt of the second one ends with a tool's result.
TOOLED = [
    {"prompt": [{"role": "user", "content": "Will it rain?"}], "chosen": [CALL], "rejected": [{"role": "assistant", "content": "No."}],
     "tools": TOOLS},
    {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Rome?"}, CALL, {"role": "tool", "content": "rain"}],
     "chosen": [{"role": "assistant", "content": "It rains."}], "rejected": [{"role": "assistant", "content": "It is dry."}],
     "tools": json.dumps(TOOLS[:1]), "chat_template_kwargs": {"enable_thinking": False}},
    {"prompt": [{"role": "user", "content": "Say hi"}], "chosen": [{"role": "assistant", "content": "Hi!"}],
     "rejected": [{"role": "assistant", "content": "No"}], "tools": [], "chat_template_kwargs": None},
]
PAIRS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " a kind of soup, they say"},
    {"prompt": "Two and two", "chosen": " make four", "rejected": " make five"},
    {"prompt": "Say hi", "chosen": ": hi!", "rejected": "?"},
    {"prompt": "Water is", "chosen": " wet", "rejected": " dry, mostly dry"},
]
MARGINS = [0.5, 0.0, 1.5, -0.25]
# Answers with rewards, two of them equal; the last list says with which log-probs it was sampled.
SAMPLED = [
    {"prompt": "The sky is", "responses": [" blue.", " a kind of soup", " high", " blue."], "scores": [2.0, 0.5, -1.0, 2.0]},
    {"prompt": "Say hi", "responses": [": hi!", "?"], "scores": [1.0, 1.0]},
    {"prompt": "Water is", "responses": [" wet", " dry, mostly dry", " here"], "scores": [1.5, -0.5, 0.25],
     "proposal_logps": [-12.5, -60.0, -21.0]},
]
STEPS = 4
RATE, DECAY = 2e-3, 0.01


# As Arena-Hard's judgements: two games of each question, in the second of which the model is A.
GAMES = [{"question_id": question, "model": model, "judge": "gpt-4",
          "games": [{"score": score, "judgment": "...", "user_prompt": "..."} for score in scores]}
         for question, model, scores in [("p", "one", ["B>>A", "A>B"]), ("q", "one", ["A>B", "A=B"]),
                                         ("p", "two", ["A>>B", "B>>A"]), ("q", "two", ["B>A", "B>A"])]]


def tokenizer(out):
    specials = ["<unk>", "<s>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(specials + letters)}
    merges = [("Ġ", "a"), ("i", "s"), ("Ġ", "is"), ("e", "r")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHATML
    fast.save_pretrained(out)
    return fast


def templates(fast):
    cases = []
    plain = [(template, messages, {}) for template in [CHATML, LLAMA2, MODERN] for messages in CONVERSATIONS]
    named = [(template, messages, variables) for template in [CHATML, LLAMA3] for messages in CONVERSATIONS[:3] for variables in VARIABLES]
    for template, messages, variables in plain + named:
        for generate in [False, True]:
            case = dict(template=template, messages=messages, add_generation_prompt=generate)
            if variables:
                case["variables"] = variables
            try:
                case["text"] = fast.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                        add_generation_prompt=generate, **variables)
            except Exception as error:
                case["error"] = str(error)
            cases.append(case)
    return cases


def plain(fast, prompt, answer):
    return fast(prompt + answer)["input_ids"] + [fast.eos_token_id], len(fast(prompt)["input_ids"])


def chat(fast, prompt, answer, **variables):
    before = fast.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **variables)
    whole = fast.apply_chat_template(prompt + answer, tokenize=False, **variables)
    # What an unfinished turn is opened with may be no part of a finished one.
    before = os.path.commonprefix([before, whole])
    encode = lambda text: fast(text, add_special_tokens=False)["input_ids"]
    return encode(whole), len(encode(before))


def logps(model, sequences):
    """Summed log-probs, lengths and full log-softmax of the answers' tokens."""
    sums, lengths, full = [], [], []
    for ids, prompt in sequences:
        scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        own = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        sums.append(own[prompt - 1:].sum())
        lengths.append(len(ids) - prompt)
        full.append(scores[prompt - 1:])
    return torch.stack(sums), torch.tensor(lengths, dtype=torch.float64), full


def loss_of(kind, policy, reference, model, frozen, sequences):
    (sums, lengths, full), (ref_sums, _, ref_full) = policy, reference
    log = torch.nn.functional.logsigmoid
    half = len(sums) // 2
    if kind == "brain":
        losses, begin = [], 0
        for row in SAMPLED:
            part = slice(begin, begin := begin + len(row["responses"]))
            proposal = torch.tensor(row["proposal_logps"]) if "proposal_logps" in row else ref_sums[part]
            alpha = torch.softmax(torch.tensor(row["scores"]) / 0.7 + ref_sums[part] - proposal, 0)
            losses.append((alpha * (alpha.log() - torch.log_softmax(sums[part] - proposal, 0))).sum())
        return torch.stack(losses).mean()
    if kind == "sft":
        return (-sums / lengths).mean()
    if kind == "kto":
        crossed = [(ids[:prompt] + other[start:], prompt)
                   for (ids, prompt), (other, start) in zip(sequences, sequences[1:] + sequences[:1])]
        with torch.no_grad():
            point = (logps(model, crossed)[0] - logps(frozen, crossed)[0]).mean().clamp(min=0)
        ratios = sums - ref_sums
        marks = torch.arange(len(sums)) % 2 == 0
        return torch.where(marks, 1 - torch.sigmoid(0.3 * (ratios - point)),
                           1 - torch.sigmoid(0.3 * (point - ratios))).mean()
    ratios = sums - ref_sums
    margin = ratios[:half] - ratios[half:]
    means = sums / lengths
    if kind == "dpo":
        return -log(0.3 * margin).mean()
    if kind == "margins":
        return (-log(0.3 * margin - torch.tensor(MARGINS)) - 0.2 * means[:half]).mean()
    if kind == "ipo":
        mean = ratios / lengths
        return ((mean[:half] - mean[half:] - 1 / (2 * 0.5)) ** 2).mean()
    if kind == "simpo":
        return -log(2.0 * (means[:half] - means[half:] - 0.25)).mean()
    if kind == "orpo":
        odds = means - torch.log1p(-means.exp())
        return (-means[:half] - 0.1 * log(odds[:half] - odds[half:])).mean()
    kl = torch.stack([(theirs.exp() * (theirs - ours)).sum() for ours, theirs in zip(full, ref_full)])
    return -log(0.3 * (margin - 0.5 * (kl[half:] - kl[:half].detach()))).mean()


def curve(kind, sequences, out):
    model = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float64)
    frozen = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    rows = []
    # What KTO measures from depends on the order within a batch once the policy has moved; BRAIn's weights of samples that
    # lie tens of nats apart make rounding to f32 visible in its fourth step.
    for _ in range({"kto": 1, "brain": 3}.get(kind, STEPS)):
        with torch.no_grad():
            reference = logps(frozen, sequences)
        policy = logps(model, sequences)
        loss = loss_of(kind, policy, reference, model, frozen, sequences)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        row = {"loss": loss.item(), "gradient_norm": norm.item()}
        if kind in ["dpo", "ipo", "tdpo2"]:
            scale = 0.5 if kind == "ipo" else 0.3
            chosen, rejected = (scale * (policy[0] - reference[0])).detach().chunk(2)
            row |= {"rewards/chosen": chosen.mean().item(), "rewards/rejected": rejected.mean().item(),
                    "rewards/margins": (chosen - rejected).mean().item(),
                    "rewards/accuracies": (chosen > rejected).double().mean().item()}
        if kind not in ["sft", "kto", "brain"]:
            chosen, rejected = policy[0].detach().chunk(2)
            row |= {"logps/chosen": chosen.mean().item(), "logps/rejected": rejected.mean().item()}
        rows.append(row)
    return rows


def make(out):
    torch.set_default_dtype(torch.float64)
    (out / "model").mkdir(exist_ok=True)
    fast = tokenizer(out / "model")
    config = LlamaConfig(vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1,
                         eos_token_id=2, pad_token_id=None, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    randomise(model, 5)
    model.half().save_pretrained(out / "model")
    write_json(out / "templates.json", templates(fast))

    chats = [{"chosen": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}],
              "rejected": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["rejected"]}]}
             for row in PAIRS]
    marked = [{"prompt": row["prompt"], "completion": row["chosen" if mark else "rejected"], "label": mark}
              for row in PAIRS for mark in [True, False]]
    margins = [row | {"margin": margin} for row, margin in zip(PAIRS, MARGINS)]
    for name, rows in [("pairs", PAIRS), ("chats", chats), ("tooled", TOOLED), ("marked", marked), ("margins", margins), ("sampled", SAMPLED)]:
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rows in [("pairs", [row | {"chosen_score": 1.5, "rejected_score": 0.5} for row in PAIRS]), ("chats", chats)]:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out / f"{name}.parquet")
    broken = [PAIRS[0] | {"chosen_score": float("nan"), "rejected_score": 1.0}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(broken), out / "broken.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GAMES), out / "games.parquet")
    side = lambda key: [plain(fast, row["prompt"], row[key]) for row in PAIRS]
    pairs = side("chosen") + side("rejected")
    chat_pairs = [chat(fast, row[key][:1], row[key][1:]) for key in ["chosen", "rejected"] for row in chats]
    marks = [plain(fast, row["prompt"], row["completion"]) for row in marked]
    samples = [plain(fast, row["prompt"], answer) for row in SAMPLED for answer in row["responses"]]
    runs = {kind: pairs for kind in ["ipo", "simpo", "orpo", "tdpo2", "margins"]} | {"dpo": chat_pairs, "sft": side("chosen"),
                                                                            "kto": marks, "brain": samples}
    curves = {kind: curve(kind, sequences, out) for kind, sequences in runs.items()}
    parsed = lambda tools: json.loads(tools) if isinstance(tools, str) else tools
    variables = lambda row: {"tools": parsed(row["tools"]) or None} | (row.get("chat_template_kwargs") or {})
    tooled = [chat(fast, row["prompt"], row[key], **variables(row)) for key in ["chosen", "rejected"] for row in TOOLED]
    write_json(out / "curves.json", {"pairs": pairs, "chats": chat_pairs, "tooled": tooled, "curves": curves})
    torch.set_default_dtype(torch.float32)
