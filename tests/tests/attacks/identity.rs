//! Ids, capabilities, lengths: numbers that an attacker chooses.

use std::fs;

use serde_json::{Value, json};

use crate::support::{enter, has_old_runc, run, run_by_old_runc};

/// A line of /proc/PID/status without its name.
fn status(text: &str, key: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap_or_default();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

/// The image's passwd gives the name "1000" to uid 0. davit resolves no names.
#[test]
fn cve_2016_3697_a_number_is_no_name() {
    let Some(world) = enter("cve_2016_3697_a_number_is_no_name") else { return };
    let mut bundle = world.bundle();
    fs::write(bundle.rootfs("etc/passwd"), "1000:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(bundle.rootfs("etc/group"), "1000:x:0:\n").unwrap();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [1000]}));
    // The trap works for what looks names up first.
    bundle.script("id -u 1000; grep -E '^(Uid|Gid|Groups)' /proc/self/status");
    let output = run(&world, &bundle).ok().stdout;
    assert!(output.starts_with("0\n"), "{output}");
    let all = |output: &str| ["Uid", "Gid", "Groups"].map(|key| status(output, key));
    assert_eq!(all(&output), ["1000 1000 1000 1000", "1000 1000 1000 1000", "1000"]);
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let exec = c.exec(&["--user", "1000:1000"], &["cat", "/proc/self/status"]).ok().stdout;
    assert_eq!(status(&exec, "Uid"), "1000 1000 1000 1000");
    c.exec(&["--user", "root"], &["true"]).fails(255, "");
    c.finish();
}

/// `exec -u`: whole numbers or nothing, and no default in the place of what can not be read.
#[test]
fn cve_2026_30892_exec_user_is_parsed_strictly() {
    let Some(world) = enter("cve_2026_30892_exec_user_is_parsed_strictly") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/process/user", json!({"uid": 7, "gid": 8}));
    let c = world.container(&bundle).started();
    let script = "grep -E '^(Uid|Gid)' /proc/self/status";
    let exec = |user: &str| c.exec(&["--user", user], &["sh", "-c", script]);
    for (user, uid, gid) in [("1", "1", "8"), ("0", "0", "8"), ("1:2", "1", "2"), ("0:0", "0", "0")] {
        let output = exec(user).ok().stdout;
        let ids = (status(&output, "Uid"), status(&output, "Gid"));
        assert!(
            ids.0.starts_with(&format!("{uid} ")) && ids.1.starts_with(&format!("{gid} ")),
            "{user}: {ids:?}"
        );
    }
    for user in [
        "1:",
        ":1",
        ":",
        "-1",
        "+1",
        "1:-1",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0x1",
        " 1",
        "1 ",
        "1:2:3",
        "1,2",
        "1\n",
        "٣",
        "1e3",
        "root",
        "root:root",
        "1:root",
    ] {
        let output = exec(user);
        assert_eq!(output.code, 255, "{user:?}: {}", output.stdout);
        assert_eq!(output.stdout, "", "{user:?}");
    }
    c.finish();
}

/// CVE-2024-40635 and CVE-2026-46680 of containerd: ids that overflow to 0.
#[test]
fn cve_2024_40635_ids_that_overflow_are_errors() {
    let Some(world) = enter("cve_2024_40635_ids_that_overflow_are_errors") else { return };
    for id in [
        json!(4_294_967_295_u64),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(-1),
        json!(1.5),
        json!("0"),
    ] {
        for field in ["uid", "gid"] {
            let mut bundle = world.bundle();
            bundle.set(&format!("/process/user/{field}"), id.clone()).args(&["true"]);
            assert_ne!(run(&world, &bundle).code, 0, "{field} {id}");
        }
        let mut bundle = world.bundle();
        bundle.set("/process/user/additionalGids", json!([id])).args(&["true"]);
        assert_ne!(run(&world, &bundle).code, 0, "additionalGids {id}");
    }
    // The largest that is one.
    let mut bundle = world.bundle();
    bundle.set("/process/user/uid", json!(4_294_967_294_u64)).args(&["cat", "/proc/self/status"]);
    assert!(status(&run(&world, &bundle).ok().stdout, "Uid").starts_with("4294967294 "));
}

/// A program that is not root has the ambient capabilities that its config names.
#[test]
fn cve_2016_8867_ambient_capabilities_are_asked_for() {
    let Some(world) = enter("cve_2016_8867_ambient_capabilities_are_asked_for") else { return };
    let all = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    for (ambient, expected) in [(json!([]), 0_u64), (json!(["CAP_KILL"]), 0x20)] {
        let mut bundle = world.bundle();
        let sets = json!({"bounding": all, "effective": all, "permitted": all, "inheritable": ambient,
            "ambient": ambient});
        bundle.set("/process/capabilities", sets).set("/process/user", json!({"uid": 1000, "gid": 1000}));
        bundle.args(&["cat", "/proc/self/status"]);
        let output = run(&world, &bundle).ok().stdout;
        for set in ["CapAmb", "CapEff", "CapPrm"] {
            assert_eq!(u64::from_str_radix(&status(&output, set), 16).unwrap(), expected, "{set} {ambient}");
        }
        bundle.args(&["sleep", "1000"]);
        let c = world.container(&bundle).started();
        let exec = c.exec(&["--user", "1000"], &["cat", "/proc/self/status"]).ok().stdout;
        assert_eq!(u64::from_str_radix(&status(&exec, "CapAmb"), 16).unwrap(), expected, "exec, {ambient}");
        c.finish();
    }
}

/// The inheritable set stays as the config has it, whatever exec adds (CVE-2022-27650 of crun, CVE-2022-24769 of the
/// engines, CVE-2025-27612 of youki).
#[test]
fn cve_2022_29162_exec_adds_nothing_inheritable() {
    let Some(world) = enter("cve_2022_29162_exec_adds_nothing_inheritable") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let read = |flags: &[&str]| c.exec(flags, &["cat", "/proc/self/status"]).ok().stdout;
    let (plain, more) = (read(&[]), read(&["--cap", "CAP_SYS_TIME", "--cap", "CAP_NET_RAW"]));
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(&plain, set), "0".repeat(16), "{set}");
        assert_eq!(status(&more, set), "0".repeat(16), "{set} with --cap");
    }
    // They were added: to the other sets.
    let bits = |text: &str, set: &str| u64::from_str_radix(&status(text, set), 16).unwrap();
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(bits(&more, set) & !bits(&plain, set), 1 << 25 | 1 << 13, "{set}");
    }
    c.finish();
}

/// Groups of the caller, and of root in the image, are not the program's (CVE-2023-25173 of containerd).
#[test]
fn cve_2023_25173_groups_are_those_of_the_config() {
    let Some(world) = enter("cve_2023_25173_groups_are_those_of_the_config") else { return };
    let wrapper = ["setpriv", "--groups", "4242,4243", "--"];
    for (groups, expected) in [(json!([]), ""), (json!([11, 12]), "11 12")] {
        let mut bundle = world.bundle();
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": groups}));
        bundle.args(&["cat", "/proc/self/status"]);
        let c = world.container(&bundle);
        let output = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
        assert_eq!(status(&output.stdout, "Groups"), expected);
    }
}

/// Maps, arguments and environments larger than 64 KiB: what runc passed to its first stage as netlink attributes, whose
/// length is 16 bits.
#[test]
fn cve_2021_43784_no_length_is_16_bits() {
    let Some(world) = enter("cve_2021_43784_no_length_is_16_bits") else { return };
    let map = |count: u32| -> Value {
        (0..count).map(|at| json!({"containerID": at, "hostID": 100_000 + at, "size": 1})).collect()
    };
    let mut bundle = world.bundle();
    let user = json!({"type": "user"});
    let groups = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.push("/linux/namespaces", user).set("/linux/gidMappings", groups).for_user_namespace(100_000);
    bundle.script("wc -l </proc/self/uid_map");
    // The kernel's limits are 340 lines and a page (user_namespaces(7)); 7000 lines are more than 64 KiB.
    for (count, fits) in [(200, true), (340, false), (341, false), (7000, false)] {
        bundle.set("/linux/uidMappings", map(count));
        let output = run(&world, &bundle);
        if fits {
            assert_eq!(output.ok().stdout, "200\n");
        } else {
            assert_eq!(output.code, 1, "{count} lines");
            let words = if count == 340 { "less than a page" } else { "more than the kernel's 340" };
            assert!(output.error().contains(words), "{}", output.error());
        }
    }
    let mut bundle = world.bundle();
    let long = "x".repeat(100_000);
    bundle.push("/process/env", json!(format!("LONG={long}")));
    bundle.args(&["sh", "-c", "echo ${#LONG} ${#1}; readlink /proc/self/ns/mnt", "sh", &long]);
    let output = run(&world, &bundle).ok().stdout;
    assert!(output.starts_with("100000 100000\n"), "{output}");
    let host = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert!(!output.contains(host.to_str().unwrap()), "the namespaces are the container's");
}

/// What the runtime reads of the image: passwd, for HOME. Bytes of any kind, lines without an end, devices.
#[test]
fn hostile_passwd_files() {
    let Some(world) = enter("hostile_passwd_files") else { return };
    let huge = [b"x:x:1000:".to_vec(), vec![b'9'; 3 << 20]].concat();
    let files: [(&[u8], &str); 9] = [
        (b"u:x:1000:1000::/home/u:/bin/sh", "/home/u"),
        (b"u:x:&000:1000::/evil:\nu:x:1000:1000::/home/u:", "/home/u"),
        (b"u:x:\x001000:1000::/evil:\nu:x:1000:1000::/home/u:", "/home/u"),
        (b"u:x:+1000:1000::/evil:\n", "/"),
        (b"u:x:00000000000000000000001000:1000::/home/zeros:\n", "/home/zeros"),
        (b"u:x:4294968296:1000::/evil:\n", "/"),
        (b"u:x:1000:1000::/a\x00b:\n", "/"),
        (b":::::::::\n\xff\xfe:\xff:\xff\n:", "/"),
        (&huge, "/"),
    ];
    let mut bundle = world.bundle();
    bundle.script("echo $HOME").set("/process/user", json!({"uid": 1000, "gid": 1000}));
    for (bytes, home) in files {
        fs::write(bundle.rootfs("etc/passwd"), bytes).unwrap();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert_eq!(run(&world, &bundle).ok().stdout, format!("{home}\n"), "{shown:?}");
    }
    for words in [["mkfifo", "passwd"].as_slice(), &["mknod", "passwd", "c", "1", "5"], &["mkdir", "passwd"]]
    {
        let _ = fs::remove_file(bundle.rootfs("etc/passwd"));
        let made =
            std::process::Command::new(words[0]).args(&words[1..]).current_dir(bundle.rootfs("etc")).status();
        assert!(made.unwrap().success());
        assert_eq!(run(&world, &bundle).ok().stdout, "/\n", "{words:?}");
    }
}

/// NUL bytes, where a C string would end before what was checked.
#[test]
fn nul_bytes_are_errors() {
    let Some(world) = enter("nul_bytes_are_errors") else { return };
    let text = "/tmp\u{0}/../../etc";
    for (pointer, value) in [
        ("/process/cwd", json!(text)),
        ("/process/args", json!(["sh\u{0}x"])),
        ("/process/env", json!(["A=b\u{0}c"])),
        ("/hostname", json!("a\u{0}b")),
        ("/root/path", json!("rootfs\u{0}x")),
        ("/linux/cgroupsPath", json!("/a\u{0}/..")),
        ("/linux/maskedPaths", json!(["/proc/keys\u{0}x"])),
        ("/linux/readonlyPaths", json!(["/proc/sys\u{0}x"])),
    ] {
        let mut bundle = world.bundle();
        bundle.args(&["true"]).set(pointer, value);
        let output = run(&world, &bundle);
        assert_ne!(output.code, 0, "{pointer}");
        let said = output.error().to_lowercase();
        assert!(said.contains("nul byte") || said.contains("invalid cgroupspath"), "{pointer}: {said}");
    }
    let mut bundle = world.bundle();
    bundle.args(&["true"]).mount("/mnt\u{0}x", "tmpfs", "tmpfs", &[]);
    assert_ne!(run(&world, &bundle).code, 0);
}

/// Unknown capabilities give nothing; runc 1.1.5 agrees.
#[test]
fn capabilities_that_do_not_exist_give_nothing() {
    let Some(world) = enter("capabilities_that_do_not_exist_give_nothing") else { return };
    let odd = json!(["CAP_ALL", "ALL", "CAP_", "", "CAP_KILL ", "21", "0xffffffff", "cap_sys_admin\n"]);
    let mut bundle = world.bundle();
    let sets =
        json!({"bounding": odd, "effective": odd, "permitted": odd, "inheritable": odd, "ambient": odd});
    bundle.set("/process/capabilities", sets).args(&["cat", "/proc/self/status"]);
    let output = run(&world, &bundle);
    if output.code == 0 {
        for set in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status(&output.stdout, set), "0".repeat(16), "{set}");
        }
    }
    if has_old_runc() {
        let runc = run_by_old_runc(&world, &bundle).unwrap();
        assert_eq!(output.code, runc.code, "{}", runc.error());
    }
}
