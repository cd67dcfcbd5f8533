//! Comparing what was seen, line by line. A difference that is meant has an entry with its reason; any other
//! fails, and so does an entry that no longer occurs.

use std::collections::BTreeSet;

use crate::observe::Line;

/// A difference that is meant.
pub struct Difference {
    /// The cases that have it. `*` in front: others may have it too.
    pub cases: &'static [&'static str],
    /// The section of the lines.
    pub section: &'static str,
    /// What a line that only davit has contains; `None`: davit lacks a line that runc has.
    pub davit: Option<&'static str>,
    /// What a line that only runc has contains; `None`: runc lacks it.
    pub runc: Option<&'static str>,
    /// Why it is meant.
    pub reason: &'static str,
}

impl Difference {
    fn may_occur_in(&self, case: &str) -> bool {
        self.cases.contains(&"*") || self.must_occur_in(case)
    }

    fn must_occur_in(&self, case: &str) -> bool {
        self.cases.contains(&case)
    }
}

/// Sections in which davit may have lines that runc lacks.
const SUPERSETS: [&str; 1] = ["state.json"];

/// The section that a case has when it could not be run. A case that fails alike with both shows nothing.
pub const FAILURE: &str = "failure";

/// All that is wrong, a line each.
pub fn compare(case: &str, davit: &[Line], runc: &[Line], meant: &[Difference]) -> Vec<String> {
    let meant: Vec<&Difference> = meant.iter().filter(|d| d.may_occur_in(case)).collect();
    // Where one failed there is nothing else to compare.
    let failed = davit.iter().chain(runc).any(|(section, _)| section == FAILURE);
    let only_failure = |all: &[Line]| {
        all.iter().filter(|(section, _)| !failed || section == FAILURE).cloned().collect::<Vec<_>>()
    };
    let (davit, runc) = (&only_failure(davit), &only_failure(runc));
    let mut used = BTreeSet::new();
    let mut problems = Vec::new();
    if !davit.is_empty() && davit == runc && failed {
        problems.push(format!("{case}: fails with both: {davit:?}"));
    }
    let names: BTreeSet<&String> = davit.iter().chain(runc).map(|(section, _)| section).collect();
    for name in names {
        let of = |all: &[Line]| -> Vec<String> {
            all.iter().filter(|(section, _)| section == name).map(|(_, line)| line.clone()).collect()
        };
        let (ours, theirs) = (of(davit), of(runc));
        let mut report = |who: &str, lines: &[String], others: &[String], side: Side| {
            for line in lines.iter().filter(|line| !others.contains(line)) {
                let entry =
                    meant.iter().position(|d| d.section == name && side(d).is_some_and(|t| line.contains(t)));
                match entry {
                    Some(entry) => {
                        used.insert((entry, who.to_owned()));
                    }
                    None => problems.push(format!("{case}: {name}: only {who}: {line}")),
                }
            }
        };
        if !SUPERSETS.contains(&name.as_str()) {
            report("davit", &ours, &theirs, |d| d.davit);
        }
        report("runc", &theirs, &ours, |d| d.runc);
        let common = |a: &[String], b: &[String]| {
            a.iter().filter(|line| b.contains(line)).cloned().collect::<Vec<_>>()
        };
        if common(&ours, &theirs) != common(&theirs, &ours) {
            problems.push(format!("{case}: {name}: another order: davit {ours:#?} runc {theirs:#?}"));
        }
    }
    for (entry, difference) in meant.iter().enumerate().filter(|(_, d)| d.must_occur_in(case)) {
        let sides = [("davit", difference.davit), ("runc", difference.runc)];
        for (who, text) in sides {
            if let (Some(text), false) = (text, used.contains(&(entry, who.to_owned()))) {
                let reason = difference.reason;
                problems.push(format!("{case}: stale entry: only {who}: {text:?} does not occur ({reason})"));
            }
        }
    }
    problems
}

type Side = fn(&Difference) -> Option<&'static str>;
