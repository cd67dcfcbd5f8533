//! From argv to clap: runc's callers write flags as Go's flag package reads them.
//!
//! Go knows no clusters of short flags: `-no-subreaper` is the long flag with one dash, `-format=json`
//! and `--format json` are the same, a switch may be given as `--keep=false`, and a flag's value may begin
//! with a dash. Only the wanted command's flags are built.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use super::{Command, global};
use crate::container::Runtime;
use crate::sys::regex::Regex;

/// Why parsing ended without a command to run.
#[derive(Debug)]
pub(super) enum Stop {
    /// `--help`.
    Help,
    /// A wrong flag or count of arguments, in runc's words.
    Usage(String),
}

/// How many positional arguments a command takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arity {
    /// This many.
    Exactly(usize),
    /// From one count to another.
    Between(usize, usize),
    /// At least this many; the first ends the flags, so that what follows it belongs to a program.
    CommandLine(usize),
}

/// What a look at argv finds, before anything is built or parsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    /// Arguments before the command word.
    pub globals: &'a [OsString],
    /// The command word.
    pub command: Option<&'a OsStr>,
    /// Arguments after it.
    pub rest: &'a [OsString],
}

/// Splits the arguments (argv without the program's name) at the command word.
pub(super) fn scan(argv: &[OsString]) -> Scan<'_> {
    let mut at = 0;
    while let Some(token) = argv.get(at) {
        let Some((name, value)) = split_flag(token) else { break };
        if name.is_empty() {
            // "--" ends the flags.
            let (globals, rest) = argv.split_at(at);
            return split_at_command(globals, rest.get(1..).unwrap_or_default());
        }
        let takes_value = global::WITH_VALUE.iter().any(|flag| flag.as_bytes() == name);
        at += if takes_value && value.is_none() { 2 } else { 1 };
    }
    let (globals, rest) = argv.split_at(at.min(argv.len()));
    split_at_command(globals, rest)
}

fn split_at_command<'a>(globals: &'a [OsString], rest: &'a [OsString]) -> Scan<'a> {
    match rest.split_first() {
        Some((command, rest)) => Scan { globals, command: Some(command), rest },
        None => Scan { globals, command: None, rest: &[] },
    }
}

/// Parses the flags before the command word.
pub(super) fn parse_globals(tokens: &[OsString]) -> Result<ArgMatches, Stop> {
    let parser = parser().args(global::flags());
    let tokens = to_clap(&parser, tokens, None)?;
    finish(parser, tokens)
}

/// Parses what follows the command word: flags, and positional arguments under the id `args`.
pub(super) fn parse_command(command: &Command, tokens: &[OsString]) -> Result<ArgMatches, Stop> {
    let positional = Arg::new("args").num_args(0..).value_parser(clap::value_parser!(OsString)).hide(true);
    let parser = parser().args((command.flags)()).arg(positional);
    let tokens = to_clap(&parser, tokens, Some(command.arity))?;
    let matches = finish(parser, tokens)?;
    let count = matches.get_many::<OsString>("args").map_or(0, |values| values.len());
    check_count(command, count)?;
    Ok(matches)
}

fn finish(parser: clap::Command, tokens: Vec<OsString>) -> Result<ArgMatches, Stop> {
    let matches = parser.try_get_matches_from(tokens).map_err(|error| stop(&error))?;
    if matches.get_flag("help") { Err(Stop::Help) } else { Ok(matches) }
}

/// An empty clap command with runc's conventions.
pub(super) fn parser() -> clap::Command {
    clap::Command::new("davit")
        .no_binary_name(true)
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(switch("help", "show help").short('h'))
}

/// A flag without a value.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

/// A flag with a value; the last one given wins.
pub(super) fn value(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).value_name("value").allow_hyphen_values(true)
}

/// Takes a path; also an empty one, which clap's own parser refuses and runc takes for "not given".
pub(super) fn path_parser() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The positional arguments.
pub(super) fn positionals(matches: &ArgMatches) -> impl Iterator<Item = &OsStr> {
    matches.get_many::<OsString>("args").into_iter().flatten().map(OsString::as_os_str)
}

/// The container id, which the count check made sure of.
pub(super) fn container_id(matches: &ArgMatches) -> anyhow::Result<&str> {
    let id = positionals(matches).next().unwrap_or_default();
    match id.to_str() {
        None => Err(anyhow::anyhow!("invalid container ID format: {id:?}")),
        Some("") => Err(anyhow::anyhow!("container id cannot be empty")),
        Some(id) => Ok(id),
    }
}

/// `--regex` of `kill` and `delete`.
pub(super) fn regex_switch() -> Arg {
    switch("regex", "the container id is a regular expression: all that match are meant").short('r')
}

/// Ids of the containers that `--regex` means.
pub(super) fn matching_ids(matches: &ArgMatches, runtime: &Runtime) -> anyhow::Result<Vec<String>> {
    let pattern = container_id(matches)?;
    let wrong = |why: &str| anyhow::anyhow!("invalid regular expression {pattern:?}: {why}");
    let regex =
        Regex::extended(&CString::new(pattern).map_err(|_| wrong("NUL byte"))?).map_err(|e| wrong(&e))?;
    let mut ids = crate::container::ids(runtime)?;
    ids.retain(|id| CString::new(id.as_str()).is_ok_and(|id| regex.is_match(&id)));
    Ok(ids)
}

fn check_count(command: &Command, count: usize) -> Result<(), Stop> {
    let name = command.name;
    let wrong = match command.arity {
        Arity::Exactly(n) if count != n => format!("requires exactly {n} argument(s)"),
        Arity::Between(least, _) | Arity::CommandLine(least) if count < least => {
            format!("requires a minimum of {least} argument(s)")
        }
        Arity::Between(_, most) if count > most => format!("requires a maximum of {most} argument(s)"),
        _ => return Ok(()),
    };
    Err(Stop::Usage(format!("davit: \"{name}\" {wrong}")))
}

/// Name and `=value` of a token that is a flag; an empty name for `--`.
fn split_flag(token: &OsStr) -> Option<(&[u8], Option<&[u8]>)> {
    let bytes = token.as_bytes();
    let name = match bytes {
        [b'-', b'-', name @ ..] | [b'-', name @ ..] if bytes.len() > 1 => name,
        _ => return None,
    };
    match name.iter().position(|&b| b == b'=') {
        Some(at) => Some((name.get(..at)?, Some(name.get(at + 1..)?))),
        None => Some((name, None)),
    }
}

/// Rewrites Go's flag syntax into clap's.
fn to_clap(parser: &clap::Command, tokens: &[OsString], arity: Option<Arity>) -> Result<Vec<OsString>, Stop> {
    let mut out = Vec::with_capacity(tokens.len() + 1);
    let mut tokens = tokens.iter();
    while let Some(token) = tokens.next() {
        let Some((name, given)) = split_flag(token) else {
            if matches!(arity, Some(Arity::CommandLine(_))) {
                // The first positional argument ends the flags.
                out.push("--".into());
                out.push(token.clone());
                out.extend(tokens.cloned());
                break;
            }
            out.push(token.clone());
            continue;
        };
        if name.is_empty() {
            out.push(token.clone());
            out.extend(tokens.cloned());
            break;
        }
        let Some(flag) = find_flag(parser, name) else {
            let name = String::from_utf8_lossy(name);
            return Err(Stop::Usage(format!("flag provided but not defined: -{name}")));
        };
        rewrite(flag, name, given, &mut tokens, &mut out)?;
    }
    Ok(out)
}

/// One flag, with its value attached by `=` so that a value can begin with a dash.
fn rewrite<'a>(
    flag: &Arg,
    name: &[u8],
    given: Option<&[u8]>,
    tokens: &mut impl Iterator<Item = &'a OsString>,
    out: &mut Vec<OsString>,
) -> Result<(), Stop> {
    let mut token = OsString::from("--");
    token.push(flag.get_long().unwrap_or_default());
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        match given.map(go_bool) {
            None | Some(Some(true)) => out.push(token),
            Some(Some(false)) => {}
            Some(None) => {
                let (name, given) =
                    (String::from_utf8_lossy(name), String::from_utf8_lossy(given.unwrap_or_default()));
                return Err(Stop::Usage(format!(
                    "invalid boolean value \"{given}\" for -{name}: parse error"
                )));
            }
        }
        return Ok(());
    }
    let optional = flag.get_num_args().is_some_and(|range| range.min_values() == 0);
    let value = match given {
        Some(value) => OsStr::from_bytes(value),
        None if optional => {
            out.push(token);
            return Ok(());
        }
        None => match tokens.next() {
            Some(value) => value.as_os_str(),
            None => {
                let name = String::from_utf8_lossy(name);
                return Err(Stop::Usage(format!("flag needs an argument: -{name}")));
            }
        },
    };
    token.push("=");
    token.push(value);
    out.push(token);
    Ok(())
}

fn find_flag<'a>(parser: &'a clap::Command, name: &[u8]) -> Option<&'a Arg> {
    parser.get_arguments().find(|flag| {
        let shorts = flag.get_short_and_visible_aliases().unwrap_or_default();
        shorts.iter().any(|short| name == [*short as u8])
            || flag.get_long().is_some_and(|long| long.as_bytes() == name)
    })
}

/// Go's strconv.ParseBool.
pub(super) fn go_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

/// A clap error in runc's words.
fn stop(error: &clap::Error) -> Stop {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let flag = || {
        let text = context(ContextKind::InvalidArg);
        let name = text.split([' ', '=', '[']).next().unwrap_or_default();
        name.trim_start_matches('-').to_owned()
    };
    Stop::Usage(match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8 => {
            format!(
                "invalid value {:?} for flag -{}: parse error",
                context(ContextKind::InvalidValue),
                flag()
            )
        }
        ErrorKind::UnknownArgument => format!("flag provided but not defined: -{}", flag()),
        _ => error
            .to_string()
            .lines()
            .next()
            .unwrap_or("wrong arguments")
            .trim_start_matches("error: ")
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn scan_finds_the_command_behind_global_values() {
        for (words, command, rest) in [
            (&["--root", "/x", "state", "c1"][..], Some("state"), 1),
            (&["-root=/x", "--debug", "create"][..], Some("create"), 0),
            (&["--log", "run", "--log-format", "json", "exec", "-d", "c1", "ls"][..], Some("exec"), 3),
            (&["--", "kill", "c1"][..], Some("kill"), 1),
            (&["--root"][..], None, 0),
            (&["--version"][..], None, 0),
            (&[][..], None, 0),
        ] {
            let argv = argv(words);
            let scan = scan(&argv);
            assert_eq!(scan.command, command.map(OsStr::new), "{words:?}");
            assert_eq!(scan.rest.len(), rest, "{words:?}");
        }
    }

    fn parse(command: &'static Command, words: &[&str]) -> Result<ArgMatches, String> {
        parse_command(command, &argv(words)).map_err(|stop| match stop {
            Stop::Help => "help".to_owned(),
            Stop::Usage(message) => message,
        })
    }

    #[test]
    fn go_flag_syntax() {
        let run =
            parse(&super::super::run::COMMAND, &["-no-subreaper", "-b=/x", "-keep=false", "c1", "--detach"])
                .unwrap();
        assert!(run.get_flag("no-subreaper") && run.get_flag("detach") && !run.get_flag("keep"));
        assert_eq!(run.get_one::<std::path::PathBuf>("bundle").unwrap(), std::path::Path::new("/x"));
        assert_eq!(container_id(&run).unwrap(), "c1");
    }

    #[test]
    fn exec_leaves_the_programs_flags_alone() {
        let exec = &super::super::exec::COMMAND;
        let m = parse(exec, &["-e", "A=-1", "--env", "-x", "-t", "c1", "ls", "-la", "--", "--env"]).unwrap();
        assert_eq!(positionals(&m).collect::<Vec<_>>(), ["c1", "ls", "-la", "--", "--env"]);
        assert_eq!(m.get_many::<String>("env").unwrap().collect::<Vec<_>>(), ["A=-1", "-x"]);
    }

    #[test]
    fn wrong_usage_in_runcs_words() {
        use super::super::{create, exec, kill, list, state};
        for (command, words, message) in [
            (&state::COMMAND, &[][..], "davit: \"state\" requires exactly 1 argument(s)"),
            (&state::COMMAND, &["a", "b"][..], "davit: \"state\" requires exactly 1 argument(s)"),
            (&kill::COMMAND, &[][..], "davit: \"kill\" requires a minimum of 1 argument(s)"),
            (&kill::COMMAND, &["a", "b", "c"][..], "davit: \"kill\" requires a maximum of 2 argument(s)"),
            (&exec::COMMAND, &["-p", "c1"][..], "davit: \"exec\" requires a minimum of 1 argument(s)"),
            (&state::COMMAND, &["-frob", "a"][..], "flag provided but not defined: -frob"),
            (&list::COMMAND, &["-f"][..], "flag needs an argument: -f"),
            (&list::COMMAND, &["--quiet=x"][..], "invalid boolean value \"x\" for -quiet: parse error"),
            (
                &create::COMMAND,
                &["--preserve-fds", "x", "a"][..],
                "invalid value \"x\" for flag -preserve-fds: parse error",
            ),
            (
                &create::COMMAND,
                &["--preserve-fds=-1", "a"][..],
                "invalid value \"-1\" for flag -preserve-fds: parse error",
            ),
        ] {
            assert_eq!(parse(command, words).unwrap_err(), message, "{words:?}");
        }
    }

    #[test]
    fn every_command_and_its_flags_are_consistent() {
        for command in super::super::COMMANDS {
            parser().args((command.flags)()).debug_assert();
        }
        parser().args(global::flags()).debug_assert();
        let flags = global::flags();
        let with_value: Vec<_> =
            flags.iter().filter(|f| f.get_action().takes_values()).filter_map(Arg::get_long).collect();
        assert_eq!(with_value, global::WITH_VALUE);
    }
}
