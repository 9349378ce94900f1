//! Downloads of models into the hub's cache: what a model has, which files of it are needed, and those files, checked by their
//! hashes. The crate `hf-hub` knows the cache's layout and how the hub is asked; its own download is not used: it hands the
//! user's token on to the hosts that large files are redirected to, puts files into their place unchecked, and appends a
//! whole file to a part of it where a server knows no ranges.

mod access;
mod choice;
mod layout;
mod listing;
mod refusal;
mod transfer;

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

pub use self::access::Access;
use self::access::with_room_advice;
use self::listing::{Listing, RemoteFile};
use self::transfer::Transfer;
use super::Name;
use crate::error::{Error, Result};

/// Choices of what of a model is fetched.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Variant of the weights, as `fp16`; the plain ones where it is not given.
    pub variant: Option<String>,
    /// Files by their names, instead of what a model needs.
    pub files: Vec<String>,
}

/// The files of a model that are to be fetched.
pub struct Plan<'a> {
    access: &'a Access,
    name: Name,
    /// The commit that the revision means today.
    commit: String,
    files: Vec<Planned>,
}

/// A file of a model, and how much of it is here.
struct Planned {
    file: RemoteFile,
    here: u64,
}

/// A number of files with their size in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many there are.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Access {
    /// Asks the hub what a model has, and says what is to be fetched of it.
    ///
    /// # Errors
    /// The hub cannot be reached, or refuses: there is no such model or revision, it is private or gated. Nothing is chosen
    /// by `selection`.
    pub fn plan(&self, name: &Name, selection: &Selection) -> Result<Plan<'_>> {
        let listing = Listing::ask(self, name)?;
        let chosen = choice::choose(name, &listing.files, selection)?;
        let plan = |file: RemoteFile| {
            let blob = self.blob(name, &file);
            let snapshot = self.snapshot(name, &listing.commit).join(&file.path);
            let whole =
                |path: &Path| fs::metadata(path).is_ok_and(|about| about.len() == file.size);
            let here = if whole(&blob) || whole(&snapshot) {
                file.size
            } else {
                let part = fs::metadata(layout::partial(&blob));
                // What is longer than the file is none of it.
                let part = part.map_or(0, |about| about.len());
                if part > file.size { 0 } else { part }
            };
            Planned { file, here }
        };
        Ok(Plan {
            access: self,
            name: name.clone(),
            commit: listing.commit.clone(),
            files: chosen.into_iter().cloned().map(plan).collect(),
        })
    }

    fn blob(&self, name: &Name, file: &RemoteFile) -> PathBuf {
        let repository = self.cache.repo(repo(name, &name.revision));
        repository.blob_path(file.hash.text())
    }

    fn snapshot(&self, name: &Name, commit: &str) -> PathBuf {
        let repository = self.cache.repo(repo(name, &name.revision));
        repository.pointer_path(commit)
    }
}

/// A model at a revision, as `hf-hub` has it.
fn repo(name: &Name, revision: &str) -> Repo {
    Repo::with_revision(
        name.repository.clone(),
        RepoType::Model,
        revision.to_owned(),
    )
}

impl Plan<'_> {
    /// The model.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder of the model in the cache.
    pub fn folder(&self) -> PathBuf {
        super::repository_folder(self.access.cache.path(), &self.name.repository)
    }

    /// The folder of the files, once they are there.
    pub fn snapshot(&self) -> PathBuf {
        self.access.snapshot(&self.name, &self.commit)
    }

    /// The files of which something is missing, and how many bytes are.
    pub fn missing(&self) -> Amount {
        let missing = self.files.iter().filter(|one| !self.is_here(one));
        missing.fold(Amount::default(), |sum, one| Amount {
            files: sum.files + 1,
            bytes: sum.bytes + (one.file.size - one.here),
        })
    }

    /// The files that are there, and the bytes that are, those of files begun included.
    pub fn here(&self) -> Amount {
        Amount {
            files: self.files.iter().filter(|one| self.is_here(one)).count(),
            bytes: self.files.iter().map(|one| one.here).sum(),
        }
    }

    /// `true` of a file that is whole and in its place.
    fn is_here(&self, one: &Planned) -> bool {
        let blob = self.access.blob(&self.name, &one.file);
        let snapshot = self.snapshot().join(&one.file.path);
        one.here == one.file.size && (blob.exists() || snapshot.exists())
    }

    /// Fetches what is missing; `advance` is told the file, its bytes so far, and its size. Only when all files are there, the
    /// snapshot is, and then the revision's name for it. The result is the snapshot's folder.
    ///
    /// # Errors
    /// The hub cannot be reached or refuses; the connection breaks again and again; a file arrives with another hash than the
    /// hub lists; the disk is full or not to be written on. What has arrived is kept, and the next call goes on from there.
    pub fn run(&self, advance: &mut dyn FnMut(&str, u64, u64)) -> Result<PathBuf> {
        let missing: Vec<&Planned> = self.files.iter().filter(|one| !self.is_here(one)).collect();
        self.access.check_room(self.missing().bytes)?;
        let transfer = Transfer::new(self.access, &self.name, &self.commit);
        for one in missing {
            let blob = self.access.blob(&self.name, &one.file);
            transfer.fetch(&one.file, &blob, advance)?;
        }
        let links = self.files.iter().map(|one| {
            let blob = self.access.blob(&self.name, &one.file);
            (one.file.path.as_str(), blob)
        });
        let snapshot = self.snapshot();
        layout::link_all(&snapshot, &links.collect::<Vec<_>>()).map_err(with_room_advice)?;
        let main = self.folder().join("refs").join(&self.name.revision);
        let known = fs::read_to_string(main).is_ok_and(|commit| commit.trim() == self.commit);
        if self.name.revision != self.commit && !known {
            let repository = self
                .access
                .cache
                .repo(repo(&self.name, &self.name.revision));
            repository.create_ref(&self.commit).map_err(|source| {
                let error = Error::io("write", self.folder().join("refs"), source);
                with_room_advice(error)
            })?;
        }
        Ok(snapshot)
    }
}
