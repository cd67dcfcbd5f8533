//! `delete`: what containerd runs when a shim's connection has ended, after an ordinary Delete too.
//!
//! On a bundle that is clean already it must be quiet and instant. It touches only its own container and never
//! removes the bundle, which is containerd's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::api::{ExitInfo, Stamp};
use crate::backend::{Backend, remembered};
use crate::flags::Flags;
use crate::living;
use crate::record;
use crate::wire::task::deleted;

/// Exit code of a container whose shim was killed: as if by SIGKILL.
const KILLED: u32 = 137;

/// Removes what the container has left and returns the bytes of a DeleteResponse.
///
/// # Errors
/// One line; containerd logs it and reports exit code 255.
pub fn run(flags: &Flags) -> Result<Vec<u8>> {
    let bundle = bundle(flags)?;
    let options = remembered(&bundle);
    let backend = Backend::new(&options, &flags.namespace);
    let recorded = record::read(&bundle);
    backend.clean_up(&flags.id, &bundle).map_err(|text| anyhow!("delete {}: {text}", flags.id))?;
    remove_dead_socket(&bundle);
    let exit =
        recorded.unwrap_or_else(|| ExitInfo { pid: init_pid(&bundle), status: KILLED, at: Stamp::now() });
    Ok(deleted(exit))
}

/// `-bundle`, else the container's directory beside the current one, which may be another container's.
fn bundle(flags: &Flags) -> Result<PathBuf> {
    if !flags.bundle.is_empty() {
        return Ok(PathBuf::from(&flags.bundle));
    }
    let current = std::env::current_dir().context("current directory")?;
    Ok(current.parent().unwrap_or(Path::new("/")).join(&flags.id))
}

fn init_pid(bundle: &Path) -> u32 {
    let text = fs::read_to_string(bundle.join("init.pid")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The socket of a shim that is gone. One that listens belongs to the other containers of the group.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return };
    let path = Path::new(address.trim().strip_prefix("unix://").unwrap_or(address.trim()));
    if !living::answers(path) {
        // Another `delete` of the group may have been faster.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::api::DeleteResponse;
    use protobuf::Message;

    fn flags(bundle: &Path) -> Flags {
        Flags {
            namespace: "davit-delete-test".into(),
            id: "c1".into(),
            bundle: bundle.display().to_string(),
            ..Flags::default()
        }
    }

    #[test]
    fn clean_bundle_is_killed_by_137_and_a_record_tells_the_truth() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("init.pid"), "4242").unwrap();
        let reply = DeleteResponse::parse_from_bytes(&run(&flags(dir.path())).unwrap()).unwrap();
        assert_eq!((reply.pid, reply.exit_status), (4242, 137));
        let exit = ExitInfo { pid: 4242, status: 3, at: Stamp { seconds: 9, nanos: 1 } };
        record::write(dir.path(), exit).unwrap();
        let reply = DeleteResponse::parse_from_bytes(&run(&flags(dir.path())).unwrap()).unwrap();
        assert_eq!((reply.pid, reply.exit_status, reply.exited_at.seconds), (4242, 3, 9));
    }

    #[test]
    fn only_a_dead_socket_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(dir.path().join("address"), format!("unix://{}", path.display())).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let served = living::tests::answer_once(listener);
        remove_dead_socket(dir.path());
        assert!(path.exists());
        drop(served.join().unwrap());
        remove_dead_socket(dir.path());
        assert!(!path.exists());
    }
}
