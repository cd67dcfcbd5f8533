//! Checkpoint and restore by the runtime, which both leave to CRIU.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid, setpgid};

use super::{
    Backend, Force, Kind, LoggerArgs, Outcome, cgroup_of_config, inproc, remove_empty_cgroups, start_logger,
};
use crate::api::CheckpointOptions;
use crate::options::Options;

/// Most bytes of CRIU's log that are copied into the bundle.
const LOG_LIMIT: u64 = 64 << 20;
/// How often, and how far apart, what a killed CRIU has restored is signalled.
const END_TRIES: u32 = 40;
const END_PAUSE: Duration = Duration::from_millis(25);

/// What a worker needs for checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointArgs {
    /// Container id.
    pub id: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Directory for the images.
    pub images: PathBuf,
    /// What the client wants of it.
    pub options: CheckpointOptions,
}

/// What a worker needs for restore.
#[derive(Clone, Debug)]
pub struct RestoreArgs {
    /// Container id.
    pub id: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Directory of the images.
    pub images: PathBuf,
    /// CRIU's work directory.
    pub work: PathBuf,
    /// Runtime options.
    pub runtime_options: Options,
    /// A program that reads the output.
    pub logger: Option<LoggerArgs>,
}

impl Backend {
    /// Dumps a container into images; unless it is to run on, it and the runtime's state of it are gone then.
    ///
    /// # Errors
    /// The first line of the runtime's text, with the path of CRIU's log in the bundle where there is one.
    pub fn checkpoint(&self, args: &CheckpointArgs) -> Outcome<()> {
        let given = !args.options.work_path.is_empty();
        let work = match given {
            true => PathBuf::from(&args.options.work_path),
            false => args.bundle.join("work/criu-work"),
        };
        let done = match &self.kind {
            Kind::Inproc => inproc::checkpoint(&self.runtime(), args, &work),
            Kind::External(binary) => self.external(binary, &args.bundle).checkpoint(args, &work),
        };
        let done = done.map_err(|text| with_dump_log(&text, &work, &args.bundle));
        if !given {
            // One that was not made is none; what can't be removed goes with the task.
            let _ = fs::remove_dir_all(&work);
        }
        done
    }

    /// Restores a container with the worker's descriptors 0 to 2; the answer is init's pid.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn restore(&self, args: &RestoreArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        // CRIU is a process of its own and half of what it restores is nobody's yet: they end with this worker's
        // group when the worker is killed (`Worker::finished`).
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(|e| format!("make a process group: {e}"))?;
        start_logger(args.logger.as_ref(), &args.id)?;
        match &self.kind {
            Kind::Inproc => inproc::restore(&self.runtime(), args, console),
            Kind::External(binary) => self.external(binary, &args.bundle).restore(args, console),
        }
    }

    /// Removes what a failed restore has left, by force; the rootfs stays for the next try. `spared` are the shim's
    /// other processes.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn undo_restore(&self, id: &str, bundle: &Path, spared: &[i32]) -> Outcome<()> {
        if !self.is_inproc() {
            end_half_restored(id, bundle, spared);
        }
        if self.has_state(id) {
            self.remove(id, bundle, Force::Yes)?;
        }
        // Not all that has a directory of state has a state in it.
        if !self.is_inproc() {
            remove_empty_cgroups(id, bundle);
        }
        Ok(())
    }
}

/// Ends what the CRIU of another runtime had restored when it was killed: it has left the worker's process group, and
/// there may be no state that names it. It is in the cgroup of config.json and comes from the shim. (davit writes its
/// state first.)
fn end_half_restored(id: &str, bundle: &Path, spared: &[i32]) {
    let Some(cgroup) = cgroup_of_config(id, bundle) else { return };
    let shim = getppid().as_raw();
    for _ in 0..END_TRIES {
        let mut pids = cgroup.pids().unwrap_or_default();
        pids.retain(|pid| descends(*pid, shim, spared));
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // ESRCH: it has ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(END_PAUSE);
    }
    log::warn!("{id}: what a killed runtime has restored does not end");
}

/// Whether `pid` is a descendant of `ancestor`, and none of `spared` or theirs.
fn descends(mut pid: i32, ancestor: i32, spared: &[i32]) -> bool {
    while pid > 1 && !spared.contains(&pid) {
        let Some(parent) = parent(pid) else { return false };
        if parent == ancestor {
            return true;
        }
        pid = parent;
    }
    false
}

/// PPid of /proc/pid/status.
fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Go's wording (`process/init.go:checkpoint`, `criuError`); CRIU's log outlives its work directory in the bundle.
fn with_dump_log(text: &str, work: &Path, bundle: &Path) -> String {
    let first = text.lines().next().unwrap_or_default();
    let kept = bundle.join("criu-dump.log");
    match copy_log(&work.join("dump.log"), &kept) {
        Ok(()) => format!("{first} path= {}", kept.display()),
        // CRIU was not there, or has not come so far.
        Err(e) if e.kind() == io::ErrorKind::NotFound => first.to_owned(),
        Err(e) => format!("{first} (copy CRIU's log: {e})"),
    }
}

/// Copies a log. A work directory may be anybody's: neither end may be a link (CVE-2026-53489 of containerd), and the
/// source must be a file.
fn copy_log(from: &Path, to: &Path) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let source = fs::File::options().read(true).custom_flags(flags).open(from)?;
    if !source.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
    io::copy(&mut io::Read::take(source, LOG_LIMIT), &mut options.open(to)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_log_is_kept_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (work, bundle) = (dir.path().join("work"), dir.path().join("bundle"));
        fs::create_dir(&work).unwrap();
        fs::create_dir(&bundle).unwrap();
        let said = || with_dump_log("criu failed: type DUMP\nlog file: x", &work, &bundle);
        assert_eq!(said(), "criu failed: type DUMP");
        fs::write(work.join("dump.log"), "Error (criu/x.c)").unwrap();
        let kept = bundle.join("criu-dump.log");
        assert_eq!(said(), format!("criu failed: type DUMP path= {}", kept.display()));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "Error (criu/x.c)");
    }

    #[test]
    fn links_and_fifos_are_no_logs() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, log, kept) =
            (dir.path().join("secret"), dir.path().join("dump.log"), dir.path().join("kept"));
        fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, &log).unwrap();
        assert_eq!(copy_log(&log, &kept).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(copy_log(&log, &kept).unwrap_err().to_string().contains("regular"));
        fs::remove_file(&log).unwrap();
        fs::write(&log, "text").unwrap();
        std::os::unix::fs::symlink(&secret, &kept).unwrap();
        assert_eq!(copy_log(&log, &kept).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    }
}
