//! Flags that `create` and `run` share.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Arg, ArgMatches, value_parser};

use super::args::{container_id, path_parser, switch, value};
use super::errno_text;
use crate::container::{Activation, Console, CreateOptions, RootSwitch};

/// The shared flags.
pub(super) fn flags() -> Vec<Arg> {
    vec![
        value("bundle", "root of the bundle directory (default: the current directory)")
            .short('b')
            .value_parser(path_parser()),
        value("config", "read this file in place of the bundle's config.json")
            .short('f')
            .value_parser(path_parser()),
        console_socket(),
        pidfd_socket(),
        pid_file(),
        switch("no-pivot", "use MS_MOVE and chroot instead of pivot_root, for a rootfs on a ramdisk"),
        switch("no-new-keyring", "do not make a session keyring: the container inherits the caller's"),
        preserve_fds(),
    ]
}

/// `--console-socket`.
pub(super) fn console_socket() -> Arg {
    value("console-socket", "AF_UNIX socket that gets the master end of the process's terminal")
        .value_parser(path_parser())
}

/// `--pidfd-socket`.
pub(super) fn pidfd_socket() -> Arg {
    value("pidfd-socket", "AF_UNIX socket that gets a pidfd of the process").value_parser(path_parser())
}

/// `--pid-file`.
pub(super) fn pid_file() -> Arg {
    value("pid-file", "file to write the process id to").value_parser(path_parser())
}

/// `--preserve-fds`.
pub(super) fn preserve_fds() -> Arg {
    value("preserve-fds", "pass N more file descriptors to the process, from 3 on")
        .value_parser(value_parser!(u32))
}

/// The path that a flag gives; an empty one counts as not given, as in runc.
pub(super) fn path(matches: &ArgMatches, flag: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(flag).filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// `--config`, made absolute: later commands look for it from other directories.
pub(super) fn config(matches: &ArgMatches) -> anyhow::Result<Option<PathBuf>> {
    let Some(file) = path(matches, "config") else { return Ok(None) };
    let absolute = std::path::absolute(&file);
    absolute.map(Some).map_err(|e| anyhow!("{}: {}", file.display(), errno_text(&e)))
}

/// What the shared flags say.
pub(super) fn create_options(matches: &ArgMatches, console: Console) -> anyhow::Result<CreateOptions> {
    let given = path(matches, "bundle").unwrap_or_else(|| PathBuf::from("."));
    let bundle = std::fs::canonicalize(&given)
        .map_err(|e| anyhow!("chdir {}: {}", given.display(), errno_text(&e)))?;
    Ok(CreateOptions {
        id: container_id(matches)?.to_owned(),
        bundle,
        config: config(matches)?,
        console,
        pid_file: path(matches, "pid-file"),
        pidfd_socket: path(matches, "pidfd-socket"),
        root_switch: if matches.get_flag("no-pivot") { RootSwitch::Move } else { RootSwitch::Pivot },
        new_keyring: !switched(matches, "no-new-keyring"),
        preserve_fds: matches.try_get_one::<u32>("preserve-fds").ok().flatten().copied().unwrap_or(0),
        activation: activation(),
    })
}

/// A switch that not every command has.
fn switched(matches: &ArgMatches, flag: &str) -> bool {
    matches.try_get_one::<bool>(flag).is_ok_and(|given| given == Some(&true))
}

/// What a service manager has put into the environment.
fn activation() -> Activation {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // sd_listen_fds(3): they may have been meant for a process that started this one.
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    let listen_fds = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0);
    Activation {
        listen_fds,
        listen_names: std::env::var("LISTEN_FDNAMES").ok().filter(|_| listen_fds > 0),
        notify: notify_address(),
    }
}

/// `NOTIFY_SOCKET`.
pub(super) fn notify_address() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())
}
