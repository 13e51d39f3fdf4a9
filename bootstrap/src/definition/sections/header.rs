//! The header of a stage: keys and their values.
//!
//! Owns: which keys there are, which may be there once, and what goes together. Never:
//! asks whether a value is there on this machine.

use super::Block;
use crate::definition::text::{meant, Fault, Located, Place};
use crate::definition::words::{joined, split, Rules};
use crate::definition::{Agent, Header, Mirror};

/// The keys of a header.
pub(in crate::definition) const KEYS: [&str; 12] = [
    "Bootstrap",
    "From",
    "MirrorURL",
    "UpdateURL",
    "OSVersion",
    "Include",
    "Variant",
    "Components",
    "Keyring",
    "Stage",
    "Registry",
    "Namespace",
];

/// Whether a word is a key, in any case.
pub(in crate::definition) fn is_key(word: &str) -> bool {
    KEYS.iter().any(|key| key.eq_ignore_ascii_case(word))
}

pub(super) fn header(block: &Block<'_>) -> Result<(Header, Option<Located<String>>), Fault> {
    let mut header = Header::default();
    let mut stage = None;
    let (mut registry, mut namespace) = (None, None);
    let mut lines = block.lines.iter().copied();
    while let Some(line) = joined(&mut lines) {
        let Some(start) = line
            .iter()
            .position(|(c, _)| !c.is_whitespace())
            .filter(|&start| line[start].0 != '#')
        else {
            continue;
        };
        let (key, mut words) = key_and_words(&line[start..])?;
        let at = key.at;
        let once = |there: bool| {
            let cause = format!("{} is there a second time", key.value);
            let fault = Fault::new(at, cause, "leave one of them");
            if there {
                Err(fault)
            } else {
                Ok(())
            }
        };
        let known = KEYS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(&key.value));
        match known.copied() {
            Some("Include") => {
                header.include.extend(words);
                continue;
            }
            Some("Components") => {
                header.components.extend(words);
                continue;
            }
            Some("MirrorURL") => {
                if words.is_empty() {
                    return Err(empty(&key));
                }
                let url = words.remove(0);
                let name = (!words.is_empty()).then(|| words.remove(0).value);
                header.mirrors.push(Mirror { url, name });
                no_more(&key, &words)?;
                continue;
            }
            _ => {}
        }
        let mut words = words.into_iter();
        let value = words.next().ok_or_else(|| empty(&key))?;
        let rest: Vec<_> = words.collect();
        match known.copied() {
            Some("Bootstrap") => {
                once(header.agent.is_some())?;
                header.agent = Some(Agent::named(&value, &Agent::NAMES)?);
            }
            Some("From") => {
                once(header.from.is_some())?;
                header.from = Some(value);
            }
            Some("OSVersion") => {
                once(header.version.is_some())?;
                header.version = Some(value);
            }
            Some("Variant") => {
                once(header.variant.is_some())?;
                header.variant = Some(value);
            }
            Some("Keyring") => {
                once(header.keyring.is_some())?;
                header.keyring = Some(value);
            }
            Some("UpdateURL") => header.updates.push(value),
            Some("Stage") => {
                once(stage.is_some())?;
                stage = Some(value);
            }
            Some("Registry") => {
                once(registry.is_some())?;
                registry = Some(value);
            }
            Some("Namespace") => {
                once(namespace.is_some())?;
                namespace = Some(value);
            }
            _ => {
                let hint = match meant(&key.value, KEYS) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("there are {}", KEYS.join(", ")),
                };
                return Err(Fault::new(at, format!("unknown key {:?}", key.value), hint));
            }
        }
        no_more(&key, &rest)?;
    }
    complete(&mut header, registry, namespace)?;
    Ok((header, stage))
}

fn no_more(key: &Located<String>, rest: &[Located<String>]) -> Result<(), Fault> {
    match rest.first() {
        None => Ok(()),
        Some(word) => Err(Fault::new(
            word.at,
            format!("{} takes no more words", key.value),
            "put quotes around a value with spaces; a comment begins with #",
        )),
    }
}

/// Puts together what two keys say of one thing.
fn complete(
    header: &mut Header,
    registry: Option<Located<String>>,
    namespace: Option<Located<String>>,
) -> Result<(), Fault> {
    let agent = header.agent.as_ref().map(|agent| agent.value);
    for part in [namespace, registry].into_iter().flatten() {
        match (&mut header.from, agent) {
            (Some(from), Some(Agent::Docker)) => {
                from.value = format!("{}/{}", part.value.trim_end_matches('/'), from.value);
            }
            _ => {
                return Err(Fault::new(
                    part.at,
                    "a registry, but nothing that comes from one",
                    "it goes with Bootstrap: docker and From: NAME:TAG",
                ))
            }
        }
    }
    let needs_from = matches!(
        agent,
        Some(
            Agent::LocalImage
                | Agent::Docker
                | Agent::Oci
                | Agent::OciArchive
                | Agent::DockerArchive
        )
    );
    if let (true, Some(agent), None) = (needs_from, &header.agent, &header.from) {
        return Err(Fault::new(
            agent.at,
            format!("{} without From:", agent.value.name()),
            "add a line From: with the image that is the base",
        ));
    }
    // As in the repository files of yum, which knows no such variable itself.
    if let Some(version) = &header.version {
        let urls = header.mirrors.iter_mut().map(|mirror| &mut mirror.url);
        for url in urls.chain(&mut header.updates) {
            url.value = url.value.replace("%{OSVERSION}", &version.value);
        }
    }
    Ok(())
}

fn empty(key: &Located<String>) -> Fault {
    Fault::new(
        key.at,
        format!("{} has no value", key.value),
        "write the value behind the colon, or leave the line out",
    )
}

fn key_and_words(line: &[(char, Place)]) -> Result<(Located<String>, Vec<Located<String>>), Fault> {
    let at = line[0].1;
    let colon = line.iter().position(|(c, _)| *c == ':');
    let key: String = line[..colon.unwrap_or(line.len())]
        .iter()
        .map(|(c, _)| *c)
        .collect();
    let key = key.trim_end();
    let is_word = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let Some(colon) = colon.filter(|_| is_word && !key.is_empty()) else {
        let word = key.split_whitespace().next().unwrap_or_default();
        let hint = match (word.starts_with('%'), meant(word, KEYS)) {
            (true, _) => "a section begins at the very beginning of a line".to_owned(),
            (_, Some(meant)) => format!("write {meant}: VALUE"),
            _ => "a header has lines KEY: VALUE; sections begin with %NAME".to_owned(),
        };
        return Err(Fault::new(at, "not a key with its value", hint));
    };
    let rules = Rules {
        variables: None,
        refuse_operators: false,
    };
    let words = split(&line[colon + 1..], rules)?
        .into_iter()
        .map(|word| Located::new(word.text, word.at))
        .collect();
    Ok((Located::new(key.to_owned(), at), words))
}
