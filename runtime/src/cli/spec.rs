//! `davit spec`: a config.json to start from, byte for byte that of `runc spec` 1.1.5 but for what runc
//! changed since: `ociVersion`, and no ambient capabilities (runc 1.2).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::ArgMatches;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};

use super::args::{Arity, path_parser, switch, value};
use super::global::Global;
use super::{Command, SPEC_VERSION, errno_text};

pub(super) const COMMAND: Command = Command {
    name: "spec",
    about: "create a new specification file",
    usage: "[command options]\n\n\
            Writes a config.json for a bundle, as a start: edit it, put a root filesystem into rootfs, and try\n\
            \"davit run NAME\".",
    arity: Arity::Exactly(0),
    flags: || {
        vec![
            value("bundle", "directory to write config.json into (default: the current directory)")
                .short('b')
                .value_parser(path_parser()),
            value("file", "name of the file to write (default: config.json)")
                .short('f')
                .value_parser(path_parser()),
            switch("rootless", "generate a configuration that works without root privileges"),
        ]
    },
    run,
    failure: "",
    failure_code: 1,
};

/// Up to the options of /dev/pts; `@VERSION@` is replaced.
const HEAD: &str = include_str!("spec/head.txt");
const PTS_GID: &str = ",\n\t\t\t\t\"gid=5\"";
const MIDDLE: &str = include_str!("spec/middle.txt");
const SYS: &str = "\t\t\t\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\",\n\t\t\t\"options\": [\n";
const SYS_BIND: &str =
    "\t\t\t\"type\": \"none\",\n\t\t\t\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",\n";
const CGROUP: &str = include_str!("spec/cgroup.txt");
const RESOURCES: &str = include_str!("spec/resources.txt");
const TAIL: &str = include_str!("spec/tail.txt");

/// For whom the document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Root,
    /// `--rootless`: mapped to the caller's ids.
    User {
        uid: u32,
        gid: u32,
    },
}

/// Which cgroup hierarchy the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    V1,
    V2,
}

fn run(_global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let given = |flag| matches.get_one::<PathBuf>(flag).filter(|path| !path.as_os_str().is_empty());
    let name = given("file").map_or(Path::new("config.json"), PathBuf::as_path);
    let file = given("bundle").map_or_else(|| name.to_owned(), |dir| dir.join(name));
    let whom = if matches.get_flag("rootless") {
        For::User { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    } else {
        For::Root
    };
    let unified =
        statfs(Path::new("/sys/fs/cgroup")).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let text = document(whom, if unified { Hierarchy::V2 } else { Hierarchy::V1 });
    let mut to = match OpenOptions::new().write(true).create_new(true).mode(0o666).open(&file) {
        Ok(to) => to,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            bail!("File {} exists. Remove it first", name.display())
        }
        Err(e) => return Err(anyhow!("open {}: {}", file.display(), errno_text(&e))),
    };
    to.write_all(text.as_bytes()).map_err(|e| anyhow!("write {}: {}", file.display(), errno_text(&e)))?;
    Ok(0)
}

/// The document for root on a cgroup v2 host.
#[cfg(test)]
pub(super) fn default_document() -> String {
    document(For::Root, Hierarchy::V2)
}

fn document(whom: For, hierarchy: Hierarchy) -> String {
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if hierarchy == Hierarchy::V2 {
        namespaces.push("cgroup");
    }
    let head = HEAD.replace("@VERSION@", SPEC_VERSION);
    let (gid, sys, resources) = match whom {
        For::Root => (PTS_GID, SYS, RESOURCES.to_owned()),
        For::User { uid, gid } => {
            namespaces.retain(|name| *name != "network");
            namespaces.push("user");
            ("", SYS_BIND, mapping("uid", uid) + &mapping("gid", gid))
        }
    };
    let namespaces: Vec<_> =
        namespaces.iter().map(|n| format!("\t\t\t{{\n\t\t\t\t\"type\": \"{n}\"\n\t\t\t}}")).collect();
    let namespaces = format!("\t\t\"namespaces\": [\n{}\n\t\t],\n", namespaces.join(",\n"));
    [&head, gid, MIDDLE, sys, CGROUP, &resources, &namespaces, TAIL].concat()
}

fn mapping(kind: &str, id: u32) -> String {
    format!(
        "\t\t\"{kind}Mappings\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\
         \t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_valid_specs() {
        for whom in [For::Root, For::User { uid: 1000, gid: 100 }] {
            for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
                let text = document(whom, hierarchy);
                let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
                assert_eq!(spec.version(), SPEC_VERSION);
                assert_eq!(text.contains("\"cgroup\"\n"), hierarchy == Hierarchy::V2);
                assert_eq!(text.contains("\"hostID\": 1000"), whom != For::Root);
                assert!(!text.contains("ambient"));
            }
        }
    }
}
