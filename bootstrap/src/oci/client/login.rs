//! Who one is at a registry.
//!
//! Owns: answering what a registry asks for, with a name and a password or with a token
//! of the server that it names. Never: sends either where others could read it.

use std::io::Read as _;
use std::sync::PoisonError;

use image::Shown;
use launcher::Error;
use serde::Deserialize;
use ureq::http::{header, StatusCode};

use super::failure::{broken, failure};
use super::{Client, Failure};
use crate::oci::auth::{self, Challenge, Credentials, Secret};

impl Client {
    pub(super) fn authorization(&self) -> Option<Secret> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn unauthorised(&self, step: String) -> Error {
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

    fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let reference = &self.reference;
        auth::credentials(&reference.host, &reference.name, self.user.as_deref())
    }

    /// Does what the registry asks for. `had` is what it did not accept.
    pub(super) fn identify(
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
}
