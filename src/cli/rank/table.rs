//! The table that `preftune rank` prints for people, and the warnings beside it.

use crate::cli::table;
use crate::ranking::columns::Columns;
use crate::ranking::judgements::Consistency;
use crate::ranking::outcomes::{Means, Values};
use crate::ranking::read::Reading;
use crate::ranking::standings::{Ranking, Standing};

/// How strengths do as confidences.
#[derive(serde::Serialize)]
pub(crate) struct ConfidenceScores {
    /// Mean accuracy over coverages.
    pub(crate) selective_auc: f64,
    /// Probability that a right answer is the more confident one.
    pub(crate) auroc: f64,
    /// Accuracy of all answers.
    pub(crate) accuracy: f64,
}

/// Names of a component that are listed at most.
const NAMES: usize = 4;
/// Values of the outcome column that are listed at most.
const LISTED: usize = 8;
/// Components that are listed at most.
const COMPONENTS: usize = 5;

/// Prints the ranking on stdout.
pub(crate) fn print(
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
pub(crate) fn warn(ranking: &Ranking) {
    if let Some(reading) = ranking
        .reading
        .as_ref()
        .filter(|read| !read.dropped.is_empty())
    {
        let left_out = reading.left_out();
        eprintln!(
            "warning: {left_out} of {} rows cannot be used and are left out:",
            left_out + ranking.comparisons
        );
        for dropped in &reading.dropped {
            eprintln!(
                "  {} ({}): {}",
                dropped.reason, dropped.rows, dropped.example
            );
        }
    }
    if ranking.tie_share >= 1.0 {
        eprintln!("warning: every comparison is a tie: all items come out equal");
    }
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

/// How outcomes were read, so that a ranking that is upside down is seen.
fn of_reading(reading: &Reading, columns: &Columns) -> String {
    let (left, right) = (&columns.left, &columns.right);
    let how = match (&columns.winner, reading.values) {
        (Some(column), Some(values)) => {
            let how = match values {
                Values::Names => "the winner's name".to_owned(),
                Values::Sides => "the side that won".to_owned(),
                Values::Result => format!("what `{left}` got"),
                Values::Score => format!("the score of `{left}` from 0 to 1"),
                Values::Sign => format!("1 where `{left}` won, -1 where `{right}` did"),
                Values::Index => "the number of the winner, from 0".to_owned(),
                Values::Number => "the number of the winner, from 1".to_owned(),
                Values::Strength => format!(
                    "below 0 where `{left}` won, above 0 where `{right}` did, by how much is not used"
                ),
                Values::Games => format!(
                    "below 0 where `{left}` won, above 0 where `{right}` did, for so many games"
                ),
            };
            match &columns.other_order {
                Some(other) => format!(
                    "`{column}` and `{other}` are {how} in either order, which counts where both agree and is a tie where \
                     they do not"
                ),
                None => format!("`{column}` is {how}"),
            }
        }
        _ if columns.shares.is_some() => "each side has a column of its own".to_owned(),
        _ => format!("`{left}` won each time"),
    };
    let listed = reading.outcomes.iter().take(LISTED).map(|meaning| {
        let means = match meaning.means {
            Means::Left => format!("`{left}` won"),
            Means::Right => format!("`{right}` won"),
            Means::Tie => "tie".to_owned(),
            Means::Share => "shared".to_owned(),
        };
        let games = if meaning.games > 1.0 {
            format!(" as {} games", number(meaning.games))
        } else {
            String::new()
        };
        format!("`{}`: {means}{games} ({})", meaning.value, meaning.rows)
    });
    let mut parts: Vec<String> = reading.layout.map(str::to_owned).into_iter().collect();
    parts.push(how);
    let listed: Vec<String> = listed.collect();
    if !listed.is_empty() {
        let more = if reading.outcomes.len() > LISTED {
            ", ..."
        } else {
            ""
        };
        parts.push(listed.join(", ") + more);
    }
    let shares = if reading.shares > 0 {
        format!(", {} shared", reading.shares)
    } else {
        String::new()
    };
    parts.push(format!(
        "rows: {} `{left}` won, {} `{right}` won, {} ties{shares}",
        reading.left_won, reading.right_won, reading.ties
    ));
    if let Some(flips) = reading.flips {
        parts.push(format!(
            "in {flips} match-ups the winner turned with the order"
        ));
    }
    format!("read: {}", parts.join("; "))
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
        [columns.winner.as_ref(), columns.other_order.as_ref()]
            .into_iter()
            .chain(columns.shares.iter().flat_map(|shares| {
                [&shares.left, &shares.right]
                    .into_iter()
                    .chain(&shares.tie)
                    .map(Some)
            }))
            .chain([columns.weight.as_ref()])
            .flatten()
            .fold(String::new(), |text, column| text + ", " + column)
    )];
    if let Some(reading) = &ranking.reading {
        notes.push(of_reading(reading, columns));
        if !reading.unused.is_empty() {
            notes.push(format!(
                "columns that are not used: {}",
                reading.unused.join(", ")
            ));
        }
    }
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
