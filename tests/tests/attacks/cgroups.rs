//! Names and paths of cgroups.

use std::fs;
use std::path::PathBuf;

use davit_tests::{Bundle, View, World, host, skip, unique};
use serde_json::json;

use crate::support::enter;

/// A cgroup of the host in the unified hierarchy, with files that an attacker would write.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Cgroup> {
        let root = host::cgroup_roots().into_iter().find(|root| {
            root.join("cgroup.max.depth").parent().is_some() && { root.join("cgroup.controllers").exists() }
        })?;
        let dir = root.join(unique("davit-canary"));
        fs::create_dir(&dir).ok()?;
        Some(Cgroup(dir))
    }

    fn values(&self) -> Vec<String> {
        let mut all: Vec<_> = fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path()).collect();
        all.sort();
        // Those that only the kernel changes are among them; none does for an empty cgroup.
        let text =
            |path: &PathBuf| format!("{}: {}", path.display(), fs::read_to_string(path).unwrap_or_default());
        all.iter().filter(|path| path.is_file()).map(text).collect()
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// `linux.resources` with names that would be paths: page sizes, keys of `unified`, rdma devices.
#[test]
fn ghsa_5g49_names_of_files_are_no_paths() {
    let name = "ghsa_5g49_names_of_files_are_no_paths";
    let Some(world) = enter(name) else { return };
    let Some(canary) = Cgroup::new() else {
        skip::<()>(name, "no cgroup v2 here");
        return;
    };
    let before = canary.values();
    assert!(!before.is_empty());
    let depth = format!("../{}/cgroup.max.depth", canary.name());
    let freeze = format!("../../{}/cgroup.freeze", canary.name());
    let resources = [
        json!({"unified": {depth.as_str(): "3"}}),
        json!({"unified": {freeze.as_str(): "1"}}),
        json!({"unified": {format!("/{}/cgroup.freeze", canary.0.display()): "1"}}),
        json!({"unified": {"..": "1", ".": "1", "": "1"}}),
        json!({"unified": {"cgroup.procs": "1"}}),
        json!({"hugepageLimits": [{"pageSize": format!("../../{}/cgroup", canary.name()), "limit": 1}]}),
        json!({"hugepageLimits": [{"pageSize": format!("2MB/../../{}/x", canary.name()), "limit": 1}]}),
        json!({"hugepageLimits": [{"pageSize": "", "limit": 1}]}),
        json!({"rdma": {format!("../{}/x", canary.name()): {"hcaHandles": 1}}}),
    ];
    for view in [View::PureV2, View::Host] {
        // Its cgroup is beside the canary: so the names would lead there.
        let beside = unique("davit-beside");
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).set("/linux/cgroupsPath", json!(format!("/{beside}")));
        let mut c = world.container(&bundle);
        c.view = view;
        let c = c.started();
        assert!(canary.0.with_file_name(&beside).join(&depth).exists(), "{view:?}: {depth}");
        c.finish();
        for resources in &resources {
            let mut bundle = world.bundle();
            bundle.args(&["true"]).set("/linux/resources", resources.clone());
            bundle.set("/linux/cgroupsPath", json!(format!("/{}", unique("davit-beside"))));
            let mut c = world.container(&bundle);
            c.view = view;
            let output = c.run(&[]);
            // On v1 there is no `unified`: it is refused, or means nothing.
            assert!(output.code != 0 || view == View::Host, "{resources}: {}", output.stdout);
            c.call("delete", &["--force"], &[]).run();
            c.assert_nothing_left();
            assert_eq!(canary.values(), before, "{resources}");
        }
    }
    // The path is right: the shell can write what the names lead to.
    fs::write(canary.0.join("cgroup.max.depth"), "3").unwrap();
    assert_ne!(canary.values(), before);
}

fn fails(world: &World, change: impl FnOnce(&mut Bundle)) {
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    change(&mut bundle);
    let c = world.container(&bundle);
    let output = c.run(&[]);
    assert_ne!(output.code, 0, "{:?}", bundle.config["linux"]["cgroupsPath"]);
    c.assert_nothing_left();
}

/// A cgroupsPath that climbs: it stays below the root of the hierarchy, and a container never takes over a cgroup in
/// which others live.
#[test]
fn cgroups_paths_do_not_climb() {
    let Some(world) = enter("cgroups_paths_do_not_climb") else { return };
    for path in ["/../../x/../..", "/", "..", "../..", "/..", "."] {
        let before: Vec<_> = host::cgroup_roots();
        let mut bundle = world.bundle();
        bundle.args(&["true"]).set("/linux/cgroupsPath", json!(path));
        let c = world.container(&bundle);
        let output = c.run(&[]);
        c.call("delete", &["--force"], &[]).run();
        // Somebody else may mount one more meanwhile.
        let after = host::cgroup_roots();
        assert!(before.iter().all(|root| after.contains(root)), "{path}: {after:?} {}", output.error());
        c.assert_nothing_left();
    }
    // One with processes of the host in it: to kill or remove those with the container would be the attack.
    let Some(root) = host::cgroup_roots().into_iter().find(|root| root.ends_with("pids")) else { return };
    let dir = root.join(unique("davit-occupied"));
    fs::create_dir(&dir).unwrap();
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(dir.join("cgroup.procs"), other.id().to_string()).unwrap();
    fails(&world, |bundle| {
        bundle.set("/linux/cgroupsPath", json!(format!("/{}", dir.file_name().unwrap().to_str().unwrap())));
    });
    assert!(host::is_alive(i32::try_from(other.id()).unwrap()), "a process of the host was killed");
    assert!(dir.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    for root in host::cgroup_roots() {
        host::remove_when_empty(&root.join(dir.file_name().unwrap()));
    }
}

/// `exec --cgroup` names sub-cgroups of the container, and none above it (crun 1.28: `..` in a sub-group's name).
#[test]
fn crun_1_28_exec_joins_no_cgroup_above() {
    let Some(world) = enter("crun_1_28_exec_joins_no_cgroup_above") else { return };
    for view in [View::Host, View::PureV2] {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]);
        let mut c = world.container(&bundle);
        c.view = view;
        let c = c.started();
        let own = c.sh("cat /proc/1/cgroup");
        let names =
            ["..", "../..", "/../..", "a/../../..", "pids:../..", "pids:/..", ".", "pids,memory:../x"];
        let mut refused = 0;
        for name in names {
            let exec = c.exec(&["--cgroup", name], &["cat", "/proc/self/cgroup"]);
            if exec.code == 0 {
                // A name that means the container's own cgroup.
                assert_eq!(exec.stdout.trim_end(), own, "{view:?} {name}");
            }
            refused += u32::from(exec.code != 0);
        }
        assert!(refused > 0, "{view:?}");
        c.finish();
    }
}

/// Without a cgroup namespace the container sees the host's tree, and may not write it.
#[test]
fn cve_2023_25809_the_hosts_cgroups_are_read_only() {
    let Some(world) = enter("cve_2023_25809_the_hosts_cgroups_are_read_only") else { return };
    for view in [View::Host, View::PureV2] {
        let mut bundle = world.bundle();
        // As with rootless containers: root inside is who owns the cgroups outside, so that modes keep nobody out.
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        bundle
            .push("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map);
        // What the config asks for: writable.
        let mounts = bundle.config["mounts"].as_array().unwrap().clone();
        let others: Vec<_> = mounts.into_iter().filter(|mount| mount["type"] != "cgroup").collect();
        bundle.set("/mounts", json!(others)).mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
        // The same without the defence: the host's tree, bound. There its own cgroup can be written.
        bundle.mount("/mnt", "bind", "/sys/fs/cgroup", &["rbind", "rw"]).script(
            "for d in /mnt/pids$(sed -n s/.*:pids://p /proc/self/cgroup) /mnt$(sed -n s/^0:://p /proc/self/cgroup); do \
             [ -d $d ] && (echo $$ >$d/cgroup.procs) && mkdir $d/x && rmdir $d/x && echo weak && break; done; \
             find /sys/fs/cgroup -name cgroup.procs | while read f; do \
             (echo $$ >$f) 2>/dev/null && echo wrote $f; (mkdir ${f%/*}/x) 2>/dev/null && echo made $f; done; \
             find /sys/fs/cgroup -name cgroup.procs | wc -l",
        );
        let mut c = world.container(&bundle);
        c.view = view;
        let output = c.run(&[]).ok();
        let (output, said) = (output.stdout, output.stderr);
        let output = output.strip_prefix("weak\n").unwrap_or_else(|| panic!("no attack: {output} {said}"));
        assert!(!output.contains("wrote") && !output.contains("made"), "{view:?}: {output}");
        assert!(output.trim().parse::<u32>().unwrap() > 0, "{view:?}: there is something to write to");
        c.assert_nothing_left();
    }
}

/// CVE-2025-47291 of containerd: limits are set for a container in a user namespace too.
#[test]
fn cve_2025_47291_limits_hold_in_a_user_namespace() {
    let Some(world) = enter("cve_2025_47291_limits_hold_in_a_user_namespace") else { return };
    if !host::has_v1() {
        skip::<()>("cve_2025_47291_limits_hold_in_a_user_namespace", "tests/vm has limits on v2");
        return;
    }
    let mut bundle = world.bundle();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/linux/resources/pids", json!({"limit": 33}))
        .args(&["sleep", "1000"])
        .for_user_namespace(100_000);
    let c = world.container(&bundle).started();
    let path = host::v1_path(&c.pid().to_string(), "pids").unwrap();
    assert!(path.contains(&c.id), "{path}");
    let limit = fs::read_to_string(format!("/sys/fs/cgroup/pids{path}/pids.max")).unwrap();
    assert_eq!(limit, "33\n");
    c.finish();
}
