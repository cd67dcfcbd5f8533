//! Fake and half-covered procfs: what the runtime writes below /proc must reach the kernel and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use davit_tests::wait_until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::support::{Canary, Racer, SECRET, assert_hits_old_runc, create_until_met, enter, run};

/// An image whose /proc or /sys is a link: masks and labels would be put on the link's target, and the procfs be
/// mounted there.
#[test]
fn cve_2019_19921_proc_and_sys_are_directories() {
    let Some(world) = enter("cve_2019_19921_proc_and_sys_are_directories") else { return };
    let canary = Canary::new(&world, "canary");
    for (name, target) in
        [("proc", "/tmp/fake"), ("sys", "/tmp/fake"), ("proc", canary.text()), ("sys", "tmp")]
    {
        let mut bundle = world.bundle();
        fs::remove_dir(bundle.rootfs(name)).unwrap();
        fs::create_dir(bundle.rootfs("tmp/fake")).unwrap();
        symlink(target, bundle.rootfs(name)).unwrap();
        assert!(bundle.rootfs(name).is_symlink(), "the image is hostile");
        bundle.args(&["true"]);
        let words = format!(
            "\"{name}{}\" must be mounted on ordinary directory",
            if name == "sys" { "fs" } else { "" }
        );
        run(&world, &bundle).fails(1, &words);
        assert_eq!(fs::read_dir(bundle.rootfs("tmp/fake")).unwrap().count(), 0);
    }
    canary.assert_untouched();
}

/// CVE-2023-27561: the link is below a directory, or is a file: runc's first check had forgotten some of these.
#[test]
fn cve_2023_27561_proc_behind_other_links() {
    let Some(world) = enter("cve_2023_27561_proc_behind_other_links") else { return };
    type Make = fn(&Path);
    let attempts: [(&str, Make); 3] = [
        ("a chain of links", |rootfs| {
            symlink("/second", rootfs.join("proc")).unwrap();
            symlink("tmp", rootfs.join("second")).unwrap();
        }),
        ("a dangling link", |rootfs| symlink("/nowhere", rootfs.join("proc")).unwrap()),
        ("a file", |rootfs| fs::write(rootfs.join("proc"), "").unwrap()),
    ];
    for (what, make) in attempts {
        let mut bundle = world.bundle();
        fs::remove_dir(bundle.rootfs("proc")).unwrap();
        make(&bundle.rootfs(""));
        bundle.args(&["true"]);
        let output = run(&world, &bundle);
        assert_eq!(output.code, 1, "{what}: {}", output.stdout);
        assert!(!bundle.rootfs("nowhere").exists(), "{what}");
        assert!(
            output.error().contains("must be mounted on ordinary directory"),
            "{what}: {}",
            output.error()
        );
    }
}

/// An image's volume is put over /proc, with a tree that takes what the runtime writes as labels.
#[test]
fn cve_2019_16884_a_volume_is_no_procfs() {
    let Some(world) = enter("cve_2019_16884_a_volume_is_no_procfs") else { return };
    let fake = world.path("fake");
    let attr = fake.join("self/attr");
    fs::create_dir_all(&attr).unwrap();
    for file in ["exec", "current", "keycreate"] {
        fs::write(attr.join(file), "").unwrap();
    }
    // What a runtime would write to by the path that is the volume's inside.
    assert!(attr.join("exec").is_file());
    let fake = fake.to_str().unwrap();
    for (destination, source, words) in [
        ("/proc", fake.to_owned(), "it is not of type proc"),
        ("/proc/self/attr", format!("{fake}/self/attr"), "it is inside /proc"),
        ("/proc/1/attr", format!("{fake}/self/attr"), "it is inside /proc"),
        ("/proc/thread-self/attr/exec", format!("{fake}/self/attr/exec"), "it is inside /proc"),
        ("/proc/sys", fake.to_owned(), "it is inside /proc"),
        ("/proc/../proc/self", fake.to_owned(), "it is inside /proc"),
    ] {
        let mut bundle = world.bundle();
        bundle.mount(destination, "bind", &source, &["rbind"]).args(&["true"]);
        let output = run(&world, &bundle);
        assert_eq!(output.code, 1, "{destination}");
        assert!(output.error().contains(words), "{destination}: {}", output.error());
    }
    // The same behind a link of the image.
    let mut bundle = world.bundle();
    symlink("/proc/self", bundle.rootfs("link")).unwrap();
    bundle.mount("/link/attr", "bind", &format!("{fake}/self/attr"), &["rbind"]).args(&["true"]);
    let output = run(&world, &bundle);
    assert!(output.error().contains("it is inside /proc"), "{}", output.error());
    for file in ["exec", "current", "keycreate"] {
        assert_eq!(fs::read_to_string(attr.join(file)).unwrap(), "", "{file}");
    }
}

/// A mount of this test in the host's table, gone when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// A real procfs, shared with another container that has covered parts of it with its own files: what is written to
/// sysctls by paths of the container goes to those (CVE-2025-52881, and youki's CVE-2025-62596).
#[test]
fn cve_2025_52881_sysctls_are_not_redirected() {
    let Some(world) = enter("cve_2025_52881_sysctls_are_not_redirected") else { return };
    let shared = world.path("shared");
    fs::create_dir(&shared).unwrap();
    mount(Some("proc"), &shared, Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
    let _unmount = Mounted(&shared);
    let trap = world.path("trap");
    fs::write(&trap, format!("{SECRET}\n")).unwrap();
    for file in ["sys/kernel/domainname", "self/attr/exec"] {
        let at = shared.join(file);
        let none = None::<&str>;
        // In place of the trap an attacker has core_pattern or sysrq-trigger.
        mount(Some(&trap), &at, none, MsFlags::MS_BIND, none)
            .unwrap_or_else(|e| panic!("{}: {e}", at.display()));
    }
    let mut bundle = world.bundle();
    let mounts = bundle.config["mounts"].as_array().unwrap().clone();
    let others: Vec<_> = mounts.into_iter().filter(|mount| mount["destination"] != "/proc").collect();
    bundle
        .set("/mounts", json!(others))
        .mount("/proc", "bind", shared.to_str().unwrap(), &["rbind"])
        .set("/linux/sysctl", json!({"kernel.domainname": "trapped"}))
        .set("/linux/maskedPaths", json!([]))
        // Its own procfs is under the trap: this one shows the value of the namespace.
        .script("cat /proc/sys/kernel/domainname; mkdir -p /tmp/p; mount -t proc p /tmp/p; cat /tmp/p/sys/kernel/domainname")
        .set("/root/readonly", json!(false));
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    let output = run(&world, &bundle);
    assert_eq!(output.stdout, format!("{SECRET}\ntrapped\n"), "{}", output.error());
    assert_eq!(fs::read_to_string(&trap).unwrap(), format!("{SECRET}\n"));
    // runc 1.1.5 writes into the trap.
    assert_hits_old_runc(&world, &bundle, 1, |_| {
        fs::read_to_string(&trap).is_ok_and(|text| text.starts_with("trapped"))
    });
}

/// The traps are set while containers are made, by one that shares the mount point.
#[test]
fn cve_2025_52881_traps_that_come_and_go() {
    let Some(world) = enter("cve_2025_52881_traps_that_come_and_go") else { return };
    let (shared, trap) = (world.path("shared"), world.path("trap"));
    fs::create_dir(&shared).unwrap();
    fs::write(&trap, "trap\n").unwrap();
    let none = None::<&str>;
    mount(Some("proc"), &shared, Some("proc"), MsFlags::empty(), none).unwrap();
    let unmount = Mounted(&shared);
    let (at, source) = (shared.join("sys/kernel/domainname"), trap.clone());
    let mut bundle = world.bundle();
    let mounts = bundle.config["mounts"].as_array().unwrap().clone();
    let others: Vec<_> = mounts.into_iter().filter(|mount| mount["destination"] != "/proc").collect();
    bundle
        .set("/mounts", json!(others))
        .mount("/proc", "bind", shared.to_str().unwrap(), &["rbind", "rslave"])
        .set("/linux/sysctl", json!({"kernel.domainname": "trapped"}))
        .args(&["true"]);
    let racer = Racer::run(move || {
        let trapped = mount(Some(&source), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_ok();
        trapped && umount2(&at, MntFlags::MNT_DETACH).is_ok()
    });
    let (mut tried, mut made) = (0, 0);
    create_until_met(&racer, || {
        tried += 1;
        made += i32::from(run(&world, &bundle).code == 0);
        made > 0
    });
    let traps = racer.stop();
    drop(unmount);
    println!("{traps} traps during {tried} creates, of which {made} worked");
    assert_eq!(fs::read_to_string(&trap).unwrap(), "trap\n");
}

/// Names of sysctls are no paths.
#[test]
fn sysctls_lead_nowhere_else() {
    let Some(world) = enter("sysctls_lead_nowhere_else") else { return };
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for key in [
        "kernel.core_pattern",
        "net.ipv4.../../kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4/../../kernel.core_pattern",
        "fs.mqueue.../../kernel/core_pattern",
        "kernel.shm_rmid_forced/../core_pattern",
        "/kernel/core_pattern",
        "net.\u{0}",
    ] {
        let mut bundle = world.bundle();
        bundle.set("/linux/sysctl", json!({key: "|/bin/evil"})).args(&["true"]);
        let output = run(&world, &bundle);
        assert_ne!(output.code, 0, "{key}");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern, "{key}");
    }
}

/// `davit mounts add` works inside a running container, whose /proc is a fake: the mount goes where it was asked for.
#[test]
fn live_mounts_trust_no_proc_of_the_container() {
    let Some(world) = enter("live_mounts_trust_no_proc_of_the_container") else { return };
    let mut bundle = world.bundle();
    bundle.script("mkdir -p /tmp/fake/self/fd /tmp/trap; for i in 3 4 5 6 7 8 9 10 11 12 13 14; do \
        ln -s /tmp/trap /tmp/fake/self/fd/$i; done; mount --bind /tmp/fake /proc && touch /tmp/ready; sleep 1000");
    bundle.set("/root/readonly", json!(false)).set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/readonlyPaths", json!([])).mount("/tmp", "tmpfs", "tmpfs", &[]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    let c = world.container(&bundle).started();
    let root = format!("/proc/{}/root", c.pid());
    wait_until("the fake procfs", || Path::new(&root).join("tmp/ready").exists());
    assert!(Path::new(&root).join("proc/self/fd/5").is_symlink(), "the container's /proc is the fake");
    let source = Canary::new(&world, "source");
    let file = world.path("mounts.json");
    let both = json!([
        {"destination": "/mnt", "type": "tmpfs", "source": "live"},
        {"destination": "/mnt/bound", "type": "bind", "source": source.text(), "options": ["rbind", "ro"]},
    ]);
    fs::write(&file, both.to_string()).unwrap();
    let mounts = |action: &str| world.call(&["mounts", action, &c.id, file.to_str().unwrap()]).run();
    mounts("add").ok();
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    let points: Vec<_> = ["/mnt", "/mnt/bound", "/tmp/trap"]
        .into_iter()
        .filter(|point| table().lines().any(|line| line.split(' ').nth(4) == Some(point)))
        .collect();
    assert_eq!(points, ["/mnt", "/mnt/bound"], "{}", table());
    fs::write(&file, json!([{"destination": "/mnt/bound"}, {"destination": "/mnt"}]).to_string()).unwrap();
    mounts("remove").ok();
    assert!(!table().contains(" /mnt"), "{}", table());
    source.assert_untouched();
    c.finish();
}
