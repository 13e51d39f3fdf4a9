//! A program that is linked with no MPI and loads one by its name.

use std::process::Command;

use test_support::{Image, Mpi, User};

use crate::ranks::run;

const RANKS: usize = 3;

/// As languages and plugins do it: the first of these names that there is.
const LOADS: &str = r#"
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
	void *mpi = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
	if (!mpi)
		mpi = dlopen("libmpich.so.12", RTLD_NOW | RTLD_GLOBAL);
	if (!mpi) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	int (*init)(int *, char ***) = (int (*)(int *, char ***))dlsym(mpi, "MPI_Init");
	int (*size)(void *, int *) = (int (*)(void *, int *))dlsym(mpi, "MPI_Comm_size");
	int (*finalize)(void) = (int (*)(void))dlsym(mpi, "MPI_Finalize");
	void *world = dlsym(mpi, "ompi_mpi_comm_world");
	int count = 0;
	init(NULL, NULL);
	size(world ? world : (void *)0x44000000, &count);
	printf("world of %d\n", count);
	return finalize();
}
"#;

#[test]
fn a_program_that_loads_its_mpi_is_in_one_world() {
    let user = User::ordinary();
    let program = user.work().join("loads");
    let source = user.file("loads.c", LOADS);
    run(Command::new("gcc").arg(&source).arg("-o").arg(&program)).succeeded();
    user.give(&program);
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        for image in [Image::OpenMpiBookworm, Image::MpichBookworm] {
            for words in [&["./loads"][..], &["sh", "-c", "cd . && ./loads"]] {
                let mut job = mpi.command(&user, RANKS);
                job.arg(test_support::command())
                    .arg("exec")
                    .arg(image.directory())
                    .args(words);
                let output = run(&mut job);
                output.succeeded().quietly();
                let met = output
                    .stdout()
                    .matches(&format!("world of {RANKS}"))
                    .count();
                assert_eq!(met, RANKS, "{words:?}: {output}");
            }
        }
    }
}
