//! The page of a session, on this machine alone. Every address begins with a token that only whoever started it knows; what
//! comes from another page or by another name of this machine is refused. Items are asked for by number: no path comes from
//! outside, and nothing is written but the session's own files.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::figures::Figures;
use super::http::{Connection, Request, Response};
use super::items::Content;
use super::outcome::{self, Written};
use super::records::Choice;
use super::session::{Session, Stale};
use crate::data::text::Text;
use crate::error::{Error, Result};
use crate::files;
use crate::jobs::interrupt::Interrupt;
use crate::models::weights::hex;
use crate::ops::random::permutation;

const PAGE: &str = include_str!("page.html");
/// Connections that are served at a time; more wait.
const WORKERS: usize = 32;
/// Time between two looks whether to stop.
const PAUSE: Duration = Duration::from_millis(50);
/// Keys after which the time that a pair takes is known well enough to say how long the rest takes.
const KNOWN: usize = 3;

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    port: u16,
    token: String,
    session: Mutex<Session>,
    out: PathBuf,
    /// Items by the numbers by which pages ask for them: in no order that says whose they are.
    handles: Vec<usize>,
    /// The number of each item.
    handle_of: Vec<usize>,
    headers: String,
    stops: AtomicBool,
}

/// A key, as a page sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    ticket: usize,
    choice: Choice,
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    ticket: usize,
}

impl Server {
    /// Listens on 127.0.0.1 at this port, or at a free one where it is 0. Pairs are written into `out`.
    ///
    /// # Errors
    /// The port is taken, or the system has no random numbers.
    pub fn open(session: Session, out: &Path, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |source| {
            let error = Error::io("listen at", address.to_string(), source);
            if port == 0 {
                error
            } else {
                error.with_hint("take another `--port`, or none for a free one")
            }
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|error| {
            Error::io(
                "draw a token for",
                address.to_string(),
                std::io::Error::other(error),
            )
        })?;
        let (token, seed) = random.split_at(16);
        let seed = i64::from_le_bytes(seed.try_into().unwrap_or_default());
        let handles = permutation(seed, session.items().items.len());
        let mut handle_of = vec![0; handles.len()];
        for (handle, &item) in handles.iter().enumerate() {
            handle_of[item] = handle;
        }
        Ok(Self {
            listener,
            port,
            token: hex(token),
            session: Mutex::new(session),
            out: out.to_owned(),
            handles,
            handle_of,
            headers: headers(),
            stops: AtomicBool::new(false),
        })
    }

    /// The address of the page.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.port, self.token)
    }

    /// Serves the page until somebody asks to stop, then writes pairs and figures.
    ///
    /// # Errors
    /// A thread cannot be started, or a file cannot be written.
    pub fn serve(&self, interrupt: &Interrupt) -> Result<Written> {
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| self.work());
            }
            while !interrupt.requested() {
                thread::sleep(PAUSE);
            }
            self.stops.store(true, Ordering::Relaxed);
            // Each wakes one worker that waits for somebody.
            for _ in 0..WORKERS {
                let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            }
        });
        outcome::write(&self.session(), &self.out)
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let stops = || self.stops.load(Ordering::Relaxed);
        while !stops() {
            let Ok((stream, _)) = self.listener.accept() else {
                // Too many open files: some will be closed.
                thread::sleep(PAUSE);
                continue;
            };
            let Ok(mut connection) = Connection::new(stream, &stops) else {
                continue;
            };
            let response = match connection.read() {
                Ok(request) => self.response(&request),
                Err(Some(refusal)) => refusal,
                Err(None) => continue,
            };
            connection.answer(&response, &self.headers);
        }
    }

    fn response(&self, request: &Request) -> Response {
        if let Some(problem) = self.foreign(request) {
            return Response::refuse(403, problem);
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let own = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((token, place)) = own else {
            return Response::refuse(403, "the address lacks its token");
        };
        if !is_equal(token, &self.token) {
            return Response::refuse(403, "the address has another token");
        }
        let item = place.strip_prefix("item/");
        match (request.method.as_str(), place) {
            ("GET", "") => Response {
                status: 200,
                kind: "text/html; charset=utf-8",
                body: PAGE.as_bytes().to_vec(),
            },
            ("GET", "state") => self.state(200),
            ("GET", _) if item.is_some() => self.item(item.unwrap_or_default()),
            ("POST", "answer" | "undo" | "finish") => self.take(place, request),
            (_, "" | "state" | "answer" | "undo" | "finish") => {
                Response::refuse(405, "this is not asked for in this way")
            }
            _ => Response::refuse(404, "there is nothing here"),
        }
    }

    /// Why a request does not come from our own page.
    fn foreign(&self, request: &Request) -> Option<&'static str> {
        let names = [
            format!("127.0.0.1:{}", self.port),
            format!("localhost:{}", self.port),
        ];
        // A name of another site may lead to this machine too.
        if !request
            .header("host")
            .is_some_and(|host| names.iter().any(|name| name == host))
        {
            return Some("the request is for another host");
        }
        let is_own = |origin: &str| {
            let host = origin.strip_prefix("http://");
            host.is_some_and(|host| names.iter().any(|name| name == host))
        };
        if request
            .header("origin")
            .is_some_and(|origin| !is_own(origin))
        {
            return Some("the request comes from another page");
        }
        match request.header("sec-fetch-site") {
            None | Some("same-origin" | "none") => None,
            Some(_) => Some("the request comes from another page"),
        }
    }

    fn take(&self, place: &str, request: &Request) -> Response {
        let kind = request.header("content-type").unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("application/json") {
            return Response::refuse(415, "the body is to be JSON");
        }
        let body = &request.body;
        let done = match place {
            "answer" => match serde_json::from_slice(body) {
                Ok(Key {
                    ticket,
                    choice,
                    seconds,
                }) => self.session().answer(ticket, choice, seconds),
                Err(_) => return Response::refuse(400, "not a key"),
            },
            "undo" => match serde_json::from_slice(body) {
                Ok(Undo { ticket }) => self.session().undo(ticket),
                Err(_) => return Response::refuse(400, "not a key"),
            },
            _ => return self.finish(),
        };
        match done {
            Ok(Ok(())) => self.state(200),
            Ok(Err(Stale)) => self.state(409),
            Err(error) => json_response(500, &json!({"error": error.describe()})),
        }
    }

    fn finish(&self) -> Response {
        match outcome::write(&self.session(), &self.out) {
            Ok(written) => json_response(
                200,
                &json!({
                    "pairs": written.pairs, "rows": written.rows, "ties": written.ties, "command": written.command,
                    "reward_command": written.reward_command,
                    "figures": written.figures, "rankings": written.rankings,
                }),
            ),
            Err(error) => json_response(500, &json!({"error": error.describe()})),
        }
    }

    /// What the page shows: without the names of what is compared.
    fn state(&self, status: u16) -> Response {
        let session = self.session();
        let figures = Figures::of(&session);
        let (done, total) = session.progress();
        let own = &figures.judges[0];
        let left = own.seconds.filter(|_| own.keys >= KNOWN);
        let left = left.map(|seconds| seconds * (total - done) as f64);
        let side = |item: usize| match &session.items().items[item].content {
            Content::Image { width, height } => {
                json!({"item": self.handle_of[item], "width": width, "height": height})
            }
            Content::Answer(text) => json!({"text": in_words(text)}),
        };
        let groups = &session.items().groups;
        let pair = session.next().map(|pair| {
            let group = groups.iter().find(|group| group.items.contains(&pair.left));
            let prompt = group.map_or_else(String::new, |group| in_words(&group.prompt));
            json!({"prompt": prompt, "left": side(pair.left), "right": side(pair.right)})
        });
        let sources = figures.sources.iter().map(|source| {
            json!({"win_rate": source.win_rate, "interval": source.interval, "settled": source.settled})
        });
        json_response(
            status,
            &json!({
                "ticket": session.ticket(), "judge": session.judge(), "images": session.items().are_images(),
                "done": done, "total": total, "seconds_left": left, "can_undo": session.can_undo(),
                "settled": figures.settled(), "pair": pair,
                "figures": {"own": own, "alpha": figures.alpha, "shared": figures.shared,
                            "sources": sources.collect::<Vec<_>>()},
            }),
        )
    }

    fn item(&self, handle: &str) -> Response {
        let item = handle
            .parse()
            .ok()
            .and_then(|handle: usize| self.handles.get(handle));
        let Some(&item) = item else {
            return Response::refuse(404, "there is no such item");
        };
        let path = {
            let session = self.session();
            let item = &session.items().items[item];
            matches!(item.content, Content::Image { .. }).then(|| item.path.clone())
        };
        let Some(path) = path else {
            return Response::refuse(404, "this item is no image");
        };
        match files::read(&path) {
            Ok(body) => match kind_of(&body) {
                Some(kind) => Response {
                    status: 200,
                    kind,
                    body,
                },
                None => Response::refuse(404, "this file is no image any more"),
            },
            Err(error) => Response::refuse(404, &error.to_string()),
        }
    }
}

/// Whether two texts are equal, in a time that does not say how far.
fn is_equal(one: &str, other: &str) -> bool {
    let differences = one
        .bytes()
        .zip(other.bytes())
        .fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && differences == 0
}

fn json_response(status: u16, value: &Value) -> Response {
    Response {
        status,
        kind: "application/json",
        body: value.to_string().into_bytes(),
    }
}

/// The kind of an image by its first bytes; `None` of everything else.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    let starts = |start: &[u8]| bytes.starts_with(start);
    if starts(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if starts(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else if starts(b"BM") {
        Some("image/bmp")
    } else {
        None
    }
}

/// A prompt or an answer as people read it: of a chat all messages with who speaks, unless there is but one.
fn in_words(text: &Text) -> String {
    let messages = match text.to_value() {
        Value::Array(messages) => messages,
        Value::String(words) => return words,
        other => return other.to_string(),
    };
    let said = |message: &Value| match &message["content"] {
        Value::String(words) => words.clone(),
        other => other.to_string(),
    };
    match messages.as_slice() {
        [message] => said(message),
        messages => {
            let lines = messages.iter().map(|message| {
                let role = message["role"].as_str().unwrap_or("message");
                format!("{role}: {}", said(message))
            });
            lines.collect::<Vec<_>>().join("\n\n")
        }
    }
}

/// Headers of every answer. The page runs its own script and no other, and asks nobody else for anything.
fn headers() -> String {
    let hash = |tag: &str| {
        let begin = PAGE
            .find(&format!("<{tag}>"))
            .map_or(0, |at| at + tag.len() + 2);
        let end = PAGE.find(&format!("</{tag}>")).unwrap_or(begin);
        format!(
            "'sha256-{}'",
            base64::encode(Sha256::digest(&PAGE[begin..end]))
        )
    };
    format!(
        "Content-Security-Policy: default-src 'none'; script-src {}; style-src {}; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\nCache-Control: no-store\r\n",
        hash("script"),
        hash("style")
    )
}
