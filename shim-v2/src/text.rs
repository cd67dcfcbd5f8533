//! Error wording that callers match: containerd's services, Docker's exit-code rules, integration tests.
//!
//! It is API. Sources: `process/init_state.go`, `process/exec_state.go`, `task/service.go` of containerd's
//! runc shim; `setExitCodeFromError` of moby.

use crate::api::{ApiError, Code};

/// No container of this id.
#[must_use]
pub fn no_container() -> ApiError {
    ApiError::new(Code::NotFound, "container not created")
}

/// No exec of this id.
#[must_use]
pub fn no_process(exec: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("process does not exist {exec}"))
}

/// The container's or exec's id is in use.
#[must_use]
pub fn id_in_use(id: &str) -> ApiError {
    ApiError::new(Code::AlreadyExists, format!("id {id}: already exists"))
}

/// Kill of a process that has ended.
#[must_use]
pub fn finished() -> ApiError {
    ApiError::new(Code::NotFound, "process already finished: not found")
}

/// Kill of an exec that was not started.
#[must_use]
pub fn not_started() -> ApiError {
    ApiError::new(Code::FailedPrecondition, "process not created")
}

/// Start of an exec after init's end.
#[must_use]
pub fn init_gone(id: &str) -> ApiError {
    ApiError::new(Code::FailedPrecondition, format!("container {id} init process is not running"))
}

/// A feature that this shim lacks.
#[must_use]
pub fn unimplemented(what: &str) -> ApiError {
    ApiError::new(Code::Unimplemented, format!("{what} is not implemented"))
}

/// A runtime's failure under the prefix that Go's shim gives it: `OCI runtime create failed: …`.
#[must_use]
pub fn runtime_failed(operation: &str, text: &str) -> ApiError {
    ApiError::unknown(format!("OCI runtime {operation} failed: {text}"))
}

/// Maps a failed kill's text to NotFound where callers expect it (`checkKillError`).
#[must_use]
pub fn kill_failed(text: &str) -> ApiError {
    const GONE: [&str; 4] =
        ["os: process already finished", "container not running", "no such process", "does not exist"];
    let lower = text.to_ascii_lowercase();
    if GONE.iter().any(|gone| lower.contains(gone)) {
        return finished();
    }
    ApiError::unknown(format!("unknown error after kill: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_is_pinned() {
        assert_eq!(no_container().text, "container not created");
        assert_eq!(no_process("e").text, "process does not exist e");
        assert_eq!(init_gone("c").text, "container c init process is not running");
        assert_eq!(runtime_failed("create", "x").text, "OCI runtime create failed: x");
    }

    #[test]
    fn kill_of_something_gone_is_not_found() {
        for text in ["container not running", "No such process", "container \"x\" does not exist"] {
            assert_eq!(kill_failed(text).code, Code::NotFound, "{text}");
        }
        assert_eq!(kill_failed("permission denied").code, Code::Unknown);
    }
}
