//! The zip archive that PyTorch writes since 1.6: `NAME/data.pkl` and a record `NAME/data/KEY` for each storage.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::BufReader;
use std::rc::Rc;

use zip::{CompressionMethod, ZipArchive};

use super::machine::{Storage, run};
use super::{Found, MOST_PICKLE, damaged, refused, state};
use crate::error::{Error, Result};
use crate::models::stored::{Place, Record, Stored};

/// The tensors in an archive.
pub(super) fn open(file: &Stored) -> Result<Vec<Found>> {
    let records = records(file)?;
    let mut pickles = records
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = match (pickles.next(), pickles.next()) {
        (Some(prefix), None) => prefix,
        (None, _) => {
            let message = "is a zip archive without the `data.pkl` of PyTorch";
            return Err(Error::weights(&file.path, message));
        }
        (Some(_), Some(_)) => return Err(damaged(file, "it has more than one `data.pkl`")),
    };
    let record = |name: &str| {
        let found = records.get(&format!("{prefix}{name}"))?.as_ref();
        Some(found.ok_or_else(|| compressed(file)))
    };
    if record("constants.pkl").is_some() {
        let message =
            "is a TorchScript program, which is code with weights; preftune reads state dicts";
        return Err(Error::weights(&file.path, message).with_hint(
            "save its weights in Python: `torch.save(torch.jit.load(FILE).state_dict(), OTHER)`",
        ));
    }
    if let Some(order) = record("byteorder").transpose()?
        && order.length < 16
        && file.record(order)? == b"big"
    {
        let message = "was written on a machine with the other order of bytes";
        return Err(Error::weights(&file.path, message)
            .with_hint("save it as safetensors there, which have one order"));
    }
    let pickled = match record("data.pkl").transpose()? {
        Some(pickled) if pickled.length <= MOST_PICKLE => file.record(pickled)?,
        _ => return Err(damaged(file, "its `data.pkl` is too large")),
    };
    let pickle = run(&pickled, 0).map_err(|fault| refused(file, fault))?;
    let place = |storage: &Storage| {
        let found = record(&format!("data/{}", storage.key)).transpose()?;
        let wanted = storage.length.checked_mul(storage.element.width);
        match (found, wanted) {
            (Some(found), Some(wanted)) if wanted <= found.length => Ok(found),
            (None, _) => {
                let problem = format!("its storage `{}` is not in it", storage.key);
                Err(damaged(file, &problem))
            }
            _ => {
                let problem = format!("its storage `{}` is too short", storage.key);
                Err(damaged(file, &problem))
            }
        }
    };
    let tensors = state::tensors(&pickle).map_err(|fault| refused(file, fault))?;
    tensors
        .into_iter()
        .map(|(name, view)| {
            let record = place(&view.storage)?;
            let place = Place {
                record: Some(Rc::clone(record)),
                ..view.place(record.begin)
            };
            Ok((name.to_owned(), view.sizes.clone(), place))
        })
        .collect()
}

/// The records of an archive by name; none in the place of a compressed one, which PyTorch's weights never are.
fn records(file: &Stored) -> Result<HashMap<String, Option<Rc<Record>>>> {
    let unreadable = |error: &dyn std::fmt::Display| damaged(file, &error.to_string());
    let mut archive =
        ZipArchive::new(BufReader::new(file.reader()?)).map_err(|error| unreadable(&error))?;
    let mut records = HashMap::new();
    for number in 0..archive.len() {
        let entry = archive
            .by_index_raw(number)
            .map_err(|error| unreadable(&error))?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if entry.is_dir() {
            continue;
        }
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            records.insert(name, None);
            continue;
        }
        let begin = entry.data_start();
        let length = entry.compressed_size();
        if begin
            .checked_add(length)
            .is_none_or(|end| end > file.length)
        {
            return Err(damaged(file, &format!("`{name}` reaches beyond its end")));
        }
        let record = Record {
            begin,
            length,
            crc: entry.crc32(),
            checked: Cell::new(false),
        };
        if records
            .insert(name.clone(), Some(Rc::new(record)))
            .is_some()
        {
            return Err(damaged(file, &format!("`{name}` is twice in it")));
        }
    }
    Ok(records)
}

fn compressed(file: &Stored) -> Error {
    let message =
        "is a zip archive that was packed by something else than PyTorch: its parts are compressed";
    Error::weights(&file.path, message)
        .with_hint("unpack it and pack it again without compression, or save it again in Python")
}
