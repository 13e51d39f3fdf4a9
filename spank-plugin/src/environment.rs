//! The variables of a task, changed from what they are outside to what they are
//! inside.
//!
//! Owns: the difference. What it should be is composed by [`launcher::env`].

use std::ffi::OsString;

use crate::client::is_ours;
use crate::ffi::Spank;

/// Variables with their values.
pub type Variables = Vec<(OsString, OsString)>;

/// What has to be done to get from one to the other: set these, remove those.
pub fn difference<'a>(
    outside: &'a [(OsString, OsString)],
    inside: &'a [(OsString, OsString)],
) -> (Vec<&'a (OsString, OsString)>, Vec<&'a OsString>) {
    let set = inside
        .iter()
        .filter(|pair| !outside.contains(pair))
        .collect();
    let remove = outside
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !inside.iter().any(|(other, _)| other == *name))
        .collect();
    (set, remove)
}

/// Makes the task's variables those of `inside`.
pub fn change(spank: Spank, outside: &[(OsString, OsString)], inside: &[(OsString, OsString)]) {
    let (set, remove) = difference(outside, inside);
    for name in remove {
        spank.remove_variable(name);
    }
    for (name, value) in set {
        spank.set_variable(name, value);
    }
}

/// Leaves out what only the plugin needs: a program that calls srun again does so
/// for another step.
pub fn leave_out_ours(variables: &mut Variables) {
    variables.retain(|(name, _)| !is_ours(name));
}

/// The same for a task that keeps all others.
pub fn forget_ours(spank: Spank) {
    for (name, _) in spank.environment() {
        if is_ours(&name) {
            spank.remove_variable(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_touched() {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let outside = [pair("A", "1"), pair("B", "2"), pair("C", "3")];
        let inside = [pair("A", "1"), pair("B", "x"), pair("D", "4")];
        let (set, remove) = difference(&outside, &inside);
        assert_eq!(set, [&inside[1], &inside[2]]);
        assert_eq!(remove, ["C"]);
    }
}
