//! HTTP/1.1 as far as one page on this machine needs it: a request for each connection, bounded in size and in time.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;
/// Headers of a request at most.
const HEADERS: usize = 64;
/// Bytes of a request's body at most: a key is far smaller.
const BODY: usize = 4 << 10;
/// Time for a whole request. A browser may connect before it has something to ask: it connects again then.
const ASKING: Duration = Duration::from_secs(3);
/// Time for an answer; an image of 100 MB crosses this machine in less.
const ANSWERING: Duration = Duration::from_secs(10);
/// Time after which a wait looks whether the server is to stop.
const SLICE: Duration = Duration::from_millis(200);

/// What somebody asks for.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A header by its name in lower case; `None` where it is not there.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// An answer.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// A refusal in words.
    pub(super) fn refuse(status: u16, words: &str) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: format!("{words}\n").into_bytes(),
        }
    }
}

/// A connection with an end in time.
pub(super) struct Connection<'a> {
    stream: TcpStream,
    stops: &'a dyn Fn() -> bool,
}

impl<'a> Connection<'a> {
    pub(super) fn new(stream: TcpStream, stops: &'a dyn Fn() -> bool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        Ok(Self { stream, stops })
    }

    /// Reads a request.
    ///
    /// # Errors
    /// The answer to one that is none or too large; nothing where nobody is there to be answered.
    pub(super) fn read(&mut self) -> Result<Request, Option<Response>> {
        let end = Instant::now() + ASKING;
        let mut bytes = Vec::new();
        let (mut request, begin) = loop {
            if let Some(found) = parse(&bytes)? {
                break found;
            }
            if bytes.len() >= HEAD {
                return Err(Some(Response::refuse(
                    431,
                    "the head of the request is too large",
                )));
            }
            self.receive(&mut bytes, end)?;
        };
        let wanted = match request.header("content-length") {
            _ if request.header("transfer-encoding").is_some() => {
                return Err(Some(Response::refuse(411, "a body needs its length")));
            }
            None if request.method == "POST" => {
                return Err(Some(Response::refuse(411, "a body needs its length")));
            }
            None => 0,
            Some(text) => match text.parse::<usize>() {
                Ok(length) if length <= BODY => length,
                Ok(_) => return Err(Some(Response::refuse(413, "the body is too large"))),
                Err(_) => {
                    return Err(Some(Response::refuse(
                        400,
                        "the length of the body is no number",
                    )));
                }
            },
        };
        while bytes.len() < begin + wanted {
            self.receive(&mut bytes, end)?;
        }
        request.body = bytes[begin..begin + wanted].to_vec();
        Ok(request)
    }

    fn receive(&mut self, into: &mut Vec<u8>, end: Instant) -> Result<(), Option<Response>> {
        let mut part = [0; 4096];
        loop {
            if Instant::now() >= end || (self.stops)() {
                return Err(None);
            }
            match self.stream.read(&mut part) {
                Ok(0) => return Err(None),
                Ok(count) => {
                    into.extend_from_slice(&part[..count]);
                    return Ok(());
                }
                Err(error) if is_wait(&error) => {}
                Err(_) => return Err(None),
            }
        }
    }

    /// Answers and ends the connection. Who has gone meanwhile gets nothing.
    pub(super) fn answer(mut self, response: &Response, headers: &str) {
        let Response { status, kind, body } = response;
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            reason(*status),
            body.len()
        );
        let end = Instant::now() + ANSWERING;
        if self.send(head.as_bytes(), end).is_ok() && self.send(body, end).is_ok() {
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            // What is left unread would have the system drop what was sent.
            let mut part = [0; 4096];
            let mut left = 64;
            while left > 0 && matches!(self.stream.read(&mut part), Ok(count) if count > 0) {
                left -= 1;
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], end: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            if Instant::now() >= end || (self.stops)() {
                return Err(ErrorKind::TimedOut.into());
            }
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_wait(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A request without its body, and the length of its head; `None` of half a head.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Option<Response>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let bad = |words: &str| Some(Response::refuse(400, words));
    match parsed.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Some(Response::refuse(
            431,
            "the request has too many headers",
        ))),
        Err(_) => Err(bad("not a request")),
        Ok(httparse::Status::Complete(length)) => {
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            let mut headers = Vec::new();
            for header in &*parsed.headers {
                let value =
                    std::str::from_utf8(header.value).map_err(|_| bad("a header is no text"))?;
                headers.push((header.name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            // Two lengths, or two hosts, are read differently by different programs.
            let twice = |name: &str| headers.iter().filter(|(known, _)| known == name).count() > 1;
            if ["content-length", "host", "origin"].into_iter().any(twice) {
                return Err(bad("a header is there twice"));
            }
            let request = Request {
                method: text(parsed.method),
                path: text(parsed.path),
                headers,
                body: Vec::new(),
            };
            Ok(Some((request, length)))
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        _ => "Internal Server Error",
    }
}
