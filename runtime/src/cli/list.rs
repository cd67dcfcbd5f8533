//! `davit list`.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::ArgMatches;
use nix::unistd::{Uid, User};

use super::args::{Arity, switch, value};
use super::global::Global;
use super::state::Record;
use super::{Command, json, print, table};
use crate::container::{self, ContainerState};

pub(super) const COMMAND: Command = Command {
    name: "list",
    about: "lists containers started by davit with the given root",
    usage: "[command options]\n\n\
            The root is given by the global option --root (default: /run/davit).",
    arity: Arity::Exactly(0),
    flags: || {
        vec![
            value("format", "select one of: table or json (default: table)").short('f'),
            switch("quiet", "display only container IDs").short('q'),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let format = matches.get_one::<String>("format").map_or("table", String::as_str);
    if !["table", "json"].contains(&format) {
        bail!("invalid format option");
    }
    let states = container::list(&global.runtime)?;
    if matches.get_flag("quiet") {
        return Ok(print(&states.iter().fold(String::new(), |text, state| text + &state.id + "\n")));
    }
    // The user database is asked once for each owner, not for each container.
    let mut names = BTreeMap::new();
    for state in &states {
        names.entry(state.owner_uid).or_insert_with(|| owner(state.owner_uid));
    }
    let name = |state: &ContainerState| names.get(&state.owner_uid).cloned().unwrap_or_default();
    let owned: Vec<_> = states.iter().map(|state| (state, name(state))).collect();
    if format == "json" {
        return Ok(print(&as_json(&owned)?));
    }
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
    let rows = owned.iter().map(|(state, owner)| {
        let ContainerState { id, pid, status, bundle, created, .. } = state;
        let (pid, bundle) = (pid.to_string(), bundle.display().to_string());
        [id.clone(), pid, status.as_str().to_owned(), bundle, created.clone(), owner.clone()]
    });
    Ok(print(&table::elastic(std::iter::once(header).chain(rows))))
}

/// An array; `null` for none, as Go prints an empty slice.
fn as_json(owned: &[(&ContainerState, String)]) -> anyhow::Result<String> {
    if owned.is_empty() {
        return Ok("null\n".to_owned());
    }
    let records: Vec<_> = owned.iter().map(|(state, owner)| Record::new(state, owner)).collect();
    Ok(json::compact(&records)? + "\n")
}

/// Name of the owner, or `#uid` for one without an entry in the host's user database.
fn owner(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    }
}
