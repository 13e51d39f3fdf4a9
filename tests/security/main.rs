//! What an attacker would try against the set-id starter: a user of the machine with
//! a shell, a compiler and time.
//!
//! The starter is really installed set-user-ID (`tests/privileged` does it, and runs
//! this), the attacker is really without privilege, and each test says what is
//! attempted and what must happen. Every test also fails if anything of the attacker's
//! is left behind: processes, mounts, loop devices, files.

#[path = "../cli/ground.rs"]
#[allow(dead_code)]
mod ground;

mod formats;
mod images;
mod joining;
mod layers;
mod others;
mod privileges;
mod processes;
mod races;
mod requests;
mod rules;
mod starter;
mod surroundings;
