//! Flags, each with the effect that it has: global ones, those of crun, and those that no other file is about.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use davit_tests::tty::ConsoleSocket;
use davit_tests::{Call, Container, Output, View, World, skip};
use serde_json::json;

/// For flags that runc does not have.
fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() { skip(test, "runc has no such flag") } else { Some(world) }
}

#[test]
fn version_in_all_spellings() {
    let Some(world) = enter("version_in_all_spellings") else { return };
    for flag in ["--version", "-v", "-V"] {
        let out = world.call(&[flag]).without_log().run().ok().stdout;
        let lines: Vec<&str> = out.lines().collect();
        // dockerd reads the first two lines.
        assert!(lines[0].starts_with("davit version ") && lines[1].starts_with("commit: "), "{flag}: {out}");
        assert_eq!(lines[2], "spec: 1.3.0");
    }
}

/// A call in a private mount namespace where a directory has only this socket in it.
fn with_socket<'w>(call: Call<'w>, world: &World, dir: &str, name: &str) -> (UnixDatagram, Call<'w>) {
    let path = world.path(&davit_tests::unique("socket"));
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let script = format!(
        "mount -t tmpfs none {dir} && mkdir -p $(dirname {dir}/{name}) && : > {dir}/{name} && \
         mount --bind {} {dir}/{name} && exec \"$@\"",
        path.display()
    );
    (socket, call.wrapper(&["unshare", "-m", "sh", "-c", &script, "sh"]))
}

fn received(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).expect("a message");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn the_log_goes_to_files_journald_and_syslog() {
    let Some(world) = enter("the_log_goes_to_files_journald_and_syslog") else { return };
    let sentence = "container does not exist";
    let file = format!("file:{}", world.path("log").display());
    let call = world.call(&["--log", &file, "state", "nobody"]).without_log().run().exits(1);
    assert_eq!(call.stderr.trim_end(), sentence);
    assert!(fs::read_to_string(world.path("log")).unwrap().contains(sentence));

    let call = world.call(&["--log", "journald:box", "state", "nobody"]).without_log();
    let (socket, call) = with_socket(call, &world, "/run", "systemd/journal/socket");
    assert_eq!(call.run().exits(1).stderr.trim_end(), sentence);
    assert_eq!(received(&socket), format!("MESSAGE={sentence}\nPRIORITY=3\nSYSLOG_IDENTIFIER=box\n"));

    let call = world.call(&["--log=syslog:box", "--criu", "x", "state", "nobody"]).without_log();
    let (socket, call) = with_socket(call, &world, "/dev", "log");
    assert_eq!(call.run().exits(1).stderr.trim_end(), sentence);
    let (warning, error) = (received(&socket), received(&socket));
    assert!(warning.starts_with("<12>box[") && warning.contains("]: --criu is ignored"), "{warning}");
    assert!(error.starts_with("<11>box[") && error.ends_with(&format!("]: {sentence}")), "{error}");

    let fails = |log: &str, text: &str| {
        let call = world.call(&["--log", log, "list"]).without_log().run().exits(1);
        assert!(call.stderr.contains(text), "{log}: {}", call.stderr);
    };
    fails("journald:", "--log journald: needs an identifier, journald:ID");
    let no_log = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"];
    let call = world.call(&["--log", "syslog:x", "list"]).without_log().wrapper(&no_log).run().exits(1);
    assert!(call.stderr.contains("open /dev/log: no such file or directory"), "{}", call.stderr);
}

#[test]
fn log_level_chooses_what_is_logged() {
    let Some(world) = enter("log_level_chooses_what_is_logged") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    // --criu gives a warning, the steps are debug messages.
    let levels = |flags: &[&str]| {
        let words = [flags, &["--criu", "x", "run", "-b", dir, c.id.as_str()]].concat();
        let stderr = world.call(&words).without_log().run().ok().stderr;
        (stderr.contains("level=warning"), stderr.contains("level=debug"))
    };
    assert_eq!(levels(&[]), (true, false));
    assert_eq!(levels(&["--log-level", "error"]), (false, false));
    assert_eq!(levels(&["--log-level=warning"]), (true, false));
    assert_eq!(levels(&["--log-level=debug"]), (true, true));
    assert_eq!(levels(&["--debug"]), (true, true));
    assert_eq!(levels(&["--debug", "--log-level=error"]), (true, true));
    let call = world.call(&["--log-level", "loud", "list"]).without_log().run().exits(1);
    assert!(call.stderr.contains("invalid log-level: \"loud\""), "{}", call.stderr);
    c.assert_nothing_left();
}

#[test]
fn cgroup_manager_by_name() {
    let Some(world) = enter("cgroup_manager_by_name") else { return };
    let fails = |words: &[&str], text: &str| {
        let call = world.call(words).without_log().run().exits(1);
        assert!(call.stderr.contains(text), "{words:?}: {}", call.stderr);
    };
    fails(&["--cgroup-manager", "x", "list"], "invalid --cgroup-manager value \"x\"");
    fails(&["--systemd-cgroup", "--cgroup-manager=disabled", "list"], "contradicts --cgroup-manager");
    let mut bundle = world.bundle();
    bundle.args(&["cat", "/proc/self/cgroup"]);
    let c = world.container(&bundle);
    let dir = bundle.dir().to_str().unwrap();
    let call = world.call(&["--cgroup-manager", "cgroupfs", "run", "-b", dir, &c.id]).run().ok();
    assert!(call.stdout.contains(&c.id), "{}", call.stdout);
    c.assert_nothing_left();
}

#[test]
fn cgroup_manager_disabled_leaves_the_container_in_the_callers_cgroup() {
    let test = "cgroup_manager_disabled_leaves_the_container_in_the_callers_cgroup";
    let Some(world) = enter(test) else { return };
    for view in [View::Host, View::PureV2] {
        let mut bundle = world.bundle();
        bundle.script("cat /proc/self/cgroup > /cgroup; ls -d /sys/fs/cgroup; exec sleep 1000");
        bundle.set("/root/readonly", json!(false)).set("/linux/resources/pids/limit", json!(77));
        let mut c = world.container(&bundle);
        c.view = view;
        let dir = bundle.dir().to_str().unwrap();
        let flags = ["--cgroup-manager", "disabled"];
        let words = [&flags[..], &["run", "-d", "-b", dir, &c.id]].concat();
        let run = world.call(&words).view(view).run().ok();
        assert!(run.log.contains("linux.resources is ignored: cgroups are disabled"), "{}", run.log);
        let file = bundle.rootfs("cgroup");
        davit_tests::wait_until("the cgroup file", || {
            fs::read_to_string(&file).is_ok_and(|t| t.contains("0::"))
        });
        let inside = fs::read_to_string(&file).unwrap();
        assert!(!inside.contains(&c.id), "{view:?}: {inside}");
        assert!(davit_tests::host::cgroups_named(&c.id).is_empty());
        assert_eq!(c.status(), "running");
        assert_eq!(c.exec(&[], &["echo", "in"]).ok().stdout, "in\n");
        c.call("pause", &[], &[]).run().exits(1);
        // Nothing but the init is known to be of the container: it takes the others of its pid namespace along.
        c.stop();
        c.finish();
    }
}

#[test]
fn config_names_another_file() {
    let Some(world) = enter("config_names_another_file") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).push("/process/env", json!("FROM=other"));
    let c = world.container(&bundle);
    let other = world.path("other.json");
    fs::rename(bundle.dir().join("config.json"), &other).unwrap();
    c.create(&["--config", other.to_str().unwrap()]).ok();
    c.simple("start").ok();
    // exec reads the same file.
    assert_eq!(c.sh("echo $FROM"), "other");
    c.finish();
    // Relative to the working directory, not to the bundle, as in crun.
    bundle.args(&["echo", "short"]);
    let c = world.container(&bundle);
    fs::rename(bundle.dir().join("config.json"), &other).unwrap();
    let dir = bundle.dir().to_str().unwrap();
    let run = c.call("run", &["-b", dir, "-f", "other.json"], &[]).dir(&world.path("")).run().ok();
    assert_eq!(run.stdout, "short\n");
    c.assert_nothing_left();
    c.call("run", &["-b", dir, "--config", "nosuch.json"], &[]).run().fails(1, "nosuch.json");
}

#[test]
fn spec_writes_to_a_named_file() {
    let Some(world) = enter("spec_writes_to_a_named_file") else { return };
    let dir = world.path("bundle");
    fs::create_dir(&dir).unwrap();
    world.call(&["spec", "--file", "one.json"]).dir(&dir).run().ok();
    world.call(&["spec", "-b", dir.to_str().unwrap(), "-f", "two.json"]).run().ok();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert!(read("one.json").contains("ociVersion") && read("one.json") == read("two.json"));
    let text = "File one.json exists. Remove it first";
    world.call(&["spec", "--file", "one.json"]).dir(&dir).run().fails(1, text);
}

/// The pid that a pidfd stands for.
fn pid_of(fd: &OwnedFd) -> i32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd");
    pid.trim().parse().unwrap()
}

#[test]
fn pidfd_socket_gets_a_pidfd() {
    let Some(world) = enter("pidfd_socket_gets_a_pidfd") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    for (command, flags) in [("create", &[][..]), ("run", &["--detach"])] {
        let path = world.path(&format!("{command}.socket"));
        let listener = ConsoleSocket::bind(&path);
        let c = world.container(&bundle);
        let flags = [flags, &["--pidfd-socket", path.to_str().unwrap()]].concat();
        c.call(command, &flags, &[]).dir(bundle.dir()).run().ok();
        assert_eq!(pid_of(&listener.receive().0), c.pid(), "{command}");
        if command == "create" {
            c.simple("start").ok();
        }
        let path = world.path(&format!("{command}-exec.socket"));
        let listener = ConsoleSocket::bind(&path);
        let pid_file = world.path("exec.pid");
        let flags =
            ["-d", "--pidfd-socket", path.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap()];
        c.exec(&flags, &["sleep", "1000"]).ok();
        assert_eq!(pid_of(&listener.receive().0).to_string(), fs::read_to_string(&pid_file).unwrap());
        c.finish();
    }
}

#[test]
fn preserved_descriptors_of_create() {
    let Some(world) = World::enter("preserved_descriptors_of_create") else { return };
    let mut bundle = world.bundle();
    bundle.script("cat <&3");
    let c = world.container(&bundle);
    let wrapper = ["sh", "-c", "exec \"$@\" 3<<E\nthree\nE\n", "sh"];
    let create =
        c.call("create", &["--preserve-fds", "1"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    c.simple("start").ok();
    c.wait_for("stopped");
    assert_eq!(create.stdout_now(), "three\n");
    c.finish();
}

#[test]
fn no_new_keyring_keeps_the_callers() {
    let test = "no_new_keyring_keeps_the_callers";
    let Some(world) = World::enter(test) else { return };
    if !Path::new("/proc/keys").exists() {
        skip::<()>(test, "no /proc/keys");
        return;
    }
    // The keyring is named after the container; other containers of root's are in the list too.
    let container = || {
        let mut bundle = world.bundle();
        bundle.set("/linux/maskedPaths", json!([])).args(&["cat", "/proc/keys"]);
        world.container(&bundle)
    };
    let keyring = |c: &Container<'_>, keys: &str| keys.contains(&format!("_ses.{}", c.id));
    for (flags, joined) in [(&[][..], true), (&["--no-new-keyring"], false)] {
        let c = container();
        assert_eq!(keyring(&c, &c.run(flags).ok().stdout), joined, "run {flags:?}");
        c.assert_nothing_left();
        let c = container();
        let create = c.create(flags).ok();
        c.simple("start").ok();
        c.wait_for("stopped");
        assert_eq!(keyring(&c, &create.stdout_now()), joined, "create {flags:?}");
        c.finish();
    }
}

fn warns(out: &Output, flag: &str) {
    assert!(out.log.contains("\"level\":\"warning\"") && out.log.contains(flag), "{flag}: {}", out.log);
}

#[test]
fn flags_without_a_meaning_are_taken_with_a_warning() {
    let Some(world) = enter("flags_without_a_meaning_are_taken_with_a_warning") else { return };
    warns(&world.call(&["--criu", "/x", "list"]).run().ok(), "--criu");
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    warns(&c.create(&["--no-subreaper"]).ok(), "--no-subreaper");
    warns(&c.exec(&["--no-subreaper"], &["true"]).ok(), "--no-subreaper");
    c.finish();
}

#[test]
fn labels_without_their_module_are_errors() {
    let Some(world) = enter("labels_without_their_module_are_errors") else { return };
    if Path::new("/sys/kernel/security/apparmor").exists() || Path::new("/sys/fs/selinux/enforce").exists() {
        skip::<()>("labels_without_their_module_are_errors", "this kernel runs AppArmor or SELinux");
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    c.exec(&["--apparmor", "profile"], &["true"]).fails(255, "apparmor");
    c.exec(&["--process-label", "system_u:system_r:container_t:s0"], &["true"]).fails(255, "selinux");
    c.finish();
}
