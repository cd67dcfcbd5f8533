//! `davit delete`.

use clap::ArgMatches;

use super::Command;
use super::args::{Arity, container_id, matching_ids, regex_switch, switch};
use super::global::Global;
use crate::container::{self, Error};

pub(super) const COMMAND: Command = Command {
    name: "delete",
    about: "delete any resources held by a container",
    usage: "[command options] <container-id>\n\n\
            The container must be stopped or not started yet, unless --force is given.",
    arity: Arity::Exactly(1),
    flags: || {
        vec![
            switch("force", "kill the container with SIGKILL first; no error if it does not exist")
                .short('f'),
            regex_switch(),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let force = matches.get_flag("force");
    if !matches.get_flag("regex") {
        delete(global, container_id(matches)?, force)?;
        return Ok(0);
    }
    // As crun: what can't be deleted, because it runs, does not keep the others from it.
    for id in matching_ids(matches, &global.runtime)? {
        if let Err(error) = delete(global, &id, force) {
            log::warn!("container {id}: {error}");
        }
    }
    Ok(0)
}

fn delete(global: &Global, id: &str, force: bool) -> container::Result<()> {
    match container::delete(&global.runtime, id, force) {
        Err(Error::NotFound) if force => Ok(()),
        result => result,
    }
}
