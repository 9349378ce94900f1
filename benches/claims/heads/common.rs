//! What the claims share: data from seeds, a training run without files, tables with intervals.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

use preftune::config::reward_from_table;
use preftune::data::preferences::{Pair, Rating};
use preftune::distributed::Share;
use preftune::error::Result;
use preftune::eval::bootstrap::Bootstrap;
use preftune::models::heads::{Head, HeadConfig, HeadKind};
use preftune::ops::random::{derive_seed, randn, uniform};
use preftune::trainer::event::{Event, Metrics, Observer, Progress, Snapshot};
use preftune::trainer::optimizer::{AdamW, AdamWConfig};
use preftune::trainer::reward::{Embeddings, Examples, Pairs, Ratings, RewardTask, Source};
use preftune::trainer::{self, LoopConfig};
use tch::{Device, Kind, Tensor};

/// The seeds of every claim: none on which a criterion was ever tried.
pub fn seeds() -> std::ops::Range<u64> {
    1000..1020
}

/// Unit-normal numbers `[shape]`, from a seed and what they are for.
pub fn normal(seed: u64, purpose: &str, shape: &[i64]) -> Tensor {
    randn(derive_seed(seed, purpose, &[]), shape, Device::Cpu)
}

/// The same as plain numbers.
pub fn normals(seed: u64, purpose: &str, count: usize) -> Vec<f64> {
    numbers(&normal(seed, purpose, &[count as i64]))
}

/// Uniform numbers.
pub fn uniforms(seed: u64, purpose: &str, count: usize) -> Vec<f64> {
    (0..count as u64)
        .map(|at| uniform(derive_seed(seed, purpose, &[at])))
        .collect()
}

pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

pub fn pair(chosen: usize, rejected: usize) -> Pair {
    Pair {
        chosen,
        rejected,
        prompt: None,
        strength: 1.0,
        weight: 1.0,
        user: None,
        held_out: None,
    }
}

/// What a head is trained on and judged by.
pub struct Data {
    pub responses: Tensor,
    pub train: Vec<Pair>,
    pub held_out: Vec<Pair>,
    pub users: Vec<String>,
}

impl Data {
    pub fn embeddings(&self) -> Embeddings {
        Embeddings {
            responses: self.responses.shallow_clone(),
            prompts: None,
        }
    }
}

/// How a head is trained: lines of `[reward_model]`, hidden layers, steps, learning rate, seed.
pub struct Recipe<'a> {
    pub model: &'a str,
    pub kind: HeadKind,
    pub hidden: &'a [i64],
    pub steps: u64,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub seed: u64,
}

/// Trains a head on pairs to the last step; its metrics on what is held out.
pub fn fit(data: &Data, recipe: Recipe) -> (Rc<Head>, Metrics) {
    let pairs = |pairs: &[Pair]| Examples::Pairs(Pairs::new(pairs, &data.users, Device::Cpu));
    train(
        data.embeddings(),
        pairs(&data.train),
        Some(pairs(&data.held_out)),
        recipe,
    )
}

/// Trains a head on ratings of one attribute.
pub fn fit_ratings(responses: &Tensor, ratings: &[Rating], recipe: Recipe) -> Rc<Head> {
    let embeddings = Embeddings {
        responses: responses.shallow_clone(),
        prompts: None,
    };
    let ratings = Ratings::new(ratings, &["rating".to_owned()], Device::Cpu);
    train(embeddings, Examples::Ratings(ratings), None, recipe).0
}

fn train(
    embeddings: Embeddings,
    examples: Examples,
    held_out: Option<Examples>,
    recipe: Recipe,
) -> (Rc<Head>, Metrics) {
    let text = format!(
        "[run]\noutput = \"none\"\nseed = {}\n[reward_model]\n{}\n[data]\nembeddings = \"none\"\ntrain = \"none\"\n\
         [train]\nsteps = {}\nbatch = 64\nlearning_rate = {:?}\nweight_decay = {:?}\nlog_every = 1000\n\
         [validation]\nevery = 0\npatience = 0\n[checkpoint]\nevery = 0\n",
        recipe.seed, recipe.model, recipe.steps, recipe.learning_rate, recipe.weight_decay
    );
    let config = reward_from_table(&text.parse().unwrap()).unwrap();
    let head = HeadConfig {
        input: embeddings.responses.size()[1],
        hidden: recipe.hidden.to_vec(),
        bias: true,
        kind: recipe.kind,
    };
    let head = Rc::new(Head::new(head, recipe.seed, Kind::Float, Device::Cpu));
    let source = Source::Stored(embeddings);
    let mut task = RewardTask::new(Rc::clone(&head), source, examples, held_out, &config).unwrap();
    let mut optimizer = AdamW::new(
        AdamWConfig::from(&config.train.as_train()),
        head.parameters(),
    );
    let loops = LoopConfig::new(
        &config.train.as_train(),
        &config.validation,
        &config.checkpoint,
    );
    trainer::run(
        &mut task,
        &mut optimizer,
        &loops,
        &Share::whole(),
        &mut Progress::default(),
        &mut Silent,
    )
    .unwrap();
    let (_, metrics) = task.measure(&head);
    (head, metrics)
}

struct Silent;

impl Observer for Silent {
    fn interrupted(&self) -> bool {
        false
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

pub fn metric(metrics: &Metrics, name: &str) -> f64 {
    metrics.iter().find(|(known, _)| known == name).unwrap().1
}

/// A scalar head of one output called `reward`.
pub fn scalar() -> HeadKind {
    HeadKind::Scalar {
        outputs: vec!["reward".to_owned()],
    }
}

/// Mean over seeds with its interval.
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

pub fn estimate(values: &[f64]) -> Estimate {
    let clusters: Vec<Vec<f64>> = values.iter().map(|value| vec![*value]).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (low, high) = Bootstrap::default()
        .interval(&clusters)
        .unwrap_or((mean, mean));
    Estimate { mean, low, high }
}

impl Estimate {
    pub fn show(&self) -> String {
        format!("{:.3} [{:.3}, {:.3}]", self.mean, self.low, self.high)
    }
}

pub fn differences(one: &[f64], other: &[f64]) -> Estimate {
    let differences: Vec<f64> = one
        .iter()
        .zip(other)
        .map(|(one, other)| one - other)
        .collect();
    estimate(&differences)
}

/// Kendall's tau of two lists of numbers without many ties.
pub fn kendall(one: &[f64], other: &[f64]) -> f64 {
    let (mut sum, mut pairs) = (0.0, 0.0);
    let points: Vec<(&f64, &f64)> = one.iter().zip(other).collect();
    for (at, (x, y)) in points.iter().enumerate() {
        for (x_before, y_before) in &points[..at] {
            let product = (*x - *x_before) * (*y - *y_before);
            // The sign of 0 is 1 to Rust: ties count neither way.
            sum += if product.abs() > 0.0 {
                product.signum()
            } else {
                0.0
            };
            pairs += 1.0;
        }
    }
    sum / pairs
}

/// A table and what is claimed of it.
pub struct Report {
    table: String,
    claims: String,
    holds: bool,
}

impl Report {
    pub fn new(header: &[&str]) -> Self {
        let rule = vec!["---"; header.len()].join(" | ");
        Self {
            table: format!("| {} |\n| {rule} |\n", header.join(" | ")),
            claims: String::new(),
            holds: true,
        }
    }

    pub fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.table, "| {} |", cells.join(" | "));
    }

    /// Writes a claim down with whether it holds.
    pub fn claim(&mut self, what: &str, holds: bool) {
        let verdict = if holds { "holds" } else { "does not hold" };
        let _ = writeln!(self.claims, "- {verdict}: {what}");
        self.holds &= holds;
    }

    pub fn text(&self) -> String {
        format!("{}\n{}", self.table, self.claims)
    }

    pub fn holds(&self) -> bool {
        self.holds
    }
}
