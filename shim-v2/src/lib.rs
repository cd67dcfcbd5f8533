//! containerd-shim-davit-v2: a containerd shim (runtime v2) that runs containers with davit. All of it but `main`,
//! so that its parsers can be fuzzed.

mod api;
mod backend;
mod calls;
mod checkpoint;
mod config;
mod copying;
mod delete;
mod drain;
mod events;
mod exec;
mod exits;
mod flags;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod info;
mod io;
mod jobs;
mod lifecycle;
mod living;
mod logging;
mod mount;
mod oom;
mod options;
mod reactor;
mod record;
mod serve;
mod sha256;
mod start;
mod state;
mod stats;
mod task;
mod text;
mod wire;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use flags::{Action, Flags};

/// The program: reads the command line, and what goes wrong is its exit code and a line on stderr.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this text to its user.
            let _ = writeln!(std::io::stderr(), "containerd-shim-davit-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    let action = flags.action()?;
    match action {
        Action::Version => return info::version(),
        Action::Info => return info::run(),
        Action::Start | Action::Delete | Action::Serve => {}
    }
    if flags.namespace.is_empty() {
        bail!("shim namespace cannot be empty");
    }
    if flags.id.is_empty() {
        bail!("shim id cannot be empty");
    }
    match action {
        Action::Start => print(&start::run(&flags)?),
        Action::Delete => print(&delete::run(&flags)?),
        _ => serve::run(&flags).context("serve"),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).context("write to stdout")
}
