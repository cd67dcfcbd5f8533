//! `linux.resources` on cgroup v2 with all controllers: the table of `davit_tests::limits` beside Debian 13's runc, with
//! the cgroupfs and the systemd driver.

use davit_tests::limits::{self, Disks, Oracle, Setting, Tree};
use davit_tests::{RUNC, View, World};

/// What has no property of systemd's in either runtime: its files are written as with the other driver.
const NO_PROPERTY: [&str; 6] =
    ["blockIO.", "hugepageLimits", "rdma", "network.", "cpu.realtime", "memory.kernel"];

/// All rows, but that those of [`NO_PROPERTY`] run with one driver: each takes seconds on a processor without KVM.
/// `LIMITS=all` takes every row with both, other words (`memory.swap,rdma`) those whose name holds one.
fn is_wanted(tree: Tree, row: &str) -> bool {
    match std::env::var("LIMITS").as_deref() {
        Ok("all") => true,
        Ok(words) => words.split(',').any(|word| row.contains(word)),
        Err(_) => tree == Tree::V2 || !NO_PROPERTY.iter().any(|start| row.starts_with(start)),
    }
}

fn compare(test: &str, tree: Tree, global: &[&str]) {
    let Some(world) = World::enter_with_runc(test) else { return };
    let disks = Disks::new(&world);
    assert!(disks.bfq.is_some(), "this machine's kernel has loop devices and BFQ");
    let rows: Vec<_> =
        limits::rows::rows(&disks).into_iter().filter(|row| is_wanted(tree, row.name)).collect();
    let setting = Setting { world: &world, view: View::Host, tree, global };
    let problems = limits::compare(setting, &[Oracle::new(RUNC.as_ref())], &rows);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_field_reads_back_as_under_runc() {
    compare("vm::limits::every_field_reads_back_as_under_runc", Tree::V2, &[]);
}

#[test]
fn every_field_reads_back_as_under_runc_with_systemd() {
    let test = "vm::limits::every_field_reads_back_as_under_runc_with_systemd";
    compare(test, Tree::Systemd, &["--systemd-cgroup"]);
}
