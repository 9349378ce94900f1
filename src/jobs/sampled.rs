//! Images of prompts, sampled once and kept in a folder of the run.

use std::path::Path;

use crate::error::Result;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::run::sampled;
use crate::trainer::event::Sample;

/// The images that are asked for, of `prompts` by their rows: those that an earlier part of the run has stored in `folder`, the
/// others sampled and stored there. Of a batch that is not whole all images are sampled: rounding depends on what shares a batch.
///
/// # Errors
/// A prompt that the text encoder does not take, a file that cannot be read or written, or `advance` ends it.
pub(crate) fn images(
    (run, folder): (&Path, &Path),
    prompts: &[String],
    requests: &[Request],
    (pipeline, settings): (&Pipeline, &SampleSettings),
    advance: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Vec<Sample>> {
    let mut samples: Vec<Option<Sample>> = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        let prompt = &prompts[request.row as usize];
        samples.push(sampled::load(folder, index, prompt, request.seed)?);
    }
    for batch in samples.chunks_mut(settings.batch) {
        if batch.iter().any(Option::is_none) {
            batch.fill_with(|| None);
        }
    }
    let missing: Vec<usize> = (0..requests.len())
        .filter(|&index| samples[index].is_none())
        .collect();
    if !missing.is_empty() {
        let (width, height) = (settings.width, settings.height);
        let text = pipeline.encode_prompts(prompts, width, height)?;
        let negative = pipeline.encode_negative(&[String::new()], width, height)?;
        let asked: Vec<Request> = missing.iter().map(|&index| requests[index]).collect();
        let kept = (requests.len() - missing.len()) * settings.steps;
        let mut advance = |done, total| advance(kept as u64 + done, kept as u64 + total);
        let take = |position: usize, image| {
            let index = missing[position];
            let sample = Sample {
                prompt: prompts[requests[index].row as usize].clone(),
                seed: requests[index].seed,
                image: to_rgb(&image),
            };
            sampled::store(run, folder, index, &sample)?;
            samples[index] = Some(sample);
            Ok(())
        };
        pipeline.sample(&text, &negative, &asked, settings, &mut advance, take)?;
    }
    Ok(samples.into_iter().flatten().collect())
}
