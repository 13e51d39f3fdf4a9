//! The options of srun, sbatch and salloc: the one table from which registration,
//! the variables that stand for them, and the manual page come.
//!
//! Owns: names and words, and remembering what was typed. Never: what it means;
//! that is [`crate::settings`]'s.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};

/// Which option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// The image.
    Image,
    /// Binds.
    Bind,
    /// Working directory.
    Pwd,
    /// Another home.
    Home,
    /// No home.
    NoHome,
    /// Private temporary directories.
    Contain,
    /// Few variables.
    CleanEnv,
    /// Variables.
    Env,
    /// A writable layer in memory.
    WritableTmpfs,
    /// A writable layer in a directory.
    Overlay,
    /// A copy of the image on the node.
    Stage,
    /// On the host.
    Off,
}

/// What is known of an option.
#[derive(Debug)]
pub struct Known {
    /// Which.
    pub id: Id,
    /// Its name, without the dashes.
    pub name: &'static CStr,
    /// What its argument is called; `None`: it has none.
    pub argument: Option<&'static CStr>,
    /// A line for `srun --help`.
    pub usage: &'static CStr,
    /// The variable that stands for it.
    pub variable: &'static str,
    /// Whether it may be given more than once, and adds up.
    pub repeatable: bool,
    /// More for the manual page.
    pub more: &'static str,
}

/// All options.
pub static TABLE: [Known; 12] = [
    Known {
        id: Id::Image,
        name: c"singularity-image",
        argument: Some(c"PATH"),
        usage: c"run the step's tasks in this container image",
        variable: "SLURM_SINGULARITY_IMAGE",
        repeatable: false,
        more: "A directory, or a squashfs, EROFS, ext3, ext4 or SIF file. A relative path starts where the command is typed. Given to sbatch or salloc, it holds for every step that srun starts in the job.",
    },
    Known {
        id: Id::Bind,
        name: c"singularity-bind",
        argument: Some(c"SRC[:DEST[:ro]]"),
        usage: c"show a file or directory of the node in the image; repeatable, comma lists",
        variable: "SLURM_SINGULARITY_BIND",
        repeatable: true,
        more: "A colon or comma in a path is written \\: or \\,. SINGULARITY_BINDPATH and SINGULARITY_BIND count too.",
    },
    Known {
        id: Id::Pwd,
        name: c"singularity-pwd",
        argument: Some(c"PATH"),
        usage: c"start in this directory of the image",
        variable: "SLURM_SINGULARITY_PWD",
        repeatable: false,
        more: "Without it, tasks start in the step's directory where the image has it or it is bound, else in the home directory, else in /.",
    },
    Known {
        id: Id::Home,
        name: c"singularity-home",
        argument: Some(c"SRC[:DEST]"),
        usage: c"use another directory of the node as home",
        variable: "SLURM_SINGULARITY_HOME",
        repeatable: false,
        more: "At its own path, or at DEST.",
    },
    Known {
        id: Id::NoHome,
        name: c"singularity-no-home",
        argument: None,
        usage: c"leave the home directory out",
        variable: "SLURM_SINGULARITY_NO_HOME",
        repeatable: false,
        more: "",
    },
    Known {
        id: Id::Contain,
        name: c"singularity-contain",
        argument: None,
        usage: c"private /tmp, /var/tmp and home, and a minimal /dev",
        variable: "SLURM_SINGULARITY_CONTAIN",
        repeatable: false,
        more: "What MPI needs stays visible: /dev/shm, and the directories of Slurm's PMIx server.",
    },
    Known {
        id: Id::CleanEnv,
        name: c"singularity-cleanenv",
        argument: None,
        usage: c"start with few variables of the host (what MPI needs stays)",
        variable: "SLURM_SINGULARITY_CLEANENV",
        repeatable: false,
        more: "",
    },
    Known {
        id: Id::Env,
        name: c"singularity-env",
        argument: Some(c"NAME=VALUE"),
        usage: c"set a variable inside; repeatable, comma lists",
        variable: "SLURM_SINGULARITY_ENV",
        repeatable: true,
        more: "A comma in a value is written \\,. It wins over everything else, as SINGULARITYENV_NAME=VALUE in the environment does.",
    },
    Known {
        id: Id::WritableTmpfs,
        name: c"singularity-writable-tmpfs",
        argument: None,
        usage: c"let changes to the image go to memory; they are gone at the end",
        variable: "SLURM_SINGULARITY_WRITABLE_TMPFS",
        repeatable: false,
        more: "The tasks of a step on a node see one another's changes.",
    },
    Known {
        id: Id::Overlay,
        name: c"singularity-overlay",
        argument: Some(c"DIR"),
        usage: c"let changes to the image go to a directory, and keep them there",
        variable: "SLURM_SINGULARITY_OVERLAY",
        repeatable: false,
        more: "Such steps are entered by singularity exec, in a user namespace: root cannot mount a writable layer of a user's safely.",
    },
    Known {
        id: Id::Stage,
        name: c"singularity-stage",
        argument: Some(c"[try:]DIR|memory|yes"),
        usage: c"copy the image file to each node first, once a step",
        variable: "SLURM_SINGULARITY_STAGE",
        repeatable: false,
        more: "To DIR on the node, to its memory, or (yes) to where the site says. The copy has no name and goes with the step. With try: the step goes on with the image itself where that cannot be done. SINGULARITY_STAGE counts too.",
    },
    Known {
        id: Id::Off,
        name: c"no-singularity",
        argument: None,
        usage: c"run on the node itself, also where the site or job has an image for all",
        variable: "SLURM_SINGULARITY_OFF",
        repeatable: false,
        more: "",
    },
];

/// The option with this id.
pub fn known(id: Id) -> &'static Known {
    // Every id has its line; a test sees to it.
    TABLE
        .iter()
        .find(|known| known.id == id)
        .unwrap_or(&TABLE[0])
}

/// The option with this number, which is its place in the table.
pub fn numbered(number: i32) -> Option<&'static Known> {
    TABLE.get(usize::try_from(number).ok()?)
}

/// What was typed, or set in variables, for each option.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Typed(BTreeMap<Id, Vec<OsString>>);

impl Typed {
    /// Adds one use of an option.
    pub fn add(&mut self, id: Id, argument: Option<OsString>) {
        self.0
            .entry(id)
            .or_default()
            .push(argument.unwrap_or_default());
    }

    /// Whether an option was used.
    pub fn has(&self, id: Id) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The argument of the last use.
    pub fn last(&self, id: Id) -> Option<&OsStr> {
        self.0.get(&id)?.last().map(OsString::as_os_str)
    }

    /// The arguments of all uses.
    pub fn all(&self, id: Id) -> &[OsString] {
        self.0.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Forgets an option.
    pub fn remove(&mut self, id: Id) {
        self.0.remove(&id);
    }

    /// The options that were used.
    pub fn used(&self) -> impl Iterator<Item = Id> + '_ {
        self.0.keys().copied()
    }

    /// The same from variables. An empty one counts as none, and so does one that
    /// says no to an option without argument.
    pub fn from_variables<'a>(variable: impl Fn(&str) -> Option<&'a OsStr>) -> Self {
        let mut typed = Self::default();
        for known in &TABLE {
            let Some(value) = variable(known.variable).filter(|value| !value.is_empty()) else {
                continue;
            };
            if known.argument.is_some() {
                typed.add(known.id, Some(value.to_owned()));
            } else if !is_no(value) {
                typed.add(known.id, None);
            }
        }
        typed
    }

    /// These and the earlier, weaker ones: what adds up does, of the rest these win.
    #[must_use]
    pub fn over(mut self, weaker: &Typed) -> Self {
        for known in &TABLE {
            let theirs = weaker.all(known.id);
            if theirs.is_empty() {
                continue;
            }
            let ours = self.0.entry(known.id).or_default();
            if known.repeatable {
                ours.splice(0..0, theirs.iter().cloned());
            } else if ours.is_empty() {
                ours.extend(theirs.iter().cloned());
            }
        }
        self
    }
}

/// The words that mean no, as in the command's own variables.
fn is_no(value: &OsStr) -> bool {
    ["0", "no", "n", "false", "f", "off"]
        .iter()
        .any(|no| value.eq_ignore_ascii_case(no))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_one_line_that_is_its_own() {
        for (index, known) in TABLE.iter().enumerate() {
            assert_eq!(super::known(known.id).name, known.name);
            assert_eq!(numbered(index as i32).unwrap().id, known.id);
            assert!(known.variable.starts_with("SLURM_SINGULARITY_"));
            assert!(known.name.to_bytes().len() < 75, "SPANK_OPTION_MAXLEN");
        }
        assert!(numbered(-1).is_none() && numbered(99).is_none());
    }

    #[test]
    fn lists_add_up_and_the_rest_is_overridden() {
        let mut weaker = Typed::default();
        weaker.add(Id::Image, Some("/job".into()));
        weaker.add(Id::Bind, Some("/a".into()));
        weaker.add(Id::Contain, None);
        let mut step = Typed::default();
        step.add(Id::Image, Some("/step".into()));
        step.add(Id::Bind, Some("/b".into()));
        let merged = step.over(&weaker);
        assert_eq!(merged.last(Id::Image), Some(OsStr::new("/step")));
        assert_eq!(merged.all(Id::Bind), ["/a", "/b"]);
        assert!(merged.has(Id::Contain));
    }

    #[test]
    fn variables_that_say_no_are_no() {
        for (value, counts) in [
            ("1", true),
            ("yes", true),
            ("0", false),
            ("No", false),
            ("", false),
        ] {
            let typed = Typed::from_variables(|name| {
                (name == "SLURM_SINGULARITY_CONTAIN").then_some(OsStr::new(value))
            });
            assert_eq!(typed.has(Id::Contain), counts, "{value:?}");
        }
    }
}
