//! Images of prompts, sampled once and kept in a folder of the run.

use std::path::Path;

use image::RgbImage;
use tch::Tensor;

use crate::distributed::Peers;
use crate::error::Result;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::run::sampled;
use crate::trainer::event::Sample;
use crate::trainer::preview::all_images;

/// The images that are asked for, where all of them are stored: no model is loaded for them.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn all_stored(
    folder: &Path,
    prompts: &[String],
    requests: &[Request],
) -> Result<Option<Vec<Sample>>> {
    let stored = requests.iter().enumerate().map(|(index, request)| {
        sampled::load(folder, index, &prompts[request.row as usize], request.seed)
    });
    stored.collect()
}

/// Where images are kept, and what they are sampled with.
pub(crate) struct Sampling<'a> {
    /// The folder of the run.
    pub(crate) run: &'a Path,
    /// The folder of the images in it.
    pub(crate) folder: &'a Path,
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) settings: &'a SampleSettings,
    /// The processes that sample together; the first one stores.
    pub(crate) peers: &'a Peers,
}

impl Sampling<'_> {
    /// The images that are asked for, of `prompts` by their rows: those that an earlier part of the run has stored, the others
    /// sampled and stored. Of a batch that is not whole all images are sampled: rounding depends on what shares a batch.
    ///
    /// # Errors
    /// A prompt that the text encoder does not take, a file that cannot be read or written, or `advance` ends it.
    pub(crate) fn images(
        &self,
        prompts: &[String],
        requests: &[Request],
        advance: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Vec<Sample>> {
        let (settings, peers) = (self.settings, self.peers);
        let mut images = self.stored(prompts, requests)?;
        let missing = (0..requests.len()).filter(|&index| images[index].is_none());
        let missing: Vec<usize> = peers.first_says(missing.collect())?;
        let size = (settings.width as u32, settings.height as u32);
        if !missing.is_empty() {
            let (width, height) = (settings.width, settings.height);
            let text = self.pipeline.encode_prompts(prompts, width, height)?;
            let negative = self
                .pipeline
                .encode_negative(&[String::new()], width, height)?;
            let steps = settings.steps as u64;
            let total = requests.len() as u64 * steps;
            let mut done = total - missing.len() as u64 * steps;
            // All processes meet after a batch each, so that the first can store what they have made.
            for part in missing.chunks(settings.batch * peers.world()) {
                let own = peers.deal(part.len(), settings.batch);
                let asked: Vec<Request> = own.iter().map(|&place| requests[part[place]]).collect();
                let mut drawn: Vec<Option<RgbImage>> = vec![None; part.len()];
                let mut of_part = |own: u64, of_own: u64| {
                    let share = own * part.len() as u64 * steps / of_own.max(1);
                    advance(done + share, total)
                };
                let take = |position: usize, image: Tensor| {
                    drawn[own[position]] = Some(to_rgb(&image));
                    Ok(())
                };
                self.pipeline
                    .sample(&text, &negative, &asked, settings, &mut of_part, take)?;
                done += part.len() as u64 * steps;
                let drawn = all_images(peers, drawn, size)?;
                for (&index, image) in part.iter().zip(drawn) {
                    if peers.is_first() {
                        let sample = sample(prompts, requests[index], image.clone());
                        sampled::store(self.run, self.folder, index, &sample)?;
                    }
                    images[index] = Some(image);
                }
            }
        }
        // The others have not seen what was stored.
        let own = |image: Option<RgbImage>| image.filter(|_| peers.is_first());
        let images = all_images(peers, images.into_iter().map(own).collect(), size)?;
        let drawn = requests.iter().zip(images);
        Ok(drawn
            .map(|(&request, image)| sample(prompts, request, image))
            .collect())
    }

    /// The images of whole batches that are stored; known to the first process alone.
    fn stored(&self, prompts: &[String], requests: &[Request]) -> Result<Vec<Option<RgbImage>>> {
        let mut images: Vec<Option<RgbImage>> = vec![None; requests.len()];
        if !self.peers.is_first() {
            return Ok(images);
        }
        for (index, request) in requests.iter().enumerate() {
            let prompt = &prompts[request.row as usize];
            let stored = sampled::load(self.folder, index, prompt, request.seed)?;
            images[index] = stored.map(|sample| sample.image);
        }
        for batch in images.chunks_mut(self.settings.batch) {
            if batch.iter().any(Option::is_none) {
                batch.fill(None);
            }
        }
        Ok(images)
    }
}

fn sample(prompts: &[String], request: Request, image: RgbImage) -> Sample {
    Sample {
        prompt: prompts[request.row as usize].clone(),
        seed: request.seed,
        image,
    }
}
