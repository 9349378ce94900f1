//! The generated images of a run on a subject.

use image::RgbImage;

use crate::config::SubjectConfig;
use crate::data::prompts::strip_token;
use crate::error::Result;
use crate::jobs::RunContext;
use crate::jobs::prompts::RunPrompts;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::ops::random::derive_seed;
use crate::run::negatives;
use crate::trainer::event::Sample;
use crate::trainer::preview::all_images;

/// The images that photos are compared with: from the user's folder, or sampled from the untuned model. Those that
/// an interrupted run has stored are not sampled again.
pub(crate) fn generated_images(
    config: &SubjectConfig,
    prompts: &RunPrompts,
    pipeline: &Pipeline,
    settings: &SampleSettings,
    context: &mut RunContext,
) -> Result<Vec<Sample>> {
    let run = context.run;
    let texts = &prompts.negatives;
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(folder) = &config.negatives.folder {
        let prior = prompts.prior.as_deref();
        let (mut samples, notes) = negatives::from_folder(folder, settings.width as u32, prior)?;
        if let Some(token) = &prompts.taken_out {
            for sample in &mut samples {
                sample.prompt = strip_token(&sample.prompt, token);
            }
        }
        for note in notes {
            context.display.say(&note);
        }
        let texts: Vec<String> = samples.iter().map(|sample| sample.prompt.clone()).collect();
        for warning in pipeline.prompt_notes(&texts)? {
            context.display.say(&format!("warning: {warning}"));
        }
        return Ok(samples);
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
    let peers = context.peers().clone();
    let mut samples: Vec<Option<Sample>> = wanted.iter().map(|_| None).collect();
    if peers.is_first() {
        for (index, (prompt, seed)) in wanted.iter().enumerate() {
            samples[index] = negatives::load(run, index, prompt, *seed)?;
        }
    }
    let missing = (0..wanted.len()).filter(|&index| samples[index].is_none());
    let missing: Vec<usize> = peers.first_says(missing.collect())?;
    let size = (settings.width as u32, settings.height as u32);
    if !missing.is_empty() {
        let text = pipeline.encode_prompts(texts, settings.width, settings.height)?;
        let negative =
            pipeline.encode_negative(&[String::new()], settings.width, settings.height)?;
        let steps = settings.steps as u64;
        let total = wanted.len() as u64 * steps;
        // Several processes meet after a batch each, so that the first can store what all have made.
        let together = if peers.are_none() {
            missing.len()
        } else {
            settings.batch * peers.world()
        };
        let mut done = total - missing.len() as u64 * steps;
        for part in missing.chunks(together) {
            let own = peers.deal(part.len(), settings.batch);
            let requests: Vec<Request> = own
                .iter()
                .map(|&place| Request {
                    row: (part[place] / config.negatives.per_prompt) as i64,
                    seed: wanted[part[place]].1,
                })
                .collect();
            let mut advance = |own, of_own: u64| {
                let share = own * part.len() as u64 * steps / of_own.max(1);
                context.advance("denoising steps of negatives", done + share, total)
            };
            let mut images: Vec<Option<RgbImage>> = vec![None; part.len()];
            pipeline.sample(
                &text,
                &negative,
                &requests,
                settings,
                &mut advance,
                |position, image| {
                    let (place, image) = (own[position], to_rgb(&image));
                    if peers.are_none() {
                        let (prompt, seed) = wanted[part[place]].clone();
                        let sample = Sample {
                            prompt,
                            seed,
                            image,
                        };
                        negatives::store(run, part[place], &sample)?;
                        samples[part[place]] = Some(sample);
                    } else {
                        images[place] = Some(image);
                    }
                    Ok(())
                },
            )?;
            done += part.len() as u64 * steps;
            if peers.are_none() {
                continue;
            }
            let images = all_images(&peers, images, size)?;
            for (&index, image) in part.iter().zip(images).filter(|_| peers.is_first()) {
                let (prompt, seed) = wanted[index].clone();
                let sample = Sample {
                    prompt,
                    seed,
                    image,
                };
                negatives::store(run, index, &sample)?;
                samples[index] = Some(sample);
            }
        }
    }
    // The others have seen neither what was stored nor what was made of it.
    let images = samples
        .into_iter()
        .map(|sample| sample.map(|one| one.image));
    let images = all_images(&peers, images.collect(), size)?;
    let samples = wanted.into_iter().zip(images);
    let sample = |((prompt, seed), image)| Sample {
        prompt,
        seed,
        image,
    };
    Ok(samples.map(sample).collect())
}
