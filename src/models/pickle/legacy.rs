//! The file that PyTorch wrote before 1.6: a signature, the pickle, the keys of the storages, then each storage as its length
//! and its numbers.

use std::collections::HashMap;

use super::machine::{Fault, Pickle, Value, run, wrong};
use super::{Found, MOST_PICKLE, SIGNATURE, damaged, refused, state};
use crate::error::Result;
use crate::models::stored::Stored;

/// Bytes of a file that are read for its pickles, until they are all there.
const READ: [u64; 3] = [1 << 20, 1 << 24, MOST_PICKLE];

/// The version of this format, in all of its files.
const VERSION: i64 = 1001;

/// The tensors in a file.
pub(super) fn open(file: &Stored) -> Result<Vec<Found>> {
    for reach in READ {
        let length = reach.min(file.length);
        let mut head = vec![0; length as usize];
        file.read(&mut head, 0)?;
        match parts(&head) {
            Err(Fault::Cut) if length < file.length => {}
            Err(fault) => return Err(refused(file, fault)),
            Ok(parts) => return tensors(file, &parts),
        }
    }
    Err(damaged(file, "its pickle is too large"))
}

/// The pickles of a file.
struct Parts<'a> {
    weights: Pickle<'a>,
    /// Keys of the storages in the order in which they follow.
    keys: Vec<String>,
    /// The place after them.
    end: usize,
}

fn parts(head: &[u8]) -> Result<Parts<'_>, Fault> {
    let signature = run(head, 0)?;
    if !head.starts_with(&SIGNATURE) {
        return wrong("is not one of PyTorch's weights");
    }
    let version = run(head, signature.end)?;
    if !matches!(version.value(version.root), Value::Int(VERSION)) {
        return wrong("is of a version that is not known");
    }
    let system = run(head, version.end)?;
    let little = match system.value(system.root) {
        Value::Dict(entries) => entries.iter().any(|&(key, value)| {
            system.text(key) == Some("little_endian")
                && matches!(system.value(value), Value::Bool(true))
        }),
        _ => false,
    };
    if !little {
        return wrong("was written on a machine with the other order of bytes");
    }
    let weights = run(head, system.end)?;
    let listed = run(head, weights.end)?;
    let Value::List(keys) = listed.value(listed.root) else {
        return wrong("is not followed by the keys of its storages");
    };
    let keys = keys.iter().map(|&key| listed.text(key).map(str::to_owned));
    match keys.collect::<Option<_>>() {
        Some(keys) => Ok(Parts {
            weights,
            keys,
            end: listed.end,
        }),
        None => wrong("is followed by keys that are no texts"),
    }
}

fn tensors(file: &Stored, parts: &Parts) -> Result<Vec<Found>> {
    let mut places = HashMap::new();
    let mut at = parts.end as u64;
    for key in &parts.keys {
        let Some(storage) = parts.weights.storages.get(key) else {
            let problem = format!("it holds a storage `{key}` that its pickle does not name");
            return Err(damaged(file, &problem));
        };
        let cut = || damaged(file, &format!("it ends within the storage `{key}`"));
        if at.checked_add(8).is_none_or(|begin| begin > file.length) {
            return Err(cut());
        }
        let mut length = [0; 8];
        file.read(&mut length, at)?;
        if u64::from_le_bytes(length) != storage.length {
            let problem = format!("its storage `{key}` is of another length than its pickle says");
            return Err(damaged(file, &problem));
        }
        let end = storage
            .length
            .checked_mul(storage.element.width)
            .and_then(|bytes| bytes.checked_add(at + 8))
            .filter(|&end| end <= file.length)
            .ok_or_else(cut)?;
        places.insert(key.as_str(), at + 8);
        at = end;
    }
    let found = state::tensors(&parts.weights).map_err(|fault| refused(file, fault))?;
    found
        .into_iter()
        .map(|(name, view)| {
            let Some(&begin) = places.get(view.storage.key.as_str()) else {
                let problem = format!("its storage `{}` is not in it", view.storage.key);
                return Err(damaged(file, &problem));
            };
            Ok((name.to_owned(), view.sizes.clone(), view.place(begin)))
        })
        .collect()
}
