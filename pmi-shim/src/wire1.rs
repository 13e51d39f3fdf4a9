//! The PMI-1 wire: lines of `name=value` that begin with `cmd`, as the programs of
//! MPICH's family and hydra speak it, and Slurm's mpi/pmi2 too.
//!
//! Owns: the form of commands and answers, both ways; bytes become values and
//! values bytes. Never: answers anything, keeps a state but the unfinished line.
//!
//! Sources: MPICH's `src/pmi` (client), hydra's `proxy` (server), Slurm's
//! `src/plugins/mpi/pmi2/pmi1.c`. What they make of the form differs in details:
//! values hold no space, except that texts for people (`msg`, `message`) may;
//! Slurm takes what one read(2) of 1024 bytes gives it for one whole command, so
//! commands are sent one at a time, each by one write and shorter than that.

/// The longest line that is read. MPICH's own limit is 1024 for commands; values
/// that came through a server may be longer.
pub const LONGEST: usize = 64 << 10;

/// The longest command or answer that every peer takes.
pub const LONGEST_SENT: usize = 1000;

/// What `Lines::next` gives up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Bytes on their way to becoming lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// How many of them are known to hold no end of a line.
    searched: usize,
}

impl Lines {
    /// Takes what has been read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole command without its end. A command over several lines
    /// (`mcmd=` to `endcmd`) is one.
    ///
    /// # Errors
    /// [`TooLong`]: no end in [`LONGEST`] bytes, so there will be none.
    pub fn next_command(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end: &[u8] = match self.bytes.starts_with(b"mcmd=") {
            true => b"endcmd\n",
            false => b"\n",
        };
        let from = self.searched.saturating_sub(end.len());
        let found = self.bytes[from..]
            .windows(end.len())
            .position(|window| window == end);
        match found {
            Some(place) => {
                let mut command: Vec<u8> = self.bytes.drain(..from + place + end.len()).collect();
                command.truncate(from + place);
                self.searched = 0;
                Ok(Some(command))
            }
            None if self.bytes.len() > LONGEST => Err(TooLong),
            None => {
                // The first bytes decide what the end is, so they are looked at again.
                self.searched = if self.bytes.len() < 5 {
                    0
                } else {
                    self.bytes.len()
                };
                Ok(None)
            }
        }
    }

    /// What has not become a command: the bytes of another form that follow.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.searched = 0;
        std::mem::take(&mut self.bytes)
    }
}

/// The fields of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fields {
    /// Splits a line. A word without `=` belongs to the value before it, with a
    /// space between: a text for people.
    pub fn of(line: &[u8]) -> Self {
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for word in line.split(|&byte| byte == b' ' || byte == b'\n') {
            if word.is_empty() {
                continue;
            }
            match word.iter().position(|&byte| byte == b'=') {
                Some(place) => fields.push((word[..place].to_vec(), word[place + 1..].to_vec())),
                None => {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push(b' ');
                        value.extend_from_slice(word);
                    }
                }
            }
        }
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
}

/// What a program asks its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The beginning, which says which wire follows.
    Init {
        /// 1 for this wire, 2 for PMI-2.
        version: i64,
        /// 1 for this wire, 0 for PMI-2.
        subversion: i64,
    },
    /// How long names and values may be.
    GetMaxes,
    /// Which of the commands of the launcher's command line.
    GetAppnum,
    /// The name of the key-value space.
    GetMyKvsname,
    /// How many ranks there could be.
    GetUniverseSize,
    /// Tell a value.
    Put {
        /// Its name.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Ask for a value.
    Get {
        /// Its name.
        key: Vec<u8>,
    },
    /// A fence.
    BarrierIn,
    /// The farewell.
    Finalize,
    /// End the job.
    Abort {
        /// The exit status asked for.
        status: i32,
        /// Why.
        message: String,
    },
    /// Start more programs.
    Spawn,
    /// Ask for a value by its number; no program is known that does.
    Getbyidx,
    /// Publish, look up or withdraw a name.
    Name(Naming),
    /// Something else.
    Unknown(String),
}

/// What is asked about names of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `publish_name`
    Publish,
    /// `unpublish_name`
    Unpublish,
    /// `lookup_name`
    Lookup,
}

impl Request {
    /// Reads a command. What lacks a field that it needs is [`Request::Unknown`].
    pub fn of(command: &[u8]) -> Self {
        if command.starts_with(b"mcmd=spawn") {
            return Request::Spawn;
        }
        let fields = Fields::of(command);
        let unknown = || {
            let shown: Vec<u8> = command.iter().copied().take(80).collect();
            Request::Unknown(printable(&shown))
        };
        match fields.get("cmd") {
            Some(b"init") => Request::Init {
                version: fields.number("pmi_version").unwrap_or(0),
                subversion: fields.number("pmi_subversion").unwrap_or(0),
            },
            Some(b"get_maxes") => Request::GetMaxes,
            Some(b"get_appnum") => Request::GetAppnum,
            Some(b"get_my_kvsname") => Request::GetMyKvsname,
            Some(b"get_universe_size") => Request::GetUniverseSize,
            Some(b"put") => match (fields.get("key"), fields.get("value")) {
                (Some(key), value) => Request::Put {
                    key: key.to_vec(),
                    value: value.unwrap_or_default().to_vec(),
                },
                _ => unknown(),
            },
            Some(b"get") => match fields.get("key") {
                Some(key) => Request::Get { key: key.to_vec() },
                None => unknown(),
            },
            Some(b"barrier_in") => Request::BarrierIn,
            Some(b"finalize") => Request::Finalize,
            Some(b"abort") => Request::Abort {
                status: fields
                    .number("exitcode")
                    .and_then(|status| i32::try_from(status).ok())
                    .unwrap_or(1),
                message: ["error_msg", "message", "msg"]
                    .iter()
                    .find_map(|name| fields.get(name))
                    .map(printable)
                    .unwrap_or_default(),
            },
            Some(b"spawn") => Request::Spawn,
            Some(b"getbyidx") => Request::Getbyidx,
            Some(b"publish_name") => Request::Name(Naming::Publish),
            Some(b"unpublish_name") => Request::Name(Naming::Unpublish),
            Some(b"lookup_name") => Request::Name(Naming::Lookup),
            _ => unknown(),
        }
    }
}

/// Bytes as a message may show them: one line, nothing that moves a cursor.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// To [`Request::Init`]; the version that is spoken, and whether the asked one
    /// is.
    Init {
        /// Whether the versions agree.
        good: bool,
        /// The version spoken from here on.
        version: u32,
        /// Its subversion.
        subversion: u32,
    },
    /// To [`Request::GetMaxes`].
    Maxes {
        /// Of the key-value space's name.
        kvsname: usize,
        /// Of a name.
        key: usize,
        /// Of a value.
        value: usize,
    },
    /// To [`Request::GetAppnum`].
    Appnum(i64),
    /// To [`Request::GetMyKvsname`].
    Kvsname(&'a str),
    /// To [`Request::GetUniverseSize`].
    UniverseSize(u32),
    /// To [`Request::Put`].
    Put {
        /// Whether it was kept.
        good: bool,
    },
    /// To [`Request::Get`].
    Get(Option<&'a [u8]>),
    /// To [`Request::BarrierIn`].
    BarrierOut,
    /// To [`Request::Finalize`].
    FinalizeAck,
    /// To [`Request::Spawn`]: it cannot be done.
    NoSpawn,
    /// To [`Request::Getbyidx`].
    NoIndex,
    /// To [`Request::Name`]: it cannot be done.
    NoName(Naming),
}

impl Answer<'_> {
    /// The line as it is sent.
    pub fn line(&self) -> Vec<u8> {
        let text = match *self {
            Answer::Init {
                good,
                version,
                subversion,
            } => format!(
                "cmd=response_to_init pmi_version={version} pmi_subversion={subversion} rc={}\n",
                if good { 0 } else { -1 }
            ),
            Answer::Maxes {
                kvsname,
                key,
                value,
            } => format!(
                "cmd=maxes rc=0 kvsname_max={kvsname} keylen_max={key} vallen_max={value}\n"
            ),
            Answer::Appnum(number) => format!("cmd=appnum rc=0 appnum={number}\n"),
            Answer::Kvsname(name) => format!("cmd=my_kvsname rc=0 kvsname={name}\n"),
            Answer::UniverseSize(size) => format!("cmd=universe_size rc=0 size={size}\n"),
            Answer::Put { good: true } => "cmd=put_result rc=0 msg=success\n".to_owned(),
            Answer::Put { good: false } => "cmd=put_result rc=-1 msg=no_room\n".to_owned(),
            Answer::Get(None) => "cmd=get_result rc=-1 msg=key_not_found\n".to_owned(),
            Answer::Get(Some(value)) => {
                let mut line = b"cmd=get_result rc=0 msg=success value=".to_vec();
                line.extend_from_slice(value);
                line.push(b'\n');
                return line;
            }
            Answer::BarrierOut => "cmd=barrier_out rc=0\n".to_owned(),
            Answer::FinalizeAck => "cmd=finalize_ack rc=0\n".to_owned(),
            Answer::NoSpawn => "cmd=spawn_result rc=-1 status=spawn_not_supported\n".to_owned(),
            Answer::NoIndex => "cmd=getbyidx_results rc=-1 reason=no_more_keyvals\n".to_owned(),
            Answer::NoName(naming) => format!(
                "cmd={}_result rc=-1 info=not_supported msg=not_supported\n",
                match naming {
                    Naming::Publish => "publish",
                    Naming::Unpublish => "unpublish",
                    Naming::Lookup => "lookup",
                }
            ),
        };
        text.into_bytes()
    }
}

/// What a client sends its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// On a connection made to a port: who this is.
    Initack(&'a str),
    /// The beginning, for this wire or for PMI-2.
    Init {
        /// 1, or 2 for PMI-2.
        version: u32,
    },
    /// See [`Request::GetMaxes`].
    GetMaxes,
    /// See [`Request::GetMyKvsname`].
    GetMyKvsname,
    /// See [`Request::Put`].
    Put {
        /// The key-value space.
        space: &'a str,
        /// The name.
        key: &'a str,
        /// The value.
        value: &'a str,
    },
    /// See [`Request::Get`].
    Get {
        /// The key-value space.
        space: &'a str,
        /// The name.
        key: &'a str,
    },
    /// See [`Request::BarrierIn`].
    BarrierIn,
    /// See [`Request::Finalize`].
    Finalize,
    /// See [`Request::Abort`].
    Abort(i32),
}

impl Command<'_> {
    /// The line as it is sent.
    pub fn line(&self) -> Vec<u8> {
        match *self {
            Command::Initack(id) => format!("cmd=initack pmiid={id}\n"),
            Command::Init { version } => {
                let subversion = u32::from(version == 1);
                format!("cmd=init pmi_version={version} pmi_subversion={subversion}\n")
            }
            Command::GetMaxes => "cmd=get_maxes\n".to_owned(),
            Command::GetMyKvsname => "cmd=get_my_kvsname\n".to_owned(),
            Command::Put { space, key, value } => {
                format!("cmd=put kvsname={space} key={key} value={value}\n")
            }
            Command::Get { space, key } => format!("cmd=get kvsname={space} key={key}\n"),
            Command::BarrierIn => "cmd=barrier_in\n".to_owned(),
            Command::Finalize => "cmd=finalize\n".to_owned(),
            Command::Abort(status) => format!("cmd=abort exitcode={status}\n"),
        }
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut commands = Vec::new();
        for piece in bytes.chunks(piece) {
            lines.feed(piece);
            while let Some(command) = lines.next_command().unwrap() {
                commands.push(command);
            }
        }
        commands
    }

    #[test]
    fn a_dialogue_is_the_same_in_whatever_pieces_it_comes() {
        // What MPICH 4.0.2 sends, and a spawn of MPICH 3.4 in the middle.
        let dialogue: &[u8] = b"cmd=init pmi_version=1 pmi_subversion=1\ncmd=get_maxes\n\
            cmd=put kvsname=kvs_1 key=P0-businesscard value=description#a$port#1$\n\
            mcmd=spawn\nnprocs=2\nexecname=./child\nendcmd\ncmd=barrier_in\n\
            cmd=abort exitcode=7 message=it is over\n";
        let whole = commands(dialogue, dialogue.len());
        let requests: Vec<Request> = whole.iter().map(|command| Request::of(command)).collect();
        assert_eq!(
            requests,
            [
                Request::Init {
                    version: 1,
                    subversion: 1
                },
                Request::GetMaxes,
                Request::Put {
                    key: b"P0-businesscard".to_vec(),
                    value: b"description#a$port#1$".to_vec()
                },
                Request::Spawn,
                Request::BarrierIn,
                Request::Abort {
                    status: 7,
                    message: "it is over".into()
                },
            ]
        );
        for piece in 1..40 {
            assert_eq!(commands(dialogue, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::default();
        lines.feed(&vec![b'x'; LONGEST + 1]);
        assert_eq!(lines.next_command(), Err(TooLong));
        let mut lines = Lines::default();
        lines.feed(b"mcmd=spawn\n");
        lines.feed(&vec![b'\n'; LONGEST]);
        assert_eq!(lines.next_command(), Err(TooLong));
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let put = Command::Put {
            space: "k",
            key: "a",
            value: "b-_",
        };
        let line = put.line();
        assert_eq!(
            Request::of(&line[..line.len() - 1]),
            Request::Put {
                key: b"a".to_vec(),
                value: b"b-_".to_vec()
            }
        );
        let fields = Fields::of(b"cmd=get_result rc=0 msg=success value=a=b");
        assert_eq!(fields.get("value"), Some(&b"a=b"[..]));
        assert_eq!(fields.number("rc"), Some(0));
        let fields = Fields::of(&Answer::Get(Some(b"v")).line());
        assert_eq!(fields.get("value"), Some(&b"v"[..]));
    }

    #[test]
    fn what_lacks_a_field_is_unknown_and_printable() {
        let Request::Unknown(text) = Request::of(b"cmd=get kvsname=\x1b[2J") else {
            panic!("it was taken")
        };
        assert_eq!(text, "cmd=get kvsname=?[2J");
        assert!(matches!(Request::of(b""), Request::Unknown(_)));
        assert!(matches!(Request::of(b"\0=\xff"), Request::Unknown(_)));
    }
}
