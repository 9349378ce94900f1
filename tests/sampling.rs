//! Noise schedules and samplers against diffusers, alone and around the tiny U-Nets.

use std::path::{Path, PathBuf};

use diffusers::schedulers::ddim::{DDIMScheduler, DDIMSchedulerConfig};
use preftune::error::{Error, Result};
use preftune::models::diffusion::{
    AddedConditioning, Conditioning, NoiseSchedule, Plan, Prediction, SamplerKind, SamplingOptions,
    UNet, denoise,
};
use preftune::models::weights::Checkpoint;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{assert_close, golden, golden_tensors};

const SAMPLERS: [(&str, SamplerKind); 3] = [
    ("ddim", SamplerKind::Ddim),
    ("dpm", SamplerKind::DpmSolverPp),
    ("euler", SamplerKind::Euler),
];

fn schedule_of(config: &str) -> Result<NoiseSchedule> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("scheduler_config.json"), config).unwrap();
    NoiseSchedule::open(folder.path(), Device::Cpu)
}

fn family(name: &str) -> PathBuf {
    golden("diffusion").join(name)
}

/// (name, schedule, steps) of every configuration in the golden file.
fn variants(tensors: &Checkpoint) -> Vec<(String, NoiseSchedule, usize)> {
    let parse = |(name, text): (&String, &String)| {
        let value: Value = serde_json::from_str(text).unwrap();
        let steps = value["steps"].as_u64().unwrap() as usize;
        (
            name.clone(),
            schedule_of(&value["config"].to_string()).unwrap(),
            steps,
        )
    };
    let mut all: Vec<_> = tensors.metadata().iter().map(parse).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(all.len(), 17);
    all
}

#[test]
fn samplers_are_those_of_diffusers_under_every_kind_of_configuration() {
    let tensors = golden_tensors("diffusion/schedulers.safetensors");
    let noise = tensors.tensor("noise").unwrap();
    for (variant, schedule, steps) in variants(&tensors) {
        for (name, kind) in SAMPLERS {
            let plan = Plan::new(&schedule, kind, steps).unwrap();
            let expected = tensors
                .tensor(&format!("{variant}.{name}.timesteps"))
                .unwrap();
            assert_close(
                &format!("{variant} {name} timesteps"),
                &Tensor::from_slice(&plan.timesteps()),
                &expected,
                1e-7,
            );
            let model = |x: &Tensor, t: f64| Ok((x * 0.7 + t / 1000.0).tanh());
            let x = plan.run(&noise, model).unwrap();
            let expected = tensors.tensor(&format!("{variant}.{name}")).unwrap();
            assert_close(&format!("{variant} {name}"), &x, &expected, 2e-5);
        }
    }
}

#[test]
fn solvers_and_sigmas_of_the_scheduler_file_are_those_of_diffusers() {
    let tensors = golden_tensors("diffusion/solvers.safetensors");
    let noise = tensors.tensor("noise").unwrap();
    assert_eq!(tensors.metadata().len(), 20);
    for (variant, text) in tensors.metadata() {
        let value: Value = serde_json::from_str(text).unwrap();
        let schedule = schedule_of(&value["config"].to_string()).unwrap();
        let steps = value["steps"].as_u64().unwrap() as usize;
        for (name, kind) in &SAMPLERS[1..] {
            let plan = Plan::new(&schedule, *kind, steps).unwrap();
            let expected = tensors
                .tensor(&format!("{variant}.{name}.timesteps"))
                .unwrap();
            let ours = Tensor::from_slice(&plan.timesteps());
            assert_close(
                &format!("{variant} {name} timesteps"),
                &ours,
                &expected,
                1e-6,
            );
            let model = |x: &Tensor, t: f64| Ok((x * 0.7 + t / 1000.0).tanh());
            let x = plan.run(&noise, model).unwrap();
            let expected = tensors.tensor(&format!("{variant}.{name}")).unwrap();
            assert_close(&format!("{variant} {name}"), &x, &expected, 2e-5);
        }
    }
}

#[test]
fn training_noise_targets_and_snr_are_those_of_diffusers() {
    let tensors = golden_tensors("diffusion/schedulers.safetensors");
    let get = |name: &str| tensors.tensor(name).unwrap();
    let (x0, noise) = (get("x0"), get("rows"));
    let timesteps = Tensor::from_slice(&[0i64, 1, 50, 99]);
    for (variant, schedule, _) in variants(&tensors) {
        let noisy = schedule.add_noise(&x0, &noise, &timesteps);
        assert_close(
            &format!("{variant} noisy"),
            &noisy,
            &get(&format!("{variant}.noisy")),
            1e-5,
        );
        let snr = schedule.snr(&timesteps);
        assert_close(
            &format!("{variant} snr"),
            &snr,
            &get(&format!("{variant}.snr")),
            1e-6,
        );
        let target = schedule.target(&x0, &noise, &timesteps);
        match schedule.prediction() {
            Prediction::Epsilon => assert_eq!(target, noise),
            Prediction::Sample => assert_eq!(target, x0),
            Prediction::VPrediction => {
                assert_close(
                    &variant,
                    &target,
                    &get(&format!("{variant}.velocity")),
                    1e-5,
                );
            }
        }
    }
}

#[test]
fn ddim_is_that_of_the_crate_diffusers_where_it_applies() {
    let schedule = NoiseSchedule::open(&family("sd1").join("scheduler"), Device::Cpu).unwrap();
    let noise = golden_tensors("diffusion/schedulers.safetensors")
        .tensor("noise")
        .unwrap();
    let crates = DDIMScheduler::new(20, DDIMSchedulerConfig::default());
    let mut expected = noise.shallow_clone();
    for &t in crates.timesteps() {
        let output = (&expected * 0.7 + t as f64 / 1000.0).tanh();
        expected = crates.step(&output, t, &expected);
    }
    let plan = Plan::new(&schedule, SamplerKind::Ddim, 20).unwrap();
    let x = plan
        .run(&noise, |x, t| Ok((x * 0.7 + t / 1000.0).tanh()))
        .unwrap();
    assert_close("ddim", &x, &expected, 2e-5);
}

#[test]
fn settings_of_samplers_do_not_stop_training_and_are_refused_by_the_samplers_that_read_them() {
    let no_last_sigma = "algorithm_type";
    for (key, value, refusing) in [
        ("clip_sample", json!(true), "ddim"),
        ("thresholding", json!(true), "ddim dpm"),
        ("use_beta_sigmas", json!(true), "dpm euler"),
        ("use_flow_sigmas", json!(true), "dpm"),
        ("algorithm_type", json!("sde-dpmsolver++"), "dpm"),
        (no_last_sigma, json!("dpmsolver"), "dpm"),
        ("solver_order", json!(4), "dpm"),
        ("solver_type", json!("rk4"), "dpm"),
        ("variance_type", json!("learned_range"), "dpm"),
        ("final_sigmas_type", json!("last"), "dpm euler"),
        ("interpolation_type", json!("log_linear"), "euler"),
    ] {
        let schedule = schedule_of(&json!({ key: value }).to_string()).unwrap();
        for (name, kind) in SAMPLERS {
            let plan = Plan::new(&schedule, kind, 20);
            if refusing.split(' ').any(|one| one == name) {
                let error = plan.err().unwrap();
                assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
                assert_eq!(error.exit_code(), 2);
            } else {
                assert!(plan.is_ok(), "{key} {name}");
            }
        }
    }
}

#[test]
fn pipelines_of_stable_diffusion_take_an_offset_of_one_whatever_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = folder.path().join("scheduler");
    std::fs::create_dir(&scheduler).unwrap();
    let config = r#"{"timestep_spacing": "leading", "steps_offset": 0, "clip_sample": true}"#;
    std::fs::write(scheduler.join("scheduler_config.json"), config).unwrap();
    let plan = |is_xl, sampler| {
        let schedule = NoiseSchedule::of_pipeline(folder.path(), is_xl, Device::Cpu).unwrap();
        Plan::new(&schedule, sampler, 20)
    };
    let one = schedule_of(r#"{"timestep_spacing": "leading", "steps_offset": 1}"#).unwrap();
    for (_, sampler) in SAMPLERS {
        let expected = Plan::new(&one, sampler, 20).unwrap();
        assert_eq!(plan(false, sampler).unwrap(), expected);
    }
    let last = plan(true, SamplerKind::Euler).unwrap().timesteps()[19];
    assert_close("last", &Tensor::from(last), &Tensor::from(0.0), 1e-12);
    let refused = plan(true, SamplerKind::Ddim).err().unwrap();
    assert!(refused.to_string().contains("`clip_sample`"), "{refused}");
}

/// Prompt and negative conditioning of a golden pipeline run.
fn prompts(tensors: &Checkpoint) -> [Conditioning; 2] {
    ["prompt_embeds", "negative_prompt_embeds"].map(|name| {
        let context = tensors.tensor(name).unwrap();
        let pooled = name.replace("prompt_embeds", "pooled_prompt_embeds");
        let added = tensors.contains(&pooled).then(|| AddedConditioning {
            text_embeds: tensors.tensor(&pooled).unwrap(),
            time_ids: Tensor::from_slice(&[16f32, 24.0, 0.0, 0.0, 16.0, 24.0]).repeat([2, 1]),
        });
        Conditioning { context, added }
    })
}

fn options(tensors: &Checkpoint, sampler: SamplerKind) -> SamplingOptions {
    SamplingOptions {
        sampler,
        steps: tensors.metadata()["steps"].parse().unwrap(),
        guidance: tensors.metadata()["guidance"].parse().unwrap(),
        kind: Kind::Float,
    }
}

#[test]
fn guided_sampling_gives_the_latents_of_the_diffusers_pipelines() {
    for name in ["sd1", "sd2", "sdxl"] {
        let tensors = golden_tensors(&format!("diffusion/{name}_pipeline.safetensors"));
        let unet = UNet::open(&family(name).join("unet"), None, Device::Cpu, Kind::Float).unwrap();
        let schedule = NoiseSchedule::open(&family(name).join("scheduler"), Device::Cpu).unwrap();
        let noise = tensors.tensor("latents").unwrap();
        let [positive, negative] = prompts(&tensors);
        for (label, sampler) in SAMPLERS {
            let options = options(&tensors, sampler);
            let mut calls = Vec::new();
            let mut progress = |step| {
                calls.push(step);
                Ok(())
            };
            let denoised = denoise(
                &unet,
                &schedule,
                &options,
                &noise,
                &positive,
                Some(&negative),
                &mut progress,
            )
            .unwrap();
            let expected = tensors.tensor(&format!("{label}.latents")).unwrap();
            assert_close(
                &format!("{name} {label}"),
                &denoised.latents,
                &expected,
                2e-5,
            );
            assert_eq!(denoised.sample_forwards, 20 * 2 * 2);
            assert_eq!(calls, (1..=20).collect::<Vec<_>>());
        }
    }
}

#[test]
fn sampling_without_guidance_costs_one_forward_a_row_and_ignores_the_unconditional_prompt() {
    let tensors = golden_tensors("diffusion/sd1_pipeline.safetensors");
    let unet = UNet::open(&family("sd1").join("unet"), None, Device::Cpu, Kind::Float).unwrap();
    let schedule = NoiseSchedule::open(&family("sd1").join("scheduler"), Device::Cpu).unwrap();
    let noise = tensors.tensor("latents").unwrap();
    let [positive, negative] = prompts(&tensors);
    let mut options = options(&tensors, SamplerKind::DpmSolverPp);
    options.guidance = 1.0;
    let run = |positive: &Conditioning, negative: Option<&Conditioning>| {
        denoise(
            &unet,
            &schedule,
            &options,
            &noise,
            positive,
            negative,
            &mut |_| Ok(()),
        )
    };
    let alone = run(&positive, None).unwrap();
    let with = run(&positive, Some(&negative)).unwrap();
    assert_eq!(alone.sample_forwards, 40);
    assert_eq!(alone.latents, with.latents);
    // One row of conditioning serves all samples.
    let first = run(&positive.narrow(0, 1), None).unwrap().latents;
    assert_close(
        "row",
        &first.narrow(0, 0, 1),
        &alone.latents.narrow(0, 0, 1),
        1e-5,
    );
    let three = Conditioning::cat(&[&positive, &negative.narrow(0, 1)]);
    assert!(
        run(&three, None)
            .err()
            .unwrap()
            .to_string()
            .contains("3 prompts for 2 samples")
    );
}

#[test]
fn sampling_stops_at_the_callers_error_and_refuses_what_cannot_be() {
    let tensors = golden_tensors("diffusion/sd1_pipeline.safetensors");
    let unet = UNet::open(&family("sd1").join("unet"), None, Device::Cpu, Kind::Float).unwrap();
    let schedule = NoiseSchedule::open(&family("sd1").join("scheduler"), Device::Cpu).unwrap();
    let noise = tensors.tensor("latents").unwrap();
    let [positive, negative] = prompts(&tensors);
    let mut options = options(&tensors, SamplerKind::Euler);
    let mut stop = |step| {
        if step == 3 {
            Err(Error::config("stopped"))
        } else {
            Ok(())
        }
    };
    let stopped = denoise(
        &unet,
        &schedule,
        &options,
        &noise,
        &positive,
        Some(&negative),
        &mut stop,
    );
    assert_eq!(stopped.err().unwrap().to_string(), "stopped");
    let unguided = denoise(
        &unet,
        &schedule,
        &options,
        &noise,
        &positive,
        None,
        &mut |_| Ok(()),
    );
    assert!(
        unguided
            .err()
            .unwrap()
            .to_string()
            .contains("unconditional")
    );
    let refused = |noise: &Tensor, told: &Conditioning| {
        let result = denoise(
            &unet,
            &schedule,
            &options,
            noise,
            told,
            Some(told),
            &mut |_| Ok(()),
        );
        result.err().unwrap().to_string()
    };
    assert!(refused(&noise.narrow(1, 0, 3), &positive).contains("channels"));
    let narrow = Conditioning::new(positive.context.narrow(2, 0, 8));
    assert!(refused(&noise, &narrow).contains("[b, t, 16]"));
    for steps in [0, 1001] {
        options.steps = steps;
        let refused = denoise(
            &unet,
            &schedule,
            &options,
            &noise,
            &positive,
            Some(&negative),
            &mut |_| Ok(()),
        );
        assert!(
            refused
                .err()
                .unwrap()
                .to_string()
                .contains("allows 1 to 1000")
        );
    }
    // 1000 leading steps with an offset of 1 would ask for timestep 1000, which is not trained.
    assert!(Plan::new(&schedule, SamplerKind::Ddim, 1000).is_err());
    assert!(Plan::new(&schedule, SamplerKind::DpmSolverPp, 1000).is_err());
    assert!(Plan::new(&schedule, SamplerKind::Euler, 1000).is_ok());
}

#[test]
fn schedule_without_keys_is_that_of_stable_diffusion_not_of_the_class() {
    let (short, full) = (schedule_of("{}").unwrap(), family("sd1").join("scheduler"));
    let full = NoiseSchedule::open(&full, Device::Cpu).unwrap();
    assert_eq!(short.alphas_cumprod(), full.alphas_cumprod());
    for (_, sampler) in SAMPLERS {
        assert_eq!(
            Plan::new(&short, sampler, 20).unwrap(),
            Plan::new(&full, sampler, 20).unwrap()
        );
    }
}

#[test]
fn schedule_that_is_not_implemented_is_refused_by_key() {
    for (key, value) in [
        ("_class_name", json!("FlowMatchEulerDiscreteScheduler")),
        ("_class_name", json!("LCMScheduler")),
        ("rescale_betas_zero_snr", json!(true)),
    ] {
        let error = schedule_of(&json!({ key: value }).to_string())
            .err()
            .unwrap();
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    for config in [
        r#"{"prediction_type": "flow_prediction"}"#,
        r#"{"beta_schedule": "exp"}"#,
        r#"{"trained_betas": [0.5, 1.5]}"#,
        r#"{"trained_betas": []}"#,
        r#"{"num_train_timesteps": 0}"#,
        r#"{"num_train_timesteps": -1}"#,
        r#"{"beta_start": -0.1}"#,
        "[]",
        "",
    ] {
        let error = schedule_of(config).err().expect(config);
        assert!(
            error.to_string().contains("scheduler_config.json"),
            "{error}"
        );
    }
    assert!(NoiseSchedule::open(Path::new("/nowhere"), Device::Cpu).is_err());
    // Python writes an infinity that JSON has not.
    assert!(schedule_of(r#"{"lambda_min_clipped": -Infinity, "use_karras_sigmas": null}"#).is_ok());
}
