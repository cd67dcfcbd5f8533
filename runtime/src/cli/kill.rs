//! `davit kill`.

use clap::ArgMatches;

use super::args::{Arity, container_id, positionals, switch};
use super::global::Global;
use super::{Command, signal};
use crate::container::{self, KillTarget};

pub(super) const COMMAND: Command = Command {
    name: "kill",
    about: "sends a signal (default: SIGTERM) to the container's init process",
    usage: "[command options] <container-id> [signal]\n\n\
            The signal is a number or a name, with or without SIG: 9, KILL, SIGKILL.",
    arity: Arity::Between(1, 2),
    flags: || vec![switch("all", "send the signal to all processes inside the container").short('a')],
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let id = container_id(matches)?;
    let word = positionals(matches).nth(1).unwrap_or_default().to_string_lossy();
    let number = signal::parse(if word.is_empty() { "SIGTERM" } else { &word })?;
    let target = if matches.get_flag("all") { KillTarget::All } else { KillTarget::Init };
    container::kill(&global.runtime, id, number, target)?;
    Ok(0)
}
