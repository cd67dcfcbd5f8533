//! `davit delete`.

use clap::ArgMatches;

use super::Command;
use super::args::{Arity, container_id, switch};
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
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let force = matches.get_flag("force");
    match container::delete(&global.runtime, container_id(matches)?, force) {
        Err(Error::NotFound) if force => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}
