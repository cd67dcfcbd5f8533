//! The exit record in the bundle: what `delete` answers when the shim was killed after its container's end.

use std::io;
use std::path::Path;

use crate::api::{ExitInfo, Stamp};

/// Name of the file; containerd's own proposal (#14113) uses it too.
const NAME: &str = "exitstatus.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    pid: u32,
    exit_status: u32,
    exited_at: i64,
    exited_at_nanos: i32,
}

/// Writes the record of init's end, atomically.
///
/// # Errors
/// Any of open, write and rename.
pub fn write(bundle: &Path, exit: ExitInfo) -> io::Result<()> {
    let record = Record {
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: exit.at.seconds,
        exited_at_nanos: exit.at.nanos,
    };
    let temporary = bundle.join(".exitstatus.json");
    std::fs::write(&temporary, serde_json::to_vec(&record)?)?;
    std::fs::rename(&temporary, bundle.join(NAME))
}

/// Reads it.
#[must_use]
pub fn read(bundle: &Path) -> Option<ExitInfo> {
    let record: Record = serde_json::from_slice(&std::fs::read(bundle.join(NAME)).ok()?).ok()?;
    let at = Stamp { seconds: record.exited_at, nanos: record.exited_at_nanos };
    Some(ExitInfo { pid: record.pid, status: record.exit_status, at })
}

/// Removes the record of an earlier container in the same bundle.
pub fn clear(bundle: &Path) {
    // Absent nearly always.
    let _ = std::fs::remove_file(bundle.join(NAME));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        let exit = ExitInfo { pid: 7, status: 137, at: Stamp { seconds: 5, nanos: 6 } };
        write(dir.path(), exit).unwrap();
        assert_eq!(read(dir.path()), Some(exit));
        clear(dir.path());
        assert_eq!(read(dir.path()), None);
    }
}
