//! `davit create`.

use clap::ArgMatches;

use super::args::{Arity, switch};
use super::global::Global;
use super::{Command, options};
use crate::container::{self, Console};

pub(super) const COMMAND: Command = Command {
    name: "create",
    about: "create a container",
    usage: "[command options] <container-id>\n\n\
            Makes the container of a bundle and leaves its process waiting for \"davit start\". The bundle is a\n\
            directory with a config.json and a root filesystem. The id must be unique on the host.",
    arity: Arity::Exactly(1),
    flags: || {
        let mut flags = options::flags();
        flags.push(switch("no-subreaper", "ignored").hide(true));
        flags
    },
    run,
    failure: container::CREATE_FAILED,
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    if matches.get_flag("no-subreaper") {
        log::warn!("--no-subreaper has no effect on create");
    }
    let console = options::path(matches, "console-socket").map_or(Console::Inherit, Console::Socket);
    container::create(&global.runtime, options::create_options(matches, console)?)?;
    Ok(0)
}
