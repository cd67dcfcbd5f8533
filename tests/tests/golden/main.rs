//! The view from inside and from the host: davit against runc on the same bundles, which vary one feature each.
//! What is meant to differ is in `differences.rs` with its reason; any other difference fails.
//!
//! The oracle is the runc of Debian unstable; `debian12.rs` compares with the one of Debian 12.

mod cgroups;
mod debian12;
mod difference;
mod differences;
mod exec;
mod hooks;
mod identity;
mod mounts;
mod namespaces;
mod observe;
mod process;
mod rootfs;
mod setup;

use davit_tests::{World, newest_runc, skip};

use crate::setup::Case;

/// Every case must have a name of its own, and every entry of the differences must name cases.
#[test]
fn names() {
    let all: Vec<&str> = GROUPS.iter().flat_map(|group| group.iter().map(|case| case.0)).collect();
    for (at, name) in all.iter().enumerate() {
        assert!(!all[..at].contains(name), "two cases are called {name}");
    }
    assert!(all.len() >= 60, "{} cases", all.len());
    for difference in differences::DIFFERENCES {
        let unknown: Vec<_> =
            difference.cases.iter().filter(|name| **name != "*" && !all.contains(name)).collect();
        assert!(unknown.is_empty(), "no such cases: {unknown:?}");
        assert!(difference.cases.iter().any(|name| *name != "*"), "{}: in which case?", difference.reason);
        assert!(!difference.reason.is_empty());
    }
}

const GROUPS: &[&[Case]] = &[
    identity::CASES,
    process::CASES,
    namespaces::CASES,
    mounts::CASES,
    rootfs::CASES,
    cgroups::CASES,
    hooks::CASES,
    exec::CASES,
];

/// Runs a group's cases. `GOLDEN=name` picks those whose names hold it.
fn run(test: &str, cases: &[Case]) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "compares davit with runc").unwrap_or_default();
    }
    let runc = match newest_runc() {
        Ok(runc) => runc,
        Err(reason) => return skip(test, &reason).unwrap_or_default(),
    };
    let wanted = std::env::var("GOLDEN").unwrap_or_default();
    let problems: Vec<String> = cases
        .iter()
        .filter(|case| case.0.contains(&wanted))
        .flat_map(|case| {
            let theirs = observe::observe(case, &world, &runc);
            let ours = observe::observe(case, &world, world.runtime());
            difference::compare(case.0, &ours, &theirs, differences::DIFFERENCES)
        })
        .collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn users_groups_and_capabilities() {
    run("users_groups_and_capabilities", identity::CASES);
}

#[test]
fn the_process() {
    run("the_process", process::CASES);
}

#[test]
fn every_namespace() {
    run("every_namespace", namespaces::CASES);
}

#[test]
fn mounts_of_every_kind() {
    run("mounts_of_every_kind", mounts::CASES);
}

#[test]
fn the_root_file_system() {
    run("the_root_file_system", rootfs::CASES);
}

#[test]
fn cgroups_and_limits() {
    run("cgroups_and_limits", cgroups::CASES);
}

#[test]
fn hooks_of_six_kinds() {
    run("hooks_of_six_kinds", hooks::CASES);
}

#[test]
fn exec_in_every_way() {
    run("exec_in_every_way", exec::CASES);
}
