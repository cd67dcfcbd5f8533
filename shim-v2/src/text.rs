//! Error wording that callers match: containerd's services, Docker's exit-code rules, integration tests.
//!
//! It is API. Sources: `process/init_state.go`, `process/exec_state.go`, `task/service.go` of containerd's
//! runc shim; `setExitCodeFromError` of moby.

use crate::api::{ApiError, Code, Stamp};

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

/// RFC 3339 in UTC with seconds, as runc's log has it.
#[must_use]
pub fn rfc3339(at: Stamp) -> String {
    // Days to civil date by Hinnant's algorithm; years are those of the Gregorian calendar.
    let (days, second) = (at.seconds.div_euclid(86_400), at.seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let of = |seconds| rfc3339(Stamp { seconds, nanos: 0 });
        assert_eq!(of(0), "1970-01-01T00:00:00Z");
        assert_eq!(of(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(of(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(of(-62_135_596_800), "0001-01-01T00:00:00Z");
    }

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
