//! Rows of Parquet files, as the hub stores data sets.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Map;

use super::rows::Row;
use crate::error::{Error, Result};

/// All rows of a file.
///
/// # Errors
/// Not a Parquet file, a codec that is not built in (snappy and zstd are), or a number that is not finite.
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let broken = |error: parquet::errors::ParquetError| {
        Error::data(path, format!("not a readable Parquet file: {error}"))
    };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let rows = reader.get_row_iter(None).map_err(broken)?;
    rows.enumerate()
        .map(|(place, row)| {
            let row = row.map_err(broken)?;
            let mut columns = Map::new();
            for (name, field) in row.get_column_iter() {
                // JSON would turn it into null, which means that there is nothing.
                let finite = match field {
                    Field::Float(number) => number.is_finite(),
                    Field::Double(number) => number.is_finite(),
                    _ => true,
                };
                if !finite {
                    let problem = format!(
                        "row {}: `{name}` is {field}, not a finite number",
                        place + 1
                    );
                    return Err(Error::data(path, problem));
                }
                columns.insert(name.clone(), field.to_json_value());
            }
            Ok(Row::numbered(place + 1, columns))
        })
        .collect()
}
