//! `davit check`: what it says of this host is so, and looking changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use davit_tests::{Output, View, World, copy_program, host, skip};
use serde_json::Value;

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() { skip(test, "runc has no such command") } else { Some(world) }
}

fn finding(out: &Output, name: &str) -> Value {
    let document = out.json();
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

fn verdict(out: &Output, name: &str) -> String {
    finding(out, name)["verdict"].as_str().unwrap().to_owned()
}

fn text(out: &Output, name: &str) -> String {
    finding(out, name).to_string()
}

#[test]
fn each_finding_is_complete_and_nothing_is_left() {
    let Some(world) = enter("each_finding_is_complete_and_nothing_is_left") else { return };
    // In a mount namespace of its own, where nobody else mounts; shared, so that what a child's namespace mounts shows.
    let (before, after) = (world.path("before"), world.path("after"));
    let script = format!(
        "mount --make-rshared / && cat /proc/self/mountinfo >{} && \"$@\" && cat /proc/self/mountinfo >{}",
        before.display(),
        after.display()
    );
    let wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let out = world.call(&["check", "--json"]).wrapper(&wrapper).run().ok();
    // Mounts below the directory for temporary files go when their own do: those of other tests.
    let scratch = world.path("").display().to_string();
    let temporary = std::env::temp_dir();
    let is_ours = |line: &&str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        !std::path::Path::new(point).starts_with(&temporary) || line.contains(&scratch)
    };
    let table = |file| -> Vec<String> {
        let text = fs::read_to_string(file).unwrap();
        text.lines().filter(is_ours).map(str::to_owned).collect()
    };
    assert_eq!(table(after), table(before));
    let document = out.json();
    assert_eq!((&document["version"], &document["runs"]), (&Value::from(1), &Value::from(true)));
    let mut names = BTreeSet::new();
    for check in document["checks"].as_array().unwrap() {
        let of = |key: &str| check[key].as_str().unwrap_or_else(|| panic!("{key}: {check}")).to_owned();
        assert!(names.insert(of("name")), "twice: {check}");
        assert!(["ok", "limited", "missing"].contains(&of("verdict").as_str()), "{check}");
        assert!(!of("found").is_empty() && !of("consequence").is_empty(), "{check}");
        assert_eq!(check["fatal"], false, "{check}");
    }
    assert!(names.len() > 25, "{names:?}");
    // The text has the same findings.
    let plain = world.call(&["check"]).run().ok().stdout;
    for name in &names {
        assert!(plain.contains(&format!(" {name}: ")), "{name}: {plain}");
    }
    assert!(plain.ends_with("Containers can run here.\n"));
}

#[test]
fn what_is_said_of_this_host_is_so() {
    let Some(world) = enter("what_is_said_of_this_host_is_so") else { return };
    let out = world.call(&["check", "--json"]).run().ok();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(finding(&out, "kernel")["found"], release.trim());
    for (name, path) in [
        ("time namespaces", "/proc/self/ns/time"),
        ("resctrl", "/sys/fs/resctrl/schemata"),
        ("seccomp actions", "/proc/sys/kernel/seccomp/actions_avail"),
    ] {
        let there = fs::metadata(path).is_ok();
        assert_eq!(verdict(&out, name) == "ok", there, "{name}");
    }
    assert_eq!(verdict(&out, "user namespaces"), "ok");
    let mode = if host::has_v1() { "hybrid" } else { "v2" };
    assert!(text(&out, "cgroups").contains(mode));
    // The controllers are those that the kernel lists.
    let found = finding(&out, "controllers")["found"].as_str().unwrap().to_owned();
    let enabled = fs::read_to_string("/proc/cgroups").unwrap();
    for line in enabled.lines().filter(|line| !line.starts_with('#') && line.ends_with("\t1")) {
        let name = line.split('\t').next().unwrap();
        if ["memory", "pids", "cpu", "hugetlb"].contains(&name) {
            assert!(found.split(',').any(|word| word == name), "{name}: {found}");
        }
    }
    let v2 = world.call(&["check", "--json"]).view(View::PureV2).run().ok();
    assert_eq!(finding(&v2, "cgroups")["found"], "v2");
    assert_eq!(verdict(&v2, "device rules"), "ok");
}

#[test]
fn a_user_is_told_about_that_user() {
    let Some(world) = enter("a_user_is_told_about_that_user") else { return };
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let davit = world.path("davit");
    copy_program(world.runtime(), &davit);
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let out = world.call(&["check", "--json"]).with(&davit).without_log().wrapper(&user).run().ok();
    assert_eq!(finding(&out, "user")["found"], "uid 65534");
    // nobody has no ranges.
    assert_eq!(verdict(&out, "id ranges"), "limited");
    assert_eq!(verdict(&out, "making cgroups"), "limited");
    assert_eq!(verdict(&out, "state directory"), "limited");
}

#[test]
fn what_is_taken_away_is_noticed() {
    let Some(world) = enter("what_is_taken_away_is_noticed") else { return };
    let with = |wrapper: &[&str]| world.call(&["check", "--json"]).wrapper(wrapper).run();
    let out = with(&["setpriv", "--bounding-set=-mknod"]).ok();
    assert!(text(&out, "capabilities").contains("CAP_MKNOD"));
    assert!(text(&out, "capabilities").contains("device nodes can't be made"));
    let script = "mount -t tmpfs none /proc/irq && mount -t tmpfs none /run && exec \"$@\"";
    let out = with(&["unshare", "-m", "sh", "-c", script, "sh"]).ok();
    assert!(text(&out, "/proc").contains("can't mount a new one"), "{}", text(&out, "/proc"));
    assert_eq!(verdict(&out, "state directory"), "ok");
    // Without /proc nothing works.
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    let out = with(&["unshare", "-m", "sh", "-c", script, "sh"]).exits(1);
    assert_eq!(out.json()["runs"], false);
    assert_eq!(finding(&out, "/proc")["fatal"], true);
    // User namespaces are refused in a chroot.
    let script = "mkdir -p $ROOT && mount --rbind / $ROOT && exec chroot $ROOT \"$@\"";
    let root = world.path("chroot");
    let call = world.call(&["check", "--json"]).env("ROOT", root.to_str().unwrap());
    let out = call.wrapper(&["unshare", "-m", "sh", "-c", script, "sh"]).run().ok();
    assert_eq!(verdict(&out, "user namespaces"), "missing", "{}", text(&out, "user namespaces"));
}
