//! `davit pause`.

use clap::ArgMatches;

use super::Command;
use super::args::{Arity, container_id};
use super::global::Global;
use crate::container;

pub(super) const COMMAND: Command = Command {
    name: "pause",
    about: "suspends all processes inside the container",
    usage: "<container-id>",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    container::pause(&global.runtime, container_id(matches)?)?;
    Ok(0)
}
