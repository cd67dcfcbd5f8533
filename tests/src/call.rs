//! Calls of the runtime.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::{DEADLINE, World, unique};

/// Which cgroup tree the runtime sees at /sys/fs/cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The host's.
    Host,
    /// cgroup2 alone, in a private mount namespace.
    PureV2,
}

/// Makes a pure v2 view for the command that follows.
const PURE_V2: &str = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

/// A call that is being put together.
///
/// Its stdout and stderr are files: a container that inherits them would keep a pipe open.
#[derive(Debug)]
pub struct Call<'w> {
    world: &'w World,
    program: PathBuf,
    args: Vec<OsString>,
    view: View,
    dir: Option<PathBuf>,
    stdin: Option<Stdio>,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    terminal: Option<OwnedFd>,
    with_log: bool,
    with_root: bool,
}

impl<'w> Call<'w> {
    pub(crate) fn new(world: &'w World, args: &[&str]) -> Self {
        Call {
            world,
            program: world.runtime().to_owned(),
            args: args.iter().map(OsString::from).collect(),
            view: View::Host,
            dir: None,
            stdin: None,
            env: Vec::new(),
            wrapper: Vec::new(),
            terminal: None,
            with_log: true,
            with_root: true,
        }
    }

    /// Another runtime on the same state directory.
    #[must_use]
    pub fn with(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Another cgroup view.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.view = view;
        self
    }

    /// A working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// What the call reads; nothing by default.
    #[must_use]
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        let file = self.world.path(&unique("stdin"));
        fs::write(&file, bytes).expect("stdin file");
        self.stdin = Some(File::open(&file).expect("stdin file").into());
        self
    }

    /// An environment variable of the runtime.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A program that runs the runtime, like `setsid -c`.
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Stdin, stdout and stderr are this terminal.
    #[must_use]
    pub fn terminal(mut self, slave: OwnedFd) -> Self {
        self.terminal = Some(slave);
        self
    }

    /// Without `--log`: errors go to stderr only.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.with_log = false;
        self
    }

    /// Without `--root`: state is where the runtime keeps it by default.
    #[must_use]
    pub fn without_root(mut self) -> Self {
        self.with_root = false;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it takes longer than [`DEADLINE`].
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Running {
        let name = unique("call");
        let file = |kind: &str| self.world.path(&format!("{name}.{kind}"));
        let files = Files { stdout: file("stdout"), stderr: file("stderr"), log: file("log") };
        let mut words: Vec<OsString> = Vec::new();
        if self.view == View::PureV2 {
            words.extend(["unshare", "-m", "sh", "-c", PURE_V2, "sh"].map(OsString::from));
        }
        words.extend(self.wrapper.iter().map(OsString::from));
        if let Some(user) = &self.world.user {
            words.extend(user.iter().map(OsString::from));
            // After them, so that they find their own programs in $PATH.
            words.push("env".into());
            words.extend(self.env.drain(..).map(|(name, value)| format!("{name}={value}").into()));
        }
        words.push(self.program.clone().into());
        if self.with_root {
            words.extend(["--root".into(), self.world.root().into()]);
        }
        if self.with_log {
            words.extend(["--log".into(), files.log.clone().into(), "--log-format".into(), "json".into()]);
        }
        let shown = format!("{:?}", self.args);
        words.extend(self.args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let (stdout, stderr) = (
            File::create(&files.stdout).expect("stdout file"),
            File::create(&files.stderr).expect("stderr file"),
        );
        match self.terminal {
            Some(slave) => {
                let copy = || Stdio::from(slave.try_clone().expect("dup"));
                command.stdin(copy()).stdout(copy()).stderr(copy());
            }
            None => {
                command.stdin(self.stdin.unwrap_or_else(Stdio::null)).stdout(stdout).stderr(stderr);
            }
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", words[0]));
        Running { child, files, shown }
    }
}

#[derive(Debug)]
struct Files {
    stdout: PathBuf,
    stderr: PathBuf,
    log: PathBuf,
}

/// A call that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    files: Files,
    shown: String,
}

impl Running {
    /// The runtime's pid (or its wrapper's).
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pid")
    }

    /// What it has written to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.files.stdout)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer than [`DEADLINE`]; it is killed then.
    pub fn wait(self) -> Output {
        self.wait_or_kill().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What it was and what it wrote, when it took longer than [`DEADLINE`] and was killed.
    pub fn wait_or_kill(mut self) -> Result<Output, String> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return Ok(self.ended(shell_code(status)));
            }
            if start.elapsed() > DEADLINE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(format!("{} did not end: {}", self.shown, read(&self.files.stderr)));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The output of one whose end somebody else has waited for.
    #[must_use]
    pub fn ended(self, code: i32) -> Output {
        Output {
            code,
            stdout: read(&self.files.stdout),
            stderr: read(&self.files.stderr),
            log: read(&self.files.log),
            stdout_file: self.files.stdout,
            shown: self.shown,
        }
    }
}

fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read(file: &Path) -> String {
    fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// How a call ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The log file, JSON.
    pub log: String,
    stdout_file: PathBuf,
    shown: String,
}

impl Output {
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}: {}{}", self.shown, self.stderr, self.log);
        self
    }

    /// # Panics
    /// When the exit code is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}: {}{}{}", self.shown, self.stdout, self.stderr, self.log);
        self
    }

    /// Asserts the shape of a failure: the code, one error in the log, the same single sentence on stderr,
    /// and this text in it.
    ///
    /// # Panics
    /// When one of these is not so.
    #[track_caller]
    pub fn fails(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, code, "{}: {}{}", self.shown, self.stderr, self.log);
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{}: errors in the log: {}", self.shown, self.log);
        assert!(errors[0].contains(text), "{}: {:?} is not in {:?}", self.shown, text, errors[0]);
        assert_eq!(self.stderr.trim_end(), errors[0].trim_end(), "{}: stderr and log differ", self.shown);
        self
    }

    /// The error that callers see: the last one in the log; empty when there is none.
    #[must_use]
    pub fn error(&self) -> String {
        self.errors().pop().unwrap_or_default()
    }

    fn errors(&self) -> Vec<String> {
        let objects = serde_json::Deserializer::from_str(&self.log).into_iter::<Value>();
        objects
            .map(|object| object.expect("JSON in the log"))
            .filter(|object| object["level"] == "error")
            .map(|object| object["msg"].as_str().expect("msg").to_owned())
            .collect()
    }

    /// What is in standard output now: a detached container goes on writing to it.
    #[must_use]
    pub fn stdout_now(&self) -> String {
        read(&self.stdout_file)
    }

    /// The file that is standard output.
    #[must_use]
    pub fn stdout_path(&self) -> &Path {
        &self.stdout_file
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {:?}", self.shown, self.stdout))
    }
}
