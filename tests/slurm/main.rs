//! The plugin on a real cluster of two nodes, as users and site administrators
//! meet it.
//!
//! All cases share one cluster and run one after another: they look at the same
//! nodes for what is left behind, and two cores are soon full of ranks. Words on
//! the command line choose cases by parts of their names.

mod attacks;
mod bench;
mod bridge;
mod entering;
mod faults;
mod ground;
mod layers;
mod like_host;
mod limits;
mod mpi;
mod options;
mod prolog;
mod rules;
mod shape;
mod site;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use ground::Ground;

/// A case: its name, and what it does.
pub type Case = (&'static str, fn(&Ground));

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let chosen: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let cases: Vec<Case> = [
        shape::CASES,
        options::CASES,
        entering::CASES,
        like_host::CASES,
        prolog::CASES,
        site::CASES,
        rules::CASES,
        mpi::CASES,
        bridge::CASES,
        faults::CASES,
        attacks::CASES,
        layers::CASES,
        limits::CASES,
        bench::CASES,
    ]
    .concat()
    .into_iter()
    .filter(|(name, _)| match chosen.is_empty() {
        true => !name.starts_with("bench"),
        false => chosen.iter().any(|word| name.contains(*word)),
    })
    .collect();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in cases {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let ground = Ground::new();
    let mut failed = Vec::new();
    for (name, case) in &cases {
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| ground.run(*case)));
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        );
        if result.is_err() {
            failed.push(*name);
        }
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {}",
        if failed.is_empty() { "ok" } else { "FAILED" },
        cases.len() - failed.len(),
        failed.len(),
        failed.join(" ")
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
