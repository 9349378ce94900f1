//! The table that `preftune rank` prints for people, and the warnings beside it.

use super::rank::ConfidenceScores;
use super::table;
use crate::ranking::judgements::Consistency;
use crate::ranking::standings::{Ranking, Standing};

/// Names of a component that are listed at most.
const NAMES: usize = 4;
/// Components that are listed at most.
const COMPONENTS: usize = 5;

/// Prints the ranking on stdout.
pub(super) fn print(
    ranking: &Ranking,
    selective: Option<&ConfidenceScores>,
    consistency: Option<&Consistency>,
) {
    let columns = columns(ranking);
    let header: Vec<String> = columns
        .iter()
        .map(|column| column.title.to_owned())
        .collect();
    let rows: Vec<Vec<String>> = (0..ranking.standings.len())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.cells[row].clone())
                .collect()
        })
        .collect();
    print!("{}", table::render(&header, &rows));
    println!();
    for note in notes(ranking, selective) {
        println!("{note}");
    }
    if let Some(consistency) = consistency {
        println!("{}", of_judgements(consistency));
    }
}

struct Column {
    title: &'static str,
    cells: Vec<String>,
}

fn columns(ranking: &Ranking) -> Vec<Column> {
    type Cell = fn(&Standing) -> Option<String>;
    let all: [(&'static str, Cell); 11] = [
        ("item", |row| Some(row.item.clone())),
        ("rank", |row| Some(row.rank.to_string())),
        ("strength", |row| Some(format!("{:.3}", row.strength))),
        ("elo", |row| row.elo.map(|elo| format!("{elo:.0}"))),
        ("95% interval", |row| {
            row.interval
                .map(|[low, high]| format!("{low:.3} .. {high:.3}"))
        }),
        ("ranks", |row| {
            row.rank_interval.map(|[low, high]| format!("{low}-{high}"))
        }),
        ("P(best)", |row| {
            row.probability_best.map(|share| format!("{share:.3}"))
        }),
        ("P(>next)", |row| {
            row.probability_best?;
            let share = row.probability_above_next;
            Some(share.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}")))
        }),
        ("P(win)", |row| Some(format!("{:.3}", row.win_probability))),
        ("games", |row| Some(number(row.games))),
        ("component", |row| Some((row.component + 1).to_string())),
    ];
    let one_component = ranking.components.len() == 1;
    all.into_iter()
        .filter(|(title, _)| *title != "component" || !one_component)
        .filter_map(|(title, cell)| {
            let cells: Option<Vec<String>> = ranking.standings.iter().map(cell).collect();
            Some(Column {
                title,
                cells: cells?,
            })
        })
        .collect()
}

fn number(value: f64) -> String {
    if value.fract().abs() > 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value}")
    }
}

/// Says on stderr what of the ranking is not to be believed.
pub(super) fn warn(ranking: &Ranking) {
    let parts = &ranking.components;
    if parts.len() > 1 {
        if ranking.islands > 1 {
            eprintln!(
                "warning: {} groups of items never met each other: what the ranking says across them is no fact",
                ranking.islands
            );
        } else {
            eprintln!(
                "warning: {} components are not connected by wins both ways (an item won, or lost, all): what the \
                 ranking says of the gap between them comes from the prior or the method, not from the games",
                parts.len()
            );
        }
        for (number, part) in parts.iter().enumerate().take(COMPONENTS) {
            let more = if part.len() > NAMES { ", ..." } else { "" };
            let names = part[..part.len().min(NAMES)].join(", ");
            eprintln!(
                "  component {} ({} items): {names}{more}",
                number + 1,
                part.len()
            );
        }
        if parts.len() > COMPONENTS {
            eprintln!("  and {} more", parts.len() - COMPONENTS);
        }
    }
    if let Some(bootstrap) = ranking
        .bootstrap
        .as_ref()
        .filter(|bootstrap| bootstrap.failed > 0)
    {
        eprintln!(
            "warning: {} of {} resamples have no fit and are left out of intervals",
            bootstrap.failed, bootstrap.resamples
        );
    }
}

fn of_judgements(consistency: &Consistency) -> String {
    let share = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
    };
    format!(
        "{} judgements; of {} match-ups in both orders {} flipped ({}) and count as ties; the first item won {}",
        consistency.judgements,
        consistency.both_orders,
        consistency.flips,
        share(consistency.flip_rate),
        share(consistency.first_wins)
    )
}

fn notes(ranking: &Ranking, selective: Option<&ConfidenceScores>) -> Vec<String> {
    let columns = &ranking.columns;
    let mut notes = vec![format!(
        "{} comparisons of {} items, {:.1} % ties; columns {}, {}{}",
        ranking.comparisons,
        ranking.standings.len(),
        100.0 * ranking.tie_share,
        columns.left,
        columns.right,
        [&columns.winner, &columns.weight]
            .into_iter()
            .flatten()
            .fold(String::new(), |text, column| text + ", " + column)
    )];
    if let Some(fit) = &ranking.fit {
        let nu = fit.nu.map(|nu| format!(", nu {nu:.4}")).unwrap_or_default();
        notes.push(format!(
            "converged: yes ({} Newton steps, gradient {:.1e}); log-likelihood {:.4}{nu}",
            fit.iterations, fit.gradient, fit.log_likelihood
        ));
    }
    if let Some(bootstrap) = &ranking.bootstrap {
        notes.push(match (bootstrap.groups, &columns.group) {
            (Some(groups), Some(column)) => format!(
                "bootstrap: {} resamples of {groups} groups by `{column}`",
                bootstrap.resamples
            ),
            _ => format!(
                "bootstrap: {} resamples of single rows",
                bootstrap.resamples
            ),
        });
    }
    if let Some(share) = ranking.intransitivity {
        notes.push(format!(
            "cyclic triads: {} of {} ({:.1} %; chance is 25 %)",
            ranking.triads.cyclic,
            ranking.triads.decided,
            100.0 * share
        ));
    }
    if let Some(calibration) = &ranking.calibration {
        let bins = calibration
            .bins
            .iter()
            .map(|bin| format!("{:.2} -> {:.2}", bin.predicted, bin.observed));
        notes.push(format!(
            "calibration (predicted -> observed): {}; mean gap {:.3}",
            bins.collect::<Vec<_>>().join(", "),
            calibration.expected_error
        ));
    }
    if let Some(selective) = selective {
        notes.push(format!(
            "strength as confidence: selective AUC {:.4}, AUROC {:.4}, accuracy {:.4}",
            selective.selective_auc, selective.auroc, selective.accuracy
        ));
    }
    notes
}
