//! `preftune rank`: side-by-side comparisons to a ranking with its uncertainty.

mod pairs;
mod table;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use crate::cli::rank::pairs::PairsArgs;
use crate::cli::rank::table::ConfidenceScores;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::ranking::answers::Answers;
use crate::ranking::columns::Named;
use crate::ranking::comparisons::Keep;
use crate::ranking::judgements::Consistency;
use crate::ranking::outcomes::Values;
use crate::ranking::read::{Asked, Invalid};
use crate::ranking::standings::{Errors, Method, Options, Ranking, rank};
use crate::ranking::{Prior, Ties, confidence, read};
use crate::report;

#[derive(Args)]
pub(crate) struct RankArgs {
    /// Comparisons: delimited text with headers (`,` `;` tab), JSON lines, a JSON array (also compressed: .gz) or Parquet. Of a
    /// file that `--judgements` kept, both orders of a match-up are one comparison.
    #[arg(long, value_name = "FILE", required_unless_present = "pairs")]
    input: Option<PathBuf>,
    /// Column of the left item [default: guessed, as `left`, `model_a`, `item_x`, `winner`].
    #[arg(long, value_name = "COLUMN")]
    left: Option<String>,
    /// Column of the right item [default: guessed, as `right`, `model_b`, `item_y`, `loser`].
    #[arg(long, value_name = "COLUMN")]
    right: Option<String>,
    /// Column that says who won [default: guessed, as `winner`, `outcome`, `preference`, or `winner_model_a` and its like].
    #[arg(long, value_name = "COLUMN")]
    winner: Option<String>,
    /// How the outcome column is written, where that can be read in two ways.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "pairs")]
    winner_is: Option<ValuesName>,
    /// Treatment of rows that cannot be used [default: left out and counted; one in ten is an error].
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "pairs")]
    invalid: Option<InvalidName>,
    /// Column of how many games a row counts for [default: `weight` if there is one, else 1].
    #[arg(long, value_name = "COLUMN")]
    weight: Option<String>,
    /// Column of what was asked; the bootstrap draws whole groups [default: guessed, as `prompt`].
    #[arg(long, value_name = "COLUMN")]
    group: Option<String>,
    /// How strengths are found.
    #[arg(long, value_enum, default_value_t = MethodName::BradleyTerry)]
    method: MethodName,
    /// Meaning of a tie.
    #[arg(long, value_enum, default_value_t = TiesName::Half)]
    ties: TiesName,
    /// Precision of the normal prior on strengths; 0 is maximum likelihood.
    #[arg(
        long,
        value_name = "PRECISION",
        default_value_t = 0.1,
        conflicts_with = "virtual_games"
    )]
    prior: f64,
    /// In place of `--prior`: gives each item so many wins and as many losses against an opponent of strength 0.
    #[arg(long, value_name = "GAMES")]
    virtual_games: Option<f64>,
    /// Intervals without a bootstrap [default: wald for up to 1000 items].
    #[arg(long, value_enum)]
    errors: Option<ErrorsName>,
    /// Number of bootstrap resamples, for intervals, rank intervals and P(best).
    #[arg(long, value_name = "N", default_value_t = 0)]
    bootstrap: usize,
    /// Seed of the bootstrap and of the orders of Elo and TrueSkill.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Elo: how far one game moves a rating at most.
    #[arg(long, default_value_t = 32.0)]
    k: f64,
    /// Elo, TrueSkill: how many random orders to average; 0 takes the order of the file.
    #[arg(long, default_value_t = 100)]
    orders: usize,
    /// Item with an Elo of 1000, or of another value, as in `--anchor "base model=1200"`.
    #[arg(long, value_name = "ITEM[=ELO]")]
    anchor: Option<String>,
    /// A .csv of `item` and `correct`: how well strengths tell right answers from wrong ones.
    #[arg(long, value_name = "FILE")]
    correct: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Also draw the ranking with its intervals, as an image that stands alone.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pairs: PairsArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum MethodName {
    BradleyTerry,
    Elo,
    /// TrueSkill, by the crate `skillratings`.
    TrueSkill,
    Centrality,
    WinRate,
}

#[derive(Clone, Copy, ValueEnum)]
enum TiesName {
    /// Half a win for each.
    Half,
    /// Left out.
    Drop,
    /// An outcome of its own (Davidson 1970).
    Davidson,
    /// An outcome of its own (Rao and Kupper 1967).
    RaoKupper,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ErrorsName {
    Wald,
    Sandwich,
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum ValuesName {
    /// The name of the item that won.
    Names,
    /// A word for the side: `left`, `model_a`, `A`.
    Sides,
    /// W, D or L: what the left item got.
    Result,
    /// 1: the left item won, 0: the right one, between: its share.
    Score,
    /// 1: the left item won, -1: the right one, 0: a tie.
    Sign,
    /// 0: the left item won, 1: the right one, 2: a tie.
    Index,
    /// 1: the left item won, 2: the right one, 1.5 or 0: a tie, between: a share.
    Number,
    /// Below 0: the left item won, above 0: the right one, 0: a tie; by how much does not count (HelpSteer).
    Strength,
    /// As `strength`, and the number says how many games it counts for.
    Games,
}

#[derive(Clone, Copy, ValueEnum)]
enum InvalidName {
    /// Leave them out and count them, however many they are.
    Drop,
    /// Stop at the first one.
    Error,
}

pub(crate) fn run(args: &RankArgs) -> Result<()> {
    let method = match args.method {
        MethodName::BradleyTerry => Method::BradleyTerry,
        MethodName::Elo => Method::Elo {
            k: args.k,
            orders: args.orders,
        },
        MethodName::TrueSkill => Method::TrueSkill {
            orders: args.orders,
        },
        MethodName::Centrality => Method::Centrality,
        MethodName::WinRate => Method::WinRate,
    };
    let keep = Keep {
        order: matches!(method, Method::Elo { .. } | Method::TrueSkill { .. }),
        groups: args.bootstrap > 0,
    };
    let (comparisons, consistency) = if let Some(input) = &args.input {
        (read::read(input, &args.asked(), keep)?, None)
    } else {
        let group = args.group.as_deref();
        let Some((comparisons, consistency)) = args.pairs.compare(group, args.seed, keep)? else {
            return Ok(());
        };
        (comparisons, Some(consistency))
    };
    let options = Options {
        method,
        ties: match args.ties {
            TiesName::Half => Ties::Half,
            TiesName::Drop => Ties::Drop,
            TiesName::Davidson => Ties::Davidson,
            TiesName::RaoKupper => Ties::RaoKupper,
        },
        prior: args.prior()?,
        errors: match args.errors {
            None => Errors::Default,
            Some(ErrorsName::Wald) => Errors::Wald,
            Some(ErrorsName::Sandwich) => Errors::Sandwich,
            Some(ErrorsName::None) => Errors::None,
        },
        bootstrap: args.bootstrap,
        seed: args.seed,
        anchor: args
            .anchor
            .as_deref()
            .map(|text| anchor(text, &comparisons.items)),
    };
    let bar = if args.bootstrap > 0 && std::io::stderr().is_terminal() {
        ProgressBar::new(args.bootstrap as u64)
    } else {
        ProgressBar::hidden()
    };
    let ranking = rank(&comparisons, &options, || bar.inc(1))?;
    bar.finish_and_clear();
    let selective = match &args.correct {
        Some(path) => Some(selective(&ranking, path)?),
        None => None,
    };
    table::warn(&ranking);
    if let Some(path) = &args.svg {
        let read = args.input.as_ref().or(args.pairs.file());
        let value =
            serde_json::to_value(&ranking).map_err(|error| Error::config(error.to_string()))?;
        let svg = report::ranking(read.map_or(path, |read| read), value)?;
        write_atomically(path, svg.as_bytes())?;
    }
    if args.json {
        print_json(&ranking, selective.as_ref(), consistency)
    } else {
        table::print(&ranking, selective.as_ref(), consistency.as_ref());
        Ok(())
    }
}

impl RankArgs {
    fn asked(&self) -> Asked {
        Asked {
            named: Named {
                left: self.left.clone(),
                right: self.right.clone(),
                winner: self.winner.clone(),
                weight: self.weight.clone(),
                group: self.group.clone(),
            },
            values: self.winner_is.map(|values| match values {
                ValuesName::Names => Values::Names,
                ValuesName::Sides => Values::Sides,
                ValuesName::Result => Values::Result,
                ValuesName::Score => Values::Score,
                ValuesName::Sign => Values::Sign,
                ValuesName::Index => Values::Index,
                ValuesName::Number => Values::Number,
                ValuesName::Strength => Values::Strength,
                ValuesName::Games => Values::Games,
            }),
            invalid: match self.invalid {
                None => Invalid::Few,
                Some(InvalidName::Drop) => Invalid::Drop,
                Some(InvalidName::Error) => Invalid::Error,
            },
        }
    }

    fn prior(&self) -> Result<Prior> {
        match (self.virtual_games, self.prior) {
            (Some(games), _) if games.is_finite() && games > 0.0 => {
                Ok(Prior::VirtualOpponent { games })
            }
            (Some(games), _) => Err(Error::config(format!(
                "`--virtual-games {games}`: it must be a positive number"
            ))),
            (None, precision) if precision.is_finite() && precision >= 0.0 => {
                Ok(if precision > 0.0 {
                    Prior::Gaussian { precision }
                } else {
                    Prior::None
                })
            }
            (None, precision) => Err(Error::config(format!(
                "`--prior {precision}`: it must be 0 or a positive number"
            ))),
        }
    }
}

/// `NAME` or `NAME=ELO`, where a name may contain the sign itself.
fn anchor(text: &str, items: &[String]) -> (String, f64) {
    if items.iter().any(|item| item == text) {
        return (text.to_owned(), 1000.0);
    }
    match text.rsplit_once('=') {
        Some((name, elo)) if elo.parse::<f64>().is_ok() => {
            (name.to_owned(), elo.parse().unwrap_or(1000.0))
        }
        _ => (text.to_owned(), 1000.0),
    }
}

fn selective(ranking: &Ranking, path: &std::path::Path) -> Result<ConfidenceScores> {
    let standings = &ranking.standings;
    let items: Vec<String> = standings.iter().map(|row| row.item.clone()).collect();
    let strengths: Vec<f64> = standings.iter().map(|row| row.strength).collect();
    let correct = Answers::read(path, Some(&[]))?.correct_of(path, &items)?;
    let right = correct.iter().filter(|correct| **correct).count();
    Ok(ConfidenceScores {
        selective_auc: confidence::selective_auc(&strengths, &correct)?,
        auroc: confidence::auroc(&strengths, &correct)?,
        accuracy: right as f64 / correct.len() as f64,
    })
}

fn print_json(
    ranking: &Ranking,
    selective: Option<&ConfidenceScores>,
    judgements: Option<Consistency>,
) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Output<'a> {
        #[serde(flatten)]
        ranking: &'a Ranking,
        confidence: Option<&'a ConfidenceScores>,
        #[serde(skip_serializing_if = "Option::is_none")]
        judgements: Option<Consistency>,
    }
    let output = Output {
        ranking,
        confidence: selective,
        judgements,
    };
    let text =
        serde_json::to_string_pretty(&output).map_err(|error| Error::config(error.to_string()))?;
    println!("{text}");
    Ok(())
}
