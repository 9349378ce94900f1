//! Refusals of the hub in words of ours, with what to do.

use ureq::Body;
use ureq::http::Response;

use super::access::{Access, token_file};
use crate::error::{Error, Result, printable};
use crate::hub::Name;

/// The error of an answer that is no success; `file` is the one that was asked for.
pub(super) fn explain(
    access: &Access,
    name: &Name,
    file: Option<&str>,
    response: &Response<Body>,
) -> Error {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok()
    };
    let code = header("x-error-code").unwrap_or_default();
    let status = response.status();
    let page = access.page(&name.repository);
    let (message, hint) = match (status.as_u16(), code) {
        (401 | 403, "GatedRepo") => gated(access, &page),
        (401, _) if access.token.is_some() && code != "RepoNotFound" => not_accepted(access),
        (403, _) if access.token.is_some() => {
            let origin = origin(access);
            (
                format!("may not be read with the token of {origin}"),
                "give the token the right to read it at https://huggingface.co/settings/tokens, or take another one"
                    .to_owned(),
            )
        }
        (401 | 403, _) => not_public(access),
        (404, "RevisionNotFound") => (
            format!("has no revision `{}`", name.revision),
            format!(
                "its branches, tags and commits are at {page}/tree/main; without `@` it is `main`"
            ),
        ),
        (404, "EntryNotFound") => (
            format!("has no `{}` at this revision", file.unwrap_or_default()),
            "fetch it again: the model may have changed meanwhile".to_owned(),
        ),
        (404, _) if file.is_none() => (
            "there is no model of this name on the hub".to_owned(),
            format!("is it spelled as on its page? That would be {page}"),
        ),
        (429, _) => (
            "the hub has been asked too often (429)".to_owned(),
            "try again in some minutes; what has arrived is kept".to_owned(),
        ),
        _ => {
            let said = header("x-error-message").map(|said| format!(": {}", printable(said)));
            let file = file
                .map(|file| format!(" for `{file}`"))
                .unwrap_or_default();
            (
                format!("the hub answers {status}{file}{}", said.unwrap_or_default()),
                "try again later; what has arrived is kept".to_owned(),
            )
        }
    };
    Error::failed(name.to_string(), message).with_hint(hint)
}

/// Where the token was read.
fn origin(access: &Access) -> &str {
    access
        .token
        .as_ref()
        .map_or("nowhere", |token| &token.origin)
}

/// Where a token is looked for, in words.
fn places() -> String {
    let file = token_file().map(|file| format!(" or `{}`", file.display()));
    format!("`HF_TOKEN`{}", file.unwrap_or_default())
}

fn gated(access: &Access, page: &str) -> (String, String) {
    let message = "its owner gives it to those alone who have asked for access (it is gated)";
    let advice = match access.token {
        Some(_) => format!(
            "ask for it at {page} with the account of the token in {}, and wait for the owner's yes",
            origin(access)
        ),
        None => format!(
            "ask for it at {page}, and put a token of that account (https://huggingface.co/settings/tokens) into {}",
            places()
        ),
    };
    (message.to_owned(), advice)
}

fn not_accepted(access: &Access) -> (String, String) {
    (
        format!("the hub does not accept the token of {}", origin(access)),
        "make a new one at https://huggingface.co/settings/tokens; models that are open to all need none".to_owned(),
    )
}

fn not_public(access: &Access) -> (String, String) {
    let message = "there is no model of this name that is open to all";
    let advice = match access.token {
        Some(_) => format!(
            "is it spelled as on its page? A private one needs a token of an account that sees it; this one is of {}",
            origin(access)
        ),
        None => format!(
            "is it spelled as on its page? A private one needs a token (https://huggingface.co/settings/tokens) in {}",
            places()
        ),
    };
    (message.to_owned(), advice)
}

/// The error of a hub that gives no answer.
pub(super) fn unreachable(access: &Access, cause: &ureq::Error) -> Error {
    let words = in_words(cause);
    let message = format!("cannot be reached: {words}");
    let error = Error::failed(&access.endpoint, message);
    if words.contains("certificate") {
        return error.with_hint(
            "a proxy that reads what passes has a certificate of its own: `SSL_CERT_FILE` names a file (PEM) with those that \
             are trusted",
        );
    }
    error.with_hint(
        "is there a network? A proxy is named by `HTTPS_PROXY`, a mirror of the hub by `HF_ENDPOINT`; models in the cache need \
         neither",
    )
}

/// A fault of the network, without the words that the library puts around it.
pub(super) fn in_words(cause: &ureq::Error) -> String {
    match cause {
        ureq::Error::HostNotFound => "its name is not known to the network".to_owned(),
        ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::TooManyRedirects => {
            "it leads from one address to the next without end".to_owned()
        }
        other => other.to_string(),
    }
}

/// Refuses an answer that is no success.
///
/// # Errors
/// It is none.
pub(super) fn check(
    access: &Access,
    name: &Name,
    file: &str,
    response: &Response<Body>,
) -> Result<()> {
    if response.status().is_success() {
        return Ok(());
    }
    Err(explain(access, name, Some(file), response))
}
