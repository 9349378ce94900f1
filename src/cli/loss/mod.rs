//! `preftune loss`: the value and the gradient of an objective for each row of a table of log-probs, in f64.

mod rows;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use tch::Tensor;

use super::table;
use crate::cli::output::print_json;
use crate::error::{Error, Result};
use crate::losses::objectives::{Flag, OBJECTIVES, Objective};

#[derive(Args)]
pub(crate) struct LossArgs {
    /// Name of the objective, as `dpo`, `ipo`, `fdpo_js`, `tdpo2`, `simpo`, `kto`, `pro`; see `--list`.
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    objective: Option<String>,
    /// Table: one JSON object a line, with the objective's columns (summed log-probs) and, where it takes one, `margin`.
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    input: Option<PathBuf>,
    /// Name all objectives with their columns and numbers.
    #[arg(long, exclusive = true)]
    list: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scalars: ScalarArgs,
}

/// The numbers of objectives; each takes its own.
#[derive(Args)]
#[command(next_help_heading = "Numbers of the objective")]
struct ScalarArgs {
    /// Strength of the pull to the reference, or scale of the margin.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    beta: Option<f64>,
    /// IPO: the target margin is 1 / (2 tau). INPO: pull to the first reference.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    tau: Option<f64>,
    /// DNO, INPO: strength of the pull to the previous iterate.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// f-DPO: between reverse (0) and forward KL divergence (1). TDPO2: weight of the divergences.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// cDPO, rDPO: share of labels that are wrong.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// BRAIn: temperature of the posterior.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    gamma: Option<f64>,
    /// SimPO: margin asked for, in nats per token.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    gamma_beta_ratio: Option<f64>,
    /// ASFT, ORPO: weight of the preference term.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    lambda: Option<f64>,
    /// ASFT, PRO: weight of the likelihood term.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    sft_weight: Option<f64>,
    /// f-DPO: exponents above it go on as a straight line.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    exponent_cap: Option<f64>,
    /// GPO: largest target.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    target_clamp: Option<f64>,
    /// Length-normalised GPO: log-ratios are divided by length to this power.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    length_exponent: Option<f64>,
    /// KTO: weight of desirable responses.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    desirable_weight: Option<f64>,
    /// KTO: weight of undesirable responses.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    undesirable_weight: Option<f64>,
    /// DNO: what differences of win rates are multiplied by before they become targets.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    target_scale: Option<f64>,
}

/// An objective at one row.
struct Outcome {
    line: usize,
    loss: f64,
    /// By the policy's columns, in their order: one number, or one for each response.
    gradients: Vec<Vec<f64>>,
}

pub(crate) fn run(args: &LossArgs) -> Result<()> {
    let (Some(name), Some(input)) = (&args.objective, &args.input) else {
        print!("{}", catalogue());
        return Ok(());
    };
    let objective = find(name)?;
    let scalars = args.scalars.resolve(objective)?;
    let rows = rows::read(input, objective)?;
    if !objective.margin && rows.iter().any(|row| row.margin != 0.0) {
        let name = objective.name;
        eprintln!(
            "warning: `{name}` has no use for the column `{}`",
            rows::MARGIN
        );
    }
    // Lists may differ in length from row to row; everything else is one batch.
    let size = if objective.lists { 1 } else { rows.len() };
    let mut outcomes = Vec::with_capacity(rows.len());
    for batch in rows.chunks(size) {
        outcomes.extend(evaluate(objective, &scalars, batch)?);
    }
    let finite = |outcome: &Outcome| {
        let gradients = outcome.gradients.iter().flatten();
        gradients
            .chain([&outcome.loss])
            .all(|value| value.is_finite())
    };
    if let Some(outcome) = outcomes.iter().find(|outcome| !finite(outcome)) {
        let problem = format!("`{}` or its gradient overflows here", objective.name);
        return Err(Error::data_line(input, outcome.line, problem));
    }
    if args.json {
        let report = report(objective, &scalars, &outcomes);
        print_json(&report);
    } else {
        print!("{}", people(objective, &outcomes));
    }
    Ok(())
}

impl ScalarArgs {
    fn all(&self) -> [(Flag, Option<f64>); 15] {
        [
            (Flag::Beta, self.beta),
            (Flag::Tau, self.tau),
            (Flag::Eta, self.eta),
            (Flag::Alpha, self.alpha),
            (Flag::LabelSmoothing, self.label_smoothing),
            (Flag::Gamma, self.gamma),
            (Flag::GammaBetaRatio, self.gamma_beta_ratio),
            (Flag::Lambda, self.lambda),
            (Flag::SftWeight, self.sft_weight),
            (Flag::ExponentCap, self.exponent_cap),
            (Flag::TargetClamp, self.target_clamp),
            (Flag::LengthExponent, self.length_exponent),
            (Flag::DesirableWeight, self.desirable_weight),
            (Flag::UndesirableWeight, self.undesirable_weight),
            (Flag::TargetScale, self.target_scale),
        ]
    }

    /// The numbers of an objective in its order: what was given, else its defaults.
    fn resolve(&self, objective: &Objective) -> Result<Vec<f64>> {
        let all = self.all();
        let given = |flag| {
            let given = all.iter().find(|(known, _)| *known == flag);
            given.and_then(|(_, value)| *value)
        };
        objective
            .numbers(given, |flag| format!("--{}", flag.name()))
            .map_err(|problems| Error::Config { problems })
    }
}

/// The objective of this name.
fn find(name: &str) -> Result<&'static Objective> {
    Objective::find(name).map_err(|instead| {
        let problem = format!("there is no objective `{name}`{instead}");
        Error::config(problem).with_hint("`preftune loss --list` names all objectives")
    })
}

/// Losses of a batch and their gradients; the rows of a batch of lists are one.
fn evaluate(objective: &Objective, scalars: &[f64], batch: &[rows::Row]) -> Result<Vec<Outcome>> {
    let columns = objective.columns.iter().enumerate();
    let columns: Vec<Tensor> = columns
        .map(|(index, column)| {
            let cells = batch
                .iter()
                .flat_map(|row| row.cells[index].iter().copied());
            let values = Tensor::from_slice(&cells.collect::<Vec<f64>>()); // [b] or [n]
            let values = if objective.lists {
                values.unsqueeze(0) // [1, n]
            } else {
                values
            };
            values.set_requires_grad(column.policy)
        })
        .collect();
    let margins: Vec<f64> = batch.iter().map(|row| row.margin).collect();
    let loss = if objective.margin && margins.iter().any(|margin| *margin != 0.0) {
        objective.loss_beyond(&Tensor::from_slice(&margins), &columns, scalars)
    } else {
        (objective.loss)(&columns, scalars)
    }; // [b]
    loss.sum(None).backward();
    let losses = Vec::<f64>::try_from(&loss.detach())?;
    let mut gradients = Vec::new();
    for (tensor, column) in columns.iter().zip(objective.columns) {
        if column.policy {
            let gradient = tensor.grad();
            // A column behind a stopped gradient has none.
            let gradient = if gradient.defined() {
                gradient
            } else {
                tensor.detach().zeros_like()
            };
            gradients.push(Vec::<f64>::try_from(&gradient.flatten(0, -1))?);
        }
    }
    let outcomes = batch.iter().zip(losses).enumerate();
    let outcomes = outcomes.map(|(index, (row, loss))| Outcome {
        line: row.line,
        loss,
        gradients: gradients
            .iter()
            .map(|column| {
                if objective.lists {
                    column.clone()
                } else {
                    vec![column[index]]
                }
            })
            .collect(),
    });
    Ok(outcomes.collect())
}

fn policy_columns(objective: &Objective) -> impl Iterator<Item = &'static str> {
    let columns = objective.columns.iter().filter(|column| column.policy);
    columns.map(|column| column.name)
}

fn average(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().map(|outcome| outcome.loss).sum::<f64>() / outcomes.len() as f64
}

fn report(objective: &Objective, scalars: &[f64], outcomes: &[Outcome]) -> Value {
    let numbers = objective.scalars.iter().zip(scalars);
    let numbers =
        numbers.map(|(scalar, value)| (scalar.flag.name().replace('-', "_"), json!(value)));
    let rows = outcomes.iter().map(|outcome| {
        let gradients = policy_columns(objective).zip(&outcome.gradients);
        let gradients = gradients.map(|(name, gradient)| {
            let value = match (objective.lists, gradient.as_slice()) {
                (false, [one]) => json!(one),
                (_, many) => json!(many),
            };
            (name.to_owned(), value)
        });
        json!({
            "line": outcome.line,
            "loss": outcome.loss,
            "gradient": gradients.collect::<Map<String, Value>>(),
        })
    });
    json!({
        "objective": objective.name,
        "numbers": numbers.collect::<Map<String, Value>>(),
        "mean": average(outcomes),
        "rows": rows.collect::<Vec<Value>>(),
    })
}

fn people(objective: &Objective, outcomes: &[Outcome]) -> String {
    let mut header = vec!["line".to_owned(), "loss".to_owned()];
    header.extend(policy_columns(objective).map(|name| format!("d/{name}")));
    let mut rows: Vec<Vec<String>> = Vec::with_capacity(outcomes.len() + 1);
    for outcome in outcomes {
        let mut row = vec![outcome.line.to_string(), number(outcome.loss)];
        row.extend(outcome.gradients.iter().map(|gradient| {
            let numbers: Vec<String> = gradient.iter().copied().map(number).collect();
            numbers.join(" ")
        }));
        rows.push(row);
    }
    let mut mean = vec!["mean".to_owned(), number(average(outcomes))];
    mean.resize(header.len(), String::new());
    rows.push(mean);
    table::render(&header, &rows)
}

/// Ten digits after the point, or in scientific form where these would hide the number.
fn number(value: f64) -> String {
    if value == 0.0 || (1e-4..1e6).contains(&value.abs()) {
        format!("{value:.10}")
    } else {
        format!("{value:.9e}")
    }
}

/// Every objective with what it reads.
fn catalogue() -> String {
    let mut lines = Vec::new();
    for objective in OBJECTIVES {
        let columns: Vec<&str> = objective.columns.iter().map(|column| column.name).collect();
        let more = if objective.margin {
            ", margin (optional)"
        } else {
            ""
        };
        let lists = if objective.lists { " (lists)" } else { "" };
        lines.push(objective.name.to_owned());
        lines.push(format!("  columns{lists}: {}{more}", columns.join(", ")));
        let mut values = Vec::new();
        let mut shown = Vec::new();
        for scalar in objective.scalars {
            let value = (scalar.default)(&values);
            shown.push(format!("--{} {value}", scalar.flag.name()));
            values.push(value);
        }
        if !shown.is_empty() {
            lines.push(format!("  defaults: {}", shown.join(" ")));
        }
    }
    lines.join("\n") + "\n"
}
