//! `davit check`: what this host can and cannot do for containers.

use clap::ArgMatches;
use serde_json::json;

use super::args::{Arity, switch};
use super::global::Global;
use super::{Command, json as go_json, print};
use crate::probe::{self, Finding};

pub(super) const COMMAND: Command = Command {
    name: "check",
    about: "tell what this host can and cannot do for containers, and what follows from it",
    usage: "[command options]\n\n\
            Tries each feature of the kernel and looks at cgroups, security modules and helper programs. Nothing is\n\
            changed. As an ordinary user it tells what that user can do. Exits with 0 unless no container can run.",
    arity: Arity::Exactly(0),
    flags: || vec![switch("json", "print one JSON document")],
    run,
    failure: "",
    failure_code: 1,
};

/// Version of the JSON document: grows when a key changes its meaning or goes away.
const DOCUMENT: u32 = 1;

fn run(_global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let findings = probe::all();
    let runs = !findings.iter().any(|finding| finding.fatal);
    let written = if matches.get_flag("json") {
        let document = json!({ "version": DOCUMENT, "runs": runs, "checks": findings });
        print(&(go_json::pretty(&document, "    ")? + "\n"))
    } else {
        print(&text(&findings, runs))
    };
    Ok(if runs { written } else { 1 })
}

/// `limited  security modules: none`, and the consequence on a line of its own.
fn text(findings: &[Finding], runs: bool) -> String {
    let mut text = String::new();
    for Finding { name, verdict, found, consequence, .. } in findings {
        let verdict = format!("{verdict:?}").to_lowercase();
        text.push_str(&format!("{verdict:<8} {name}: {found}\n         {consequence}\n"));
    }
    text.push_str(if runs { "Containers can run here.\n" } else { "No container can run here.\n" });
    text
}
