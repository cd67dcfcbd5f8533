//! `davit kill`.

use clap::ArgMatches;

use super::args::{Arity, container_id, matching_ids, positionals, regex_switch, switch};
use super::global::Global;
use super::{Command, signal};
use crate::container::{self, Error, KillTarget};

pub(super) const COMMAND: Command = Command {
    name: "kill",
    about: "sends a signal (default: SIGTERM) to the container's init process",
    usage: "[command options] <container-id> [signal]\n\n\
            The signal is a number or a name, with or without SIG: 9, KILL, SIGKILL, RTMIN+3.",
    arity: Arity::Between(1, 2),
    flags: || {
        vec![
            switch("all", "send the signal to all processes inside the container").short('a'),
            regex_switch(),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let word = positionals(matches).nth(1).unwrap_or_default().to_string_lossy();
    let number = signal::parse(if word.is_empty() { "SIGTERM" } else { &word })?;
    let target = if matches.get_flag("all") { KillTarget::All } else { KillTarget::Init };
    if !matches.get_flag("regex") {
        return match container::kill(&global.runtime, container_id(matches)?, number, target) {
            // runc since 1.2: to kill all of nothing is done.
            Err(Error::NotRunning) if target == KillTarget::All => Ok(0),
            result => Ok(result.map(|()| 0)?),
        };
    }
    // As crun: what can't be signalled, because it has stopped, does not keep the others from it.
    for id in matching_ids(matches, &global.runtime)? {
        if let Err(error) = container::kill(&global.runtime, &id, number, target) {
            log::warn!("container {id}: {error}");
        }
    }
    Ok(0)
}
