//! Which keys exist: read off the serialised defaults, so that the structs are the only list.

use serde::Serialize;
use serde_json::Value as Json;
use toml::{Table, Value};

/// Names that other tools use for our keys, the first of which that a kind of run has is meant: spelling does not help here.
const ELSEWHERE: &[(&[&str], &[&str])] = &[
    (
        &[
            "pretrained_model_name_or_path",
            "model_name_or_path",
            "model_name",
            "base_model",
            "pretrained_model",
        ],
        &["model.base"],
    ),
    (
        &["pretrained_vae_model_name_or_path", "vae_path"],
        &["model.vae"],
    ),
    (
        &["instance_data_dir", "train_data_dir"],
        &["subject.photos", "data.train", "data.images"],
    ),
    (&["instance_prompt"], &["subject.prompt"]),
    (&["class_prompt"], &["subject.class"]),
    (&["class_data_dir", "reg_data_dir"], &["negatives.folder"]),
    (&["num_class_images"], &["negatives.per_prompt"]),
    (&["prior_loss_weight"], &["objective.prior_weight"]),
    (&["with_prior_preservation"], &["objective.prior_weight"]),
    (&["output_dir"], &["run.output"]),
    (
        &[
            "bf16",
            "fp16",
            "dtype",
            "torch_dtype",
            "mixed_precision",
            "save_precision",
        ],
        &["run.precision"],
    ),
    (
        &["lr", "unet_lr", "learning_rates"],
        &["train.learning_rate"],
    ),
    (
        &[
            "per_device_train_batch_size",
            "train_batch_size",
            "batch_size",
            "micro_batch_size",
            "micro_train_batch_size",
        ],
        &["train.batch"],
    ),
    (
        &[
            "gradient_accumulation_steps",
            "grad_accum",
            "grad_accumulation",
            "accumulate_grad_batches",
        ],
        &["train.accumulation"],
    ),
    (
        &["gradient_checkpointing", "activation_checkpointing"],
        &["train.checkpoint_activations"],
    ),
    (
        &[
            "max_grad_norm",
            "gradient_clipping",
            "clip_grad_norm",
            "grad_clip",
        ],
        &["train.clip_norm"],
    ),
    (
        &["lr_scheduler", "lr_scheduler_type", "scheduler_type"],
        &["train.schedule"],
    ),
    (
        &[
            "lr_warmup_steps",
            "warmup_steps",
            "warmup_ratio",
            "num_warmup_steps",
        ],
        &["train.warmup"],
    ),
    (&["adam_beta1", "beta1", "adam_beta_1"], &["train.beta_1"]),
    (&["adam_beta2", "beta2", "adam_beta_2"], &["train.beta_2"]),
    (&["adam_epsilon", "eps", "adam_eps"], &["train.epsilon"]),
    (&["adam_weight_decay"], &["train.weight_decay"]),
    (
        &[
            "max_train_steps",
            "max_steps",
            "iters",
            "num_steps",
            "total_steps",
        ],
        &["train.steps"],
    ),
    (
        &[
            "num_train_epochs",
            "epochs",
            "num_epochs",
            "max_train_epochs",
            "max_epochs",
        ],
        &["rounds.epochs", "train.steps"],
    ),
    (
        &["logging_steps", "log_every_n_steps"],
        &["train.log_every"],
    ),
    (&["use_ema", "ema_decay"], &["train.ema"]),
    (
        &[
            "checkpointing_steps",
            "save_steps",
            "save_every_n_steps",
            "save_every",
            "save_interval",
        ],
        &["checkpoint.every"],
    ),
    (
        &[
            "checkpoints_total_limit",
            "save_total_limit",
            "save_last_n_steps",
        ],
        &["checkpoint.keep"],
    ),
    (&["validation_prompt"], &["validation.prompts"]),
    (
        &[
            "validation_steps",
            "validation_epochs",
            "eval_steps",
            "eval_every",
            "eval_interval",
            "sample_every_n_steps",
        ],
        &["validation.every"],
    ),
    (
        &["num_validation_images"],
        &["validation.images_per_prompt"],
    ),
    (&["early_stopping_patience"], &["validation.patience"]),
    (
        &["network_dim", "dim", "lora_rank", "lora_r", "lora_dim", "r"],
        &["adapter.rank"],
    ),
    (&["network_alpha", "lora_alpha"], &["adapter.alpha"]),
    (
        &[
            "target_modules",
            "lora_target_modules",
            "lora_target",
            "lora_modules",
        ],
        &["adapter.targets"],
    ),
    (
        &[
            "finetuning_type",
            "use_peft",
            "train_method",
            "network_module",
        ],
        &["adapter.kind"],
    ),
    (
        &[
            "dataset_name",
            "dataset",
            "train_file",
            "data_path",
            "dataset_path",
            "train_dataset",
        ],
        &["data.train", "data.prompts"],
    ),
    (
        &[
            "eval_dataset",
            "validation_file",
            "eval_file",
            "val_dataset",
        ],
        &["data.validation"],
    ),
    (
        &[
            "val_size",
            "test_size",
            "validation_split",
            "val_set_size",
            "validation_split_percentage",
        ],
        &["data.validation_share"],
    ),
    (
        &[
            "max_seq_length",
            "max_seq_len",
            "cutoff_len",
            "model_max_length",
            "sequence_len",
            "max_len",
        ],
        &["data.max_length"],
    ),
    (&["truncation_mode"], &["data.overlong"]),
    (&["group_by_length"], &["data.bucket"]),
    (
        &["template", "chat_template", "apply_chat_template", "raw"],
        &["data.chat"],
    ),
    (
        &[
            "loss_type",
            "pref_loss",
            "rl",
            "loss",
            "rlhf_method",
            "method",
        ],
        &["objective.kind"],
    ),
    (&["loss_weights"], &["objective.weights"]),
    (
        &["rpo_alpha", "dpo_ftx", "pref_ftx", "nll_loss_coef"],
        &["objective.nll_weight"],
    ),
    (&["pref_beta", "dpo_beta", "kto_beta"], &["objective.beta"]),
    (
        &["simpo_gamma", "gamma_beta"],
        &["objective.gamma_beta_ratio"],
    ),
    (&["dpo_label_smoothing"], &["objective.label_smoothing"]),
    (&["kto_chosen_weight"], &["objective.desirable_weight"]),
    (&["kto_rejected_weight"], &["objective.undesirable_weight"]),
    (
        &[
            "ref_model",
            "ref_model_name_or_path",
            "ref_model_path",
            "model_ref",
        ],
        &["reference.model"],
    ),
    (&["precompute_ref_log_probs"], &["reference.mode"]),
    (
        &["num_generations", "num_return_sequences"],
        &["generate.samples"],
    ),
    (
        &["max_new_tokens", "max_completion_length"],
        &["generate.max_tokens"],
    ),
    (&["num_inference_steps", "sample_steps"], &["sampler.steps"]),
    (&["guidance_scale", "cfg_scale"], &["sampler.guidance"]),
];

/// Keys of other tools that nothing here stands for, with what that means.
const NOWHERE: &[(&[&str], &str)] = &[
    (
        &["snr_gamma", "min_snr_gamma"],
        "preftune weighs all timesteps alike: it has no min-SNR weighting",
    ),
    (
        &["noise_offset", "multires_noise_iterations"],
        "preftune trains on plain noise",
    ),
    (
        &["lora_dropout", "network_dropout", "dropout"],
        "preftune's LoRA has no dropout",
    ),
    (
        &[
            "load_in_4bit",
            "load_in_8bit",
            "quantization_bit",
            "bnb_4bit_quant_type",
        ],
        "preftune trains no quantised weights: a GGUF file is \
      read as floats",
    ),
    (
        &["packing", "sample_packing"],
        "preftune packs no texts: `data.bucket` saves padding",
    ),
    (
        &["optim", "optimizer", "optimizer_type"],
        "preftune's optimiser is AdamW",
    ),
    (
        &["report_to", "wandb_project", "log_with"],
        "each run writes metrics.jsonl and TensorBoard's events; `preftune report` makes a page",
    ),
    (&["resume_from_checkpoint"], "`--resume` continues a run"),
    (
        &["text_encoder_lr", "train_text_encoder"],
        "preftune trains no text encoder beside a U-Net",
    ),
    (
        &["max_prompt_length"],
        "a prompt may be as long as `data.max_length` lets it",
    ),
    (
        &["deepspeed", "fsdp", "ddp_backend", "num_gpus"],
        "preftune trains on one device",
    ),
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
            // A section that is empty by default takes any keys: they are names of the user's.
            (Some(Json::Object(inner)), Value::Table(_)) if inner.is_empty() => {}
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

/// The key that was probably meant: another tool's name for it, the same last word elsewhere, or a spelling that is near.
fn nearest(key: &str, path: &str, paths: &[String]) -> String {
    let named = |names: &&[&str]| names.contains(&key.to_lowercase().as_str());
    let elsewhere = || {
        let (_, ours) = ELSEWHERE.iter().find(|(names, _)| named(names))?;
        let there = ours
            .iter()
            .find(|ours| paths.iter().any(|path| path == *ours))?;
        Some((*there).to_owned())
    };
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let moved = || paths.iter().find(|known| last(known) == key).cloned();
    let section = |path: &str| {
        path.rsplit_once('.')
            .map_or("", |(section, _)| section)
            .to_owned()
    };
    let spelled = || {
        let near = paths.iter().filter_map(|known| {
            let word = last(known);
            let distance = strsim::damerau_levenshtein(&word, key);
            // A slip in each four letters; beyond it another word was meant.
            let near = distance
                <= word
                    .len()
                    .max(key.len())
                    .div_ceil(4)
                    .min(key.len().saturating_sub(1));
            near.then(|| (distance, section(known) != section(path), known))
        });
        near.min().map(|(.., known)| known.clone())
    };
    let nowhere = NOWHERE.iter().find(|(names, _)| named(names));
    if let Some((_, sentence)) = nowhere {
        return format!("; {sentence}");
    }
    elsewhere()
        .or_else(moved)
        .or_else(spelled)
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default()
}
