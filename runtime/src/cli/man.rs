//! `davit man`: manual pages from the same tables as the help.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::anyhow;
use clap::{Arg, ArgMatches};

use super::args::{Arity, positionals};
use super::completion::shown;
use super::global::{self, Global};
use super::{COMMANDS, Command, VERSION, errno_text};

pub(super) const COMMAND: Command = Command {
    name: "man",
    about: "write davit's manual pages into a directory",
    usage: "<directory>\n\n\
            Writes davit.8 and a page for each command, davit-COMMAND.8.",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(_global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let dir = Path::new(positionals(matches).next().unwrap_or_default());
    let write = |name: &str, page: &str| {
        let path = dir.join(format!("{name}.8"));
        std::fs::write(&path, page).map_err(|e| anyhow!("write {}: {}", path.display(), errno_text(&e)))
    };
    write("davit", &program())?;
    for command in COMMANDS {
        write(&format!("davit-{}", command.name), &page(command))?;
    }
    Ok(0)
}

/// A text with roff's own characters taken literally.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let control =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(|line| control(line.trim_start())).collect::<Vec<_>>().join("\n")
}

fn head(name: &str, about: &str) -> String {
    let title = name.to_uppercase();
    format!(
        ".TH \"{}\" 8 \"\" \"davit {VERSION}\" \"System administration\"\n.SH NAME\n{} \\- {}\n",
        escaped(&title),
        escaped(name),
        escaped(about)
    )
}

fn options(flags: Vec<Arg>) -> String {
    let mut text = String::from(".SH OPTIONS\n");
    for flag in shown(flags) {
        let value = match flag.get_value_names().and_then(<[_]>::first) {
            Some(name) if flag.is_require_equals_set() => format!("[=\\fI{name}\\fR]"),
            Some(name) if flag.get_action().takes_values() => format!(" \\fI{name}\\fR"),
            _ => String::new(),
        };
        let long = flag.get_long().map(|long| format!("\\fB{}\\fR", escaped(&format!("--{long}"))));
        let shorts = flag.get_short_and_visible_aliases().unwrap_or_default();
        let shorts = shorts.iter().map(|short| format!("\\fB\\-{short}\\fR"));
        let names: Vec<_> = shorts.chain(long).collect();
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, ".TP\n{}{value}\n{}\n", names.join(", "), escaped(&help));
    }
    text
}

fn program() -> String {
    let mut text = head("davit", "Open Container Initiative runtime");
    text.push_str(
        ".SH SYNOPSIS\n.B davit\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]\n\
         .SH DESCRIPTION\ndavit runs a container from a bundle: a directory with a config.json and a root filesystem.\n\
         Its command line is that of runc.\n.SH COMMANDS\n",
    );
    for command in COMMANDS {
        let name = escaped(command.name);
        let _ =
            write!(text, ".TP\n\\fB{name}\\fR\n{}; see \\fBdavit\\-{name}\\fR(8).\n", escaped(command.about));
    }
    text.push_str(&options(global::flags()));
    text
}

/// The usage text: its first lines are the synopsis, what follows an empty line the description.
fn page(command: &Command) -> String {
    let name = format!("davit-{}", command.name);
    let mut text = head(&name, command.about);
    let (synopsis, description) = command.usage.split_once("\n\n").unwrap_or((command.usage, ""));
    let _ =
        write!(text, ".SH SYNOPSIS\n.nf\n{}\n.fi\n", escaped(&format!("davit {} {synopsis}", command.name)));
    if !description.is_empty() {
        let _ = write!(text, ".SH DESCRIPTION\n{}\n", paragraphs(description));
    }
    text.push_str(&options((command.flags)()));
    text.push_str(".SH SEE ALSO\n.BR davit (8)\n");
    text
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(escaped).collect::<Vec<_>>().join("\n.PP\n")
}
