//! The flags before the command word, and what they say about the runtime.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgMatches};
use log::LevelFilter;
use nix::unistd::geteuid;

use super::args::{go_bool, path_parser, switch, value};
use super::errno_text;
use crate::container::Runtime;
use crate::logging::{self, Format};

/// Long names of the global flags that take a value, in the order of [`flags`].
pub(super) const WITH_VALUE: [&str; 5] = ["log", "log-format", "root", "rootless", "criu"];

/// Name of the state directory below /run or `$XDG_RUNTIME_DIR`.
const DIRECTORY: &str = "davit";

/// What the global flags say.
#[derive(Debug)]
pub(super) struct Global {
    /// State directory and cgroup driver.
    pub runtime: Runtime,
}

/// The global flags.
pub(super) fn flags() -> Vec<Arg> {
    vec![
        switch("debug", "enable debug logging"),
        value("log", "append davit's log to this file (default: standard error)").value_parser(path_parser()),
        value("log-format", "format of the log: text or json (default: text)"),
        value("root", "directory for the state of containers; it should be on a tmpfs (default: /run/davit)")
            .value_parser(path_parser()),
        switch(
            "systemd-cgroup",
            "let systemd make the cgroups; cgroupsPath has the form \"slice:prefix:name\"",
        ),
        value("rootless", "ignore cgroup permission errors: true, false or auto (default: auto)"),
        value("criu", "ignored").hide(true),
        switch("version", "print the version").short('v'),
    ]
}

impl Global {
    /// Starts the log, then reads the other flags, so that their errors are in it.
    pub(super) fn new(matches: &ArgMatches) -> anyhow::Result<Self> {
        start_log(matches)?;
        if matches.contains_id("criu") {
            log::warn!("--criu is ignored: criu is looked up in $PATH");
        }
        let root = match matches.get_one::<PathBuf>("root") {
            Some(root) => given_root(root)?,
            None => default_root()?,
        };
        let runtime = Runtime {
            root,
            systemd_cgroup: matches.get_flag("systemd-cgroup"),
            rootless: rootless(matches)?,
        };
        Ok(Global { runtime })
    }
}

fn start_log(matches: &ArgMatches) -> anyhow::Result<()> {
    let format = match matches.get_one::<String>("log-format").map(String::as_str) {
        None | Some("text" | "") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => bail!("invalid log-format: {other}"),
    };
    let level = if matches.get_flag("debug") { LevelFilter::Debug } else { LevelFilter::Info };
    let file = matches.get_one::<PathBuf>("log").map(PathBuf::as_path);
    let file = file.filter(|path| !path.as_os_str().is_empty() && *path != Path::new("/dev/stderr"));
    logging::init(format, file, level)
        .map_err(|e| anyhow!("open {}: {}", file.unwrap_or(Path::new("")).display(), errno_text(&e)))
}

fn given_root(root: &Path) -> anyhow::Result<PathBuf> {
    if root.as_os_str().is_empty() {
        bail!("option --root argument must not be empty");
    }
    let absolute = std::path::absolute(root).with_context(|| format!("resolve --root {}", root.display()))?;
    // Container ids are names in this directory: `delete` must never meet /etc.
    if absolute.components().count() == 1 {
        bail!("option --root argument should not be set to /");
    }
    Ok(absolute)
}

/// /run/davit, or for those who are not root of the host's user namespace `$XDG_RUNTIME_DIR/davit`, with
/// the sticky bit that keeps tmp cleaners away from it.
fn default_root() -> anyhow::Result<PathBuf> {
    let system = Path::new("/run").join(DIRECTORY);
    if geteuid().is_root()
        && (!in_user_namespace() || std::env::var_os("USER").is_some_and(|user| user == "root"))
    {
        return Ok(system);
    }
    let Some(base) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) else {
        return Ok(system);
    };
    let root = Path::new(&base).join(DIRECTORY);
    make_sticky(&root).map_err(|e| {
        anyhow!(
            "the path in $XDG_RUNTIME_DIR must be writable by the user: {}: {}",
            root.display(),
            errno_text(&e)
        )
    })?;
    Ok(root)
}

fn make_sticky(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1700))
}

fn rootless(matches: &ArgMatches) -> anyhow::Result<bool> {
    let text = matches.get_one::<String>("rootless").map_or("auto", String::as_str);
    match text {
        "auto" | "" => Ok(!geteuid().is_root() || in_user_namespace()),
        other => go_bool(other.as_bytes())
            .ok_or_else(|| anyhow!("invalid --rootless value {other:?}: it must be true, false or auto")),
    }
}

/// Whether ids are mapped, which they are not in the host's user namespace. Read once.
fn in_user_namespace() -> bool {
    static MAPPED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *MAPPED.get_or_init(ids_are_mapped)
}

fn ids_are_mapped() -> bool {
    // Longer than the host's one line, which is all that matters here.
    let mut map = [0u8; 64];
    let read = std::fs::File::open("/proc/self/uid_map").and_then(|mut file| file.read(&mut map));
    let Ok(length) = read else { return false };
    let words =
        map.get(..length).unwrap_or_default().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    !words.eq([&b"0"[..], b"0", b"4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_directory_of_the_host_is_refused() {
        for root in ["/", "//", "/.", "/./"] {
            assert!(given_root(Path::new(root)).is_err(), "{root}");
        }
        assert_eq!(given_root(Path::new("/run/x/")).unwrap(), Path::new("/run/x"));
        assert!(given_root(Path::new("x")).unwrap().is_absolute());
    }
}
