//! Plain tables: the first column to the left, numbers to the right. Cells stay on their line.

use crate::error::printable;

/// Lays out a header and rows of as many cells.
pub(super) fn render(header: &[String], rows: &[Vec<String>]) -> String {
    let shown =
        |cells: &[String]| -> Vec<String> { cells.iter().map(|cell| one_line(cell)).collect() };
    let header = &shown(header);
    let rows: &Vec<Vec<String>> = &rows.iter().map(|row| shown(row)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]);
        cells
            .chain([&header[column]])
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate();
        let padded = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(row));
    std::iter::once(line(header)).chain(rows).collect()
}

/// A field of a CSV file (RFC 4180).
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn one_line(cell: &str) -> String {
    printable(cell).replace('\n', "\\n").replace('\t', "\\t")
}
