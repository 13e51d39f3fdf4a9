//! What the site says: the words behind the plugin's name in plugstack.conf.
//!
//! Owns: the one table of them. Never: stops anything by itself; a mistake is
//! told to those who ask for an image, and to nobody else.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::{FileSystem, Shown};
use launcher::request::Bind;
use launcher::site::{ImageLimits, Owner};
use launcher::{bind, Error};

/// One argument that can be given.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The form of its value.
    pub form: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
    take: fn(&mut Config, &OsStr) -> Result<(), &'static str>,
}

/// All of them.
pub static TABLE: [Known; 13] = [
    Known {
        name: "image",
        form: "PATH",
        default: "none",
        meaning: "Image of every step that names none.",
        take: |config, value| {
            config.image = Some(absolute(value)?);
            Ok(())
        },
    },
    Known {
        name: "partition-image",
        form: "PARTITION:PATH",
        default: "none",
        meaning: "The same for steps in one partition; repeatable. It goes before image=.",
        take: |config, value| {
            let (partition, path) = halves(value).ok_or("write PARTITION:PATH")?;
            config
                .partition_images
                .push((partition.to_owned(), absolute(path)?));
            Ok(())
        },
    },
    Known {
        name: "allow-directory",
        form: "DIRECTORY",
        default: "all",
        meaning: "Images must lie in this directory or below, links resolved; repeatable.",
        take: |config, value| {
            config.images.directories.push(absolute(value)?);
            Ok(())
        },
    },
    Known {
        name: "allow-owner",
        form: "USER|UID",
        default: "all",
        meaning: "Images must be owned by this user; repeatable. `self` is the user of the job.",
        take: |config, value| {
            let owner = owner(value).ok_or("no such user")?;
            config.images.owners.push(owner);
            Ok(())
        },
    },
    Known {
        name: "bind",
        form: "SRC[:DEST[:ro|rw]]",
        default: "none",
        meaning: "Shown in every image, opened with the user's rights; repeatable. One that a node lacks is an error.",
        take: |config, value| {
            let binds = bind::parse_list(value, Path::new("/"));
            config
                .binds
                .extend(binds.map_err(|_| "write SRC[:DEST[:ro|rw]]")?);
            Ok(())
        },
    },
    Known {
        name: "enter",
        form: "direct|prefix",
        default: "direct",
        meaning: "direct: root mounts the image, tasks enter it in-process. prefix: each task's command is prefixed with `singularity exec`, as the user; nothing is mounted by root.",
        take: |config, value| {
            config.prefix = either(value, "prefix", "direct").ok_or("direct or prefix")?;
            Ok(())
        },
    },
    Known {
        name: "kernel-mounts",
        form: "FILESYSTEM,…",
        default: "as in singularity.conf",
        meaning: "File systems of image files that root mounts for users: squashfs, erofs, ext. Images with another are entered as with enter=prefix. Whoever can write to an image that the kernel has mounted could attack the kernel by it; drivers of ext were not made to withstand that.",
        take: |config, value| {
            let mounts = config.kernel_mounts.insert(Vec::new());
            for name in value.as_bytes().split(|&b| b == b',') {
                mounts.push(match name {
                    b"squashfs" => FileSystem::Squashfs,
                    b"erofs" => FileSystem::Erofs,
                    b"ext" => FileSystem::Ext,
                    b"" | b"none" => continue,
                    _ => return Err("a list of squashfs, erofs, ext"),
                });
            }
            Ok(())
        },
    },
    Known {
        name: "command",
        form: "PATH",
        default: "the singularity beside this plugin's PREFIX, else /usr/local/bin or /usr/bin",
        meaning: "The singularity command on the nodes, for enter=prefix.",
        take: |config, value| {
            config.command = Some(absolute(value)?);
            Ok(())
        },
    },
    Known {
        name: "batch-script",
        form: "host|image",
        default: "host",
        meaning: "Where the batch script of sbatch, and the shell of an interactive step, runs in a job with an image.",
        take: |config, value| {
            config.batch_in_image = either(value, "image", "host").ok_or("host or image")?;
            Ok(())
        },
    },
    Known {
        name: "check-image",
        form: "submit|node",
        default: "submit",
        meaning: "node: srun, sbatch and salloc do not look whether the image is there; for images that only compute nodes see.",
        take: |config, value| {
            config.check_on_submit = either(value, "submit", "node").ok_or("submit or node")?;
            Ok(())
        },
    },
    Known {
        name: "mpi",
        form: "auto|pass|bridge|openmpi|mpich|off",
        default: "what singularity.conf says",
        meaning: "How srun's process-management interface and the MPI of the image meet, where a step's SINGULARITY_MPI does not say; see singularity(1), --mpi.",
        take: |config, value| {
            let choice = pmi_shim::Choice::named(value).ok_or(pmi_shim::Choice::NAMES)?;
            config.mpi = Some(choice);
            Ok(())
        },
    },
    Known {
        name: "mpi-hygiene",
        form: "on|off",
        default: "on",
        meaning: "Whether variables are dropped and set to make the two fit: see SINGULARITY_MPI_HYGIENE.",
        take: |config, value| {
            config.mpi_hygiene = either(value, "on", "off").ok_or("on or off")?;
            Ok(())
        },
    },
    Known {
        name: "test-panic",
        form: "HOOK",
        default: "none",
        meaning: "For the plugin's own tests: fail in the worst way in that hook.",
        take: |config, value| {
            config.test_panic = value.to_str().map(str::to_owned);
            Ok(())
        },
    },
];

/// What the site has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Image for all.
    pub image: Option<PathBuf>,
    /// Images of partitions.
    pub partition_images: Vec<(OsString, PathBuf)>,
    /// Which images may be entered.
    pub images: ImageLimits,
    /// Binds for all.
    pub binds: Vec<Bind>,
    /// Whether every step is entered by the command.
    pub prefix: bool,
    /// What root mounts, where that is not as in singularity.conf.
    pub kernel_mounts: Option<Vec<FileSystem>>,
    /// The command.
    pub command: Option<PathBuf>,
    /// Whether batch scripts run in the image.
    pub batch_in_image: bool,
    /// Whether the image is looked at where the job is submitted.
    pub check_on_submit: bool,
    /// How launcher and MPI meet; `None`: as singularity.conf says.
    pub mpi: Option<pmi_shim::Choice>,
    /// Whether the environment is made right for the two.
    pub mpi_hygiene: bool,
    /// The hook that panics.
    pub test_panic: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image: None,
            partition_images: Vec::new(),
            images: ImageLimits::default(),
            binds: Vec::new(),
            prefix: false,
            kernel_mounts: None,
            command: None,
            batch_in_image: false,
            check_on_submit: true,
            mpi: None,
            mpi_hygiene: true,
            test_panic: None,
        }
    }
}

/// A word of plugstack.conf that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The word.
    pub word: OsString,
    /// What is wrong with it.
    pub cause: String,
    /// What to write.
    pub hint: String,
}

impl Mistake {
    /// The same as an error, with the file it is in.
    pub fn error(&self, file: &str) -> Error {
        let step = format!(
            "{file}: argument {} of singularity.so",
            Shown::new(&self.word)
        );
        Error::new(step, &*self.cause).hint(&*self.hint)
    }
}

impl Config {
    /// Reads the words. The first mistake is returned beside what could be read.
    pub fn read(words: &[OsString]) -> (Self, Option<Mistake>) {
        let mut config = Self::default();
        let mut mistake = None;
        for word in words {
            if let Err(found) = config.take(word) {
                mistake.get_or_insert(found);
            }
        }
        (config, mistake)
    }

    fn take(&mut self, word: &OsStr) -> Result<(), Mistake> {
        let bytes = word.as_bytes();
        let equals = bytes.iter().position(|&b| b == b'=').unwrap_or(bytes.len());
        let (name, value) = (&bytes[..equals], bytes.get(equals + 1..));
        let wrong = |cause: &str, hint: String| Mistake {
            word: word.to_owned(),
            cause: cause.to_owned(),
            hint,
        };
        let Some(known) = TABLE.iter().find(|known| known.name.as_bytes() == name) else {
            let names: Vec<_> = TABLE
                .iter()
                .map(|known| known.name)
                .filter(|name| *name != "test-panic")
                .collect();
            return Err(wrong("unknown key", format!("one of {}", names.join(", "))));
        };
        let usage = format!("write {}={}", known.name, known.form);
        let value = value.ok_or_else(|| wrong("it has no value", usage.clone()))?;
        (known.take)(self, OsStr::from_bytes(value)).map_err(|cause| wrong(cause, usage))
    }

    /// The image of a step in this partition that names none.
    pub fn default_image(&self, partition: Option<&OsStr>) -> Option<&Path> {
        self.partition_images
            .iter()
            .find(|(name, _)| Some(name.as_os_str()) == partition)
            .map(|(_, path)| path)
            .or(self.image.as_ref())
            .map(PathBuf::as_path)
    }

    /// Whether there is a default image of any kind.
    pub fn has_default_image(&self) -> bool {
        self.image.is_some() || !self.partition_images.is_empty()
    }
}

fn absolute(value: &OsStr) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(value);
    path.is_absolute()
        .then_some(path)
        .ok_or("not an absolute path")
}

fn halves(value: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = value.as_bytes();
    let colon = bytes.iter().position(|&b| b == b':')?;
    let (first, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    (!first.is_empty()).then_some((OsStr::from_bytes(first), OsStr::from_bytes(rest)))
}

fn either(value: &OsStr, yes: &str, no: &str) -> Option<bool> {
    match value {
        value if value == yes => Some(true),
        value if value == no => Some(false),
        _ => None,
    }
}

fn owner(value: &OsStr) -> Option<Owner> {
    if value == "self" {
        return Some(Owner::Own);
    }
    let text = value.to_str()?;
    let named = || launcher::host::local_user(text.as_bytes());
    text.parse().ok().or_else(named).map(Owner::Id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> (Config, Option<Mistake>) {
        Config::read(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_argument_is_read() {
        let (config, mistake) = read(&[
            "image=/i",
            "partition-image=gpu:/g",
            "allow-directory=/images",
            "allow-owner=0",
            "allow-owner=root",
            "allow-owner=self",
            "bind=/scratch,/opt:/o:ro",
            "enter=prefix",
            "kernel-mounts=erofs",
            "command=/c",
            "batch-script=image",
            "check-image=node",
            "mpi=pass",
            "mpi-hygiene=off",
        ]);
        assert_eq!(mistake, None);
        assert_eq!(
            config.default_image(Some(OsStr::new("gpu"))),
            Some(Path::new("/g"))
        );
        assert_eq!(config.default_image(None), Some(Path::new("/i")));
        let owners = [Owner::Id(0), Owner::Id(0), Owner::Own];
        assert_eq!(config.images.owners, owners);
        assert_eq!(config.binds.len(), 2);
        assert_eq!(config.kernel_mounts, Some(vec![FileSystem::Erofs]));
        assert_eq!(
            (config.mpi, config.mpi_hygiene),
            (Some(pmi_shim::Choice::Pass), false)
        );
        assert!(config.prefix && config.batch_in_image && !config.check_on_submit);
    }

    #[test]
    fn a_mistake_is_named_and_the_rest_is_read() {
        for (word, cause) in [
            ("colour=red", "unknown key"),
            ("image", "it has no value"),
            ("image=relative", "not an absolute path"),
            ("enter=sideways", "direct or prefix"),
            ("allow-owner=nobody-of-that-name", "no such user"),
        ] {
            let (config, mistake) = read(&[word, "batch-script=image"]);
            assert!(config.batch_in_image);
            let error = mistake.unwrap().error("/etc/slurm/plugstack.conf");
            assert_eq!(
                error.to_string(),
                format!("/etc/slurm/plugstack.conf: argument {word} of singularity.so: {cause}")
            );
        }
    }
}
