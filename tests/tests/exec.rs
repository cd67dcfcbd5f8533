//! `exec` and its flags.

use std::fs;

use davit_tests::{Bundle, Container, World, host, wait_until};
use serde_json::json;

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    bundle
}

#[test]
fn exit_codes_and_output() {
    let Some(world) = World::enter("exec::exit_codes_and_output") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    for code in [0, 1, 7, 126, 127, 255] {
        c.exec(&[], &["sh", "-c", &format!("exit {code}")]).exits(code);
    }
    c.exec(&[], &["sh", "-c", "kill -KILL $$"]).exits(128 + 9);
    c.exec(&[], &["sh", "-c", "kill -TERM $$"]).exits(128 + 15);
    let output = c.exec(&[], &["sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let input = c.call("exec", &[], &["cat"]).stdin(b"typed\0\xff").run().ok();
    assert_eq!(input.stdout, "typed\0\u{fffd}");
    c.finish();
}

#[test]
fn a_created_container_takes_execs() {
    let Some(world) = World::enter("exec::a_created_container_takes_execs") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert_eq!(c.sh("echo hi"), "hi");
    assert_eq!(c.status(), "created");
    c.finish();
}

#[test]
fn programs_that_can_not_run() {
    let Some(world) = World::enter("exec::programs_that_can_not_run") else { return };
    let bundle = sleeping(&world);
    fs::write(bundle.rootfs("tmp/plain"), "data").unwrap();
    let c = world.container(&bundle).started();
    c.exec(&[], &["nosuch"]).fails(255, "exec: \"nosuch\": executable file not found in $PATH");
    c.exec(&[], &["/nosuch"]).fails(255, "exec: \"/nosuch\": stat /nosuch: no such file or directory");
    c.exec(&[], &["/tmp/plain"]).fails(255, "exec: \"/tmp/plain\": permission denied");
    // Newer Go tells EISDIR from EACCES.
    let words = if world.is_runc() { "permission denied" } else { "exec: \"/\": is a directory" };
    c.exec(&[], &["/"]).fails(255, words);
    c.exec(&[], &[]).fails(255, "process args cannot be empty");
    assert_eq!(c.status(), "running");
    c.finish();
}

#[test]
fn flags_change_the_process() {
    let Some(world) = World::enter("exec::flags_change_the_process") else { return };
    let mut bundle = sleeping(&world);
    bundle.push("/process/env", json!("FROM=config"));
    let c = world.container(&bundle).started();
    let out =
        |flags: &[&str], script: &str| c.exec(flags, &["sh", "-c", script]).ok().stdout.trim_end().to_owned();

    assert_eq!(out(&[], "echo $FROM; pwd"), "config\n/");
    assert_eq!(out(&["-e", "FROM=flag", "-e", "B=x y"], "echo $FROM $B"), "flag x y");
    assert_eq!(out(&["--cwd", "/tmp"], "pwd"), "/tmp");
    assert_eq!(out(&["-u", "1000"], "id -u; id -g; echo $HOME"), "1000\n0\n/home/user");
    assert_eq!(
        out(&["--user", "1000:1001", "-g", "5", "-g", "6"], "id -u; id -g; id -G"),
        "1000\n1001\n1001 5 6"
    );
    assert_eq!(out(&["--user=65534:65534"], "id -u; echo $HOME"), "65534\n/");
    assert_eq!(out(&[], "grep NoNewPrivs /proc/self/status | tr -d '\\t'"), "NoNewPrivs:1");
    assert_eq!(
        out(&["--no-new-privs=false"], "grep NoNewPrivs /proc/self/status | tr -d '\\t'"),
        "NoNewPrivs:0"
    );
    c.exec(&["--cwd", "relative"], &["true"]).fails(255, "Cwd must be an absolute path");
    c.exec(&["--env", "NOVALUE"], &["true"]).fails(255, "invalid environment variable");
    // urfave/cli leaves the words after the id alone.
    assert_eq!(c.exec(&[], &["echo", "-n", "-e", "--env", "A=1"]).ok().stdout, "--env A=1");
    c.finish();
}

#[test]
fn cve_2026_30892_a_wrong_user_is_refused() {
    let Some(world) = World::enter("exec::cve_2026_30892_a_wrong_user_is_refused") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let mut wrong = vec!["1:", ":1", "0x1", " 1", "1:2:3", "root", "1 "];
    if !world.is_runc() {
        // runc 1.1 takes these for 0 or cuts them to 32 bits.
        wrong.extend(["", "-1", "+1", "4294967295", "4294967296"]);
    }
    for user in wrong {
        let call = c.call("exec", &[&format!("--user={user}")], &["id", "-u"]).run();
        assert_eq!((call.code, call.stdout.as_str()), (255, ""), "--user={user:?}");
    }
    c.finish();
}

fn capability_sets(c: &Container<'_>, flags: &[&str]) -> [u64; 5] {
    let status = c.exec(flags, &["cat", "/proc/self/status"]).ok().stdout;
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

#[test]
fn cve_2022_29162_added_capabilities_are_not_inheritable() {
    let Some(world) = World::enter("exec::cve_2022_29162_added_capabilities_are_not_inheritable") else {
        return;
    };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    // CAP_AUDIT_WRITE 29, CAP_KILL 5, CAP_NET_BIND_SERVICE 10
    let base = 1 << 29 | 1 << 5 | 1 << 10;
    assert_eq!(capability_sets(&c, &[]), [0, base, base, base, 0]);
    let added = base | 1 << 21;
    assert_eq!(capability_sets(&c, &["--cap", "CAP_SYS_ADMIN"]), [0, added, added, added, 0]);
    // A user other than root has only ambient capabilities after execve.
    assert_eq!(capability_sets(&c, &["-u", "1000"]), [0, 0, 0, base, 0]);
    c.finish();
}

#[test]
fn process_json_replaces_the_flags() {
    let Some(world) = World::enter("exec::process_json_replaces_the_flags") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let file = world.path("process.json");
    let process = json!({
        "terminal": false,
        "user": {"uid": 1000, "gid": 1000},
        "args": ["sh", "-c", "id -u; pwd; echo $X; ulimit -n"],
        "env": ["PATH=/bin", "X=y"],
        "cwd": "/tmp",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}],
    });
    fs::write(&file, process.to_string()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(c.exec(&["--process", file], &[]).ok().stdout, "1000\n/tmp\ny\n77\n");

    fs::write(file, "{\"args\": [").unwrap();
    let broken = c.exec(&["-p", file], &[]);
    assert_eq!(broken.code, 255);
    if !world.is_runc() {
        broken.fails(255, "line 1 column 10");
    }
    c.exec(&["-p", "/nosuch.json"], &[]).fails(255, "open /nosuch.json: no such file or directory");
    c.finish();
}

#[test]
fn detached_with_a_pid_file() {
    let Some(world) = World::enter("exec::detached_with_a_pid_file") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let pid_file = world.path("pid");
    c.exec(&["--detach", "--pid-file", pid_file.to_str().unwrap()], &["sleep", "1001"]).ok();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    wait_until("its command line", || host::command_line(pid) == "sleep\x001001\0");
    assert!(host::processes_in_cgroup(&c.id).contains(&pid), "it is in the container's cgroup");
    c.finish();
    assert!(!host::is_alive(pid), "it ends with the container");
}

#[test]
fn paused_containers_take_execs_on_demand() {
    let Some(world) = World::enter("exec::paused_containers_take_execs_on_demand") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    c.simple("pause").ok();
    let exec = c.call("exec", &["--ignore-paused"], &["echo", "thawed"]).spawn();
    wait_until("a second process in the frozen cgroup", || host::processes_in_cgroup(&c.id).len() > 1);
    assert_eq!(exec.stdout(), "");
    c.simple("resume").ok();
    assert_eq!(exec.wait().ok().stdout, "thawed\n");
    c.finish();
}

#[test]
fn signals_are_forwarded() {
    let Some(world) = World::enter("exec::signals_are_forwarded") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let script = "trap 'exit 42' TERM; echo ready; while true; do sleep 0.01; done";
    let exec = c.call("exec", &[], &["sh", "-c", script]).spawn();
    wait_until("the trap", || exec.stdout() == "ready\n");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(exec.pid()), nix::sys::signal::SIGTERM).unwrap();
    exec.wait().exits(42);
    c.finish();
}

#[test]
fn a_sub_cgroup_is_joined() {
    let Some(world) = World::enter("exec::a_sub_cgroup_is_joined") else { return };
    if !host::has_v1() {
        davit_tests::skip::<()>("exec::a_sub_cgroup_is_joined", "no cgroup v1 hierarchy");
        return;
    }
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let own = host::v1_path(&c.pid().to_string(), "pids").unwrap();
    let sub = format!("/sys/fs/cgroup/pids{own}/sub");
    fs::create_dir(&sub).unwrap();
    let cgroup = |flags: &[&str]| {
        let text = c.exec(flags, &["cat", "/proc/self/cgroup"]).ok().stdout;
        let line = text.lines().find(|line| line.contains(":pids:")).unwrap().to_owned();
        line.rsplit(':').next().unwrap().to_owned()
    };
    assert_eq!(cgroup(&[]), own);
    assert_eq!(cgroup(&["--cgroup", "pids:sub"]), format!("{own}/sub"));
    assert_eq!(c.exec(&["--cgroup", "pids:nosuch"], &["true"]).code, 255);
    assert_eq!(c.exec(&["--cgroup", "../.."], &["true"]).code, 255, "the container's cgroup is the limit");
    c.finish();
}

#[test]
fn preserved_descriptors_reach_the_process() {
    let Some(world) = World::enter("exec::preserved_descriptors_reach_the_process") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let wrapper = ["sh", "-c", "exec \"$@\" 3</etc/hostname 4<<E\nfour\nE\n", "sh"];
    let ls = ["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; cat <&4"];
    // ls has the directory open as the next free number.
    let with = c.call("exec", &["--preserve-fds", "2"], &ls).wrapper(&wrapper).run().ok();
    assert_eq!(with.stdout, "0 1 2 3 4 5 four\n");
    let without =
        c.call("exec", &[], &["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]).wrapper(&wrapper).run().ok();
    assert_eq!(without.stdout, "0 1 2 3 ");
    c.call("exec", &["--preserve-fds", "9"], &ls).wrapper(&wrapper).run().fails(255, "preserve");
    c.finish();
}

#[test]
fn exec_makes_no_working_directory() {
    let Some(world) = World::enter("exec_makes_no_working_directory") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let c = world.container(&bundle).started();
    let output = c.exec(&["--cwd", "/no/such"], &["true"]);
    output.fails(255, "chdir to cwd (\"/no/such\") set in config.json failed: no such file or directory");
    assert!(!bundle.rootfs("no").exists());
    c.finish();
}
