//! `davit exec`.

use anyhow::bail;
use clap::{Arg, ArgMatches};

use super::args::{Arity, container_id, path_parser, switch, value};
use super::foreground::{self, Reaping, Session};
use super::global::Global;
use super::{Command, options, process};
use crate::container::{Console, EXEC_FAILED, ExecOptions, ExecTarget};

pub(super) const COMMAND: Command = Command {
    name: "exec",
    about: "execute new process inside the container",
    usage: "[command options] <container-id> <command> [arguments...]\n   \
            davit exec [command options] --process process.json <container-id>",
    arity: Arity::CommandLine(1),
    flags,
    run,
    failure: EXEC_FAILED,
    // As newer runc: callers can tell it from an exit code of the command.
    failure_code: 255,
};

fn flags() -> Vec<Arg> {
    vec![
        options::console_socket(),
        options::pidfd_socket(),
        value("cwd", "current working directory in the container"),
        value("env", "set an environment variable, NAME=VALUE; may be repeated")
            .short('e')
            .action(clap::ArgAction::Append),
        switch("tty", "allocate a pseudo-terminal").short('t'),
        value("user", "numeric user: <uid>[:<gid>]").short('u'),
        value("additional-gids", "add a supplementary group id; may be repeated")
            .short('g')
            .action(clap::ArgAction::Append),
        value("process", "process.json to read instead of the flags").short('p').value_parser(path_parser()),
        switch("detach", "detach from the process").short('d'),
        options::pid_file(),
        value("process-label", "SELinux label of the process"),
        value("apparmor", "AppArmor profile of the process"),
        Arg::new("no-new-privs")
            .long("no-new-privs")
            .help("whether the process can't gain privileges through exec (default: as the container)")
            .value_name("bool")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        value("cap", "add a capability to the bounding, effective and permitted sets; may be repeated")
            .short('c')
            .action(clap::ArgAction::Append),
        switch("no-subreaper", "ignored").hide(true),
        options::preserve_fds(),
        value(
            "cgroup",
            "run the process in an existing sub-cgroup: [<controller>[,...]:]<path>; may be repeated",
        )
        .action(clap::ArgAction::Append),
        switch("ignore-paused", "allow it in a paused container: the process waits until it is resumed"),
    ]
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    if matches.get_flag("no-subreaper") {
        log::warn!("--no-subreaper has no effect on exec");
    }
    let id = container_id(matches)?;
    let target = ExecTarget::open(&global.runtime, id)?;
    let process = match options::path(matches, "process") {
        Some(file) => process::from_file(&file)?,
        None => process::from_flags(target.process()?, matches)?,
    };
    let detach = matches.get_flag("detach");
    let terminal = process.terminal().unwrap_or(false);
    let socket = options::path(matches, "console-socket");
    let (session, console) = match (socket, terminal, detach) {
        (None, true, true) => {
            bail!("cannot allocate tty if davit will detach without setting console socket")
        }
        (Some(_), _, false) | (Some(_), false, _) => {
            bail!("cannot use console socket if davit will not detach or allocate tty")
        }
        (Some(socket), true, true) => (None, Console::Socket(socket)),
        (None, false, true) => (None, Console::Inherit),
        (None, true, false) => {
            let (session, console) = Session::with_console(Reaping::OwnChildren)?;
            (Some(session), console)
        }
        (None, false, false) => (Some(Session::new(Reaping::OwnChildren)?), Console::Inherit),
    };
    let options = ExecOptions {
        process,
        console,
        pid_file: options::path(matches, "pid-file"),
        pidfd_socket: options::path(matches, "pidfd-socket"),
        preserve_fds: matches.get_one::<u32>("preserve-fds").copied().unwrap_or(0),
        ignore_paused: matches.get_flag("ignore-paused"),
        cgroup: matches.get_many::<String>("cgroup").into_iter().flatten().cloned().collect(),
    };
    let mut started = target.exec(&options)?;
    session.map_or(Ok(0), |session| foreground::wait(session, &mut started))
}
