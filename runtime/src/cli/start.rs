//! `davit start`.

use clap::ArgMatches;

use super::args::{Arity, container_id};
use super::global::Global;
use super::{Command, foreground, options};
use crate::container::{self, Status};

pub(super) const COMMAND: Command = Command {
    name: "start",
    about: "executes the user defined process in a created container",
    usage: "<container-id>",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let id = container_id(matches)?;
    let Some(manager) = options::notify_address() else {
        container::start(&global.runtime, id)?;
        return Ok(0);
    };
    // Before the program starts, which may say at once that it is ready.
    let socket = match container::state(&global.runtime, id)?.status {
        Status::Created => container::notify_socket(&global.runtime, id, &manager)?,
        _ => None,
    };
    container::start(&global.runtime, id)?;
    match socket {
        Some(mut socket) => foreground::wait_ready(&mut socket, container::state(&global.runtime, id)?.pid),
        None => log::warn!("NOTIFY_SOCKET is not passed on: the container was created without it"),
    }
    Ok(0)
}
