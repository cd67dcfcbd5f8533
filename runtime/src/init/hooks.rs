//! Hooks (config.md "POSIX-platform Hooks"): programs of the caller, run at fixed points with the
//! container's state on stdin.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use serde::Serialize;

use super::{Context, Failure};
use crate::spec::list;
use crate::sys::process::{Exit, WaitFor, WaitMode, only_stdio, pidfd_open, pidfd_send_signal, wait};

/// What a hook reads on stdin: the state of runtime-spec runtime.md "State".
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// ociVersion of the config.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'static str,
    /// Init's pid: on the host for hooks that run there, in the container for those inside.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// Annotations of the config.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

// serde's skip_serializing_if passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// How much of a hook's output is kept for the error: its end tells most.
const OUTPUT_TAIL: usize = 4096;
/// What a pipe holds (pipe(7)): a hook that has ended can't have left more.
const PIPE: usize = 65_536;

/// Annotations that send what hooks write to files of the host: crun's.
const STDOUT_FILE: &str = "run.oci.hooks.stdout";
const STDERR_FILE: &str = "run.oci.hooks.stderr";

/// Files that hooks write to in place of the pipe whose end is in the error.
#[derive(Debug, Default)]
pub struct HookOutput {
    stdout: Option<File>,
    stderr: Option<File>,
}

impl HookOutput {
    /// Opens the files that the annotations name, to append to them.
    ///
    /// # Errors
    /// Those of open(2); ELOOP for a symbolic link.
    pub fn open(annotations: &std::collections::BTreeMap<String, String>) -> Result<Self, Failure> {
        let file = |key| annotations.get(key).map(|path| append(key, Path::new(path))).transpose();
        Ok(HookOutput { stdout: file(STDOUT_FILE)?, stderr: file(STDERR_FILE)? })
    }
}

#[allow(clippy::disallowed_methods, reason = "a file of the host that an annotation names")]
fn append(annotation: &str, path: &Path) -> Result<File, Failure> {
    if !path.is_absolute() {
        return Err(Failure::other(
            "open",
            path.display().to_string(),
            format!("{annotation} must be absolute"),
        ));
    }
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        // A FIFO in its place must not hang the runtime.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .during("open", || format!("{} ({annotation})", path.display()))
}

/// Where and how the hooks of a kind run.
#[derive(Debug)]
pub struct HookSite<'a> {
    /// Working directory; the caller's when not given.
    pub dir: Option<&'a Path>,
    /// Where their output goes.
    pub output: &'a HookOutput,
    /// The environment of hooks that have none of their own.
    pub env: &'a [CString],
}

/// Runs hooks of the runtime's namespaces, in a directory or in the caller's.
///
/// # Errors
/// As [`run_hooks`], and when a file of an annotation can't be opened.
pub fn run_host_hooks(
    kind: &str,
    hooks: &[Hook],
    state: &HookState,
    dir: Option<&Path>,
) -> Result<(), Failure> {
    if hooks.is_empty() {
        return Ok(());
    }
    let output = HookOutput::open(&state.annotations)?;
    run_hooks(kind, hooks, state, &HookSite { dir, output: &output, env: &[] })
}

/// Runs hooks one after another; the first that fails ends it.
///
/// # Errors
/// The hook's path, how it ended, and the end of its output.
pub fn run_hooks(kind: &str, hooks: &[Hook], state: &HookState, site: &HookSite<'_>) -> Result<(), Failure> {
    let document =
        serde_json::to_vec(state).map_err(|e| Failure::other("write hook state", "", e.to_string()))?;
    for (at, hook) in hooks.iter().enumerate() {
        run_hook(hook, &document, site).map_err(|failure| {
            // runc's form: error running <kind> hook #<n>: …
            Failure { step: format!("error running {kind} hook #{at}:"), ..failure }
        })?;
    }
    Ok(())
}

fn run_hook(hook: &Hook, document: &[u8], site: &HookSite<'_>) -> Result<(), Failure> {
    let name = || hook.path().display().to_string();
    // A timeout that no clock can count (2^63 seconds) is none: adding it would panic.
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).during("make pipe for", name)?;
    let mut command = command(hook, site, writer.as_fd()).during("make pipe for", name)?;
    let mut child = command.spawn().during("start", name)?;
    // The command holds the pipe's write ends: without them gone, the end of output is never seen.
    drop((command, writer));
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let pidfd = pidfd_open(pid).during("open pidfd of", name)?;
    let mut talk =
        Talk { reader: Some(File::from(reader)), output: Vec::new(), stdin: None, unsent: document };
    if let Some(stdin) = child.stdin.take() {
        // A hook need not read its state, however large that is: nobody waits for it.
        set_nonblocking(stdin.as_fd()).during("write state to", name)?;
        talk.stdin = Some(File::from(OwnedFd::from(stdin)));
    }
    let exit = talk.follow(&pidfd, deadline);
    let said = talk.tail();
    match exit {
        Some(Exit::Code(0)) => Ok(()),
        Some(Exit::Code(code)) => Err(Failure::other("", name(), format!("exit status {code}{said}"))),
        Some(Exit::Signal(signal)) => {
            Err(Failure::other("", name(), format!("killed by signal {signal}{said}")))
        }
        None => {
            // The group, then the hook itself in case it left the group.
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block);
            let limit = hook.timeout().unwrap_or_default();
            Err(Failure::other("", name(), format!("timed out after {limit} s and was killed{said}")))
        }
    }
}

fn command(hook: &Hook, site: &HookSite<'_>, pipe: BorrowedFd<'_>) -> std::io::Result<Command> {
    let mut command = Command::new(hook.path());
    if let Some((arg0, args)) = list(hook.args()).split_first() {
        command.arg0(arg0).args(args);
    }
    command.env_clear();
    match hook.env() {
        Some(env) => drop(command.envs(env.iter().filter_map(|entry| entry.split_once('=')))),
        None => {
            let pairs = site.env.iter().filter_map(|entry| {
                let bytes = entry.to_bytes();
                let at = bytes.iter().position(|byte| *byte == b'=')?;
                Some((OsStr::from_bytes(bytes.get(..at)?), OsStr::from_bytes(bytes.get(at + 1..)?)))
            });
            command.envs(pairs);
        }
    }
    if let Some(dir) = site.dir {
        command.current_dir(dir);
    }
    let or_pipe = |file: &Option<File>| -> std::io::Result<Stdio> {
        Ok(match file {
            Some(file) => file.try_clone()?.into(),
            None => pipe.try_clone_to_owned()?.into(),
        })
    };
    command.stdin(Stdio::piped()).stdout(or_pipe(&site.output.stdout)?).stderr(or_pipe(&site.output.stderr)?);
    // Its own process group, so that a time-out ends what it has started too (rule 15).
    command.process_group(0);
    only_stdio(&mut command);
    Ok(command)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// The end of what is in a file, as if a hook had written it.
#[cfg(feature = "fuzz")]
pub(crate) fn tail_of(file: File) -> String {
    let mut talk = Talk { reader: Some(file), output: Vec::new(), stdin: None, unsent: &[] };
    while talk.reader.is_some() {
        talk.read_some();
    }
    talk.tail()
}

/// What a hook is told and what it says.
struct Talk<'a> {
    /// Until the end of its output.
    reader: Option<File>,
    output: Vec<u8>,
    /// Until it has its state, or does not want it.
    stdin: Option<File>,
    unsent: &'a [u8],
}

impl Talk<'_> {
    /// Talks until the hook has ended or the deadline has passed (`None`).
    fn follow(&mut self, pidfd: &OwnedFd, deadline: Option<Instant>) -> Option<Exit> {
        self.write_some();
        let mut after_end = 0;
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    // Rounded up, so that the last round does not spin.
                    PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
                }
            };
            let [ended, readable, writable] = self.wait(pidfd, timeout);
            let got = if readable { self.read_some() } else { 0 };
            if writable {
                self.write_some();
            }
            if ended {
                after_end += got;
            }
            // What the hook wrote is in the pipe by now; what a child of it goes on writing is not waited for.
            if ended && (!readable || after_end >= PIPE) {
                let exit = wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block);
                return exit.ok().flatten().map(|(_, exit)| exit);
            }
        }
    }

    /// Whether the hook has ended, has written, and takes more.
    fn wait(&self, pidfd: &OwnedFd, timeout: PollTimeout) -> [bool; 3] {
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.reader.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stdin.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLOUT)));
        if poll(&mut fds, timeout).is_err() {
            return [false; 3];
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |watched| watched && ready.next().unwrap_or(false);
        [next(true), next(self.reader.is_some()), next(self.stdin.is_some())]
    }

    /// Writes what the pipe takes and closes it when all is written, or the hook does not read (EPIPE).
    fn write_some(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.unsent) {
            Ok(length) => self.unsent = self.unsent.get(length..).unwrap_or_default(),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => self.unsent = &[],
        }
        if self.unsent.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads once, keeping the output's end. How much there was.
    fn read_some(&mut self) -> usize {
        let Some(reader) = &mut self.reader else { return 0 };
        let mut buffer = [0u8; 1024];
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => {
                self.reader = None;
                0
            }
            Ok(length) => {
                self.output.extend_from_slice(buffer.get(..length).unwrap_or_default());
                if self.output.len() > 4 * OUTPUT_TAIL {
                    self.output.drain(..self.output.len() - OUTPUT_TAIL);
                }
                length
            }
        }
    }

    /// The end of its output, as the error quotes it.
    fn tail(&self) -> String {
        let tail = self.output.get(self.output.len().saturating_sub(OUTPUT_TAIL)..).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail).trim().to_owned();
        if tail.is_empty() { tail } else { format!(", output: {tail}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut value = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["X=1"]});
        if let Some(timeout) = timeout {
            value["timeout"] = timeout.into();
        }
        serde_json::from_value(value).unwrap()
    }

    fn state() -> HookState {
        HookState {
            oci_version: "1.0.2".into(),
            id: "c".into(),
            status: "creating",
            pid: 7,
            bundle: "/b".into(),
            annotations: Default::default(),
        }
    }

    #[test]
    fn state_comes_on_stdin_and_env_is_only_the_hooks() {
        let script = r#"test "$(cat)" = '{"ociVersion":"1.0.2","id":"c","status":"creating","pid":7,"bundle":"/b"}' \
            && test "$X" = 1 && test -z "$HOME""#;
        run_host_hooks("prestart", &[hook(script, None)], &state(), None).unwrap();
    }

    #[test]
    fn a_failure_names_the_hook_and_ends_with_its_output() {
        let err = run_host_hooks(
            "prestart",
            &[hook("true", None), hook("echo why >&2; exit 3", None)],
            &state(),
            None,
        );
        let text = err.unwrap_err().to_string();
        assert_eq!(text, "error running prestart hook #1: /bin/sh: exit status 3, output: why");
    }

    #[test]
    fn a_state_larger_than_a_pipe_hangs_nobody() {
        let mut large = state();
        large.annotations.insert("k".into(), "v".repeat(1 << 20));
        run_host_hooks(
            "prestart",
            &[hook("true", None), hook("test $(wc -c) -gt 1048576", None)],
            &large,
            None,
        )
        .unwrap();
    }

    #[test]
    fn a_timeout_beyond_all_clocks_is_none() {
        run_host_hooks("prestart", &[hook("true", Some(i64::MAX))], &state(), None).unwrap();
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("(sleep 60; touch {}) & sleep 60", mark.display());
        let text =
            run_host_hooks("prestart", &[hook(&script, Some(1))], &state(), None).unwrap_err().to_string();
        assert!(text.contains("timed out after 1 s"), "{text}");
    }
}
