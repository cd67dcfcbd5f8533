//! Landlock by annotation: what the container's programs may reach of its own files and of TCP ports, beyond what
//! mounts and users say. It restricts only.
//!
//! The annotation's value is JSON; paths are the container's:
//!
//! ```json
//! {"readOnly": ["/"], "readWrite": ["/tmp", "/dev"], "bindTcp": [80], "connectTcp": [443]}
//! ```
//!
//! What no path covers can be neither opened nor executed. Without `bindTcp` (`connectTcp`) every port may be bound
//! (connected to), with an empty list none.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use serde::{Deserialize, Serialize};

use crate::init::{Context, Failure};
use crate::sys::landlock::{Ruleset, version};

/// The annotation of config.json.
pub const ANNOTATION: &str = "io.github.davit.landlock";

/// linux/landlock.h: execute, read a file, read a directory.
const READ: u64 = 1 | 1 << 2 | 1 << 3;
/// All rights on files of version 3 (kernel 6.2); version 5 (6.10) adds ioctl on devices.
const FILES: u64 = (1 << 15) - 1;
const IOCTL_DEV: u64 = 1 << 15;
/// Rights that a path which is no directory can have: execute, write, read, truncate, ioctl.
const OF_FILE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 14 | IOCTL_DEV;
/// `LANDLOCK_ACCESS_NET_BIND_TCP`, `LANDLOCK_ACCESS_NET_CONNECT_TCP`: version 4 (kernel 6.7).
const BIND: u64 = 1;
const CONNECT: u64 = 2;

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rules {
    /// Paths below which files can be read and executed.
    pub read_only: Vec<PathBuf>,
    /// Paths below which everything can be done.
    pub read_write: Vec<PathBuf>,
    /// TCP ports that may be bound.
    pub bind_tcp: Option<Vec<u16>>,
    /// TCP ports that may be connected to.
    pub connect_tcp: Option<Vec<u16>>,
}

impl Rules {
    /// Parses the annotation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Rules, String> {
        // From bytes, as all JSON here: from_str would compile the parser a second time.
        let rules: Rules = serde_json::from_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        match rules.read_only.iter().chain(&rules.read_write).find(|path| !path.is_absolute()) {
            Some(path) => Err(format!("{} is not absolute", path.display())),
            None => Ok(rules),
        }
    }

    /// Restricts the calling process, whose root is the container's.
    ///
    /// # Errors
    /// A path that is not there; a kernel before 6.2, or before 6.7 with ports: none falls back to less.
    pub fn restrict(&self) -> Result<(), Failure> {
        let version = version().during("restrict by landlock", || ANNOTATION)?;
        let with_ports = self.bind_tcp.is_some() || self.connect_tcp.is_some();
        let needed = if with_ports { 4 } else { 3 };
        if version < needed {
            let why = format!("the kernel has version {version} of landlock, {needed} is needed");
            return Err(Failure::other("restrict by landlock", ANNOTATION, why));
        }
        let files = if version >= 5 { FILES | IOCTL_DEV } else { FILES };
        let ports =
            self.bind_tcp.as_ref().map_or(0, |_| BIND) | self.connect_tcp.as_ref().map_or(0, |_| CONNECT);
        let ruleset = Ruleset::new(files, ports).during("restrict by landlock", || ANNOTATION)?;
        for (paths, rights) in [(&self.read_only, READ), (&self.read_write, files)] {
            paths.iter().try_for_each(|path| allow(&ruleset, path, rights))?;
        }
        for (list, right) in [(&self.bind_tcp, BIND), (&self.connect_tcp, CONNECT)] {
            for port in list.iter().flatten() {
                ruleset.allow_port(*port, right).during("allow by landlock", || format!("port {port}"))?;
            }
        }
        ruleset.restrict_self().during("restrict by landlock", || ANNOTATION)
    }
}

fn allow(ruleset: &Ruleset, path: &PathBuf, rights: u64) -> Result<(), Failure> {
    let shown = || path.display().to_string();
    let fd = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .during("allow by landlock", shown)?;
    let stat = fstat(&fd).during("allow by landlock", shown)?;
    let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let rights = if directory { rights } else { rights & OF_FILE };
    ruleset.allow_path(fd.as_fd(), rights).during("allow by landlock", shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_read_strictly() {
        let rules = Rules::parse(r#"{"readOnly": ["/usr"], "bindTcp": []}"#).unwrap();
        assert_eq!(rules.read_only, [PathBuf::from("/usr")]);
        assert_eq!((rules.bind_tcp, rules.connect_tcp), (Some(Vec::new()), None));
        for (text, why) in [
            (r#"{"readonly": []}"#, "unknown field `readonly`"),
            (r#"{"readOnly": ["usr"]}"#, "usr is not absolute"),
            (r#"{"bindTcp": [70000]}"#, "u16"),
            ("", "EOF"),
        ] {
            let error = Rules::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
