//! The command line: runc's commands and flags, one file per command.
//!
//! A call goes through four steps: [`args::scan`] finds the command word; [`args`] turns Go's flag syntax
//! into clap's; the command runs; its error, if any, becomes one sentence (see [`crate::logging::fatal`]).

use std::ffi::OsString;
use std::io::Write;

use clap::{Arg, ArgMatches};

use crate::logging;
use crate::sys::process::exit_now;

mod args;
mod check;
mod checkpoint;
mod completion;
mod console;
mod create;
mod delete;
mod events;
mod exec;
mod explain;
mod features;
mod foreground;
mod global;
mod help;
mod json;
mod kill;
mod list;
mod man;
mod mounts;
mod options;
mod pause;
mod proc_table;
pub(crate) mod process;
pub(crate) mod ps;
mod restore;
mod resume;
mod run;
mod seccomp;
mod signal;
mod spec;
mod start;
mod state;
mod table;
pub(crate) mod update;

pub use features::document as features_document;

use args::Arity;
use global::Global;

pub use crate::spec::OCI_VERSION as SPEC_VERSION;
/// davit's own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit that the build was made from, set by the release build.
pub const COMMIT: &str = match option_env!("DAVIT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// One command: its texts, its flags, and the function that does it.
struct Command {
    name: &'static str,
    /// What the list of commands says of it.
    about: &'static str,
    /// What follows `davit NAME` in the usage line.
    usage: &'static str,
    /// How many positional arguments it takes.
    arity: Arity,
    /// Its flags.
    flags: fn() -> Vec<Arg>,
    /// Does it and returns the exit code.
    run: fn(&Global, &ArgMatches) -> anyhow::Result<i32>,
    /// What an error's sentence begins with, as runc's does.
    failure: &'static str,
    /// Exit code of an error.
    failure_code: i32,
}

static COMMANDS: &[&Command] = &[
    &check::COMMAND,
    &checkpoint::COMMAND,
    &completion::COMMAND,
    &create::COMMAND,
    &delete::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &explain::COMMAND,
    &features::COMMAND,
    &kill::COMMAND,
    &list::COMMAND,
    &man::COMMAND,
    &mounts::COMMAND,
    &pause::COMMAND,
    &ps::COMMAND,
    &restore::COMMAND,
    &resume::COMMAND,
    &run::COMMAND,
    &seccomp::COMMAND,
    &spec::COMMAND,
    &start::COMMAND,
    &state::COMMAND,
    &update::COMMAND,
];

/// Commands that run code in a container while it could look at this process.
const ENTERING: [&str; 5] = ["create", "exec", "mounts", "restore", "run"];

/// Exit code for a word that is no command, as urfave/cli gives it to runc.
const NO_SUCH_COMMAND: i32 = 3;

/// Runs the command that the process's arguments name and ends the process with its exit code.
pub fn main() -> ! {
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    let scan = args::scan(&argv);

    // Commands that enter a container first make sure that it can't reach this binary's file. The others
    // don't pay for that.
    let enters = scan.command.is_some_and(|word| ENTERING.iter().any(|command| word == *command));
    if enters {
        if let Err(error) = crate::selfexe::reexec() {
            exit_now(fail(&format!("unable to protect the runtime's binary: {error}"), 1));
        }
    }

    let code = dispatch(&scan);
    // No destructors: the kernel frees everything at once.
    exit_now(code)
}

fn dispatch(scan: &args::Scan<'_>) -> i32 {
    let matches = match args::parse_globals(scan.globals) {
        Ok(matches) => matches,
        Err(args::Stop::Help) => return print(&help::program()),
        Err(args::Stop::Usage(message)) => {
            print(&format!("Incorrect Usage. {message}\n\n{}", help::program()));
            logging::fatal(&message);
            return 1;
        }
    };
    if matches.get_flag("version") {
        return print(&help::version());
    }
    let Some(word) = scan.command else { return print(&help::program()) };
    let global = match Global::new(&matches) {
        Ok(global) => global,
        Err(error) => return fail(&error.to_string(), 1),
    };
    let word = word.to_string_lossy();
    if word == "help" || word == "h" {
        return help_command(scan);
    }
    let Some(command) = find(&word) else {
        return fail(&format!("No help topic for '{word}'"), NO_SUCH_COMMAND);
    };
    run_command(&global, command, scan.rest)
}

fn run_command(global: &Global, command: &Command, tokens: &[OsString]) -> i32 {
    let matches = match args::parse_command(command, tokens) {
        Ok(matches) => matches,
        Err(args::Stop::Help) => return print(&help::command(command)),
        Err(args::Stop::Usage(message)) => {
            print(&format!("Incorrect Usage.\n\n{}", help::command(command)));
            return fail(&message, 1);
        }
    };
    match (command.run)(global, &matches) {
        Ok(code) => code,
        // Nothing was made yet: once more, from a copy.
        Err(error) if matches!(error.downcast_ref(), Some(crate::container::Error::NeedsCopy)) => {
            let error = crate::selfexe::reexec_copy();
            fail(&format!("unable to protect the runtime's binary: {}", errno_text(&error)), 1)
        }
        Err(error) => fail(&format!("{}{error}", command.failure), command.failure_code),
    }
}

fn help_command(scan: &args::Scan<'_>) -> i32 {
    let Some(word) = scan.rest.first() else { return print(&help::program()) };
    let word = word.to_string_lossy();
    match find(&word) {
        Some(command) => print(&help::command(command)),
        None => fail(&format!("No help topic for '{word}'"), NO_SUCH_COMMAND),
    }
}

fn find(word: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == word)
}

fn fail(sentence: &str, code: i32) -> i32 {
    logging::fatal(sentence);
    code
}

/// Writes to stdout; a closed stdout is an error of the caller's, told by the exit code.
fn print(text: &str) -> i32 {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => 0,
        Err(error) => fail(&format!("write to stdout: {}", errno_text(&error)), 1),
    }
}

/// An I/O error in the words of strerror, in lower case as Go prints it and callers match it.
fn errno_text(error: &std::io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(code).desc();
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // "No such file" but not "RPC struct is bad" or "I/O error".
        (Some(first), Some(second)) if second.is_ascii_lowercase() || second == ' ' => {
            first.to_ascii_lowercase().to_string() + chars.as_str()
        }
        _ => text.to_owned(),
    }
}
