//! What CRIU's log says of a failure.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How much of the log's end is looked at.
const TAIL: u64 = 256 << 10;
/// How many errors are told.
const TOLD: usize = 3;

/// The first few errors of a log, in CRIU's words; `None` when there is no log.
pub(super) fn errors(path: &Path) -> Option<String> {
    let open =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut file: File = open.ok()?;
    let length = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text).ok()?;
    Some(told(&String::from_utf8_lossy(&text)))
}

fn told(log: &str) -> String {
    let errors = log.lines().filter_map(|line| {
        // Said without the mark of an error.
        if let Some(at) = line.find("Can't connect to server") {
            return line.get(at..);
        }
        let (_, error) = line.split_once("Error (")?;
        // `Error (criu/mount.c:2955): words`
        let (_, words) = error.split_once("): ")?;
        // A limit that CRIU would like to raise, and its own summary, are no reasons.
        let noise = words.starts_with("rlimit:") || words.ends_with("FAILED.");
        (!noise).then(|| words.trim())
    });
    errors.take(TOLD).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_noise() {
        let log = "(00.01) Found\n(00.02) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
                   (00.09)      1: Error (criu/mount.c:2955): mnt: Can't create a temporary directory: Read-only file \
                   system\n(00.1) Error (criu/cr-restore.c:2331): Restoring FAILED.\n";
        assert_eq!(told(log), "mnt: Can't create a temporary directory: Read-only file system");
        assert_eq!(told("(00.05) Can't connect to server 1.2.3.4:5\n"), "Can't connect to server 1.2.3.4:5");
        assert_eq!(told(""), "");
        assert_eq!(errors(Path::new("/nowhere/dump.log")), None);
    }
}
