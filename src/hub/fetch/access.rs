//! How the hub is reached: endpoint, token and cache, by the variables that its own tools read.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder};
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::super::cache::{home, variable};
use super::super::roots;
use crate::error::{Error, Result};

/// The hub where `HF_ENDPOINT` names no other.
const HUB: &str = "https://huggingface.co";

/// Longest wait for a connection, and for the next bytes of an answer.
const CONNECT: Duration = Duration::from_secs(20);
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// The hub, its cache on this machine, and who asks.
pub struct Access {
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    pub(super) cache: Cache,
    pub(super) api: Api,
    pub(super) agent: Agent,
    pub(super) tls: TlsConfig,
}

/// A user's token, and where it was read.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) origin: String,
}

impl Access {
    /// Reads the variables.
    ///
    /// # Errors
    /// `HF_HUB_OFFLINE` forbids to fetch; `HF_ENDPOINT` is no address; no folder for the cache is known; the token is none.
    pub fn from_env() -> Result<Self> {
        if env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_yes(&value)) {
            return Err(refused("`HF_HUB_OFFLINE` is set: nothing may be fetched")
                .with_hint("unset it, or put `HF_HUB_OFFLINE=0` before the command"));
        }
        let endpoint = env::var("HF_ENDPOINT")
            .ok()
            .filter(|value| !value.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| HUB.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(refused(format!(
                "`HF_ENDPOINT` is `{endpoint}`, which is no address"
            ))
            .with_hint(format!(
                "it begins with `https://`; without it the hub is `{HUB}`"
            )));
        }
        let Some(root) = roots().into_iter().next() else {
            return Err(
                refused("no folder for the cache of the Hugging Face hub is known")
                    .with_hint("`HF_HOME` names one"),
            );
        };
        let token = token()?;
        let tls = tls()?;
        let cache = Cache::new(root);
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token.as_ref().map(|token| token.text.clone()))
            .with_progress(false)
            .with_user_agent("preftune", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| refused(format!("the hub cannot be asked: {error}")))?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // The hub hands large files over to other hosts, which must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .https_only(endpoint.starts_with("https://"))
            .user_agent(concat!("preftune/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.clone())
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .into();
        Ok(Self {
            endpoint,
            token,
            cache,
            api,
            agent,
            tls,
        })
    }

    /// Refuses to begin what the disk has no room for.
    pub(super) fn check_room(&self, needed: u64) -> Result<()> {
        let root = self.cache.path();
        let there = root.ancestors().find(|folder| folder.is_dir());
        let room = there.and_then(|folder| rustix::fs::statvfs(folder).ok());
        let free = room.map_or(u64::MAX, |room| room.f_bavail.saturating_mul(room.f_frsize));
        if needed <= free {
            return Ok(());
        }
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let message = format!(
            "has {:.1} GB free, and {:.1} GB are to be fetched",
            gigabytes(free),
            gigabytes(needed)
        );
        Err(Error::failed(root, message).with_hint(ROOM))
    }

    /// The address of a page of the hub, for people.
    pub(super) fn page(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }
}

/// Advice where the cache cannot be written.
const ROOM: &str =
    "`HF_HOME` or `HF_HUB_CACHE` names another folder for the cache; what has arrived is kept";

/// An error of the disk with the way to another one.
pub(super) fn with_room_advice(error: Error) -> Error {
    error.with_hint(ROOM)
}

/// An error before anything was asked, whose subject is the program's own verb.
fn refused(message: impl Into<String>) -> Error {
    Error::failed(Path::new("preftune fetch"), message)
}

/// Variables that name a file with the certificates that are trusted, in the order of the hub's own tools.
const CERTIFICATES: [&str; 3] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// The certificates that are trusted: those of the file that a variable names, as networks with a proxy of their own have
/// them, else Mozilla's.
fn tls() -> Result<TlsConfig> {
    let named = CERTIFICATES
        .iter()
        .find_map(|name| Some((name, variable(name)?)));
    let Some((name, path)) = named else {
        return Ok(TlsConfig::default());
    };
    let wrong = |problem: &str| {
        let message = format!("`{name}` is `{}`, which {problem}", path.display());
        refused(message).with_hint(format!(
            "it names a file of certificates (PEM) that are trusted; where `{name}` is not set, Mozilla's are"
        ))
    };
    let text = fs::read(&path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(wrong(&format!("is damaged: {error}"))),
        }
    }
    if certificates.is_empty() {
        return Err(wrong("holds no certificate"));
    }
    let roots = RootCerts::new_with_certs(&certificates);
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn is_yes(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    ["1", "on", "yes", "true"].contains(&value.as_str())
}

/// The user's token: of a variable, else of the file that `hf auth login` writes.
fn token() -> Result<Option<Token>> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Ok(text) = env::var(name)
            && !text.trim().is_empty()
        {
            return checked(text.trim(), format!("`{name}`")).map(Some);
        }
    }
    let Some(file) = token_file() else {
        return Ok(None);
    };
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => {
            checked(text.trim(), format!("`{}`", file.display())).map(Some)
        }
        _ => Ok(None),
    }
}

/// Where `hf auth login` keeps the token.
pub(super) fn token_file() -> Option<PathBuf> {
    variable("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")))
}

fn checked(text: &str, origin: String) -> Result<Token> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused(format!("what {origin} holds is no token"))
            .with_hint("tokens begin with `hf_` and have letters and digits alone"));
    }
    Ok(Token {
        text: text.to_owned(),
        origin,
    })
}
