//! `davit explain`: what create and start would do with a bundle.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::ArgMatches;
use serde_json::json;

use super::args::{Arity, path_parser, positionals, switch, value};
use super::global::Global;
use super::{Command, errno_text, json as go_json, options, print, process};
use crate::container::{self, Activation, Console, CreateOptions, RootSwitch};
use crate::plan::Description;

pub(super) const COMMAND: Command = Command {
    name: "explain",
    about: "print what create and start would do with a bundle, step by step, without doing it",
    usage: "[command options] [bundle]\n\n\
            Prints each step in order: who takes it (the runtime, or init: the container's first process), what it\n\
            acts on, and the kernel calls. Needs no root and no container; it is explained for\n\
            the user who asks. The bundle is the current directory\n\
            unless given.",
    arity: Arity::Between(0, 1),
    flags: || {
        vec![
            switch("json", "print one JSON document"),
            value("process", "explain an exec of this process.json in the bundle's container")
                .short('p')
                .value_parser(path_parser()),
            value("config", "read this file in place of the bundle's config.json")
                .short('f')
                .value_parser(path_parser()),
            value("bundle", "root of the bundle directory, in place of the argument")
                .short('b')
                .value_parser(path_parser()),
            value("id", "container id, which names the cgroup and the keyring (default: example)"),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

/// Version of the JSON document: grows when a key changes its meaning or goes away.
const DOCUMENT: u32 = 1;

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let given = match (options::path(matches, "bundle"), positionals(matches).next()) {
        (Some(_), Some(_)) => bail!("the bundle is given twice: by --bundle and as an argument"),
        (Some(path), None) => path,
        (None, argument) => argument.map_or_else(|| PathBuf::from("."), PathBuf::from),
    };
    let bundle = std::fs::canonicalize(&given)
        .map_err(|e| anyhow!("open bundle {}: {}", given.display(), errno_text(&e)))?;
    let options = CreateOptions {
        id: matches.get_one::<String>("id").map_or("example", String::as_str).to_owned(),
        bundle,
        config: options::config(matches)?,
        console: Console::Inherit,
        pid_file: None,
        pidfd_socket: None,
        root_switch: RootSwitch::Pivot,
        new_keyring: true,
        preserve_fds: 0,
        activation: Activation::default(),
    };
    let steps = match options::path(matches, "process") {
        Some(file) => container::explain_exec(&options, &process::from_file(&file)?)?,
        None => container::explain(&global.runtime, &options)?,
    };
    if matches.get_flag("json") {
        let document =
            json!({ "version": DOCUMENT, "bundle": options.bundle, "id": options.id, "steps": steps });
        return Ok(print(&(go_json::pretty(&document, "    ")? + "\n")));
    }
    Ok(print(&text(&steps)))
}

/// `  3 init    mount proc on /proc [fsopen fsconfig fsmount move_mount]`.
fn text(steps: &[Description]) -> String {
    let line = |(at, step): (usize, &Description)| {
        let by = format!("{:?}", step.by).to_lowercase();
        let object = if step.object.is_empty() { String::new() } else { format!(" {}", step.object) };
        let calls =
            if step.calls.is_empty() { String::new() } else { format!(" [{}]", step.calls.join(" ")) };
        format!("{:>3} {by:<7} {}{object}{calls}\n", at + 1, step.step)
    };
    steps.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::{Facts, Request, SwitchRoot, plan};

    /// What `davit spec` writes on a cgroup v2 host.
    #[test]
    fn the_default_document() {
        let spec = serde_json::from_str(&super::super::spec::default_document()).unwrap();
        let request =
            Request { id: "c1", bundle: Path::new("/b"), switch_root: SwitchRoot::Pivot, new_keyring: true };
        let plan = plan(&spec, &request, &Facts::default()).unwrap();
        let printed = text(&[plan.describe_entry(), plan.describe_steps()].concat());
        assert_eq!(printed, include_str!("explain/default.txt"), "{printed}");
    }
}
