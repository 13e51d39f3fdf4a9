//! The PMI-2 wire: `name=value;` pairs behind a length of six characters, as
//! programs that were built for PMI-2 and Slurm's mpi/pmi2 speak it.
//!
//! Owns: the form of commands and answers, both ways. Never: answers anything,
//! keeps a state but the unfinished message.
//!
//! It follows `cmd=init pmi_version=2` on the PMI-1 wire ([`crate::wire1`]).
//! Sources: MPICH's `src/pmi/pmi2/simple`, Slurm's `src/plugins/mpi/pmi2`. A
//! semicolon in a value is doubled; Slurm does not know that and breaks there, so
//! nothing we send it has one. The field `thrid` comes back as it was sent.

use crate::wire1::printable;

/// How many characters the length has.
const PREFIX: usize = 6;

/// The longest message that is taken; MPICH's own limit is 65,536.
pub const LONGEST: usize = 128 << 10;

/// The longest value that every peer takes (`PMI2_MAX_VALLEN`, less the zero).
pub const LONGEST_VALUE: usize = 1000;

/// What [`Messages::next_message`] gives up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMessage;

/// Bytes on their way to becoming messages.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
}

impl Messages {
    /// Takes what has been read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message without its length.
    ///
    /// # Errors
    /// [`NoMessage`]: what is there cannot be one.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, NoMessage> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length: usize = std::str::from_utf8(prefix)
            .ok()
            .and_then(|text| text.trim_matches([' ', '\0']).parse().ok())
            .filter(|&length| length <= LONGEST)
            .ok_or(NoMessage)?;
        if self.bytes.len() < PREFIX + length {
            return Ok(None);
        }
        let mut message: Vec<u8> = self.bytes.drain(..PREFIX + length).collect();
        message.drain(..PREFIX);
        Ok(Some(message))
    }
}

/// The fields of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fields {
    /// Splits a message. A field without `=` is nothing.
    pub fn of(message: &[u8]) -> Self {
        let mut fields = Vec::new();
        let mut field: Vec<u8> = Vec::new();
        let mut bytes = message.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b';' if bytes.peek() == Some(&b';') => {
                    field.push(b';');
                    bytes.next();
                }
                b';' => {
                    fields.extend(pair(&field));
                    field.clear();
                }
                byte => field.push(byte),
            }
        }
        fields.extend(pair(&field));
        Fields { fields }
    }

    /// The value of the first field of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(found, _)| found == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// The value, where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The value, where it is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.trim().parse().ok()
    }

    /// Whether the value is `TRUE`, in any case.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"TRUE"))
    }
}

fn pair(field: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let place = field.iter().position(|&byte| byte == b'=')?;
    Some((field[..place].to_vec(), field[place + 1..].to_vec()))
}

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Message {
    body: Vec<u8>,
}

impl Message {
    /// Begins a command or an answer.
    pub fn new(command: &str) -> Self {
        let mut message = Message { body: Vec::new() };
        message.push("cmd", command.as_bytes());
        message
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value.as_ref());
        self
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        self.body.extend_from_slice(name.as_bytes());
        self.body.push(b'=');
        for &byte in value {
            if byte == b';' {
                self.body.push(byte);
            }
            self.body.push(byte);
        }
        self.body.push(b';');
    }

    /// The bytes as they are sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{:<PREFIX$}", self.body.len()).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What a program asks its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The second half of the beginning.
    FullInit,
    /// The name of the job.
    JobGetId,
    /// Something about the job.
    GetJobAttr {
        /// Its name.
        key: Vec<u8>,
    },
    /// Tell the ranks of this node something.
    PutNodeAttr {
        /// Its name.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Ask what a rank of this node has told.
    GetNodeAttr {
        /// Its name.
        key: Vec<u8>,
        /// Whether to wait until one has.
        wait: bool,
    },
    /// Tell all ranks a value.
    KvsPut {
        /// Its name.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Ask for a value.
    KvsGet {
        /// Its name.
        key: Vec<u8>,
    },
    /// A fence.
    KvsFence,
    /// The farewell.
    Finalize,
    /// End the job.
    Abort {
        /// Why.
        message: String,
    },
    /// Something that is not done here, and the name of the answer to it.
    Unsupported(&'static str),
    /// Something else.
    Unknown(String),
}

impl Request {
    /// Reads a message.
    pub fn of(fields: &Fields) -> Self {
        let key = || fields.get("key").unwrap_or_default().to_vec();
        let value = || fields.get("value").unwrap_or_default().to_vec();
        match fields.get("cmd") {
            Some(b"fullinit") => Request::FullInit,
            Some(b"job-getid") => Request::JobGetId,
            Some(b"info-getjobattr") => Request::GetJobAttr { key: key() },
            Some(b"info-putnodeattr") => Request::PutNodeAttr {
                key: key(),
                value: value(),
            },
            Some(b"info-getnodeattr") => Request::GetNodeAttr {
                key: key(),
                wait: fields.is_true("wait"),
            },
            Some(b"kvs-put") => Request::KvsPut {
                key: key(),
                value: value(),
            },
            Some(b"kvs-get") => Request::KvsGet { key: key() },
            Some(b"kvs-fence") => Request::KvsFence,
            Some(b"finalize") => Request::Finalize,
            Some(b"abort") => Request::Abort {
                message: ["msg", "error-msg"]
                    .iter()
                    .find_map(|name| fields.get(name))
                    .map(printable)
                    .unwrap_or_default(),
            },
            Some(b"spawn") => Request::Unsupported("spawn-response"),
            Some(b"job-connect") => Request::Unsupported("job-connect-response"),
            Some(b"job-disconnect") => Request::Unsupported("job-disconnect-response"),
            Some(b"name-publish") => Request::Unsupported("name-publish-response"),
            Some(b"name-unpublish") => Request::Unsupported("name-unpublish-response"),
            Some(b"name-lookup") => Request::Unsupported("name-lookup-response"),
            Some(b"ring") => Request::Unsupported("ring-response"),
            other => Request::Unknown(printable(
                &other.unwrap_or_default()[..other.unwrap_or_default().len().min(80)],
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialogue_is_the_same_in_whatever_pieces_it_comes() {
        let mut bytes = Message::new("fullinit").with("pmijobid", "7.0").bytes();
        bytes.extend(
            Message::new("kvs-put")
                .with("thrid", "0x7ffe")
                .with("key", "a")
                .with("value", "x;y;;z=")
                .bytes(),
        );
        bytes.extend(
            Message::new("info-getnodeattr")
                .with("key", "s")
                .with("wait", "TRUE")
                .bytes(),
        );
        for piece in 1..bytes.len() {
            let mut messages = Messages::default();
            let mut requests = Vec::new();
            for piece in bytes.chunks(piece) {
                messages.feed(piece);
                while let Some(message) = messages.next_message().unwrap() {
                    requests.push(Request::of(&Fields::of(&message)));
                }
            }
            assert_eq!(
                requests,
                [
                    Request::FullInit,
                    Request::KvsPut {
                        key: b"a".to_vec(),
                        value: b"x;y;;z=".to_vec()
                    },
                    Request::GetNodeAttr {
                        key: b"s".to_vec(),
                        wait: true
                    },
                ]
            );
        }
    }

    #[test]
    fn a_length_that_is_none_is_given_up() {
        for bytes in [
            &b"abcdef"[..],
            b"-1    ",
            b"999999",
            b"      ",
            b"\xff\xff\xff\xff\xff\xff",
        ] {
            let mut messages = Messages::default();
            messages.feed(bytes);
            assert_eq!(messages.next_message(), Err(NoMessage), "{bytes:?}");
        }
        let mut messages = Messages::default();
        messages.feed(b"0     ");
        assert_eq!(messages.next_message(), Ok(Some(Vec::new())));
    }

    #[test]
    fn the_length_is_that_of_the_escaped_body() {
        assert_eq!(
            Message::new("x").with("v", "a;b").bytes(),
            b"13    cmd=x;v=a;;b;"
        );
    }

    #[test]
    fn what_is_not_known_is_shown_short_and_printable() {
        let mut message = b"cmd=\x07".to_vec();
        message.extend(vec![b'y'; 200]);
        let Request::Unknown(text) = Request::of(&Fields::of(&message)) else {
            panic!("it was taken")
        };
        assert_eq!(text.len(), 80);
        assert!(text.starts_with('?'));
    }
}
