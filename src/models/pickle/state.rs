//! The state dict in a pickle: the names of its tensors, whatever else lies beside them.

use std::collections::BTreeMap;

use super::machine::{Fault, Id, Pickle, Value, wrong};
use super::view::View;

/// Keys under which training code puts the state dict of the model, beside those of optimisers.
const NESTED: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The tensors of the state dict.
///
/// Numbers, texts and lists in it are no weights and are passed over, and so is all that lies beside a state dict in a
/// dictionary of its own.
pub(super) fn tensors<'p>(pickle: &'p Pickle) -> Result<BTreeMap<&'p str, &'p View>, Fault> {
    let mut found = BTreeMap::new();
    for &(key, value) in state_dict(pickle)? {
        match (pickle.text(key), pickle.value(value)) {
            (Some(name), Value::Tensor(view)) => {
                found.insert(name, &**view);
            }
            (name, Value::Foreign(module, class)) => {
                let of = format!("which `{}` is made of", name.unwrap_or("?"));
                return Err(Fault::Name(pickle.name(module, class), of));
            }
            (None, Value::Tensor(_)) => return wrong("has a tensor whose name is no text"),
            // As in Python, the last of several entries of a name stays.
            (Some(name), _) => drop(found.remove(name)),
            (None, _) => {}
        }
    }
    if found.is_empty() {
        return Err(without_tensors(pickle)?);
    }
    Ok(found)
}

/// What is said of a dictionary without tensors, by its keys.
fn without_tensors(pickle: &Pickle) -> Result<Fault, Fault> {
    const LEARNED_WORD: &str = "string_to_param";
    let entries = state_dict(pickle)?;
    let keys: Vec<&str> = entries
        .iter()
        .filter_map(|(key, _)| pickle.text(*key))
        .collect();
    if keys.contains(&LEARNED_WORD) {
        let message = "is that of a textual inversion (a learned word), which is not read";
        return Ok(Fault::Wrong(message.to_owned()));
    }
    let named: Vec<String> = keys.iter().take(4).map(|key| format!("`{key}`")).collect();
    let message = match named.len() {
        0 => "has no tensors in its state dict".to_owned(),
        _ => format!("has no tensors in its state dict, but {}", named.join(", ")),
    };
    Ok(Fault::Wrong(message))
}

fn state_dict<'p>(pickle: &'p Pickle) -> Result<&'p [(Id, Id)], Fault> {
    let mut entries = dictionary(pickle, pickle.root)?;
    for _ in 0..NESTED.len() {
        let is_tensor = |&(_, value): &(Id, Id)| matches!(pickle.value(value), Value::Tensor(_));
        let flat = entries.iter().any(is_tensor);
        let inner = NESTED.iter().find_map(|wanted| {
            let mut entries = entries.iter().rev();
            let (_, value) = *entries.find(|(key, _)| pickle.text(*key) == Some(wanted))?;
            let opens = match pickle.value(value) {
                Value::Dict(_) => !flat || *wanted == "state_dict",
                Value::Foreign(..) => !flat,
                _ => false,
            };
            opens.then_some(value)
        });
        match inner {
            Some(inner) => entries = dictionary(pickle, inner)?,
            None => break,
        }
    }
    Ok(entries)
}

fn dictionary<'p>(pickle: &'p Pickle, id: Id) -> Result<&'p [(Id, Id)], Fault> {
    match pickle.value(id) {
        Value::Dict(entries) => Ok(entries),
        Value::Foreign(module, name) => Err(Fault::Name(
            pickle.name(module, name),
            "an object with code of its own where a state dict is needed".to_owned(),
        )),
        Value::Tensor(_) => wrong("holds one tensor, not a state dict"),
        _ => wrong("holds no state dict"),
    }
}
