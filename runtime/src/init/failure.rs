//! Why a step failed: one structured error that crosses from the container's process to the runtime.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A failed step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was done: `mount`, `set hostname`, `exec`.
    pub step: String,
    /// To what.
    pub object: String,
    /// The kernel's errno, 0 when the error is not the kernel's.
    pub errno: i32,
    /// More than the errno says: a hint, a filesystem's own words, a hook's stderr.
    pub detail: String,
}

impl Failure {
    /// A failed system call.
    #[must_use]
    pub fn new(step: &str, object: impl Into<String>, error: &io::Error) -> Self {
        let detail = if error.raw_os_error().is_none() { error.to_string() } else { String::new() };
        Failure { step: step.into(), object: object.into(), errno: error.raw_os_error().unwrap_or(0), detail }
    }

    /// A failure that is not the kernel's.
    #[must_use]
    pub fn other(step: &str, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Failure { step: step.into(), object: object.into(), errno: 0, detail: detail.into() }
    }

    /// Adds what the errno does not say.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// As it crosses to another process.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What [`Failure::encode`] wrote; other text becomes a failure that quotes it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Failure::other("container init", "", String::from_utf8_lossy(bytes)))
    }
}

/// The kernel's reason in Go's words (lower case, no number), which callers of runc match.
#[must_use]
pub fn reason(errno: i32) -> String {
    let words = nix::errno::Errno::from_raw(errno).desc();
    let mut chars = words.chars();
    match chars.next() {
        // "I/O error" and the like keep their capitals.
        Some(first) if !words.chars().nth(1).is_some_and(|c| c == '/' || c.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => words.to_owned(),
    }
}

/// The reason of an io::Error in the same words.
#[must_use]
pub fn io_reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), reason)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step.as_str() {
            // runc's and Go's form, from which Docker and Podman tell exit codes 126 and 127.
            "exec" => write!(f, "exec: {:?}", self.object)?,
            step if self.object.is_empty() => f.write_str(step)?,
            step => write!(f, "{step} {}", self.object)?,
        }
        if self.errno != 0 {
            write!(f, ": {}", reason(self.errno))?;
        }
        match (self.detail.as_str(), self.errno) {
            ("", _) => Ok(()),
            (detail, 0) => write!(f, ": {detail}"),
            (detail, _) => write!(f, " ({detail})"),
        }
    }
}

impl std::error::Error for Failure {}

/// Names the step and its object when a system call fails.
pub trait Context<T> {
    /// `object` is only built on failure.
    ///
    /// # Errors
    /// The [`Failure`].
    fn during<O: Into<String>>(self, step: &str, object: impl FnOnce() -> O) -> Result<T, Failure>;
}

impl<T> Context<T> for io::Result<T> {
    fn during<O: Into<String>>(self, step: &str, object: impl FnOnce() -> O) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, object(), &error))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn during<O: Into<String>>(self, step: &str, object: impl FnOnce() -> O) -> Result<T, Failure> {
        self.map_err(io::Error::from).during(step, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let e = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(Failure::new("mount", "/x", &e).to_string(), "mount /x: no such file or directory");
        assert_eq!(
            Failure::new("mount", "/x", &e).with_detail("is it there?").to_string(),
            "mount /x: no such file or directory (is it there?)"
        );
        let f = Failure::other("exec", "foo", "executable file not found in $PATH");
        assert_eq!(f.to_string(), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(reason(libc::EACCES), "permission denied");
        assert_eq!(reason(libc::EIO), "I/O error");
    }
}
