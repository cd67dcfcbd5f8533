//! A container's directory `<root>/<id>`: which names it may have, and how the files in it are read and replaced.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::brief::Brief;
use super::state::State;
use super::{Error, Result, Runtime};
use crate::json::convert;

/// Name of the state file in a container's directory.
const STATE_FILE: &str = "state.json";
/// Name of the FIFO that init blocks on until `start`; while it exists the container is `created`.
pub const EXEC_FIFO: &str = "exec.fifo";

/// A container's directory `<root>/<id>`.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
}

impl Dir {
    /// The directory of an id, which is validated here.
    pub fn of(runtime: &Runtime, id: &str) -> Result<Self> {
        validate_id(id)?;
        Ok(Dir { path: runtime.root.join(id) })
    }

    /// Makes it: it must not exist.
    pub fn create(&self) -> Result<()> {
        let make = |path: &Path, mode, recursive| {
            std::fs::DirBuilder::new().mode(mode).recursive(recursive).create(path)
        };
        match make(&self.path, 0o711, false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let root = self.path.parent().unwrap_or(&self.path);
                make(root, 0o700, true).map_err(|e| Error::state("create", root, e))?;
                make(&self.path, 0o711, false)
            }
            other => other,
        }
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists,
            _ => Error::state("create", &self.path, e),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of exec.fifo.
    pub fn fifo(&self) -> PathBuf {
        self.path.join(EXEC_FIFO)
    }

    /// Whether the directory exists, with or without a state.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Reads state.json.
    ///
    /// A file of another owner is refused (rule 16): who can write it names processes to be killed.
    pub fn read(&self) -> Result<State> {
        self.parse(|text| serde_json::from_slice(text))
    }

    /// Reads what `state` and `list` print; as [`Dir::read`] else.
    pub fn read_brief(&self) -> Result<Brief> {
        self.parse(Brief::from_text)
    }

    /// Reads a part of state.json, with the care of [`Dir::read`].
    pub fn read_part<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.parse(|text| serde_json::from_slice(text))
    }

    fn parse<T>(&self, parse: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
        let path = self.path.join(STATE_FILE);
        let missing = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound,
            _ => Error::state("read", &path, e),
        };
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(missing)?;
        let found = file.metadata().map_err(missing)?;
        let owner = found.uid();
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(Error::ForeignState { path, owner });
        }
        // Room for all of it and for the read that finds the end; `take`, for File itself would ask for the
        // size again.
        let room = usize::try_from(found.len()).unwrap_or(0).saturating_add(64);
        let mut text = Vec::with_capacity(room);
        (&mut file).take(u64::MAX).read_to_end(&mut text).map_err(missing)?;
        parse(&text).map_err(|e| Error::io("parse", &path, e.into()))
    }

    /// Writes state.json as a whole or not at all.
    pub fn write(&self, state: &State) -> Result<()> {
        let text = Brief::with(state).map_err(|e| Error::io("write", &self.path, e.into()))?;
        write_atomically(&self.path.join(STATE_FILE), &text, 0o600)
    }

    /// Writes a state that was read and changed. Keys that davit does not read, its own or another runtime's,
    /// stay as they are.
    pub fn rewrite(&self, state: &State) -> Result<()> {
        let path = self.path.join(STATE_FILE);
        let invalid = |e: serde_json::Error| Error::io("write", &path, e.into());
        let text = std::fs::read(&path).map_err(|e| Error::state("read", &path, e))?;
        let mut whole: Value = serde_json::from_slice(&text).map_err(invalid)?;
        let changed = convert(state).map_err(|e| Error::io("write", &path, std::io::Error::other(e)))?;
        merge(&mut whole, changed);
        write_atomically(&path, &serde_json::to_vec(&whole).map_err(invalid)?, 0o600)
    }

    /// Removes whatever is in it. A `runc restore` that was killed leaves a mount of the root file system there, with
    /// which its files would go too.
    fn remove_all(&self) -> std::io::Result<()> {
        use nix::mount::{MntFlags, umount2};
        let root = self.path.join(CRIU_ROOT);
        loop {
            match umount2(&root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // EINVAL: it is no mount, or none any more.
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => break,
                // An ordinary user can't have mounted it.
                Err(nix::errno::Errno::EPERM) => break,
                Err(e) => return Err(e.into()),
            }
        }
        gone(std::fs::remove_dir_all(&self.path))
    }

    /// Removes the directory and what is in it; it may be gone already.
    pub fn remove(&self) -> Result<()> {
        // Nearly always these two are all there is: no listing is needed to remove them.
        let removed = [STATE_FILE, EXEC_FIFO]
            .into_iter()
            .try_for_each(|name| gone(std::fs::remove_file(self.path.join(name))))
            .and_then(|()| gone(std::fs::remove_dir(&self.path)));
        match removed {
            Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => self.remove_all(),
            other => other,
        }
        .map_err(|e| Error::io("remove", &self.path, e))
    }
}

/// Where CRIU sees the root file system of a container that is being restored.
pub const CRIU_ROOT: &str = "criu-root";

/// A removal of something that may be gone already.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a file under another name and renames it, so that a reader sees all of it or nothing.
pub fn write_atomically(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // runc's form of the temporary name: a leading dot.
    let temporary = path.with_file_name(format!(".{name}"));
    let failed = |action| move |e| Error::io(action, path, e);
    let open = || {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
    };
    let mut file: File = match open() {
        // Left by a runtime that was killed.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&temporary).map_err(failed("replace"))?;
            open().map_err(failed("write"))?
        }
        other => other.map_err(failed("write"))?,
    };
    let written = file.write_all(text).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // Its own error would hide the first.
        let _ = std::fs::remove_file(&temporary);
        Error::io("write", path, e)
    })
}

/// Sets the keys of `new` in `old`, objects key by key.
pub(super) fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            new.into_iter().for_each(|(key, value)| merge(old.entry(key).or_insert(Value::Null), value));
        }
        (old, new) => *old = new,
    }
}

/// Ids are one path component of `[A-Za-z0-9_+.-]` (rule 12), as runc's.
pub fn validate_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '.' | '-');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(Error::InvalidId(id.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::state::IntelRdt;
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "A-b_c.d+1", "..."] {
            validate_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\n", &"x".repeat(1025)] {
            assert!(validate_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rewritten_state_keeps_what_is_not_read() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir { path: scratch.path().to_owned() };
        let text = r#"{"id":"x1","init_process_pid":1,"init_process_start":2,"created":"c","extra":[1],
            "config":{"rootfs":"/r","seccomp":{"default_action":255},"mounts":[{"source":"a"}],
            "cgroups":{"name":"x1","memory":7},"labels":["bundle=/b"]},"intel_rdt_path":""}"#;
        std::fs::write(dir.path.join(STATE_FILE), text).unwrap();
        let mut state = dir.read().unwrap();
        state.config.intel_rdt = Some(IntelRdt::default());
        state.intel_rdt_path = "/g".to_owned();
        dir.rewrite(&state).unwrap();
        let written: Value =
            serde_json::from_slice(&std::fs::read(dir.path.join(STATE_FILE)).unwrap()).unwrap();
        let config = &written["config"];
        assert_eq!(written["extra"], serde_json::json!([1]));
        assert_eq!(config["seccomp"], serde_json::json!({"default_action": 255}));
        assert_eq!(config["mounts"], serde_json::json!([{"source": "a"}]));
        assert_eq!(config["cgroups"]["memory"], 7);
        assert_eq!(config["intel_rdt"], serde_json::json!({}));
        assert_eq!(written["intel_rdt_path"], "/g");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(dir.path().join(".pid"), "left over").unwrap();
        write_atomically(&path, b"12", 0o644).unwrap();
        write_atomically(&path, b"345", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"345");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
