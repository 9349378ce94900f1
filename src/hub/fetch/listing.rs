//! The files of a model on the hub with their sizes and hashes, in one answer of its API.

use std::path::{Component, Path};

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::access::{Access, SILENCE};
use super::{refusal, repo};
use crate::error::{Error, Result};
use crate::hub::Name;

/// Longest answer that is read; that of a model with thousands of files has a few MB.
const LONGEST: u64 = 64 << 20;

/// The files that a model has at a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a model on the hub.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    /// Its path in the model's folder.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) hash: Hash,
}

/// The hash of a file, which is its name among the cache's blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// Of large files.
    Sha256(String),
    /// Of small ones: git's, of the content behind a header with its length.
    GitBlob(String),
}

impl Hash {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::GitBlob(text) => text,
        }
    }

    /// Its kind, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git hash",
        }
    }

    /// A computation of it, over a file of `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitBlob(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                Hasher::GitBlob(hasher)
            }
        }
    }
}

/// A hash in the making.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Sha256(hasher) => format!("{:x}", hasher.finalize()),
            Self::GitBlob(hasher) => format!("{:x}", hasher.finalize()),
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Asks the hub.
    ///
    /// # Errors
    /// It cannot be reached, or refuses; its answer is none of the hub's.
    pub(super) fn ask(access: &Access, name: &Name) -> Result<Self> {
        let request = access.api.repo(repo(name, &name.revision)).info_request();
        let response = request
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .tls_config(access.tls.clone())
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .call();
        let mut response = response.map_err(|error| refusal::unreachable(access, &error))?;
        if !response.status().is_success() {
            return Err(refusal::explain(access, name, None, &response));
        }
        let text = response.body_mut().with_config().limit(LONGEST);
        let text = text
            .read_to_string()
            .map_err(|error| refusal::unreachable(access, &error))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|_| odd(access, name))?;
        if !is_hash(&answer.sha) {
            return Err(odd(access, name));
        }
        let files = answer
            .siblings
            .into_iter()
            .map(|sibling| sibling.checked().ok_or_else(|| odd(access, name)));
        Ok(Self {
            commit: answer.sha,
            files: files.collect::<Result<_>>()?,
        })
    }
}

impl Sibling {
    /// The file, unless its name leads out of the model's folder or its hash is none.
    fn checked(self) -> Option<RemoteFile> {
        let mut parts = Path::new(&self.rfilename).components();
        let stays = parts.all(|part| matches!(part, Component::Normal(_)));
        let (size, hash) = match self.lfs {
            Some(Lfs { sha256, size }) => (size, Hash::Sha256(sha256)),
            None => (self.size?, Hash::GitBlob(self.blob_id?)),
        };
        (stays && !self.rfilename.contains('\\') && is_hash(hash.text())).then_some(RemoteFile {
            path: self.rfilename,
            size,
            hash,
        })
    }
}

fn is_hash(text: &str) -> bool {
    text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn odd(access: &Access, name: &Name) -> Error {
    let message = format!(
        "`{}` answers, but not as the Hugging Face hub does, with a commit and the size and hash of each file",
        access.endpoint
    );
    Error::failed(name.to_string(), message)
        .with_hint("`HF_ENDPOINT` names the hub or a mirror of it")
}
