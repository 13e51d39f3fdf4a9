//! What the figures were measured on and with.

use bench::machine::Machine;

use crate::stage::Stage;

/// The machine, and the contenders that are installed.
pub fn describe(stage: &Stage) -> Machine {
    let programs = [
        ("mpirun.openmpi", "--version"),
        ("bwrap", "--version"),
        ("ch-run", "--version"),
        ("squashfuse_ll", "--help"),
        ("erofsfuse", "--version"),
        ("fuse2fs", "-V"),
    ]
    .map(|(name, option)| (stage.program(name), option));
    let known = std::iter::once((stage.singularity.as_str(), "--version")).chain(
        programs
            .iter()
            .filter_map(|(path, option)| Some((path.as_deref()?, *option))),
    );
    Machine::describe(&known.collect::<Vec<_>>())
}
