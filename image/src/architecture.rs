//! Names for processor architectures, whichever format's code they come from.
//!
//! Owns: the two tables, ELF machine numbers (`elf.h`) and the two-digit codes
//! of SIF. Never: judges whether one may run on the other; the kernel may have
//! an emulator registered.

use std::fmt;

/// A processor architecture, named as `uname -m` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the name it prints")]
#[non_exhaustive]
pub enum Architecture {
    I386,
    X86_64,
    Arm,
    Aarch64,
    Ppc,
    Ppc64,
    Ppc64le,
    Mips,
    Mipsle,
    Mips64,
    Mips64le,
    S390x,
    Riscv32,
    Riscv64,
    Loongarch64,
    Sparc64,
    /// An ELF machine number that has no name here.
    OtherElf(u16),
    /// A SIF code that says nothing, or that has no name here.
    Unknown,
}

impl Architecture {
    /// What this program was compiled for.
    pub fn native() -> Self {
        match std::env::consts::ARCH {
            "x86" => Self::I386,
            "x86_64" => Self::X86_64,
            "arm" => Self::Arm,
            "aarch64" => Self::Aarch64,
            "powerpc" => Self::Ppc,
            "powerpc64" if cfg!(target_endian = "little") => Self::Ppc64le,
            "powerpc64" => Self::Ppc64,
            "mips" if cfg!(target_endian = "little") => Self::Mipsle,
            "mips" => Self::Mips,
            "mips64" if cfg!(target_endian = "little") => Self::Mips64le,
            "mips64" => Self::Mips64,
            "s390x" => Self::S390x,
            "riscv32" => Self::Riscv32,
            "riscv64" => Self::Riscv64,
            "loongarch64" => Self::Loongarch64,
            "sparc64" => Self::Sparc64,
            _ => Self::Unknown,
        }
    }

    /// From an ELF header: `e_machine`, whether the class is 64 bits, and whether
    /// the data is little-endian.
    pub fn from_elf(machine: u16, is_64: bool, little: bool) -> Self {
        match (machine, is_64, little) {
            (3, ..) => Self::I386,
            (8, false, false) => Self::Mips,
            (8, false, true) => Self::Mipsle,
            (8, true, false) => Self::Mips64,
            (8, true, true) => Self::Mips64le,
            (20, ..) => Self::Ppc,
            (21, _, false) => Self::Ppc64,
            (21, _, true) => Self::Ppc64le,
            (22, true, _) => Self::S390x,
            (40, ..) => Self::Arm,
            (43, ..) => Self::Sparc64,
            (62, ..) => Self::X86_64,
            (183, ..) => Self::Aarch64,
            (243, false, _) => Self::Riscv32,
            (243, true, _) => Self::Riscv64,
            (258, true, _) => Self::Loongarch64,
            (other, ..) => Self::OtherElf(other),
        }
    }

    /// From the three bytes (two digits and a NUL) in a SIF header or partition.
    pub fn from_sif(code: [u8; 3]) -> Self {
        match &code {
            b"01\0" => Self::I386,
            b"02\0" => Self::X86_64,
            b"03\0" => Self::Arm,
            b"04\0" => Self::Aarch64,
            b"05\0" => Self::Ppc64,
            b"06\0" => Self::Ppc64le,
            b"07\0" => Self::Mips,
            b"08\0" => Self::Mipsle,
            b"09\0" => Self::Mips64,
            b"10\0" => Self::Mips64le,
            b"11\0" => Self::S390x,
            b"12\0" => Self::Riscv64,
            _ => Self::Unknown,
        }
    }

    /// The code a SIF file would carry; `00` where the format has none.
    pub fn sif_code(self) -> [u8; 3] {
        match self {
            Self::I386 => *b"01\0",
            Self::X86_64 => *b"02\0",
            Self::Arm => *b"03\0",
            Self::Aarch64 => *b"04\0",
            Self::Ppc64 => *b"05\0",
            Self::Ppc64le => *b"06\0",
            Self::Mips => *b"07\0",
            Self::Mipsle => *b"08\0",
            Self::Mips64 => *b"09\0",
            Self::Mips64le => *b"10\0",
            Self::S390x => *b"11\0",
            Self::Riscv64 => *b"12\0",
            _ => *b"00\0",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I386 => "i386",
            Self::X86_64 => "x86_64",
            Self::Arm => "arm",
            Self::Aarch64 => "aarch64",
            Self::Ppc => "ppc",
            Self::Ppc64 => "ppc64",
            Self::Ppc64le => "ppc64le",
            Self::Mips => "mips",
            Self::Mipsle => "mipsel",
            Self::Mips64 => "mips64",
            Self::Mips64le => "mips64el",
            Self::S390x => "s390x",
            Self::Riscv32 => "riscv32",
            Self::Riscv64 => "riscv64",
            Self::Loongarch64 => "loongarch64",
            Self::Sparc64 => "sparc64",
            Self::OtherElf(machine) => return write!(f, "ELF machine {machine}"),
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Architecture;

    #[test]
    fn machine_numbers_have_the_names_of_uname() {
        let table = [
            (62, true, true, "x86_64"),
            (3, false, true, "i386"),
            (183, true, true, "aarch64"),
            (21, true, true, "ppc64le"),
            (21, true, false, "ppc64"),
            (243, true, true, "riscv64"),
            (22, true, false, "s390x"),
            (258, true, true, "loongarch64"),
            (4711, true, true, "ELF machine 4711"),
        ];
        for (machine, is_64, little, name) in table {
            assert_eq!(
                Architecture::from_elf(machine, is_64, little).to_string(),
                name
            );
        }
    }

    #[test]
    fn sif_codes_survive_the_way_there_and_back() {
        for number in 1..=12 {
            let text = format!("{number:02}\0");
            let code: [u8; 3] = text.as_bytes().try_into().unwrap();
            assert_eq!(Architecture::from_sif(code).sif_code(), code);
        }
        assert_eq!(Architecture::from_sif(*b"99\0"), Architecture::Unknown);
        assert_eq!(Architecture::Sparc64.sif_code(), *b"00\0");
    }
}
