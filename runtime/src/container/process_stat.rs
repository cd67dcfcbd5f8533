//! What tells one process from another: /proc/PID/stat (proc_pid_stat(5)).

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{Error, Result};

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// State letter (proc_pid_stat(5)).
    pub state: char,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Whether it has executed a program since it was forked. Also known of a process that has ended and
    /// is not reaped yet.
    pub executed: bool,
}

/// PF_FORKNOEXEC of the kernel's `sched.h`: forked, and no program executed since.
const FORKED_WITHOUT_EXEC: u64 = 0x40;

impl ProcessStat {
    /// Reads it; `None` when there is no such process.
    pub fn read(pid: i32) -> Result<Option<Self>> {
        if pid <= 0 {
            return Ok(None);
        }
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        // One read: the kernel makes the line as a whole, and it is shorter.
        let mut text = [0u8; 2048];
        match File::open(&path).and_then(|mut file| file.read(&mut text)) {
            Ok(length) => Self::parse(text.get(..length).unwrap_or_default())
                .map(Some)
                .ok_or_else(|| Error::io("parse", &path, std::io::ErrorKind::InvalidData.into())),
            // ESRCH: it ended between open and read.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// As [`ProcessStat::read`] for one process: `None` also when it is dead, or a later one has its pid.
    pub fn of_process(pid: i32, start: u64) -> Result<Option<Self>> {
        Ok(Self::read(pid)?.filter(|stat| stat.start == start && !matches!(stat.state, 'Z' | 'X')))
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        // The command may hold spaces and parentheses: fields are counted from the last one.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // The state is field 3, flags are field 9, start time is field 22.
        let flags: u64 = fields.nth(5)?.parse().ok()?;
        let start = fields.nth(12)?.parse().ok()?;
        Some(ProcessStat { state, start, executed: flags & FORKED_WITHOUT_EXEC == 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let line = b"7 (a) R 1 (x) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1 1\n";
        assert_eq!(ProcessStat::parse(line), Some(ProcessStat { state: 'S', start: 12345, executed: true }));
        assert_eq!(ProcessStat::parse(b"7 (x"), None);
        let own = ProcessStat::read(std::process::id() as i32).unwrap().unwrap();
        assert!(own.start > 0);
    }
}
