//! Requests to one registry.
//!
//! Owns: HTTP and TLS, identifying oneself, redirects, time limits and trying
//! again. Never: sends credentials to another host than the registry and the token
//! server that it names, or over plain HTTP where the registry itself has HTTPS.
//!
//! The protocol is the OCI distribution specification's; the tokens are Docker's
//! ("Token Authentication Specification").

use std::io::Read as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use command::cli::images::Registry;
use image::Shown;
use launcher::Error;
use serde::Deserialize;
use ureq::http::{header, Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::auth::{self, challenges, Challenge, Credentials, Secret};
use super::reference::Reference;

/// How long nothing may come before it counts as lost.
const SILENCE: Duration = Duration::from_secs(30);

/// The variable that sets another, in seconds.
pub const TIMEOUT: &str = "SINGULARITY_REGISTRY_TIMEOUT";

/// How often a request is made before it has failed, and how long the first pause is.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(400);

/// The longest pause that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Redirects that are followed.
const REDIRECTS: u32 = 5;

/// What is read of an answer that is not the one hoped for.
const MOST_COMPLAINT: u64 = 16 << 10;

/// A registry, and who one is there.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    reference: Reference,
    user: Option<String>,
    plain: bool,
    /// Whether it speaks plain HTTP, once that is known.
    scheme: OnceLock<&'static str>,
    /// The value of the header `Authorization`, once one is needed.
    authorization: Mutex<Option<Secret>>,
    /// It has answered once: what goes wrong later may be a matter of time.
    answered: AtomicBool,
}

/// Why a request failed.
#[derive(Debug)]
pub struct Failure {
    /// The status, if it was answered.
    pub status: Option<StatusCode>,
    /// What went wrong, for the user.
    pub error: Error,
    /// Another try may help, after a pause of this length if one was asked for.
    transient: Option<Option<Duration>>,
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

/// Whether the host is this machine.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl Client {
    /// Prepares to speak to the registry of this image.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(reference: &Reference, registry: &Registry) -> Result<Self, Error> {
        let silence = std::env::var(TIMEOUT)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|seconds| *seconds > 0)
            .map_or(SILENCE, Duration::from_secs);
        // Another part of the process may have set it, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let loopback = is_loopback(&reference.host);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(silence))
            .timeout_connect(Some(silence))
            .timeout_recv_response(Some(silence * 2))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .user_agent(concat!("singularity/", env!("CARGO_PKG_VERSION")))
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::Specific(certificates(&reference.host)?.into()))
                    .build(),
            );
        if loopback {
            config = config.proxy(None);
        }
        let plain = registry.no_https;
        let scheme = OnceLock::new();
        if plain {
            let _ = scheme.set("http");
        } else if !loopback {
            let _ = scheme.set("https");
        }
        Ok(Self {
            agent: config.build().into(),
            reference: reference.clone(),
            user: registry.docker_username.clone(),
            plain,
            scheme,
            authorization: Mutex::new(None),
            answered: AtomicBool::new(false),
        })
    }

    /// Gets `/v2/NAME/…`, with all that is needed on the way. `from` is the first
    /// byte to be sent.
    ///
    /// # Errors
    /// Whatever status is not 200 or 206; the network's failures, after several tries.
    pub fn get(&self, path: &str, accept: &[&str], from: u64) -> Result<Response<Body>, Failure> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let failure = match self.try_once(path, accept, from) {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let Some(asked) = failure.transient.filter(|_| attempt < TRIES) else {
                return Err(failure);
            };
            tracing::info!("{}; trying again", failure.error);
            thread::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE));
            pause *= 2;
        }
        unreachable!("the loop ends by itself")
    }

    /// Gets a document of at most `most` bytes whole.
    ///
    /// # Errors
    /// As [`Client::get`]; it is larger; it ends early.
    pub fn document(&self, path: &str, accept: &[&str], most: u64) -> Result<Vec<u8>, Failure> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let response = self.get(path, accept, 0)?;
            let mut bytes = Vec::new();
            let read = response
                .into_body()
                .into_reader()
                .take(most + 1)
                .read_to_end(&mut bytes);
            match read {
                Ok(_) if bytes.len() as u64 > most => {
                    let error =
                        Error::new(self.step(path), format!("it is larger than {most} bytes"));
                    return Err(failure(error.hint("this is no description of an image")));
                }
                Ok(_) => return Ok(bytes),
                Err(error) if attempt < TRIES => {
                    tracing::info!("{}: {error}; trying again", self.step(path));
                    thread::sleep(pause);
                    pause *= 2;
                }
                Err(error) => return Err(failure(broken(self.step(path), &error))),
            }
        }
        unreachable!("the loop ends by itself")
    }

    /// What is being done, for messages.
    pub fn step(&self, path: &str) -> String {
        let what = path.split('/').next().unwrap_or(path);
        match what {
            "manifests" => format!("fetch {}", self.reference),
            "blobs" => {
                let digest = path.rsplit(':').next().unwrap_or(path);
                let short = digest.get(..12).unwrap_or(digest);
                format!("fetch part {short} of {}", self.reference)
            }
            _ => format!("ask for {what} of {}", self.reference),
        }
    }

    fn try_once(&self, path: &str, accept: &[&str], from: u64) -> Result<Response<Body>, Failure> {
        let response = self.with_scheme(path, accept, from)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(path, response);
        }
        let offers: Vec<_> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let had = self.authorization();
        self.identify(path, &offers, had.as_ref())?;
        let response = self.with_scheme(path, accept, from)?;
        self.judge(path, response)
    }

    fn authorization(&self) -> Option<Secret> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends the request over HTTPS; on this machine over HTTP where no TLS is spoken.
    fn with_scheme(
        &self,
        path: &str,
        accept: &[&str],
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        if let Some(scheme) = self.scheme.get() {
            return self.follow(scheme, path, accept, from);
        }
        let secure = self.follow("https", path, accept, from);
        let speaks_no_tls = match &secure {
            Err(Failure { error, .. }) => error.to_string().ends_with(NO_TLS),
            Ok(_) => false,
        };
        let scheme = if speaks_no_tls { "http" } else { "https" };
        if secure.is_ok() || speaks_no_tls {
            // Another thread may have found out the same.
            let _ = self.scheme.set(scheme);
        }
        if speaks_no_tls {
            return self.follow(scheme, path, accept, from);
        }
        secure
    }

    /// Sends the request and follows where the registry points. Only the registry
    /// itself is told who one is.
    fn follow(
        &self,
        scheme: &str,
        path: &str,
        accept: &[&str],
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        let origin = format!("{scheme}://{}", self.reference.host);
        let mut url = format!("{origin}/v2/{}/{path}", self.reference.name);
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url);
            for kind in accept {
                request = request.header(header::ACCEPT, *kind);
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let at_home = url
                .strip_prefix(&origin)
                .is_some_and(|rest| rest.starts_with('/'));
            if let Some(authorization) = self.authorization().filter(|_| at_home) {
                request = request.header(header::AUTHORIZATION, authorization.reveal());
            }
            tracing::debug!("GET {}", url.split('?').next().unwrap_or(&url));
            let response = request.call().map_err(|error| self.network(path, error))?;
            self.answered.store(true, Ordering::Relaxed);
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            url = redirected(&url, to.unwrap_or_default(), self.plain).map_err(|cause| {
                failure(
                    Error::new(self.step(path), cause)
                        .hint("the registry is not set up well: tell who runs it"),
                )
            })?;
        }
        Err(failure(
            Error::new(
                self.step(path),
                "the registry points from one place to the next without end",
            )
            .hint("the registry is not set up well: tell who runs it"),
        ))
    }

    /// An answer becomes a failure where it is no success.
    fn judge(&self, path: &str, response: Response<Body>) -> Result<Response<Body>, Failure> {
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

    fn unauthorised(&self, step: String) -> Error {
        match self.credentials() {
            Ok(Some(_)) => Error::new(step, "the registry refuses the login").hint(format!(
                "check the name (--docker-username) and the password ({})",
                auth::PASSWORD
            )),
            _ => Error::new(step, "the registry wants a login, or does not have it").hint(format!(
                "--docker-username USER with the password in {} logs in, or docker login before",
                auth::PASSWORD
            )),
        }
    }

    // --- who one is -----------------------------------------------------------------

    fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let reference = &self.reference;
        auth::credentials(&reference.host, &reference.name, self.user.as_deref())
    }

    /// Does what the registry asks for. `had` is what it did not accept.
    fn identify(
        &self,
        path: &str,
        offers: &[Challenge],
        had: Option<&Secret>,
    ) -> Result<(), Failure> {
        let mut known = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != had {
            // Another thread has done it meanwhile.
            return Ok(());
        }
        let unauthorised = || failure(self.unauthorised(self.step(path)));
        let credentials = self.credentials().map_err(failure)?;
        let offer = |scheme: &str| offers.iter().find(|offer| offer.scheme == scheme);
        let new = if let Some(bearer) = offer("bearer") {
            self.token(bearer, credentials.as_ref())?
        } else if offer("basic").is_some() {
            credentials
                .and_then(|it| it.basic())
                .ok_or_else(unauthorised)?
        } else {
            return Err(unauthorised());
        };
        if had == Some(&new) {
            return Err(unauthorised());
        }
        *known = Some(new);
        Ok(())
    }

    /// Gets a token from the server that the registry names.
    fn token(
        &self,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
    ) -> Result<Secret, Failure> {
        let host = &self.reference.host;
        let step = || format!("log in at {host}");
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let realm = parameter("realm").unwrap_or_default();
        let secure = realm.starts_with("https://");
        let own_is_plain = self.scheme.get() == Some(&"http");
        if !(secure || own_is_plain && realm.starts_with("http://")) {
            let cause = format!("it names {} to get a token from", Shown::new(realm));
            return Err(failure(Error::new(step(), cause).hint(
                "that is not HTTPS, so nothing is sent there; tell who runs the registry",
            )));
        }
        let scope = format!("repository:{}:pull", self.reference.name);
        let scope = parameter("scope").unwrap_or(&scope);
        let service = parameter("service").unwrap_or_default();
        let response = match credentials {
            Some(Credentials::Identity(token)) => self.agent.post(realm).send_form([
                ("grant_type", "refresh_token"),
                ("service", service),
                ("scope", scope),
                ("client_id", "singularity"),
                ("refresh_token", token.reveal()),
            ]),
            _ => {
                let mut request = self.agent.get(realm).query("scope", scope);
                if !service.is_empty() {
                    request = request.query("service", service);
                }
                if let Some(basic) = credentials.and_then(Credentials::basic) {
                    request = request.header(header::AUTHORIZATION, basic.reveal());
                }
                request.call()
            }
        };
        let response = response.map_err(|error| self.network("token", error))?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(failure(self.unauthorised(step())));
        }
        if status != StatusCode::OK {
            return self
                .judge("token", response)
                .map(|_| Secret::new(""))
                .and_then(|_| Err(failure(Error::new(step(), "its token server has no token"))));
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut bytes = Vec::new();
        let read = response
            .into_body()
            .into_reader()
            .take(1 << 20)
            .read_to_end(&mut bytes);
        read.map_err(|error| failure(broken(step(), &error)))?;
        let answer: Option<Token> = serde_json::from_slice(&bytes).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .map(|token| Secret::new(format!("Bearer {token}")))
            .ok_or_else(|| {
                failure(
                    Error::new(step(), "its token server answers without a token")
                        .hint("tell who runs the registry"),
                )
            })
    }

    // --- what goes wrong ------------------------------------------------------------

    fn network(&self, path: &str, error: ureq::Error) -> Failure {
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

/// How the cause ends where the other side speaks no TLS.
const NO_TLS: &str = "does not speak HTTPS";

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
fn failure(error: Error) -> Failure {
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

/// Where a redirect leads.
fn redirected(from: &str, to: &str, plain: bool) -> Result<String, String> {
    let absolute = if let Some(rest) = to.strip_prefix("//") {
        let scheme = from.split(':').next().unwrap_or("https");
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        let end = from
            .match_indices('/')
            .nth(2)
            .map_or(from.len(), |(at, _)| at);
        format!("{}{to}", from.get(..end).unwrap_or(from))
    } else {
        to.to_owned()
    };
    let secure = absolute.starts_with("https://");
    if !secure && !absolute.starts_with("http://") {
        return Err("the registry points to a place that is no web address".into());
    }
    if !secure && !plain && from.starts_with("https://") {
        return Err("the registry points from HTTPS to plain HTTP".into());
    }
    Ok(absolute)
}

/// The certificates to trust: the system's or `SSL_CERT_FILE`'s, and those that
/// Docker and Podman would take for this host.
fn certificates(host: &str) -> Result<Vec<Certificate<'static>>, Error> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::info!("certificates: {error}");
    }
    let mut all: Vec<_> = system
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let home = std::env::var_os("HOME")
        .map(|home| std::path::Path::new(&home).join(".config/containers/certs.d"));
    let directories = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
    for directory in directories.iter().map(std::path::PathBuf::from).chain(home) {
        let Ok(entries) = std::fs::read_dir(directory.join(host)) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|end| end != "crt") {
                continue;
            }
            let read = |cause: String| {
                Error::new(format!("read certificate {}", Shown::new(&path)), cause)
                    .hint("it has to be in PEM")
            };
            let text = std::fs::read(&path).map_err(|error| read(error.to_string()))?;
            for item in ureq::tls::parse_pem(&text) {
                match item.map_err(|error| read(error.to_string()))? {
                    ureq::tls::PemItem::Certificate(certificate) => all.push(certificate),
                    _ => continue,
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.8.9.1",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.x",
            "10.0.0.1",
            "128.0.0.1:5000",
            "[fe80::1]",
            "127.0.0.1.x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn redirects_lead_to_web_addresses_and_never_from_https_to_http() {
        let from = "https://h.x/v2/a/blobs/b?q=1";
        for (to, expected) in [
            ("https://o.x/c?d", "https://o.x/c?d"),
            ("//o.x/c", "https://o.x/c"),
            ("/c", "https://h.x/c"),
        ] {
            assert_eq!(redirected(from, to, false).unwrap(), expected);
        }
        for to in ["http://h.x/c", "file:///etc/passwd", "", "c"] {
            assert!(redirected(from, to, false).is_err(), "{to}");
        }
        assert!(redirected(from, "http://h.x/c", true).is_ok());
        assert!(redirected("http://h.x/", "http://o.x/c", false).is_ok());
    }
}
