//! What this host can and cannot do for containers, found out by trying, for `davit check`.
//!
//! Probes change nothing and leave nothing behind: calls are made with arguments that the kernel refuses, or
//! in a child that exits at once. They work as an ordinary user, about that user.

mod cgroups;
mod kernel;
mod security;
mod user;

use serde::Serialize;

/// What a finding means for containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All there.
    Ok,
    /// Containers run; something does not work, or works by a slower way.
    Limited,
    /// Not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What follows from it, in a sentence.
    pub consequence: String,
    /// Whether no container runs because of this.
    pub fatal: bool,
}

impl Finding {
    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        consequence: impl Into<String>,
    ) -> Self {
        Finding { name, verdict, found: found.into(), consequence: consequence.into(), fatal: false }
    }

    /// There or not: with what follows from each.
    fn there(name: &'static str, there: bool, with: &str, without: &str) -> Self {
        match there {
            true => Finding::new(name, Verdict::Ok, "yes", with),
            false => Finding::new(name, Verdict::Missing, "no", without),
        }
    }

    /// Marks it as one without which no container runs, when it is missing.
    fn needed(mut self) -> Self {
        self.fatal = self.verdict == Verdict::Missing;
        self
    }
}

/// Looks at everything.
#[must_use]
pub fn all() -> Vec<Finding> {
    [kernel::findings(), user::findings(), cgroups::findings(), security::findings()].concat()
}

/// The text of a small file, without the line break; `None` when it can't be read.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
