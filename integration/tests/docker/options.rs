//! What `docker run`'s options do in the container, with davit and with runc under the same daemon; and some of them by
//! themselves, for each way to our programs.

use std::fs;

use davit_integration::docker::{Docker, IMAGE, Through};
use davit_integration::poll;

/// Options, and a script whose output shows what they did. `@VOL` is a folder of the host's with a file in it,
/// `@SECCOMP` a profile in which mkdir is not there.
const OPTIONS: &[(&str, &str)] = &[
    ("--cap-drop all", "grep Cap /proc/self/status"),
    ("--cap-add SYS_ADMIN --cap-drop MKNOD --user 1000", "grep Cap /proc/self/status"),
    ("--privileged", "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ls /dev | grep -v tty | wc -l"),
    // Not of /sys/fs/cgroup, whose tmpfs runc 1.1 leaves writable.
    (
        "--read-only --tmpfs /run",
        "touch /x; touch /run/z; grep -v /sys/fs/cgroup /proc/mounts | grep -c ' ro,'",
    ),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status"),
    ("--security-opt seccomp=@SECCOMP", "mkdir /abc 2>&1; grep Seccomp: /proc/self/status"),
    ("--security-opt systempaths=unconfined", "grep -c ' /proc/' /proc/self/mountinfo"),
    ("--ulimit nofile=512:600 --ulimit core=0:0", "ulimit -n; ulimit -Hn; grep -i core /proc/self/limits"),
    (
        "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=9000",
        "sysctl net.ipv4.ip_forward kernel.msgmax",
    ),
    (
        "--device /dev/null:/dev/nada:r",
        "stat -c '%t:%T %a' /dev/nada; cat /dev/nada; echo x >/dev/nada; echo $?",
    ),
    ("-v @VOL:/v:ro", "cat /v/f; touch /v/x; echo $?"),
    ("-v @VOL:/v:rprivate", "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f6,7"),
    ("-v @VOL/f:/bin/sub/deep", "cat /bin/sub/deep"),
    ("-v named-volume:/v", "touch /v/a; ls /v"),
    ("-v /bin", "ls /bin | wc -l"),
    ("--mount type=bind,src=@VOL,dst=/v,readonly", "touch /v/x; echo $?"),
    ("--tmpfs /t:size=64k,mode=1770", "stat -c %a /t; grep ' /t ' /proc/mounts"),
    ("--shm-size 1m", "df -k /dev/shm | tail -n 1"),
    ("--pid host", "[ -d /proc/2 ] && grep -c PPid /proc/1/status"),
    ("--ipc host --uts host", "hostname; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts"),
    ("--ipc private", "ipcs -q | wc -l; df /dev/shm | tail -n 1 | cut -d' ' -f1"),
    ("--network host", "ls /sys/class/net; readlink /proc/self/ns/net"),
    ("--network none", "ls /sys/class/net"),
    (
        "--network bridge --dns 9.9.9.9 --add-host a.b:1.2.3.4",
        "ls /sys/class/net; grep -F 9.9 /etc/resolv.conf; grep -F a.b /etc/hosts",
    ),
    ("--cgroupns host", "cut -d: -f1,2 /proc/self/cgroup | sort"),
    ("--cgroupns private", "sort /proc/self/cgroup"),
    (
        "--env A=b --workdir /new/dir --user 12:34 --group-add 99 --hostname hh",
        "env | sort; pwd; id; hostname",
    ),
    ("--user nobody", "id; echo $HOME"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj"),
    ("--stop-signal INT --label a=b", "echo labelled"),
    ("-t", "tty; test -c /dev/console; echo $?"),
    ("--init", "tr '\\0' ' ' </proc/1/cmdline"),
    ("--memory 64m --cpus 0.5 --cpuset-cpus 0 --pids-limit 50 --blkio-weight 0", "nproc"),
    // Without the masks: runc 1.2 and newer hides files with the container's own /dev/null, davit with the host's;
    // and it limits the tmpfs over a folder.
    // Without the propagation: there the root is private, with davit and runc 1.1 a slave of the host's mount.
    (
        "",
        "grep -v -e /proc/ -e /sys/firmware -e /etc/ -e cgroup /proc/self/mounts | cut -d' ' -f2-4 | sed 's,[^ =]*overlay2[^ ]*,PATHS,' | sort",
    ),
    ("", "ls -l /proc/self/fd | wc -l; ls -l /dev | cut -c1-10 | sort | uniq -c"),
    ("", "grep -E 'Sig[PBIC]|Cap|Seccomp|NoNew|Groups' /proc/self/status; cat /proc/self/attr/current"),
];

pub fn do_what_they_do_with_runc(docker: &Docker) {
    if docker.through() == Through::DropIn {
        // There is no runc beside it.
        return;
    }
    let volume = docker.containerd.dir().join("volume");
    fs::create_dir(&volume).expect("volume");
    fs::write(volume.join("f"), "data\n").expect("file");
    let seccomp = docker.containerd.dir().join("seccomp.json");
    let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}"#;
    fs::write(&seccomp, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#))
        .expect("profile");
    let answer = |runtime: &str, options: &str, script: &str| {
        let options = options
            .replace("@VOL", &volume.to_string_lossy())
            .replace("@SECCOMP", &seccomp.to_string_lossy());
        let words: Vec<&str> = options.split_whitespace().collect();
        let call = docker.run_heard(runtime, &words, &["sh", "-c", script]);
        let text = format!("{}\n{}{}", call.code, call.out, call.err);
        text.lines().filter(|line| !line.starts_with("HOSTNAME=")).collect::<Vec<_>>().join("\n")
    };
    let mut different = Vec::new();
    // Our own shim makes the same containers as the program, which has had the whole table: a third of it.
    let step = if docker.through() == Through::RuntimeType { 3 } else { 1 };
    for (options, script) in OPTIONS.iter().step_by(step) {
        let _ = fs::remove_file(volume.join("x"));
        let ours = answer("davit", options, script);
        let peer = answer("runc", options, script);
        let failed = |answer: &str| answer.starts_with("125") || answer.starts_with("126");
        // dockerd 20.10 asks for all capabilities there are, also for those that a daemon without CAP_SYS_RESOURCE
        // can't give.
        if *options == "--privileged" && failed(&ours) && failed(&peer) {
            continue;
        }
        // That both fail alike would be equal too.
        assert!(!failed(&ours), "{options}: {ours}");
        if ours != peer {
            different.push(format!("{options} {script}\n--- davit\n{ours}\n--- runc\n{peer}"));
        }
    }
    docker.docker(&["volume", "rm", "named-volume"]);
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

/// Options, a script, and all that it prints. `@VOL` is a folder of the host's with a file in it, `@PID` a process of the
/// host's.
const THEMSELVES: &[(&str, &str, &str)] = &[
    // An orphan is reaped by the init, which passes on the code.
    (
        "--init",
        "(sleep 0.1 &); sleep 0.5; cut -d' ' -f2 /proc/1/stat; grep -l 'State:.Z' /proc/[0-9]*/status; exit 7",
        "7 (docker-init)",
    ),
    (
        "--read-only",
        "touch /x; touch /dev/shm/y && echo written",
        "0 written touch: /x: Read-only file system",
    ),
    ("--read-only --tmpfs /run", "touch /run/x && echo written", "0 written"),
    ("-v @VOL:/v", "cat /v/f; echo new >/v/new; cat /v/new", "0 data new"),
    ("-v @VOL:/v:ro", "touch /v/x 2>/dev/null; echo $?", "0 1"),
    ("-v by-themselves:/v", "touch /v/a; ls /v", "0 a"),
    ("-v by-themselves:/v:ro", "ls /v; touch /v/b 2>/dev/null; echo $?", "0 a 1"),
    ("--pid host", "grep -c . /proc/@PID/stat; test $$ != 1 && echo not the first", "0 1 not the first"),
    ("--user 12:34 --workdir /tmp --hostname hh", "id -u; id -g; pwd; hostname", "0 12 34 /tmp hh"),
    ("--cap-drop all", "grep CapEff /proc/self/status | cut -f2", "0 0000000000000000"),
    ("--ulimit nofile=512:600", "ulimit -n; ulimit -Hn", "0 512 600"),
    ("--shm-size 1m", "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2", "0 1024"),
    ("-t", "tty; test -t 0 -a -t 1 -a -t 2; echo $?", "0 /dev/pts/0 0"),
];

pub fn do_what_they_say(docker: &Docker) {
    let volume = docker.containerd.dir().join("volume-too");
    fs::create_dir(&volume).expect("volume");
    fs::write(volume.join("f"), "data\n").expect("file");
    let mut different = Vec::new();
    for (options, script, wanted) in THEMSELVES {
        let options = options.replace("@VOL", &volume.to_string_lossy());
        let script = script.replace("@PID", &std::process::id().to_string());
        let words: Vec<&str> = options.split_whitespace().collect();
        let call = docker.run_heard(docker.runtime(), &words, &["sh", "-c", &script]);
        let told = format!("{} {}{}", call.code, call.out, call.err);
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        if told != *wanted {
            different.push(format!("{options} {script}\n--- wanted\n{wanted}\n--- told\n{told}"));
        }
    }
    docker.ok(&["volume", "rm", "by-themselves"]);
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

/// Without `--runtime` it is ours that runs, by the configuration or in the place of runc.
pub fn the_default_is_ours(docker: &Docker) {
    assert_eq!(docker.ok(&["info", "--format", "{{.DefaultRuntime}}"]), docker.runtime());
    docker.ok(&["run", "-d", "--name", "default", "--network", "none", IMAGE, "until-term", "3"]);
    assert_eq!(docker.inspect("default", ".HostConfig.Runtime"), docker.runtime());
    let id = docker.inspect("default", ".Id");
    let shim = docker.containerd.shim_of(&id).expect("shim");
    let names = fs::read_to_string(format!("/proc/{shim}/cmdline")).expect("command line");
    match docker.through() {
        Through::Path => assert!(names.contains("containerd-shim-runc-v2"), "{names}"),
        Through::RuntimeType => assert!(names.contains("containerd-shim-davit-v2"), "{names}"),
        // Ours by another's name: one thread, where one in Go has several.
        Through::DropIn => {
            assert_eq!(fs::read_dir(format!("/proc/{shim}/task")).expect("threads").count(), 1);
        }
    }
    poll::until_trapped(docker.inspect("default", ".State.Pid").parse().expect("pid"));
    docker.ok(&["stop", "--time", "60", "default"]);
    assert_eq!(docker.ok(&["wait", "default"]), "3");
    docker.ok(&["rm", "default"]);
}
