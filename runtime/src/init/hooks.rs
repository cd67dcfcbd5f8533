//! Hooks (config.md "POSIX-platform Hooks"): programs of the caller, run at fixed points with the
//! container's state on stdin.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use serde::Serialize;

use super::{Context, Failure};
use crate::spec::list;
use crate::sys::process::{Exit, WaitFor, WaitMode, pidfd_open, pidfd_send_signal, wait};

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

/// Runs hooks one after another; the first that fails ends it.
///
/// # Errors
/// The hook's path, how it ended, and the end of its output.
pub fn run_hooks(kind: &str, hooks: &[Hook], state: &HookState) -> Result<(), Failure> {
    let document =
        serde_json::to_vec(state).map_err(|e| Failure::other("write hook state", "", e.to_string()))?;
    for (at, hook) in hooks.iter().enumerate() {
        run_hook(hook, &document).map_err(|failure| {
            // runc's form: error running <kind> hook #<n>: …
            Failure { step: format!("error running {kind} hook #{at}:"), ..failure }
        })?;
    }
    Ok(())
}

fn run_hook(hook: &Hook, document: &[u8]) -> Result<(), Failure> {
    let name = || hook.path().display().to_string();
    let deadline =
        hook.timeout().and_then(|s| u64::try_from(s).ok()).map(|s| Instant::now() + Duration::from_secs(s));
    let mut command = Command::new(hook.path());
    if let Some((arg0, args)) = list(hook.args()).split_first() {
        command.arg0(arg0).args(args);
    }
    command.env_clear().envs(list(hook.env()).iter().filter_map(|entry| entry.split_once('=')));
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).during("make pipe for", name)?;
    let mut reader = File::from(reader);
    let writer2 = writer.try_clone().during("make pipe for", name)?;
    command.stdin(Stdio::piped()).stdout(writer).stderr(writer2);
    // Its own process group, so that a time-out ends what it has started too (rule 15).
    command.process_group(0);
    let mut child = command.spawn().during("start", name)?;
    // The command holds the pipe's write ends: without them gone, the end of output is never seen.
    drop(command);
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let pidfd = pidfd_open(pid).during("open pidfd of", name)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state: EPIPE is no error.
        let _ = stdin.write_all(document);
    }
    let mut output = Vec::new();
    let exit = follow(&pidfd, &mut reader, &mut output, deadline);
    let tail = output.get(output.len().saturating_sub(OUTPUT_TAIL)..).unwrap_or_default();
    let tail = String::from_utf8_lossy(tail).trim().to_owned();
    let said = if tail.is_empty() { String::new() } else { format!(", output: {tail}") };
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

/// Collects output until the hook has ended or the deadline has passed (`None`).
fn follow(
    pidfd: &std::os::fd::OwnedFd,
    reader: &mut File,
    output: &mut Vec<u8>,
    deadline: Option<Instant>,
) -> Option<Exit> {
    let mut open = true;
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
        let mut fds =
            [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        let watched = if open { fds.as_mut_slice() } else { fds.split_at_mut(1).0 };
        if poll(watched, timeout).is_err() {
            continue;
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let [process, pipe] = &fds;
        let (ended, readable) = (ready(process), open && ready(pipe));
        if readable {
            open = read_some(reader, output);
        }
        // What the hook wrote is in the pipe by now; what a child of it goes on writing is not waited for.
        if ended && (!readable || output.len() >= OUTPUT_TAIL) {
            return wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block).ok().flatten().map(|(_, exit)| exit);
        }
    }
}

/// Reads once, keeping the output's end; false at the end of file.
fn read_some(reader: &mut File, output: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; 1024];
    match reader.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            output.extend_from_slice(buffer.get(..length).unwrap_or_default());
            if output.len() > 4 * OUTPUT_TAIL {
                output.drain(..output.len() - OUTPUT_TAIL);
            }
            true
        }
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
        run_hooks("prestart", &[hook(script, None)], &state()).unwrap();
    }

    #[test]
    fn a_failure_names_the_hook_and_ends_with_its_output() {
        let err = run_hooks("prestart", &[hook("true", None), hook("echo why >&2; exit 3", None)], &state());
        let text = err.unwrap_err().to_string();
        assert_eq!(text, "error running prestart hook #1: /bin/sh: exit status 3, output: why");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let script = format!("(sleep 60; touch {}) & sleep 60", mark.display());
        let text = run_hooks("prestart", &[hook(&script, Some(1))], &state()).unwrap_err().to_string();
        assert!(text.contains("timed out after 1 s"), "{text}");
    }
}
