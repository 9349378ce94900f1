//! Checkpoints of a run, sampled and exported; what of a scheduler's file stops samples and what stops training.

use std::fs;

use crate::command::{self, Ran, own_folder, quoted};
use crate::support::golden;
use crate::tiny_run::{World, contents, copy_folder};

own_folder!();

#[test]
fn checkpoints_of_an_image_run_are_sampled_and_exported() {
    let world = World::new();
    for kind in ["lora", "full"] {
        let (run, kind) = (
            format!("run.output=\"{kind}\""),
            format!("adapter.kind=\"{kind}\""),
        );
        world.train(&[&run, &kind, "checkpoint.keep=9"]).succeeded();
    }
    for run in ["lora", "full"] {
        let image = |more: &[&str]| {
            let _ = fs::remove_dir_all(world.path("out"));
            world.generate(run, more).succeeded();
            fs::read(world.path("out/00000.png")).unwrap()
        };
        let pixels = |bytes: Vec<u8>| image::load_from_memory(&bytes).unwrap().to_rgb8();
        let best = pixels(image(&[]));
        let step = world.manifest(run)["best"][0].as_u64().unwrap();
        let steps = ["2", "4", "6"].map(|step| pixels(image(&["--checkpoint", step])));
        assert!(steps[0] != steps[2], "{run}");
        if step > 0 {
            assert_eq!(steps[step as usize / 2 - 1], best, "{run}");
        }
        world
            .generate(run, &["--checkpoint", "3"])
            .failed(2, &["no checkpoint of step 3", "2, 4, 6"]);

        // What is exported of a checkpoint is what is sampled from it.
        let _ = fs::remove_dir_all(world.path("exported"));
        let format = if run == "full" { "diffusers" } else { "merged" };
        let arguments = [
            "export",
            run,
            "--out",
            "exported",
            "--format",
            format,
            "--dtype",
            "f32",
            "--checkpoint",
            "4",
        ];
        world.run(&arguments).succeeded();
        let _ = fs::remove_dir_all(world.path("out"));
        world.generate("exported", &[]).succeeded();
        let exported = pixels(fs::read(world.path("out/00000.png")).unwrap());
        assert_eq!(exported, steps[1], "{run}");
    }
    let kohya = ["export", "lora", "--out", "kohya", "--checkpoint", "4"];
    world.run(&kohya).succeeded();
    assert_eq!(contents(&world.path("kohya")).len(), 3);
    let golden = golden("diffusion/sd1");
    world
        .generate(golden.to_str().unwrap(), &["--checkpoint", "4"])
        .failed(2, &[]);
}

impl Folder {
    fn new() -> Self {
        Self(command::Folder::new())
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.binary(arguments)
    }
}

#[test]
fn checkpoints_of_a_text_run_answer_and_are_exported() {
    let folder = Folder::new();
    for kind in ["lora", "full"] {
        let config = format!(
            "[run]\noutput = \"{kind}\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\n\
             [adapter]\nkind = \"{kind}\"\n[objective]\nkind = \"dpo\"\n\
             [train]\nsteps = 4\nbatch = 4\nlearning_rate = 0.05\nlog_every = 1\n\
             [validation]\nevery = 0\npatience = 0\n[checkpoint]\nevery = 2\nkeep = 3\n",
            quoted(&golden("text/model")),
            quoted(&golden("text/pairs.jsonl"))
        );
        fs::write(folder.path("run.toml"), config).unwrap();
        folder.run(&["train", "run.toml", "--quiet"]).done();
        let answer = |model: &str, more: &[&str]| {
            let asked = [
                "generate",
                "--model",
                model,
                "--prompt",
                "red",
                "--raw",
                "--temperature",
                "0",
                "--max-tokens",
                "8",
                "--device",
                "cpu",
                "--quiet",
                "--json",
            ];
            folder.run(&[&asked, more].concat()).done().stdout
        };
        // Without validations the last step is the best one.
        assert_eq!(answer(kind, &["--checkpoint", "4"]), answer(kind, &[]));
        let second = answer(kind, &["--checkpoint", "2"]);
        let out = format!("{kind}-exported");
        folder
            .run(&["export", kind, "--out", &out, "--checkpoint", "2"])
            .done();
        assert_eq!(answer(&out, &[]), second);
        folder
            .run(&["export", kind, "--out", "none", "--checkpoint", "3"])
            .refused("no checkpoint of step 3");
    }
}

#[test]
fn a_sampler_that_is_not_implemented_stops_samples_and_not_training() {
    let world = World::new();
    let config =
        r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#;
    copy_folder(&golden("diffusion/sd1"), &world.path("base"));
    world.write("base/scheduler/scheduler_config.json", config);
    let refused = &["`algorithm_type`", "sde-dpmsolver++", "`euler`"];
    world.generate("base", &[]).failed(2, refused);
    assert!(!world.path("out").exists());
    world.generate("base", &["--sampler", "euler"]).succeeded();
    // Negatives and validations are sampled too: said before anything is trained.
    let base = "model.base=\"base\"";
    world.train(&[base]).failed(2, refused);
    world
        .train(&[base, "run.output=\"other\"", "sampler.kind=\"euler\""])
        .succeeded();
}
