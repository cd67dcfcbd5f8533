//! The view from inside, against the runc of Debian 12.

use std::path::Path;
use std::process::Command;

use davit_tests::{Bundle, Container, RUNC, View, World, skip, wait_until};
use serde_json::json;

use crate::difference::{self, Difference};
use crate::observe::{hide_names, probe, sections};

const DIFFERENCES: &[Difference] = &[
    Difference {
        cases: &["*"],
        section: "mountinfo",
        davit: Some("/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tags: tmpfs tmpfs rw,mode=755"),
        runc: Some("/sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tags: tmpfs tmpfs rw,mode=755"),
        reason: "the mount of type cgroup asks for ro; runc 1.1 loses it for the tmpfs that holds the v1 hierarchies",
    },
    Difference {
        cases: &["*"],
        section: "directories",
        davit: Some("/sys/fs/cgroup 755 0 0"),
        runc: Some("/sys/fs/cgroup 555 0 0"),
        reason: "that tmpfs is made with mode=755, which runc 1.1 then changes to the mode below it",
    },
    Difference {
        cases: &["*"],
        section: "mountinfo",
        davit: Some("/null /proc/"),
        runc: Some("/null /proc/"),
        reason: "the source of file masks is the host's /dev/null, verified, and not the container's, which an \
                 image could replace (CVE-2025-31133)",
    },
    Difference {
        cases: &["*"],
        section: "devices",
        davit: Some("directory 0:0 1777 0 0 /dev/mqueue"),
        runc: Some("directory 0:0 1777 0 65534 /dev/mqueue"),
        reason: "one clone3 makes all namespaces, before ids are mapped; the mode lets all in either way",
    },
    Difference {
        cases: &["*"],
        section: "directories",
        davit: Some("/dev/mqueue 1777 0 0"),
        runc: Some("/dev/mqueue 1777 0 65534"),
        reason: "as above",
    },
    Difference {
        cases: &["*"],
        section: "process",
        davit: Some("oom_score_adj:100"),
        runc: Some("oom_score_adj:0"),
        reason: "exec gives its process the container's oomScoreAdj; runc 1.1 leaves the caller's",
    },
    Difference {
        cases: &["*"],
        section: "limits",
        davit: Some("Max open files            500                  1000"),
        runc: Some("Max open files            1000                 1000"),
        reason: "Go raises the soft limit to the hard one, and runc 1.1's exec hands that on (runc #4195)",
    },
];

fn enter(test: &str) -> Option<World> {
    let world = World::enter_with_runc(test)?;
    if world.is_runc() { skip(test, "compares davit with runc") } else { Some(world) }
}

#[track_caller]
fn compare(what: &str, davit: &str, runc: &str) {
    let problems =
        difference::compare(what, &sections(&hide_names(davit)), &sections(&hide_names(runc)), DIFFERENCES);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// `run` by both, with the same id and bundle.
#[track_caller]
fn compare_run(what: &str, world: &World, bundle: &mut Bundle, view: View) {
    bundle.args(&["sh", "-c", &probe("", "")]);
    let mut c = world.container(bundle);
    c.view = view;
    // Detached: in the foreground runc puts pipes between the caller's stdio and the container's.
    let run = |program: &Path| {
        let run = c.call("run", &["--detach"], &[]).dir(bundle.dir()).with(program).run().ok();
        c.wait_for("stopped");
        c.simple("delete").ok();
        run.stdout_now().replace(&format!("{}/call", bundle.dir().parent().unwrap().display()), "call")
    };
    let runc = run(Path::new(RUNC));
    let davit = run(world.runtime());
    compare(what, &davit, &runc);
    c.assert_nothing_left();
}

#[test]
fn the_default_bundle() {
    let Some(world) = enter("the_default_bundle") else { return };
    compare_run("default", &world, &mut world.bundle(), View::Host);
}

#[test]
fn the_default_bundle_on_pure_v2() {
    let Some(world) = enter("the_default_bundle_on_pure_v2") else { return };
    let mut bundle = world.bundle();
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    compare_run("pure v2", &world, &mut bundle, View::PureV2);
}

#[test]
fn a_cgroup_namespace_on_the_hosts_tree() {
    let Some(world) = enter("a_cgroup_namespace_on_the_hosts_tree") else { return };
    let mut bundle = world.bundle();
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    compare_run("cgroup namespace", &world, &mut bundle, View::Host);
}

/// What Docker writes by default, as far as it can be seen from inside.
fn like_docker(bundle: &mut Bundle) {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    bundle
        .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/oomScoreAdj", json!(100))
        .set("/process/env", json!(["PATH=/usr/local/bin:/bin", "HOSTNAME=abc", "A=1", "A=2", "EMPTY="]))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 500, "hard": 1000}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]))
        .set("/root/readonly", json!(false))
        .set("/linux/sysctl", json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}))
        .set("/linux/resources/memory", json!({"limit": 64 << 20}))
        .set("/linux/resources/pids", json!({"limit": 50}))
        .set("/linux/resources/cpu", json!({"shares": 512}));
}

#[test]
fn a_bundle_like_dockers() {
    let Some(world) = enter("a_bundle_like_dockers") else { return };
    let mut bundle = world.bundle();
    like_docker(&mut bundle);
    compare_run("like Docker's", &world, &mut bundle, View::Host);
}

#[test]
fn another_user() {
    let Some(world) = enter("another_user") else { return };
    let mut bundle = world.bundle();
    like_docker(&mut bundle);
    bundle
        .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6, 1000], "umask": 63}))
        .set("/process/cwd", json!("/tmp"));
    compare_run("user 1000", &world, &mut bundle, View::Host);
}

#[test]
fn ambient_capabilities() {
    let Some(world) = enter("ambient_capabilities") else { return };
    let mut bundle = world.bundle();
    let caps = json!(["CAP_NET_RAW", "CAP_KILL"]);
    bundle
        .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": ["CAP_KILL"]}))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    compare_run("ambient", &world, &mut bundle, View::Host);
}

#[test]
fn no_capabilities_at_all() {
    let Some(world) = enter("no_capabilities_at_all") else { return };
    let mut bundle = world.bundle();
    bundle.remove("/process/capabilities").remove("/process/rlimits").remove("/process/noNewPrivileges");
    compare_run("no capabilities", &world, &mut bundle, View::Host);
}

#[test]
fn the_hosts_namespaces() {
    let Some(world) = enter("the_hosts_namespaces") else { return };
    let mut bundle = world.bundle();
    // Not the pid namespace: process 1 would be the host's.
    bundle.without_namespace("network").without_namespace("ipc").without_namespace("uts").remove("/hostname");
    compare_run("the host's namespaces", &world, &mut bundle, View::Host);
}

#[test]
fn binds_and_propagation() {
    let Some(world) = enter("binds_and_propagation") else { return };
    let source = world.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let (dir, file) = (source.to_str().unwrap().to_owned(), source.join("file").to_str().unwrap().to_owned());
    let mut bundle = world.bundle();
    bundle
        .mount("/mnt/a", "bind", &dir, &["rbind", "rw"])
        .mount("/mnt/b", "bind", &dir, &["bind", "ro", "nosuid"])
        .mount("/mnt/c", "bind", &dir, &["rbind", "rprivate", "nodev", "noexec"])
        .mount("/mnt/e", "bind", &dir, &["rbind", "rslave", "noatime"])
        .mount("/etc/file", "bind", &file, &["rbind", "rprivate", "ro"])
        .mount("/mnt/t", "tmpfs", "tmpfs", &["nosuid", "nodev", "size=1m", "mode=700", "strictatime"])
        .set("/linux/rootfsPropagation", json!("rslave"));
    compare_run("binds", &world, &mut bundle, View::Host);
}

#[test]
fn a_user_namespace() {
    let Some(world) = enter("a_user_namespace") else { return };
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]))
        .set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]));
    for dir in [bundle.dir().parent().unwrap(), bundle.dir()] {
        Command::new("chmod").arg("755").arg(dir).status().unwrap();
    }
    Command::new("chown").args(["-R", "100000:200000"]).arg(bundle.rootfs("")).status().unwrap();
    compare_run("user namespace", &world, &mut bundle, View::Host);
}

#[test]
fn exec_in_the_same_container() {
    let Some(world) = enter("exec_in_the_same_container") else { return };
    let mut bundle = world.bundle();
    like_docker(&mut bundle);
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let script = probe("", "");
    let view = |c: &Container<'_>, flags: &[&str], program: &Path| {
        // Detached for the same reason as above.
        let flags = [flags, &["--detach"]].concat();
        let exec = c.call("exec", &flags, &["sh", "-c", &script]).with(program).run().ok();
        wait_until("the probe's end", || exec.stdout_now().ends_with("## end\n"));
        exec.stdout_now().replace(&format!("{}/call", bundle.dir().parent().unwrap().display()), "call")
    };
    for flags in [
        &[][..],
        &["--user", "1000:1000", "-g", "7"],
        &["--cap", "CAP_SYS_ADMIN", "--no-new-privs"],
        &["--cwd", "/tmp", "--env", "X=y"],
    ] {
        let (runc, davit) = (view(&c, flags, Path::new(RUNC)), view(&c, flags, world.runtime()));
        compare(&format!("exec {flags:?}"), &davit, &runc);
    }
    c.finish();
}

#[test]
fn what_is_made_in_the_rootfs() {
    let Some(world) = enter("what_is_made_in_the_rootfs") else { return };
    let tree = |program: &Path| {
        let mut bundle = world.bundle();
        bundle.args(&["true"]).set("/process/cwd", json!("/made/cwd")).set("/root/readonly", json!(false));
        bundle.mount("/a/b/c", "tmpfs", "tmpfs", &[]).mount("/f/file", "bind", "/etc/hostname", &["bind"]);
        let c = world.container(&bundle);
        c.call("run", &[], &[]).dir(bundle.dir()).with(program).run().ok();
        let find = Command::new("find")
            .args([".", "-not", "-path", "./bin/*", "-printf", "%p %y %m %U %G %s\n"])
            .current_dir(bundle.rootfs(""))
            .output()
            .unwrap();
        let text = String::from_utf8(find.stdout).unwrap();
        let mut lines: Vec<_> =
            text.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        // runc 1.1 makes files to mount on with mode 755, newer ones with 644.
        lines.iter_mut().for_each(|line| *line = line.replace("file f 755", "file f 644"));
        lines.sort();
        lines
    };
    assert_eq!(tree(world.runtime()), tree(Path::new(RUNC)));
}
