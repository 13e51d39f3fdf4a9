//! Requests to one registry.
//!
//! Owns: HTTP and TLS, identifying oneself, redirects, time limits and trying
//! again. Never: sends credentials to another host than the registry and the token
//! server that it names, or over plain HTTP where the registry itself has HTTPS.
//!
//! The protocol is the OCI distribution specification's; the tokens are Docker's
//! ("Token Authentication Specification").

mod failure;
mod login;
mod trust;

use std::io::Read as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use command::cli::images::Registry;
use launcher::Error;
use ureq::http::{header, Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

pub use self::failure::{broken, Failure};

use self::failure::{failure, NO_TLS};
use self::trust::certificates;
use super::auth::{challenges, Secret};
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
