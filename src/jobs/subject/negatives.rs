//! The generated images of a run on a subject.

use crate::config::SubjectConfig;
use crate::data::prompts::strip_token;
use crate::error::Result;
use crate::jobs::RunContext;
use crate::jobs::prompts::RunPrompts;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::ops::random::derive_seed;
use crate::run::negatives;
use crate::trainer::event::Sample;

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
        let steps = settings.steps as u64;
        let kept = (wanted.len() - missing.len()) as u64 * steps;
        let mut advance = |done, total| {
            context.advance("denoising steps of negatives", kept + done, kept + total)
        };
        pipeline.sample(
            &text,
            &negative,
            &requests,
            settings,
            &mut advance,
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
                Ok(())
            },
        )?;
    }
    Ok(samples.into_iter().flatten().collect())
}
