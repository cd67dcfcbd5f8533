//! `regex` under its own name, implemented by `regex-lite`, with what the users of this workspace need of it.
//!
//! oci-spec depends on `regex` for one ASCII pattern. The real crate adds 1.3 MB and thousands of relocations to each
//! binary (see the workspace's Cargo.toml), and `regex-lite` 40 KB; so that pattern is matched here. It is a constant
//! where it is given to [`Regex::new`]: the compiler leaves `regex-lite` out of a program that has no other one.

use std::borrow::Cow;

pub use regex_lite::{Captures, Error, Replacer};

/// oci-spec's: process.execCPUAffinity.
const RANGES: &str = r"^(\d+(-\d+)?)(,\d+(-\d+)?)*$";

/// A pattern.
#[derive(Clone, Debug)]
pub struct Regex(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Ranges,
    Other(regex_lite::Regex),
}

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    // Inlined for the comparison of constants that leaves the other branch out.
    #[inline(always)]
    #[allow(clippy::inline_always)]
    pub fn new(pattern: &str) -> Result<Self, Error> {
        if pattern == RANGES {
            return Ok(Regex(Kind::Ranges));
        }
        regex_lite::Regex::new(pattern).map(|other| Regex(Kind::Other(other)))
    }

    /// Whether the pattern is somewhere in the text.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        match &self.0 {
            Kind::Ranges => are_ranges(text),
            Kind::Other(other) => other.is_match(text),
        }
    }

    /// The first match, with its groups.
    #[must_use]
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.full().captures(text)
    }

    /// The text with all matches replaced.
    pub fn replace_all<'t, R: Replacer>(&self, text: &'t str, by: R) -> Cow<'t, str> {
        self.full().replace_all(text, by)
    }

    fn full(&self) -> Cow<'_, regex_lite::Regex> {
        match &self.0 {
            Kind::Ranges => Cow::Owned(regex_lite::Regex::new(RANGES).expect("it compiles")),
            Kind::Other(other) => Cow::Borrowed(other),
        }
    }
}

fn are_ranges(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.split(',').all(|range| match range.split_once('-') {
        Some((first, last)) => number(first) && number(last),
        None => number(range),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts of up to six of the characters that matter.
    #[test]
    fn ranges_match_as_the_pattern_does() {
        let (ours, full) = (Regex::new(RANGES).unwrap(), regex_lite::Regex::new(RANGES).unwrap());
        assert!(matches!(ours.0, Kind::Ranges));
        let mut texts = vec![String::new()];
        let mut first = 0;
        for _ in 0..6 {
            let longer = texts[first..].iter().flat_map(|text| ['7', '-', ',', 'x'].map(|c| format!("{text}{c}")));
            let longer: Vec<_> = longer.collect();
            first = texts.len();
            texts.extend(longer);
        }
        texts.extend(["0-3,7\n", "\u{661}", "1-2-3", " 1"].map(str::to_owned));
        for text in texts {
            assert_eq!(ours.is_match(&text), full.is_match(&text), "{text:?}");
        }
    }

    #[test]
    fn other_patterns_are_those_of_regex_lite() {
        let regex = Regex::new("a(b+)").unwrap();
        assert!(regex.is_match("xabb") && !regex.is_match("xa"));
        assert_eq!(&regex.captures("xabb").unwrap()[1], "bb");
        assert_eq!(regex.replace_all("ab abb", "-"), "- -");
        assert_eq!(&Regex::new(RANGES).unwrap().captures("1,2").unwrap()[1], "1");
        Regex::new("(").unwrap_err();
    }
}
