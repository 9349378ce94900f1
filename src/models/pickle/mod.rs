//! PyTorch's own files of weights (`pytorch_model.bin`, `.pt`, `.pth`, `.ckpt`), which are pickles: programs that Python runs
//! to build what they hold. Here they are read for the tensors of a state dict alone, and nothing is run: a fixed list of
//! instructions and of names has a meaning, another name stays a name. Objects beside the weights (those of a trainer) are
//! passed over; weights that depend on one, and names of functions that act on the machine, are refused by name.
//!
//! The formats: `torch.save` (<https://docs.pytorch.org/docs/stable/notes/serialization.html>) and Python's pickles
//! (<https://peps.python.org/pep-3154/>).

mod archive;
mod classes;
mod instructions;
mod legacy;
mod machine;
mod objects;
mod state;
mod view;

use machine::Fault;

use super::stored::{Place, Stored};
use crate::error::{Error, Result};

/// Most bytes of a pickle, its tensors' numbers not counted: a model of a thousand tensors has some 100 kB.
const MOST_PICKLE: u64 = 1 << 26;

/// The first bytes of a file that PyTorch wrote before 1.6: a pickle of protocol 2 with its number.
const SIGNATURE: [u8; 14] = [
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];

const SAVE_WEIGHTS: &str = "save the weights alone in Python: `torch.save(model.state_dict(), FILE)`, or \
                            `safetensors.torch.save_file(model.state_dict(), FILE)`";

/// A tensor's name, its sizes and its place.
pub(super) type Found = (String, Vec<i64>, Place);

/// `true` of a file that begins with `head` and is a pickle, alone or in an archive. The header of safetensors begins with a
/// brace after its length.
pub(super) fn is_pickle(head: &[u8]) -> bool {
    let archive = head.starts_with(b"PK\x03\x04");
    let pickle = head.first() == Some(&0x80) && head.get(1).is_some_and(|version| *version < 6);
    (archive || pickle) && head.get(8) != Some(&b'{')
}

/// The tensors of a state dict in a file.
///
/// # Errors
/// A file that is damaged, of another kind, or not allowed; see [the module](self).
pub(super) fn open(file: &Stored) -> Result<Vec<Found>> {
    let mut head = [0; 4];
    if file.length >= 4 {
        file.read(&mut head, 0)?;
    }
    if &head == b"PK\x03\x04" {
        archive::open(file)
    } else {
        legacy::open(file)
    }
}

fn damaged(file: &Stored, problem: &str) -> Error {
    let message = format!("is damaged, or not a file of PyTorch's weights: {problem}");
    Error::weights(&file.path, message)
        .with_hint("its download may have been cut short; fetch it again")
}

fn refused(file: &Stored, fault: Fault) -> Error {
    match fault {
        Fault::Cut => damaged(file, "its pickle ends before it is complete"),
        Fault::Wrong(problem) => {
            let message = format!("cannot be read: the pickle in it {problem}");
            Error::weights(&file.path, message).with_hint(SAVE_WEIGHTS)
        }
        Fault::Name(name, why) => {
            let message =
                format!("cannot be read: the pickle in it names `{name}`, {why}; nothing was run");
            let hint = if why == classes::ACTS {
                "it was made to run that where it is opened: take the model from a source that you trust, as safetensors"
            } else {
                SAVE_WEIGHTS
            };
            Error::weights(&file.path, message).with_hint(hint)
        }
    }
}
