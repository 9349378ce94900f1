//! A session: what has been said of which items, and which two come next. It knows no network.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::items::Items;
use super::order::{Asked, Order};
use super::records::{self, Choice, Chosen, Record};
use super::said::{Pair, Said};
use crate::data::left_out::counted;
use crate::error::{Error, Result};
use crate::run::folder::lock;
use crate::run::rows::Rows;

/// Seconds for a pair that are believed; more are those of somebody who has left.
const MOST_SECONDS: f64 = 600.0;

/// An opened session. Its folder is locked until it is dropped.
pub struct Session {
    items: Items,
    judge: String,
    folder: PathBuf,
    file: Rows,
    seed: u64,
    /// Lines of the file.
    lines: usize,
    /// Keys that were ever pressed.
    pressed: u64,
    said: Vec<Said>,
    /// Pairs that this judge has taken back and not answered again, the last one last.
    again: Vec<Pair>,
    next: Option<Pair>,
    notes: Vec<String>,
    _lock: File,
}

/// A key that was not taken, as something else is shown by now: another page of the same session has answered.
#[derive(Debug)]
pub struct Stale;

impl Session {
    /// Opens a session on these items in a folder, or goes on with the one that is there.
    ///
    /// # Errors
    /// The folder cannot be written, another process works in it, or a line of what is there is no record.
    pub fn open(items: Items, folder: &Path, judge: &str) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(
                Error::data(folder, "a file, where the session's folder is to be")
                    .with_hint("choose another `--session`"),
            );
        }
        fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
        let lock = lock(folder)?;
        let (file, kept) = records::open(folder)?;
        let mut session = Self {
            items,
            judge: judge.to_owned(),
            folder: folder.to_owned(),
            file,
            seed: 0,
            lines: kept.len(),
            pressed: 0,
            said: Vec::new(),
            again: Vec::new(),
            next: None,
            notes: Vec::new(),
            _lock: lock,
        };
        if kept.is_empty() {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).map_err(|error| {
                Error::io("draw a seed for", folder, std::io::Error::other(error))
            })?;
            session.seed = u64::from_le_bytes(bytes);
            let preftune = env!("CARGO_PKG_VERSION").to_owned();
            let seed = session.seed;
            session.write(&Record::Session { preftune, seed })?;
        }
        session.replay(kept);
        session.next = session.find_next()?;
        Ok(session)
    }

    /// Takes up what is in the file.
    fn replay(&mut self, kept: Vec<Record>) {
        let ids = self.items.items.iter().enumerate();
        let ids: HashMap<String, usize> = ids
            .map(|(number, item)| (item.id.clone(), number))
            .collect();
        let mut lost = HashSet::new();
        for record in kept {
            match record {
                Record::Session { seed, .. } => self.seed = seed,
                Record::Choice(chosen) => {
                    self.pressed = self.pressed.max(chosen.number + 1);
                    let sides = [&chosen.left, &chosen.right].map(|id| ids.get(id).copied());
                    let [Some(left), Some(right)] = sides else {
                        lost.insert(chosen.number);
                        continue;
                    };
                    let pair = Pair {
                        left,
                        right,
                        repeat: chosen.repeat,
                    };
                    self.take(Said {
                        number: chosen.number,
                        pair,
                        choice: chosen.choice,
                        judge: chosen.judge,
                        seconds: chosen.seconds,
                    });
                }
                Record::Undo { undoes, .. } => {
                    lost.remove(&undoes);
                    self.take_back(undoes);
                }
            }
        }
        if !lost.is_empty() {
            self.notes.push(format!(
                "{} of `{}` are of items that are not there any more or have changed, and are not counted",
                counted(lost.len(), "key"),
                self.folder.join(records::FILE).display()
            ));
        }
    }

    /// What is compared.
    pub fn items(&self) -> &Items {
        &self.items
    }

    /// Who judges.
    pub fn judge(&self) -> &str {
        &self.judge
    }

    /// The folder of the session.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a user should know, a sentence each.
    pub fn notes(&self) -> impl Iterator<Item = &String> {
        self.items.notes.iter().chain(&self.notes)
    }

    /// All keys that were not taken back, of all judges, in their order.
    pub fn said(&self) -> &[Said] {
        &self.said
    }

    /// The two items to be shown; `None` where all that is worth asking has been asked.
    pub fn next(&self) -> Option<Pair> {
        self.next
    }

    /// A number that changes with every key: who answers says which one their page has.
    pub fn ticket(&self) -> usize {
        self.lines
    }

    /// `true` if this judge has a key to take back.
    pub fn can_undo(&self) -> bool {
        self.last_own().is_some()
    }

    /// Pairs of this judge's plan that are done, and all of them, those that come again included.
    pub fn progress(&self) -> (usize, usize) {
        let done = self.own().count();
        let asked = self.asked();
        (done, done + Order::new(&self.items, self.seed).open(&asked))
    }

    /// Takes what somebody said of what is shown, and returns once it is on the disk.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    pub fn answer(
        &mut self,
        ticket: usize,
        choice: Choice,
        seconds: f64,
    ) -> Result<Result<(), Stale>> {
        let Some(pair) = self.next.filter(|_| ticket == self.lines) else {
            return Ok(Err(Stale));
        };
        for item in [pair.left, pair.right] {
            self.items.items[item].check()?;
        }
        let seconds = if seconds.is_finite() {
            seconds.clamp(0.0, MOST_SECONDS)
        } else {
            MOST_SECONDS
        };
        let name = |item: usize| self.items.items[item].path.to_string_lossy().into_owned();
        let id = |item: usize| self.items.items[item].id.clone();
        let chosen = Chosen {
            number: self.pressed,
            left: id(pair.left),
            right: id(pair.right),
            choice,
            seconds,
            judge: self.judge.clone(),
            repeat: pair.repeat,
            time: now(),
            files: [name(pair.left), name(pair.right)],
        };
        self.write(&Record::Choice(chosen))?;
        self.take(Said {
            number: self.pressed,
            pair,
            choice,
            judge: self.judge.clone(),
            seconds,
        });
        self.pressed += 1;
        self.next = self.find_next()?;
        Ok(Ok(()))
    }

    /// Takes this judge's last key back; its pair is shown again. Nothing happens where there is none.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn undo(&mut self, ticket: usize) -> Result<Result<(), Stale>> {
        if ticket != self.lines {
            return Ok(Err(Stale));
        }
        let Some(number) = self.last_own() else {
            return Ok(Ok(()));
        };
        self.write(&Record::Undo {
            undoes: number,
            judge: self.judge.clone(),
            time: now(),
        })?;
        self.take_back(number);
        self.next = self.find_next()?;
        Ok(Ok(()))
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let file = self.folder.join(records::FILE);
        if !file.exists() {
            let problem = "is not there any more: it was removed or renamed while the session was open, and keys would be lost";
            return Err(Error::failed(&file, problem));
        }
        self.file.add_durably(record)?;
        self.lines += 1;
        Ok(())
    }

    fn take(&mut self, said: Said) {
        if said.judge == self.judge && self.again.last() == Some(&said.pair) {
            self.again.pop();
        }
        self.said.push(said);
    }

    fn take_back(&mut self, number: u64) {
        let place = self.said.iter().rposition(|said| said.number == number);
        if let Some(said) = place.map(|place| self.said.remove(place))
            && said.judge == self.judge
        {
            self.again.push(said.pair);
        }
    }

    fn own(&self) -> impl DoubleEndedIterator<Item = &Said> {
        self.said.iter().filter(|said| said.judge == self.judge)
    }

    fn last_own(&self) -> Option<u64> {
        self.own().next_back().map(|said| said.number)
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            own: self.own().collect(),
            others: self
                .said
                .iter()
                .filter(|said| said.judge != self.judge)
                .collect(),
        }
    }

    fn find_next(&self) -> Result<Option<Pair>> {
        if let Some(pair) = self.again.last() {
            return Ok(Some(*pair));
        }
        Order::new(&self.items, self.seed).next(&self.asked())
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
