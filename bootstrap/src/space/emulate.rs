//! System calls that an ordinary user's root cannot have, answered as done.
//!
//! In a user namespace with a single id there is nobody to give a file to and
//! nobody to become, so package managers would fail at the first package with a
//! user of its own. A seccomp filter answers these calls with success and does
//! nothing. What is asked afterwards fits: all files are root's, all processes
//! root, and nothing distinguishes the owner that was set from the one that is.
//!
//! Owns: which calls those are, on each architecture. Never: touches calls that
//! the namespace allows, such as capset(2), or setxattr(2) of
//! `security.capability`, which are done for real.
//!
//! Written out instead of by a crate: those that exist end a process of another
//! architecture (i386 on x86-64), which is not this filter's business.

use nix::errno::Errno;

use super::sys;

/// What to answer without doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulated {
    /// Making devices, which no user namespace can.
    Devices,
    /// Devices, and changing owners and one's own ids.
    DevicesAndIds,
}

/// One architecture's numbers of the calls; `None` where it has no such call.
struct Table {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    architecture: u32,
    /// chown, fchown, lchown, fchownat, set*id, setgroups, with all variants of
    /// 16 and 32 bits.
    ids: &'static [u32],
    /// mknod(2), its mode the second argument.
    mknod: Option<u32>,
    /// mknodat(2), its mode the third argument.
    mknodat: u32,
}

/// From the kernel's arch/*/…/syscall*.tbl and asm-generic/unistd.h.
const TABLES: [Table; 5] = [
    Table {
        // x86-64; its x32 variant has the same numbers with bit 30 set.
        architecture: 0xc000_003e,
        ids: &[92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119, 122, 123],
        mknod: Some(133),
        mknodat: 259,
    },
    Table {
        // i386
        architecture: 0x4000_0003,
        ids: &[
            182, 95, 16, 298, 212, 207, 198, 23, 46, 70, 71, 81, 138, 139, 164, 170, 203, 204, 206,
            208, 210, 213, 214, 215, 216,
        ],
        mknod: Some(14),
        mknodat: 297,
    },
    Table {
        // arm64
        architecture: 0xc000_00b7,
        ids: &[54, 55, 143, 144, 145, 146, 147, 149, 151, 152, 159],
        mknod: None,
        mknodat: 33,
    },
    Table {
        // arm
        architecture: 0x4000_0028,
        ids: &[
            182, 95, 16, 325, 212, 207, 198, 23, 46, 70, 71, 81, 138, 139, 164, 170, 203, 204, 206,
            208, 210, 213, 214, 215, 216,
        ],
        mknod: Some(14),
        mknodat: 324,
    },
    Table {
        // riscv64
        architecture: 0xc000_00f3,
        ids: &[54, 55, 143, 144, 145, 146, 147, 149, 151, 152, 159],
        mknod: None,
        mknodat: 33,
    },
];

/// Answers these calls from now on, of this process and all that it starts.
///
/// # Errors
/// A kernel without seccomp filters.
pub fn begin(what: Emulated) -> Result<(), Errno> {
    sys::install_filter(&program(what))
}

// Offsets in `struct seccomp_data` of linux/seccomp.h. The lower half of an
// argument comes first on all architectures of the table.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// An "error" of 0 makes the call return 0.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

fn program(what: Emulated) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for table in &TABLES {
        let block = block(table, what);
        program.push(load(ARCHITECTURE));
        program.push(skip_unless(table.architecture, block.len()));
        program.extend(block);
    }
    program.push(answer(ALLOW));
    program
}

/// What comes after the architecture was recognised: it always answers.
fn block(table: &Table, what: Emulated) -> Vec<libc::sock_filter> {
    let mut block = vec![load(NUMBER)];
    if table.architecture == TABLES[0].architecture {
        block.push(and(!(1 << 30)));
    }
    let ids = match what {
        Emulated::Devices => &[],
        Emulated::DevicesAndIds => table.ids,
    };
    for number in ids {
        block.push(skip_unless(*number, 1));
        block.push(answer(DONE));
    }
    for (number, mode) in [(table.mknod, 1), (Some(table.mknodat), 2)] {
        let Some(number) = number else { continue };
        let devices = [
            load(argument(mode)),
            and(libc::S_IFMT),
            skip_unless(libc::S_IFCHR, 1),
            answer(DONE),
            skip_unless(libc::S_IFBLK, 1),
            answer(DONE),
            answer(ALLOW),
        ];
        block.push(skip_unless(number, devices.len()));
        block.extend(devices);
    }
    block.push(answer(ALLOW));
    block
}

fn instruction(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // All codes of classic BPF fit in 16 bits.
        code: code as u16,
        jt: 0,
        jf,
        k,
    }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

fn and(mask: u32) -> libc::sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, mask)
}

/// Goes on where the value is `k`, else past the next `count` instructions.
fn skip_unless(k: u32, count: usize) -> libc::sock_filter {
    // The longest block, i386's, has 70 instructions; the test of `program` sees to it.
    let count = u8::try_from(count).unwrap_or(u8::MAX);
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, count, k)
}

fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn judge(program: &[libc::sock_filter], number: u32, architecture: u32, args: [u32; 3]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) & 0x07 {
                libc::BPF_LD => {
                    value = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        offset => args[(offset as usize - 16) / 8],
                    }
                }
                libc::BPF_ALU => value &= step.k,
                libc::BPF_JMP if value != step.k => at += usize::from(step.jf),
                libc::BPF_JMP => {}
                _ => return step.k,
            }
        }
    }

    #[test]
    fn the_filter_answers_what_it_should_and_nothing_else() {
        let both = program(Emulated::DevicesAndIds);
        let devices = program(Emulated::Devices);
        for table in &TABLES {
            for number in table.ids {
                assert_eq!(judge(&both, *number, table.architecture, [0; 3]), DONE);
                assert_eq!(judge(&devices, *number, table.architecture, [0; 3]), ALLOW);
            }
            for (kind, expected) in [
                (libc::S_IFCHR, DONE),
                (libc::S_IFBLK, DONE),
                (libc::S_IFIFO, ALLOW),
                (libc::S_IFREG, ALLOW),
            ] {
                let mode = kind | 0o600;
                let at = table.mknodat;
                assert_eq!(
                    judge(&devices, at, table.architecture, [0, 0, mode]),
                    expected
                );
                if let Some(number) = table.mknod {
                    assert_eq!(
                        judge(&both, number, table.architecture, [0, mode, 0]),
                        expected
                    );
                }
            }
            assert_eq!(judge(&both, 1, table.architecture, [0; 3]), ALLOW);
        }
        // An architecture that is not in the table is let through.
        assert_eq!(judge(&both, 92, 0x1234, [0; 3]), ALLOW);
        // x32
        assert_eq!(judge(&both, 92 | 1 << 30, 0xc000_003e, [0; 3]), DONE);
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn the_numbers_are_those_of_the_c_library() {
        let table = &TABLES[if cfg!(target_arch = "x86_64") { 0 } else { 2 }];
        for number in [
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setreuid,
            libc::SYS_setregid,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
            libc::SYS_setgroups,
        ] {
            assert!(table.ids.contains(&(number as u32)), "{number}");
        }
        assert_eq!(table.mknodat, libc::SYS_mknodat as u32);
    }

    #[test]
    fn no_block_is_longer_than_a_jump_reaches() {
        for table in &TABLES {
            assert!(block(table, Emulated::DevicesAndIds).len() < usize::from(u8::MAX));
        }
    }
}
