//! `--help` and `--version`, laid out as runc's.

use std::fmt::Write;

use super::{COMMANDS, COMMIT, Command, SPEC_VERSION, VERSION, args, global};

/// `davit --version`.
pub(super) fn version() -> String {
    format!("davit version {VERSION}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}\n")
}

/// `davit --help`.
pub(super) fn program() -> String {
    let mut text = String::from(
        "NAME:\n   davit - Open Container Initiative runtime\n\n\
         davit runs a container from a bundle: a directory with a config.json and a root filesystem.\n\
         Its command line is that of runc.\n\n\
         USAGE:\n   davit [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   ",
    );
    let _ = write!(text, "{VERSION}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}\n\nCOMMANDS:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "   {:<11} {}", command.name, command.about);
    }
    let _ = writeln!(text, "   {:<11} show a list of commands or help for one command", "help, h");
    let _ = write!(text, "\nGLOBAL OPTIONS:\n{}", options(global::flags()));
    text
}

/// `davit COMMAND --help`.
pub(super) fn command(command: &Command) -> String {
    let Command { name, about, usage, .. } = command;
    let mut text = format!("NAME:\n   davit {name} - {about}\n\nUSAGE:\n   davit {name} {usage}\n");
    let _ = write!(text, "\nOPTIONS:\n{}", options((command.flags)()));
    text
}

fn options(flags: Vec<clap::Arg>) -> String {
    args::parser().args(flags).help_template("{options}").render_help().to_string()
}
