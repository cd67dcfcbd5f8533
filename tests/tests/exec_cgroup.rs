//! Where in the cgroup tree a process of `exec` lands.

use std::fs;
use std::path::PathBuf;

use davit_tests::{Bundle, Container, View, World, host, wait_until};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

fn v2_root() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.exists() { unified } else { PathBuf::from("/sys/fs/cgroup") }
}

/// Path of a process in the v2 hierarchy, by its /proc/PID/cgroup.
fn v2_path(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

fn exec_path(c: &Container<'_>, flags: &[&str]) -> String {
    v2_path(&c.exec(flags, &["cat", "/proc/self/cgroup"]).ok().stdout)
}

/// runc issue 2356: init has made itself a cgroup below and enabled a controller, so that no process may be in
/// the container's own cgroup any more.
#[test]
fn init_below_its_cgroup_takes_execs_along() {
    let Some(world) = World::enter("exec_cgroup::init_below_its_cgroup_takes_execs_along") else { return };
    for view in [View::PureV2, View::Host] {
        if world.is_runc() && view == View::Host && host::has_v1() {
            // runc falls back on pure v2 only.
            continue;
        }
        let bundle = sleeping(&world);
        let mut c = world.container(&bundle);
        c.view = view;
        let c = c.started();
        let pid = c.pid();
        let own = v2_path(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
        let dir = v2_root().join(own.trim_start_matches('/'));
        assert_eq!(exec_path(&c, &[]), own);
        fs::create_dir(dir.join("init")).unwrap();
        fs::write(dir.join("init/cgroup.procs"), pid.to_string()).unwrap();
        // While it may, the process is in the container's cgroup itself.
        assert_eq!(exec_path(&c, &[]), own);
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
        let Some(controller) = controllers.split_whitespace().next() else {
            davit_tests::skip::<()>("exec_cgroup", "no controller on the v2 hierarchy");
            return;
        };
        // EBUSY while the kernel still takes the process before off the cgroup.
        wait_until("an empty cgroup", || {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
        });
        assert_eq!(exec_path(&c, &[]), format!("{own}/init"), "{view:?}");
        if view == View::PureV2 {
            // One that was asked for is not replaced by another.
            fs::create_dir(dir.join("other")).unwrap();
            assert_eq!(exec_path(&c, &["--cgroup", "other"]), format!("{own}/other"));
            assert_eq!(c.exec(&["--cgroup", "/"], &["true"]).code, 255);
        }
        c.finish();
    }
}

#[test]
fn names_of_sub_cgroups_lead_nowhere_else() {
    let Some(world) = World::enter("exec_cgroup::names_of_sub_cgroups_lead_nowhere_else") else { return };
    let bundle = sleeping(&world);
    let mut c = world.container(&bundle);
    c.view = View::PureV2;
    let c = c.started();
    let own = v2_path(&fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap());
    let dir = v2_root().join(own.trim_start_matches('/'));
    fs::create_dir_all(dir.join("a/b")).unwrap();
    assert_eq!(exec_path(&c, &["--cgroup", "a/b"]), format!("{own}/a/b"));
    assert_eq!(exec_path(&c, &["--cgroup", "/a"]), format!("{own}/a"));
    for name in ["..", "../x", "a/../..", "/..", "nosuch", "a/nosuch", "memory:a"] {
        let exec = c.exec(&["--cgroup", name], &["true"]);
        assert_eq!(exec.code, 255, "{name}: {}", exec.stderr);
    }
    assert_eq!(host::processes_in_cgroup(&c.id).len(), 1);
    c.finish();
}

#[test]
fn each_v1_controller_can_have_its_own() {
    let Some(world) = World::enter("exec_cgroup::each_v1_controller_can_have_its_own") else { return };
    if !host::has_v1() {
        davit_tests::skip::<()>("exec_cgroup::each_v1_controller_can_have_its_own", "no cgroup v1 hierarchy");
        return;
    }
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let pid = c.pid().to_string();
    let own = |controller: &str| host::v1_path(&pid, controller).unwrap();
    for (controller, name) in [("pids", "few"), ("freezer", "cold")] {
        fs::create_dir(format!("/sys/fs/cgroup/{controller}{}/{name}", own(controller))).unwrap();
    }
    let text = c
        .exec(&["--cgroup", "pids:few", "--cgroup", "freezer:cold"], &["cat", "/proc/self/cgroup"])
        .ok()
        .stdout;
    let of = |controller: &str| {
        let line = text.lines().find(|line| line.split(':').nth(1) == Some(controller)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    };
    assert_eq!(of("pids"), format!("{}/few", own("pids")));
    assert_eq!(of("freezer"), format!("{}/cold", own("freezer")));
    assert_eq!(of("devices"), own("devices"), "the others are the container's");
    for name in ["pids:..", "pids:nosuch", "nosuch:few", "pids:few/../.."] {
        assert_eq!(c.exec(&["--cgroup", name], &["true"]).code, 255, "{name}");
    }
    c.finish();
}
