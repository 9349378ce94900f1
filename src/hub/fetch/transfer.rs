//! One file from the hub into the cache: from where an earlier attempt ended, again where the connection breaks, and into its
//! place only when its hash is right.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use hf_hub::api::sync::ApiRepo;
use ureq::http::StatusCode;

use super::access::{Access, with_room_advice};
use super::listing::{Hasher, RemoteFile};
use super::{layout, refusal, repo};
use crate::error::{Error, Result};
use crate::hub::Name;

/// Attempts in a row without a new byte before the connection is given up.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

const BUFFER: usize = 256 << 10;

/// The files of a model at a commit.
pub(super) struct Transfer<'a> {
    access: &'a Access,
    name: &'a Name,
    files: ApiRepo,
}

/// How an attempt ended that did not bring the rest of a file.
enum Broken {
    /// The connection broke; another attempt may do.
    Connection(String),
    /// Another attempt would end the same way.
    Refused(Error),
}

/// A file that is being fetched.
struct Arriving<'a> {
    file: &'a RemoteFile,
    path: &'a Path,
    out: File,
    hasher: Hasher,
    /// Bytes that are there.
    here: u64,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(access: &'a Access, name: &'a Name, commit: &str) -> Self {
        Self {
            access,
            name,
            files: access.api.repo(repo(name, commit)),
        }
    }

    /// Fetches a file into `blob`.
    pub(super) fn fetch(
        &self,
        file: &RemoteFile,
        blob: &Path,
        advance: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<()> {
        let partial = layout::partial(blob);
        let disk = |action, source| {
            let error = Error::io(action, &partial, source);
            with_room_advice(error)
        };
        let folder = blob.parent().unwrap_or(blob);
        fs::create_dir_all(folder).map_err(|source| {
            let error = Error::io("create", folder, source);
            with_room_advice(error)
        })?;
        let out = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(|source| disk("write", source))?;
        match out.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process is fetching `{}`", file.path);
                return Err(self.failed(message).with_hint("wait until it is done"));
            }
            // Some disks know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut arriving = Arriving {
            file,
            path: &partial,
            hasher: file.hash.hasher(file.size),
            out,
            here: 0,
        };
        arriving
            .take_earlier()
            .map_err(|source| disk("read", source))?;
        let mut resumed = arriving.here > 0;
        loop {
            advance(&file.path, arriving.here, file.size);
            self.receive_all(&mut arriving, advance)?;
            let found = arriving.hasher.clone().text();
            if found == file.hash.text() {
                break;
            }
            if resumed {
                // What was there before may have been another file's.
                resumed = false;
                arriving
                    .begin_anew()
                    .map_err(|source| disk("write", source))?;
                continue;
            }
            let _ = fs::remove_file(&partial);
            let message = format!(
                "`{}` has arrived with another {} than the hub lists ({} instead of {}) and was removed",
                file.path,
                file.hash.kind(),
                &found[..12],
                file.hash.text().chars().take(12).collect::<String>()
            );
            return Err(self.failed(message).with_hint(
                "fetch it again; where that does not help, something on the way changes files: a proxy, or a mirror in `HF_ENDPOINT`",
            ));
        }
        arriving
            .out
            .sync_all()
            .and_then(|()| fs::rename(&partial, blob))
            .map_err(|source| disk("write", source))
    }

    fn failed(&self, message: impl Into<String>) -> Error {
        Error::failed(self.name.to_string(), message)
    }

    /// Brings the rest of a file.
    fn receive_all(
        &self,
        arriving: &mut Arriving,
        advance: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<()> {
        let mut vain = 0;
        while arriving.here < arriving.file.size {
            let before = arriving.here;
            let cause = match self.receive(arriving, advance) {
                Ok(()) => continue,
                Err(Broken::Refused(error)) => return Err(error),
                Err(Broken::Connection(cause)) => cause,
            };
            vain = if arriving.here > before { 1 } else { vain + 1 };
            if vain >= ATTEMPTS {
                let message = format!(
                    "the connection broke after {} of {} bytes of `{}`: {cause}",
                    arriving.here, arriving.file.size, arriving.file.path
                );
                return Err(self
                    .failed(message)
                    .with_hint("`preftune fetch` again goes on from there"));
            }
            sleep(PAUSE * vain);
        }
        Ok(())
    }

    /// Asks for the rest of a file and writes what comes.
    fn receive(
        &self,
        arriving: &mut Arriving,
        advance: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<(), Broken> {
        let file = arriving.file;
        let mut request = self
            .access
            .agent
            .get(self.files.url(&encoded(&file.path)))
            // The hash is of the file itself.
            .header("Accept-Encoding", "identity");
        if let Some(token) = &self.access.token {
            request = request.header("Authorization", format!("Bearer {}", token.text));
        }
        if arriving.here > 0 {
            request = request.header("Range", format!("bytes={}-", arriving.here));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error @ (ureq::Error::HostNotFound | ureq::Error::RequireHttpsOnly(_))) => {
                return Err(Broken::Refused(refusal::unreachable(self.access, &error)));
            }
            Err(error) => return Err(Broken::Connection(refusal::in_words(&error))),
        };
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT && {
            let range = response.headers().get("content-range");
            let range = range.and_then(|range| range.to_str().ok());
            range.is_some_and(|range| range.starts_with(&format!("bytes {}-", arriving.here)))
        };
        let disk = |path: &Path, source| {
            let error = Error::io("write", path, source);
            Broken::Refused(with_room_advice(error))
        };
        let path = arriving.path;
        let is_past_the_end = response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        if arriving.here > 0 && !goes_on && (response.status().is_success() || is_past_the_end) {
            // The server knows no ranges, and sends the whole file.
            arriving.begin_anew().map_err(|source| disk(path, source))?;
            if is_past_the_end || response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(Broken::Connection("another part was sent".to_owned()));
            }
        }
        refusal::check(self.access, self.name, &file.path, &response).map_err(Broken::Refused)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Connection(error.to_string())),
            };
            // What is too much is of another file; the hash will say so.
            let left = usize::try_from(file.size - arriving.here).unwrap_or(usize::MAX);
            let bytes = &buffer[..read.min(left)];
            arriving.write(bytes).map_err(|source| disk(path, source))?;
            advance(&file.path, arriving.here, file.size);
            if read > left {
                break;
            }
        }
        if arriving.here < file.size {
            return Err(Broken::Connection("it ended too early".to_owned()));
        }
        Ok(())
    }
}

impl Arriving<'_> {
    /// Takes up what an earlier attempt has left.
    fn take_earlier(&mut self) -> io::Result<()> {
        if self.out.metadata()?.len() > self.file.size {
            return self.begin_anew();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = self.out.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..read]);
            self.here += read as u64;
        }
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        self.out.set_len(0)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.hasher = self.file.hash.hasher(self.file.size);
        self.here = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.here += bytes.len() as u64;
        Ok(())
    }
}

/// A path as an address has it: what is not a plain character by its bytes.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
