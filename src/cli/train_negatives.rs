//! The generated images of an image run.

use super::generate::SamplerArg;
use super::progress::Progress;
use super::train_image::Setting;
use crate::config::{SamplerSection, TrainSection};
use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::ops::random::derive_seed;
use crate::run::negatives;
use crate::trainer::event::Sample;

/// Sampler and size of the images that a run samples: the training resolution.
pub(super) fn sample_settings(
    train: &TrainSection,
    sampler: &SamplerSection,
    pipeline: &Pipeline,
) -> Result<SampleSettings> {
    let side = train
        .resolution
        .map_or_else(|| pipeline.native_size()[0], i64::from);
    pipeline.check_size(side, side)?;
    Ok(SampleSettings {
        sampler: SamplerArg::from(sampler.kind).into(),
        steps: sampler.steps,
        guidance: sampler.guidance,
        width: side,
        height: side,
        batch: sampler.batch,
    })
}

/// The images that photos are compared with: from the user's folder, or sampled from the untuned model. Those that
/// an interrupted run has stored are not sampled again.
pub(super) fn generated_images(
    setting: &Setting,
    texts: &[String],
    pipeline: &Pipeline,
    settings: &SampleSettings,
    display: &mut Progress,
) -> Result<Vec<Sample>> {
    let &Setting {
        config,
        run,
        interrupt,
        ..
    } = setting;
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(folder) = &config.negatives.folder {
        return negatives::from_folder(folder, settings.width as u32);
    }
    let wanted: Vec<(String, u64)> = texts
        .iter()
        .flat_map(|text| std::iter::repeat_n(text.clone(), config.negatives.per_prompt))
        .enumerate()
        .map(|(index, text)| {
            (
                text,
                derive_seed(config.run.seed, "negative", &[index as u64]) as u64,
            )
        })
        .collect();
    let mut samples: Vec<Option<Sample>> = Vec::with_capacity(wanted.len());
    for (index, (prompt, seed)) in wanted.iter().enumerate() {
        samples.push(negatives::load(run, index, prompt, *seed)?);
    }
    let missing: Vec<usize> = (0..wanted.len())
        .filter(|&index| samples[index].is_none())
        .collect();
    if !missing.is_empty() {
        let requests: Vec<Request> = missing
            .iter()
            .map(|&index| Request {
                row: (index / config.negatives.per_prompt) as i64,
                seed: wanted[index].1,
            })
            .collect();
        let text = pipeline.encode_prompts(texts, settings.width, settings.height)?;
        let negative =
            pipeline.encode_negative(&[String::new()], settings.width, settings.height)?;
        let mut done = (wanted.len() - missing.len()) as u64;
        let interrupted = || Error::Interrupted {
            step: 0,
            checkpoint: run.to_owned(),
        };
        let go_on = || {
            if interrupt.requested() {
                Err(interrupted())
            } else {
                Ok(())
            }
        };
        pipeline.sample(
            &text,
            &negative,
            &requests,
            settings,
            &go_on,
            |position, image| {
                let index = missing[position];
                let (prompt, seed) = wanted[index].clone();
                let sample = Sample {
                    prompt,
                    seed,
                    image: to_rgb(&image),
                };
                negatives::store(run, index, &sample)?;
                samples[index] = Some(sample);
                done += 1;
                display.advance("negatives", done, wanted.len() as u64);
                Ok(())
            },
        )?;
    }
    Ok(samples.into_iter().flatten().collect())
}
