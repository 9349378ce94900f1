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
    if !missing.is_empty() {
        let mut keep = |index: usize, image: RgbImage| {
            let (prompt, seed) = wanted[index].clone();
            let sample = Sample {
                prompt,
                seed,
                image,
            };
            negatives::store(run, index, &sample)?;
            samples[index] = Some(sample);
            Ok(())
        };
        let request = |index: usize| Request {
            row: (index / config.negatives.per_prompt) as i64,
            seed: wanted[index].1,
        };
        let kept = wanted.len() - missing.len();
        let requests: Vec<(usize, Request)> = missing
            .iter()
            .map(|&index| (index, request(index)))
            .collect();
        sample_missing(
            (pipeline, settings),
            texts,
            (kept, &requests),
            context,
            &mut keep,
        )?;
    }
    // The others have seen neither what was stored nor what was made of it.
    let size = (settings.width as u32, settings.height as u32);
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

/// Samples images by the places where they belong, and hands them to `keep` in the first process, as they come. `kept` of the
/// wanted ones are there already.
fn sample_missing(
    (pipeline, settings): (&Pipeline, &SampleSettings),
    prompts: &[String],
    (kept, requests): (usize, &[(usize, Request)]),
    context: &mut RunContext,
    keep: &mut dyn FnMut(usize, RgbImage) -> Result<()>,
) -> Result<()> {
    let peers = context.peers().clone();
    let SampleSettings { width, height, .. } = *settings;
    let text = pipeline.encode_prompts(prompts, width, height)?;
    let negative = pipeline.encode_negative(&[String::new()], width, height)?;
    let steps = settings.steps as u64;
    let total = (kept + requests.len()) as u64 * steps;
    // Several processes meet after a batch each, so that the first can store what all have made.
    let together = if peers.are_none() {
        requests.len()
    } else {
        settings.batch * peers.world()
    };
    let mut done = kept as u64 * steps;
    for part in requests.chunks(together) {
        let places = peers.deal(part.len(), settings.batch);
        let own: Vec<Request> = places.iter().map(|&place| part[place].1).collect();
        let in_part = part.len() as u64 * steps;
        let mut advance = |made: u64, of_own: u64| {
            let share = made * in_part / of_own.max(1);
            context.advance("denoising steps of negatives", done + share, total)
        };
        let mut images: Vec<Option<RgbImage>> = vec![None; part.len()];
        pipeline.sample(
            &text,
            &negative,
            &own,
            settings,
            &mut advance,
            |position, image| {
                let (place, image) = (places[position], to_rgb(&image));
                if peers.are_none() {
                    return keep(part[place].0, image);
                }
                images[place] = Some(image);
                Ok(())
            },
        )?;
        done += in_part;
        if peers.are_none() {
            continue;
        }
        let images = all_images(&peers, images, (width as u32, height as u32))?;
        if peers.is_first() {
            for ((index, _), image) in part.iter().zip(images) {
                keep(*index, image)?;
            }
        }
    }
    Ok(())
}
