//! What is left of a session: pairs to train on, its figures for the report, and the command that trains.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::figures::{Figures, Ranking, rankings};
use super::items::{Content, Items};
use super::records;
use super::said::{Game, games};
use super::session::Session;
use crate::data::placed::Placed;
use crate::data::text::put_variables;
use crate::error::{Error, Result};
use crate::files::{absolute, read_text_if_there, write_atomically, write_json};
use crate::ranking::Outcome;
use crate::run::evaluation::METRICS_FILE;

/// The pairs in a session's folder.
pub const PAIRS_FILE: &str = "pairs.jsonl";
/// What stands in a command for the model that is tuned.
const MODEL: &str = "MODEL";
/// What stands in a command for the encoder whose vectors a reward reads.
const ENCODER: &str = "CLIP";

/// What was written, and what it says.
pub struct Written {
    /// The file of pairs; none where nothing was said.
    pub pairs: Option<PathBuf>,
    /// Rows in it.
    pub rows: usize,
    /// Of these, ties: readers count them and learn nothing from them.
    pub ties: usize,
    /// The command that trains on them, for a shell; none where all are ties.
    pub command: Option<String>,
    /// The command that trains a reward on them.
    pub reward_command: Option<String>,
    /// The session's figures.
    pub figures: Figures,
    /// Rankings of the prompts' items, or of the sources.
    pub rankings: Vec<Ranking>,
}

/// Checks that the pairs of a session can be written to a file without anything else being lost.
///
/// # Errors
/// There is a file that no comparison has written, or it is one of the session's own.
pub fn check_out(out: &Path, session: &Path) -> Result<()> {
    let own = [records::FILE, METRICS_FILE].map(|name| absolute(&session.join(name)));
    if own.contains(&absolute(out)) {
        let problem = format!("`--out {}` is a file of the session itself", out.display());
        return Err(Error::config(problem).with_hint("choose another name, or leave `--out` out"));
    }
    let Some(text) = read_text_if_there(out)? else {
        return Ok(());
    };
    let is_pair = |line: &str| {
        let row: Option<Map<String, Value>> = serde_json::from_str(line).ok();
        let has = |row: &Map<String, Value>, names: &[&str]| {
            names.iter().all(|name| row.contains_key(*name))
        };
        row.is_some_and(|row| {
            has(&row, &["user", "weight"])
                && (has(&row, &["chosen", "rejected"]) || has(&row, &["response_a", "response_b"]))
        })
    };
    if text.lines().all(is_pair) {
        return Ok(());
    }
    let problem = format!(
        "`--out {}` is there, and no comparison has written it",
        out.display()
    );
    Err(Error::config(problem).with_hint("choose another name: the pairs would take its place"))
}

/// Writes the pairs into `out` and the figures into the session's folder, whole or not at all.
///
/// # Errors
/// A file cannot be written.
pub fn write(session: &Session, out: &Path) -> Result<Written> {
    let figures = Figures::of(session);
    let rankings = rankings(session)?;
    let items = session.items();
    let games = games(session.said().iter());
    let mut written = Written {
        pairs: None,
        rows: games.len(),
        ties: games
            .iter()
            .filter(|game| game.outcome == Outcome::Tie)
            .count(),
        command: None,
        reward_command: None,
        figures,
        rankings,
    };
    if games.is_empty() && out.exists() {
        // Pairs that were taken back are not to be learnt from.
        write_atomically(out, b"")?;
    }
    if !games.is_empty() {
        let place = Placed::new(out, items.items.iter().map(|item| item.path.as_path()));
        let groups = groups(items);
        let rows = games
            .iter()
            .map(|game| row(items, &groups, game, &place).to_string() + "\n");
        write_atomically(out, rows.collect::<String>().as_bytes())?;
        let above = place.above().map(Path::to_owned);
        let commands = if items.are_images() {
            let above_pairs = above.as_deref().map(|above| ("pairs.images", above));
            let all = above.as_deref().or(out.parent()).unwrap_or(Path::new(""));
            (
                command(
                    "image/dpo_sd15_lora",
                    &[("model.base", MODEL)],
                    ("pairs.train", out),
                    above_pairs,
                ),
                command(
                    "reward/images",
                    &[("data.encoder", ENCODER)],
                    ("data.train", out),
                    Some(("data.images", all)),
                ),
            )
        } else {
            (
                command(
                    "text/dpo",
                    &[("model.base", MODEL)],
                    ("data.train", out),
                    None,
                ),
                command(
                    "reward/language_model",
                    &[("model.base", MODEL)],
                    ("data.train", out),
                    None,
                ),
            )
        };
        if written.ties < written.rows {
            (written.command, written.reward_command) = commands;
        }
        written.pairs = Some(out.to_owned());
    }
    write_json(
        &session.folder().join(METRICS_FILE),
        &metrics(session, &written),
    )?;
    Ok(written)
}

/// The group of each item.
fn groups(items: &Items) -> Vec<usize> {
    let mut of = vec![0; items.items.len()];
    for (number, group) in items.groups.iter().enumerate() {
        for &item in &group.items {
            of[item] = number;
        }
    }
    of
}

/// A row as runs on pairs of images, or of texts, read it.
fn row(items: &Items, groups: &[usize], game: &Game, place: &Placed) -> Value {
    let pair = game.said.pair;
    let group = &items.groups[groups[pair.left]];
    let mut row = json!({});
    group.prompt.put(&mut row);
    put_variables(&mut row, &group.variables);
    let both = (&items.items[pair.left], &items.items[pair.right]);
    if let (Content::Answer(left), Content::Answer(right)) = (&both.0.content, &both.1.content) {
        row["response_a"] = left.to_value();
        row["response_b"] = right.to_value();
        row["winner"] = json!(match game.outcome {
            Outcome::Left => "response_a",
            Outcome::Right => "response_b",
            Outcome::Tie => "tie",
        });
    } else {
        let (chosen, rejected) = match game.outcome {
            Outcome::Right => (both.1, both.0),
            Outcome::Left | Outcome::Tie => both,
        };
        row["chosen"] = json!(place.name(&chosen.path));
        row["rejected"] = json!(place.name(&rejected.path));
        row["label"] = json!(if game.outcome == Outcome::Tie {
            0.5
        } else {
            1.0
        });
    }
    row["weight"] = json!(game.weight);
    row["user"] = json!(game.said.judge);
    row
}

/// A command that trains on the pairs by one of the example configurations, with what stands for the user's own model and with
/// paths.
fn command(
    config: &str,
    own: &[(&str, &str)],
    pairs: (&str, &Path),
    images: Option<(&str, &Path)>,
) -> Option<String> {
    let mut words = vec![
        "preftune".to_owned(),
        "train".to_owned(),
        format!("configs/{config}.toml"),
    ];
    let mut set =
        |key: &str, value: &str| words.extend(["--set".to_owned(), format!("{key}={value}")]);
    for (key, value) in own {
        set(key, value);
    }
    for (key, path) in [Some(pairs), images].into_iter().flatten() {
        set(key, &absolute(path).to_string_lossy());
    }
    // Only a NUL cannot be quoted, which no path has.
    shlex::try_join(words.iter().map(String::as_str)).ok()
}

/// The figures as `preftune report` reads those of an evaluation.
fn metrics(session: &Session, written: &Written) -> Value {
    let items = session.items();
    let Figures {
        judges,
        alpha,
        shared,
        sources,
    } = &written.figures;
    let mut figures = Vec::new();
    let mut figure = |model: &str, name: &str, value: f64, interval: Option<[f64; 2]>| {
        figures.push(json!({"model": model, "name": name, "value": value, "interval": interval}));
    };
    for source in sources {
        let Some(win_rate) = source.win_rate else {
            continue;
        };
        figure(
            &source.name,
            "people/win_rate",
            win_rate,
            Some(source.interval),
        );
    }
    for judge in judges.iter().filter(|judge| judge.keys > 0) {
        let role = format!("judge {}", judge.judge);
        if let Some(same) = judge.self_agreement {
            figure(
                &role,
                "people/self_agreement",
                same.share,
                Some(same.interval),
            );
        }
        if let Some(left) = judge.left {
            figure(&role, "people/left_side", left.share, Some(left.interval));
        }
        if let Some(alpha) = alpha {
            figure(&role, "people/krippendorff_alpha", *alpha, None);
        }
    }
    let names: Vec<&str> = judges.iter().map(|judge| judge.judge.as_str()).collect();
    let mut protocol = json!({"judges": names});
    let notes: Vec<&str> = session.notes().map(String::as_str).collect();
    if !notes.is_empty() {
        protocol["notes"] = json!(notes.join("; "));
    }
    if !sources.is_empty() {
        protocol["win_rate"] = json!(format!(
            "share of match-ups that people preferred to {}, a tie being half a win, by the first answer to each; the interval of \
             95 % holds at whatever number of match-ups one stops",
            sources[0].against
        ));
    }
    let known = items.sources.iter().zip(&items.runs);
    let runs: Map<String, Value> = known
        .filter_map(|(name, run)| Some((name.clone(), json!(absolute(run.as_deref()?)))))
        .collect();
    json!({
        "protocol": protocol, "figures": figures,
        "counts": {"judges": judges, "shared_pairs": shared, "sources": sources, "runs": runs, "rankings": written.rankings,
                   "pairs": written.rows, "ties": written.ties},
    })
}
