//! Checkpoints with what a build machine lacks: pages that the kernel tells the writing of, and a systemd that owns the
//! cgroups.

use std::path::Path;

use davit_tests::criu::{CriuWorld, QUIET, count, counting, counts_on};

use crate::cgroup_of;
use crate::unit::{Unit, load_state};

/// Two dumps of memory while the program runs on, each of what was written since, then the whole, then its end.
#[test]
fn pre_dumps_build_upon_each_other() {
    let Some(world) = CriuWorld::enter("vm::checkpoint::pre_dumps_build_upon_each_other") else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    world.checkpoint(&c, "img/1", &["--pre-dump"]).run().ok();
    assert_eq!(c.status(), "running");
    counts_on(&bundle, count(&bundle));
    world.checkpoint(&c, "img/2", &["--pre-dump", "--parent-path", "../1"]).run().ok();
    counts_on(&bundle, count(&bundle));
    world.checkpoint(&c, "img/3", &["--parent-path", "../2"]).run().ok();
    c.assert_nothing_left();
    // What was not written again is in the first one only.
    let size = |images: &str| -> u64 {
        let all = std::fs::read_dir(world.world.path(images)).unwrap().flatten();
        let pages = all.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|file| file.metadata().unwrap().len()).sum()
    };
    let (first, second, last) = (size("img/1"), size("img/2"), size("img/3"));
    assert!(second < first && last < first, "{first}, {second}, {last} bytes of pages");
    let reached = count(&bundle);
    world.restore(&c, "img/3", &[]).run().ok();
    counts_on(&bundle, reached);
    c.finish();
}

#[test]
fn a_scope_is_made_again() {
    let Some(world) = CriuWorld::enter("vm::checkpoint::a_scope_is_made_again") else { return };
    let mut bundle = counting(&world);
    let unit = Unit::new(&world.world, &mut bundle, "vmc");
    let images = world.world.path("img");
    let images = images.to_str().unwrap();
    let dir = unit.bundle.to_str().unwrap();
    let detached = |words: &[&str]| {
        let all = [&["--systemd-cgroup"], words, &["--detach", "--bundle", dir, &unit.container.id]].concat();
        world.world.call(&all).wrapper(&QUIET).run().ok()
    };
    let text = || std::fs::read_to_string(unit.bundle.join("rootfs/tmp/count")).unwrap_or_default();
    let counts = || {
        let before = text().len();
        davit_tests::wait_until("the program counts on", || text().len() > before + 4);
    };
    detached(&["run"]);
    counts();
    unit.davit(&["checkpoint", "--image-path", images, &unit.container.id]).ok();
    assert_eq!(load_state(&unit.name), "not-found");
    unit.container.assert_nothing_left();
    detached(&["restore", "--image-path", images]);
    counts();
    let scope = Path::new("/sys/fs/cgroup/system.slice").join(&unit.name);
    assert_eq!(cgroup_of(unit.container.pid()), scope);
    assert_eq!(load_state(&unit.name), "loaded");
    // A container as any other of this driver.
    assert_eq!(unit.container.sh("cat /proc/self/cgroup"), format!("0::/system.slice/{}", unit.name));
    unit.finish();
}
