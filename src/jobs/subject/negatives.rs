//! The generated images of a run on a subject.

use crate::config::SubjectConfig;
use crate::data::prompts::strip_token;
use crate::error::Result;
use crate::jobs::RunContext;
use crate::jobs::prompts::RunPrompts;
use crate::jobs::sampled::Sampling;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings};
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
    let requests = texts.iter().enumerate().flat_map(|(row, _)| {
        let each = config.negatives.per_prompt;
        (0..each).map(move |place| (row, row * each + place))
    });
    let requests: Vec<Request> = requests
        .map(|(row, index)| Request {
            row: row as i64,
            seed: derive_seed(config.run.seed, "negative", &[index as u64]) as u64,
        })
        .collect();
    let peers = context.peers().clone();
    let mut advance = |done, total| context.advance("denoising steps of negatives", done, total);
    let sampling = Sampling {
        run,
        folder: &run.join("negatives"),
        pipeline,
        settings,
        peers: &peers,
    };
    sampling.images(texts, &requests, &mut advance)
}
