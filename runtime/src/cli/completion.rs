//! `davit completion`: scripts that complete the command line in a shell, from the same tables as the help.

use std::fmt::Write as _;

use anyhow::bail;
use clap::{Arg, ArgMatches};

use super::args::{Arity, positionals};
use super::global::{self, Global};
use super::{COMMANDS, Command, print};

pub(super) const COMMAND: Command = Command {
    name: "completion",
    about: "print the script that completes davit's command line in bash, zsh or fish",
    usage: "<shell>\n\n\
            bash: davit completion bash > /usr/share/bash-completion/completions/davit\n\
            zsh:  davit completion zsh > /usr/share/zsh/vendor-completions/_davit\n\
            fish: davit completion fish > /usr/share/fish/vendor_completions.d/davit.fish",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

fn run(_global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let shell = positionals(matches).next().unwrap_or_default().to_string_lossy().into_owned();
    let script = match shell.as_str() {
        "bash" => bash(),
        "zsh" => zsh(),
        "fish" => fish(),
        _ => bail!("completion: no script for {shell:?}: the shell must be bash, zsh or fish"),
    };
    Ok(print(&script))
}

/// Flags with a closed set of values; the value of any other flag is completed as a file.
const VALUES: [(&str, &str); 6] = [
    ("log-format", "text json"),
    ("log-level", "error warning info debug"),
    ("cgroup-manager", "cgroupfs systemd disabled"),
    ("rootless", "true false auto"),
    ("format", "table json"),
    ("no-new-privs", "true false"),
];

fn values(flag: &Arg) -> Option<&'static str> {
    VALUES.iter().find(|(name, _)| Some(*name) == flag.get_long()).map(|(_, values)| *values)
}

/// What a command's first argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// The id of a container that there is.
    Container,
    /// One of these words.
    Words(&'static str),
    /// A directory.
    Directory,
    /// Something new, or nothing.
    Other,
}

fn first(command: &Command) -> First {
    match command.name {
        // The id is a new one.
        "create" | "run" | "restore" => First::Other,
        "completion" => First::Words("bash zsh fish"),
        "explain" | "man" => First::Directory,
        "mounts" => First::Words("add remove"),
        "seccomp" => First::Words("compile explain simulate"),
        _ if command.usage.contains("<container-id>") => First::Container,
        _ => First::Other,
    }
}

/// A command's flags as the help shows them.
pub(super) fn shown(flags: Vec<Arg>) -> Vec<Arg> {
    let mut all = vec![super::args::switch("help", "show help").short('h')];
    all.extend(flags.into_iter().filter(|flag| !flag.is_hide_set()));
    all
}

/// `--env -e --tty…`.
fn names(flags: &[Arg]) -> String {
    let mut words = Vec::new();
    for flag in flags {
        words.extend(flag.get_long().map(|long| format!("--{long}")));
        words.extend(flag.get_short().map(|short| format!("-{short}")));
    }
    words.join(" ")
}

/// `--env|-e|…` of the flags whose value is the next word.
fn with_value(flags: &[Arg]) -> String {
    let own: Vec<Arg> = flags.iter().filter(|flag| takes_value(flag)).cloned().collect();
    names(&own).replace(' ', "|")
}

/// `--no-new-privs` takes its value after `=` only.
fn takes_value(flag: &Arg) -> bool {
    flag.get_action().takes_values() && !flag.is_require_equals_set()
}

const BASH: &str = include_str!("completion/bash.txt");

fn bash() -> String {
    let globals = shown(global::flags());
    let commands: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
    let mut flags = String::new();
    let mut firsts = String::new();
    for command in COMMANDS {
        let own = shown((command.flags)());
        let taking = Some(with_value(&own)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        let _ = writeln!(flags, "        {}) flags='{}' with_value='{taking}' ;;", command.name, names(&own));
        let action = match first(command) {
            First::Container => "_davit_ids",
            First::Words(words) => &format!("_davit_words '{words}'"),
            First::Directory => "_davit_directories",
            First::Other => continue,
        };
        let _ = writeln!(firsts, "        {}) {action} ;;", command.name);
    }
    let line = |(flag, words): &(&str, &str)| {
        let shorts: String = short_names(flag).into_iter().map(|name| format!("|{name}")).collect();
        format!("        */--{flag}{shorts}) _davit_words '{words}' ;;\n")
    };
    let values: String = VALUES.iter().map(line).collect();
    BASH.replace("@COMMANDS@", &commands.join(" "))
        .replace("@GLOBALS@", &names(&globals))
        .replace("@GLOBALS_WITH_VALUE@", &with_value(&globals))
        .replace("@FLAGS@\n", &flags)
        .replace("@FIRSTS@\n", &firsts)
        .replace("@VALUES@\n", &values)
}

/// `list/-f` for each command that has a short name for the flag.
fn short_names(long: &str) -> Vec<String> {
    let mut all = Vec::new();
    for command in COMMANDS {
        for flag in (command.flags)().iter().filter(|flag| flag.get_long() == Some(long)) {
            all.extend(flag.get_short().map(|short| format!("{}/-{short}", command.name)));
        }
    }
    all
}

/// A text between single quotes of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn help(flag: &Arg) -> String {
    flag.get_help().map(ToString::to_string).unwrap_or_default()
}

/// `'(-e --env)'{-e,--env}'[help]:value:_files'` of zsh's _arguments.
fn zsh_flag(flag: &Arg) -> String {
    let text = help(flag).replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let value = match values(flag) {
        _ if !takes_value(flag) => String::new(),
        Some(words) => format!(":value:({words})"),
        None => ":value:_files".to_owned(),
    };
    let equals = if takes_value(flag) { "=" } else { "" };
    let many = if matches!(flag.get_action(), clap::ArgAction::Append) { "*" } else { "" };
    let long = flag.get_long().map(|long| format!("--{long}{equals}"));
    let short = flag.get_short().map(|short| format!("-{short}{}", if equals.is_empty() { "" } else { "+" }));
    let each = [short, long].into_iter().flatten();
    each.map(|name| quoted(&format!("{many}{name}[{text}]{value}"))).collect::<Vec<_>>().join(" ")
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef davit\n\n_davit_ids() {\n    local -a ids\n    ids=(${(f)\"$(davit list -q 2>/dev/null)\"})\n    compadd -a ids\n}\n\n_davit() {\n    local state line\n    local -a commands\n    commands=(\n",
    );
    for command in COMMANDS {
        let about = command.about.replace(':', "\\:");
        let _ = writeln!(text, "        {}", quoted(&format!("{}:{about}", command.name)));
    }
    text.push_str("    )\n    _arguments -C \\\n");
    for flag in shown(global::flags()) {
        let _ = writeln!(text, "        {} \\", zsh_flag(&flag));
    }
    text.push_str("        '1:command:->command' '*::argument:->arguments'\n    case $state in\n    command) _describe command commands ;;\n    arguments)\n        case $words[1] in\n");
    for command in COMMANDS {
        let _ = write!(text, "        {}) _arguments", command.name);
        for flag in shown((command.flags)()) {
            let _ = write!(text, " \\\n            {}", zsh_flag(&flag));
        }
        let action = match first(command) {
            First::Container => "1:container:_davit_ids".to_owned(),
            First::Words(words) => format!("1:word:({words})"),
            First::Directory => "1:directory:_files -/".to_owned(),
            First::Other => "1:argument: ".to_owned(),
        };
        let _ = writeln!(text, " \\\n            {} ;;", quoted(&action));
    }
    text.push_str("        esac\n        ;;\n    esac\n}\n\n_davit \"$@\"\n");
    text
}

fn fish() -> String {
    let mut text = String::from("complete -c davit -f\n");
    let flag_line = |text: &mut String, condition: &str, flag: &Arg| {
        let _ = write!(text, "complete -c davit -n {}", quoted(condition));
        if let Some(short) = flag.get_short() {
            let _ = write!(text, " -s {short}");
        }
        if let Some(long) = flag.get_long() {
            let _ = write!(text, " -l {long}");
        }
        match values(flag) {
            _ if !takes_value(flag) => {}
            Some(words) => drop(write!(text, " -x -a {}", quoted(words))),
            None => text.push_str(" -r -F"),
        }
        let _ = writeln!(text, " -d {}", quoted(&help(flag)));
    };
    for flag in shown(global::flags()) {
        flag_line(&mut text, "__fish_use_subcommand", &flag);
    }
    for command in COMMANDS {
        let (name, about) = (command.name, quoted(command.about));
        let _ = writeln!(text, "complete -c davit -n __fish_use_subcommand -a {name} -d {about}");
        let condition = format!("__fish_seen_subcommand_from {name}");
        for flag in shown((command.flags)()) {
            flag_line(&mut text, &condition, &flag);
        }
        let action = match first(command) {
            First::Container => "-a '(davit list -q 2>/dev/null)'".to_owned(),
            First::Words(words) => format!("-a {}", quoted(words)),
            First::Directory => "-a '(__fish_complete_directories)'".to_owned(),
            First::Other => continue,
        };
        let _ = writeln!(text, "complete -c davit -n {} {action}", quoted(&condition));
    }
    text
}
