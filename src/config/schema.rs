//! Which keys exist: read off the serialised defaults, so that the structs are the only list.

use serde::Serialize;
use serde_json::Value as Json;
use toml::{Table, Value};

/// Names that other tools use for our keys, so that the hint is right where spelling does not help.
const ELSEWHERE: &[(&str, &str)] = &[
    ("pretrained_model_name_or_path", "model.base"),
    ("instance_data_dir", "subject.photos"),
    ("instance_prompt", "subject.class"),
    ("class_data_dir", "negatives.folder"),
    ("num_class_images", "negatives.per_prompt"),
    ("prior_loss_weight", "objective.prior_weight"),
    ("output_dir", "run.output"),
    ("max_train_steps", "train.steps"),
    ("train_batch_size", "train.batch"),
    ("gradient_accumulation_steps", "train.accumulation"),
    ("gradient_checkpointing", "train.checkpoint_activations"),
    ("max_grad_norm", "train.clip_norm"),
    ("lr_scheduler", "train.schedule"),
    ("lr_warmup_steps", "train.warmup"),
    ("mixed_precision", "run.precision"),
    ("checkpointing_steps", "checkpoint.every"),
    ("checkpoints_total_limit", "checkpoint.keep"),
    ("validation_prompt", "validation.prompts"),
    ("validation_steps", "validation.every"),
    ("network_dim", "adapter.rank"),
    ("network_alpha", "adapter.alpha"),
    ("lora_rank", "adapter.rank"),
    ("lora_alpha", "adapter.alpha"),
    ("model_name_or_path", "model.base"),
    ("dataset_name", "data.train"),
    ("loss_type", "objective.kind"),
    ("loss_weights", "objective.weights"),
    ("pref_loss", "objective.kind"),
    ("per_device_train_batch_size", "train.batch"),
    ("max_steps", "train.steps"),
    ("warmup_steps", "train.warmup"),
    ("lr_scheduler_type", "train.schedule"),
    ("logging_steps", "train.log_every"),
    ("eval_steps", "validation.every"),
    ("save_steps", "checkpoint.every"),
    ("save_total_limit", "checkpoint.keep"),
    ("ref_model", "reference.model"),
    ("target_modules", "adapter.targets"),
];

/// One sentence for every key of `table` that the configuration does not have.
pub(super) fn unknown_keys(table: &Table, defaults: &impl Serialize) -> Vec<String> {
    let known = serde_json::to_value(defaults).expect("the configuration serialises");
    let mut paths = Vec::new();
    collect(&known, "", &mut paths);
    let mut problems = Vec::new();
    walk(table, &known, "", &paths, &mut problems);
    problems
}

fn collect(known: &Json, prefix: &str, paths: &mut Vec<String>) {
    for (key, value) in known.as_object().into_iter().flatten() {
        let path = join(prefix, key);
        collect(value, &path, paths);
        paths.push(path);
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

fn walk(table: &Table, known: &Json, prefix: &str, paths: &[String], problems: &mut Vec<String>) {
    for (key, value) in table {
        let path = join(prefix, key);
        match (known.get(key), value) {
            (None, _) => problems.push(format!(
                "unknown key `{path}`{}",
                nearest(key, &path, paths)
            )),
            (Some(inner @ Json::Object(_)), Value::Table(table)) => {
                walk(table, inner, &path, paths, problems);
            }
            (Some(Json::Object(_)), _) => {
                problems.push(format!("`{path}` is a section, written `[{path}]`"));
            }
            (Some(_), _) => {}
        }
    }
}

/// The key that was probably meant: another tool's name for it, the same last word elsewhere, or the closest spelling.
fn nearest(key: &str, path: &str, paths: &[String]) -> String {
    let elsewhere = ELSEWHERE
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, ours)| (*ours).to_owned());
    let moved = || {
        paths
            .iter()
            .find(|known| known.rsplit('.').next() == Some(key))
            .cloned()
    };
    let spelled = || {
        paths
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, path), known))
            .min()
            .filter(|(distance, known)| *distance * 2 <= known.len())
            .map(|(_, known)| known.clone())
    };
    elsewhere
        .or_else(moved)
        .or_else(spelled)
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default()
}
