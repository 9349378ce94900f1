//! `preftune train` and `preftune generate` through the binary: what a run leaves, what it counts, what must not
//! make a difference.

use std::fs;

use image::GenericImageView as _;
use preftune::data::png;

use crate::support::{assert_close, golden, shared};
use crate::tiny_run::{
    NEGATIVES, PHOTOS, SAMPLER_STEPS, STEPS, VALIDATION_IMAGES, VALIDATIONS, World, contents, photo,
};

const LORA: &str = "pytorch_lora_weights.safetensors";

#[test]
fn a_run_leaves_everything_that_its_folder_promises() {
    let world = World::new();
    let outcome = world.train(&[]).succeeded();
    assert!(
        outcome.stdout.contains("best weights: run/best"),
        "{outcome:?}"
    );

    let files = world.files("run");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let mut expected: Vec<String> = [".lock", "config.toml", "manifest.json", "metrics.jsonl"]
        .map(str::to_owned)
        .to_vec();
    expected.push(format!("best/{LORA}"));
    for step in [4, 6] {
        for file in [
            "weights.safetensors",
            "optimizer.safetensors",
            "progress.json",
        ] {
            expected.push(format!("checkpoints/step-{step:06}/{file}"));
        }
    }
    expected.extend((0..NEGATIVES).map(|image| format!("negatives/{image:04}.png")));
    for step in (0..=STEPS).step_by(2) {
        expected.extend(
            (0..VALIDATION_IMAGES).map(|image| format!("samples/step-{step:06}/{image:03}.png")),
        );
    }
    for name in &expected {
        assert!(
            names.contains(&name.as_str()),
            "{name} is missing: {names:?}"
        );
    }
    let others: Vec<_> = names
        .iter()
        .filter(|name| !expected.iter().any(|known| known == *name))
        .collect();
    assert!(
        matches!(others[..], [name] if name.starts_with("events.out.tfevents.")),
        "{others:?}"
    );

    let image = world.path("run/samples/step-000000/001.png");
    assert_eq!(image::open(&image).unwrap().dimensions(), (16, 16));
    let prompt = png::read_text(&image, "prompt").unwrap();
    assert_eq!(prompt.as_deref(), Some("a blue [V] dog"));

    let manifest = world.manifest("run");
    assert_eq!(manifest["status"], "finished");
    assert_eq!(manifest["steps"], STEPS);
    assert_eq!(manifest["labels"]["pairs"], PHOTOS * NEGATIVES);
    assert_eq!(manifest["rank"], 4);
    let rewards = world.figures("run", "validation", "reward");
    assert_eq!(rewards.len() as u64, VALIDATIONS);
    assert_eq!(manifest["untuned_reward"], rewards[0]);
    let best = rewards.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(manifest["best"][1], best);

    world.generate("run", &[]).succeeded();
    let written = world.files("out");
    let names: Vec<&String> = written.keys().collect();
    assert_eq!(names, ["00000.png", "00001.png", "metadata.jsonl"]);
    // What the run was made from can be given to `check` and to `train` again.
    world.run(&["check", "run/config.toml"]).succeeded();
}

#[test]
fn every_image_is_encoded_once_and_the_forwards_are_those_counted_by_hand() {
    let world = World::new();
    world.train(&[]).succeeded();
    let counts = &world.manifest("run")["counts"];
    let validated = VALIDATIONS * VALIDATION_IMAGES;
    assert_eq!(
        counts["reward_image_encodes"],
        PHOTOS + NEGATIVES + validated
    );
    assert_eq!(counts["vae_encodes"], PHOTOS + NEGATIVES);
    // Two training prompts and two validation prompts.
    assert_eq!(counts["reward_text_encodes"], 4);
    // With and without the prompt.
    let sampled = NEGATIVES + validated;
    assert_eq!(
        counts["unet_forwards_sampling"],
        sampled * SAMPLER_STEPS * 2
    );
    // A photo and a generated image, through the policy and the base.
    assert_eq!(counts["unet_forwards_training"], STEPS * 2 * 2);
}

#[test]
fn with_a_bank_of_draws_the_base_sees_each_image_and_draw_once() {
    let world = World::new();
    let sets = ["validation.every=0", "validation.patience=0"];
    let one = [&sets[..], &["objective.noise_bank=1"]].concat();
    world.train(&one).succeeded();
    let counts = &world.manifest("run")["counts"];
    assert_eq!(
        counts["unet_forwards_training"],
        STEPS * 2 + PHOTOS + NEGATIVES
    );
    let margins = world.figures("run", "train", "margin");
    assert!(margins[0].abs() < 1e-6, "{}", margins[0]);
    let plan = world
        .run(&["plan", "run/config.toml", "--memory-only", "--json"])
        .succeeded();
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        plan["work"]["unet_forwards_training"],
        counts["unet_forwards_training"]
    );

    // A bank larger than the run uses nothing twice.
    let large = [
        &sets[..],
        &["objective.noise_bank=1000", "run.output=large"],
    ]
    .concat();
    world.train(&large).succeeded();
    let counts = &world.manifest("large")["counts"];
    assert_eq!(counts["unet_forwards_training"], STEPS * 2 * 2);
}

#[test]
fn before_the_first_update_policy_and_base_agree_exactly() {
    let world = World::new();
    for (run, set) in [
        ("lora", vec![]),
        ("full", vec!["adapter.kind=full"]),
        (
            "batch",
            vec!["train.batch=2", "objective.shared_noise=false"],
        ),
    ] {
        let output = format!("run.output={run}");
        let once = ["train.steps=2", "validation.every=0", &output];
        world.train(&[&set[..], &once].concat()).succeeded();
        let margins = world.figures(run, "train", "margin");
        assert!(
            margins[0].abs() < f64::MIN_POSITIVE,
            "{run}: {}",
            margins[0]
        );
        assert!(margins[1] != 0.0, "{run}: the first update changed nothing");
        let preference = world.figures(run, "train", "preference_loss")[0];
        assert!((preference - std::f64::consts::LN_2).abs() < 1e-6, "{run}");
    }
}

#[test]
fn a_lora_run_leaves_the_base_alone_and_trains_every_tensor() {
    let base = golden("diffusion/sd1");
    let before = contents(&base);
    let world = World::new();
    world.train(&[]).succeeded();
    assert!(
        before == contents(&base),
        "a file of the base model has changed"
    );
    assert_eq!(world.files("run/best").len(), 1);
    let lora = world.tensors(&format!("run/best/{LORA}"));
    assert!(lora.names().all(|name| name.contains("lora_")));
    assert!(lora.metadata().contains_key("preftune_step"));
    assert_eq!(world.manifest("run")["adapter"], "lora");

    world
        .train(&["run.output=full", "adapter.kind=full", "validation.every=0"])
        .succeeded();
    for run in ["run", "full"] {
        let moments = world.tensors(&format!(
            "{run}/checkpoints/step-000006/optimizer.safetensors"
        ));
        for name in moments.names() {
            let moment = moments.tensor(name).unwrap().abs().max();
            assert!(
                moment.double_value(&[]) > 0.0,
                "{run}: {name} got no gradient"
            );
        }
    }
    assert!(before == contents(&base));
    // Without validations the last weights are the best.
    let best = world.tensors("full/best/unet/diffusion_pytorch_model.safetensors");
    let last = world.tensors("full/checkpoints/step-000006/weights.safetensors");
    assert_eq!(best.names().count(), last.names().count());
    for name in last.names() {
        assert_eq!(best.tensor(name).unwrap(), last.tensor(name).unwrap());
    }
    world.generate("full", &[]).succeeded();
}

#[test]
fn every_family_trains_and_generates() {
    for (base, adapter) in [
        ("diffusion/sd2", "lora"),
        ("diffusion/sdxl", "lora"),
        ("diffusion/sdxl", "full"),
    ] {
        let world = World::with_base(base);
        let adapter = format!("adapter.kind={adapter}");
        world
            .train(&["train.steps=2", "train.batch=2", &adapter])
            .succeeded();
        let losses = world.figures("run", "train", "loss");
        assert_eq!(losses.len(), 2, "{base}");
        world.generate("run", &[]).succeeded();
        assert_eq!(world.files("out").len(), 3, "{base}");
    }
}

#[test]
fn dreambooth_needs_no_generated_images_and_its_prior_no_rewards() {
    let world = World::new();
    world.train(&["train.steps=2"]).succeeded();
    let dreambooth = ["train.steps=2", "objective.kind=dreambooth"];
    world
        .train(&[&dreambooth[..], &["run.output=plain"]].concat())
        .succeeded();
    assert!(!world.path("plain/negatives").exists());
    world
        .train(
            &[
                &dreambooth[..],
                &["run.output=prior", "objective.prior_weight=0.5"],
            ]
            .concat(),
        )
        .succeeded();
    assert_eq!(world.files("prior/negatives").len() as u64, NEGATIVES);

    let validated = 2 * VALIDATION_IMAGES;
    for (run, generated, rows) in [("plain", 0, 1), ("prior", NEGATIVES, 2)] {
        let manifest = world.manifest(run);
        assert!(manifest["labels"].is_null());
        let counts = &manifest["counts"];
        assert_eq!(counts["reward_image_encodes"], PHOTOS + validated, "{run}");
        assert_eq!(counts["vae_encodes"], PHOTOS + generated, "{run}");
        assert_eq!(counts["unet_forwards_training"], 2 * rows, "{run}");
        world.generate(run, &[]).succeeded();
    }
    // The first step sees the same photo, noise and timestep whatever the objective is.
    let first = |run: &str| world.figures(run, "train", "similarity_loss")[0];
    assert!((first("plain") - first("run")).abs() < 1e-5);
    assert!((first("prior") - first("run")).abs() < 1e-5);
    let loss = |run: &str| world.figures(run, "train", "loss")[0];
    assert!((loss("plain") - first("plain")).abs() < 1e-6);
    assert!(loss("prior") > first("prior") + 0.1);
}

/// The figures of two runs agree to rounding, step by step.
fn assert_same_course(world: &World, left: &str, right: &str) {
    for name in ["loss", "gradient_norm", "margin", "label"] {
        let (left, right) = (
            world.figures(left, "train", name),
            world.figures(right, "train", name),
        );
        assert_eq!(left.len(), right.len());
        for (step, (left, right)) in left.iter().zip(&right).enumerate() {
            assert!(
                (left - right).abs() < 2e-5 * right.abs().max(1.0),
                "step {}: {name} is {left} and {right}",
                step + 1
            );
        }
    }
}

#[test]
fn accumulation_is_a_larger_batch() {
    let world = World::new();
    let common = ["validation.every=0", "objective.labels=sampled"];
    for (run, batch, accumulation) in [("whole", 2, 1), ("parts", 1, 2)] {
        let own = [
            format!("run.output={run}"),
            format!("train.batch={batch}"),
            format!("train.accumulation={accumulation}"),
        ];
        let set: Vec<&str> = common
            .into_iter()
            .chain(own.iter().map(String::as_str))
            .collect();
        world.train(&set).succeeded();
    }
    assert_same_course(&world, "parts", "whole");
}

#[test]
fn recomputed_activations_change_nothing() {
    let world = World::new();
    for adapter in ["lora", "full"] {
        for checkpointed in [false, true] {
            world
                .train(&[
                    "validation.every=0",
                    &format!("adapter.kind={adapter}"),
                    &format!("train.checkpoint_activations={checkpointed}"),
                    &format!("run.output={adapter}-{checkpointed}"),
                ])
                .succeeded();
        }
        assert_same_course(
            &world,
            &format!("{adapter}-true"),
            &format!("{adapter}-false"),
        );
    }
}

#[test]
fn patience_ends_a_run_that_does_not_get_better() {
    let world = World::new();
    // Updates this small leave every image as it is, and an equal reward is not a better one.
    let set = ["train.learning_rate=1e-30", "validation.patience=2"];
    let outcome = world.train(&set).succeeded();
    assert!(outcome.stderr.contains("stopped early after 4 steps"));
    let manifest = world.manifest("run");
    assert_eq!(manifest["status"], "finished");
    assert_eq!(manifest["stopped_early"], true);
    assert_eq!(manifest["steps"], 4);
    assert_eq!(manifest["best"][0], 0);
    let rewards = world.figures("run", "validation", "reward");
    assert_eq!(rewards, vec![rewards[0]; 3]);
}

#[test]
fn what_is_a_gain_for_patience_is_a_setting() {
    let world = World::new();
    // No reward is better by a whole one: patience ends the run, whatever is best.
    let set = ["validation.min_gain=1", "validation.patience=2"];
    let outcome = world.train(&set).succeeded();
    assert!(outcome.stderr.contains("stopped early after 4 steps"));
    assert!(
        outcome.stderr.contains("(no gain: 1 of 2)"),
        "{}",
        outcome.stderr
    );
    let rewards = world.figures("run", "validation", "reward");
    let best = rewards.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(world.manifest("run")["best"][1], best);
    // And where a reward that is a little lower is no loss of patience, an equal one is none either.
    let world = World::new();
    let set = [
        "train.learning_rate=1e-30",
        "validation.min_gain=-0.001",
        "validation.patience=2",
    ];
    world.train(&set).succeeded();
    assert_eq!(world.manifest("run")["stopped_early"], false);
    let set = ["validation.min_gain=nan"];
    world
        .train(&set)
        .failed(2, &["`validation.min_gain` must be a finite number"]);
}

#[test]
fn a_prior_is_learnt_under_the_class_word_alone() {
    let world = World::new();
    let prompts = |run: &str| -> Vec<String> {
        let files = world.files(&format!("{run}/negatives"));
        let prompt = |name: &String| {
            let path = world.path(&format!("{run}/negatives")).join(name);
            png::read_text(&path, "prompt").unwrap().unwrap()
        };
        files.keys().map(prompt).collect()
    };
    let class = [
        "a dog on the moon",
        "a dog on the moon",
        "a green dog",
        "a green dog",
    ];
    let short = ["train.steps=2", "validation.every=0"];
    let train = |run: &str, sets: &[&str]| {
        let output = format!("run.output={run}");
        world.train(&[&short[..], sets, &[output.as_str()]].concat())
    };
    let dreambooth = ["objective.kind=dreambooth", "objective.prior_weight=1"];
    train("prior", &dreambooth).succeeded();
    assert_eq!(prompts("prior"), class);
    // With others, the token is taken out of them too, as a word or as a placeholder.
    world.write("others.txt", "a [V] {class} on a roof\na {token} {class}\n");
    let others = [&dreambooth[..], &["negatives.prior_prompts=others.txt"]].concat();
    train("others", &others).succeeded();
    let given = ["a dog on a roof", "a dog on a roof", "a dog", "a dog"];
    assert_eq!(prompts("others"), given);

    train("token", &[]).succeeded();
    assert!(prompts("token").iter().all(|prompt| prompt.contains("[V]")));
    train("class", &["negatives.token=false"]).succeeded();
    assert_eq!(prompts("class"), class);
    train("both", &["negatives.token=both"]).succeeded();
    let both = prompts("both");
    assert_eq!(both.len(), 8);
    assert!(both[..4].iter().all(|prompt| prompt.contains("[V]")));
    assert_eq!(both[4..], class);
    // RPO with a prior: the same images, the term on top.
    let loss = |run: &str, name: &str| world.figures(run, "train", name)[0];
    train(
        "with",
        &["negatives.token=false", "objective.prior_weight=0.5"],
    )
    .succeeded();
    let expected = loss("class", "loss") + 0.5 * loss("class", "generated_error");
    assert!((loss("with", "loss") - expected).abs() < 1e-5);
    for (sets, words) in [
        (
            &["objective.prior_weight=1"][..],
            "needs `negatives.token = false`",
        ),
        (&["negatives.token=maybe"], "expected true, false or"),
        (
            &["negatives.prior_prompts=others.txt"],
            "`negatives.prior_prompts` belongs to",
        ),
        (
            &["objective.dop_weight=1", "objective.noise_bank=2"],
            "leave `objective.noise_bank` out",
        ),
        (
            &[
                "validation.reward=specific",
                "validation.prompts=[\"a {class}\"]",
            ],
            "no validation prompt has it",
        ),
        (
            &["validation.reward=specific", "validation.specificity=false"],
            "needs `validation.specificity = true`",
        ),
    ] {
        train("refused", sets).failed(2, &[words]);
    }
}

#[test]
fn output_preservation_holds_the_class_word_to_the_base_model() {
    let world = World::new();
    for (run, sets) in [
        ("rpo", vec![]),
        ("dreambooth", vec!["objective.kind=dreambooth"]),
        (
            "full",
            vec!["objective.kind=dreambooth", "adapter.kind=full"],
        ),
    ] {
        let output = format!("run.output={run}");
        let own = [
            "objective.dop_weight=2",
            "train.learning_rate=1e-2",
            "validation.every=0",
            &output,
        ];
        world.train(&[&sets[..], &own].concat()).succeeded();
        let errors = world.figures(run, "train", "preservation_error");
        assert!(errors[0] < 1e-9, "{run}: {}", errors[0]);
        assert!(errors[1] > errors[0], "{run}: the prediction has not moved");
        // What it adds to the loss is that error.
        let plain = format!("run.output={run}_plain");
        world
            .train(
                &[
                    &sets[..],
                    &["train.learning_rate=1e-2", "validation.every=0", &plain],
                ]
                .concat(),
            )
            .succeeded();
        let first = |run: &str| world.figures(run, "train", "loss")[0];
        assert!(
            (first(run) - first(&format!("{run}_plain"))).abs() < 1e-6,
            "{run}"
        );
        let plan = world
            .run(&[
                "plan",
                &format!("{run}/config.toml"),
                "--memory-only",
                "--json",
            ])
            .succeeded();
        let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
        let counts = &world.manifest(run)["counts"];
        assert_eq!(
            plan["work"]["unet_forwards_training"], counts["unet_forwards_training"],
            "{run}"
        );
    }
}

#[test]
fn min_snr_and_a_noise_offset_change_the_errors_and_nothing_else() {
    let world = World::new();
    let first = |run: &str, name: &str| world.figures(run, "train", name)[0];
    let short = [
        "train.steps=2",
        "validation.every=0",
        "objective.kind=dreambooth",
    ];
    for (run, set) in [
        ("plain", "objective.min_snr=0"),
        ("huge", "objective.min_snr=1e30"),
        ("weighted", "objective.min_snr=5"),
        ("offset", "objective.noise_offset=0.1"),
    ] {
        let output = format!("run.output={run}");
        world
            .train(&[&short[..], &[set, &output]].concat())
            .succeeded();
    }
    // Above every ratio all timesteps of a model of the noise weigh alike.
    assert!((first("plain", "loss") - first("huge", "loss")).abs() < 1e-6);
    assert!(
        (first("plain", "similarity_loss") - first("weighted", "similarity_loss")).abs() < 1e-6
    );
    assert!(first("weighted", "loss") <= first("plain", "loss"));
    assert!((first("plain", "similarity_loss") - first("offset", "similarity_loss")).abs() > 1e-6);
}

#[test]
fn validations_tell_the_subject_from_its_class() {
    let world = World::new();
    world.train(&[]).succeeded();
    let figures = |name: &str| world.figures("run", "validation", name);
    assert!((figures("class_kept")[0] - 1.0).abs() < 1e-12);
    assert!(figures("class_drift")[0].abs() < 1e-6);
    let (pres, kept) = (figures("pres"), figures("class_kept"));
    for (now, kept) in pres.iter().zip(&kept) {
        let expected = (1.0 - (now - pres[0]) / (1.0 - pres[0])).clamp(0.0, 1.0);
        assert!((kept - expected).abs() < 1e-12);
    }
    // The image of the class word is of the same noise as that with the token.
    let chunk = |image: u64, key: &str| {
        let path = world.path(&format!("run/samples/step-000002/{image:03}.png"));
        png::read_text(&path, key).unwrap().unwrap()
    };
    assert_eq!(chunk(3, "prompt"), "a blue dog");
    assert_eq!(chunk(3, "seed"), chunk(1, "seed"));

    // The specific reward is of the same images.
    world
        .train(&["run.output=specific", "validation.reward=specific"])
        .succeeded();
    let specific = world.figures("specific", "validation", "reward");
    assert_eq!(world.figures("specific", "validation", "class_kept"), kept);
    // A mean of harmonic means is close to the one of means.
    let means = figures("reward_0.5").into_iter().zip(&kept);
    for (specific, (harmonic, kept)) in specific.iter().zip(means) {
        let of_means = 1.0 / (2.0 / 3.0 / harmonic + 1.0 / 3.0 / kept);
        assert!((specific - of_means).abs() < 2e-2, "{specific} {of_means}");
    }
    world
        .train(&["run.output=off", "validation.specificity=false"])
        .succeeded();
    assert!(!world.read("off/metrics.jsonl").contains("pres"));
    assert_eq!(
        world.figures("off", "validation", "reward"),
        figures("reward")
    );
}

#[test]
fn small_gains_add_up_until_they_count() {
    use preftune::trainer::early_stopping::{EarlyStopping, GainRule};
    let least = GainRule {
        least: 0.01,
        standard_errors: 0.0,
    };
    let mut stopping = EarlyStopping::default();
    let since: Vec<(bool, u64)> = [0.5, 0.504, 0.508, 0.512, 0.511, 0.52]
        .into_iter()
        .enumerate()
        .map(|(step, reward)| {
            (
                stopping.update(step as u64, reward, &[], least),
                stopping.since,
            )
        })
        .collect();
    // The best moves with every better reward; a gain is measured from the last gain.
    assert_eq!(
        since,
        [
            (true, 0),
            (true, 1),
            (true, 2),
            (true, 0),
            (false, 1),
            (true, 2)
        ]
    );
    assert_eq!(stopping.best, Some((5, 0.52)));
    // A checkpoint of a run without the setting is as it was.
    let mut plain = EarlyStopping::default();
    plain.update(0, 0.5, &[], GainRule::default());
    plain.update(1, 0.4, &[], GainRule::default());
    let text = serde_json::to_string(&plain).unwrap();
    assert_eq!(text, "{\"best\":[0,0.5],\"since\":1}");
}

#[test]
fn a_gain_within_the_standard_error_is_none() {
    use preftune::trainer::early_stopping::{EarlyStopping, GainRule};
    let rule = |standard_errors| GainRule {
        least: 0.0,
        standard_errors,
    };
    let before = [0.5, 0.6, 0.7, 0.8];
    let now = [0.51, 0.63, 0.69, 0.85]; // differences .01, .03, -.01, .05: mean .02, deviation .02582
    for (standard_errors, since) in [(0.0, 0), (1.5, 0), (1.6, 1)] {
        let mut stopping = EarlyStopping::default();
        assert!(stopping.update(0, 0.65, &before, rule(standard_errors)));
        let difference = stopping.difference(&now).unwrap();
        assert!((difference.mean - 0.02).abs() < 1e-12);
        assert!((difference.standard_error - 0.012_909_944_487_358).abs() < 1e-12);
        assert!(stopping.update(20, 0.67, &now, rule(standard_errors)));
        assert_eq!(stopping.since, since, "{standard_errors}");
        // The next is measured from the last gain.
        let from = if since == 0 { now } else { before };
        assert_eq!(stopping.rewards, from);
        assert_eq!(stopping.best, Some((20, 0.67)));
    }
    // Of other counts, nothing can be said.
    let mut stopping = EarlyStopping::default();
    stopping.update(0, 0.5, &[0.5], rule(1.0));
    assert_eq!(stopping.difference(&[0.6]), None);
    assert_eq!(stopping.difference(&[0.6, 0.7]), None);
}

/// The images of an event file: tag, step and bytes, by the frames of TFRecord and the fields of protobuf.
fn event_images(bytes: &[u8]) -> Vec<Vec<u8>> {
    let begin = b"\x89PNG\r\n\x1a\n";
    let starts = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(begin));
    let end = |at: usize| {
        let mut ends = (at..bytes.len()).filter(|&end| bytes[end..].starts_with(b"IEND"));
        ends.next().unwrap() + 8
    };
    starts.map(|at| bytes[at..end(at)].to_vec()).collect()
}

#[test]
fn tensorboard_gets_the_images_of_validations() {
    let world = World::new();
    world.train(&[]).succeeded();
    let events = std::fs::read_dir(world.path("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("tfevents"))
        .unwrap();
    let bytes = std::fs::read(events).unwrap();
    let images = event_images(&bytes);
    let shown = VALIDATION_IMAGES.min(8) * (STEPS / 2 + 1);
    assert_eq!(images.len() as u64, shown);
    let first = std::fs::read(world.path("run/samples/step-000000/000.png")).unwrap();
    assert_eq!(images[0], first);
    let tag = format!("validation/000 {}", "a");
    assert!(bytes.windows(tag.len()).any(|part| part == tag.as_bytes()));
}

#[test]
fn the_papers_semantics_are_one_flag_away() {
    let world = World::new();
    let flags = ["--paper", "--set", "validation.patience=3"];
    let outcome = world.training(&[], &flags).output().unwrap();
    assert!(outcome.status.success());
    let config: toml::Table = world.read("run/config.toml").parse().unwrap();
    assert_eq!(config["objective"]["labels"].as_str(), Some("sampled"));
    assert_eq!(config["objective"]["shared_noise"].as_bool(), Some(false));
    assert_eq!(config["validation"]["patience"].as_integer(), Some(0));
    let labels = world.figures("run", "train", "label");
    assert!(labels.iter().all(|label| [0.0, 1.0].contains(label)));
}

#[test]
fn images_of_an_earlier_run_serve_as_negatives() {
    let world = World::new();
    world.train(&[]).succeeded();
    world
        .train(&["run.output=again", "negatives.folder=run/negatives"])
        .succeeded();
    assert!(!world.path("again/negatives").exists());
    assert_eq!(world.metrics("again"), world.metrics("run"));
}

#[test]
fn an_image_is_the_same_in_every_batch() {
    let world = World::new();
    world.train(&["train.steps=2"]).succeeded();
    let images = |batch: &str| {
        let file = format!("{batch}.safetensors");
        let more = ["--count", "5", "--batch", batch, "--tensors", &file];
        world
            .run(
                &[
                    &[
                        "generate",
                        "--model",
                        "run",
                        "--prompt",
                        "a [V] dog",
                        "--out",
                        "out",
                    ][..],
                    &[
                        "--steps", "3", "--width", "16", "--height", "24", "--device", "cpu",
                    ],
                    &more,
                ]
                .concat(),
            )
            .succeeded();
        world.tensors(&file).tensor("images").unwrap()
    };
    let together = images("5");
    assert_eq!(together.size(), [5, 3, 24, 16]);
    for batch in ["1", "2"] {
        assert_close(batch, &images(batch), &together, 1e-4);
    }
}

#[test]
fn all_subjects_are_trained_in_turn_and_finished_ones_are_skipped() {
    let world = World::new();
    for subject in ["cup", "rex"] {
        fs::create_dir_all(world.path("bench/dataset").join(subject)).unwrap();
        photo(1)
            .save(world.path(&format!("bench/dataset/{subject}/0.png")))
            .unwrap();
    }
    let list = "Classes\n\nsubject_name,class\ncup,mug\nrex,dog\n\nPrompts\n\nObject Prompts\n\
                'a {0} {1} on a table'.format(unique_token, class_token),\n\nLive Subject Prompts\n\
                'a {0} {1} in a garden'.format(unique_token, class_token),\n";
    world.write("bench/dataset/prompts_and_classes.txt", list);
    let config = world.read("config.toml");
    let photos = "photos = \"photos\"\n                class = \"dog\"";
    assert!(config.contains(photos));
    world.write(
        "config.toml",
        &config.replace(photos, "dreambench = \"bench\""),
    );
    let first = world
        .run(&["train", "config.toml", "--all-subjects"])
        .succeeded();
    assert_eq!(world.manifest("run/cup")["subject"]["class"], "mug");
    assert_eq!(world.manifest("run/rex")["subject"]["class"], "dog");
    let before = world.files("run");
    let second = world
        .run(&["train", "config.toml", "--all-subjects"])
        .succeeded();
    assert_eq!(first.stdout, second.stdout);
    assert!(before == world.files("run"), "a finished run was changed");
    // The finished runs are of another configuration now.
    world
        .run(&[
            "train",
            "config.toml",
            "--all-subjects",
            "--set",
            "train.steps=3",
        ])
        .failed(
            1,
            &[
                "`train.steps` is 6 there and 3 here",
                "2 of 2 subjects failed",
            ],
        );
}

#[test]
fn subjects_are_trained_some_at_a_time_and_by_shares_to_the_same_runs() {
    let world = World::new();
    let names = ["cup", "rex", "rug"];
    for subject in names {
        fs::create_dir_all(world.path("bench/dataset").join(subject)).unwrap();
        photo(1)
            .save(world.path(&format!("bench/dataset/{subject}/0.png")))
            .unwrap();
    }
    // One of them fails, and keeps nobody back.
    fs::write(world.path("bench/dataset/rug/0.png"), "no image").unwrap();
    let list = "Classes\n\nsubject_name,class\ncup,mug\nrex,dog\nrug,rug\n\nPrompts\n\nObject Prompts\n\
                'a {0} {1} on a table'.format(unique_token, class_token),\n\nLive Subject Prompts\n\
                'a {0} {1} in a garden'.format(unique_token, class_token),\n";
    world.write("bench/dataset/prompts_and_classes.txt", list);
    let config = world.read("config.toml");
    let photos = "photos = \"photos\"\n                class = \"dog\"";
    world.write(
        "config.toml",
        &config.replace(photos, "dreambench = \"bench\""),
    );
    let all = |output: &str, more: &[&str]| {
        let arguments = ["train", "config.toml", "--all-subjects", "--output", output];
        world.run(&[&arguments[..], more].concat())
    };
    let queued =
        all("queued", &["--jobs", "2"]).failed(1, &["rug: ", "1 of 3 subjects failed: rug"]);
    assert_eq!(queued.stdout.matches(" failed").count(), 1);
    let rows = |text: &str| -> Vec<String> {
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let alone = all("alone", &[]).failed(1, &["1 of 3 subjects failed: rug"]);
    assert_eq!(rows(&queued.stdout), rows(&alone.stdout));
    all("shares", &["--shard", "0/2"]).failed(1, &["1 of 2 subjects failed: rug"]);
    assert!(!world.path("shares/rex").exists());
    all("shares", &["--shard", "1/2"]).succeeded();
    for subject in ["cup", "rex"] {
        let weights = |run: &str| {
            fs::read(world.path(&format!(
                "{run}/{subject}/best/pytorch_lora_weights.safetensors"
            )))
            .unwrap()
        };
        assert!(weights("queued") == weights("alone"), "{subject}");
        assert!(weights("shares") == weights("alone"), "{subject}");
    }
    all("other", &["--shard", "2/2"]).failed(2, &["0/4, 1/4, 2/4 and 3/4"]);
    all("other", &["--shard", "5/9"]).failed(2, &["fewer subjects (3) than parts"]);
    world
        .run(&["train", "config.toml", "--jobs", "2"])
        .failed(2, &["--all-subjects"]);
}

#[test]
fn a_dreambench_subject_trains_by_its_name() {
    let Some(bench) = shared("dreambench") else {
        return;
    };
    let world = World::new();
    let config = world.read("config.toml");
    let photos = "photos = \"photos\"\n                class = \"dog\"";
    let bench = format!("dreambench = \"{}\"", bench.display());
    world.write("config.toml", &config.replace(photos, &bench));
    world
        .run(&[
            "train",
            "config.toml",
            "--subject",
            "dog",
            "--set",
            "train.steps=1",
        ])
        .succeeded();
    let manifest = world.manifest("run");
    assert_eq!(manifest["subject"]["name"], "dog");
    assert_eq!(manifest["subject"]["class"], "dog");
    world
        .run(&[
            "train",
            "config.toml",
            "--subject",
            "dogg",
            "--output",
            "none",
        ])
        .failed(2, &["no DreamBench subject `dogg`", "did you mean `dog`?"]);
    assert!(!world.path("none").exists());
}

#[test]
fn rewards_are_transformed_before_they_become_labels() {
    let world = World::new();
    let mean = |run: &str, set: &[&str]| {
        let output = format!("run.output={run}");
        let common = [output.as_str(), "objective.tau=0.05", "train.steps=1"];
        world.train(&[&common[..], set].concat()).succeeded();
        let labels = &world.manifest(run)["labels"];
        labels["mean_probability"].as_f64().unwrap()
    };
    let plain = mean("plain", &[]);
    // A shift by prompt changes no difference.
    let clipped = mean("clipped", &["objective.transform=clip:1000"]);
    assert!((plain - clipped).abs() < 1e-9, "{plain} {clipped}");
    let transform = "objective.transform=log-sigmoid";
    let log_sigmoid = mean("log-sigmoid", &[transform, "objective.reference=canonical"]);
    assert!((plain - log_sigmoid).abs() > 1e-6, "{plain}");
    for (set, word) in [
        (
            "objective.transform=square",
            "`objective.transform = \"square\"`",
        ),
        (
            "objective.reference=median",
            "`objective.reference = \"median\"`",
        ),
    ] {
        world.train(&[transform, set]).failed(2, &[word]);
    }
}
