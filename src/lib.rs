//! preftune tunes generative models to preferences. The README says what the command line does; this page is for whoever
//! reads or changes the code. [`jobs`] starts runs, rounds, plans and evaluations from Rust: `examples/tune.rs` shows how.
//!
//! # The map
//!
//! A module imports only from rows above its own. `tests/architecture.rs` reads the sources and holds every import there is.
//!
//! | row | module | holds |
//! |---|---|---|
//! | 1 | [`error`] | the error of all modules, with the thing it is about, a hint and an exit code |
//! | 1 | [`installed`] | where libtorch and the files that come with the program lie |
//! | 1 | [`files`] | whole or no files: written beside their place and renamed |
//! | 1 | [`hub`] | models by their names on the Hugging Face hub: its cache on this machine, and `preftune fetch` |
//! | 2 | [`config`] | the structs of a configuration; they are the only list of keys, types and defaults |
//! | 2 | [`ops`] | tensor maths without models: attention, log-probs, seeded noise, resizing, kernels |
//! | 3 | [`distributed`] | several processes that train one model: how they meet, what they add up |
//! | 3 | [`data`] | what goes into a run: photos, prompts, records of images and texts, the small world |
//! | 3 | [`models`] | networks, weights, tokenizers, LoRA formats |
//! | 4 | [`rewards`] | values of images and answers, and what is made of them: labels, transforms |
//! | 4 | [`losses`] | one file for each objective: values in, values out |
//! | 4 | [`ranking`] | comparisons to rankings, on plain numbers |
//! | 5 | [`trainer`] | the loop, the optimiser, and a task for each kind of run; emits events, knows no files |
//! | 5 | [`eval`] | protocols as formulas on features |
//! | 6 | [`run`] | the folder of a run: manifest, metrics, checkpoints, best weights |
//! | 7 | [`report`] | a page on runs, from their files alone |
//! | 7 | [`jobs`] | from a configuration to its result: one way through every run; prints nothing, tells a display |
//! | 8 | [`cli`] | clap types, a file or folder for each verb; the only place that prints |
//!
//! # One run, file by file
//!
//! `preftune train configs/image/quickstart.toml`:
//!
//! 1. `src/launch.rs` is the program `preftune`. It answers `--help` and wrong flags itself, finds libtorch (`src/installed.rs`) and
//!    hands all else to `preftune-torch`, which is `src/main.rs`.
//! 2. `src/cli/train.rs` has `src/cli/configuration.rs` turn flags into overrides and read the configuration. `src/config/mod.rs` says
//!    which kind of run it is, `src/config/subject.rs` has its sections, `src/config/check.rs` its rules.
//! 3. `src/jobs/subject/mod.rs` reads the photos (`src/data/photo.rs`) and is a `Job`. Its way is that of every run, in
//!    `src/jobs/mod.rs`: open the folder, prepare, check that inputs are unchanged, write the manifest, resume, loop, conclude.
//! 4. The preparation opens the model to train (`src/jobs/policy/diffusion.rs`), samples what photos are compared with
//!    (`src/jobs/subject/negatives.rs`), encodes images and prompts (`src/models/encoders`), and makes labels of their rewards
//!    (`src/trainer/subject/prepare.rs`, `src/rewards/harmonic.rs`).
//! 5. `src/trainer/mod.rs` is the loop. Each step asks the task (`src/trainer/subject/mod.rs`, `src/trainer/subject/step.rs`) for
//!    its loss (`src/losses/rpo.rs`), and `src/trainer/optimizer.rs` makes the update. `src/trainer/subject/validate.rs` samples and
//!    scores the held-out prompts.
//! 6. The loop's events go to `src/run/recorder.rs`, which writes metrics, checkpoints and best weights, and on to the display:
//!    `src/cli/progress.rs`.
//! 7. `preftune report` reads the folder (`src/report/read.rs`) and knows nothing of the run itself.
//!
//! # Adding to it
//!
//! Each list is counted on something that is there. Tests come on top: a golden file by Python (`tests/golden`) for numbers, a run
//! of the binary (`tests/command.rs`) for what a user meets.
//!
//! **An objective of pairs or lists** without a number of its own takes three files, as `ipo` would, whose tau others share:
//! `src/losses/ipo.rs` (new), `src/losses/mod.rs`, and a row in `src/losses/objectives.rs` with its columns and defaults. The verbs
//! `loss`, `train`, `rounds` and `inspect` find it there. A number of its own, as `gamma_beta_ratio` is, takes four more: its name in
//! `src/losses/numbers.rs`, its key in `src/config/text.rs`, the way from key to number in `src/trainer/objective.rs`, its flag in
//! `src/cli/loss/mod.rs`.
//!
//! **A family of language models** takes four, as Qwen3 did: `src/models/lm/config.rs` (its name and its `config.json`),
//! `src/models/lm/attention.rs` or `src/models/lm/block.rs` (what differs), `src/models/lm/cost.rs` (its parameters, for `plan`),
//! `src/models/lm/gguf.rs` (its name in GGUF files). `src/cli/doctor.rs` and `src/models/recognize/mod.rs` list the families for users.
//!
//! **An encoder of images** takes three, as DINOv3 did: `src/models/dino/v3.rs` (new), `src/models/dino/mod.rs`,
//! `src/models/encoders/images.rs`; one of images and texts `src/models/encoders/mod.rs` instead, as SigLIP did. `src/cli/doctor.rs` and
//! `src/models/recognize/mod.rs` list them for users.
//!
//! **A reward of texts** takes three, as `sentiment` did: `src/rewards/sentiment.rs` (new), `src/rewards/mod.rs`,
//! `src/jobs/judge/texts.rs`, from which `score`, `label`, rounds and judges of rankings have it.
//!
//! **A reward of images** takes three: `src/jobs/judge/images.rs` implements the trait of `src/rewards/image.rs` (a score for each image,
//! its name, the hash of its weights), `src/config/image_rounds.rs` has its kind and keys, and `src/jobs/rounds/images/reward.rs` opens it.
//!
//! **A verb** takes two, as `report` did: `src/cli/report.rs` (new) and `src/cli/mod.rs`. What it computes belongs into a row above.
//! The README's table of verbs must name it, or `tests/python/readme.py` fails, and `PREFTUNE_WRITE=1 cargo test help_of` writes its help
//! down.
//!
//! **A protocol of `eval`** takes two new files and touches two, as `perplexity` does: `src/jobs/eval/perplexity.rs` (settings,
//! computation, figures), `src/cli/eval/perplexity.rs` (flags, table); `src/jobs/eval/mod.rs`, `src/cli/eval/mod.rs`.
//!
//! **A kind of run** takes five new files and touches six, as pairs of images did: `src/config/pairs.rs`,
//! `src/trainer/pairs/mod.rs`, `src/trainer/pairs/latents.rs`, `src/jobs/pairs/mod.rs`, `src/jobs/pairs/data.rs`; and
//! `src/config/mod.rs`, `src/config/json_schema.rs`, `src/trainer/mod.rs`, `src/jobs/mod.rs`, `src/jobs/check.rs`, `src/cli/train.rs`.
//! `generate` takes `src/jobs/open/image.rs` or `src/jobs/open/text.rs`, `plan` and `inspect` two files each, `export` one, where they are
//! to know it.
//!
//! **A key of a configuration** takes two: its struct in `src/config` with a doc comment, and the place where it acts.
//! `PREFTUNE_WRITE=1 cargo test keys_table` then writes the table of keys anew.

pub mod cli;
pub mod config;
pub mod data;
pub mod distributed;
pub mod error;
pub mod eval;
pub mod files;
pub mod hub;
pub mod installed;
pub mod jobs;
pub mod losses;
pub mod models;
pub mod ops;
pub mod ranking;
pub mod report;
pub mod rewards;
pub mod run;
pub mod trainer;

pub use error::{Error, Result};
