//! Programs and libraries of this machine, and some that never were.

use std::fs::File;
use std::path::Path;

use image::elf::{describe, describe_file, Class, Error};
use image::Architecture;

use crate::make::{put, read};

#[test]
fn this_test_program_is_described() {
    let path = std::env::current_exe().unwrap();
    let elf = describe_file(&File::open(&path).unwrap()).unwrap();
    assert_eq!(elf.architecture, Architecture::native());
    assert_eq!(elf.class == Class::Elf64, cfg!(target_pointer_width = "64"));
    assert_eq!(elf.little_endian, cfg!(target_endian = "little"));
    assert!(elf.is_dynamic);
    let interpreter = elf.interpreter.unwrap();
    assert!(Path::new(&interpreter).exists(), "{interpreter:?}");
    assert!(elf
        .needed
        .iter()
        .any(|name| name.to_string_lossy().starts_with("libc.so")));
}

#[test]
fn a_library_tells_its_own_name() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .find(|p| p.contains("/libc.so"));
    let elf = describe_file(&File::open(libc.unwrap()).unwrap()).unwrap();
    assert!(elf.soname.unwrap().to_string_lossy().starts_with("libc.so"));
    assert_eq!(elf.kind, 3);
}

#[test]
fn what_is_not_elf_is_called_so() {
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", b"\x7fELFxxxxxxxxxxx"] {
        assert!(matches!(describe(bytes), Err(Error::NotElf)), "{bytes:?}");
    }
}

/// A minimal program: header, program headers, the strings they lead to.
pub fn program(wide: bool, little: bool, machine: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend([1 + u8::from(wide), 2 - u8::from(little), 1]);
    bytes.resize(16, 0);
    let half = |n: u16| {
        if little {
            n.to_le_bytes()
        } else {
            n.to_be_bytes()
        }
    };
    let word = |n: u32| {
        if little {
            n.to_le_bytes()
        } else {
            n.to_be_bytes()
        }
    };
    let long = |n: u64| {
        if !wide {
            word(u32::try_from(n).expect("small")).to_vec()
        } else if little {
            n.to_le_bytes().to_vec()
        } else {
            n.to_be_bytes().to_vec()
        }
    };
    let (head, entry): (u16, u16) = if wide { (64, 56) } else { (52, 32) };
    bytes.extend(half(2));
    bytes.extend(half(machine));
    bytes.extend(word(1));
    bytes.extend(long(0));
    bytes.extend(long(u64::from(head)));
    bytes.extend(long(0));
    bytes.extend(word(0));
    for n in [head, entry, 3, 0, 0, 0] {
        bytes.extend(half(n));
    }
    assert_eq!(bytes.len(), usize::from(head));
    let strings: &[u8] = b"\0libmpi.so.40\0libc.so.6\0/opt/lib\0";
    let interpreter: &[u8] = b"/lib/ld.so\0";
    let dynamic: [(u64, u64); 6] = [
        (1, 1),
        (1, 14),
        (29, 24),
        (5, 0x1_0400),
        (10, strings.len() as u64),
        (0, 0),
    ];
    let dynamic: Vec<u8> = dynamic
        .iter()
        .flat_map(|(tag, value)| [long(*tag), long(*value)].concat())
        .collect();
    // Everything from 0x400 on is loaded at 0x10400.
    for (kind, offset, size) in [
        (3_u32, 0x500_u64, interpreter.len()),
        (1, 0x400, 0x300),
        (2, 0x600, dynamic.len()),
    ] {
        let (offset, size) = (long(offset), long(size as u64));
        let address = long(
            0x1_0000
                + if kind == 3 {
                    0x500
                } else if kind == 1 {
                    0x400
                } else {
                    0x600
                },
        );
        bytes.extend(word(kind));
        if wide {
            bytes.extend(word(4));
        }
        for field in [&offset, &address, &address, &size, &size] {
            bytes.extend(field);
        }
        if !wide {
            bytes.extend(word(4));
        }
        bytes.extend(long(4));
    }
    bytes.resize(0x700, 0);
    put(&mut bytes, 0x400, strings);
    put(&mut bytes, 0x500, interpreter);
    put(&mut bytes, 0x600, &dynamic);
    bytes
}

#[test]
fn programs_of_other_machines_are_read_in_their_byte_order() {
    for (wide, little, machine, name) in [
        (true, true, 183, "aarch64"),
        (true, true, 21, "ppc64le"),
        (true, false, 21, "ppc64"),
        (true, false, 22, "s390x"),
        (true, true, 243, "riscv64"),
        (false, true, 3, "i386"),
        (false, false, 20, "ppc"),
    ] {
        let elf = describe(&program(wide, little, machine)[..]).unwrap();
        assert_eq!(elf.architecture.to_string(), name);
        assert_eq!(elf.interpreter.unwrap(), "/lib/ld.so", "{name}");
        assert_eq!(elf.needed, ["libmpi.so.40", "libc.so.6"], "{name}");
        assert_eq!(elf.runpath.unwrap(), "/opt/lib", "{name}");
        assert_eq!(elf.soname, None);
    }
}

#[test]
fn a_program_cut_or_altered_anywhere_is_survived() {
    for wide in [false, true] {
        let bytes = program(wide, true, 62);
        for length in 0..bytes.len() {
            let _ = describe(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = describe(&bytes[..]);
            }
        }
    }
    let real = read(&std::env::current_exe().unwrap());
    for length in (0..real.len()).step_by(real.len() / 200) {
        let _ = describe(&real[..length]);
    }
}
