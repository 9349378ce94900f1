//! A stand-in for the Hugging Face hub: models of files in memory, its API and its downloads with ranges and redirects, and the
//! ways in which it or the network fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::tiny_run::contents;

/// The commit of every model that is served.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Variables that would lead elsewhere than to the stand-in.
const OTHERS: [&str; 17] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "all_proxy",
    "https_proxy",
    "http_proxy",
    "HF_ENDPOINT",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
];

/// Status, headers, body, and where the connection breaks.
type Response = (u16, Vec<(String, String)>, Vec<u8>, Option<usize>);

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub host: String,
    pub path: String,
    pub token: Option<String>,
    pub range: Option<String>,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Bytes of large files in all after which the connection is closed, again and again.
    pub budget: Option<usize>,
    /// Large files come with another first byte.
    pub is_wrong: bool,
    /// A server without ranges.
    pub no_ranges: bool,
    /// Every request is answered so, with the hub's code.
    pub refusal: Option<(u16, &'static str)>,
    /// Large files come from this host.
    pub redirect: Option<&'static str>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    moved: BTreeMap<String, String>,
    faults: Faults,
    asked: Vec<Asked>,
}

/// The server, which lives as long as the tests' process.
#[derive(Clone)]
pub struct Hub {
    port: u16,
    state: Arc<Mutex<State>>,
}

fn is_large(path: &str) -> bool {
    ["safetensors", "bin", "gguf", "onnx"]
        .iter()
        .any(|ending| path.ends_with(ending))
}

impl Hub {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
        };
        let server = hub.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                thread::spawn(move || server.answer(stream.unwrap()));
            }
        });
        hub
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves a model of these files.
    pub fn put(&self, name: &str, files: BTreeMap<String, Vec<u8>>) {
        self.state
            .lock()
            .unwrap()
            .models
            .insert(name.to_owned(), files);
    }

    /// Serves a folder, with what models on the hub have beside it.
    pub fn put_folder(&self, name: &str, folder: &Path) {
        let mut files = contents(folder);
        for other in [
            ".gitattributes",
            "README.md",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "onnx/config.json",
            "training_args.bin",
        ] {
            files.insert(other.to_owned(), b"not needed".to_vec());
        }
        self.put(name, files);
    }

    /// Adds a file to a model.
    pub fn add(&self, name: &str, file: &str, content: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let files = state.models.get_mut(name).unwrap();
        files.insert(file.to_owned(), content.to_vec());
    }

    pub fn move_model(&self, old: &str, new: &str) {
        let mut state = self.state.lock().unwrap();
        state.moved.insert(old.to_owned(), new.to_owned());
    }

    pub fn fail(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// A command that sees this hub and the cache below `home` alone.
    pub fn shown_to(&self, command: &mut Command, home: &Path) {
        for other in OTHERS {
            command.env_remove(other);
        }
        command
            .env("HF_HOME", home)
            .env("HF_ENDPOINT", self.address());
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (own, value) = line.split_once(':')?;
                own.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let asked = Asked {
            host: header("host")?,
            path: head.split(' ').nth(1)?.to_owned(),
            token: header("authorization"),
            range: header("range"),
        };
        let (status, headers, body, cut) = self.response(&asked);
        let mut text = format!("HTTP/1.1 {status} Words\r\nConnection: close\r\n");
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n").unwrap();
        }
        write!(text, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(text.as_bytes()).ok()?;
        stream
            .write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])
            .ok()?;
        stream.flush().ok()?;
        stream.shutdown(Shutdown::Both).ok()
    }

    fn response(&self, asked: &Asked) -> Response {
        let mut state = self.state.lock().unwrap();
        state.asked.push(asked.clone());
        let refuse = |status: u16, code: &str| {
            let headers = vec![("X-Error-Code".to_owned(), code.to_owned())];
            (status, headers, b"{}".to_vec(), None)
        };
        if let Some((status, code)) = state.faults.refusal {
            return refuse(status, code);
        }
        let path = asked.path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        if let ["api", "models", organisation, model, "revision", revision] = parts.as_slice() {
            let name = format!("{organisation}/{model}");
            if let Some(new) = state.moved.get(&name) {
                let to = format!("/api/models/{new}/revision/{revision}?blobs=true");
                return (307, vec![("Location".to_owned(), to)], Vec::new(), None);
            }
            let Some(files) = state.models.get(&name) else {
                return refuse(404, "RepoNotFound");
            };
            if !["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(revision) {
                return refuse(404, "RevisionNotFound");
            }
            let files: Vec<Value> = files
                .iter()
                .map(|(name, content)| describe(name, content))
                .collect();
            let body = json!({ "id": name, "sha": COMMIT, "siblings": files }).to_string();
            return (200, Vec::new(), body.into_bytes(), None);
        }
        let [organisation, model, "resolve", commit, file @ ..] = parts.as_slice() else {
            return refuse(404, "");
        };
        assert_eq!(*commit, COMMIT);
        let name = format!("{organisation}/{model}");
        let name = state.moved.get(&name).unwrap_or(&name);
        let file = file.join("/").replace("%20", " ");
        let Some(mut content) = state
            .models
            .get(name)
            .and_then(|files| files.get(&file))
            .cloned()
        else {
            return refuse(404, "EntryNotFound");
        };
        let large = is_large(&file);
        if large
            && let Some(host) = state.faults.redirect
            && !asked.host.starts_with(host)
        {
            let to = format!("http://{host}:{}{}", self.port, asked.path);
            return (302, vec![("Location".to_owned(), to)], Vec::new(), None);
        }
        if large && state.faults.is_wrong {
            content[0] ^= 1;
        }
        let mut answer = (200, Vec::new());
        if let Some(range) = &asked.range
            && !state.faults.no_ranges
        {
            let from: usize = range
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .unwrap();
            let whole = content.len();
            content = content.split_off(from);
            let range = format!("bytes {from}-{}/{whole}", whole - 1);
            answer = (206, vec![("Content-Range".to_owned(), range)]);
        }
        let cut = if large { state.faults.budget } else { None };
        if large && let Some(budget) = &mut state.faults.budget {
            *budget = budget.saturating_sub(content.len());
        }
        (answer.0, answer.1, content, cut)
    }
}

/// A file as the hub's API lists it.
fn describe(name: &str, content: &[u8]) -> Value {
    let mut blob = Sha1::new();
    blob.update(format!("blob {}\0", content.len()));
    blob.update(content);
    let mut file = json!({
        "rfilename": name, "size": content.len(), "blobId": format!("{:x}", blob.finalize()),
    });
    if is_large(name) {
        let hash = format!("{:x}", Sha256::digest(content));
        file["lfs"] = json!({ "sha256": hash, "size": content.len(), "pointerSize": 130 });
    }
    file
}
