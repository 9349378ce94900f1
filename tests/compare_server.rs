//! The page of `preftune compare` through the network: whom it answers, what it refuses, and what a kill leaves.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::Folder;
use crate::compare::pictures;

/// A server on the pictures of a folder.
struct Served {
    child: Child,
    port: u16,
    token: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status, headers and body.
type Answer = (u16, String, Vec<u8>);

impl Served {
    fn start(folder: &Folder) -> Self {
        let mut command = folder.command(&[
            "compare",
            "out",
            "--no-open",
            "--judge",
            "ann",
            "--session",
            "session",
        ]);
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for line in lines.map_while(Result::ok) {
            if let Some((_, place)) = line.split_once("http://127.0.0.1:") {
                let (port, token) = place.split_once('/').unwrap();
                let (port, token) = (
                    port.parse().unwrap(),
                    token.trim_end_matches('/').to_owned(),
                );
                return Self { child, port, token };
            }
            said += &line;
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("{said}");
    }

    fn send(&self, request: &[u8]) -> Option<Answer> {
        send(self.port, request)
    }

    /// A request with these lines in its head.
    fn ask(&self, first: &str, headers: &str, body: &str) -> Answer {
        let request = format!(
            "{first} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{headers}\r\n{body}",
            self.port
        );
        self.send(request.as_bytes()).unwrap()
    }

    fn get(&self, place: &str) -> Answer {
        self.ask(&format!("GET /{}/{place}", self.token), "", "")
    }

    fn post(&self, place: &str, value: &Value) -> Answer {
        let body = value.to_string();
        let headers = format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        self.ask(&format!("POST /{}/{place}", self.token), &headers, &body)
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&self.get("state").2).unwrap()
    }

    fn press(&self, choice: &str) -> Value {
        let ticket = self.state()["ticket"].clone();
        let (status, _, body) = self.post(
            "answer",
            &json!({"ticket": ticket, "choice": choice, "seconds": 1.0}),
        );
        assert_eq!(status, 200);
        serde_json::from_slice(&body).unwrap()
    }
}

fn send(port: u16, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // A server that has heard enough may hang up before the end.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head, bytes[end + 4..].to_vec()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of requests")]
fn nobody_but_the_own_page_is_answered() {
    let folder = Folder::new();
    pictures(&folder, 2, 3);
    fs::write(folder.path("secret"), "secret").unwrap();
    let served = Served::start(&folder);
    let (status, head, body) = served.get("");
    assert_eq!(status, 200);
    for header in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "nosniff",
        "no-referrer",
        "no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(
        !head.contains("unsafe")
            && String::from_utf8(body)
                .unwrap()
                .contains("preftune compare")
    );
    let state = served.state();
    let shown = state.to_string();
    assert!(
        !shown.contains(".png") && !shown.contains("out"),
        "no name of what is compared: {shown}"
    );
    let item = state["pair"]["left"]["item"].as_u64().unwrap();
    assert!(
        served
            .get(&format!("item/{item}"))
            .2
            .starts_with(b"\x89PNG")
    );

    let token = &served.token;
    let status = |first: String, headers: &str, body: &str| served.ask(&first, headers, body).0;
    // Without the token, with half of it, with another one.
    for path in [
        "/",
        "/state",
        "/item/0",
        &format!("/{}/state", &token[..31]),
        &format!("/{}/state", "0".repeat(32)),
        "//state",
    ] {
        assert_eq!(status(format!("GET {path}"), "", ""), 403, "{path}");
    }
    // Paths, which nobody is to name.
    for path in [
        "../secret",
        "item/../secret",
        "item/..%2f..%2fsecret",
        "item//etc/passwd",
        "item/-1",
        "item/999",
        "item/0x1",
        "item/",
        "secret",
        "keys.jsonl",
        "session/keys.jsonl",
    ] {
        let (status, _, body) = served.get(path);
        assert_eq!(status, 404, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("secret\0"));
    }
    // Other pages, and this machine by another name.
    let own = format!("GET /{token}/state");
    for header in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://127.0.0.1:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(status(own.clone(), header, ""), 403, "{header}");
    }
    let port = served.port;
    assert_eq!(
        status(
            own.clone(),
            &format!("Origin: http://127.0.0.1:{port}\r\n"),
            ""
        ),
        200
    );
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1",
        "127.0.0.1:1",
    ] {
        let request = format!("{own} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(served.send(request.as_bytes()).unwrap().0, 403, "{host}");
    }
    assert_eq!(
        served
            .send(format!("{own} HTTP/1.1\r\n\r\n").as_bytes())
            .unwrap()
            .0,
        403
    );

    // What is no key of ours.
    let post = format!("POST /{token}/answer");
    let json = "Content-Type: application/json\r\n";
    let key = "{\"ticket\":1,\"choice\":\"left\",\"seconds\":1}";
    assert_eq!(
        status(
            post.clone(),
            &format!(
                "Content-Type: text/plain\r\nContent-Length: {}\r\n",
                key.len()
            ),
            key
        ),
        415
    );
    assert_eq!(status(post.clone(), json, key), 411);
    assert_eq!(
        status(
            post.clone(),
            &format!("{json}Transfer-Encoding: chunked\r\n"),
            key
        ),
        411
    );
    assert_eq!(
        status(
            post.clone(),
            &format!("{json}Content-Length: 3\r\nContent-Length: 4\r\n"),
            key
        ),
        400
    );
    assert_eq!(
        status(post.clone(), &format!("{json}Content-Length: -3\r\n"), key),
        400
    );
    assert_eq!(
        status(
            post.clone(),
            &format!("{json}Content-Length: 1000000000\r\n"),
            &"x".repeat(100_000)
        ),
        413
    );
    let many = "X: y\r\n".repeat(100);
    assert_eq!(status(post.clone(), &many, ""), 431);
    let long = format!("X: {}\r\n", "y".repeat(40_000));
    assert_eq!(status(post.clone(), &long, ""), 431);
    for body in [
        "",
        "{}",
        "[]",
        "{\"ticket\":1,\"choice\":\"up\",\"seconds\":1}",
        "{\"ticket\":1,\"choice\":\"left\",\"seconds\":1,\"path\":\"/etc\"}",
    ] {
        assert_eq!(
            status(
                post.clone(),
                &format!("{json}Content-Length: {}\r\n", body.len()),
                body
            ),
            400,
            "{body}"
        );
    }
    assert_eq!(served.ask(&format!("PUT /{token}/state"), "", "").0, 405);
    assert_eq!(served.ask(&format!("GET /{token}/answer"), "", "").0, 405);
    assert_eq!(served.send(b"\x16\x03\x01nonsense\r\n\r\n").unwrap().0, 400);
    assert_eq!(served.state()["done"], 0, "none of it was a key");
    assert_eq!(served.press("left")["done"], 1);
    let kept: Vec<String> = fs::read_dir(folder.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        kept.len(),
        3,
        "nothing outside the session's folder: {kept:?}"
    );
}

#[test]
fn ten_thousand_requests_and_clients_that_say_nothing_are_survived() {
    let folder = Folder::new();
    pictures(&folder, 2, 3);
    let served = Served::start(&folder);
    let (port, token) = (served.port, served.token.clone());
    let began = Instant::now();
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for part in 0..4 {
            let (answered, token) = (&answered, &token);
            scope.spawn(move || {
                for number in 0..2500 {
                    let place = ["state", "item/1", "nothing", ""][(part + number) % 4];
                    let request =
                        format!("GET /{token}/{place} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
                    let status = send(port, request.as_bytes()).map(|answer| answer.0);
                    answered.fetch_add(
                        usize::from(matches!(status, Some(200 | 404))),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    println!("10,000 requests in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(answered.into_inner(), 10_000);
    // More than are served at a time say half a word and wait.
    let slow: Vec<TcpStream> = (0..80)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /").unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    let state = served.state();
    println!(
        "answered beside 80 silent clients after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(state["done"], 0);
    drop(slow);
    assert_eq!(served.press("tie")["done"], 1);
}

#[test]
fn a_kill_during_a_write_loses_no_key_that_was_answered() {
    let folder = Folder::new();
    // More pairs than three rounds can answer.
    pictures(&folder, 8, 30);
    let mut before = 0;
    for round in 0..3 {
        let mut served = Served::start(&folder);
        assert_eq!(served.state()["done"], before, "round {round}");
        let answered = AtomicUsize::new(before);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (port, token) = (served.port, served.token.clone());
            let first = served.state()["ticket"].as_u64().unwrap();
            let (answered, over) = (&answered, &over);
            scope.spawn(move || {
                for ticket in first.. {
                    let body = json!({"ticket": ticket, "choice": "left", "seconds": 1.0}).to_string();
                    let request = format!(
                        "POST /{token}/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    match send(port, request.as_bytes()) {
                        Some((200, ..)) => answered.fetch_add(1, Ordering::Relaxed),
                        _ => break,
                    };
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            thread::sleep(Duration::from_millis(300 + 70 * round));
            served.child.kill().unwrap();
            served.child.wait().unwrap();
            over.store(true, Ordering::Relaxed);
        });
        let answered = answered.into_inner();
        let file = fs::read_to_string(folder.path("session/keys.jsonl")).unwrap();
        let whole = file
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && line.contains("\"choice\":\"left\""));
        let kept = whole.count();
        println!("round {round}: {answered} answered, {kept} kept");
        // One may have been written and not answered any more.
        assert!(
            kept == answered || kept == answered + 1,
            "{answered} answered, {kept} kept"
        );
        assert!(kept > before, "nothing was judged before the kill");
        before = kept;
    }
}
