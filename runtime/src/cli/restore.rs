//! `davit restore`.

use anyhow::bail;
use clap::{Arg, ArgMatches};

use super::args::{Arity, switch, value};
use super::checkpoint::{cgroups_mode, empty_namespace, image_path, shared_flags};
use super::foreground::{self, Reaping, Session};
use super::global::Global;
use super::{Command, options};
use crate::container::{self, Console, RestoreOptions};

pub(super) const COMMAND: Command = Command {
    name: "restore",
    about: "make a container from the images of a checkpoint",
    usage: "[command options] <container-id>\n\n\
            Makes a container of a bundle with the processes that \"davit checkpoint\" has written. Without --detach\n\
            davit waits for it, exits with its exit code (128 + N for signal N), and deletes it.",
    arity: Arity::Exactly(1),
    flags,
    run,
    failure: "davit restore failed: ",
    failure_code: 1,
};

fn flags() -> Vec<Arg> {
    let mut flags = options::flags();
    flags.retain(|flag| !matches!(flag.get_id().as_str(), "preserve-fds" | "no-new-keyring"));
    flags.extend(shared_flags());
    flags.extend([
        switch("detach", "detach from the container's process").short('d'),
        switch("no-subreaper", "do not adopt and reap orphaned processes"),
        switch("tcp-close", "restore TCP connections closed"),
        value("lsm-profile", "security label in place of the one in the images: TYPE:NAME"),
        value("lsm-mount-context", "SELinux label of mounts in place of the one in the images"),
        value("network-lock", "ignored: the method of the checkpoint is used").hide(true),
    ]);
    flags
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    empty_namespace(matches)?;
    if matches.contains_id("network-lock") {
        log::warn!("--network-lock has no effect on restore: CRIU uses the method of the checkpoint");
    }
    let text = |flag| matches.get_one::<String>(flag).filter(|text| !text.is_empty()).cloned();
    let restore = RestoreOptions {
        image_path: image_path(matches)?,
        work_path: options::path(matches, "work-path"),
        tcp_established: matches.get_flag("tcp-established"),
        tcp_close: matches.get_flag("tcp-close"),
        ext_unix_sk: matches.get_flag("ext-unix-sk"),
        shell_job: matches.get_flag("shell-job"),
        file_locks: matches.get_flag("file-locks"),
        auto_dedup: matches.get_flag("auto-dedup"),
        lazy_pages: matches.get_flag("lazy-pages"),
        cgroups: cgroups_mode(matches)?,
        lsm_profile: text("lsm-profile"),
        lsm_mount_context: text("lsm-mount-context"),
    };
    let socket = options::path(matches, "console-socket");
    if matches.get_flag("detach") {
        let console = socket.map_or(Console::Inherit, Console::Socket);
        container::restore(&global.runtime, &options::create_options(matches, console)?, &restore)?;
        return Ok(0);
    }
    if socket.is_some() {
        bail!("cannot use console socket if davit will not detach or allocate tty");
    }
    let reaping = if matches.get_flag("no-subreaper") { Reaping::OwnChildren } else { Reaping::Orphans };
    let (session, console) = Session::with_console(reaping)?;
    let options = options::create_options(matches, console)?;
    let mut started = container::restore(&global.runtime, &options, &restore)?;
    let code = foreground::wait(session, &mut started);
    if let Err(error) = container::delete(&global.runtime, &options.id, true) {
        log::warn!("delete container {}: {error}", options.id);
    }
    code
}
