//! Inputs that people have met, run as their `cmd` says: the folder `cases` of the shared data, each with its exit code and
//! the words that it must say.
//!
//! A row is `(case, exit code, words on stdout or stderr, words on neither)`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::command::{Folder, Ran};
use crate::support::{golden, shared};

type Case = (
    &'static str,
    i32,
    &'static [&'static str],
    &'static [&'static str],
);

/// What no command may ever say.
const NEVER: [&str; 3] = ["internal error", "panicked", "frame #"];

/// Links everything in `from` into `folder`.
fn link_all(from: &Path, folder: &Folder) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = folder.path(entry.file_name().to_str().unwrap());
        if !to.exists() {
            symlink(entry.path(), to).unwrap();
        }
    }
}

/// Flags whose values are written with spaces and without quotes.
const IN_WORDS: [&str; 2] = ["--prompt", "--judge"];

/// The arguments of a `cmd`: what follows the program's name up to a remark; a prompt or a command is one argument.
fn arguments(cmd: &str) -> Vec<String> {
    let cmd = cmd.split("   #").next().unwrap_or_default();
    let words = cmd
        .split_whitespace()
        .skip_while(|word| *word != "preftune");
    let mut arguments: Vec<String> = Vec::new();
    let mut in_words = false;
    for word in words.skip(1) {
        let is_flag = word.starts_with("--");
        match arguments.last_mut() {
            Some(value) if in_words && !is_flag && !value.starts_with("--") => {
                value.push(' ');
                value.push_str(word);
            }
            _ => arguments.push(word.to_owned()),
        }
        in_words = in_words && !is_flag || IN_WORDS.contains(&word);
    }
    arguments
}

/// The stand-ins of what commands name beside the cases: the project's own files, tiny models, a few photos.
fn link_others(folder: &Folder) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["configs", "assets"] {
        symlink(own.join(name), folder.path(name)).unwrap();
    }
    fs::create_dir(folder.path("00-base")).unwrap();
    for (name, model) in [("sd15", "diffusion/sd1"), ("clip", "encoders/clip")] {
        symlink(golden(model), folder.path(&format!("00-base/{name}"))).unwrap();
    }
    for name in ["60-photos-junk", "runs"] {
        fs::create_dir(folder.path(name)).unwrap();
    }
    for number in 0..3 {
        let photo = crate::tiny_run::photo(number);
        let name = format!("60-photos-junk/{number}.jpg");
        photo.save(folder.path(&name)).unwrap();
    }
}

/// Runs a case of `group`, with more arguments.
fn ran(cases: &Path, group: &str, name: &str, more: &[&str]) -> Ran {
    let folder = Folder::new();
    link_others(&folder);
    // A command may name its group `cases`.
    symlink(cases.join(group), folder.path("cases")).unwrap();
    link_all(cases, &folder);
    link_all(&cases.join(group), &folder);
    let cmd = fs::read_to_string(cases.join(group).join(name).join("cmd")).unwrap();
    let arguments = arguments(&cmd);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    folder.binary(&[&arguments, more].concat())
}

/// Flags that make a case quick: what is sampled of a tiny model is noise, however many steps it takes.
fn quick(name: &str) -> &'static [&'static str] {
    let trains = ["68-photos-aspect", "85-class-images-folder"].contains(&name);
    if trains {
        return &[
            "--set",
            "sampler.steps=1",
            "--set",
            "negatives.per_prompt=1",
            "--set",
            "validation.every=0",
            "--set",
            "validation.patience=0",
        ];
    }
    &[]
}

/// Runs all cases of a group, each of which is in its table.
#[track_caller]
fn check(group: &str, table: &[Case]) {
    let Some(cases) = shared("cases") else {
        return;
    };
    for entry in fs::read_dir(cases.join(group)).unwrap() {
        let name = entry.unwrap().file_name();
        let known = table.iter().any(|(known, ..)| name == *known);
        assert!(known, "{group}/{}: is run by no test", name.display());
    }
    let mut wrong = Vec::new();
    for (name, code, words, never) in table {
        let ran = ran(&cases, group, name, quick(name));
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let lacks = words.iter().filter(|word| !said.contains(**word));
        let has = never
            .iter()
            .chain(&NEVER)
            .filter(|word| said.contains(**word));
        let lacks: Vec<_> = lacks.collect();
        let has: Vec<_> = has.collect();
        if ran.code != *code || !lacks.is_empty() || !has.is_empty() {
            wrong.push(format!(
                "{group}/{name}: code {} for {code}, lacks {lacks:?}, says {has:?}:\n{said}",
                ran.code
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn texts_of_all_layouts_are_read_or_refused_for_what_they_are() {
    check(
        "texts",
        &[
            (
                "01-hh-no-prompt-prefix",
                0,
                &[
                    "Assistant:\"",
                    "reward 1: \" Yes you should.",
                    "reward 0: \" Yes<",
                ],
                &["left out"],
            ),
            (
                "02-hh-identical",
                2,
                &[
                    "reward 1: \" Hello",
                    "1 row: the chosen and the rejected answer are identical (`02-hh-identical/data.jsonl`, line 1)",
                    "1 of 2 rows cannot be used",
                ],
                &[],
            ),
            (
                "05-h4-empty-rejected",
                2,
                &[
                    "3 of 4 rows cannot be used",
                    "1 row: the rejected answer is empty",
                    "1 row: the chosen and the rejected answer are identical",
                    "1 row: the chosen answer is empty",
                    "training: 1 examples",
                ],
                &[],
            ),
            (
                "07-openai-preference",
                0,
                &[
                    "user\\nWhy?",
                    "reward 1: \"Because",
                    "reward 0: \"No",
                    "`parallel_tool_calls`",
                ],
                &[],
            ),
            (
                "10-sharegpt-function-call",
                0,
                &["user\\nAdd", "add", "tool\\n3", "reward 1: \"Three"],
                &[],
            ),
            (
                "12-kto-llamafactory",
                0,
                &["user\\nHi", "reward 1: \"Hello"],
                &["not used"],
            ),
            (
                "13-kto-float-label",
                0,
                &["reward 1: \" Hello", "reward 0: \" Go"],
                &[],
            ),
            (
                "17-helpsteer3",
                0,
                &[
                    "user\\nWhy?",
                    "reward 1: \"Because",
                    "reward 0: \"No",
                    "not used: `domain`, `language`",
                ],
                &[],
            ),
            (
                "19-content-parts",
                0,
                &["user\\nWhy?", "reward 1: \"Because"],
                &[],
            ),
            (
                "20-null-toolcalls-empty",
                2,
                &["line 1: the rejected answer is empty"],
                &[],
            ),
            (
                "24-json-array-bom",
                0,
                &[
                    "Why is the sky blue?",
                    "reward 1: \" Because of Rayleigh scattering.",
                ],
                &[],
            ),
            (
                "40-argilla-7k",
                0,
                &[
                    "Why?",
                    "reward 1: \"Because",
                    "not used: `chosen_model`, `source`",
                ],
                &[],
            ),
            (
                "41-argilla-dash-rating",
                0,
                &["user\\nWhy?", "reward 1: \"Because", "not used: `source`"],
                &[],
            ),
            (
                "44-chosen-role-user",
                2,
                &[
                    "line 1: the rejected answer ends with a message of \"user\", not of the assistant",
                ],
                &[],
            ),
            (
                "47-csv",
                0,
                &["Hi", "reward 1: \"Hello", "reward 0: \"Go"],
                &[],
            ),
            (
                "48-dir-of-parquet",
                0,
                &["training: 2 examples", "2 rows of 2 files"],
                &[],
            ),
            (
                "512-parquet-empty-answer",
                2,
                &[
                    "the rejected answer is empty",
                    "row 2",
                    "1 of 2 rows cannot be used",
                ],
                &[],
            ),
            (
                "552-llamafactory-history",
                0,
                &[
                    "What colour is the sky?",
                    "Blue.",
                    "And why?",
                    "reward 1: \"Rayleigh",
                ],
                &["not used"],
            ),
            (
                "554-prompt-repeated",
                0,
                &["Be nice", "reward 1: \"Hello", "reward 0: \"Go"],
                &["reward 1: \"user"],
            ),
            (
                "556-messages-pairs",
                0,
                &["user\\nHi", "reward 1: \"Hello", "reward 0: \"Go"],
                &["prompt, 0 tokens"],
            ),
            (
                "27-pre-rendered-double-bos",
                0,
                &[
                    "16 tokens, not scored: \"<|begin_of_text|><|start_header_id|>user",
                    "they have the marks of the model's chat template already",
                ],
                &["<|begin_of_text|><|begin_of_text|>"],
            ),
            (
                "401-gpt2-original-no-eos",
                0,
                &[
                    "reward 1: \" Because of Rayleigh scattering.<|endoftext|>",
                    "reward 0: \" I can't help with that.<|endoftext|>",
                ],
                &[],
            ),
            (
                "408-gpt2-positions-train",
                2,
                &["line 1: has 122 tokens, but the model reads at most 64"],
                &[],
            ),
            ("447-gguf-Q5_0", 0, &["generate: 1/1"], &["does not read"]),
            (
                "456-gguf-split-00001-of-00002",
                0,
                &["generate: 1/1"],
                &["missing"],
            ),
            (
                "501-kto-one-side",
                2,
                &["0 answers to learn from are marked desirable, 12 undesirable"],
                &[],
            ),
            (
                "537-adapter-as-base",
                2,
                &[
                    "is a LoRA adapter of PEFT, made for `m/chatml`",
                    "preftune export ad/plain --out MODEL",
                ],
                &["No such file"],
            ),
            (
                "540-simpo-gamma",
                2,
                &["gamma_beta_ratio", "`gamma` divided by `beta`"],
                &[],
            ),
            (
                "551-margin-column",
                0,
                &[
                    "2 pairs bring a `margin`, on average 4.000",
                    "leave the column out for `dpo` without",
                ],
                &[],
            ),
            (
                "559-sft-multi-turn",
                0,
                &[
                    "reward 1: \"d<|im_end|>",
                    "only the assistant's last turn is learnt from; `data.train_on = \"all\"` takes all",
                ],
                &[],
            ),
            (
                "573-plain-train",
                0,
                &["2 prompts in words go through the model's chat template"],
                &[],
            ),
            (
                "601-template-min1",
                0,
                &[
                    "user:Why is the sky blue?",
                    "assistant:Because of Rayleigh scattering.",
                    "assistant:I can't help with that.",
                ],
                &["undefined"],
            ),
            (
                "603-template-min3",
                0,
                &[
                    "user:Why is the sky blue?",
                    "reward 1: \"Because of Rayleigh scattering.",
                    "reward 0: \"I can't help with that.",
                ],
                &["length of value"],
            ),
        ],
    );
}

#[test]
fn rankings_of_all_layouts_are_read_and_how_is_said() {
    const THREE: [&str; 4] = [
        "gpt-4      1     0.691  1120",
        "vicuna     2     0.000  1000",
        "llama      3    -0.691   880",
        "rows: 2 `model_a` won, 2 `model_b` won, 2 ties",
    ];
    check(
        "ranking",
        &[
            ("103-arena-parquet", 0, &THREE, &[]),
            ("104-kaggle-onehot", 0, &THREE, &[]),
            ("105-semicolon", 0, &THREE, &[]),
            (
                "108-alpacaeval",
                0,
                &[
                    "mine     1",
                    "`preference` is the number of the winner, from 1",
                    "1 `generator_1` won, 2 `generator_2` won",
                ],
                &[],
            ),
            (
                "110-score-index-01",
                2,
                &[
                    "column `outcome` holds numbers (`0` in 2, `1` in 2), and nothing says which item they mean",
                    "`--winner-is score` (1: `model_a` won, 0: `model_b`), `--winner-is index` (0: `model_a` won",
                ],
                &["rank  strength"],
            ),
            (
                "111-names-a-b",
                0,
                &[
                    "A        1",
                    "`winner` is the winner's name; rows: 1 `left` won, 2 `right` won",
                ],
                &[],
            ),
            (
                "115-all-ties",
                0,
                &["warning: every comparison is a tie: all items come out equal"],
                &[],
            ),
            (
                "116-single-model-self",
                2,
                &["1 of 3 rows cannot be used", "`x` is compared with itself"],
                &[],
            ),
            (
                "120-arena-hard",
                0,
                &[
                    "x        1     1.235",
                    "`A>>B`: `model_a` won as 3 games (1), `A>B`: `model_a` won (1), `A=B`: tie (1)",
                ],
                &[],
            ),
            (
                "580-judge-always-first",
                2,
                &[
                    "every comparison is a tie",
                    "the judge's answer turned with the order, and the item that was shown first won 100.0 %",
                    "the judge goes by the place and not by the items",
                ],
                &[],
            ),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn images_of_all_layouts_are_read_or_refused_for_what_they_are() {
    check(
        "images",
        &[
            ("29-a1111-png", 0, &["00001-1.png", "reward_0.5"], &[]),
            (
                "30b-comfyui-png",
                0,
                &["prompt: a dog number 1", "6 images under 3 prompts"],
                &["class_type"],
            ),
            (
                "41-pickapic-null-label",
                0,
                &[
                    "training: 5 pairs; held out: 1",
                    "1 row: no label says which image is better",
                ],
                &[],
            ),
            (
                "42-pickapic-minus-one",
                0,
                &[
                    "training: 5 pairs; held out: 1",
                    "1 row: no label says which image is better",
                ],
                &[],
            ),
            (
                "43-pickapic-identical-images",
                0,
                &[
                    "training: 5 pairs; held out: 1",
                    "1 row: its images are not different",
                ],
                &[],
            ),
            (
                "44-pickapic-null-jpg",
                2,
                &[
                    "row 7: no image under `jpg_1`",
                    "1 of 7 rows cannot be used",
                ],
                &[],
            ),
            (
                "48-pickapic-has-label-false-zero",
                0,
                &[
                    "training: 5 pairs; held out: 1",
                    "1 row: no label says which image is better",
                ],
                &[],
            ),
            (
                "50-hub-chosen-rejected-images",
                0,
                &["training: ", "`chosen_model`, `rejected_model`"],
                &[],
            ),
            (
                "51-imagefolder-two-images",
                0,
                &[
                    "prompt: p 1\n  chosen: 51-imagefolder-two-images/1_w.jpg\n  rejected: 51-imagefolder-two-images/1_l.jpg",
                    "8 images under 4 prompts",
                ],
                &["left out"],
            ),
            (
                "52-hpd-json",
                0,
                &[
                    "prompt: p 2\n  chosen: 52-hpd-json/2b.jpg\n  rejected: 52-hpd-json/2a.jpg",
                    "8 images under 4 prompts",
                ],
                &["left out"],
            ),
            (
                "53-side-by-side-junk",
                0,
                &[
                    "prompt: caption 1",
                    "chosen: 53-side-by-side-junk/chosen/IMG_1.JPG",
                    "rejected: 53-side-by-side-junk/rejected/IMG_1.png",
                    "training: 3 pairs; held out: 1; 8 images under 4 prompts",
                ],
                &["._IMG"],
            ),
            (
                "58-csv",
                0,
                &[
                    "prompt: x\n  chosen: 58-csv/2.jpg\n  rejected: 58-csv/3.jpg",
                    "4 images under 2 prompts",
                ],
                &["left out"],
            ),
            (
                "68-photos-aspect",
                0,
                &[
                    "data: 4 photos of `68-photos-aspect`",
                    "2 of 4 photos lose more than half of their area",
                    "`68-photos-aspect/tiny.png` (1 pixels)",
                    "1 of 4 photos are almost one colour",
                ],
                &[],
            ),
            (
                "80-generate-placeholders",
                2,
                &[
                    "`a {token} {class} on the moon` has a placeholder",
                    "write the words instead",
                ],
                &[],
            ),
            (
                "84-split-by-pair-leaks",
                0,
                &[
                    "training: 20 pairs; held out: 4",
                    "none of the 4 held-out pairs has a prompt or an image of the training pairs",
                ],
                &[],
            ),
            (
                "85-class-images-folder",
                0,
                &[
                    "negatives: 2 images of `85-class-images-folder/class`",
                    "2 of them do not say their prompt, and are learnt under `a photo of a dog`",
                ],
                &[],
            ),
        ],
    );
}

#[test]
fn damaged_parquet_is_named() {
    let Some(cases) = shared("cases") else {
        return;
    };
    for case in ["in-parquet-001", "in-parquet-002", "in-parquet-003"] {
        let folder = Folder::new();
        link_all(&cases.join("hostile").join(case), &folder);
        let base = crate::support::golden("text/model");
        let base = format!("model.base={}", base.display());
        let ran = folder.binary(&["inspect", "t.toml", "--set", &base]);
        ran.refused("`data.parquet`");
    }
}
