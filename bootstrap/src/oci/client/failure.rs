//! What goes wrong with a registry, in words for the user.
//!
//! Owns: which failures pass by themselves, and what is to be done about the others.
//! Never: tries again.

use std::io::Read as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use image::Shown;
use launcher::Error;
use serde::Deserialize;
use ureq::http::{header, Response, StatusCode};
use ureq::Body;

use super::{Client, TIMEOUT};

/// What is read of an answer that is not the one hoped for.
const MOST_COMPLAINT: u64 = 16 << 10;

/// Why a request failed.
#[derive(Debug)]
pub struct Failure {
    /// The status, if it was answered.
    pub status: Option<StatusCode>,
    /// What went wrong, for the user.
    pub error: Error,
    /// Another try may help, after a pause of this length if one was asked for.
    pub(super) transient: Option<Option<Duration>>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What a registry says in the body of an error.
#[derive(Deserialize)]
struct Complaints {
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// How the cause ends where the other side speaks no TLS.
pub(super) const NO_TLS: &str = "does not speak HTTPS";

impl Client {
    /// An answer becomes a failure where it is no success.
    pub(super) fn judge(
        &self,
        path: &str,
        response: Response<Body>,
    ) -> Result<Response<Body>, Failure> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(response);
        }
        let after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let said = complaint(response);
        let with = |text: &str| match &said {
            Some(said) => format!("{text} ({})", Shown::new(said)),
            None => text.to_owned(),
        };
        let host = &self.reference.host;
        let step = self.step(path);
        let (error, transient) = match status {
            StatusCode::UNAUTHORIZED => (self.unauthorised(step), None),
            StatusCode::FORBIDDEN => (
                Error::new(step, with("the registry denies access")).hint(
                    "ask for permission to read it; --docker-username logs in as somebody else",
                ),
                None,
            ),
            StatusCode::NOT_FOUND => (
                Error::new(step, with("the registry does not have it"))
                    .hint("check the name and the tag"),
                None,
            ),
            StatusCode::TOO_MANY_REQUESTS => (
                Error::new(
                    step,
                    with("the registry has had too many requests from here"),
                )
                .hint("wait; or log in, which most registries allow more (--docker-username)"),
                Some(after),
            ),
            StatusCode::RANGE_NOT_SATISFIABLE => (Error::new(step, "it has no such part"), None),
            status if status.is_server_error() => (
                Error::new(
                    step,
                    with(&format!("{host} answers with status {}", status.as_u16())),
                )
                .hint("the registry has a failure of its own: try later, or tell who runs it"),
                Some(after),
            ),
            status => (
                Error::new(
                    step,
                    with(&format!("{host} answers with status {}", status.as_u16())),
                )
                .hint("this may be no registry; check the host and the port"),
                None,
            ),
        };
        Err(Failure {
            status: Some(status),
            error,
            transient,
        })
    }

    pub(super) fn network(&self, path: &str, error: ureq::Error) -> Failure {
        let host = &self.reference.host;
        let step = self.step(path);
        let answered = self.answered.load(Ordering::Relaxed);
        let again = Some(None);
        let (error, transient) = match &error {
            ureq::Error::HostNotFound => (self.unknown(step), answered),
            ureq::Error::Timeout(_) => (
                Error::new(step, format!("{host} does not answer in time")).hint(format!(
                    "the network or the registry is down; {TIMEOUT} sets how many seconds to wait"
                )),
                answered,
            ),
            ureq::Error::Rustls(error) => (self.tls(step, error), false),
            ureq::Error::Io(error) => match error.get_ref().and_then(|it| it.downcast_ref()) {
                Some(error) => (self.tls(step, error), false),
                None => self.io(step, error, answered),
            },
            ureq::Error::ConnectProxyFailed(cause) => (
                Error::new(step, format!("the proxy refuses: {}", Shown::new(cause)))
                    .hint("the variables https_proxy and no_proxy name it"),
                false,
            ),
            other => (
                Error::new(step, other.to_string())
                    .hint("this may be no registry; check the host and the port"),
                answered,
            ),
        };
        Failure {
            status: None,
            error,
            transient: again.filter(|_| transient),
        }
    }

    fn unknown(&self, step: String) -> Error {
        Error::new(step, format!("there is no host {}", self.reference.host))
            .hint("check the name; this machine's resolver does not know it")
    }

    fn io(&self, step: String, error: &std::io::Error, answered: bool) -> (Error, bool) {
        use std::io::ErrorKind as Io;
        let host = &self.reference.host;
        match error.kind() {
            Io::ConnectionRefused => (
                Error::new(step, format!("{host} refuses the connection"))
                    .hint("no registry runs there; check the host and the port"),
                answered,
            ),
            Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe
                if self.scheme.get().is_none() && !answered =>
            {
                (Error::new(step, format!("{host} {NO_TLS}")), false)
            }
            Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => {
                (broken(step, error), true)
            }
            // The standard library has no kind for it.
            _ if error.to_string().starts_with("failed to lookup") => {
                (self.unknown(step), answered)
            }
            _ => (
                Error::io(step, error).hint(format!("the network to {host} may be down")),
                answered,
            ),
        }
    }

    fn tls(&self, step: String, error: &rustls::Error) -> Error {
        let host = &self.reference.host;
        match error {
            rustls::Error::InvalidMessage(_) => Error::new(step, format!("{host} {NO_TLS}"))
                .hint("--no-https speaks plain HTTP, which others can read and change"),
            rustls::Error::InvalidCertificate(why) => {
                let cause = format!("the certificate of {host} is not trusted: {}", told(why));
                Error::new(step, cause).hint(format!(
                    "SSL_CERT_FILE, or /etc/docker/certs.d/{host}/ca.crt, can name the \
                     certificate of the site's own authority"
                ))
            }
            other => Error::new(step, format!("TLS with {host} fails: {other}"))
                .hint("check the host and the port"),
        }
    }
}

fn told(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Wrong;
    match error {
        Wrong::UnknownIssuer => "nobody this machine trusts has signed it".into(),
        Wrong::Expired | Wrong::ExpiredContext { .. } => "it has expired".into(),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "it is not valid yet".into(),
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "it is for another name".into()
        }
        other => other.to_string(),
    }
}

/// A failure that another try does not help.
pub(super) fn failure(error: Error) -> Failure {
    Failure {
        status: None,
        error,
        transient: None,
    }
}

/// A connection that ended, or went silent, in the middle.
pub fn broken(step: String, error: &std::io::Error) -> Error {
    let timeout = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>())
        .is_some_and(|error| matches!(error, ureq::Error::Timeout(_)));
    let cause = if timeout {
        "nothing comes any more".to_owned()
    } else {
        format!("the connection broke: {error}")
    };
    Error::new(step, cause).hint("try again: what has come is kept, and only the rest is fetched")
}

/// What a registry says of a refused request, as far as it is a registry's error.
fn complaint(response: Response<Body>) -> Option<String> {
    let mut text = Vec::new();
    let reader = response.into_body().into_reader();
    reader.take(MOST_COMPLAINT).read_to_end(&mut text).ok()?;
    let all: Complaints = serde_json::from_slice(&text).ok()?;
    let first = all.errors.into_iter().next()?;
    let said = if first.message.is_empty() {
        first.code
    } else {
        first.message
    };
    Some(said.chars().take(200).collect()).filter(|said: &String| !said.is_empty())
}
