//! An interpreter in an image with two families of MPI: it is in one world, or ends.

use std::process::Command;

use test_support::{Image, Mpi, Output, User};

use crate::ranks::run;

const RANKS: usize = 3;

/// By mpi4py, as it chooses.
const BY_PACKAGE: &str = "from mpi4py import MPI; c = MPI.COMM_WORLD; \
    print(f'rank {c.rank} of {c.size}, sum {c.allreduce(c.rank)}, {MPI.Get_library_version()[:14]}')";

/// Past mpi4py, which nobody can foresee: the file of a library, and its MPI_COMM_WORLD.
const BY_HAND: &str = "import ctypes, sys; m = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL); \
    m.MPI_Init(None, None); n = ctypes.c_int(); \
    w = ctypes.addressof(ctypes.c_char.in_dll(m, 'ompi_mpi_comm_world')) if '40' in sys.argv[1] \
    else 0x44000000; \
    m.MPI_Comm_size(ctypes.c_void_p(w), ctypes.byref(n)); print('world of', n.value); m.MPI_Finalize()";

const OPEN_MPI: &str = "/usr/local/lib/libmpi.so.40";
const MPICH: &str = "/opt/mpich/lib/libmpi.so.12";

fn start(mpi: &Mpi, user: &User, options: &[&str], words: &[&str]) -> Output {
    let mut job: Command = mpi.command(user, RANKS);
    job.arg(test_support::command())
        .arg("exec")
        .args(options)
        .arg(Image::Python.directory())
        .args(words);
    run(&mut job)
}

#[test]
fn python_is_in_one_world_by_whichever_mpi_mpi4py_takes() {
    let user = User::ordinary();
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        for (options, library) in [
            (vec![], "Open MPI v4.1.8"),
            (
                vec!["--env=MPI4PY_LIBMPI=/opt/mpich/lib/libmpi.so.12"],
                "MPICH Version:",
            ),
        ] {
            let script = format!("python3 -c \"{BY_PACKAGE}\"");
            for words in [vec!["python3", "-c", BY_PACKAGE], vec!["sh", "-c", &script]] {
                let output = start(&mpi, &user, &options, &words);
                output.succeeded().quietly();
                for rank in 0..RANKS {
                    let line = format!("rank {rank} of {RANKS}, sum 3, {}", &library[..14]);
                    assert!(output.stdout().contains(&line), "{line}: {output}");
                }
            }
        }
    }
}

#[test]
fn an_mpi_that_nobody_foresaw_is_in_one_world_or_fails() {
    let user = User::ordinary();
    let one_world = format!("world of {RANKS}");
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        for library in [OPEN_MPI, MPICH] {
            let output = start(&mpi, &user, &[], &["python3", "-c", BY_HAND, library]);
            let met = output.stdout().matches(&one_world).count() == RANKS;
            assert!(
                !output.stdout().contains("world of 1"),
                "{library}: {output}"
            );
            assert!(met || !output.status.success(), "{library}: {output}");
        }
        // What a shell runs is not to be seen in its words.
        for place in ["/usr/local/bin", "/opt/mpich/bin"] {
            for text in ["cd $0; p=ring; ./$p", "cd $0; eval ./r*ng"] {
                let output = start(&mpi, &user, &[], &["sh", "-c", text, place]);
                let met = output.stdout().matches(&format!(" of {RANKS} on ")).count() == RANKS;
                assert!(!output.stdout().contains(" of 1 on "), "{place}: {output}");
                assert!(met || !output.status.success(), "{place}: {output}");
            }
        }
    }
}
