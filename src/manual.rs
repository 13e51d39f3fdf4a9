//! The manual pages: options from the definition in [`crate::cli`], and around
//! them what only a manual says.
//!
//! Owns: the pages' own text, in the language of man(7). Never: repeats what an
//! option's help says.

mod configuration;
mod images;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;

/// Writes a page for the command and one for each verb.
///
/// # Errors
/// A directory that cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    for page in verbs.chain([&command]) {
        write_page(directory, page)?;
    }
    configuration::write(directory)
}

fn write_page(directory: &Path, command: &Command) -> io::Result<()> {
    let man = Man::new(command.clone()).source(concat!("singularity ", env!("CARGO_PKG_VERSION")));
    let text = Text::of(command.get_name());
    let mut file = io::BufWriter::new(File::create(directory.join(man.get_filename()))?);
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    section(&mut file, "SYNOPSIS", text.synopsis)?;
    section(&mut file, "DESCRIPTION", text.description)?;
    man.render_options_section(&mut file)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut file)?;
    }
    if crate::cli::ImageVerb::NAMES.contains(&command.get_name()) {
        section(&mut file, "EXIT STATUS", images::EXIT_STATUS)?;
        section(&mut file, "ENVIRONMENT", images::ENVIRONMENT)?;
        variables(&mut file, command)?;
        section(&mut file, "FILES", images::FILES)?;
    } else {
        section(&mut file, "EXIT STATUS", EXIT_STATUS)?;
        section(&mut file, "ENVIRONMENT", ENVIRONMENT)?;
        variables(&mut file, command)?;
        section(&mut file, "FILES", FILES)?;
    }
    section(&mut file, "EXAMPLES", text.examples)?;
    section(&mut file, "SEE ALSO", SEE_ALSO)?;
    file.flush()
}

/// The variables that stand for options, in a list without empty lines.
fn variables(file: &mut impl Write, command: &Command) -> io::Result<()> {
    writeln!(file, ".PD 0")?;
    for argument in command.get_arguments() {
        if let (Some(variable), Some(option)) = (argument.get_env(), argument.get_long()) {
            let variable = variable.to_string_lossy();
            let option = option.replace('-', r"\-");
            writeln!(file, ".TP 30\n.B {variable}\n.B \\-\\-{option}")?;
        }
    }
    writeln!(file, ".PD")
}

fn section(file: &mut impl Write, heading: &str, text: &str) -> io::Result<()> {
    writeln!(file, ".SH \"{heading}\"\n{}", text.trim())
}

/// What differs from page to page.
struct Text {
    synopsis: &'static str,
    description: &'static str,
    examples: &'static str,
}

impl Text {
    fn of(name: &str) -> Self {
        match name {
            "exec" => EXEC,
            "run" => RUN,
            "shell" => SHELL,
            "test" => TEST,
            "mpi" => MPI,
            "build" => images::BUILD,
            "bootstrap" => images::BOOTSTRAP,
            "bench" => BENCH,
            "create" => CREATE,
            "import" => IMPORT,
            "export" => EXPORT,
            "expand" => EXPAND,
            "copy" => COPY,
            "convert" => CONVERT,
            "inspect" => INSPECT,
            "pull" => PULL,
            "cache" => CACHE,
            _ => COMMAND,
        }
    }
}

const CREATE: Text = Text {
    synopsis: r##"
.B singularity create
.RI [ OPTION "]... " IMAGE
"##,
    description: r##"
Makes an empty ext4 or ext3 file system in a sparse file, to be filled by
.BR "singularity bootstrap" ", " import " or " copy .
Its top directory belongs to whoever makes it.
"##,
    examples: r##"
.EX
singularity create \-s 2048 work.img
singularity import work.img root.tar.gz
.EE
"##,
};

const IMPORT: Text = Text {
    synopsis: r##"
.B singularity import
.RI [ OPTION "]... " IMAGE " [" SOURCE ]
"##,
    description: r##"
Puts the files of a tar archive of any usual compression, of another image, of a
directory or of a registry's image into an ext image or a directory, over what is there.
Links in the image are followed inside it only.
"##,
    examples: r##"
.EX
singularity import work.img < root.tar.zst
singularity import work.img other.sqfs
.EE
"##,
};

const EXPORT: Text = Text {
    synopsis: r##"
.B singularity export
.RI [ OPTION "]... " IMAGE
"##,
    description: r##"
Writes the files of an image of any format as a tar archive (pax), with numeric owners,
extended attributes and holes, to standard output, which may not be a terminal, or to a
file, which may not be there yet.
It needs neither root nor FUSE.
"##,
    examples: r##"
.EX
singularity export tools.sif | zstd > tools.tar.zst
.EE
"##,
};

const EXPAND: Text = Text {
    synopsis: r##"
.B singularity expand
.RI [ OPTION "]... " IMAGE
"##,
    description: r##"
Makes an ext image larger, in its place, after
.BR e2fsck (8)
has checked it.
It may not be in use.
"##,
    examples: r##"
.EX
singularity expand \-s 512 work.img
.EE
"##,
};

const COPY: Text = Text {
    synopsis: r##"
.B singularity copy
.IR "IMAGE FILE" ... " DEST"
"##,
    description: r##"
Copies files and directories of the host into an ext image or a directory.
.I DEST
is a place in the image; if there is a directory, or it ends with a slash, or there are
several files, they get into that directory.
"##,
    examples: r##"
.EX
singularity copy work.img data.csv scripts/ /opt/
.EE
"##,
};

const CONVERT: Text = Text {
    synopsis: r##"
.B singularity convert
.RI [ OPTION "]... " "FROM TO"
"##,
    description: r##"
Writes an image in another format: squashfs, EROFS, ext4, ext3, SIF or a directory.
Owners, modes, times, attributes, hard links and holes are kept; what the new format
cannot hold is told.
From SIF to SIF every object is kept as it is, signatures too.
"##,
    examples: r##"
.EX
singularity convert work.img tools.sqfs
singularity convert \-\-format dir tools.sif tools
.EE
"##,
};

const INSPECT: Text = Text {
    synopsis: r##"
.B singularity inspect
.RI [ OPTION "]... " IMAGE
"##,
    description: r##"
Says what an image is and what it holds, without running anything of it; it needs neither
root nor FUSE.
With one option the text alone is written, with several each has a heading.
The fields of
.B \-\-json
are listed in docs/IMAGES.md.
"##,
    examples: r##"
.EX
singularity inspect tools.sqfs
singularity inspect \-\-json tools.sif
.EE
"##,
};

const MPI: Text = Text {
    synopsis: r##"
.B singularity mpi check
.RB [ \-\-json ]
.RI [ IMAGE " [" PROGRAM " [" ARGUMENT ]...]]
"##,
    description: r##"
Says how the launcher of MPI on the host and the MPI in an image will meet, without
starting a rank: directly, over the bridge, or not at all, and what that costs.
.PP
Called by a launcher
.RB ( "mpirun \-np 1 singularity mpi check" ...)
it describes that one: its interface and version, the rank's numbers, the directories of
its PMIx server.
Called by hand it looks for the launchers in
.B PATH
and says it for each.
.PP
Of the host it tells whether ranks may copy from each other's memory (CMA), whether user
namespaces are allowed, the size of
.IR /dev/shm ,
libraries and devices of fast networks, and whether the bridge is installed.
Of the image it tells which MPI, PMI and fabric libraries are in the usual places, and
which of them PROGRAM is linked with; nothing of the image is executed.
Without IMAGE only the host is described.
.PP
The exit status is 0 if they meet: with the launcher that called it, or else with one of
the host's.
It is 1 if they do not, if there is no launcher, or if the MPI that the program is linked
with is not in the image.
It is 255, with one line on standard error, where it could not be found out: the image
cannot be entered, or PROGRAM cannot be executed in it.
.PP
With
.B \-\-json
it prints one object on one line.
Members are added in later versions, and none is taken away.
.TP
.I host
.IR launcher " (its name, or null outside of a job), " bridge " (its path, or null),"
.IR cma " (" allowed ", " ptrace_scope "), " user_namespaces " (true or false),"
.IR dev_shm " (" bytes " and " free ", or null), " fabrics " (a list),"
.IR mpi " (what"
.B \-\-mpi
would be) and
.I mpi_hygiene
(whether variables are changed); in a job also
.IR interface ", " rank " and " directories .
.TP
.I image
null without IMAGE; else
.IR path ", " libraries " (each with " name ", " version " or null, and " path )
and
.I program
(in words).
.TP
.I launchers
one for each, or the job's, with
.IR launcher ", " version ", " meeting
(directly, over the bridge, not at all or not known; null without IMAGE),
.IR why " and " cost .
.TP
.I advice
a list of what to change.
.TP
.I meets
true where the exit status is 0.
.PP
In a job of fewer than four ranks it is said how one of four would meet.
"##,
    examples: r##"
.EX
singularity mpi check app.sqfs ./app
mpirun \-np 1 singularity mpi check \-\-json app.sqfs ./app
.EE
"##,
};

const PULL: Text = Text {
    synopsis: r##"
.B singularity pull
.RI [ OPTION "]... [" IMAGE "] " URI
"##,
    description: r##"
Fetches a container image and packs it into an image file in the current directory,
named NAME_TAG with the ending of its format, or into
.IR IMAGE .
.PP
.I URI
is
.BI docker:// HOST\fR[\fB:\fIPORT\fR]\fB/\fINAME\fR[\fB:\fITAG\fR][\fB@\fIDIGEST\fR]
for a registry,
.BI oci: DIRECTORY\fR[\fB:\fITAG\fR]
or
.BI oci\-archive: FILE\fR[\fB:\fITAG\fR]
for the OCI image layout, or
.BI docker\-archive: FILE\fR[\fB:\fINAME\fB:\fITAG\fR]
for what docker save writes.
Without a host,
.B SINGULARITY_DOCKER_REGISTRY
names the registry.
.PP
Entrypoint and Cmd become the runscript, Env the environment.
Layers are checked against their digests, kept in the cache, and fetched only once; what
was interrupted goes on where it was.
.PP
A password for
.B \-\-docker\-username
is read from
.BR SINGULARITY_DOCKER_PASSWORD ,
else asked for.
Else credentials are looked for in
.BR REGISTRY_AUTH_FILE ,
or in
.I config.json
in
.B DOCKER_CONFIG
or
.IR ~/.docker .
.B SSL_CERT_FILE
names certificates to trust instead of the system's.
.B SINGULARITY_REGISTRY_TIMEOUT
sets how many seconds of silence are endured (30).
"##,
    examples: r##"
.nf
singularity pull docker://localhost:5000/lab/solver:2.1
singularity run solver_2.1.sqfs
singularity pull \-\-format sif solver.sif oci\-archive:solver.tar
.fi
"##,
};

const CACHE: Text = Text {
    synopsis: r##"
.B singularity cache list
.br
.B singularity cache clean
.RB [ \-\-days
.IR DAYS ]
.RB [ \-n ]
"##,
    description: r##"
Lists or removes what was fetched from registries and is kept in
.BR SINGULARITY_CACHEDIR ,
else in
.IR $XDG_CACHE_HOME/singularity ,
else in
.IR ~/.cache/singularity .
.PP
Images share layers, so what they take together is less than the sum of their sizes.
What a running build uses is not removed.
"##,
    examples: r##"
.nf
singularity cache list
singularity cache clean \-\-days 30
.fi
"##,
};

const COMMAND: Text = Text {
    synopsis: r##"
.B singularity
.RI [ OPTION "]... " VERB " [" OPTION "]... " IMAGE " [" WORD ]...
"##,
    description: r##"
Enters a container image and becomes a program in it, as the user who called it and
in the process that was started: process id, exit status, signals, terminal, standard
streams and open descriptors are the program's own.
No privilege is needed.
.PP
An image is a directory with a root file system in it, or a file that holds a
squashfs, EROFS, ext3 or ext4 file system, or a SIF file with one of these.
It is recognised by its content.
Image files are read by FUSE servers of the user's, or, for root, by the kernel.
.PP
The home directory, the current directory,
.IR /tmp ,
.IR /var/tmp ,
.IR /dev ,
.IR /proc ,
.I /sys
and a few files of
.I /etc
are the host's; everything else is the image's.
.PP
Ranks of a parallel job, started by
.BR mpirun ", " mpiexec " or " srun ,
share one view of the image on each node, and find their launcher without further
options.
"##,
    examples: r##"
.EX
singularity exec tools.sqfs cat /etc/os\-release
mpirun \-np 4 singularity exec tools.sqfs ./ring
singularity shell \-B /data:/mnt:ro tools.sqfs
.EE
"##,
};

const EXEC: Text = Text {
    synopsis: r##"
.B singularity exec
.RI [ OPTION ]... " IMAGE COMMAND " [ ARGUMENT ]...
"##,
    description: r##"
Becomes
.I COMMAND
in
.IR IMAGE .
A command without a slash is looked up in the
.B PATH
that holds inside; one with a slash is a path in the image.
Options stand before the image; what follows it belongs to the command.
"##,
    examples: r##"
A command, and a shell's line with its own redirection:
.PP
.in +4n
.EX
singularity exec tools.sqfs gcc \-\-version
singularity exec tools.sqfs sh \-c 'sort < /data/in > out'
.EE
.in
.PP
Four ranks of a parallel program:
.PP
.in +4n
.EX
mpirun \-np 4 singularity exec tools.sqfs ./ring
.EE
.in
.PP
A directory of the host, read\-only; a path with a colon; a variable:
.PP
.in +4n
.EX
singularity exec \-B /data/v7:/data:ro tools.sqfs ls /data
singularity exec \-B 'run 1\e:2:/run1' tools.sqfs ls /run1
singularity exec \-\-env MODE=fast tools.sqfs env
.EE
.in
.PP
On many nodes: the image's file copied to a disk of each node first, once for all ranks,
and gone with the last of them:
.PP
.in +4n
.EX
srun singularity exec \-\-stage=/scratch/local tools.sqfs ./app
.EE
.in
.PP
What would be done, without doing it; and where the time goes:
.PP
.in +4n
.EX
singularity exec \-\-dry\-run tools.sqfs true
singularity exec \-\-timing tools.sqfs true
.EE
.in
"##,
};

const RUN: Text = Text {
    synopsis: r##"
.B singularity run
.RI [ OPTION ]... " IMAGE " [ ARGUMENT ]...
.PP
.IR IMAGE " [" ARGUMENT ]...
"##,
    description: r##"
Becomes the runscript of
.IR IMAGE ,
with the arguments.
The runscript is
.I /.singularity.d/runscript
in the image, else
.IR /singularity .
.PP
An executable image whose first line is
.B "#!/usr/bin/env run\-singularity"
does the same when it is called by its name; all arguments are the runscript's then.
"##,
    examples: r##"
.EX
singularity run tools.sqfs input.dat
\&./tools.img input.dat
.EE
"##,
};

const SHELL: Text = Text {
    synopsis: r##"
.B singularity shell
.RI [ OPTION ]... " IMAGE " [ ARGUMENT ]...
"##,
    description: r##"
Becomes a shell in
.IR IMAGE :
the one of
.BR \-\-shell ,
else
.IR /bin/bash ,
else
.IR /bin/sh .
A bash is started without the user's start\-up files, which are written for the host.
"##,
    examples: r##"
.EX
singularity shell tools.sqfs
singularity shell \-s /bin/dash \-\-contain tools.sqfs
.EE
"##,
};

const BENCH: Text = Text {
    synopsis: r##"
.B singularity bench
.RI [ OPTION "]... " IMAGE ...
.br
.B singularity bench \-\-from
.I FILE
.RB [ \-\-out
.IR DIR ]
.br
.B singularity bench \-\-compare
.I A B
.br
.B singularity bench \-\-model
"##,
    description: r##"
Runs MPI programs on the host and in each
.IR IMAGE ,
by turns and under the site's own launcher, and says where they differ: latency and
bandwidth between two ranks, collective operations, the time to the end of
.BR MPI_Init ,
the start of a program that does nothing and of ranks that only sleep, a ring of four ranks, and the memory of ranks and
of helper processes.
Within an allocation of Slurm's the launcher is
.BR srun ,
else
.BR mpirun .
.PP
The programs are compiled with
.B mpicc
on the host and in each image, and kept below
.IR ~/.cache/singularity/bench .
An image without a compiler needs
.BR \-\-image\-program .
.PP
Each figure is a median over the rounds with the range that holds the true one in 95 of
100 cases.
Messages are measured by jobs of all ways that run side by side and sleep but for the
one whose turn it is, so that what slows the machine for a second slows all alike.
Ctrl\-C ends the run, and reports the rounds before it; a second one ends it at once.
.B \-\-rounds
beside
.B \-\-minutes
are the rounds that everything gets at least.
A ratio to the host's is called better or worse only where its range excludes 1, also
when all sizes are looked at together, and after as many rounds as that takes: six for
one figure, ten for one of 25 sizes.
In the table
.B \-
stands for worse,
.B +
for better,
.B =
for no difference, and
.B ?
for too few rounds.
.PP
How an image is entered depends on who runs it: an ordinary user has a user namespace,
and FUSE for image files; for root the kernel mounts.
.B \-\-as
compares both in one run.
Where the set-id starter is installed a user enters by it too, and under an
.B srun
that has the plugin the plugin does;
.B \-\-enter
says which of these to compare.
.B \-\-enter bridge
puts the bridge between a launcher and an MPI that could do without it.
Other launchers are added by
.BR \-\-peers " or " \-\-way .
.PP
.B \-\-measure fence
times what launchers do for MPI libraries, without any MPI;
.B phases
what a rank takes to find out its program's MPI and to get a seat at the bridge, as
.B singularity exec \-\-timing
tells it;
.B calls
counts, by
.BR fanotify (7)
and only for root, the programs that one start executes;
.B cold
times first starts after the caches were dropped.
.B \-\-targets
prints what was promised and what was found as a table in Markdown, of several
.B \-\-from
too.
.PP
.B \-\-measure files
counts, by
.BR strace (1),
what a start asks of the file system that the image is on, and
.B \-\-model
computes from such counts what that means on many nodes.
"##,
    examples: r##"
.EX
singularity bench \-\-quick app.sqfs
singularity bench \-\-minutes 30 \-\-most 16M \-\-out report app/ app.sqfs
singularity bench \-\-peers bwrap,ch\-run app/
singularity bench \-\-compare before.json after.json
salloc \-N2 singularity bench \-\-json two\-nodes.json app.sqfs
singularity bench \-\-enter userns,bridge \-\-measure init,phases,memory app/
.EE
"##,
};

const TEST: Text = Text {
    synopsis: r##"
.B singularity test
.RI [ OPTION ]... " IMAGE " [ ARGUMENT ]...
"##,
    description: r##"
Becomes the test that
.I IMAGE
brings along:
.I /.singularity.d/test
in the image, else
.IR /.test .
An image without one gets a warning, and the status is 0.
"##,
    examples: r##"
.EX
singularity test tools.sqfs && echo fit for use
.EE
"##,
};

const EXIT_STATUS: &str = r##"
The program's own, also its death by a signal, as the command becomes the program.
Otherwise:
.TP
.B 126
The command is in the image but cannot be executed.
.TP
.B 127
The command is not in the image, or the image has no runscript.
.TP
.B 255
The image could not be entered.
.TP
.B 2
Wrong usage.
.PP
Each failure is one line on standard error, mostly followed by a hint.
"##;

const ENVIRONMENT: &str = r##"
.TP
.BI SINGULARITYENV_ NAME
.I NAME
is set to the value inside, whatever else would set or drop it.
.BR SINGULARITYENV_PREPEND_PATH " and " SINGULARITYENV_APPEND_PATH
add to the
.B PATH
inside, whatever the image's own scripts make of it.
.TP
.BR SINGULARITY_CONTAINER ", " SINGULARITY_NAME
Set inside: the path of the image on the host, and its last part.
.TP
.BR LD_LIBRARY_PATH ", " LD_PRELOAD ", " LD_AUDIT
Do not get into the image, unless set by
.B SINGULARITYENV_
or
.BR \-\-env .
.B PATH
and
.B HOME
are set to what they are inside.
.PP
The following stand for options that are not typed; those of
.B SINGULARITY_BINDPATH
and of
.BR SINGULARITY_BIND ,
which means the same, add to what is typed.
A switch is off for
.BR 0 ", " no ", " false ", " off
and the empty value, on for any other.
.PP
"##;

const FILES: &str = r##"
In the image, all optional:
.TP
.IR /.singularity.d/env/*.sh ", else " /environment
Read by the image's
.I /bin/sh
before the program starts.
.TP
.IR /.singularity.d/runscript ", else " /singularity
What
.B singularity run
becomes.
.TP
.IR /.singularity.d/test ", else " /.test
What
.B singularity test
becomes.
.PP
On the host:
.TP
.I /dev/fuse
Image files are read through it; users need to be able to open it.
.PP
Nothing is kept anywhere.
"##;

const SEE_ALSO: &str = r##"
.BR singularity (1),
.BR singularity\-exec (1),
.BR singularity\-run (1),
.BR singularity\-shell (1),
.BR singularity\-test (1),
.BR singularity\-build (1),
.BR mpirun (1),
.BR squashfuse_ll (1),
.BR user_namespaces (7)
.PP
The documents that were installed beside this page, in
.IR share/doc/singularity ,
say more: USER, MPI, BUILD, IMAGES, BINDS, ENVIRONMENT.
"##;
