//! What the pages of the verbs on images have in common, and those of `build` and
//! `bootstrap`.

use super::Text;

/// Exit status of the verbs that the builder carries out.
pub(super) const EXIT_STATUS: &str = r##"
.TP
.B 0
Done.
.TP
.B 255
It failed, and the place of the image holds what it held before.
.TP
.B 2
Wrong usage.
.PP
A failure is one line on standard error, mostly followed by a hint.
What is wrong with a definition file is told with file, line and column, and the line is
shown.
"##;

/// Variables of the verbs that the builder carries out.
pub(super) const ENVIRONMENT: &str = r##"
.TP
.B SOURCE_DATE_EPOCH
A time in seconds since 1970.
Later times in an image become this one, and what differs from build to build is left
out, so that the same files give the same bytes.
.TP
.B SINGULARITY_DOCKER_PASSWORD
The password that goes with
.BR \-\-docker\-username .
.TP
.BR http_proxy ", " https_proxy ", " no_proxy
Handed on to package managers and to scripts in the root.
.PP
The following stand for options that are not typed.
A switch is off for
.BR 0 ", " no ", " false ", " off
and the empty value, on for any other.
.PP
"##;

/// Files of the verbs that the builder carries out.
pub(super) const FILES: &str = r##"
.TP
.IR /tmp ", or " SINGULARITY_TMPDIR ", or " TMPDIR
Where roots are put together.
They go with the end of the work, however it ends.
.TP
.I ~/.local/state/singularity
What the tools of failed builds have printed; the last ten.
.TP
.I ~/.cache/singularity
What was fetched from registries;
.B singularity cache
lists and removes it.
.TP
.IR /etc/subuid ", " /etc/subgid
Subordinate ids, with which an ordinary user's images have exact owners.
"##;

pub(super) const BUILD: Text = Text {
    synopsis: r##"
.B singularity build
.RI [ OPTION "]... " "IMAGE SOURCE"
"##,
    description: r##"
Makes
.I IMAGE
from
.IR SOURCE ,
as root or as an ordinary user.
.PP
.I SOURCE
is
.IP \(bu 2
a definition file, in the syntax of keys and sections or in that of directives;
.IP \(bu 2
a directory, or another image of any format;
.IP \(bu 2
a tar archive, compressed by gzip, bzip2, xz, zstd or lzma, or not;
.B \-
is one on standard input;
.IP \(bu 2
.BR oci: \fIDIR\fR[:\fITAG\fR],
.BR oci\-archive: \fIFILE\fR,
.BR docker\-archive: \fIFILE\fR;
.IP \(bu 2
.BR docker:// \fIHOST\fR[:\fIPORT\fR]/\fINAME\fR:\fITAG\fR,
from any registry that speaks the distribution API.
.PP
The format of
.I IMAGE
is that of
.BR \-\-format ,
else that of the name's ending, else squashfs.
The image appears at its place whole or not at all; one that is there already stays,
unless
.B \-\-force
is given, and then until the new one is complete.
.PP
Of a definition, these are done in this order, for each stage:
.BR %pre ,
the base system,
.BR %setup ", " %files ", " %post ,
each app's
.BR %appfiles " and " %appinstall ,
and, in the last stage,
.B %test
and
.BR %apptest .
.B %pre
and
.B %setup
run on the host with the rights of the builder: root's if root builds, else those of
the user; the others run in the root.
A shell script stops at the first command that fails.
.PP
An ordinary user's builder is root in a user namespace of its own, with the subordinate
ids of
.BR subuid (5)
where there are some; where not, changes of owners are answered with success and files
are root's.
.PP
With the variable
.B SOURCE_DATE_EPOCH
the same definition and the same packages give the same bytes.
"##,
    examples: r##"
A definition file, and what is made of it:
.PP
.in +4n
.EX
Bootstrap: mmdebstrap
OSVersion: bookworm
Include: python3

%runscript
    exec python3 "$@"
.EE
.in
.PP
.in +4n
.EX
singularity build python.sqfs python.def
singularity run python.sqfs \-c 'print(1)'
.EE
.in
.PP
Other sources:
.PP
.in +4n
.EX
singularity build tools.sif docker://registry.example:5000/tools:1
ssh host tar \-c \-C /srv/root . | singularity build root.sqfs \-
singularity build \-\-sandbox tools tools.sqfs
.EE
.in
.PP
A build argument, for a definition in which
.B {{ VERSION }}
stands:
.PP
.in +4n
.EX
singularity build \-\-build\-arg VERSION=2 app.sqfs app.def
.EE
.in
"##,
};

pub(super) const BOOTSTRAP: Text = Text {
    synopsis: r##"
.B singularity bootstrap
.RI [ OPTION "]... " "IMAGE DEFINITION"
"##,
    description: r##"
Carries out a definition file in an ext image that
.B singularity create
has made, or in a directory.
A definition without
.B Bootstrap
changes the system that is in the image already.
.PP
The image is changed in place: what was done until something fails stays.
.B singularity build
does both steps in one, and leaves an image that is there alone until the new one is
complete.
"##,
    examples: r##"
.EX
singularity create \-s 2048 work.img
singularity bootstrap work.img debian.def
singularity shell \-\-writable work.img
.EE
"##,
};
