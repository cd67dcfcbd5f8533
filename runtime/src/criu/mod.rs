//! CRIU, asked over its RPC: `criu swrk FD` serves one request on a socket and ends.
//!
//! [`call`] sends a request and answers the notifications that come before its response. What is asked for a
//! container is decided by `container::checkpoint` and `container::restore`.

mod log;
mod rpc;
mod swrk;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

pub use rpc::{CgroupsMode, Features, Kind, NetworkLock, Options, Request, Response};
pub use swrk::{Mounts, Setup, Stdio, Swrk};

use crate::init::io_reason;

/// Why CRIU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `criu` in $PATH.
    #[error("criu: executable file not found in $PATH (checkpoint and restore need CRIU {}.{} or newer)", OLDEST.0, OLDEST.1)]
    NotFound,
    /// It is too old.
    #[error("criu {major}.{minor} is too old: checkpoint and restore need {}.{} or newer", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Its major version.
        major: i32,
        /// Its minor version.
        minor: i32,
    },
    /// It could not be started.
    #[error("start {}: {}", path.display(), io_reason(source))]
    Start {
        /// The program.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("talk to criu: {}", io_reason(.0))]
    Talk(io::Error),
    /// It ended without an answer.
    #[error("criu ended without an answer: {0}")]
    Ended(String),
    /// It answered something else than it was asked, or what can't be read.
    #[error("criu gave an unexpected answer")]
    Unexpected,
    /// It says that it failed. runc's words, then CRIU's own.
    #[error("criu failed: type {} errno {errno}{}", kind.name(), details(message, .log))]
    Failed {
        /// What was asked.
        kind: Kind,
        /// CRIU's errno; often 0.
        errno: i32,
        /// CRIU's words.
        message: String,
        /// Its log, and the errors in it.
        log: Option<(PathBuf, String)>,
    },
    /// The kernel can't do what is asked (runc's words).
    #[error("criu is missing features: [{0}]")]
    MissingFeatures(&'static str),
}

fn details(message: &str, log: &Option<(PathBuf, String)>) -> String {
    // Often it is all errors of the log once more.
    let message =
        if message.is_empty() || log.is_some() { String::new() } else { format!(": {}", message.trim()) };
    match log {
        None => message,
        Some((path, errors)) if errors.is_empty() => format!("{message} (log: {})", path.display()),
        Some((path, errors)) => format!("{message}: {errors} (log: {})", path.display()),
    }
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// The oldest CRIU that is used: the one with all that is asked of it (labels of mounts, external pid namespaces,
/// the freezer of cgroup v2).
pub const OLDEST: (i32, i32) = (3, 16);

/// How long CRIU may take to give up.
const GIVE_UP: Duration = Duration::from_secs(5);

/// What comes with a notification.
#[derive(Debug)]
pub struct Notification {
    /// Where CRIU is: `post-dump`, `setup-namespaces`, `post-restore`…
    pub script: String,
    /// The process it is about; 0 if none.
    pub pid: i32,
    /// A descriptor that came along (`orphan-pts-master`).
    pub fd: Option<OwnedFd>,
}

/// Sends a request and waits for its response; `on_notify` is called for each notification before it. When it fails
/// CRIU is told to give up, and that error is the result.
///
/// # Errors
/// Any [`Error`]; a [`Error::Failed`] has no log yet, see [`Error::with_log`].
pub fn call<E: From<Error>>(
    criu: &mut Swrk,
    request: &Request,
    mut on_notify: impl FnMut(Notification) -> std::result::Result<(), E>,
) -> std::result::Result<Response, E> {
    criu.send(request)?;
    let mut failure = None;
    loop {
        let (response, fd) = match criu.receive() {
            Ok(received) => received,
            Err(error) => return Err(failure.unwrap_or_else(|| error.into())),
        };
        let Some((script, pid)) = response.notify.clone().filter(|_| response.kind == Some(Kind::Notify))
        else {
            if let Some(error) = failure {
                return Err(error);
            }
            return finished(request.kind(), response).map_err(E::from);
        };
        ::log::debug!("criu: {script} {pid}");
        let told = match failure {
            // It is giving up: nothing that it does on the way matters.
            Some(_) => Ok(()),
            None => on_notify(Notification { script, pid, fd }),
        };
        let answered = criu.send(&Request::answer(told.is_ok() && failure.is_none()));
        if let Err(error) = told {
            failure = Some(error);
            criu.hurry(GIVE_UP)?;
        }
        if let (Err(error), None) = (answered, &failure) {
            return Err(error.into());
        }
    }
}

fn finished(asked: Kind, response: Response) -> Result<Response> {
    if !response.success {
        return Err(Error::Failed {
            kind: asked,
            errno: response.errno,
            message: response.message,
            log: None,
        });
    }
    if response.kind != Some(asked) {
        return Err(Error::Unexpected);
    }
    Ok(response)
}

impl Error {
    /// Adds what CRIU's log in this directory says to an error of CRIU's.
    #[must_use]
    pub fn with_log(self, path: PathBuf) -> Self {
        let errors = log::errors(&path);
        match self {
            Error::Failed { kind, errno, message, .. } => {
                Error::Failed { kind, errno, message, log: errors.map(|errors| (path, errors)) }
            }
            Error::Ended(how) => match errors {
                Some(errors) if !errors.is_empty() => {
                    Error::Ended(format!("{how}: {errors} (log: {})", path.display()))
                }
                Some(_) => Error::Ended(format!("{how} (log: {})", path.display())),
                None => Error::Ended(how),
            },
            other => other,
        }
    }
}

/// The program.
#[derive(Clone, Debug)]
pub struct Criu {
    program: PathBuf,
}

impl Criu {
    /// CRIU at this path.
    #[must_use]
    pub fn at(program: PathBuf) -> Self {
        Criu { program }
    }

    /// Starts it for one request.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::Talk`].
    pub fn start(&self, setup: &Setup) -> Result<Swrk> {
        Swrk::start(&self.program, setup)
    }

    /// Its version: major, minor and sublevel.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn version(&self) -> Result<(i32, i32, i32)> {
        let mut criu = self.start(&Setup::default())?;
        let response = call::<Error>(&mut criu, &Request::new(Kind::Version), |_| Ok(()))?;
        response.version.ok_or(Error::Unexpected)
    }

    /// Makes sure that it is new enough.
    ///
    /// # Errors
    /// [`Error::TooOld`], or one of talking to it.
    pub fn ensure_usable(&self) -> Result<()> {
        let (major, minor, _) = self.version()?;
        if (major, minor) < OLDEST { Err(Error::TooOld { major, minor }) } else { Ok(()) }
    }

    /// Makes sure that it and the kernel have these features.
    ///
    /// # Errors
    /// [`Error::MissingFeatures`].
    pub fn ensure_features(&self, wanted: Features) -> Result<()> {
        let mut criu = self.start(&Setup::default())?;
        let found = call::<Error>(&mut criu, &Request::features(wanted), |_| Ok(()))?.features;
        if wanted.mem_track && !found.mem_track {
            return Err(Error::MissingFeatures("MemTrack"));
        }
        if wanted.lazy_pages && !found.lazy_pages {
            return Err(Error::MissingFeatures("LazyPages"));
        }
        Ok(())
    }
}

/// What CRIU answers, and what its log says: a target of `hack/fuzz`.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(data: &[u8], scratch: &std::path::Path) {
    if let Some(response) = Response::decode(data) {
        let error = finished(Kind::Restore, response).err();
        drop(error.map(|error| error.to_string()));
    }
    let log = scratch.join("restore.log");
    if std::fs::write(&log, data).is_ok() {
        assert!(log::errors(&log).is_some_and(|errors| !errors.contains('\n')), "one line");
    }
}
