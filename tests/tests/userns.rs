//! User namespaces: the runtime as root of one, and containers with maps of every kind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use davit_tests::user::{FIRST_ID, Ranges, UID};
use davit_tests::{Bundle, View, World, wait_until};
use serde_json::{Value, json};

/// A process in namespaces of its own, ended when dropped.
struct Holder(Child);

impl Holder {
    fn start(world: &World, flags: &[&str]) -> Self {
        let script = ["sh", "-c", "echo ready; exec sleep 1000"];
        let words: Vec<&str> = world.user_words().iter().map(String::as_str).collect();
        let words = [words.as_slice(), &["unshare"], flags, &script].concat();
        let mut child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Holder(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A world whose runtime is root of a user namespace.
fn as_root_inside(test: &str, ranges: Ranges) -> Option<(World, Holder)> {
    let mut world = World::enter_as_user(test, ranges)?;
    let mut flags = vec!["--map-root-user"];
    if ranges == Ranges::Some {
        flags.push("--map-auto");
    }
    let holder = Holder::start(&world, &flags);
    let pid = holder.pid();
    world.through(&["nsenter", "--user", "--preserve-credentials", "--target", &pid]);
    Some((world, holder))
}

/// What only root of the first user namespace may have in a config: another sysfs.
fn without_sysfs(bundle: &mut Bundle) {
    let mounts = bundle.config.pointer_mut("/mounts").and_then(Value::as_array_mut).unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys");
    bundle
        .mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
        .without_namespace("network");
}

fn without_gid_options(bundle: &mut Bundle) {
    for mount in bundle.config.pointer_mut("/mounts").and_then(Value::as_array_mut).unwrap() {
        if let Some(options) = mount.pointer_mut("/options").and_then(Value::as_array_mut) {
            options.retain(|option| option != "gid=5");
        }
    }
}

fn words_of(pid: i32, file: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_of_a_user_namespace_makes_containers_in_it() {
    let name = "root_of_a_user_namespace_makes_containers_in_it";
    let Some((world, holder)) = as_root_inside(name, Ranges::None) else { return };
    let mut bundle = world.bundle();
    without_sysfs(&mut bundle);
    without_gid_options(&mut bundle);
    bundle.args(&["sleep", "1000"]).set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [7]}));
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    if !world.is_runc() {
        assert!(
            create.log.contains("additional groups [7] are not set: the user namespace denies setgroups")
        );
    }
    c.simple("start").ok();
    let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(user(&c.pid().to_string()), user(&holder.pid()));
    assert_eq!(c.sh("id -u; id -G"), "0\n0");
    // Nodes can't be made: they are the host's, bound.
    assert_eq!(
        c.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; grep -c ' /dev/null ' /proc/1/mountinfo"),
        "3\n1"
    );
    assert_eq!(c.status(), "running");
    let list = world.call(&["list", "-q"]).run().ok().stdout;
    assert_eq!(list.trim(), c.id);
    assert_ne!(c.simple("pause").code, 0);
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();

    // Known to be rootless by /proc/self/uid_map; without that, the missing cgroup is an error.
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    for (value, works) in [("true", true), ("auto", true), ("false", false)] {
        let words = ["--rootless", value, "create", "--bundle", dir, &c.id];
        let create = world.call(&words).run();
        assert_eq!(create.code == 0, works, "{value}: {}", create.error());
        if works {
            world.call(&["delete", "--force", &c.id]).run().ok();
        } else {
            assert!(create.error().contains("permission denied"), "{}", create.error());
        }
        c.assert_nothing_left();
    }
}

#[test]
fn a_user_namespace_in_a_user_namespace() {
    let Some((world, holder)) = as_root_inside("a_user_namespace_in_a_user_namespace", Ranges::Some) else {
        return;
    };
    let mut bundle = world.bundle();
    without_sysfs(&mut bundle);
    let maps =
        json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 1001, "size": 2000}]);
    bundle
        .args(&["sleep", "1000"])
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/root/readonly", json!(false))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps)
        .set("/process/user/additionalGids", json!([9]));
    let c = world.container(&bundle);
    if world.is_runc() {
        // runc 1.1 can't: "failed to setns to host mntns".
        return;
    }
    let c = c.started();
    assert_eq!(words_of(c.pid(), "uid_map"), format!("0 {UID} 1 1 {} 2000", FIRST_ID + 1000));
    let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(user(&c.pid().to_string()), user(&holder.pid()));
    assert!(
        fs::read_to_string(format!("/proc/{}/status", c.pid()))
            .unwrap()
            .contains(&format!("\nGroups:\t{} \n", FIRST_ID + 100_000 + 1008))
    );
    c.exec(&["--user", "5:6", "--additional-gids", "7"], &["sh", "-c", "id -G > /tmp/made"]).ok();
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST_ID + 1004, FIRST_ID + 100_000 + 1005));
    // The container's own group and that of the flag, in the kernel's order.
    assert_eq!(c.sh("cat /tmp/made"), "6 7 9");
    c.finish();

    // Ids that the runtime's own namespace lacks.
    bundle.set("/linux/uidMappings/1/hostID", json!(70_000));
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "operation not permitted (some of these host ids are not davit's to give");
    c.assert_nothing_left();
}

/// A bundle with a new user namespace of these maps, whose rootfs belongs to its root.
fn with_maps(world: &World, uids: Value, gids: Value) -> Bundle {
    let mut bundle = world.bundle();
    let root = |map: &Value| map[0]["hostID"].as_u64().unwrap();
    let owner = format!("{}:{}", root(&uids), root(&gids));
    for dir in [bundle.dir().parent().unwrap(), bundle.dir(), &bundle.rootfs("")] {
        assert!(Command::new("chmod").arg("755").arg(dir).status().unwrap().success());
    }
    assert!(Command::new("chown").args(["-Rh", &owner]).arg(bundle.rootfs("")).status().unwrap().success());
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/root/readonly", json!(false))
        .set("/linux/uidMappings", uids)
        .set("/linux/gidMappings", gids);
    bundle
}

fn range(container: u32, host: u32, size: u32) -> Value {
    json!({"containerID": container, "hostID": host, "size": size})
}

#[test]
fn maps_like_those_of_keep_id_and_auto() {
    let Some(world) = World::enter("maps_like_those_of_keep_id_and_auto") else { return };
    // keep-id: the caller's id (1000) is the same inside; the ids around it come from a range.
    let keep = json!([range(0, 100_000, 1000), range(1000, 1000, 1), range(1001, 101_000, 64_535)]);
    let mut bundle = with_maps(&world, keep.clone(), keep);
    bundle
        .script("id -u; id -g; id -G; echo $HOME; touch /tmp/made")
        .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 2000]}));
    let c = world.container(&bundle);
    // HOME is that of the container's passwd.
    assert_eq!(c.run(&[]).ok().stdout, "1000\n1000\n1000 5 2000\n/home/user\n");
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000));
    c.assert_nothing_left();

    // auto: a short range of its own for each container.
    let auto = json!([range(0, 231_072, 1024)]);
    let mut bundle = with_maps(&world, auto.clone(), auto);
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    assert_eq!(words_of(c.pid(), "uid_map"), "0 231072 1024");
    assert_eq!(c.exec(&["--user", "1023"], &["id", "-u"]).ok().stdout, "1023\n");
    let groups = c.exec(&["--user", "3:4", "--additional-gids", "9"], &["id", "-G"]).ok();
    assert_eq!(groups.stdout, "4 9\n");
    let beyond = c.exec(&["--user", "1024"], &["true"]);
    assert_ne!(beyond.code, 0);
    if !world.is_runc() {
        assert!(beyond.error().contains("unmapped uid 1024 in user namespace"), "{}", beyond.error());
    }
    c.finish();
}

#[test]
fn stdio_belongs_to_the_program() {
    let Some(world) = World::enter("stdio_belongs_to_the_program") else { return };
    if world.is_runc() {
        // It does so for pipes of its own making only.
        return;
    }
    let map = json!([range(0, 100_000, 65536)]);
    let mut bundle = with_maps(&world, map.clone(), map);
    // Opening it anew needs to own it: what `echo > /dev/stderr` in a script does.
    let script = "echo again > /dev/stdout; stat -L -c %u /proc/self/fd/1 /proc/self/fd/2";
    bundle.script(&format!("{script}; sleep 1000")).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let c = world.container(&bundle);
    // Through pipes, as conmon and the shims of containerd do it.
    let pipe = ["sh", "-c", "\"$@\" 2>&1 | head -n 3", "sh"];
    let create = c.call("create", &["--bundle", bundle.dir().to_str().unwrap()], &[]);
    let create = create.wrapper(&pipe).spawn();
    wait_until("created", || c.simple("state").code == 0 && c.status() == "created");
    c.simple("start").ok();
    assert_eq!(create.wait().stdout, "again\n1000\n1000\n");
    let exec = c.call("exec", &["--user", "7"], &["sh", "-c", script]).wrapper(&pipe).run();
    assert_eq!(exec.stdout, "again\n7\n7\n");
    c.finish();
}

#[test]
fn bad_maps_are_named_and_leave_nothing() {
    let Some(world) = World::enter("bad_maps_are_named_and_leave_nothing") else { return };
    let good = json!([range(0, 100_000, 65536)]);
    let cases = [
        (json!([range(0, 100_000, 0)]), "linux.uidMappings[0]: size must not be 0"),
        (json!([range(0, 100_000, 10), range(9, 200_000, 10)]), "linux.uidMappings[1]: containerID overlaps"),
        (json!([range(0, 100_000, 10), range(10, 100_009, 10)]), "linux.uidMappings[1]: hostID overlaps"),
        (json!([range(1, 100_000, 10)]), "no mapping found for uid 0"),
        (json!([range(0, 4_294_967_290u32, 10)]), "past the last id"),
    ];
    for (uids, words) in cases {
        let mut bundle = with_maps(&world, uids, good.clone());
        bundle.args(&["true"]);
        let c = world.container(&bundle);
        let run = c.run(&[]);
        assert_eq!(run.code, 1, "{words}");
        assert!(run.error().contains(words) || world.is_runc(), "{words}: {}", run.error());
        c.assert_nothing_left();
    }
    let mut bundle = with_maps(&world, good.clone(), good);
    bundle.args(&["true"]).set("/process/user", json!({"uid": 70_000, "gid": 0}));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    assert_eq!(run.code, 1);
    assert!(
        run.error().contains("unmapped uid 70000 in user namespace") || world.is_runc(),
        "{}",
        run.error()
    );
    c.assert_nothing_left();
}

#[test]
fn a_joined_user_namespace_has_the_maps_of_the_config() {
    let Some(world) = World::enter("a_joined_user_namespace_has_the_maps_of_the_config") else { return };
    if world.is_runc() {
        // runc compares since 1.2.
        return;
    }
    let map = json!([range(0, 100_000, 1000), range(1000, 300_000, 1000)]);
    let mut sandbox = with_maps(&world, map.clone(), map.clone());
    sandbox.args(&["sleep", "1000"]);
    let sandbox = world.container(&sandbox).started();
    let mut bundle = with_maps(&world, map.clone(), map);
    let path = format!("/proc/{}/ns/user", sandbox.pid());
    bundle.without_namespace("user").push("/linux/namespaces", json!({"type": "user", "path": path}));

    // The same maps in another order, as containerd gives them beside the path.
    bundle.args(&["sleep", "1000"]);
    let ranges = bundle.config["linux"]["uidMappings"].as_array_mut().unwrap();
    ranges.reverse();
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    assert!(
        create.log.contains("both a userns path to join and a matching userns mapping"),
        "{}",
        create.log
    );
    c.simple("start").ok();
    let text = fs::read_to_string(world.root().join(&c.id).join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        state["config"]["uid_mappings"][1],
        json!({"container_id": 1000, "host_id": 300_000, "size": 1000})
    );
    c.exec(&["--user", "2000"], &["true"]).fails(255, "unmapped uid 2000 in user namespace");
    c.finish();

    let refused = |bundle: &Bundle, words: &str| {
        let c = world.container(bundle);
        c.run(&[]).fails(1, words);
        c.assert_nothing_left();
    };
    bundle.set("/linux/uidMappings/0/hostID", json!(5));
    refused(&bundle, "both namespace path and non-matching mapping specified -- you may only provide one");
    bundle.remove("/linux/uidMappings").remove("/linux/gidMappings").set("/process/user/uid", json!(2000));
    refused(&bundle, "unmapped uid 2000 in user namespace");
    assert_eq!(sandbox.status(), "running");
    wait_until("nothing of the others", || fs::read_dir(world.root()).unwrap().count() == 1);
    sandbox.finish();
}

/// The host's cgroup2 tree.
fn cgroup2() -> &'static str {
    if davit_tests::host::has_v1() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" }
}

#[test]
fn a_writable_cgroup_is_the_containers() {
    let Some(world) = World::enter("a_writable_cgroup_is_the_containers") else { return };
    if world.is_runc() {
        // Its cgroupfs driver gives nothing away; with systemd it does.
        return;
    }
    let map = json!([range(0, 100_000, 65536)]);
    for (options, private, owner) in
        [(&["rw"][..], true, 100_007), (&[], true, 100_007), (&["ro"], true, 0), (&["rw"], false, 0)]
    {
        let mut bundle = with_maps(&world, map.clone(), map.clone());
        let mounts = bundle.config.pointer_mut("/mounts").and_then(Value::as_array_mut).unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", options).args(&["sleep", "1000"]);
        bundle.set("/process/user", json!({"uid": 7, "gid": 7}));
        if private {
            bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        }
        let mut c = world.container(&bundle);
        c.view = View::PureV2;
        let c = c.started();
        let text = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let dir = format!("{}{path}", cgroup2());
        let uid = |file: &str| fs::metadata(format!("{dir}/{file}")).unwrap().uid();
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(uid(file), owner, "{options:?} {private} {file}");
        }
        assert_eq!(uid("cgroup.max.depth"), 0, "limits of the container are not its own");
        let made = c.exec(&[], &["mkdir", "/sys/fs/cgroup/below"]);
        assert_eq!(made.code == 0, owner != 0, "{options:?} {private}: {}", made.stderr);
        c.finish();
    }
}

#[test]
fn namespaces_of_the_outer_user_namespace_are_joined() {
    let name = "namespaces_of_the_outer_user_namespace_are_joined";
    // As Podman does it without root: the network is its own user namespace's, the container has another one.
    let Some(mut world) = World::enter_as_user(name, Ranges::Some) else { return };
    if world.is_runc() {
        return;
    }
    let holder = Holder::start(&world, &["--map-root-user", "--map-auto", "--net", "--uts"]);
    let pid = holder.pid();
    world.through(&["nsenter", "--user", "--preserve-credentials", "--target", &pid]);
    let mut bundle = world.bundle();
    without_sysfs(&mut bundle);
    for (kind, file) in [("network", "net"), ("uts", "uts")] {
        let path = format!("/proc/{pid}/ns/{file}");
        bundle.without_namespace(kind).push("/linux/namespaces", json!({"type": kind, "path": path}));
    }
    let maps = json!([range(0, 1, 1000)]);
    bundle
        .args(&["sleep", "1000"])
        .remove("/hostname")
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/root/readonly", json!(false))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    // Mapped root is the first id of the user's range.
    let owner = format!("{FIRST_ID}:{}", FIRST_ID + 100_000);
    assert!(Command::new("chown").args(["-Rh", &owner]).arg(bundle.rootfs("")).status().unwrap().success());
    let c = world.container(&bundle).started();
    for kind in ["net", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(&c.pid().to_string()), of(&pid), "{kind}");
        assert_eq!(
            c.sh(&format!("readlink /proc/self/ns/{kind}")),
            of(&pid).to_str().unwrap(),
            "exec: {kind}"
        );
    }
    assert_eq!(words_of(c.pid(), "uid_map"), format!("0 {FIRST_ID} 1000"));
    c.finish();
}
