//! The flag `--chat`, shared by the verbs that put words to language models.

use clap::{Args, ValueEnum};

#[derive(Args)]
pub(super) struct ChatArgs {
    /// How words are put to a language model that has a chat template [default: as preftune tuned it, else `template`].
    #[arg(long, value_enum)]
    chat: Option<Form>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Through its template, as messages.
    Template,
    /// As they are: the answer continues the prompt.
    Raw,
}

impl ChatArgs {
    /// `true` if words stay as they are; `None` where that was not said.
    pub(super) fn raw(&self) -> Option<bool> {
        self.chat.map(|form| form == Form::Raw)
    }
}
