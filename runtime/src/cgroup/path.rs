//! `linux.cgroupsPath` to a place in the hierarchies, by the rules of runc's cgroupfs driver.
//!
//! - absolute: below each mount point;
//! - relative: below this process's own cgroup on v1 and hybrid, beside it (below its parent) on pure v2,
//!   since a v2 cgroup with processes can't have controllers enabled for its children;
//! - absent: as the relative path `<id>`.
//!
//! `..` is resolved lexically and stops at the hierarchy's root or at the own cgroup: it can't lead out.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::Error;
use super::layout::{Mode, ROOT};

/// A place relative to something in each hierarchy. The path inside is normalised and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the mount point.
    BelowMount(PathBuf),
    /// Below (v2: beside) this process's own cgroup.
    BelowOwn(PathBuf),
}

/// Applies the rules above.
pub(super) fn place(id: &str, cgroups_path: Option<&Path>) -> Result<Place, Error> {
    let Some(path) = cgroups_path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Place::BelowOwn(sub_path("container id", id)?));
    };
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().any(|b| *b == 0 || *b == b'\n') {
        return Err(Error::InvalidName { what: "cgroupsPath", name: path.display().to_string() });
    }
    if !bytes.contains(&b'/') && bytes.iter().filter(|b| **b == b':').count() == 2 {
        return Err(Error::SystemdPath(path.to_owned()));
    }
    let clean = normalise(path);
    match (path.is_absolute(), clean.as_os_str().is_empty()) {
        (true, true) => Err(Error::RootCgroup(path.to_owned())),
        (false, true) => Err(Error::InvalidName { what: "cgroupsPath", name: path.display().to_string() }),
        (true, false) => Ok(Place::BelowMount(clean)),
        (false, false) => Ok(Place::BelowOwn(clean)),
    }
}

/// The directory that relative paths start from, given that of this process's own cgroup.
pub(super) fn base<'p>(own: &'p Path, mountpoint: &Path, mode: Mode) -> &'p Path {
    match own.parent() {
        Some(parent) if mode == Mode::V2 && own != mountpoint => parent,
        _ => own,
    }
}

/// Lexical normal form as a relative path: `..` removes the component before it, if there is one.
fn normalise(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// A path below a cgroup, given by a user (`exec --cgroup`): relative, without `..`.
pub(super) fn sub_path(what: &'static str, name: &str) -> Result<PathBuf, Error> {
    let invalid = || Error::InvalidName { what, name: name.to_owned() };
    if name.contains(['\0', '\n']) {
        return Err(invalid());
    }
    let mut clean = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            // runc joins `/sub` and `sub` alike.
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid()),
        }
    }
    if clean.as_os_str().is_empty() { Err(invalid()) } else { Ok(clean) }
}

/// Whether a path of state.json is absolute and in normal form. By its bytes: `list` looks at a dozen for each
/// container, and [`Path::components`] was a sixth of its time.
pub(super) fn is_normal(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let below = bytes.strip_prefix(b"/").filter(|below| !below.contains(&0));
    below.is_some_and(|below| {
        below.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
    })
}

/// How many components a path in normal form has below the directory of all hierarchies; `None` elsewhere.
pub(super) fn depth(path: &Path) -> Option<usize> {
    let below = path.as_os_str().as_bytes().strip_prefix(ROOT.as_bytes())?;
    if below.is_empty() {
        return Some(0);
    }
    Some(below.strip_prefix(b"/")?.split(|byte| *byte == b'/').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Result<Place, Error> {
        place("id", Some(Path::new(path)))
    }

    #[test]
    fn rules_of_the_cgroupfs_driver() {
        let mount = |p: &str| Place::BelowMount(PathBuf::from(p));
        let own = |p: &str| Place::BelowOwn(PathBuf::from(p));
        assert_eq!(place("id", None).unwrap(), own("id"));
        assert_eq!(at("").unwrap(), own("id"));
        assert_eq!(at("/a/b").unwrap(), mount("a/b"));
        assert_eq!(at("//a/./b//").unwrap(), mount("a/b"));
        assert_eq!(at("a/b").unwrap(), own("a/b"));
        assert_eq!(at("../../../x").unwrap(), own("x"));
        assert_eq!(at("/a/../../x").unwrap(), mount("x"));
        assert_eq!(at("/kubepods/a:b:c").unwrap(), mount("kubepods/a:b:c"));
        assert_eq!(at("a:b").unwrap(), own("a:b"));
    }

    #[test]
    fn relative_to_the_own_cgroup() {
        let base =
            |own: &str, mode| base(Path::new(own), Path::new("/cg"), mode).to_str().unwrap().to_owned();
        assert_eq!(base("/cg/q/a/b", Mode::V2), "/cg/q/a");
        assert_eq!(base("/cg/q", Mode::V2), "/cg");
        assert_eq!(base("/cg", Mode::V2), "/cg");
        assert_eq!(base("/cg/q/a/b", Mode::V1), "/cg/q/a/b");
        assert_eq!(base("/cg/q/a/b", Mode::Hybrid), "/cg/q/a/b");
    }

    #[test]
    fn refused() {
        assert!(matches!(at("system.slice:docker:id"), Err(Error::SystemdPath(_))));
        assert!(matches!(at("/"), Err(Error::RootCgroup(_))));
        assert!(matches!(at("/.."), Err(Error::RootCgroup(_))));
        assert!(matches!(at("."), Err(Error::InvalidName { .. })));
        assert!(matches!(at("a\nb"), Err(Error::InvalidName { .. })));
        assert!(matches!(place("..", None), Err(Error::InvalidName { .. })));
    }

    #[test]
    fn sub_cgroups_stay_below() {
        assert_eq!(sub_path("x", "/a/b").unwrap(), Path::new("a/b"));
        assert_eq!(sub_path("x", "a/./b").unwrap(), Path::new("a/b"));
        for bad in ["", "/", ".", "..", "a/..", "a/../../b", "a\0"] {
            assert!(sub_path("x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn depth_below_the_hierarchies() {
        for (path, below) in [
            ("/sys/fs/cgroup", Some(0)),
            ("/sys/fs/cgroup/cpu", Some(1)),
            ("/sys/fs/cgroup/cpu/a/b", Some(3)),
            ("/sys/fs/cgroupx/y", None),
            ("/mnt/x", None),
        ] {
            assert_eq!(depth(Path::new(path)), below, "{path}");
        }
    }

    #[test]
    fn paths_of_state() {
        assert!(is_normal(Path::new("/sys/fs/cgroup/x")));
        for bad in ["", "/", "a", "/a/../b"] {
            assert!(!is_normal(Path::new(bad)), "{bad:?}");
        }
    }
}
