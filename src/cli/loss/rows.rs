//! Reads the rows of a table of log-probs for `preftune loss`: JSON lines, every cell checked.

use std::path::Path;

use serde_json::Value;

use crate::data::json_lines::JsonLines;
use crate::error::{Error, Result};
use crate::losses::objectives::{Column, Holds, Objective};

/// The cells of one line, in the order of the objective's columns: one number each, or as many as there are responses.
pub(crate) struct Row {
    pub(crate) line: usize,
    pub(crate) cells: Vec<Vec<f64>>,
    /// The margin by which `chosen` is to win; 0 where the row has none.
    pub(crate) margin: f64,
}

/// The column of margins, which any table of pairs may have.
pub(crate) const MARGIN: &str = "margin";

/// All rows of a file of JSON lines; blank lines are skipped, columns of no use to the objective too.
///
/// # Errors
/// With the line: a column that is missing, a cell that is not what the column holds, lists of different lengths.
pub(crate) fn read(path: &Path, objective: &Objective) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for row in JsonLines::open(path)? {
        let (line, object) = row?;
        let fail = |problem: String| Error::data_line(path, line, problem);
        if let Some(missing) = objective
            .columns
            .iter()
            .find(|column| !object.contains_key(column.name))
        {
            return Err(fail(format!("`{}` is missing", missing.name)).with_hint(reads(objective)));
        }
        let cells = objective.columns.iter().map(|column| {
            cell(&object[column.name], column, objective.lists)
                .map_err(|problem| fail(format!("`{}` {problem}", column.name)))
        });
        let cells: Vec<Vec<f64>> = cells.collect::<Result<_>>()?;
        let count = cells[0].len();
        for (column, values) in objective.columns.iter().zip(&cells) {
            if values.len() != count {
                return Err(fail(format!(
                    "`{}` has {} entries, `{}` has {count}",
                    column.name,
                    values.len(),
                    objective.columns[0].name
                )));
            }
        }
        let margin = match object.get(MARGIN) {
            None | Some(Value::Null) => 0.0,
            Some(value) => number(value, Holds::Score)
                .map_err(|problem| fail(format!("`{MARGIN}` {problem}")))?,
        };
        rows.push(Row {
            line,
            cells,
            margin,
        });
    }
    if rows.is_empty() {
        return Err(Error::data(path, "there are no rows in it"));
    }
    Ok(rows)
}

/// The sentence that names an objective's columns.
fn reads(objective: &Objective) -> String {
    let names = objective.columns.iter().map(|column| column.name);
    let names = names.collect::<Vec<_>>().join(", ");
    let form = if objective.lists {
        "columns of lists"
    } else {
        "columns"
    };
    format!("`{}` reads the {form} {names}", objective.name)
}

fn cell(value: &Value, column: &Column, lists: bool) -> Result<Vec<f64>, String> {
    if !lists {
        return Ok(vec![number(value, column.holds)?]);
    }
    let Value::Array(values) = value else {
        return Err(format!("is not a list: {value}"));
    };
    if values.len() < 2 {
        return Err("has fewer than 2 entries".to_owned());
    }
    let values = values.iter().map(|value| number(value, column.holds));
    let values: Vec<f64> = values.collect::<Result<_, _>>()?;
    let first = values[0];
    if column.holds == Holds::Ranking && values.iter().all(|value| value.total_cmp(&first).is_eq())
    {
        return Err(format!(
            "is {first} for every response: there is no order to learn"
        ));
    }
    Ok(values)
}

fn number(value: &Value, holds: Holds) -> Result<f64, String> {
    let number = match value {
        Value::Bool(truth) if holds == Holds::Truth => f64::from(u8::from(*truth)),
        value => value
            .as_f64()
            .filter(|number| number.is_finite())
            .ok_or_else(|| format!("is not a number: {value}"))?,
    };
    let problem = match holds {
        Holds::LogProbability if number > 0.0 => "is not a log-probability, which is at most 0",
        Holds::Length if number < 1.0 || number.fract() != 0.0 => {
            "is not a number of tokens, which is 1 or more"
        }
        Holds::Probability if !(0.0..=1.0).contains(&number) => "is not a probability",
        Holds::Divergence if number < 0.0 => "is not a divergence, which is at least 0",
        Holds::Truth if number.fract() != 0.0 || !(0.0..=1.0).contains(&number) => {
            "is neither true nor false"
        }
        _ => return Ok(number),
    };
    Err(format!("{problem}: {value}"))
}
