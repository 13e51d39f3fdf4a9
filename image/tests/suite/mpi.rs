//! Which MPI a program links, in roots with libraries of the host's compiler that have
//! the names and symbols of real ones. The real ones are run in tests/mpi.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::process::Command;

use image::mpi::{
    of_program, survey, Client, Depth, Family, LdCache, Mpi, ProgramMpi, Question, Root, Version,
};
use tempfile::TempDir;

use crate::make::run;

/// What Open MPI, MPICH and Intel MPI export, as far as it tells them apart.
const OPEN_MPI_4: &str =
    "int ompi_mpi_comm_world; const char ompi_version_string[] = \"4.1.4\"; int MPI_Init() { return 0; }";
const OPEN_MPI_5: &str =
    "int ompi_mpi_comm_world; const char ompi_version_string[] = \"5.0.7rc1\"; int MPI_Init() { return 0; }";
const MPICH: &str = "const char MPII_Version_string[] = \"4.0.2\"; int MPI_Init() { return 0; }";
const INTEL: &str = "const char MPII_Version_string[] = \"3.4a2\"; \
    int I_MPI_Check_image_status() { return 0; } int MPI_Init() { return 0; }";
const CALLER: &str = "int MPI_Init(); int main() { return MPI_Init(); }";

/// A root in a temporary directory, with a search path of `/bin`.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        for directory in ["bin", "etc", "lib", "usr/lib", "opt/mpi/lib", "work"] {
            fs::create_dir_all(place.at(directory)).expect("mkdir");
        }
        place
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// Compiles C into the root.
    fn compile(&self, text: &str, output: &str, options: &[&str]) {
        let source = self.directory.path().join("source.c");
        fs::write(&source, text).expect("write");
        run(Command::new("gcc")
            .args(["-w", "-O0"])
            .arg(&source)
            .arg("-o")
            .arg(self.at(output))
            .args(options));
    }

    fn library(&self, text: &str, output: &str, more: &[&str]) {
        let name = Path::new(output).file_name().and_then(OsStr::to_str);
        let soname = format!("-Wl,-soname,{}", name.expect("a name"));
        self.compile(
            text,
            output,
            &[&["-shared", "-fPIC", &soname][..], more].concat(),
        );
    }

    /// A program that needs the library in the root at `library`.
    fn program(&self, output: &str, library: &str, options: &[&str]) {
        let library = self.at(library);
        let library = library.to_str().expect("text");
        self.compile(
            CALLER,
            output,
            &[&[library, "-Wl,--allow-shlib-undefined"][..], options].concat(),
        );
    }

    fn file(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).expect("write");
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn ask(&self, words: &[&str]) -> ProgramMpi {
        self.ask_with(words, None)
    }

    fn ask_with(&self, words: &[&str], library_path: Option<&str>) -> ProgramMpi {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let question = Question {
            words: &words,
            path: OsStr::new("/bin"),
            library_path: library_path.map(OsStr::new),
            variable: &|_| None,
            directory: Path::new("/work"),
            at_terminal: false,
            depth: Depth::Quick,
        };
        of_program(&self.root(), &question)
    }

    fn root(&self) -> Root {
        Root::open(&self.at("")).expect("the root is there")
    }
}

fn version(text: &str) -> Option<Version> {
    Some(Version::parse(text).expect("a version"))
}

#[track_caller]
fn assert_with(answer: &ProgramMpi, family: Family, told: Option<Version>, library: Option<&str>) {
    let ProgramMpi::With(mpi) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((mpi.family, mpi.version), (family, told), "{mpi:?}");
    assert_eq!(mpi.library.as_deref(), library.map(Path::new), "{mpi:?}");
}

#[test]
fn families_and_versions_are_told_by_what_a_library_exports() {
    for (text, name, family, told) in [
        (OPEN_MPI_4, "libmpi.so.40", Family::OpenMpi, "4.1.4"),
        (OPEN_MPI_5, "libmpi.so.40", Family::OpenMpi, "5.0.7"),
        (MPICH, "libmpi.so.12", Family::Mpich, "4.0.2"),
        (MPICH, "libmpich.so.12", Family::Mpich, "4.0.2"),
        // Open MPI 1.10 had the name that is MPICH's now.
        (OPEN_MPI_4, "libmpi.so.12", Family::OpenMpi, "4.1.4"),
        (MPICH, "libmpi_abi.so.1", Family::Mpich, "4.0.2"),
    ] {
        let place = Place::new();
        let library = format!("lib/{name}");
        place.library(text, &library, &[]);
        place.program("bin/app", &library, &[]);
        let library = format!("/{library}");
        assert_with(&place.ask(&["app"]), family, version(told), Some(&library));
    }
    let place = Place::new();
    place.library(INTEL, "lib/libmpi.so.12", &[]);
    place.program("bin/app", "lib/libmpi.so.12", &[]);
    let answer = place.ask(&["/bin/app"]);
    assert_with(&answer, Family::IntelMpi, None, Some("/lib/libmpi.so.12"));
}

#[test]
fn the_search_path_of_a_program_comes_before_that_of_the_system() {
    for (options, library_path, expected) in [
        (&["-Wl,-rpath,$ORIGIN/../opt/mpi/lib"][..], None, "5.0.7"),
        (&["-Wl,-rpath,/opt/mpi/lib"], None, "5.0.7"),
        (
            &["-Wl,-rpath,/opt/mpi/lib", "-Wl,--disable-new-dtags"],
            None,
            "5.0.7",
        ),
        (&[], Some("/nowhere:/opt/mpi/lib"), "5.0.7"),
        (&[], None, "4.1.4"),
        // DT_RPATH wins over the variable, and DT_RUNPATH does not.
        (
            &["-Wl,-rpath,/opt/mpi/lib", "-Wl,--disable-new-dtags"],
            Some("/lib"),
            "5.0.7",
        ),
        (
            &["-Wl,-rpath,/opt/mpi/lib", "-Wl,--enable-new-dtags"],
            Some("/lib"),
            "4.1.4",
        ),
    ] {
        let place = Place::new();
        place.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
        place.library(OPEN_MPI_5, "opt/mpi/lib/libmpi.so.40", &[]);
        place.program("bin/app", "lib/libmpi.so.40", options);
        let ProgramMpi::With(mpi) = place.ask_with(&["app"], library_path) else {
            panic!("{options:?}");
        };
        assert_eq!(
            mpi.version,
            version(expected),
            "{options:?} {library_path:?}"
        );
    }
}

#[test]
fn the_loaders_cache_is_read() {
    let place = Place::new();
    place.library(MPICH, "opt/mpi/lib/libmpi.so.12", &[]);
    place.program("bin/app", "opt/mpi/lib/libmpi.so.12", &[]);
    assert_with(&place.ask(&["app"]), Family::Mpich, None, None);
    place.file("etc/ld.so.conf", "/opt/mpi/lib\n");
    run(Command::new("/sbin/ldconfig").arg("-r").arg(place.at("")));
    let library = Some("/opt/mpi/lib/libmpi.so.12");
    assert_with(
        &place.ask(&["app"]),
        Family::Mpich,
        version("4.0.2"),
        library,
    );
    let cache = fs::read(place.at("etc/ld.so.cache")).expect("ldconfig made it");
    for length in 0..cache.len() {
        let cut = LdCache::of(&cache[..length]);
        assert!(cut.iter().count() <= LdCache::of(&cache).iter().count());
    }
}

#[test]
fn an_mpi_that_only_a_library_needs_is_found() {
    let place = Place::new();
    place.library(MPICH, "lib/libmpi.so.12", &[]);
    let mpi = place.at("lib/libmpi.so.12");
    let mpi = mpi.to_str().expect("text");
    place.library(
        "int solve() { return 0; }",
        "lib/libsolver.so.1",
        &["-Wl,--no-as-needed", mpi],
    );
    let solver = place.at("lib/libsolver.so.1");
    place.compile(
        "int solve(); int main() { return solve(); }",
        "bin/app",
        &[
            solver.to_str().expect("text"),
            "-Wl,--allow-shlib-undefined",
        ],
    );
    let answer = place.ask(&["app"]);
    assert_with(
        &answer,
        Family::Mpich,
        version("4.0.2"),
        Some("/lib/libmpi.so.12"),
    );
}

#[test]
fn an_mpi_linked_with_libpmix_says_so() {
    let place = Place::new();
    place.library("int PMIx_Init() { return 0; }", "lib/libpmix.so.2", &[]);
    let pmix = place.at("lib/libpmix.so.2");
    let options = ["-Wl,--no-as-needed", pmix.to_str().expect("text")];
    place.library(OPEN_MPI_5, "lib/libmpi.so.40", &options);
    place.program("bin/app", "lib/libmpi.so.40", &[]);
    let ProgramMpi::With(Mpi { clients, .. }) = place.ask(&["app"]) else {
        panic!("it has an MPI");
    };
    assert_eq!(clients, [Client::Pmix]);
}

#[test]
fn an_mpi_that_is_part_of_the_program_is_found() {
    let place = Place::new();
    for (text, family) in [
        (
            "Attempting to use an MPI routine before initializing MPICH",
            Family::Mpich,
        ),
        ("Open MPI v%d.%d.%d, package", Family::OpenMpi),
    ] {
        let code = format!("char *text = \"{text}\"; int main() {{ return text != 0; }}");
        place.compile(&code, "bin/app", &["-static"]);
        assert_with(&place.ask(&["app"]), family, None, None);
        place.compile(&code, "bin/app", &[]);
        assert_with(&place.ask(&["app"]), family, None, None);
    }
}

/// Loads what the text names.
fn loader_of(name: &str) -> String {
    format!(
        "#include <dlfcn.h>\nint main(int n, char **v) {{ \
         return dlopen(n > 1 ? v[1] : \"{name}\", RTLD_NOW) == 0; }}"
    )
}

#[track_caller]
fn assert_may_use(answer: &ProgramMpi, families: &[Family]) {
    let ProgramMpi::Unknown(candidates) = answer else {
        panic!("{answer:?}");
    };
    let found: Vec<Family> = candidates.iter().map(|mpi| mpi.family).collect();
    assert_eq!(found, families, "{answer:?}");
}

#[test]
fn an_mpi_that_a_program_loads_by_name_is_found() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
    place.library(MPICH, "opt/mpi/lib/libmpi.so.12", &[]);
    let needs = place.at("opt/mpi/lib/libmpi.so.12");
    let needs = needs.to_str().expect("text");
    let plugin = ["-Wl,--no-as-needed", needs, "-Wl,-rpath,$ORIGIN"];
    place.library("int x;", "opt/mpi/lib/plugin_MPI.so", &plugin);
    place.compile("int main() { return 0; }", "bin/sh", &[]);
    let (open, mpich) = (Family::OpenMpi, Family::Mpich);
    for (name, options, expected) in [
        ("libmpi.so.40", &[][..], &[open][..]),
        ("/opt/mpi/lib/libmpi.so.12", &[], &[mpich]),
        (
            "libmpi.so.12",
            &["-Wl,-rpath,$ORIGIN/../opt/mpi/lib"],
            &[mpich],
        ),
        ("/opt/mpi/lib/plugin_MPI.so", &[], &[mpich]),
        ("$ORIGIN/../opt/mpi/lib/plugin_MPI.so", &[], &[mpich]),
        ("%s/lib/libmpi.so.40", &[], &[open]),
        // Not where the loader looks: any of the root's.
        ("libmpi.so.20", &[], &[open, mpich]),
        ("libmpi.so.12\0libmpi.so.40", &[], &[open]),
    ] {
        place.compile(&loader_of(name), "bin/app", options);
        assert_may_use(&place.ask(&["app"]), expected);
        assert_may_use(&place.ask(&["sh", "-c", "cd /work; app -x"]), expected);
    }
    // By one of its libraries, which the system's loader finds beside the program.
    place.library(
        &loader_of("libmpi.so.40").replace("main", "load"),
        "opt/libsolver.so.1",
        &[],
    );
    let solver = place.at("opt/libsolver.so.1");
    let options = [
        "-Wl,--no-as-needed",
        solver.to_str().expect("text"),
        "-Wl,-rpath,$ORIGIN/../opt",
    ];
    place.compile("int main() { return 0; }", "bin/app", &options);
    assert_may_use(&place.ask(&["app"]), &[open]);
}

#[test]
fn a_program_that_only_names_an_mpi_uses_none() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
    let names = "char *text = \"libmpi.so.40\"; int main() { return text == 0; }";
    let loads = loader_of("libz.so.1");
    for text in [names, loads.as_str()] {
        place.compile(text, "bin/app", &[]);
        assert_eq!(place.ask(&["app"]), ProgramMpi::Without, "{text}");
    }
    place.compile(&loader_of("libmpi.so.40"), "bin/mpirun", &[]);
    assert_eq!(place.ask(&["mpirun"]), ProgramMpi::Without);
    fs::remove_file(place.at("lib/libmpi.so.40")).expect("rm");
    place.compile(&loader_of("libmpi.so.40"), "bin/app", &[]);
    assert_eq!(place.ask(&["app"]), ProgramMpi::Without);
}

#[test]
fn a_program_with_an_interpreter_in_it_may_use_any() {
    let place = Place::new();
    place.library(MPICH, "lib/libmpi.so.12", &[]);
    place.library("int x;", "lib/libpython3.11.so.1.0", &[]);
    let python = place.at("lib/libpython3.11.so.1.0");
    let options = ["-Wl,--no-as-needed", python.to_str().expect("text")];
    place.compile("int main() { return 0; }", "bin/app", &options);
    assert_may_use(&place.ask(&["app"]), &[Family::Mpich]);
}

#[test]
fn r_uses_the_mpi_of_its_package() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
    place.library(MPICH, "opt/mpi/lib/libmpi.so.12", &[]);
    let libs = "usr/lib/R/site-library/Rmpi/libs";
    fs::create_dir_all(place.at(libs)).expect("mkdir");
    let needs = place.at("lib/libmpi.so.40");
    let needs = ["-Wl,--no-as-needed", needs.to_str().expect("text")];
    place.library("int x;", &format!("{libs}/Rmpi.so"), &needs);
    place.file("bin/R", "#!/bin/sh\nexec $R_HOME/bin/exec/R \"$@\"\n");
    place.compile("int main() { return 0; }", "bin/Rscript", &[]);
    place.compile("int main() { return 0; }", "bin/sh", &[]);
    place.file("bin/work", "#!/bin/Rscript\nlibrary(Rmpi)\n");
    for words in [
        &["R", "--no-save"][..],
        &["Rscript", "work.R"],
        &["/bin/work"],
        &["sh", "-c", "cd /work; Rscript work.R"],
    ] {
        assert_may_use(&place.ask(words), &[Family::OpenMpi]);
    }
    fs::remove_dir_all(place.at(libs)).expect("rm");
    let all = [Family::OpenMpi, Family::Mpich];
    assert_may_use(&place.ask(&["R", "--no-save"]), &all);
}

#[test]
fn julia_uses_an_mpi_that_its_packages_have_brought() {
    let place = Place::new();
    let lib = "opt/julia/local/share/julia/artifacts/0123abcd/lib";
    for directory in ["opt/julia/bin", lib] {
        fs::create_dir_all(place.at(directory)).expect("mkdir");
    }
    place.library(MPICH, &format!("{lib}/libmpi.so.12"), &[]);
    place.compile("int main() { return 0; }", "opt/julia/bin/julia", &[]);
    symlink("../opt/julia/bin/julia", place.at("bin/julia")).expect("symlink");
    assert_may_use(&place.ask(&["julia", "work.jl"]), &[Family::Mpich]);
}

#[test]
fn a_library_that_a_wheel_has_renamed_is_one_of_mpi() {
    let place = Place::new();
    place.library(MPICH, "lib/libmpi-0a1b2c3d.so.12.1.8", &[]);
    place.program("bin/app", "lib/libmpi-0a1b2c3d.so.12.1.8", &[]);
    let library = Some("/lib/libmpi-0a1b2c3d.so.12.1.8");
    assert_with(
        &place.ask(&["app"]),
        Family::Mpich,
        version("4.0.2"),
        library,
    );
}

#[test]
fn programs_without_mpi_are_told_so() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
    place.compile("int main() { return 0; }", "bin/hostname", &[]);
    for words in [
        &["hostname"][..],
        &["/bin/hostname"],
        &["missing"],
        &[""],
        &[],
    ] {
        assert_eq!(place.ask(words), ProgramMpi::Without, "{words:?}");
    }
}

#[test]
fn scripts_and_wrappers_lead_to_their_program() {
    let place = Place::new();
    place.library(MPICH, "lib/libmpi.so.12", &[]);
    place.program("bin/app", "lib/libmpi.so.12", &[]);
    place.program("work/own", "lib/libmpi.so.12", &[]);
    for name in ["sh", "bash", "env", "taskset", "python3", "hostname"] {
        place.compile("int main() { return 0; }", &format!("bin/{name}"), &[]);
    }
    place.file("bin/start", "#!/bin/sh\ncd /work\nexec app \"$@\"\n");
    place.file("bin/through", "#!/bin/env -S bash\napp\n");
    place.file("bin/plain", "exec /bin/app\n");
    place.file("bin/runscript", "#!/bin/sh\nexec \"$@\"\n");
    for words in [
        &["sh", "-c", "cd /work && exec ./own -x"][..],
        &["bash", "-lc", "app"],
        &["sh", "-c", "exec \"$@\"", "sh", "app"],
        &["sh", "/bin/start"],
        &["start"],
        &["through"],
        &["plain"],
        &["runscript", "app", "-n"],
        &["env", "A=1", "-u", "B", "app"],
        &["taskset", "-c", "0-3", "./own"],
        &["env", "sh", "-c", "./own"],
        &["sh", "-c", "# python3\ncd /work; /bin/start -n"],
        &["sh", "-c", ". ./setting.sh; start"],
    ] {
        let library = Some("/lib/libmpi.so.12");
        assert_with(&place.ask(words), Family::Mpich, version("4.0.2"), library);
    }
    place.file("bin/notebook", "#!/bin/env python3\nimport mpi4py.MPI\n");
    for words in [
        &["sh"][..],
        &["bash", "--login"],
        &["python3", "work.py"],
        &["env", "python3"],
        &["notebook"],
        &["sh", "-c", "cd /work && notebook"],
        &["sh", "-c", "exec python3 work.py"],
        &["runscript", "python3", "work.py"],
        &["sh", "-c", "$APP input"],
    ] {
        let ProgramMpi::Unknown(candidates) = place.ask(words) else {
            panic!("{words:?}");
        };
        assert_eq!(candidates.len(), 1, "{words:?}");
        assert_eq!(candidates[0].family, Family::Mpich);
    }
    for words in [
        &["sh", "-c", "hostname"][..],
        &["sh", "-c", "# app\necho $HOME"],
        &["runscript", "hostname"],
    ] {
        let ProgramMpi::Unlikely(candidates) = place.ask(words) else {
            panic!("{words:?}");
        };
        assert_eq!(candidates[0].family, Family::Mpich);
    }
    assert_eq!(place.ask(&["env", "hostname"]), ProgramMpi::Without);
}

#[test]
fn the_mpi_of_a_virtual_environment_is_found() {
    let place = Place::new();
    for directory in ["home/venv/bin", "home/venv/lib"] {
        fs::create_dir_all(place.at(directory)).expect("mkdir");
    }
    place.library(OPEN_MPI_4, "home/venv/lib/libmpi.so.40", &[]);
    place.compile("int main() { return 0; }", "home/venv/bin/python3", &[]);
    let answer = place.ask(&["/home/venv/bin/python3", "work.py"]);
    let ProgramMpi::Unknown(candidates) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(candidates[0].family, Family::OpenMpi);
}

#[test]
fn a_shell_in_a_root_without_mpi_uses_none() {
    let place = Place::new();
    place.compile("int main() { return 0; }", "bin/sh", &[]);
    assert_eq!(place.ask(&["sh", "-c", "true"]), ProgramMpi::Without);
}

#[test]
fn a_root_is_surveyed_and_each_file_is_named_once() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "usr/lib/libmpi.so.40.30.4", &[]);
    symlink("libmpi.so.40.30.4", place.at("usr/lib/libmpi.so.40")).expect("symlink");
    symlink("libmpi.so.40", place.at("usr/lib/libmpi.so")).expect("symlink");
    place.library(MPICH, "opt/mpi/lib/libmpi.so.12", &[]);
    place.library("int x;", "usr/lib/libucp.so.0", &[]);
    place.library("int x;", "usr/lib/libmpi_mpifh.so.40", &[]);
    let found: Vec<_> = survey(&place.root())
        .into_iter()
        .map(|library| (library.kind.name(), library.version))
        .collect();
    let expected = [
        ("Open MPI", version("4.1.4")),
        ("MPICH", version("4.0.2")),
        ("UCX", None),
    ];
    assert_eq!(found, expected);
}

#[test]
fn no_link_leads_out_of_the_root() {
    let (inside, outside) = (Place::new(), Place::new());
    outside.library(OPEN_MPI_4, "lib/libmpi.so.40", &[]);
    let real = outside.at("lib");
    inside.library(OPEN_MPI_4, "opt/mpi/lib/libmpi.so.40", &[]);
    inside.program("bin/app", "opt/mpi/lib/libmpi.so.40", &[]);
    let up = Path::new("../../../../../../../..").join(real.strip_prefix("/").expect("absolute"));
    symlink(real.join("libmpi.so.40"), inside.at("lib/libmpi.so.40")).expect("symlink");
    symlink(up.join("libmpi.so.40"), inside.at("usr/lib/libmpi.so.40")).expect("symlink");
    symlink("/proc/self/root", inside.at("work/proc")).expect("symlink");
    // The name is known, the library is not found.
    assert_with(&inside.ask(&["app"]), Family::OpenMpi, None, None);
    let through = Path::new("/work/proc").join(real.strip_prefix("/").expect("absolute"));
    let answer = inside.ask_with(&["app"], through.to_str());
    assert_with(&answer, Family::OpenMpi, None, None);
    assert_eq!(survey(&inside.root()).len(), 1);
}

#[test]
fn strange_files_are_passed_over() {
    let place = Place::new();
    place.library(OPEN_MPI_4, "opt/mpi/lib/libmpi.so.40", &[]);
    place.program("bin/app", "opt/mpi/lib/libmpi.so.40", &[]);
    place.file("bin/loop", "#!/bin/loop\n");
    place.file("bin/empty", "");
    place.file("bin/elf", "\x7fELF\x02\x01\x01");
    symlink("circle", place.at("bin/circle")).expect("symlink");
    run(Command::new("mkfifo")
        .arg("-m")
        .arg("755")
        .arg(place.at("bin/fifo")));
    run(Command::new("mkfifo").arg(place.at("lib/libmpi.so.40")));
    fs::create_dir(place.at("usr/lib/libmpi.so.40")).expect("mkdir");
    for words in ["loop", "empty", "elf", "circle", "fifo", "/", "."] {
        // Anything but a hang, a panic or an MPI of its own.
        assert!(
            !matches!(place.ask(&[words]), ProgramMpi::With(_)),
            "{words}"
        );
    }
    assert_with(&place.ask(&["app"]), Family::OpenMpi, None, None);
}

#[test]
fn a_version_is_the_numbers_in_front() {
    let shown = |text: &str| Version::parse(text).map(|version| version.to_string());
    for (text, expected) in [
        ("4.1.4", Some("4.1.4")),
        ("4.2.2rc2", Some("4.2.2")),
        ("3.4a2", Some("3.4")),
        ("5", Some("5")),
        ("2021.19.0", Some("2021.19.0")),
        ("5.0.7.1", Some("5.0.7")),
        ("", None),
        ("a", None),
        ("99999999999", None),
    ] {
        assert_eq!(shown(text).as_deref(), expected, "{text}");
    }
}
