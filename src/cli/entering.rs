//! How an image is entered: the options of exec, run, shell and test.
//!
//! Owns: the one table of them. [`Args`] makes clap's definition of it, and so help,
//! manual pages and completions; [`super::quick`] parses by the same rows. Never: says
//! what an option comes to; that is [`crate::cmd::enter`]'s.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{FalseyValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{value_parser, Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

/// The options, taken. What each is for stands in [`OPTIONS`].
#[derive(Debug, Default)]
pub struct Entering {
    /// `--bind`
    pub bind: Vec<OsString>,
    /// `--home`
    pub home: Option<OsString>,
    /// `--no-home`
    pub no_home: bool,
    /// `--workdir`
    pub workdir: Option<PathBuf>,
    /// `--scratch`
    pub scratch: Vec<PathBuf>,
    /// `--pwd`
    pub pwd: Option<PathBuf>,
    /// `--contain`
    pub contain: bool,
    /// `--containall`
    pub containall: bool,
    /// `--no-mount`
    pub no_mount: Vec<String>,
    /// `--cleanenv`
    pub cleanenv: bool,
    /// `--env`
    pub env: Vec<OsString>,
    /// `--env-file`
    pub env_file: Option<PathBuf>,
    /// `--app`
    pub app: Option<String>,
    /// `--no-env`
    pub no_env: bool,
    /// `--writable`
    pub writable: bool,
    /// `--writable-tmpfs`
    pub writable_tmpfs: bool,
    /// `--overlay`
    pub overlay: Option<PathBuf>,
    /// `--ipc`
    pub ipc: bool,
    /// `--pid`
    pub pid: bool,
    /// `--net`
    pub net: bool,
    /// `--uts`
    pub uts: bool,
    /// `--hostname`
    pub hostname: Option<OsString>,
    /// `--share`
    pub share: Option<OsString>,
    /// `--userns`
    pub userns: bool,
    /// `--setuid`
    pub setuid: bool,
    /// `--stage`
    pub stage: Option<OsString>,
    /// `--mpi`
    pub mpi: Option<OsString>,
    /// `--dry-run`
    pub dry_run: bool,
    /// `--timing`
    pub timing: bool,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// What follows `--`.
    pub long: &'static str,
    /// What follows `-`.
    pub short: Option<char>,
    /// The variable that stands for it.
    pub variable: Option<&'static str>,
    /// What the value is taken for that needs not be given, if it needs not; if it is
    /// given it follows a `=`.
    pub alone: Option<&'static str>,
    /// The options that it cannot be given with.
    pub not_with: &'static [&'static str],
    /// Where it is put.
    pub field: fn(&mut Entering) -> &mut dyn Field,
    help: &'static str,
    value: Option<&'static str>,
    hint: ValueHint,
}

impl Opt {
    const fn new(
        long: &'static str,
        field: fn(&mut Entering) -> &mut dyn Field,
        help: &'static str,
    ) -> Self {
        Self {
            long,
            short: None,
            variable: None,
            alone: None,
            not_with: &[],
            field,
            help,
            value: None,
            hint: ValueHint::Unknown,
        }
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    const fn value(mut self, name: &'static str, hint: ValueHint) -> Self {
        self.value = Some(name);
        self.hint = hint;
        self
    }

    const fn alone_means(mut self, value: &'static str) -> Self {
        self.alone = Some(value);
        self
    }

    const fn not_with(mut self, others: &'static [&'static str]) -> Self {
        self.not_with = others;
        self
    }

    /// Whether it has a value.
    pub const fn has_value(&self) -> bool {
        self.value.is_some()
    }

    fn argument(&self, heading: &'static str) -> Arg {
        let mut scratch = Entering::default();
        let (action, parser) = (self.field)(&mut scratch).form();
        let mut argument = Arg::new(self.long)
            .long(self.long)
            .help(self.help)
            .help_heading(heading)
            .action(action)
            .value_parser(parser)
            .conflicts_with_all(self.not_with);
        if let Some(letter) = self.short {
            argument = argument.short(letter);
        }
        if let Some(name) = self.value {
            argument = argument.value_name(name);
        }
        // clap has a guess by the type of the value.
        if self.hint != ValueHint::Unknown {
            argument = argument.value_hint(self.hint);
        }
        if let Some(name) = self.variable {
            argument = argument.env(name).hide_env_values(true);
        }
        if let Some(value) = self.alone {
            argument = argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value(value);
        }
        argument
    }
}

/// A field that an option is put into.
pub trait Field {
    /// What clap makes of an option with such a field.
    fn form(&self) -> (ArgAction, ValueParser);
    /// Takes a value, which is not looked at where the option has none; whether it is
    /// one that fits, and the first where there can be only one.
    fn put(&mut self, value: OsString) -> bool;
}

/// A switch.
impl Field for bool {
    fn form(&self) -> (ArgAction, ValueParser) {
        (ArgAction::SetTrue, FalseyValueParser::new().into())
    }

    fn put(&mut self, _value: OsString) -> bool {
        !std::mem::replace(self, true)
    }
}

impl<T: Value> Field for Option<T> {
    fn form(&self) -> (ArgAction, ValueParser) {
        (ArgAction::Set, T::parser())
    }

    fn put(&mut self, value: OsString) -> bool {
        let value = T::taken(value);
        value.is_some() && std::mem::replace(self, value).is_none()
    }
}

impl<T: Value> Field for Vec<T> {
    fn form(&self) -> (ArgAction, ValueParser) {
        (ArgAction::Append, T::parser())
    }

    fn put(&mut self, value: OsString) -> bool {
        T::taken(value).map(|value| self.push(value)).is_some()
    }
}

/// What the value of an option can be.
trait Value: Sized {
    fn parser() -> ValueParser;
    fn taken(value: OsString) -> Option<Self>;
}

impl Value for OsString {
    fn parser() -> ValueParser {
        value_parser!(OsString)
    }

    fn taken(value: OsString) -> Option<Self> {
        Some(value)
    }
}

impl Value for PathBuf {
    fn parser() -> ValueParser {
        value_parser!(PathBuf)
    }

    fn taken(value: OsString) -> Option<Self> {
        Some(value.into())
    }
}

impl Value for String {
    fn parser() -> ValueParser {
        value_parser!(String)
    }

    fn taken(value: OsString) -> Option<Self> {
        value.into_string().ok()
    }
}

impl Args for Entering {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().flat_map(|group| {
            let options = group.options.iter();
            options.map(|option| option.argument(group.heading))
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Entering {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut taken = Self::default();
        for option in OPTIONS.iter().flat_map(|group| group.options) {
            let field = (option.field)(&mut taken);
            let fits = match option.has_value() {
                false => !matches.get_flag(option.long) || field.put(OsString::new()),
                true => matches
                    .get_raw(option.long)
                    .into_iter()
                    .flatten()
                    .all(|value| field.put(value.to_owned())),
            };
            if !fits {
                return Err(clap::Error::new(ErrorKind::InvalidValue));
            }
        }
        Ok(taken)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Options that help shows together.
#[derive(Debug)]
pub struct Group {
    heading: &'static str,
    /// They, in the order of help.
    pub options: &'static [Opt],
}

/// All of them, in the order of help.
pub static OPTIONS: [Group; 7] = [
    Group {
        heading: "What is visible",
        options: &[
            Opt::new("bind", |to| &mut to.bind, "Show a file or directory of the host in the image; repeatable, comma lists, `\\:` and `\\,` in paths")
                .short('B')
                .value("SRC[:DEST[:ro|rw]]", ValueHint::AnyPath)
                .variable("SINGULARITY_BINDPATH"),
            Opt::new("home", |to| &mut to.home, "Use another directory of the host as home, at its own path or at DEST")
                .short('H')
                .value("SRC[:DEST]", ValueHint::DirPath)
                .variable("SINGULARITY_HOME"),
            Opt::new("no-home", |to| &mut to.no_home, "Leave the home directory out; the current directory stays")
                .variable("SINGULARITY_NO_HOME"),
            Opt::new("workdir", |to| &mut to.workdir, "Keep /tmp, /var/tmp, scratch directories and a contained home in DIR")
                .short('W')
                .value("DIR", ValueHint::DirPath)
                .variable("SINGULARITY_WORKDIR"),
            Opt::new("scratch", |to| &mut to.scratch, "Put an empty writable directory at PATH in the image; repeatable, comma lists")
                .short('S')
                .value("PATH", ValueHint::Unknown)
                .variable("SINGULARITY_SCRATCH"),
            Opt::new("pwd", |to| &mut to.pwd, "Start in this directory of the image")
                .value("PATH", ValueHint::Unknown)
                .variable("SINGULARITY_PWD"),
            Opt::new("contain", |to| &mut to.contain, "Private /tmp, /var/tmp and home, and a minimal /dev")
                .short('c')
                .variable("SINGULARITY_CONTAIN"),
            Opt::new("containall", |to| &mut to.containall, "--contain, --cleanenv, --ipc and --pid (a rank keeps its launcher's PID namespace unless --pid is given too)")
                .short('C')
                .variable("SINGULARITY_CONTAINALL"),
            Opt::new("no-mount", |to| &mut to.no_mount, "Leave out mounts made by default: dev, proc, sys, tmp, home, cwd, hosts, resolv.conf, localtime, passwd, group; comma lists")
                .value("NAME", ValueHint::Unknown)
                .variable("SINGULARITY_NO_MOUNT"),
        ],
    },
    Group {
        heading: "Variables",
        options: &[
            Opt::new("cleanenv", |to| &mut to.cleanenv, "Start with few variables of the host (what a launcher needs stays)")
                .short('e')
                .variable("SINGULARITY_CLEANENV"),
            Opt::new("env", |to| &mut to.env, "Set a variable inside; repeatable (SINGULARITYENV_NAME=VALUE does the same)")
                .value("NAME=VALUE", ValueHint::Unknown),
            Opt::new("env-file", |to| &mut to.env_file, "Set the variables in FILE, one NAME=VALUE a line")
                .value("FILE", ValueHint::FilePath)
                .variable("SINGULARITY_ENV_FILE"),
            Opt::new("app", |to| &mut to.app, "Take this app of the image (SCIF): its runscript, test and variables")
                .value("NAME", ValueHint::Unknown)
                .variable("SINGULARITY_APP"),
            Opt::new("no-env", |to| &mut to.no_env, "Do not run the image's environment scripts")
                .variable("SINGULARITY_NO_ENV"),
        ],
    },
    Group {
        heading: "Changing the image",
        options: &[
            Opt::new("writable", |to| &mut to.writable, "Change the image in place (directories, ext3, ext4)")
                .short('w')
                .variable("SINGULARITY_WRITABLE")
                .not_with(&["writable-tmpfs", "overlay"]),
            Opt::new("writable-tmpfs", |to| &mut to.writable_tmpfs, "Let changes go to memory; they are gone at the end")
                .variable("SINGULARITY_WRITABLE_TMPFS")
                .not_with(&["overlay"]),
            Opt::new("overlay", |to| &mut to.overlay, "Let changes go to DIR, and keep them there")
                .short('o')
                .value("DIR", ValueHint::DirPath)
                .variable("SINGULARITY_OVERLAY"),
        ],
    },
    Group {
        heading: "Namespaces",
        options: &[
            Opt::new("ipc", |to| &mut to.ipc, "New IPC namespace: System V IPC, message queues")
                .short('i')
                .variable("SINGULARITY_IPC"),
            Opt::new("pid", |to| &mut to.pid, "New PID namespace; the program is not the process the caller started")
                .short('p')
                .variable("SINGULARITY_PID"),
            Opt::new("net", |to| &mut to.net, "New network namespace with a loopback device only")
                .short('n')
                .variable("SINGULARITY_NET"),
            Opt::new("uts", |to| &mut to.uts, "New UTS namespace")
                .variable("SINGULARITY_UTS"),
            Opt::new("hostname", |to| &mut to.hostname, "Host name inside; implies --uts")
                .value("NAME", ValueHint::Unknown)
                .variable("SINGULARITY_HOSTNAME"),
            Opt::new("share", |to| &mut to.share, "Share the namespaces with other ranks of the job on this node (auto), with none (off), or with all that give the same NAME")
                .value("auto|off|NAME", ValueHint::Unknown)
                .variable("SINGULARITY_SHARE"),
            Opt::new("userns", |to| &mut to.userns, "Enter by a user namespace, not by the set-id starter")
                .variable("SINGULARITY_USERNS"),
            Opt::new("setuid", |to| &mut to.setuid, "Enter by the set-id starter, and not at all where it cannot be")
                .variable("SINGULARITY_SETUID")
                .not_with(&["userns"]),
        ],
    },
    Group {
        heading: "Many nodes",
        options: &[
            Opt::new("stage", |to| &mut to.stage, "Copy the image file to the node first, once for all ranks of the job there: to DIR, to memory, or to where the site says; with try: go on with the image itself where that cannot be done")
                .value("[try:]DIR|memory", ValueHint::DirPath)
                .variable("SINGULARITY_STAGE")
                .alone_means("yes"),
        ],
    },
    Group {
        heading: "MPI",
        options: &[
            Opt::new("mpi", |to| &mut to.mpi, "How a rank's launcher and its MPI meet: directly, else over a bridge, else not at all (auto); directly only (pass); over the bridge wherever there is one (bridge). openmpi and mpich say which a program uses that cannot be told; off leaves variables alone too")
                .value("auto|pass|bridge|openmpi|mpich|off", ValueHint::Unknown)
                .variable("SINGULARITY_MPI"),
        ],
    },
    Group {
        heading: "Looking closer",
        options: &[
            Opt::new("dry-run", |to| &mut to.dry_run, "Print what would be done, step by step, and do nothing")
                .variable("SINGULARITY_DRY_RUN"),
            Opt::new("timing", |to| &mut to.timing, "Print the duration of each phase at the end of set-up")
                .variable("SINGULARITY_TIMING"),
        ],
    },
];
