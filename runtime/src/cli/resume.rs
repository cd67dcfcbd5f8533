//! `davit resume`.

use clap::ArgMatches;

use super::Command;
use super::args::{Arity, container_id};
use super::global::Global;
use crate::container;

pub(super) const COMMAND: Command = Command {
    name: "resume",
    about: "resumes all processes that have been paused",
    usage: "<container-id>",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    container::resume(&global.runtime, container_id(matches)?)?;
    Ok(0)
}
