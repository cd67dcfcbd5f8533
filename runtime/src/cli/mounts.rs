//! `davit mounts`: adds mounts to a running container, and removes them.

use std::path::Path;

use anyhow::{Context, anyhow};
use clap::ArgMatches;
use oci_spec::runtime::Mount;
use serde_json::Value;

use super::args::{Arity, positionals};
use super::global::Global;
use super::{Command, errno_text};
use crate::container;
use crate::json::convert;

pub(super) const COMMAND: Command = Command {
    name: "mounts",
    about: "add mounts to a running container, or remove them",
    usage: "add|remove <container-id> <file>\n\n\
            The file holds the mounts section of config.json: a JSON array of mounts, or an object with it.\n\
            Sources are paths of the host, relative ones in the bundle; every kind of mount works but cgroup\n\
            and remount. With add all mounts are made or none. With remove only the destinations count.\n\n\
            \x20  davit mounts add box FILE\n\n\
            where FILE holds\n\n\
            \x20  [{\"destination\": \"/data\", \"source\": \"/srv/data\", \"options\": [\"rbind\", \"ro\"]}]",
    arity: Arity::Exactly(3),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let mut words = positionals(matches);
    let (action, id, file) = (words.next(), words.next(), words.next());
    let (Some(action), Some(id), Some(file)) = (action, id, file) else {
        return Err(anyhow!("want add or remove, a container id and a file"));
    };
    let id = id.to_str().ok_or_else(|| anyhow!("invalid container ID format: {id:?}"))?;
    match action.to_str() {
        Some("add") => container::add_mounts(&global.runtime, id, &read(Path::new(file))?)?,
        Some("remove") => container::remove_mounts(&global.runtime, id, &read(Path::new(file))?)?,
        _ => return Err(anyhow!("unknown action {action:?}: want add or remove")),
    }
    Ok(0)
}

fn read(file: &Path) -> anyhow::Result<Vec<Mount>> {
    let name = file.display();
    let bytes = std::fs::read(file).map_err(|error| anyhow!("read {name}: {}", errno_text(&error)))?;
    let value: Value = serde_json::from_slice(&bytes).with_context(|| format!("{name} is not JSON"))?;
    let list = match value {
        Value::Object(mut object) => object.remove("mounts").unwrap_or(Value::Null),
        other => other,
    };
    let mounts: Vec<Mount> =
        convert(&list).map_err(|error| anyhow!("{name}: want a JSON array of mounts: {error}"))?;
    if mounts.is_empty() {
        return Err(anyhow!("{name}: no mounts"));
    }
    Ok(mounts)
}
