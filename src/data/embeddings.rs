//! Embeddings from Parquet files: a list of numbers in each row.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use crate::error::{Error, Result};

/// Columns that hold the embeddings of responses; `embedding` is what others call it.
const RESPONSES: [&str; 2] = ["responses", "embedding"];

/// Rows of numbers, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// All numbers.
    pub values: Vec<f32>,
    /// How many make a row.
    pub width: usize,
}

/// The content of a file of embeddings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    /// A row for each response.
    pub responses: Matrix,
    /// A row for each prompt; none where there is no such column.
    pub prompts: Matrix,
    /// The responses' names; none where there is no such column.
    pub names: Vec<String>,
}

impl Matrix {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    fn push(&mut self, field: &Field) -> Result<(), String> {
        let Field::ListInternal(list) = field else {
            return Err("is no list of numbers".to_owned());
        };
        let numbers = list.elements().iter().map(number);
        let numbers = numbers.collect::<Option<Vec<f32>>>();
        let numbers = numbers.ok_or("has an entry that is no finite number")?;
        if self.values.is_empty() {
            self.width = numbers.len();
        }
        if numbers.is_empty() || numbers.len() != self.width {
            return Err(format!(
                "has {} numbers, the first row has {}",
                numbers.len(),
                self.width
            ));
        }
        self.values.extend(numbers);
        Ok(())
    }
}

/// Reads a file with a column `responses` (or `embedding`) of lists, and where they are there `prompts`, likewise, null
/// after the last one, and `id`, the responses' names.
///
/// # Errors
/// Not a Parquet file, no such column, or with its row: another length, or a number that is not finite.
pub fn read(path: &Path) -> Result<Embedded> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let broken = |error: parquet::errors::ParquetError| {
        Error::data(path, format!("not a readable Parquet file: {error}"))
    };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let mut all = Embedded::default();
    for (place, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let row = row.map_err(broken)?;
        let fail = |problem: String| Error::data(path, format!("row {}: {problem}", place + 1));
        for (name, field) in row.get_column_iter() {
            let matrix = match name.as_str() {
                name if RESPONSES.contains(&name) => &mut all.responses,
                "prompts" if matches!(field, Field::Null) => continue,
                "prompts" => &mut all.prompts,
                "id" => {
                    all.names.push(text(field));
                    continue;
                }
                _ => continue,
            };
            matrix
                .push(field)
                .map_err(|problem| fail(format!("`{name}` {problem}")))?;
        }
    }
    if all.responses.values.is_empty() {
        return Err(Error::data(
            path,
            "has no column `responses` or `embedding` with lists of numbers",
        ));
    }
    Ok(all)
}

fn text(field: &Field) -> String {
    match field {
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned(),
        other => other.to_string(),
    }
}

fn number(field: &Field) -> Option<f32> {
    let number = match field {
        Field::Float(number) => *number,
        Field::Double(number) => *number as f32,
        Field::Float16(number) => number.to_f32(),
        Field::Byte(number) => f32::from(*number),
        Field::Short(number) => f32::from(*number),
        Field::UByte(number) => f32::from(*number),
        Field::UShort(number) => f32::from(*number),
        Field::UInt(number) => *number as f32,
        Field::ULong(number) => *number as f32,
        Field::Int(number) => *number as f32,
        Field::Long(number) => *number as f32,
        _ => return None,
    };
    number.is_finite().then_some(number)
}
