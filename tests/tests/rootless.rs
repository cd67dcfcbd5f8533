//! The runtime as an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use davit_tests::user::{FIRST_ID, IDS, Ranges, UID};
use davit_tests::{Bundle, View, World};
use serde_json::json;

/// A bundle as `spec --rootless` describes it: mapped to the user, without a network namespace.
fn rootless(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    davit_tests::user::map_to_user(&mut bundle);
    bundle
}

/// Words of a file of /proc/PID.
fn words_of(pid: i32, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[test]
fn life_of_a_container_without_ranges() {
    let Some(world) = World::enter_as_user("life_of_a_container_without_ranges", Ranges::None) else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert_eq!(c.status(), "created");
    c.simple("start").ok();
    assert_eq!(c.status(), "running");
    let pid = c.pid();
    assert_eq!(words_of(pid, "uid_map"), ["0", &UID.to_string(), "1"]);
    assert_eq!(words_of(pid, "gid_map"), ["0", &UID.to_string(), "1"]);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/setgroups")).unwrap(), "deny\n");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("\nUid:\t{UID}\t{UID}\t{UID}\t{UID}\n")), "{status}");

    assert_eq!(c.sh("id -u; id -g; echo $HOME"), "0\n0\n/root");
    // All namespaces are the container's.
    for kind in ["user", "pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(c.sh(&format!("readlink /proc/self/ns/{kind}")), theirs.to_str().unwrap(), "{kind}");
    }
    c.exec(&[], &["sh", "-c", "exit 7"]).exits(7);
    assert_eq!(c.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; touch /tmp/made"), "3");
    assert_eq!(fs::metadata(bundle.rootfs("tmp/made")).unwrap().uid(), UID);

    let list = world.call(&["list", "--format", "json"]).run().ok().json();
    assert_eq!(list[0]["id"], c.id.as_str());
    assert_eq!(list[0]["status"], "running");
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn oom_score_adj_can_be_raised_and_not_lowered() {
    let Some(world) = World::enter_as_user("oom_score_adj_can_be_raised_and_not_lowered", Ranges::None)
    else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).set("/process/oomScoreAdj", json!(300));
    let c = world.container(&bundle).started();
    assert_eq!(words_of(c.pid(), "oom_score_adj"), ["300"]);
    assert_eq!(c.sh("cat /proc/self/oom_score_adj"), "300", "exec");
    c.finish();

    bundle.set("/process/oomScoreAdj", json!(-300));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    if world.is_runc() {
        assert_ne!(run.code, 0);
    } else {
        run.fails(1, "oom_score_adj: permission denied (lowering process.oomScoreAdj");
    }
    c.assert_nothing_left();
}

#[test]
fn ranges_are_mapped_by_the_helpers() {
    let Some(world) = World::enter_as_user("ranges_are_mapped_by_the_helpers", Ranges::Some) else { return };
    let mut bundle = rootless(&world);
    let map = |first: u32| json!([{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": first, "size": IDS}]);
    bundle
        .args(&["sleep", "1000"])
        .set("/root/readonly", json!(false))
        .set("/linux/uidMappings", map(FIRST_ID))
        .set("/linux/gidMappings", map(FIRST_ID + 100_000));
    let c = world.container(&bundle).started();
    let pid = c.pid();
    let expected = |first: u32| format!("0 {UID} 1 1 {first} {IDS}");
    assert_eq!(words_of(pid, "uid_map").join(" "), expected(FIRST_ID));
    assert_eq!(words_of(pid, "gid_map").join(" "), expected(FIRST_ID + 100_000));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/setgroups")).unwrap(), "allow\n");
    c.exec(&["--user", "1000:1000"], &["sh", "-c", "touch /tmp/made; id -u; id -g"]).ok();
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST_ID + 999, FIRST_ID + 100_999));
    c.finish();

    // Not the user's: the helper says so.
    bundle.set("/linux/uidMappings/1/hostID", json!(FIRST_ID - 1));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    if world.is_runc() {
        assert_ne!(run.code, 0);
    } else {
        run.fails(1, "newuidmap: uid range [1-65537) -> [699999-765535) not allowed");
    }
    c.assert_nothing_left();
}

#[test]
fn a_missing_helper_is_named_with_its_package() {
    let Some(world) = World::enter_as_user("a_missing_helper_is_named_with_its_package", Ranges::None) else {
        return;
    };
    if world.is_runc() {
        return;
    }
    let mut bundle = rootless(&world);
    bundle.args(&["true"]).set("/linux/gidMappings/0/size", json!(2));
    let c = world.container(&bundle);
    let bundle = ["--bundle", bundle.dir().to_str().unwrap()];
    let run = c.call("run", &bundle, &[]).env("PATH", "/nowhere:.").run();
    run.fails(1, "needs the program newgidmap, and it is not in $PATH (install the package uidmap");
    c.assert_nothing_left();
}

#[test]
fn state_is_below_xdg_runtime_dir() {
    let Some(world) = World::enter_as_user("state_is_below_xdg_runtime_dir", Ranges::None) else { return };
    let mut bundle = rootless(&world);
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let xdg = world.root();
    let dir = bundle.dir().to_str().unwrap();
    let call =
        |words: &[&str]| world.call(words).without_root().env("XDG_RUNTIME_DIR", xdg.to_str().unwrap());
    call(&["create", "--bundle", dir, &c.id]).run().ok();
    let name = if world.is_runc() { "runc" } else { "davit" };
    let state = fs::metadata(xdg.join(name)).unwrap();
    assert_eq!((state.uid(), state.permissions().mode() & 0o7777), (UID, 0o1700));
    assert!(xdg.join(name).join(&c.id).join("state.json").exists());
    assert_eq!(call(&["list", "-q"]).run().ok().stdout.trim(), c.id);
    call(&["delete", "--force", &c.id]).run().ok();
    c.assert_nothing_left();
}

/// A config that names no user namespace and no maps.
fn without_user_namespace(bundle: &mut Bundle) -> &mut Bundle {
    bundle.without_namespace("user").remove("/linux/uidMappings").remove("/linux/gidMappings")
}

#[test]
fn a_user_namespace_is_made_where_the_config_has_none() {
    let name = "a_user_namespace_is_made_where_the_config_has_none";
    let Some(world) = World::enter_as_user(name, Ranges::None) else { return };
    let mut bundle = rootless(&world);
    without_user_namespace(&mut bundle).args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    if world.is_runc() {
        c.run(&[]).fails(1, "rootless container requires user namespaces");
        return;
    }
    // Debug output says what was chosen.
    let words = ["--debug", "create", "--bundle", bundle.dir().to_str().unwrap(), &c.id];
    let log = world.call(&words).run().ok().log;
    assert!(
        log.contains(&format!("no mappings of a user namespace: uids 0:{UID}:1, gids 0:{UID}:1")),
        "{log}"
    );
    c.simple("start").ok();
    assert_eq!(words_of(c.pid(), "uid_map"), ["0", &UID.to_string(), "1"]);
    assert_eq!(c.sh("id -u"), "0", "exec finds it without the config");
    c.finish();
}

#[test]
fn the_ranges_are_spread_around_the_process_id() {
    let Some(world) = World::enter_as_user("the_ranges_are_spread_around_the_process_id", Ranges::Some)
    else {
        return;
    };
    if world.is_runc() {
        return;
    }
    let mut bundle = rootless(&world);
    without_user_namespace(&mut bundle)
        .script("id; touch /tmp/made; sleep 1000")
        .set("/root/readonly", json!(false))
        .set("/process/user", json!({"uid": 1000, "gid": 50, "additionalGids": [7]}));
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    c.simple("start").ok();
    let rest = IDS - 1000;
    let uids = format!("0 {FIRST_ID} 1000 1000 {UID} 1 1001 {} {rest}", FIRST_ID + 1000);
    assert_eq!(words_of(c.pid(), "uid_map").join(" "), uids);
    davit_tests::wait_until("its output", || create.stdout_now().contains('\n'));
    assert_eq!(create.stdout_now(), "uid=1000(user) gid=50 groups=7\n");
    davit_tests::wait_until("its file", || bundle.rootfs("tmp/made").exists());
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (UID, UID), "the process is the caller outside");
    assert_eq!(c.exec(&["--user", "0", "--additional-gids", "8"], &["id", "-G"]).ok().stdout, "50 7 8\n");
    c.finish();
}

#[test]
fn ids_that_are_not_mapped_are_refused() {
    let Some(world) = World::enter_as_user("ids_that_are_not_mapped_are_refused", Ranges::None) else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]);
    let good = bundle.config.clone();
    let groups = "cannot set any additional groups in a rootless container";
    let cases = [
        ("/process/user", json!({"uid": 5, "gid": 0}), "unmapped uid 5 in user namespace"),
        ("/process/user", json!({"uid": 0, "gid": 6}), "unmapped gid 6 in user namespace"),
        ("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [5]}), groups),
        ("/linux/uidMappings/0/containerID", json!(1), "but no mapping found for uid 0"),
        ("/mounts/1/options", json!(["uid=7"]), "cannot specify uid=7 mount option for rootless container"),
    ];
    for (field, value, words) in cases {
        bundle.set(field, value);
        let c = world.container(&bundle);
        let run = c.run(&[]);
        assert_eq!(run.code, 1);
        assert!(run.error().contains(words) || world.is_runc(), "{words}: {}", run.error());
        c.assert_nothing_left();
        bundle.config = good.clone();
    }
    let c = world.container(&bundle).started();
    let refused = |flags: &[&str], words: &str| {
        let exec = c.exec(flags, &["true"]);
        assert_eq!(exec.code, 255);
        assert!(exec.error().contains(words) || world.is_runc(), "{words}: {}", exec.error());
    };
    refused(&["--user", "7"], "unmapped uid 7 in user namespace");
    refused(&["--additional-gids", "7"], groups);
    c.finish();
}

#[test]
fn without_a_cgroup_commands_say_so() {
    let Some(world) = World::enter_as_user("without_a_cgroup_commands_say_so", Ranges::None) else { return };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]);
    let good = bundle.config.clone();
    let c = world.container(&bundle).started();
    let state = fs::read_to_string(world.root().join(&c.id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    if !world.is_runc() {
        assert_eq!(state["cgroup_paths"].as_object().unwrap().len(), 0);
        let none = "cgroups not configured for container";
        c.simple("pause").fails(1, &format!("cannot toggle freezer: {none}"));
        c.simple("ps").fails(1, &format!("unable to get all container pids: {none}"));
        c.simple("resume").fails(1, "container not paused");
        // There is but init to be found.
        let kill = c.call("kill", &["--all"], &["KILL"]).run().ok();
        assert!(kill.log.contains("possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)"));
        c.wait_for("stopped");
    }
    c.finish();

    bundle.set("/linux/resources/memory/limit", json!(100_000_000));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    assert_eq!(run.code, 1);
    let words = "cannot set memory limit: container could not join or create cgroup";
    assert!(run.error().contains(words), "{}", run.error());
    c.assert_nothing_left();

    bundle.config = good.clone();
    bundle.set("/linux/cgroupsPath", json!("/davit-test/of-a-user"));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("permission denied"), "{}", run.error());
    assert!(run.error().contains("delegated") || world.is_runc(), "{}", run.error());
    c.assert_nothing_left();

    // With cgroup errors not to be ignored, the cgroup is needed.
    bundle.config = good;
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    let run = world.call(&["--rootless", "false", "run", "--bundle", dir, &c.id]).run();
    assert_eq!(run.code, 1);
    assert!(run.error().contains("permission denied"), "{}", run.error());
    c.assert_nothing_left();
}

#[test]
fn without_a_pid_namespace_a_lost_process_is_warned_of() {
    let Some(world) =
        World::enter_as_user("without_a_pid_namespace_a_lost_process_is_warned_of", Ranges::None)
    else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).without_namespace("pid");
    // proc can't be mounted without a pid namespace of one's own.
    let mounts = bundle.config.pointer_mut("/mounts").and_then(|m| m.as_array_mut()).unwrap();
    mounts.retain(|mount| mount["destination"] != "/proc");
    bundle
        .mount("/proc", "none", "/proc", &["rbind"])
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths");
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    if !world.is_runc() {
        assert!(create.log.contains("no cgroup and no private pid namespace"), "{}", create.log);
    }
    c.simple("start").ok();
    c.call("kill", &[], &["KILL"]).run().ok();
    c.wait_for("stopped");
    c.finish();
}

#[test]
fn runc_enters_and_ends_what_davit_made() {
    let Some(world) = World::enter_as_user("runc_enters_and_ends_what_davit_made", Ranges::None) else {
        return;
    };
    let runc = std::path::Path::new(davit_tests::RUNC);
    if !runc.exists() {
        davit_tests::skip::<()>("runc_enters_and_ends_what_davit_made", "no runc: apt-get install runc");
        return;
    }
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let exec = c.call("exec", &[], &["id", "-u"]).with(runc).run().ok();
    assert_eq!(exec.stdout, "0\n");
    c.call("kill", &[], &["KILL"]).with(runc).run().ok();
    c.wait_for("stopped");
    c.call("delete", &[], &[]).with(runc).run().ok();
    c.assert_nothing_left();

    let c = world.container(&bundle);
    c.call("create", &["--bundle", bundle.dir().to_str().unwrap()], &[]).with(runc).run().ok();
    c.simple("start").ok();
    // runc's init opens the gate a moment before it executes the program: it counts as running.
    assert_eq!(c.status(), "running");
    assert_eq!(c.sh("id -u"), "0");
    c.finish();
}

/// A cgroup v2 subtree that belongs to the user, removed when dropped.
struct Subtree {
    dir: std::path::PathBuf,
    name: String,
}

impl Subtree {
    fn new() -> Self {
        let root = if davit_tests::host::has_v1() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
        let name = davit_tests::unique("davit-test-subtree");
        let dir = std::path::Path::new(root).join(&name);
        fs::create_dir(&dir).unwrap();
        fs::create_dir(dir.join("own")).unwrap();
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "own"] {
            std::os::unix::fs::chown(dir.join(file), Some(UID), Some(UID)).unwrap();
        }
        Subtree { dir, name }
    }

    /// A script that goes into the subtree before it becomes the user.
    fn enter(&self) -> [String; 4] {
        let script = format!("echo $$ > /sys/fs/cgroup/{}/own/cgroup.procs && exec \"$@\"", self.name);
        ["sh".into(), "-c".into(), script, "sh".into()]
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        davit_tests::host::remove_when_empty(&self.dir.join("own"));
        davit_tests::host::remove_when_empty(&self.dir);
    }
}

#[test]
fn a_delegated_cgroup_is_used() {
    let Some(world) = World::enter_as_user("a_delegated_cgroup_is_used", Ranges::None) else { return };
    let subtree = Subtree::new();
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).push("/linux/namespaces", json!({"type": "cgroup"}));
    let mut c = world.container(&bundle);
    c.view = View::PureV2;
    let enter = subtree.enter();
    let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
    let dir = bundle.dir().to_str().unwrap();
    let call =
        |command: &str, flags: &[&str], rest: &[&str]| c.call(command, flags, rest).wrapper(&enter).run();
    call("create", &["--bundle", dir], &[]).ok();
    call("start", &[], &[]).ok();
    let text = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert!(text.contains(&format!("0::/{}/{}\n", subtree.name, c.id)), "{text}");
    assert_eq!(call("exec", &[], &["sh", "-c", "cat /proc/self/cgroup | grep ^0:"]).ok().stdout, "0::/\n");
    let ps = call("ps", &["--format", "json"], &[]).ok().json();
    assert_eq!(ps, json!([c.pid()]));
    call("pause", &[], &[]).ok();
    assert_eq!(c.status(), "paused");
    call("resume", &[], &[]).ok();
    assert_eq!(c.status(), "running");
    call("kill", &["--all"], &["KILL"]).ok();
    c.wait_for("stopped");
    call("delete", &[], &[]).ok();
    c.assert_nothing_left();
}

#[test]
fn a_cgroup_that_is_not_the_users() {
    let Some(world) = World::enter_as_user("a_cgroup_that_is_not_the_users", Ranges::None) else { return };
    let subtree = Subtree::new();
    let mut bundle = rootless(&world);
    bundle.args(&["true"]);
    let run = |bundle: &Bundle| {
        let mut c = world.container(bundle);
        c.view = View::PureV2;
        let run = c.run(&[]);
        c.assert_nothing_left();
        run
    };
    if !world.is_runc() {
        // There is none of its own, and others' are not shown either.
        bundle.script("ls /sys/fs/cgroup | wc -l");
        let seen = run(&bundle).ok().stdout;
        assert_eq!(seen, "0\n");
    }
    run(&bundle).ok();
    // runc's words; 1.1 fails elsewhere on this host.
    bundle.set("/linux/resources/pids/limit", json!(10));
    let limited = run(&bundle);
    assert_eq!(limited.code, 1);
    let words = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
    assert!(limited.error().contains(words) || world.is_runc(), "{}", limited.error());

    // It can be made, but the caller is outside of it.
    bundle.remove("/linux/resources").set("/linux/cgroupsPath", json!(format!("/{}/sub", subtree.name)));
    let outside = run(&bundle);
    assert_eq!(outside.code, 1);
    assert!(outside.error().contains("permission denied"), "{}", outside.error());
    if !world.is_runc() {
        assert!(
            outside.error().contains("needs a cgroup that is delegated to it, and must be started in it")
        );
    }
    assert!(!subtree.dir.join("sub").exists());
}

#[test]
fn the_binary_is_out_of_the_containers_reach() {
    let name = "the_binary_is_out_of_the_containers_reach";
    let Some(world) = World::enter_as_user(name, Ranges::None) else { return };
    if world.is_runc() {
        return;
    }
    // What is at stake: the user can write the file that is executed.
    std::os::unix::fs::chown(world.runtime(), Some(UID), Some(UID)).unwrap();
    let before = fs::read(world.runtime()).unwrap();
    let installed = fs::metadata(world.runtime()).unwrap().ino();
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]);
    let dir = bundle.dir().to_str().unwrap().to_owned();
    let sysctl = "/proc/sys/vm/memfd_noexec";
    // 0: as by default; 1: memory to execute must be asked for; 2: none can be executed, a file must do.
    for noexec in 0..=2 {
        if noexec > 0 && !std::path::Path::new(sysctl).exists() {
            continue;
        }
        let c = world.container(&bundle);
        // The setting is the pid namespace's. While the container is created its process is still the runtime, and
        // what happens to its file would happen to the next run (CVE-2019-5736).
        let script = format!(
            "mkdir -p {0}/run && mount -t tmpfs -o mode=777 run {0}/run; \
             if [ {noexec} != 0 ]; then echo {noexec} > {sysctl}; fi; \"$@\" || exit 1; \
             pid=$(cat {0}/pid); stat -L -c '%i %h' /proc/$pid/exe; (: >> /proc/$pid/exe) 2>&1; true",
            world.root().display()
        );
        let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", &script, "sh"];
        let pid_file = world.root().join("pid");
        let flags = ["--bundle", &dir, "--pid-file", pid_file.to_str().unwrap()];
        let create = c.call("create", &flags, &[]).wrapper(&wrapper);
        let create = create.env("XDG_RUNTIME_DIR", world.root().join("run").to_str().unwrap()).run().ok();
        let (inode, rest) = create.stdout.split_once(' ').unwrap();
        assert_ne!(inode.parse::<u64>().unwrap(), installed, "memfd_noexec={noexec}");
        let (links, refusal) = rest.split_once('\n').unwrap();
        assert_eq!(links, "0", "a copy that has no name: memfd_noexec={noexec}");
        assert!(refusal.contains("Text file busy"), "memfd_noexec={noexec}: {refusal}");
        c.finish();
    }
    assert_eq!(fs::read(world.runtime()).unwrap(), before);
}

#[test]
fn the_config_of_spec_rootless_runs() {
    let Some(world) = World::enter_as_user("the_config_of_spec_rootless_runs", Ranges::None) else { return };
    for view in [View::Host, View::PureV2] {
        let mut bundle = world.bundle();
        let spec = |program: &std::path::Path| {
            let file = bundle.dir().join("config.json");
            let _ = fs::remove_file(&file);
            world.call(&["spec", "--rootless"]).with(program).view(view).dir(bundle.dir()).run().ok();
            serde_json::from_slice::<serde_json::Value>(&fs::read(file).unwrap()).unwrap()
        };
        let config = spec(world.runtime());
        let runc = std::path::Path::new(davit_tests::RUNC);
        if runc.exists() {
            let mut expected = spec(runc);
            // Newer specification; no ambient capabilities since runc 1.2.
            expected["ociVersion"] = config["ociVersion"].clone();
            expected["process"]["capabilities"].as_object_mut().unwrap().remove("ambient");
            let mut config = config.clone();
            config["process"]["capabilities"].as_object_mut().unwrap().remove("ambient");
            assert_eq!(config, expected, "{view:?}");
        }
        bundle.config = config;
        bundle.script("id -u; cat /proc/self/uid_map").set("/process/terminal", json!(false));
        let mut c = world.container(&bundle);
        c.view = view;
        let out = c.run(&[]).ok().stdout;
        let words: Vec<&str> = out.split_ascii_whitespace().collect();
        assert_eq!(words, ["0", "0", &UID.to_string(), "1"], "{view:?}");
        c.assert_nothing_left();
    }
}

#[test]
fn missing_rights_are_named_with_the_remedy() {
    let Some(mut world) = World::enter_as_user("missing_rights_are_named_with_the_remedy", Ranges::None)
    else {
        return;
    };
    if world.is_runc() {
        return;
    }
    let mut bundle = rootless(&world);
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    // Without a directory of the user's own, state would be in root's.
    let remedy = "(uid 12345 needs a directory of its own for the state of containers: set XDG_RUNTIME_DIR";
    let run = world.call(&["run", "--bundle", dir, &c.id]).without_root().env("XDG_RUNTIME_DIR", "").run();
    run.fails(1, &format!("permission denied {remedy}"));
    world.call(&["--root", "/proc/1/fd", "list"]).without_root().run().fails(1, remedy);
    let elsewhere = world.call(&["list"]).without_root().env("XDG_RUNTIME_DIR", "/proc/1/nowhere").run();
    elsewhere.fails(1, "the path in $XDG_RUNTIME_DIR must be writable by the user");
    c.assert_nothing_left();
    drop(c);

    // A host that allows no user namespaces: here the namespace around the runtime does not.
    world.through(&[
        "unshare",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"",
        "sh",
    ]);
    let mut bundle = rootless(&world);
    bundle
        .args(&["true"])
        .set("/linux/uidMappings/0/hostID", json!(0))
        .set("/linux/gidMappings/0/hostID", json!(0));
    let c = world.container(&bundle);
    let full = "no space left on device (the limit of a kind of namespaces is reached: see /proc/sys/user)";
    c.run(&[]).fails(1, full);
    c.assert_nothing_left();
}
