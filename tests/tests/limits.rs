//! `linux.resources`: the table of `davit_tests::limits` on this machine's own tree and on pure v2.

use std::path::Path;

use davit_tests::limits::{self, Disks, Oracle, Setting, Tree};
use davit_tests::{RUNC, View, World, host, newest_runc, skip};

/// The runc of Debian 12 and that of unstable, as far as they can be had.
fn oracles(test: &str) -> Option<Vec<Oracle>> {
    let mut all = Vec::new();
    match newest_runc() {
        Ok(runc) => all.push(Oracle::new(&runc)),
        Err(reason) => println!("without Debian unstable's runc: {reason}"),
    }
    if Path::new(RUNC).exists() {
        all.push(Oracle::new(Path::new(RUNC)));
    }
    if all.is_empty() { skip(test, "no runc to compare with") } else { Some(all) }
}

fn compare(test: &str, view: View, tree: Tree) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "compares davit with runc").unwrap_or_default();
    }
    let Some(oracles) = oracles(test) else { return };
    let disks = Disks::new(&world);
    let wanted = std::env::var("LIMITS").unwrap_or_default();
    let rows: Vec<_> =
        limits::rows::rows(&disks).into_iter().filter(|row| row.name.contains(&wanted)).collect();
    let setting = Setting { world: &world, view, tree, global: &[] };
    let problems = limits::compare(setting, &oracles, &rows);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn each_field_reads_back_as_with_runc() {
    let test = "limits::each_field_reads_back_as_with_runc";
    if !host::has_v1() {
        return skip(test, "no cgroup v1 hierarchies").unwrap_or_default();
    }
    compare(test, View::Host, Tree::V1);
}

#[test]
fn each_field_reads_back_as_with_runc_on_pure_v2() {
    let tree = if host::has_v1() { Tree::BareV2 } else { Tree::V2 };
    compare("limits::each_field_reads_back_as_with_runc_on_pure_v2", View::PureV2, tree);
}
