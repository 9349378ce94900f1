//! Parts of a model trained from scratch: a few steps of each, through the binary and in memory.

use std::fs;
use std::path::{Path, PathBuf};

use preftune::config::{self, FirstMoment, PretrainConfig};
use preftune::data::world::{Split, TOKENS, Variation, World};
use preftune::distributed::Share;
use preftune::error::Result;
use preftune::losses::autoencoder::reconstruction;
use preftune::losses::contrastive::{image_text, supervised};
use preftune::models::diffusion::Vae;
use preftune::models::diffusion::pipeline::{Kinds, Pipeline, from_rgb};
use preftune::models::encoders::DualEncoder;
use preftune::models::weights::Checkpoint;
use preftune::trainer::event::{Event, Observer, Progress, Snapshot};
use preftune::trainer::optimizer::{AdamW, AdamWConfig};
use preftune::trainer::pretrain::{VaeTask, normalize_latents};
use preftune::trainer::{self, LoopConfig};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{assert_close, golden};
use crate::tiny_run;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

/// The embedded world's architectures without weights, made small.
fn template(root: &Path) {
    for folder in [
        "vae",
        "unet",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "reward",
        "judge",
    ] {
        let target = root.join(folder);
        fs::create_dir_all(&target).unwrap();
        for entry in fs::read_dir(repository("assets/emoji-world").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|ending| ending != "safetensors")
            {
                fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let index = "model_index.json";
    fs::copy(
        repository("assets/emoji-world").join(index),
        root.join(index),
    )
    .unwrap();
    change(&root.join("vae/config.json"), |config| {
        config["block_out_channels"] = json!([8, 8, 8]);
        config["norm_num_groups"] = json!(4);
    });
    change(&root.join("unet/config.json"), |config| {
        config["block_out_channels"] = json!([8, 8, 8]);
        config["norm_num_groups"] = json!(4);
        config["attention_head_dim"] = json!(2);
        config["cross_attention_dim"] = json!(8);
    });
    change(&root.join("text_encoder/config.json"), |config| {
        config["hidden_size"] = json!(8);
        config["intermediate_size"] = json!(16);
        config["num_attention_heads"] = json!(2);
    });
    for encoder in ["reward", "judge"] {
        change(&root.join(encoder).join("config.json"), |config| {
            let vision = &mut config["vision_config"];
            vision["in_channels"] = json!([32, 8]);
            vision["out_channels"] = json!([8, 16]);
            vision["kernel_sizes"] = json!([3, 3]);
            vision["strides"] = json!([2, 2]);
            vision["num_block_repeats"] = json!([1, 2]);
            vision["expand_ratios"] = json!([1, 2]);
            vision["hidden_dim"] = json!(16);
            config["projection_dim"] = json!(16);
        });
    }
}

fn part(kind: &str, template: &str, more: &str) -> String {
    let sprites = repository("assets/sprites");
    format!(
        r#"
        run.output = "run-{kind}"
        run.device = "cpu"
        part.kind = "{kind}"
        part.template = "{template}"
        part.dtype = "fp32"
        world.sprites = "{}"
        world.scenes = 12
        world.validation_scenes = 16
        train.steps = 4
        train.batch = 4
        train.ema = 0.9
        validation.every = 2
        validation.patience = 0
        sampler.steps = 2
        sampler.batch = 8
        checkpoint.every = 2
        {more}
        "#,
        sprites.display()
    )
}

/// `eval world` of the assembled model by the trained judge.
fn judge(world: &tiny_run::World) {
    let sprites = repository("assets/sprites");
    let judged = world
        .run(&[
            "eval",
            "world",
            "--model",
            "template",
            "--encoder",
            "run-judge/best/encoder",
            "--sprites",
            sprites.to_str().unwrap(),
            "--count",
            "8",
            "--steps",
            "2",
            "--json",
        ])
        .succeeded();
    let judged: Value = serde_json::from_str(&judged.stdout).unwrap();
    let rows = judged["recognised"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    let names = &judged["names"][0];
    assert_eq!(names["names"], 235);
    for figure in ["likeness_named", "likeness_unnamed", "likeness_real"] {
        assert!(names[figure].as_f64().unwrap().abs() <= 1.0, "{names}");
    }
    for row in rows {
        // Eighths of eight images, and no caption is right of which a part is wrong.
        let share = |key: &str| row[key].as_f64().unwrap();
        let (class, caption) = (share("class_accuracy"), share("caption_accuracy"));
        assert!(caption <= class && (class * 8.0).fract() == 0.0, "{row}");
    }
}

#[test]
fn the_parts_make_a_model_that_generates_and_encoders_that_score() {
    let world = tiny_run::World::new();
    template(&world.path("template"));
    world.write("vae.toml", &part("vae", "template/vae", ""));
    world.run(&["pretrain", "vae.toml"]).succeeded();
    // Of the embedded world's encoders, and a vision transformer's.
    let transformer = golden("encoders/clip");
    for (encoder, template, precision) in [
        ("reward", "template/reward", "fp32"),
        ("judge", "template/judge", "fp32"),
        ("vit", transformer.to_str().unwrap(), "bf16"),
    ] {
        let more = format!(
            "run.seed = 1\nrun.precision = \"{precision}\"\nrun.output = \"run-{encoder}\""
        );
        let text = part("encoder", template, "");
        let text = text.replace("run.output = \"run-encoder\"", &more);
        world.write("encoder.toml", &text);
        world.run(&["pretrain", "encoder.toml"]).succeeded();
        let best = world.path(&format!("run-{encoder}/best/encoder"));
        let encoder = DualEncoder::open(&best, Device::Cpu, Kind::Float).unwrap();
        let photos = [tiny_run::photo(0), tiny_run::photo(1)];
        let features = encoder.encode_images(&photos).unwrap();
        assert_eq!(features.size()[0], 2);
    }
    let rows = world.read("run-reward/metrics.jsonl");
    for name in [
        "text_loss",
        "drawing_loss",
        "class_loss",
        "class_accuracy.dog",
        "subjects_known",
        "cosine_same_drawing",
        "caption_retrieval",
    ] {
        assert!(rows.contains(name), "{name}: {rows}");
    }

    let more = "part.vae = \"run-vae/best/vae\"";
    world.write("unet.toml", &part("unet", "template", more));
    let outcome = world.run(&["pretrain", "unet.toml"]).succeeded();
    assert!(
        outcome.stdout.contains("run-unet/best"),
        "{}",
        outcome.stdout
    );
    assert!(
        world
            .read("run-unet/metrics.jsonl")
            .contains("denoising_error")
    );

    tokens_are_like_names(&world);
    a_second_part_goes_on(&world);

    // The template's folders with the trained weights in them are a model like any other.
    for (from, to) in [
        ("run-vae/best/vae", "vae"),
        ("run-unet/best/unet", "unet"),
        ("run-unet/best/text_encoder", "text_encoder"),
    ] {
        for entry in fs::read_dir(world.path(from)).unwrap() {
            let path = entry.unwrap().path();
            let target = world
                .path("template")
                .join(to)
                .join(path.file_name().unwrap());
            fs::copy(&path, target).unwrap();
        }
    }
    let kinds = Kinds {
        compute: Kind::Float,
        unet: Kind::Float,
    };
    Pipeline::open(&world.path("template"), None, None, Device::Cpu, kinds).unwrap();
    world
        .run(&[
            "generate",
            "--model",
            "template",
            "--prompt",
            "a red dog in the snow",
            "--out",
            "out",
            "--steps",
            "2",
        ])
        .succeeded();

    judge(&world);

    // Finished: nothing is done twice. The same folder with another configuration is refused.
    world
        .run(&["pretrain", "unet.toml", "--resume"])
        .succeeded();
    let other = [
        "pretrain",
        "unet.toml",
        "--resume",
        "--set",
        "train.batch=2",
    ];
    world.run(&other).failed(2, &["train.batch", "another"]);
}

/// A second part of a U-Net's training begins where the first one ended.
fn a_second_part_goes_on(world: &tiny_run::World) {
    let errors = |run: &str| world.figures(run, "validation", "denoising_error");
    let ended = errors("run-unet").into_iter().fold(f64::INFINITY, f64::min);
    let more = "part.vae = \"run-vae/best/vae\"\npart.start = \"run-unet/best\"";
    let text = part("unet", "template", more).replace("\"run-unet\"", "\"run-second\"");
    world.write("second.toml", &text);
    world.run(&["pretrain", "second.toml"]).succeeded();
    let began = errors("run-second")[0];
    assert!(
        (began - ended).abs() < 1e-3 * ended,
        "{ended}, then {began}"
    );
}

/// The words for subjects, which no caption holds, have vectors at the names' mean distance from the names' mean.
fn tokens_are_like_names(world: &tiny_run::World) {
    let sprites = World::open(&repository("assets/sprites")).unwrap();
    let tokenizer: Value =
        serde_json::from_str(&world.read("template/tokenizer/tokenizer.json")).unwrap();
    let weights = world.tensors("run-unet/best/text_encoder/model.safetensors");
    let table = weights
        .tensor("text_model.embeddings.token_embedding.weight")
        .unwrap()
        .to_kind(Kind::Double);
    let vectors = |words: &[&str]| {
        let id = |word: &&str| tokenizer["model"]["vocab"][word].as_i64().unwrap();
        let ids: Vec<i64> = words.iter().map(id).collect();
        table.index_select(0, &Tensor::from_slice(&ids))
    };
    let names = vectors(&sprites.names());
    let mean = names.mean_dim(0, true, Kind::Double);
    let distances = |vectors: Tensor| (vectors - &mean).norm_scalaropt_dim(2, 1, false);
    let expected = distances(names.shallow_clone())
        .mean(Kind::Double)
        .double_value(&[]);
    let tokens: Vec<f64> = distances(vectors(&TOKENS)).try_into().unwrap();
    assert_eq!(tokens.len(), 4);
    for distance in tokens {
        assert!(
            (distance - expected).abs() < 0.01 * expected,
            "{distance}, not {expected}"
        );
    }
}

#[test]
fn configurations_of_the_other_verb_are_refused_with_its_name() {
    let world = tiny_run::World::new();
    template(&world.path("template"));
    world.write("vae.toml", &part("vae", "template/vae", ""));
    world
        .run(&["train", "vae.toml"])
        .failed(2, &["preftune pretrain"]);
    world
        .run(&["pretrain", "config.toml"])
        .failed(2, &["preftune train"]);
    let checked = world.run(&["check", "vae.toml"]).succeeded();
    assert!(checked.stdout.contains("kl_weight"), "{}", checked.stdout);
    let wrong = [
        "pretrain",
        "vae.toml",
        "--set",
        "part.kind=unet",
        "--set",
        "train.ema=1.5",
        "--set",
        "objective.hard_batches=-1",
        "--set",
        "world.scenes=0",
    ];
    let words = [
        "part.vae",
        "train.ema",
        "objective.hard_batches",
        "world.scenes",
    ];
    world.run(&wrong).failed(2, &words);
    let missing = ["pretrain", "vae.toml", "--set", "part.template=nowhere"];
    world.run(&missing).failed(2, &["nowhere"]);
    let sprites = ["pretrain", "vae.toml", "--set", "world.sprites=nowhere"];
    world.run(&sprites).failed(2, &["nowhere"]);
}

#[test]
fn a_tokenizer_without_the_captions_words_is_refused() {
    let world = tiny_run::World::new();
    template(&world.path("template"));
    world.write("vae.toml", &part("vae", "template/vae", ""));
    world.run(&["pretrain", "vae.toml"]).succeeded();
    change(
        &world.path("template/tokenizer/tokenizer.json"),
        |tokenizer| {
            let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            words.remove("dog").unwrap();
            words.remove("cat").unwrap();
        },
    );
    let more = "part.vae = \"run-vae/best/vae\"";
    world.write("unet.toml", &part("unet", "template", more));
    world
        .run(&["pretrain", "unet.toml"])
        .failed(2, &["tokenizer", "cat", "dog"]);
}

/// Keeps nothing, and can ask for an interruption after a step.
struct Memory {
    stop_after: Option<u64>,
    step: u64,
    stored: Vec<(String, Tensor)>,
    progress: Progress,
    best: Vec<(String, Tensor)>,
}

impl Memory {
    fn new(stop_after: Option<u64>) -> Self {
        Self {
            stop_after,
            step: 0,
            stored: Vec::new(),
            progress: Progress::default(),
            best: Vec::new(),
        }
    }
}

fn copies(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let copy = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.detach().copy());
    tensors.iter().map(copy).collect()
}

impl Observer for Memory {
    fn interrupted(&self) -> bool {
        self.stop_after.is_some_and(|stop| self.step >= stop)
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Step { step, .. } = event {
            self.step = *step;
        }
        Ok(())
    }

    fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<PathBuf> {
        self.stored = copies(&snapshot.parameters);
        self.stored.extend(copies(&snapshot.moments));
        self.progress = snapshot.progress.clone();
        Ok(PathBuf::new())
    }

    fn best(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.best = copies(&snapshot.parameters);
        Ok(())
    }
}

fn vae_config(root: &Path) -> PretrainConfig {
    template(root);
    let file = root.join("vae.toml");
    let text = part("vae", &root.join("vae").to_string_lossy(), "");
    fs::write(&file, text).unwrap();
    config::load_pretrain(&file, &[]).unwrap()
}

fn sprites() -> World {
    World::open(&repository("assets/sprites")).unwrap()
}

fn train(config: &PretrainConfig, memory: &mut Memory, from: Option<&Memory>) {
    let mut task = VaeTask::new(sprites(), config, Device::Cpu).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), task.parameters());
    let mut progress = Progress::default();
    if let Some(from) = from {
        progress = from.progress.clone();
        let find = |name: &str, _: &[i64]| {
            let tensor = from.stored.iter().find(|(known, _)| known == name);
            Ok(tensor.unwrap().1.shallow_clone())
        };
        optimizer.restore(progress.step, find).unwrap();
    }
    let sections = LoopConfig::new(&config.train, &config.validation, &config.checkpoint);
    let outcome = trainer::run(
        &mut task,
        &mut optimizer,
        &sections,
        &Share::whole(),
        &mut progress,
        memory,
    );
    assert_eq!(
        outcome.is_err(),
        memory.stop_after.is_some(),
        "{:?}",
        outcome.err()
    );
}

fn assert_equal(one: &[(String, Tensor)], other: &[(String, Tensor)]) {
    assert_eq!(one.len(), other.len());
    for ((name, a), (_, b)) in one.iter().zip(other) {
        assert!(a.equal(b), "{name}");
    }
}

#[test]
fn an_interrupted_run_with_averaged_weights_ends_as_an_undisturbed_one() {
    let root = tempfile::tempdir().unwrap();
    let config = vae_config(root.path());
    let mut whole = Memory::new(None);
    train(&config, &mut whole, None);
    let mut first = Memory::new(Some(3));
    train(&config, &mut first, None);
    let mut second = Memory::new(None);
    train(&config, &mut second, Some(&first));
    assert!(
        whole
            .stored
            .iter()
            .any(|(name, _)| name.contains("quant_conv.weight.ema"))
    );
    assert_equal(&whole.stored, &second.stored);
    assert_equal(&whole.best, &second.best);
}

#[test]
fn the_average_is_what_is_validated_and_kept() {
    let weights = Tensor::from_slice(&[0.0f32]).set_requires_grad(true);
    let config = AdamWConfig {
        beta_1: 0.0,
        beta_2: 0.0,
        epsilon: 0.0,
        weight_decay: 0.0,
        ema: 0.5,
        first_moment: FirstMoment::Fp32,
    };
    let mut optimizer = AdamW::new(config, vec![("w".to_owned(), weights.shallow_clone())]);
    let mut expected = 0.0;
    for step in 1..=5 {
        // Without averaging of gradients AdamW moves by the learning rate.
        (-&weights).sum(Kind::Float).backward();
        let _ = optimizer.step(1.0, 0.0).unwrap();
        let keep = f64::min(0.5, (1.0 + f64::from(step)) / (10.0 + f64::from(step)));
        expected = keep * expected + (1.0 - keep) * f64::from(step);
    }
    assert!((weights.double_value(&[0]) - 5.0).abs() < 1e-6);
    optimizer.swap_averages();
    assert!((weights.double_value(&[0]) - expected).abs() < 1e-6);
    optimizer.swap_averages();
    assert!((weights.double_value(&[0]) - 5.0).abs() < 1e-6);
}

#[test]
fn normalised_latents_are_unit_normal_and_decode_to_the_same_images() {
    let root = tempfile::tempdir().unwrap();
    template(root.path());
    let world = sprites();
    let mut vae = Vae::fresh(&root.path().join("vae"), 3, Device::Cpu).unwrap();
    let images: Vec<_> = world
        .scenes(Split::Train, Variation::Scene, 5, 0..24)
        .into_iter()
        .map(|scene| scene.image)
        .collect();
    let images = from_rgb(&images);
    let noise = Tensor::randn([24, 4, 16, 16], (Kind::Float, Device::Cpu));
    let before = vae.encode(&images);
    let decoded = vae.decode(&before.sample(&noise));
    normalize_latents(&mut vae, &world, 0, 64, Device::Cpu);
    let after = vae.encode(&images);
    assert_close("images", &vae.decode(&after.sample(&noise)), &decoded, 1e-4);
    let by_channel = after.mean.transpose(0, 1).flatten(1, -1);
    let (mean, std) = (
        by_channel.mean_dim(1, false, Kind::Float),
        by_channel.std_dim(1, true, false),
    );
    // Other scenes than those that were measured.
    assert!(mean.abs().max().double_value(&[]) < 0.5, "{mean}");
    assert!((std - 1.0).abs().max().double_value(&[]) < 0.5);
}

#[test]
fn fresh_weights_follow_from_seed_and_name() {
    let root = tempfile::tempdir().unwrap();
    template(root.path());
    let make = |seed| DualEncoder::fresh(&root.path().join("reward"), seed, Device::Cpu).unwrap();
    let (one, same, other) = (
        make(1).parameters(),
        make(1).parameters(),
        make(2).parameters(),
    );
    assert_equal(&one, &same);
    let weight = |parameters: &[(String, Tensor)]| {
        let (_, tensor) = parameters
            .iter()
            .find(|(name, _)| name == "vision_model.embeddings.convolution.weight")
            .unwrap();
        tensor.shallow_clone()
    };
    assert!(!weight(&one).equal(&weight(&other)));
    let bound = 1.0 / 27f64.sqrt();
    let largest = weight(&one).abs().max().double_value(&[]);
    assert!(largest <= bound && largest > 0.9 * bound, "{largest}");
}

#[test]
fn reconstruction_loss_is_the_sum_of_its_three_terms() {
    let images = Tensor::zeros([1, 1, 2, 2], (Kind::Float, Device::Cpu));
    let other = Tensor::from_slice(&[1.0f32, -2.0, 0.0, 3.0]).view([1, 1, 2, 2]);
    // Absolute 6/4, squared 14/4, differences down (-1, 5) and across (-3, 3).
    let expected = 1.5 + 0.5 * 3.5 + 0.25 * (3.0 + 3.0);
    let loss = reconstruction(&other, &images, 0.5, 0.25).double_value(&[0]);
    assert!((loss - expected).abs() < 1e-6, "{loss}");
}

#[test]
fn image_text_loss_is_cross_entropy_both_ways() {
    let logits = Tensor::from_slice(&[2.0f64, 0.0, 1.0, 3.0]).view([2, 2]);
    let own = Tensor::eye(2, (Kind::Bool, Device::Cpu));
    let loss = image_text(&logits, &own);
    let targets = Tensor::from_slice(&[0i64, 1]);
    let none: Option<Tensor> = None;
    let reduce = tch::Reduction::None;
    let one_way =
        |logits: &Tensor| logits.cross_entropy_loss(&targets, none.as_ref(), reduce, -100, 0.0);
    assert_close(
        "loss",
        &loss,
        &((one_way(&logits) + one_way(&logits.tr())) * 0.5),
        1e-12,
    );
    // Equal captions share the probability: all logits equal cost log n whatever is the same.
    let flat = Tensor::zeros([3, 3], (Kind::Double, Device::Cpu));
    let same = Tensor::from_slice(&[true, true, false, true, true, false, false, false, true]);
    let loss = image_text(&flat, &same.view([3, 3]));
    assert_close(
        "flat",
        &loss,
        &Tensor::full([3], 3f64.ln(), (Kind::Double, Device::Cpu)),
        1e-12,
    );
}

#[test]
fn supervised_contrast_draws_partners_together() {
    let features = Tensor::from_slice(&[1.0f64, 0.0, 0.6, 0.8, 0.0, 1.0]).view([3, 2]);
    let identities = Tensor::from_slice(&[7i64, 7, 9]);
    let loss = Vec::<f64>::try_from(supervised(&features, &identities, 0.5)).unwrap();
    // Row 0: its partner has cosine .6, the stranger 0; row 1: .6 and .8; row 2 has no partner.
    let one = -((0.6f64 / 0.5).exp() / ((0.6f64 / 0.5).exp() + 1.0)).ln();
    let two = -((0.6f64 / 0.5).exp() / ((0.6f64 / 0.5).exp() + (0.8f64 / 0.5).exp())).ln();
    for (value, expected) in loss.iter().zip([one, two, 0.0]) {
        assert!((value - expected).abs() < 1e-12, "{loss:?}");
    }
}

#[test]
fn half_precision_weights_are_stored_where_asked() {
    let world = tiny_run::World::new();
    template(&world.path("template"));
    let text = part("vae", "template/vae", "").replace("\"fp32\"", "\"fp16\"");
    world.write("vae.toml", &text);
    world.run(&["pretrain", "vae.toml"]).succeeded();
    let file = world.path("run-vae/best/vae/diffusion_pytorch_model.safetensors");
    let checkpoint = Checkpoint::open_file(&file).unwrap();
    let tensor = checkpoint.tensor("quant_conv.weight").unwrap();
    assert_eq!(tensor.kind(), Kind::Half);
    assert!(checkpoint.contains("encoder.mid_block.attentions.0.to_q.weight"));
}
