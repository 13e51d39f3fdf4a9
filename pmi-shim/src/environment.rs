//! The caller's variables, for many look-ups at little cost.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The environment of the process, borrowed and sorted by name.
///
/// One allocation and one sort (a few microseconds for two hundred variables);
/// a look-up is a binary search. Where a name occurs twice, which only execve(2)
/// by hand can do, the first one counts, as it does for getenv(3).
#[derive(Debug, Clone, Default)]
pub struct Environment<'a> {
    sorted: Vec<(&'a OsStr, &'a OsStr)>,
}

impl<'a> Environment<'a> {
    /// The environment as `std::env::vars_os()` collects it.
    pub fn of(pairs: &'a [(OsString, OsString)]) -> Self {
        pairs
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
            .collect()
    }

    /// The value of a variable; an empty value is a value.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&'a OsStr> {
        let name = name.as_ref();
        let first = self.sorted.partition_point(|&(other, _)| other < name);
        match self.sorted.get(first) {
            Some(&(found, value)) if found == name => Some(value),
            _ => None,
        }
    }

    /// Whether the variable is there at all.
    pub fn has(&self, name: impl AsRef<OsStr>) -> bool {
        self.get(name).is_some()
    }

    /// The value, where it is not empty and is text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// The value, where it is a decimal number and nothing else.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.text(name)?.parse().ok()
    }

    /// All variables, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> + '_ {
        self.sorted.iter().copied()
    }

    /// The variables whose names begin so, in the order of their names.
    pub(crate) fn beginning<'s>(
        &'s self,
        prefix: &'s str,
    ) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> + 's {
        let first = self
            .sorted
            .partition_point(|&(name, _)| name.as_bytes() < prefix.as_bytes());
        self.sorted[first..]
            .iter()
            .copied()
            .take_while(move |(name, _)| name.as_bytes().starts_with(prefix.as_bytes()))
    }
}

impl<'a> FromIterator<(&'a OsStr, &'a OsStr)> for Environment<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a OsStr, &'a OsStr)>>(pairs: I) -> Self {
        let mut sorted: Vec<_> = pairs.into_iter().collect();
        // Stable, so that of two equal names the first stays first.
        sorted.sort_by_key(|&(name, _)| name);
        Environment { sorted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    #[test]
    fn the_first_of_two_equal_names_counts() {
        let pairs = pairs(&[("B", "1"), ("A", "2"), ("B", "3")]);
        assert_eq!(Environment::of(&pairs).get("B"), Some(OsStr::new("1")));
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        let pairs = pairs(&[("A", "12"), ("B", "12 "), ("C", ""), ("D", "-1")]);
        let environment = Environment::of(&pairs);
        let numbers = ["A", "B", "C", "D", "E"].map(|name| environment.number(name));
        assert_eq!(numbers, [Some(12), None, None, None, None]);
    }

    #[test]
    fn a_prefix_finds_its_names_and_no_others() {
        let pairs = pairs(&[("PMIX", ""), ("PMIY", ""), ("PMIX_A", ""), ("PMI_A", "")]);
        let environment = Environment::of(&pairs);
        let found: Vec<_> = environment
            .beginning("PMIX")
            .map(|(name, _)| name)
            .collect();
        assert_eq!(found, ["PMIX", "PMIX_A"]);
    }
}
