//! The built file itself.

use std::process::Command;

use crate::ground::Ground;
use crate::Case;

pub const CASES: &[Case] = &[
    (
        "only_hooks_in_use_are_exported",
        only_hooks_in_use_are_exported,
    ),
    (
        "no_function_of_slurms_is_needed_to_load",
        no_function_of_slurms_is_needed_to_load,
    ),
];

fn symbols(ground: &Ground, option: &str) -> Vec<String> {
    let output = Command::new("nm")
        .args(["--dynamic", option, "--format=posix"])
        .arg(&ground.plugin)
        .output()
        .expect("nm comes with every compiler");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

fn only_hooks_in_use_are_exported(ground: &Ground) {
    assert_eq!(
        symbols(ground, "--defined-only"),
        [
            "plugin_name",
            "plugin_type",
            "plugin_version",
            "slurm_spank_init",
            "slurm_spank_init_post_opt",
            "slurm_spank_task_init",
            "slurm_spank_task_init_privileged",
            "slurm_spank_user_init",
            "spank_plugin_version",
        ]
    );
}

fn no_function_of_slurms_is_needed_to_load(ground: &Ground) {
    for name in symbols(ground, "--undefined-only") {
        assert!(!name.contains("spank") && !name.contains("slurm"), "{name}");
    }
}
