//! Tensors in files of weights: where one lies, and how it is read. Files are read, not mapped: a file that is cut under a
//! map ends the process without a word (SIGBUS), and reading is as fast where every byte is copied into a tensor anyway.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crc32fast::Hasher;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::files::open;

/// Bytes of a file that are read at a time: they stay in the processor's cache until they are copied.
const AT_ONCE: usize = 1 << 20;

/// An open file.
pub(super) struct Stored {
    pub(super) path: PathBuf,
    file: File,
    pub(super) length: u64,
}

/// The place of a tensor in a file.
#[derive(Clone)]
pub(super) struct Place {
    /// Where its first number lies.
    pub(super) begin: u64,
    /// Numbers from the first to the last one that it has; its own, where `strides` are none.
    pub(super) span: usize,
    /// Its type, or the name of one that is not read.
    pub(super) kind: Result<Kind, String>,
    /// Steps in numbers from one to the next along each dimension; none where they follow each other.
    pub(super) strides: Option<Vec<i64>>,
    /// The record of an archive that it is a part of.
    pub(super) record: Option<Rc<Record>>,
}

/// A form of a stored tensor under another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// As it is.
    Whole,
    /// One of three equal parts of its rows.
    Third(i64),
    /// Rows as columns.
    Transposed,
    /// A 1x1 convolution as a matrix.
    Matrix,
}

impl Place {
    /// The place and the shape of a cut of a tensor of this `shape`; `None` where it has none.
    pub(super) fn cut(&self, shape: &[i64], cut: Cut) -> Option<(Self, Vec<i64>)> {
        let Ok(kind) = &self.kind else {
            // Refused by its type where it is read.
            return Some((self.clone(), shape.to_vec()));
        };
        let mut strides = self.strides.clone().unwrap_or_else(|| packed(shape));
        let mut shape = shape.to_vec();
        let mut begin = self.begin;
        match cut {
            Cut::Whole => {}
            Cut::Third(part) => {
                let rows = shape.first_mut().filter(|rows| **rows % 3 == 0)?;
                *rows /= 3;
                let width = kind.elt_size_in_bytes() as i64;
                begin += (part * *rows * strides.first()? * width) as u64;
            }
            Cut::Transposed if shape.len() == 2 => {
                shape.reverse();
                strides.reverse();
            }
            Cut::Transposed => return None,
            Cut::Matrix => {
                while shape.len() > 2 && shape.last() == Some(&1) {
                    shape.pop();
                    strides.pop();
                }
            }
        }
        let reach = |(size, stride): (&i64, &i64)| (size - 1).max(0) * stride;
        let span = if shape.contains(&0) {
            0
        } else {
            1 + shape.iter().zip(&strides).map(reach).sum::<i64>()
        };
        let place = Self {
            begin,
            span: span as usize,
            strides: (!is_packed(&shape, &strides)).then_some(strides),
            kind: self.kind.clone(),
            record: self.record.clone(),
        };
        Some((place, shape))
    }
}

/// Strides of numbers that follow each other.
fn packed(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(shape[at]);
    }
    strides
}

/// `true` if numbers of this shape follow each other.
pub(super) fn is_packed(shape: &[i64], strides: &[i64]) -> bool {
    let packed = packed(shape);
    let mut each = shape.iter().zip(strides.iter().zip(&packed));
    each.all(|(size, (stride, packed))| *size == 1 || stride == packed)
}

/// A part of an archive with its checksum.
pub(super) struct Record {
    pub(super) begin: u64,
    pub(super) length: u64,
    /// CRC-32; 0 where the writer left it out.
    pub(super) crc: u32,
    pub(super) checked: Cell<bool>,
}

impl Stored {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let length = file
            .metadata()
            .map_err(|source| Error::io("read", path, source))?
            .len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
        })
    }

    /// The file from its beginning, for a reader of its own.
    pub(super) fn reader(&self) -> Result<File> {
        let file = self.file.try_clone();
        file.map_err(|source| Error::io("read", &self.path, source))
    }

    /// The bytes of a record.
    ///
    /// # Errors
    /// They are not those that the checksum was made of.
    pub(super) fn record(&self, record: &Record) -> Result<Vec<u8>> {
        let mut bytes = vec![0; record.length as usize];
        self.read(&mut bytes, record.begin)?;
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        self.check(record, hasher)?;
        Ok(bytes)
    }

    /// Reads the tensor `name` of this shape to the CPU.
    pub(super) fn tensor(&self, name: &str, place: &Place, shape: &[i64]) -> Result<Tensor> {
        let kind = place.kind.clone().map_err(|kind| {
            let message = format!("is stored as {kind}, which is not supported");
            Error::tensor(&self.path, name, message)
                .with_hint("take the version of the file in 16 or 32 bits: fp16, bf16 or fp32")
        })?;
        let bytes = place.span * kind.elt_size_in_bytes();
        let unchecked = place.record.as_ref().filter(|record| !record.checked.get());
        let whole = unchecked
            .is_some_and(|record| (record.begin, record.length) == (place.begin, bytes as u64));
        if let Some(record) = unchecked
            && !whole
        {
            let mut hasher = Hasher::new();
            self.each_part(record.begin, record.length, |_, part| {
                hasher.update(part);
                Ok(())
            })?;
            self.check(record, hasher)?;
        }
        let mut hasher = whole.then(Hasher::new);
        let flat = self.flat(place.begin, bytes, kind, hasher.as_mut())?; // [span]
        if let (Some(record), Some(hasher)) = (unchecked, hasher) {
            self.check(record, hasher)?;
        }
        Ok(match &place.strides {
            None => flat.f_view(shape)?,
            Some(strides) => flat.f_as_strided(shape, strides, 0)?.f_contiguous()?,
        })
    }

    fn check(&self, record: &Record, hasher: Hasher) -> Result<()> {
        if record.crc != 0 && hasher.finalize() != record.crc {
            return Err(Error::weights(
                &self.path,
                "is damaged: a part of it does not have the checksum that stands beside it",
            )
            .with_hint("fetch the file again"));
        }
        record.checked.set(true);
        Ok(())
    }

    /// Numbers of this type from `begin` on, hashed where that is asked for.
    fn flat(
        &self,
        begin: u64,
        bytes: usize,
        kind: Kind,
        mut hasher: Option<&mut Hasher>,
    ) -> Result<Tensor> {
        let width = kind.elt_size_in_bytes();
        let length = (bytes / width) as i64;
        let mut hash = |part: &[u8]| {
            if let Some(hasher) = &mut hasher {
                hasher.update(part);
            }
        };
        if bytes <= AT_ONCE {
            let mut whole = vec![0; bytes];
            self.read(&mut whole, begin)?;
            hash(&whole);
            return Ok(Tensor::f_from_data_size(&whole, &[length], kind)?);
        }
        let tensor = Tensor::f_empty([length], (kind, Device::Cpu))?;
        self.each_part(begin, bytes as u64, |at, part| {
            hash(part);
            let count = (part.len() / width) as i64;
            let part = Tensor::f_from_data_size(part, &[count], kind)?;
            let mut place = tensor.f_narrow(0, at as i64 / width as i64, count)?;
            Ok(place.f_copy_(&part)?)
        })?;
        Ok(tensor)
    }

    /// Hands out `length` bytes from `begin` on in parts, each with its place after `begin`.
    pub(super) fn each_part(
        &self,
        begin: u64,
        length: u64,
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; AT_ONCE.min(length as usize)];
        let mut at = 0;
        while at < length {
            let count = (buffer.len() as u64).min(length - at) as usize;
            self.read(&mut buffer[..count], begin + at)?;
            take(at, &buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let message = "has become shorter since it was opened: something writes to it";
                Error::failed(&self.path, message).with_hint(
                    "begin again when the file is complete; a run goes on with `--resume`",
                )
            } else {
                Error::io("read", &self.path, source)
            }
        })
    }
}
