//! `davit run`.

use anyhow::bail;
use clap::{Arg, ArgMatches};

use super::args::{Arity, switch};
use super::foreground::{self, Reaping, Session};
use super::global::Global;
use super::{Command, options};
use crate::container::{self, Console};

pub(super) const COMMAND: Command = Command {
    name: "run",
    about: "create and run a container",
    usage: "[command options] <container-id>\n\n\
            Runs the container of a bundle: \"davit create\" and \"davit start\" in one. Without --detach davit\n\
            waits for it, exits with its exit code (128 + N for signal N), and deletes it.",
    arity: Arity::Exactly(1),
    flags,
    run,
    failure: "davit run failed: ",
    failure_code: 1,
};

fn flags() -> Vec<Arg> {
    let mut flags = options::flags();
    flags.extend([
        switch("detach", "detach from the container's process").short('d'),
        switch("keep", "do not delete the container after it exits"),
        switch("no-subreaper", "do not adopt and reap orphaned processes"),
    ]);
    flags
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let socket = options::path(matches, "console-socket");
    if matches.get_flag("detach") {
        let console = socket.map_or(Console::Inherit, Console::Socket);
        let mut started = container::run(&global.runtime, options::create_options(matches, console)?)?;
        if let Some(socket) = &mut started.notify {
            foreground::wait_ready(socket, started.pid);
        }
        return Ok(0);
    }
    if socket.is_some() {
        bail!("cannot use console socket if davit will not detach or allocate tty");
    }
    let reaping = if matches.get_flag("no-subreaper") { Reaping::OwnChildren } else { Reaping::Orphans };
    // Whether there is a terminal is in config.json, which the library reads: it drops the socket if not.
    let (session, console) = Session::with_console(reaping)?;
    let options = options::create_options(matches, console)?;
    let id = options.id.clone();
    let mut started = container::run(&global.runtime, options)?;
    let code = foreground::wait(session, &mut started);
    if !matches.get_flag("keep") {
        // With force, since processes in a shared pid namespace outlive the init.
        if let Err(error) = container::delete(&global.runtime, &id, true) {
            log::warn!("delete container {id}: {error}");
        }
    }
    code
}
