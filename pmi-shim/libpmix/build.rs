//! Compiles OpenPMIx into a static library, and makes its declarations.
//!
//! Its own build system is not used. Autotools, flex and hwloc would have to be
//! there, and configuring takes longer than compiling; and the result would look
//! for plugins and settings in the file system of whatever image it runs in. What
//! configure finds out is known here: shadow/src/include/pmix_config.h. The
//! components are chosen below and linked in, and the few files in replaced/
//! stand in for parts that would read files or look at the hardware.
//!
//! The library is kept in the target directory under the hash of what it is made
//! from, so that profiles share it.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

const CHECKED_IN: &str = "src/bindings.rs";
const WRAPPER: &str = "../../wrapper-headers/pmix.h";

/// Whole directories of sources.
const DIRECTORIES: &[&str] = &[
    "class", "client", "common", "event", "include", "runtime", "server", "threads", "util",
    "mca/base",
];

/// Files of these that are not wanted: readers of settings and terminals.
const LEFT_OUT: &[&str] = &[
    "util/pmix_keyval_parse.c",
    "util/pmix_cmd_line.c",
    "util/pmix_timings.c",
    "common/pfexec_linux.c",
];

/// Every framework, and its components that are linked in.
const FRAMEWORKS: &[(&str, &[&str])] = &[
    // Every wire format of the clients and servers there are, from PMIx 2 on.
    ("bfrops", &["v20", "v21", "v3", "v4", "v41"]),
    // Job data over the connection: nothing is shared by files.
    ("gds", &["hash"]),
    ("pcompress", &[]),
    ("pdl", &[]),
    ("pif", &["posix_ipv4"]),
    ("pinstalldirs", &["config"]),
    // What programs have to say is given to the bridge.
    ("plog", &["default"]),
    ("pmdl", &[]),
    ("pnet", &[]),
    ("preg", &["native", "raw"]),
    ("psec", &["native", "none"]),
    ("psensor", &[]),
    ("psquash", &["native", "flex128"]),
    ("pstat", &[]),
    ("ptl", &["client", "server"]),
];

fn main() {
    for input in ["build.rs", "shadow", "replaced", WRAPPER, CHECKED_IN] {
        println!("cargo::rerun-if-changed={input}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let tree = openpmix_src::source_dir();
    let version = Version::read(&tree);
    let made = out.join("made");
    generate_headers(&tree, &version, &made);
    write(&out.join("bindings.rs"), &bindings(&tree, &made));
    link(&library(&tree, &made, &out));
}

/// The library, compiled unless an earlier build has left it.
fn library(tree: &Path, made: &Path, out: &Path) -> PathBuf {
    let mut hash = DefaultHasher::new();
    for input in ["build.rs", "shadow", "replaced"] {
        hash_files(Path::new(input), &mut hash);
    }
    tree.hash(&mut hash);
    std::env::var_os("TARGET").hash(&mut hash);
    let kept = target_directory(out).join(format!("libpmix/{:016x}", hash.finish()));
    if !kept.join("libpmix.a").is_file() {
        let fresh = out.join("objects");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).expect("OUT_DIR can be written to");
        compile(tree, made, &fresh);
        fs::create_dir_all(&kept).expect("the target directory can be written to");
        // By way of a rename: another profile may be building it too.
        let own = kept.join(format!("{}.a", std::process::id()));
        fs::copy(fresh.join("libpmix.a"), &own).expect("the library was made");
        fs::rename(&own, kept.join("libpmix.a")).expect("renamed beside itself");
        let _ = fs::remove_dir_all(&fresh);
    }
    kept
}

fn compile(tree: &Path, made: &Path, fresh: &Path) {
    let source = tree.join("src");
    let mut sources = c_files(Path::new("replaced"));
    sources.extend(c_files(&made.join("src")));
    for directory in DIRECTORIES {
        sources.extend(c_files(&source.join(directory)));
    }
    for (framework, components) in FRAMEWORKS {
        let framework = source.join("mca").join(framework);
        sources.extend(c_files(&framework.join("base")));
        for component in *components {
            sources.extend(c_files(&framework.join(component)));
        }
    }
    sources.retain(|file| !LEFT_OUT.iter().any(|left_out| file.ends_with(left_out)));
    cc::Build::new()
        .files(sources)
        // Its sources name headers by any end of their paths.
        .includes(["shadow", "shadow/src/include"])
        .includes([
            made.join(""),
            made.join("include"),
            made.join("src/include"),
        ])
        .includes([
            tree.join(""),
            tree.join("include"),
            tree.join("src"),
            tree.join("src/include"),
        ])
        // The same in every profile: nobody debugs it here.
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .flag("-fno-strict-aliasing")
        .flag("-w")
        .cargo_metadata(false)
        .out_dir(fresh)
        .compile("pmix");
}

/// Tells cargo what to link: the library, and Debian's static libevent below it.
fn link(kept: &Path) {
    println!("cargo::rustc-link-search=native={}", kept.display());
    println!("cargo::rustc-link-lib=static=pmix");
    let compiler = cc::Build::new().get_compiler();
    for name in ["event_core", "event_pthreads"] {
        let asked = compiler
            .to_command()
            .arg(format!("-print-file-name=lib{name}.a"))
            .output()
            .expect("a C compiler is installed");
        let answer = String::from_utf8_lossy(&asked.stdout);
        let place = Path::new(answer.trim());
        // The compiler prints the bare name of what it does not find.
        match place.parent().filter(|parent| parent.is_absolute()) {
            Some(directory) => println!("cargo::rustc-link-search=native={}", directory.display()),
            None => panic!("lib{name}.a is not installed: packages/install build"),
        }
        println!("cargo::rustc-link-lib=static={name}");
    }
}

/// What autogen and configure would write.
fn generate_headers(tree: &Path, version: &Version, made: &Path) {
    let template = |name: &str| {
        let path = tree.join("include").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let common = template("pmix_common.h.in").replace(
        "#undef PMIX_HAVE_VISIBILITY",
        "#define PMIX_HAVE_VISIBILITY 1",
    );
    let Version {
        major,
        minor,
        release,
    } = *version;
    let numbers = template("pmix_version.h.in")
        .replace("@pmixmajor@", &major.to_string())
        .replace("@pmixminor@", &minor.to_string())
        .replace("@pmixrelease@", &release.to_string())
        .replace(
            "@pmixnumeric@",
            &format!("0x{major:04x}{minor:02x}{release:02x}"),
        );
    write(&made.join("include/pmix_version.h"), &numbers);
    write(
        &made.join("src/include/pmix_event_strings.h"),
        EVENTS_HEADER,
    );
    write(
        &made.join("src/include/pmix_event_strings.c"),
        &events(&common),
    );
    write(
        &made.join("src/include/pmix_dictionary.h"),
        DICTIONARY_HEADER,
    );
    write(&made.join("include/pmix_common.h"), &common);
    write(
        &made.join("src/include/pmix_config_version.h"),
        &format!(
            "#define PMIX_MAJOR_VERSION {major}\n#define PMIX_MINOR_VERSION {minor}\n\
             #define PMIX_RELEASE_VERSION {release}\n\
             #define PMIX_VERSION \"{major}.{minor}.{release}\"\n\
             #define PMIX_REPO_REV PMIX_VERSION\n#define PMIX_STD_VERSION \"5.1\"\n\
             #define PMIX_STD_ABI_STABLE_VERSION \"5.0\"\n\
             #define PMIX_STD_ABI_PROVISIONAL_VERSION \"5.0\"\n"
        ),
    );
    generate_frameworks(made);
}

fn generate_frameworks(made: &Path) {
    let mut header = "#pragma once\n#include \"src/mca/base/pmix_mca_base_framework.h\"\n\
                      extern pmix_mca_base_framework_t *pmix_frameworks[];\n\
                      extern char *pmix_framework_names[];\n"
        .to_owned();
    let (mut all, mut names) = (String::new(), String::new());
    for (framework, components) in FRAMEWORKS {
        let _ = writeln!(
            header,
            "extern pmix_mca_base_framework_t pmix_{framework}_base_framework;"
        );
        let _ = write!(all, "&pmix_{framework}_base_framework, ");
        let _ = write!(names, "\"{framework}\", ");
        let (mut declared, mut listed) = (String::new(), String::new());
        for component in *components {
            let name = format!("pmix_mca_{framework}_{component}_component");
            let _ = writeln!(declared, "extern const pmix_mca_base_component_t {name};");
            let _ = write!(listed, "&{name}, ");
        }
        write(
            &made.join(format!("src/mca/{framework}/base/static-components.h")),
            &format!(
                "{declared}const pmix_mca_base_component_t \
                 *pmix_mca_{framework}_base_static_components[] = {{{listed}NULL}};\n"
            ),
        );
    }
    write(&made.join("src/include/pmix_frameworks.h"), &header);
    write(
        &made.join("src/include/pmix_frameworks.c"),
        &format!(
            "#include \"src/include/pmix_config.h\"\n#include \"src/include/pmix_frameworks.h\"\n\
             pmix_mca_base_framework_t *pmix_frameworks[] = {{{all}NULL}};\n\
             char *pmix_framework_names[] = {{{names}\"mca\", NULL}};\n"
        ),
    );
}

const EVENTS_HEADER: &str = "#pragma once\n#include \"src/include/pmix_config.h\"\n\
    #include \"src/include/pmix_globals.h\"\n#include \"pmix_common.h\"\n\
    extern const pmix_event_string_t pmix_event_strings[];\n\
    extern const size_t pmix_event_count;\n\
    #define PMIX_EVENT_INDEX_BOUNDARY pmix_event_count\n";

/// The dictionary says which types the attributes have, for tools that show them.
/// A client or a server looks attributes up by their strings, and numbers those
/// it meets: an empty one is filled in microseconds less.
const DICTIONARY_HEADER: &str = "#pragma once\n#include \"src/include/pmix_config.h\"\n\
    #include \"src/include/pmix_globals.h\"\n\
    static const pmix_regattr_input_t pmix_dictionary[1];\n#define PMIX_INDEX_BOUNDARY 0\n";

/// The names of the status codes, from the header that defines them.
fn events(common: &str) -> String {
    let mut table = String::new();
    let mut count = 0;
    for line in common.lines() {
        let mut words = line.split_whitespace();
        let (Some("#define"), Some(name), Some(code)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let is_status =
            name == "PMIX_SUCCESS" || name.starts_with("PMIX_ERR") || code.starts_with('-');
        if name.starts_with("PMIX_") && is_status && code.parse::<i32>().is_ok() {
            let _ = writeln!(
                table,
                "{{.index = {count}, .name = \"{name}\", .code = {code}}},"
            );
            count += 1;
        }
    }
    format!(
        "#include \"src/include/pmix_event_strings.h\"\n\
         const pmix_event_string_t pmix_event_strings[] = {{\n{table}}};\n\
         const size_t pmix_event_count = {count};\n"
    )
}

/// The declarations: from the headers where libclang can be loaded, otherwise
/// those that are checked in. The crate that brings the headers is of one version.
fn bindings(tree: &Path, made: &Path) -> String {
    // bindgen panics where libclang cannot be loaded.
    std::panic::set_hook(Box::new(|_| {}));
    let generated = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header(WRAPPER)
            .clang_arg(format!("-I{}", made.join("include").display()))
            .clang_arg(format!("-I{}", tree.join("include").display()))
            .allowlist_function("PMIx_(Init|Initialized|Finalize|Abort|Put|Commit|Fence|Get|Resolve_nodes|Resolve_peers)")
            .allowlist_function("PMIx_(Register|Deregister)_event_handler")
            .allowlist_function("PMIx_(generate_regex|generate_ppn|Error_string|Notify_event)")
            .allowlist_function("PMIx_server_(init|finalize|register_nspace|deregister_nspace|register_client|deregister_client|setup_fork|dmodex_request)")
            .allowlist_function("PMIx_(Value|Info|Data_array|Argv|Proc)_(load|free|create|destruct|list.*)")
            .allowlist_var("PMIX_.*")
            .blocklist_var("PMIX_(HAVE|WRAPPER)_.*")
            .default_enum_style(bindgen::EnumVariation::Consts)
            .layout_tests(false)
            .generate_comments(false)
            .generate_cstr(true)
            .generate()
            .ok()
            .map(|bindings| bindings.to_string())
    });
    let _ = std::panic::take_hook();
    generated.ok().flatten().unwrap_or_else(|| {
        fs::read_to_string(CHECKED_IN).expect("the bindings are in the source tree")
    })
}

/// The version of the sources.
struct Version {
    major: u32,
    minor: u32,
    release: u32,
}

impl Version {
    fn read(tree: &Path) -> Version {
        let text = fs::read_to_string(tree.join("VERSION")).expect("the sources have a VERSION");
        let number = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix('=')?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or_else(|| panic!("VERSION says no {name}"))
        };
        Version {
            major: number("major"),
            minor: number("minor"),
            release: number("release"),
        }
    }
}

/// The root of cargo's target directory, which it marks: above TARGET/PROFILE/build/
/// PACKAGE/out, with or without the first.
fn target_directory(out: &Path) -> PathBuf {
    let marked = |place: &&Path| place.join("CACHEDIR.TAG").is_file();
    let place = [5, 4]
        .into_iter()
        .filter_map(|above| out.ancestors().nth(above))
        .find(marked);
    place.unwrap_or(out).to_path_buf()
}

/// The C sources in a directory, sorted; none where there is no such directory.
fn c_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !directory.ends_with("base") && directory.ends_with("src") {
            found.extend(c_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "c") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn hash_files(path: &Path, hash: &mut DefaultHasher) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        for entry in entries {
            hash_files(&entry, hash);
        }
    } else {
        path.hash(hash);
        fs::read(path).unwrap_or_default().hash(hash);
    }
}

fn write(path: &Path, text: &str) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("OUT_DIR can be written to");
    }
    fs::write(path, text).expect("OUT_DIR can be written to");
}
