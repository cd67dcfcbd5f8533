//! The state directory, ids, annotations, hooks: what comes from beside the image.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::{Duration, Instant};

use davit_tests::{World, host, unique, wait_until, write_program};
use serde_json::json;

use crate::support::{Canary, enter, run};

/// CVE-2021-41103 and CVE-2024-25621 of containerd are modes of such directories.
#[test]
fn cve_2021_41103_modes_of_the_state_directory() {
    let Some(world) = enter("cve_2021_41103_modes_of_the_state_directory") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    fs::remove_dir(world.root()).unwrap();
    let c = world.container(&bundle);
    // Whatever the caller's umask is.
    let wrapper = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    c.call("create", &[], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    let mode = |path: std::path::PathBuf| fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
    let dir = world.root().join(&c.id);
    assert_eq!(mode(world.root()), 0o700);
    assert_eq!(mode(dir.clone()), 0o711);
    assert_eq!(mode(dir.join("state.json")), 0o600);
    assert_eq!(mode(dir.join("exec.fifo")), 0o622);
    c.finish();
}

/// Ids are one component: no path, no option, no byte that a shell or a log would take for something else.
#[test]
fn ids_are_one_component() {
    let Some(world) = enter("ids_are_one_component") else { return };
    let canary = Canary::new(&world, "canary");
    assert!(world.root().join("../canary/secret").exists(), "that is where the id would lead");
    let long = "x".repeat(1025);
    for id in [
        "..",
        ".",
        "../canary",
        "a/b",
        "/etc",
        "a\nb",
        "a b",
        "a\u{1b}[2J",
        "ä",
        "a%2fb",
        "$(id)",
        "a;b",
        "",
        &long,
    ] {
        let mut bundle = world.bundle();
        bundle.args(&["true"]).write();
        for command in ["create", "run", "delete", "state", "kill", "exec"] {
            let mut words = vec![command, "--", id];
            if command == "exec" {
                words.push("true");
            }
            let output = world.call(&words).dir(bundle.dir()).run();
            assert_ne!(output.code, 0, "{command} {id:?}");
        }
        let force = world.call(&["delete", "--force", "--", id]).dir(bundle.dir()).run();
        assert_ne!(force.code, 0, "delete --force {id:?}");
    }
    canary.assert_untouched();
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 0);
}

/// Another user has written what is in the state directory, or links lie in it: nothing is believed, followed or
/// removed.
#[test]
fn a_foreign_state_is_refused() {
    let Some(world) = enter("a_foreign_state_is_refused") else { return };
    let canary = Canary::new(&world, "canary");
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    // Of another owner, and it names a process of the host as init.
    let file = world.root().join(&c.id).join("state.json");
    let good = fs::read_to_string(&file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let start: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&good).unwrap();
    state["init_process_pid"] = json!(victim.id());
    state["init_process_start"] = json!(start);
    fs::write(&file, state.to_string()).unwrap();
    chown(&file, Some(1000), Some(1000)).unwrap();
    for words in [
        ["state", &c.id].as_slice(),
        &["kill", &c.id, "KILL"],
        &["delete", "--force", &c.id],
        &["exec", &c.id, "true"],
    ] {
        let output = world.call(words).run();
        assert!(output.error().contains("is owned by uid 1000: refused"), "{words:?}: {}", output.error());
    }
    assert!(host::is_alive(i32::try_from(victim.id()).unwrap()));
    // The forged state does work when root has written it: the check of the owner is what refuses it.
    chown(&file, Some(0), Some(0)).unwrap();
    world.call(&["kill", &c.id, "KILL"]).run().ok();
    assert!(!victim.wait().unwrap().success());
    fs::write(&file, &good).unwrap();
    // A link in its place, to a file that is as good.
    let elsewhere = world.path("elsewhere.json");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    c.simple("state").fails(1, "too many symbolic links");
    fs::remove_file(&file).unwrap();
    fs::rename(&elsewhere, &file).unwrap();
    // Links beside it: delete removes the links and follows none.
    symlink(canary.path(), world.root().join(&c.id).join("link")).unwrap();
    fs::create_dir(world.root().join(&c.id).join("dir")).unwrap();
    symlink(canary.path(), world.root().join(&c.id).join("dir/link")).unwrap();
    c.finish();
    // A whole directory that is a link.
    symlink(canary.path(), world.root().join("linked")).unwrap();
    for words in [["state", "linked"].as_slice(), &["kill", "linked", "KILL"], &["create", "linked"]] {
        assert_ne!(world.call(words).dir(bundle.dir()).run().code, 0, "{words:?}");
    }
    world.call(&["delete", "--force", "linked"]).run();
    canary.assert_untouched();
}

/// Annotations come from images and users by way of the engines: they change nothing that is not listed as unsafe in
/// `davit features` (crun 1.28: options of a mount, a sub-cgroup with `..`).
#[test]
fn crun_1_28_annotations_are_hostile() {
    let Some(world) = enter("crun_1_28_annotations_are_hostile") else { return };
    let canary = Canary::new(&world, "canary");
    let unsafe_ones = world.call(&["features"]).run().ok().json();
    let listed: Vec<String> = unsafe_ones["potentiallyUnsafeConfigAnnotations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let secret = canary.path().join("secret");
    let secret = secret.to_str().unwrap();
    let values =
        ["../../../etc", secret, "rw,suid,dev,context=x", "1\n2", "", "{}", "true", "-1", "\u{1b}]0;x"];
    let names = [
        "run.oci.mount_context_type",
        "run.oci.systemd.subgroup",
        "run.oci.delegate-cgroup",
        "run.oci.handler",
        "run.oci.keep_original_groups",
        "run.oci.seccomp.plugins",
        "run.oci.seccomp.receiver",
        "run.oci.timens_offset",
        "run.oci.seccomp_bpf_data",
        "run.oci.mountcontext",
        "module.wasm.image/variant",
        "io.kubernetes.cri.sandbox-id",
        "org.criu.config",
        "io.github.davit.landlock",
        "io.containerd.davit.v2.exec-kill",
        "bundle",
        "bundle=/etc",
        "=",
        "a=b",
    ];
    let shown = "id; grep -c . /proc/self/mountinfo; cat /proc/self/cgroup /proc/self/uid_map; grep -E '^(Cap|NoNew|Seccomp|Groups)' /proc/self/status";
    let mut bundle = world.bundle();
    bundle.script(shown);
    // Without a hierarchy that it has no cgroup in: somebody else may mount one at any time.
    let same = |text: &str| {
        let lines = text.lines().filter(|line| !line.ends_with(":/"));
        lines.map(|line| line.replace(|c: char| c.is_ascii_digit(), "")).collect::<Vec<_>>().join("\n")
    };
    let plain = same(&run(&world, &bundle).ok().stdout);
    for name in names {
        if listed.iter().any(|unsafe_one| name.starts_with(unsafe_one.as_str())) {
            continue;
        }
        for value in values {
            let mut bundle = world.bundle();
            bundle.script(shown).set("/annotations", json!({name: value}));
            let output = run(&world, &bundle);
            if output.code == 0 {
                assert_eq!(same(&output.stdout), plain, "{name}={value:?}");
            }
        }
    }
    // One that names a file appends to it, and is listed for that.
    for name in ["run.oci.hooks.stdout", "run.oci.hooks.stderr", "run.oci.pidfd_receiver"] {
        assert!(
            listed.iter().any(|unsafe_one| name.starts_with(unsafe_one.as_str())),
            "{name} is not in {listed:?}"
        );
    }
    // It follows no link.
    let link = world.path("link");
    symlink(secret, &link).unwrap();
    let mut bundle = world.bundle();
    bundle
        .args(&["true"])
        .set("/annotations", json!({"run.oci.hooks.stdout": link}))
        .set("/hooks", json!({"createRuntime": [{"path": "/bin/echo", "args": ["echo", "x"]}]}));
    assert_ne!(run(&world, &bundle).code, 0);
    canary.assert_untouched();
}

/// A hook's process can not be kept, held or hidden by what it starts; one that never ends is ended with its group.
#[test]
fn hooks_end_in_time_with_all_they_started() {
    let Some(world) = enter("hooks_end_in_time_with_all_they_started") else { return };
    // On a machine that is busy the hook needs more time until both its children are there.
    assert!([1, 5, 15].into_iter().any(|timeout| times_out(&world, timeout)), "the hook started nothing");
}

/// Runs such a hook. False when it was ended before it had started both its children.
fn times_out(world: &World, timeout: i32) -> bool {
    let dir = world.path(&unique("pids"));
    fs::create_dir(&dir).unwrap();
    // A child in a process group of its own keeps the hook's pipes open: the runtime does not wait for it.
    let child = |name: &str| format!("sh -c 'echo $$ >{}/{name}; exec sleep 100' &", dir.display());
    let script = format!("setsid {} {} exec sleep 100", child("outside"), child("inside"));
    let mut bundle = world.bundle();
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": timeout});
    bundle.args(&["true"]).set("/hooks", json!({"createRuntime": [hook]}));
    let start = Instant::now();
    run(world, &bundle).fails(1, &format!("timed out after {timeout} s"));
    assert!(start.elapsed() < Duration::from_secs(60));
    let pid = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<i32>().ok();
    let (outside, inside) = (pid("outside"), pid("inside"));
    if let Some(outside) = outside {
        // The one that left the group and the session is nobody's; the test made it.
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(outside), nix::sys::signal::Signal::SIGKILL);
    }
    if let Some(inside) = inside {
        // It got the signal, and dies when it gets a processor.
        wait_until("the end of the hook's group", || !host::is_alive(inside));
    }
    outside.is_some() && inside.is_some()
}

/// createContainer hooks are the host's programs, looked up on the host: what the image has at their path does not run.
#[test]
fn hooks_of_the_host_are_not_the_images() {
    let Some(world) = enter("hooks_of_the_host_are_not_the_images") else { return };
    let (own, evil) = (world.path("hook"), world.path("evil"));
    write_program(&own, &format!("#!/bin/sh\necho host >>{}\n", world.path("ran").display()));
    let mut bundle = world.bundle();
    let inside = bundle.rootfs(own.to_str().unwrap());
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    write_program(&inside, &format!("#!/bin/sh\ntouch {}\n", evil.display()));
    let hook = json!([{"path": own}]);
    bundle
        .args(&["true"])
        .set("/hooks", json!({"createRuntime": hook, "createContainer": hook, "poststop": hook}));
    run(&world, &bundle).ok();
    assert!(!evil.exists());
    assert_eq!(fs::read_to_string(world.path("ran")).unwrap(), "host\nhost\nhost\n");
}

/// The pid file, the log and the process file are the caller's; a link at the temporary name is replaced, not followed.
#[test]
fn temporary_files_follow_no_link() {
    let Some(world) = enter("temporary_files_follow_no_link") else { return };
    let canary = Canary::new(&world, "canary");
    let dir = world.path("pids");
    fs::create_dir(&dir).unwrap();
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    for name in [".pid", "pid"] {
        symlink(canary.path().join("secret"), dir.join(name)).unwrap();
    }
    c.create(&["--pid-file", dir.join("pid").to_str().unwrap()]).ok();
    canary.assert_untouched();
    let written = fs::symlink_metadata(dir.join("pid")).unwrap();
    assert!(written.is_file() && written.uid() == 0);
    // The state's own temporary file.
    let temporary = world.root().join(&c.id).join(".state.json");
    symlink(canary.path().join("secret"), &temporary).unwrap();
    c.simple("start").ok();
    wait_until("running", || c.status() == "running");
    c.finish();
    canary.assert_untouched();
}

/// crun #2262: `/` is bound while a namespace file is mounted below it. A source is what its path was on the host, or
/// the mount fails; another source is never taken.
#[test]
fn crun_2262_binds_have_the_source_they_name() {
    let Some(world) = enter("crun_2262_binds_have_the_source_they_name") else { return };
    let pinned = world.path("pinned");
    fs::write(&pinned, "").unwrap();
    let none = None::<&str>;
    nix::mount::mount(Some("/proc/self/ns/net"), &pinned, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
    let canary = Canary::new(&world, "canary");
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "bind", "/", &["rbind", "ro"]);
    bundle.script(&format!("cat /mnt{}/secret; grep -c ' / /mnt ' /proc/self/mountinfo", canary.text()));
    let output = run(&world, &bundle);
    nix::mount::umount2(&pinned, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(output.ok().stdout, format!("{}\n1\n", crate::support::SECRET));
    canary.assert_untouched();
}

/// Long lists of masked paths are cheap, so that engines can hide more (moby GHSA-6fw5-f8r9-fgfm): one superblock for
/// all directories, and no path that is missing is made.
#[test]
fn moby_ghsa_6fw5_many_masks_are_cheap() {
    let Some(world) = enter("moby_ghsa_6fw5_many_masks_are_cheap") else { return };
    let mut bundle = world.bundle();
    let mut paths: Vec<String> = (0..40).map(|at| format!("/tmp/d{at}")).collect();
    for path in &paths {
        fs::create_dir(bundle.rootfs(path)).unwrap();
        fs::write(bundle.rootfs(path).join("hidden"), "").unwrap();
    }
    paths.extend((0..200).map(|at| format!("/sys/devices/virtual/powercap/missing{at}")));
    bundle.set("/linux/maskedPaths", json!(paths));
    bundle.script("ls /tmp/d* | grep -c hidden; awk '$5 ~ \"^/tmp/d\" {print $3}' /proc/self/mountinfo | sort -u | wc -l");
    assert_eq!(run(&world, &bundle).ok().stdout, "0\n1\n");
}
