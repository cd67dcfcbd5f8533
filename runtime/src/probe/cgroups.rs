//! Cgroups: the layout, which controllers there are, and who may make cgroups.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{Finding, Verdict, read};
use crate::cgroup::{Hierarchy, Layout, Mode, Version};
use crate::sorted::list_of;
use crate::sys::bpf::{Insn, load_device_program};

pub(super) fn findings() -> Vec<Finding> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => {
            let text = "containers run with --cgroup-manager disabled only: nothing is limited";
            return vec![Finding::new("cgroups", Verdict::Limited, error.to_string(), text)];
        }
    };
    vec![mode(&layout), manager(), controllers(&layout), writable(&layout), devices(&layout), kill(&layout)]
}

fn mode(layout: &Layout) -> Finding {
    let (verdict, found, text) = match layout.mode() {
        Mode::V2 => (Verdict::Ok, "v2", "limits, statistics and freezing go through one tree"),
        Mode::Hybrid => {
            (Verdict::Ok, "hybrid", "limits go through the v1 hierarchies, and those of v2 that v1 lacks")
        }
        Mode::V1 => (Verdict::Ok, "v1", "limits go through the v1 hierarchies"),
    };
    Finding::new("cgroups", verdict, found, text)
}

fn manager() -> Finding {
    let systemd = Path::new("/run/systemd/system").is_dir();
    let (verdict, found, text) = match systemd {
        true => (
            Verdict::Ok,
            "systemd",
            "with --systemd-cgroup systemd makes them, else davit itself, beside systemd's",
        ),
        false => (Verdict::Ok, "nobody", "davit makes cgroups itself; --systemd-cgroup needs systemd"),
    };
    Finding::new("cgroup manager", verdict, found, text)
}

/// Controllers that limits need, by their v1 names.
const CONTROLLERS: [&str; 8] = ["blkio", "cpu", "cpuset", "devices", "freezer", "hugetlb", "memory", "pids"];

fn controllers(layout: &Layout) -> Finding {
    let mut there: Vec<String> = layout
        .hierarchies()
        .iter()
        .filter(|hierarchy| hierarchy.version == Version::V1)
        .flat_map(|hierarchy| hierarchy.controllers.iter().cloned())
        .filter(|name| !name.starts_with("name="))
        .collect();
    for hierarchy in layout.hierarchies().iter().filter(|hierarchy| hierarchy.version == Version::V2) {
        let text = read(&hierarchy.mountpoint.join("cgroup.controllers").to_string_lossy());
        let words = text.iter().flat_map(|text| text.split_whitespace());
        there.extend(words.map(|word| if word == "io" { "blkio".to_owned() } else { word.to_owned() }));
        if layout.mode() == Mode::V2 {
            // Parts of v2 itself: a program of its own, and cgroup.freeze (5.2).
            there.extend(["devices".to_owned(), "freezer".to_owned()]);
        }
    }
    let there = list_of(there);
    let missing: Vec<_> =
        CONTROLLERS.iter().filter(|name| !there.iter().any(|t| t == *name)).copied().collect();
    match missing.is_empty() {
        true => Finding::new(
            "controllers",
            Verdict::Ok,
            there.join(","),
            "every limit of linux.resources has its controller",
        ),
        false => Finding::new(
            "controllers",
            Verdict::Limited,
            format!("{}; not {}", there.join(","), missing.join(",")),
            format!("limits of {} are refused", missing.join(", ")),
        ),
    }
}

/// The directory that a container's cgroup would be made in when no cgroupsPath is given.
fn base(layout: &Layout, hierarchy: &Hierarchy) -> std::path::PathBuf {
    match layout.mode() {
        Mode::V2 => {
            let own = read("/proc/self/cgroup").unwrap_or_default();
            let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            hierarchy.mountpoint.join(path)
        }
        _ => hierarchy.own_dir().unwrap_or_else(|_| hierarchy.mountpoint.clone()),
    }
}

fn writable(layout: &Layout) -> Finding {
    let name = "making cgroups";
    let refused = layout.hierarchies().iter().find_map(|hierarchy| {
        let dir = base(layout, hierarchy);
        access(&dir, AccessFlags::W_OK).err().map(|errno| (dir, errno))
    });
    match refused {
        None => Finding::there(name, true, "containers get cgroups of their own", ""),
        Some((dir, errno)) => Finding::new(
            name,
            Verdict::Limited,
            format!("{}: {}", dir.display(), errno.desc()),
            "containers of this user stay in its cgroup, and limits are refused; a delegated cgroup helps",
        ),
    }
}

fn devices(layout: &Layout) -> Finding {
    let name = "device rules";
    if layout.mode() != Mode::V2 {
        let there = layout.hierarchies().iter().any(|h| h.controllers.iter().any(|name| name == "devices"));
        return Finding::there(name, there, "by the v1 controller", "every device node can be opened");
    }
    // `r0 = 1; exit`: allows everything, and is never attached.
    let program = [Insn { code: 0xb7, imm: 1, ..Insn::default() }, Insn { code: 0x95, ..Insn::default() }];
    match load_device_program(&program, c"davit_check") {
        Ok(_) => Finding::there(name, true, "by a BPF program per container", ""),
        Err(error) => Finding::new(
            name,
            Verdict::Missing,
            error.to_string(),
            "devices are not limited in rootless containers, and as root containers fail",
        ),
    }
}

fn kill(layout: &Layout) -> Finding {
    let name = "cgroup.kill";
    let v2 = layout.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2);
    // The root of the tree has no such file: any cgroup below it tells.
    let there = v2.is_some_and(|hierarchy| {
        let dirs = std::fs::read_dir(&hierarchy.mountpoint).into_iter().flatten().flatten();
        let mut below = dirs.map(|entry| entry.path()).filter(|path| path.is_dir());
        base(layout, hierarchy).join(name).exists() || below.any(|path| path.join(name).exists())
    });
    match there {
        true => Finding::there(name, true, "all processes of a container die by one write", ""),
        false => Finding::new(
            name,
            Verdict::Limited,
            if v2.is_some() { "not seen" } else { "no cgroup v2" },
            "processes of a container are frozen and signalled one by one",
        ),
    }
}
