//! Another OCI runtime, executed with runc's command line as containerd-shim-runc-v2 does (go-runc).

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use davit::sys::fs::WinSize;
use davit::sys::process::die_with_parent;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::checkpoint::{CheckpointArgs, RestoreArgs};
use super::{CreateArgs, ERROR_LIMIT, ExecArgs, Outcome, write_private};
use crate::io::pty;

/// Part of the runtime's log that is searched for its last error, in bytes.
const LOG_TAIL: u64 = 64 << 10;

/// One call of the runtime.
#[derive(Debug)]
pub struct External<'a> {
    /// Name or path of the binary.
    pub binary: &'a str,
    /// `--root`.
    pub root: &'a Path,
    /// `--log`.
    pub log: PathBuf,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
}

impl External<'_> {
    /// `create`, with the worker's descriptors 0 to 2 as the container's.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn create(&self, args: &CreateArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        // Each container's log starts empty: its last error is this call's.
        let _ = fs::remove_file(&self.log);
        let pid_file = args.bundle.join("init.pid");
        let mut command = self.command();
        command.arg("create").arg("--bundle").arg(&args.bundle).arg("--pid-file").arg(&pid_file);
        if args.options.no_pivot_root {
            command.arg("--no-pivot");
        }
        if args.options.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        self.launch(command, console, &args.id)?;
        read_pid(&pid_file)
    }

    /// `exec --detach`, with the worker's descriptors 0 to 2 as the process's.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn exec(&self, args: &ExecArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        let pid_file = args.bundle.join(format!("{}.pid", args.exec));
        let process_file = args.bundle.join(format!("{}.process.json", args.exec));
        let spec = with_terminal(&args.spec, args.terminal, args.size)?;
        write_private(&process_file, &spec).map_err(|e| format!("write {}: {e}", process_file.display()))?;
        let mut command = self.command();
        command
            .arg("exec")
            .arg("--process")
            .arg(&process_file)
            .arg("--detach")
            .arg("--pid-file")
            .arg(&pid_file);
        let started = self.launch(command, console, &args.id).and_then(|()| read_pid(&pid_file));
        let _ = fs::remove_file(&process_file);
        let _ = fs::remove_file(&pid_file);
        started
    }

    /// `checkpoint`, with the options that Go's shim passes on, and the mode of cgroups.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn checkpoint(&self, args: &CheckpointArgs, work: &Path) -> Outcome<()> {
        let options = &args.options;
        let word = OsStr::new;
        let mut words = vec![word("checkpoint"), word("--image-path"), args.images.as_os_str()];
        words.extend([word("--work-path"), work.as_os_str()]);
        let switches = [
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
            (!options.exit, "--leave-running"),
        ];
        words.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, name)| word(name)));
        if !options.cgroups_mode.is_empty() {
            words.extend([word("--manage-cgroups-mode"), word(&options.cgroups_mode)]);
        }
        words.extend(options.empty_namespaces.iter().flat_map(|name| [word("--empty-ns"), word(name)]));
        words.push(word(&args.id));
        self.simple(&words)
    }

    /// `restore --detach`, with the worker's descriptors 0 to 2 as the container's.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn restore(&self, args: &RestoreArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        // As at create: the log's last error is this call's.
        let _ = fs::remove_file(&self.log);
        let pid_file = args.bundle.join("init.pid");
        let mut command = self.command();
        command.arg("restore").arg("--image-path").arg(&args.images).arg("--work-path").arg(&args.work);
        command.arg("--detach").arg("--pid-file").arg(&pid_file).arg("--no-subreaper");
        if args.runtime_options.no_pivot_root {
            command.arg("--no-pivot");
        }
        command.arg("--bundle").arg(&args.bundle);
        self.launch(command, console, &args.id)?;
        read_pid(&pid_file)
    }

    /// A command without stdio of its own.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn simple(&self, args: &[impl AsRef<OsStr>]) -> Outcome<()> {
        let mark = self.log_size();
        let output =
            self.command().args(args).stdin(Stdio::null()).output().map_err(|e| self.exec_error(&e))?;
        if output.status.success() {
            return Ok(());
        }
        let mut said = output.stderr;
        said.extend(output.stdout);
        Err(self.failure(mark, output.status, &said))
    }

    /// `update`, with the resources on stdin.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn update(&self, id: &str, resources: &[u8]) -> Outcome<()> {
        let mark = self.log_size();
        let mut command = self.command();
        command.args(["update", "--resources", "-", id]).stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|e| self.exec_error(&e))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A runtime that ends without reading says why in its log.
            let _ = stdin.write_all(resources);
        }
        let status = child.wait().map_err(|e| self.exec_error(&e))?;
        if status.success() { Ok(()) } else { Err(self.failure(mark, status, &[])) }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.binary);
        die_with_parent(&mut command);
        command.arg("--root").arg(self.root).arg("--log").arg(&self.log).arg("--log-format").arg("json");
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    /// Runs create, restore or exec and hands a terminal's master on to the shim.
    fn launch(&self, mut command: Command, console: Option<OwnedFd>, id: &str) -> Outcome<()> {
        let mark = self.log_size();
        let socket = match console {
            Some(shim) => Some((ConsoleSocket::new().map_err(|e| format!("console socket: {e}"))?, shim)),
            None => None,
        };
        if let Some((socket, _)) = &socket {
            command.arg("--console-socket").arg(&socket.path);
        }
        let status = command.arg(id).status().map_err(|e| self.exec_error(&e))?;
        if !status.success() {
            return Err(self.failure(mark, status, &[]));
        }
        match socket {
            Some((socket, shim)) => socket.forward(&shim).map_err(|e| format!("receive the terminal: {e}")),
            None => Ok(()),
        }
    }

    fn exec_error(&self, error: &io::Error) -> String {
        // Go's exec.Error wording, which names the binary: Docker and tests look for it.
        match error.kind() {
            io::ErrorKind::NotFound if !self.binary.contains('/') => {
                format!("exec: {:?}: executable file not found in $PATH", self.binary)
            }
            io::ErrorKind::NotFound => format!("fork/exec {}: no such file or directory", self.binary),
            _ => format!("fork/exec {}: {error}", self.binary),
        }
    }

    fn log_size(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |m| m.len())
    }

    fn failure(&self, mark: u64, status: ExitStatus, said: &[u8]) -> String {
        let text = match last_error(&self.log, mark) {
            Ok(Some(text)) => text,
            Ok(None) => {
                let said = String::from_utf8_lossy(said);
                format!("{} did not terminate successfully: {status}: {}", self.binary, said.trim())
            }
            Err(e) => format!("unable to retrieve OCI runtime error ({e}): {status}"),
        };
        text.chars().take(ERROR_LIMIT / 4).collect()
    }
}

/// The last `level=error` line of a runtime's JSON log after offset `mark` (`getLastRuntimeError`).
pub(crate) fn last_error(log: &Path, mark: u64) -> io::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut file = match fs::File::open(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(mark.min(size).max(size.saturating_sub(LOG_TAIL))))?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut tail)?;
    let mut errors = tail.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice::<Line>(l).ok());
    Ok(errors.rfind(|l| l.level == "error").map(|l| l.msg.trim().to_owned()))
}

fn read_pid(path: &Path) -> Outcome<i32> {
    let text = fs::read_to_string(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{}: not a pid: {text:?}", path.display()))
}

/// The process object with `terminal` and the terminal's size as the requests say.
pub(crate) fn with_terminal(spec: &[u8], terminal: bool, size: Option<WinSize>) -> Outcome<Vec<u8>> {
    let mut value: serde_json::Value =
        serde_json::from_slice(spec).map_err(|e| format!("exec's process spec: {e}"))?;
    let object = value.as_object_mut().ok_or("exec's process spec is no object")?;
    object.insert("terminal".to_owned(), terminal.into());
    if let Some(size) = size {
        let size = serde_json::json!({"height": size.rows, "width": size.cols});
        object.insert("consoleSize".to_owned(), size);
    }
    serde_json::to_vec(&value).map_err(|e| e.to_string())
}

/// A listening socket in a private directory, for `--console-socket`.
struct ConsoleSocket {
    dir: PathBuf,
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    fn new() -> io::Result<ConsoleSocket> {
        let dir = std::env::temp_dir().join(format!("davit-pty-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let path = dir.join("s");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(ConsoleSocket { dir, path, listener }),
            Err(e) => {
                let _ = fs::remove_dir(&dir);
                Err(e)
            }
        }
    }

    /// The runtime has ended, so its message is queued: takes it and passes the descriptor to the shim.
    fn forward(&self, shim: &OwnedFd) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let (connection, _) = self.listener.accept()?;
        let master = pty::receive_master(&connection.into())?;
        let fds = [master.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(shim.as_raw_fd(), &[IoSlice::new(b"pty")], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_error_line_of_this_call() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        assert_eq!(last_error(&log, 0).unwrap(), None);
        let old = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"t\"}\n";
        fs::write(&log, format!("{old}not json\n")).unwrap();
        assert_eq!(last_error(&log, 0).unwrap().as_deref(), Some("old"));
        assert_eq!(last_error(&log, old.len() as u64).unwrap(), None);
        let more = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"last\\n\"}\n\
                    {\"level\":\"info\",\"msg\":\"bye\"}\n";
        fs::write(&log, format!("{old}{more}")).unwrap();
        assert_eq!(last_error(&log, old.len() as u64).unwrap().as_deref(), Some("last"));
    }

    #[test]
    fn terminal_of_the_request_wins() {
        let spec = with_terminal(br#"{"args":["sh"],"terminal":true}"#, false, None).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(value, serde_json::json!({"args": ["sh"], "terminal": false}));
        assert!(with_terminal(b"[]", true, None).is_err());
    }

    #[test]
    fn missing_binary_is_named() {
        let runtime = External {
            binary: "no-runc",
            root: Path::new("/nonexistent"),
            log: PathBuf::from("/nonexistent/log.json"),
            systemd_cgroup: false,
        };
        let text = runtime.simple(&["start", "x"]).unwrap_err();
        assert_eq!(text, "exec: \"no-runc\": executable file not found in $PATH");
    }
}
