//! Who one is at a registry.
//!
//! Owns: what a registry asks for (`WWW-Authenticate`), and the user's credentials
//! from options, files and helper programs. Never: prints a password or token, not
//! even with `-d`; the types that hold them cannot be printed.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use image::Shown;
use launcher::Error;
use serde::Deserialize;

/// The variable with the password that goes with `--docker-username`.
pub const PASSWORD: &str = "SINGULARITY_DOCKER_PASSWORD";

/// What must not be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// To be sent to the one who asked for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What a user has to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Login {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that is given for another one.
    Identity(Secret),
}

impl Credentials {
    /// The value of the header `Authorization` for basic authentication.
    pub fn basic(&self) -> Option<Secret> {
        match self {
            Self::Login { user, password } => {
                let text = STANDARD.encode(format!("{user}:{}", password.reveal()));
                Some(Secret(format!("Basic {text}")))
            }
            Self::Identity(_) => None,
        }
    }
}

/// One way that a server offers to identify oneself. RFC 9110, section 11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme, in lower case.
    pub scheme: String,
    /// Its parameters, their names in lower case.
    pub parameters: HashMap<String, String>,
}

/// Reads a header `WWW-Authenticate`. What is not understood is left out.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '=' | ','))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // A character that stands for nothing here.
            match rest.char_indices().nth(1) {
                Some((next, _)) => rest = rest.get(next..).unwrap_or_default(),
                None => return all,
            }
            continue;
        }
        let value = after.trim_start().strip_prefix('=');
        match (value, all.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, after) = parameter(value.trim_start());
                challenge
                    .parameters
                    .insert(word.to_ascii_lowercase(), value);
                rest = after;
            }
            (Some(value), None) => rest = parameter(value.trim_start()).1,
            (None, _) => {
                all.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: HashMap::new(),
                });
                rest = after;
            }
        }
    }
}

/// A parameter's value, in quotes or not, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c.is_whitespace() || c == ',')
            .unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The user's credentials for a host, from the first place that has some: the name
/// that was typed with the password of the variable or of the terminal; the files
/// that `docker login` and its like write.
///
/// # Errors
/// A name without a password; a file that is there and damaged; a helper that fails.
pub fn credentials(
    host: &str,
    name: &str,
    user: Option<&str>,
) -> Result<Option<Credentials>, Error> {
    if let Some(user) = user {
        return typed(host, user).map(Some);
    }
    for path in files() {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                tracing::debug!("credentials in {}: {error}", path.display());
                continue;
            }
        };
        let file: AuthFile = serde_json::from_str(&text).map_err(|error| {
            // Not serde's words: they may show what is in it.
            Error::new(
                format!("read {}", Shown::new(&path)),
                format!("it is damaged in line {}", error.line()),
            )
            .hint("log in again with the tool that wrote it, or remove it")
        })?;
        if let Some(found) = file.of(host, name)? {
            tracing::debug!("credentials for {host} from {}", path.display());
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn typed(host: &str, user: &str) -> Result<Credentials, Error> {
    let password = match std::env::var(PASSWORD) {
        Ok(password) => Secret(password),
        Err(_) => asked(host, user).ok_or_else(|| {
            Error::new(
                format!("log in at {host} as {}", Shown::new(user)),
                "there is no password, and no terminal to ask for it",
            )
            .hint(format!("set {PASSWORD} for this command"))
        })?,
    };
    Ok(Credentials::Login {
        user: user.to_owned(),
        password,
    })
}

/// Asks on the terminal, without showing what is typed. See tcsetattr(3).
fn asked(host: &str, user: &str) -> Option<Secret> {
    use nix::sys::termios::{tcgetattr, tcsetattr, LocalFlags, SetArg};
    let mut terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()?;
    let before = tcgetattr(&terminal).ok()?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    silent.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent).ok()?;
    let asked = write!(terminal, "password of {} at {host}: ", Shown::new(user));
    let mut line = String::new();
    let read = std::io::BufReader::new(&terminal).read_line(&mut line);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before).ok()?;
    (asked.is_ok() && read.is_ok_and(|length| length > 0))
        .then(|| Secret(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// The files that may hold credentials, those that are named first.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let mut files = Vec::new();
    if let Some(directory) = variable("DOCKER_CONFIG") {
        files.push(directory.join("config.json"));
    } else if let Some(home) = variable("HOME") {
        files.push(home.join(".docker/config.json"));
    }
    if let Some(directory) = variable("XDG_RUNTIME_DIR") {
        files.push(directory.join("containers/auth.json"));
    }
    if let Some(home) = variable("HOME") {
        files.push(home.join(".config/containers/auth.json"));
    }
    files
}

/// What `docker login`, `podman login` and `skopeo login` write.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper program answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl AuthFile {
    fn of(&self, host: &str, name: &str) -> Result<Option<Credentials>, Error> {
        if let Some(helper) = self.cred_helpers.get(host) {
            return asked_of(helper, host);
        }
        // The longest entry that is the host, or the host and the first parts of the name.
        let whole = format!("{host}/{name}");
        let entry = self
            .auths
            .iter()
            .filter_map(|(key, auth)| Some((plain_key(key, &whole)?, auth)))
            .max_by_key(|(length, _)| *length);
        if let Some((_, auth)) = entry {
            if let Some(found) = auth.read(host)? {
                return Ok(Some(found));
            }
        }
        match &self.creds_store {
            Some(helper) => asked_of(helper, host),
            None => Ok(None),
        }
    }
}

/// How much of the image's whole name an entry's key names, if it does.
fn plain_key(key: &str, whole: &str) -> Option<usize> {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let rest = whole.strip_prefix(key)?;
    (!key.is_empty() && rest.starts_with('/')).then_some(key.len())
}

impl Auth {
    fn read(&self, host: &str) -> Result<Option<Credentials>, Error> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credentials::Identity(Secret(token))));
        }
        if let (Some(user), Some(password)) = (filled(&self.username), filled(&self.password)) {
            let password = Secret(password);
            return Ok(Some(Credentials::Login { user, password }));
        }
        let Some(auth) = filled(&self.auth) else {
            return Ok(None);
        };
        let decoded = STANDARD
            .decode(auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((user, password)) => Ok(Some(Credentials::Login {
                user: user.to_owned(),
                password: Secret(password.trim_end_matches('\0').to_owned()),
            })),
            None => Err(Error::new(
                format!("credentials for {host}"),
                "the file that should hold them is damaged",
            )
            .hint("log in again with the tool that wrote it")),
        }
    }
}

/// Asks a helper program: `docker-credential-NAME get`, the host on its standard
/// input. See docker-credential-helpers.
fn asked_of(helper: &str, host: &str) -> Result<Option<Credentials>, Error> {
    let name = format!("docker-credential-{helper}");
    let failed = |cause: String| {
        Error::new(format!("ask {} for credentials", Shown::new(&name)), cause)
            .hint("the Docker configuration names it; --docker-username goes without")
    };
    if helper.contains('/') {
        return Err(failed("it is no name of a helper".into()));
    }
    let mut child = Command::new(&name)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("it cannot be started: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended before it read this, and then says why.
        let _ = writeln!(stdin, "{host}");
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // That it knows none is told like a failure.
        let text = String::from_utf8_lossy(&output.stdout);
        return if text.contains("credentials not found") {
            Ok(None)
        } else {
            Err(failed(format!("it failed ({})", output.status)))
        };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not understood".into()))?;
    Ok(Some(match &answer.username[..] {
        "<token>" => Credentials::Identity(Secret(answer.secret)),
        _ => Credentials::Login {
            user: answer.username,
            password: Secret(answer.secret),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_and_without_quotes() {
        let header = r#"Bearer realm="https://a.x/token?a=b,c",service="s \"q\"", scope=repository:a:pull, Basic realm=x"#;
        let all = challenges(header);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].parameters["realm"], "https://a.x/token?a=b,c");
        assert_eq!(all[0].parameters["service"], "s \"q\"");
        assert_eq!(all[0].parameters["scope"], "repository:a:pull");
        assert_eq!(
            (&all[1].scheme[..], &all[1].parameters["realm"][..]),
            ("basic", "x")
        );
        for odd in [
            "",
            ",",
            "=",
            "=x",
            "a=b",
            "Basic",
            "Bearer realm=\"x",
            "Bearer realm=\"\\",
            "\u{e4}=\u{e4}",
        ] {
            assert!(challenges(odd).len() <= 1, "{odd}");
        }
    }

    #[test]
    fn the_entry_that_says_most_of_the_name_counts() {
        let file: AuthFile = serde_json::from_str(
            r#"{"auths":{
                "localhost:5000":{"auth":"aG9zdDpvbmU6dHdv"},
                "https://localhost:6000/v1/":{"username":"old","password":"p"},
                "localhost:5000/lab":{"auth":"bGFiOnA="},
                "localhost":{"auth":"eDp5"},
                "token.x":{"identitytoken":"t"},
                "empty.x":{}}}"#,
        )
        .unwrap();
        let of = |host: &str, name: &str| file.of(host, name).unwrap();
        let login = |user: &str, password: &str| {
            Some(Credentials::Login {
                user: user.into(),
                password: Secret::new(password),
            })
        };
        assert_eq!(of("localhost:5000", "ring"), login("host", "one:two"));
        assert_eq!(of("localhost:5000", "lab/ring"), login("lab", "p"));
        assert_eq!(of("localhost:5000", "labor"), login("host", "one:two"));
        assert_eq!(of("localhost:6000", "ring"), login("old", "p"));
        assert_eq!(
            of("token.x", "a"),
            Some(Credentials::Identity(Secret::new("t")))
        );
        assert_eq!(of("empty.x", "a"), None);
        assert_eq!(of("other.x", "a"), None);
    }

    #[test]
    fn secrets_do_not_show() {
        let login = Credentials::Login {
            user: "me".into(),
            password: Secret::new("hidden"),
        };
        let shown = format!("{login:?} {:?}", login.basic());
        assert!(
            !shown.contains("hidden") && !shown.contains("bWU6"),
            "{shown}"
        );
        assert_eq!(login.basic().unwrap().reveal(), "Basic bWU6aGlkZGVu");
    }
}
