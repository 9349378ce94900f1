//! Reads GGUF files, the format of llama.cpp: metadata, and tensors as f32. What a file says is checked against its size
//! before memory is asked for.

mod blocks;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use self::blocks::Encoding;
use crate::error::{Error, Result};
use crate::files::open;
use crate::models::recognize::refuse_stand_in;

const MAGIC: &[u8; 4] = b"GGUF";

/// Of the data, where the metadata name no other.
const ALIGNMENT: u64 = 32;

/// Deepest nesting of lists in metadata.
const DEEPEST: usize = 4;

/// Most entries in all lists of the metadata together: a vocabulary of 256,000 tokens with scores, types and merges has a
/// million, and each takes 72 bytes.
const MOST_ENTRIES: u64 = 2 << 20;

/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// Where a tensor's bytes lie.
struct Entry {
    /// Of the files of a split model.
    file: usize,
    shape: Vec<i64>,
    encoding: Encoding,
    begin: u64,
    length: u64,
}

/// An open GGUF file, or all the parts of a split one.
pub struct Gguf {
    files: Vec<PathBuf>,
    metadata: Map<String, Value>,
    entries: BTreeMap<String, Entry>,
}

impl Gguf {
    /// Reads the header of the file at `path`; where it is a part of a split model, those of all parts, which lie beside
    /// it.
    ///
    /// # Errors
    /// Not a GGUF file of version 2 or 3, a damaged or cut one, a tensor in an encoding that is not read, by its name, or
    /// a part that is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Self::open_one(path)?;
        let count = opened.metadata.get("split.count").and_then(Value::as_u64);
        match count {
            Some(count) if count > 1 => Self::open_parts(path, count),
            _ => Ok(opened),
        }
    }

    /// The parts `NAME-00001-of-00003.gguf` and so on; the first has the metadata.
    fn open_parts(path: &Path, count: u64) -> Result<Self> {
        let refused = |message: String| {
            Error::weights(path, message).with_hint(
                "keep the parts of a split model together under the names they came with",
            )
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = format!("-of-{count:05}.gguf");
        let stem = name
            .strip_suffix(&ending)
            .and_then(|stem| stem.rsplit_once('-'))
            .map(|(stem, _)| stem)
            .ok_or_else(|| {
                refused(format!(
                    "is one of {count} parts, but its name does not end like `-00001{ending}`"
                ))
            })?;
        let mut whole: Option<Self> = None;
        for number in 1..=count {
            let file = path.with_file_name(format!("{stem}-{number:05}{ending}"));
            if !file.exists() {
                let message = format!("part {number} of {count} is missing: `{}`", file.display());
                return Err(refused(message));
            }
            let part = Self::open_one(&file)?;
            let place = part.metadata.get("split.no").and_then(Value::as_u64);
            if place.is_some_and(|place| place + 1 != number) {
                let message = format!("`{}` is another part than its name says", file.display());
                return Err(refused(message));
            }
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.add(part, &file)?,
            }
        }
        let whole = whole.ok_or_else(|| refused("has no parts".to_owned()))?;
        let told = whole.metadata.get("split.tensors.count");
        let there = whole.entries.len() as u64;
        match told.and_then(Value::as_u64) {
            Some(told) if told != there => Err(refused(format!(
                "its parts hold {there} tensors, but should hold {told}"
            ))),
            _ => Ok(whole),
        }
    }

    fn add(&mut self, part: Self, path: &Path) -> Result<()> {
        for (name, mut entry) in part.entries {
            entry.file = self.files.len();
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::tensor(path, name, "is there twice"));
            }
        }
        self.files.push(path.to_owned());
        Ok(())
    }

    fn open_one(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let length = file
            .metadata()
            .map_err(|source| Error::io("read", path, source))?
            .len();
        let mut header = Header {
            path,
            reader: BufReader::new(file),
            length,
            entries: 0,
        };
        refuse_stand_in(path)?;
        if header.bytes(4)? != MAGIC {
            return Err(Error::weights(path, "not a GGUF file"));
        }
        let version = header.u32()?;
        if !(2..=3).contains(&version) {
            let message = format!("is GGUF of version {version}, but preftune reads 2 and 3");
            return Err(Error::weights(path, message));
        }
        let (tensors, pairs) = (header.u64()?, header.u64()?);
        let mut metadata = Map::new();
        for _ in 0..pairs {
            let key = header.text()?;
            let kind = header.u32()?;
            let value = header.value(kind, 0)?;
            metadata.insert(key, value);
        }
        let mut listed = Vec::new();
        for _ in 0..tensors {
            listed.push(header.entry()?);
        }
        let alignment = metadata
            .get("general.alignment")
            .map_or(Some(ALIGNMENT), Value::as_u64)
            .filter(|alignment| alignment.is_power_of_two())
            .ok_or_else(|| Error::weights(path, "`general.alignment` is no power of two"))?;
        let data = header.position()?.next_multiple_of(alignment);
        let mut entries = BTreeMap::new();
        for (name, mut entry) in listed {
            let begin = entry.begin.checked_add(data);
            let end = begin.and_then(|begin| begin.checked_add(entry.length));
            let (Some(begin), Some(_)) = (begin, end.filter(|&end| end <= length)) else {
                return Err(Error::tensor(path, name, "lies beyond the end of the file")
                    .with_hint("the download was cut short; fetch it again"));
            };
            entry.begin = begin;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(Error::tensor(path, name, "is there twice"));
            }
        }
        Ok(Self {
            files: vec![path.to_owned()],
            metadata,
            entries,
        })
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Map<String, Value> {
        &self.metadata
    }

    /// The text under a key, where there is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// The file, of a split model the first.
    pub fn path(&self) -> &Path {
        &self.files[0]
    }

    /// All files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Shape of a tensor, slowest dimension first, where there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor's values as f32 on the CPU.
    ///
    /// # Errors
    /// Missing, unreadable, or not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Error::tensor(self.path(), name, "missing"))?;
        let path = &self.files[entry.file];
        let io = |source| Error::io("read", path, source);
        let mut file = open(path)?;
        file.seek(SeekFrom::Start(entry.begin)).map_err(io)?;
        let mut bytes = vec![0; entry.length as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        let values = entry.encoding.decode(&bytes);
        let tensor = Tensor::f_from_slice(&values)?.f_view(entry.shape.as_slice())?;
        if tensor.sum(Kind::Double).double_value(&[]).is_finite() {
            Ok(tensor)
        } else {
            Err(Error::tensor(path, name, "holds NaN or infinite values"))
        }
    }
}

/// The part of the file before the data.
struct Header<'p> {
    path: &'p Path,
    reader: BufReader<File>,
    length: u64,
    /// Of the lists that were read.
    entries: u64,
}

impl Header<'_> {
    fn damaged(&self, what: &str) -> Error {
        Error::weights(self.path, format!("not a readable GGUF file: {what}"))
            .with_hint("the file is damaged or its download was cut short; fetch it again")
    }

    fn position(&mut self) -> Result<u64> {
        self.reader
            .stream_position()
            .map_err(|source| Error::io("read", self.path, source))
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > self.length {
            return Err(self.damaged("a length is beyond the end of the file"));
        }
        let mut bytes = vec![0; count as usize];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(self.damaged("it ends in its header")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(self.damaged("it ends in its header")),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    /// A metadata value of type `kind`, the numbers of the format's specification.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => as_written(f32::from_le_bytes(self.array()?)),
            7 => (self.array::<1>()? != [0]).into(),
            // Names are strict; a token that is not UTF-8 stays one that no text is made of.
            8 => {
                let length = self.u64()?;
                String::from_utf8_lossy(&self.bytes(length)?).into()
            }
            9 if depth < DEEPEST => {
                let (inner, count) = (self.u32()?, self.u64()?);
                self.entries = self.entries.saturating_add(count);
                if self.entries > MOST_ENTRIES {
                    let message = format!(
                        "has more than {MOST_ENTRIES} entries in the lists of its metadata, which no vocabulary needs"
                    );
                    return Err(Error::weights(self.path, message));
                }
                // One by one, for a damaged count is found out by the end of the file.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(inner, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            _ => return Err(self.damaged("metadata of an unknown type")),
        })
    }

    /// Name and place of a tensor, the place counted from the beginning of the data.
    fn entry(&mut self) -> Result<(String, Entry)> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS {
            return Err(self.damaged("a tensor has more than four dimensions"));
        }
        let mut shape = Vec::new();
        let mut count: u64 = 1;
        for _ in 0..dimensions {
            let size = self.u64()?;
            count = count
                .checked_mul(size)
                .filter(|&count| i64::try_from(count).is_ok())
                .ok_or_else(|| self.damaged("a tensor is too large"))?;
            shape.push(size as i64);
        }
        shape.reverse(); // the file has the fastest dimension first
        let kind = self.u32()?;
        let encoding = Encoding::from_kind(kind).ok_or_else(|| {
            let message = format!(
                "is stored as {}, which preftune does not read",
                blocks::name(kind)
            );
            Error::tensor(self.path, &name, message).with_hint(
                "known are F32, F16, BF16, MXFP4, IQ4_NL, IQ4_XS, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K; take a \
                 file with those",
            )
        })?;
        let row = shape.last().copied().unwrap_or(1) as u64;
        let (values, bytes) = encoding.block();
        if !row.is_multiple_of(values) {
            return Err(self.damaged("a row does not divide into blocks"));
        }
        let length = (count / values)
            .checked_mul(bytes)
            .ok_or_else(|| self.damaged("a tensor is too large"))?;
        let entry = Entry {
            file: 0,
            shape,
            encoding,
            begin: self.u64()?,
            length,
        };
        Ok((name, entry))
    }
}

/// The decimal number that an f32 was most likely written as: 1e-5, not 9.99999974737875e-6.
fn as_written(number: f32) -> Value {
    let number: f64 = number.to_string().parse().unwrap_or(f64::NAN);
    number.into()
}
