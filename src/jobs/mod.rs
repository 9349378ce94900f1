//! From a configuration to its result: the same way through every run, whatever is trained. Jobs print nothing; they tell
//! a [`Display`]. The command line is one caller, a Rust program another.

pub mod check;
pub mod compare;
pub mod eval;
pub(crate) mod inputs;
pub mod interrupt;
pub(crate) mod judge;
pub(crate) mod open;
pub mod pairs;
pub mod plan;
pub(crate) mod policy;
pub mod pretrain;
pub(crate) mod prompts;
pub mod reward;
pub mod rounds;
pub(crate) mod sampled;
mod stopwatch;
pub mod subject;
pub mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use self::interrupt::Interrupt;
use self::open::resolve_for;
use self::stopwatch::Stopwatch;
use crate::config::{self, CheckpointSection, RunSection, StopRule, TrainSection};
use crate::distributed::{Peers, Share};
use crate::error::{Error, Result};
use crate::run::checkpoint::{self, BestWeights, restore_latest};
use crate::run::folder::{RunFolder, explain_loss};
use crate::run::manifest::{self, FINISHED, Record, RunManifest, check_inputs};
pub use crate::run::recorder::Display;
use crate::run::recorder::Recorder;
use crate::trainer::event::{Event, Observer, Progress, Snapshot};
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::{self, LoopConfig, Task};

/// Choices of a run that change none of its numbers.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Continue an interrupted run from its last checkpoint.
    pub resume: bool,
    /// Time the parts of the steps (runs on a subject).
    pub profile: bool,
    /// The processes that make the run together: all of them call the same function with the same configuration.
    pub peers: Peers,
}

/// A display that shows nothing.
pub struct Silent;

impl Display for Silent {
    fn show(&mut self, _event: &Event) {}

    fn say(&mut self, _line: &str) {}

    fn advance(&mut self, _phase: &'static str, _done: u64, _total: u64) {}
}

/// A kind of run: its preparation, its task, and what is done after the last step.
trait Job {
    /// The training that the loop runs.
    type Task: Task;
    /// The contents of `manifest.json`.
    type Manifest: RunManifest;
    /// Everything that was read before the folder is opened.
    type Inputs;

    /// The configuration, which the run folder keeps.
    fn config(&self) -> &impl Serialize;

    /// The sections that the shared way reads.
    fn sections(&self) -> Sections<'_>;

    /// Loads, samples and encodes everything that the loop needs, and says what is worth knowing of it.
    fn prepare(
        &mut self,
        inputs: Self::Inputs,
        context: &mut RunContext,
    ) -> Result<Prepared<Self::Task, Self::Manifest>>;

    /// After the loop, however it ended: notes what the task knows.
    fn note(
        &self,
        _task: &Self::Task,
        _manifest: &mut Self::Manifest,
        _context: &mut RunContext,
    ) -> Result<()> {
        Ok(())
    }

    /// After the last step: what makes the best weights final.
    fn finish(
        &self,
        _task: &mut Self::Task,
        _manifest: &mut Self::Manifest,
        _context: &mut RunContext,
    ) -> Result<()> {
        Ok(())
    }
}

/// The sections that the shared way reads, whatever the kind of configuration.
struct Sections<'a> {
    run: &'a RunSection,
    loops: LoopConfig,
    /// Examples of a micro-batch.
    batch: usize,
    optimizer: AdamWConfig,
    /// Checkpoints kept.
    keep: usize,
}

impl<'a> Sections<'a> {
    fn new(
        run: &'a RunSection,
        train: &TrainSection,
        validation: &impl StopRule,
        checkpoint: &CheckpointSection,
    ) -> Self {
        Self {
            run,
            loops: LoopConfig::new(train, validation, checkpoint),
            batch: train.batch,
            optimizer: AdamWConfig::from(train),
            keep: checkpoint.keep,
        }
    }
}

/// The loop's needs, with everything loaded and encoded.
struct Prepared<T, M> {
    task: T,
    /// The trained tensors by name, f32 leaves.
    parameters: Vec<(String, Tensor)>,
    best: BestWeights,
    /// The manifest as it is before the first step, with the hashes of all inputs.
    manifest: M,
}

/// A task or its parts, the trained tensors by name, and how its best weights are stored.
type Trainable<T> = (T, Vec<(String, Tensor)>, BestWeights);

/// Surroundings of a run: its folder, where it computes, whom it tells, and who may end it.
pub(crate) struct RunContext<'a> {
    pub(crate) run: &'a Path,
    pub(crate) device: Device,
    /// Type of the passes.
    pub(crate) kind: Kind,
    pub(crate) display: &'a mut dyn Display,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) options: RunOptions,
    watch: Stopwatch,
    /// Hashes of the inputs of the run's earlier parts.
    earlier: Option<BTreeMap<String, String>>,
}

impl RunContext<'_> {
    /// Tells the display of `done` of `total` units of a phase.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the user asked to stop.
    pub(crate) fn advance(&mut self, phase: &'static str, done: u64, total: u64) -> Result<()> {
        self.display.advance(phase, done, total);
        self.go_on()
    }

    /// # Errors
    /// [`Error::Interrupted`] where the user asked to stop.
    pub(crate) fn go_on(&self) -> Result<()> {
        self.interrupt.check(0, self.run)
    }

    /// Gives the time since the last lap to a phase.
    pub(crate) fn lap(&mut self, phase: &str) {
        self.watch.lap(phase);
    }

    /// The processes of the run.
    pub(crate) fn peers(&self) -> &Peers {
        &self.options.peers
    }

    /// Checks that a resumed run gets what its first part got, and all processes the same. Jobs ask as soon as they know the
    /// hashes, before long work.
    ///
    /// # Errors
    /// An input is not the same file any more, or another one in another process.
    pub(crate) fn check_inputs(&self, inputs: &BTreeMap<String, String>) -> Result<()> {
        let named = |(name, hash): (&String, &String)| (format!("`{name}`"), hash.clone());
        let facts: Vec<(String, String)> = inputs.iter().map(named).collect();
        self.peers().check_same(&facts)?;
        match &self.earlier {
            Some(earlier) => check_inputs(inputs, earlier, self.run),
            None => Ok(()),
        }
    }
}

/// The run's folder, opened for work, or the manifest of a run that is finished.
enum Opened<M> {
    /// Without a folder in the processes that do not write.
    Folder(Option<RunFolder>, Option<M>),
    Finished(M),
}

/// Opens the folder of a run. `goes_on` says of a finished one whether its configuration asks for more by now.
fn open_folder<M: RunManifest>(
    config: &impl Serialize,
    output: &Path,
    resume: bool,
    display: &mut dyn Display,
    goes_on: impl FnOnce(&Record) -> Result<bool>,
) -> Result<Opened<M>> {
    let folder = RunFolder::create(output, config, resume)?;
    let earlier = manifest::find::<M>(folder.path())?;
    match earlier {
        Some(earlier) if earlier.record().status == FINISHED && !goes_on(earlier.record())? => {
            display.say(&format!(
                "`{}` is finished: nothing is left to do",
                output.display()
            ));
            Ok(Opened::Finished(earlier))
        }
        earlier => Ok(Opened::Folder(Some(folder), earlier)),
    }
}

/// As [`open_folder`] by the first of several processes. The others open none: they get from it the manifest of a finished run.
fn open_by_first<M: RunManifest>(
    peers: &Peers,
    open: impl FnOnce() -> Result<Opened<M>>,
) -> Result<Opened<M>> {
    if peers.are_none() {
        return open();
    }
    let opened = peers.is_first().then(open).transpose()?;
    let text = match &opened {
        Some(Opened::Finished(manifest)) => serde_json::to_string(manifest).ok(),
        _ => None,
    };
    let text: Option<String> = peers.first_says(text)?;
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|error| Error::Peers(format!("a manifest: {error}")))
    };
    match text.map(read).transpose()? {
        Some(manifest) => Ok(Opened::Finished(manifest)),
        None => Ok(opened.unwrap_or(Opened::Folder(None, None))),
    }
}

/// The newest checkpoint of the run as the first process finds it: its tensors in `optimizer`, and how far it came.
fn restore(run: &Path, optimizer: &mut AdamW, peers: &Peers) -> Result<Progress> {
    let mut progress = Progress::default();
    if peers.is_first() {
        progress = restore_latest(run, optimizer)?.unwrap_or_default();
    }
    if !peers.are_none() {
        optimizer.follow_first(peers)?;
        progress = peers.first_says(progress)?;
    }
    Ok(progress)
}

/// Hears the events of a process that is not the first: that one writes them down.
struct Unheard<'a>(&'a Interrupt);

impl Observer for Unheard<'_> {
    fn interrupted(&self) -> bool {
        self.0.requested()
    }

    fn event(&mut self, _event: &Event) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&mut self, _snapshot: &Snapshot) -> Result<PathBuf> {
        Ok(PathBuf::new())
    }

    fn best(&mut self, _snapshot: &Snapshot) -> Result<()> {
        Ok(())
    }
}

/// The one way through a run, which says so where its folder goes away meanwhile.
fn run<J: Job>(
    job: J,
    inputs: J::Inputs,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<J::Manifest> {
    let output = job.sections().run.output.clone();
    explain_loss(work(job, inputs, options, display, interrupt), &output)
}

/// Folder, earlier manifest, preparation, the check that inputs are unchanged, manifest, resume, loop, conclusion. Of several
/// processes the first one alone opens the folder and writes; the others get from it what it has read there.
fn work<J: Job>(
    mut job: J,
    inputs: J::Inputs,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<J::Manifest> {
    let Sections {
        run: section,
        loops,
        batch,
        optimizer,
        keep,
    } = job.sections();
    let peers = options.peers.clone();
    let share = Share::new(peers.clone(), batch, loops.accumulation as usize)?;
    let (device, kind) = resolve_for(&peers, &section.device, section.precision)?;
    let mut silent = Silent;
    let display = if peers.is_first() {
        display
    } else {
        &mut silent
    };
    let output = section.output.clone();
    let goes_on = |_: &Record| {
        let progress = checkpoint::latest_progress(&output)?;
        Ok(progress.is_some_and(|progress| !loops.ends_at(&progress)))
    };
    let table = config::to_table(job.config())?.to_string();
    peers.check_same(&[("configuration".to_owned(), table)])?;
    let resume = options.resume;
    let open = || open_folder::<J::Manifest>(job.config(), &output, resume, display, goes_on);
    let (_folder, earlier) = match open_by_first(&peers, open)? {
        Opened::Finished(manifest) => return Ok(manifest),
        Opened::Folder(folder, earlier) => (folder, earlier),
    };
    let run = output.as_path();
    let earlier = earlier.as_ref().map(RunManifest::record);
    let mut context = RunContext {
        run,
        device,
        kind,
        display,
        interrupt,
        options,
        watch: Stopwatch::resume(earlier.map(|record| &record.seconds)),
        earlier: earlier.map(|record| record.inputs.clone()),
    };
    let Prepared {
        mut task,
        parameters,
        best,
        mut manifest,
    } = job.prepare(inputs, &mut context)?;
    context.check_inputs(&manifest.record().inputs)?;
    manifest.record_mut().begin(device, kind, &parameters);
    manifest.record_mut().processes = peers.world() as u64;
    peers.check_same(&shapes(&parameters))?;
    if !peers.are_none() {
        task.take(&share)?;
    }

    let mut optimizer = AdamW::new(optimizer, parameters);
    let mut progress = restore(run, &mut optimizer, &peers)?;
    let before = progress.counts.clone();
    manifest.record_mut().note(&progress);
    manifest.record_mut().seconds = context.watch.seconds();
    let interrupted = || interrupt.requested();
    let mut observer: Box<dyn Observer> = if peers.is_first() {
        manifest::write(&manifest, run)?;
        Box::new(Recorder::new(
            run,
            &progress,
            best,
            keep,
            context.display,
            &interrupted,
        )?)
    } else {
        Box::new(Unheard(interrupt))
    };
    let outcome = trainer::run(
        &mut task,
        &mut optimizer,
        &loops,
        &share,
        &mut progress,
        &mut *observer,
    );
    drop(observer);
    context.watch.lap("train");
    if peers.are_none() {
        progress.counts = trainer::add_counts(&before, task.counts());
    }
    if !peers.is_first() {
        return outcome.map(|()| manifest);
    }
    manifest.record_mut().note(&progress);
    let outcome = outcome.and_then(|()| job.finish(&mut task, &mut manifest, &mut context));
    let record = manifest.record_mut();
    record.conclude(&outcome, &progress, loops.steps);
    record.seconds = context.watch.seconds();
    let noted = job.note(&task, &mut manifest, &mut context);
    let written = manifest::write(&manifest, run);
    // Where several failed, why the run ended matters most.
    outcome.and(noted).and(written).map(|()| manifest)
}

/// Names and shapes of the trained tensors, as processes compare them: sums of unlike ones end in libtorch without words.
fn shapes(parameters: &[(String, Tensor)]) -> Vec<(String, String)> {
    let shape = |(name, tensor): &(String, Tensor)| {
        let shape = format!("{name} {:?}", tensor.size());
        (format!("trained tensor `{name}`"), shape)
    };
    parameters.iter().map(shape).collect()
}
