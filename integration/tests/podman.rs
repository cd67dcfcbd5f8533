//! Podman 4 and 5: what `podman run`'s options do in the container, with davit and with runc, which must be the same;
//! the life of a container and a pod; a terminal; containers without a cgroup; buildah's `run` steps.

use std::fs;
use std::os::unix::fs::chown;

use davit_integration::podman::Podman;
use davit_integration::setup::{self, Release};
use davit_integration::terminal::{self, OnTerminal};
use davit_integration::{poll, skip};

/// Options, and a script whose output shows what they did. `@VOL` is a folder of the host's with a file in it,
/// `@SECCOMP` a profile in which mkdir is not there.
const OPTIONS: &[(&str, &str)] = &[
    ("--cap-drop all", "grep Cap /proc/self/status"),
    ("--cap-add SYS_ADMIN --cap-drop MKNOD", "grep Cap /proc/self/status"),
    ("--cap-add NET_RAW --user 1000", "grep Cap /proc/self/status"),
    ("--privileged", "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ls /dev | wc -l"),
    // Not of /sys/fs/cgroup, whose tmpfs runc 1.1 leaves writable.
    (
        "--read-only",
        "touch /x; touch /tmp/y && touch /run/z; grep -v /sys/fs/cgroup /proc/mounts | grep -c ' ro,'",
    ),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status"),
    ("--security-opt seccomp=@SECCOMP", "mkdir /abc 2>&1; grep Seccomp: /proc/self/status"),
    ("--security-opt mask=/etc/passwd", "wc -c </etc/passwd"),
    ("--security-opt unmask=ALL", "grep -c ' /proc/' /proc/self/mountinfo"),
    // nproc, since podman 4 would set it higher than this process may.
    (
        "--ulimit nofile=512:600 --ulimit core=0:0 --ulimit nproc=1024:1024",
        "ulimit -n; ulimit -Hn; grep -i core /proc/self/limits",
    ),
    (
        "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=9000",
        "sysctl net.ipv4.ip_forward kernel.msgmax",
    ),
    (
        "--device /dev/null:/dev/nada:r",
        "stat -c '%t:%T %a' /dev/nada; cat /dev/nada; echo x >/dev/nada; echo $?",
    ),
    ("-v @VOL:/v:ro", "cat /v/f; touch /v/x; echo $?"),
    ("-v @VOL:/v:z", "cat /v/f; grep ' /v ' /proc/self/mountinfo | cut -d' ' -f6"),
    ("-v @VOL:/v:rshared", "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f6,7 | tr -d 0-9"),
    ("-v @VOL:/v:rslave,noexec,nosuid", "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f6"),
    ("-v @VOL:/v:U --user 1000", "stat -c %u /v /v/f"),
    ("-v @VOL:/bin/sub/deep", "cat /bin/sub/deep/f"),
    ("-v named:/v", "touch /v/a; ls /v"),
    ("--tmpfs /t:size=64k,mode=1770", "stat -c %a /t; grep ' /t ' /proc/mounts"),
    ("--mount type=tmpfs,dst=/etc,tmpcopyup", "ls /etc"),
    ("--shm-size 1m", "df -k /dev/shm | tail -n 1"),
    ("--pid host", "[ -d /proc/2 ] && grep -c PPid /proc/1/status"),
    ("--ipc host --uts host", "hostname; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts"),
    ("--network host", "ls /sys/class/net; readlink /proc/self/ns/net"),
    ("--network none", "ls /sys/class/net"),
    ("--cgroups no-conmon", "echo started"),
    ("--cgroupns private", "sort /proc/self/cgroup"),
    ("--env A=b --workdir /tmp --user 12:34 --group-add 99 --hostname hh", "env | sort; pwd; id; hostname"),
    ("--workdir /", "pwd; echo $HOME"),
    ("--user nobody", "id; echo $HOME"),
    ("--userns host", "cat /proc/self/uid_map"),
    (
        "--uidmap 0:100000:5000 --gidmap 0:200000:6000",
        "cat /proc/self/uid_map /proc/self/gid_map; touch /x; stat -c %u:%g /x /proc/1 /etc/passwd; ls /dev",
    ),
    ("--uidmap 0:100000:5000 --network host", "cat /proc/self/uid_map; ls /sys >/dev/null; echo $?"),
    ("--uidmap 0:100000:5000 --read-only -v @VOL:/v:ro", "cat /v/f; touch /v/x; echo $?"),
    (
        "--uidmap 0:100000:5000 --tmpfs /t --device /dev/fuse",
        "stat -c %t:%T /dev/fuse; grep -c ' /t ' /proc/mounts",
    ),
    ("--memory 64m --cpus 0.5 --pids-limit 50", "echo limited"),
    ("--oom-score-adj 500", "cat /proc/self/oom_score_adj"),
    ("--umask 0077", "umask"),
    ("--entrypoint /bin/echo", "not a script"),
    ("-t", "tty; test -c /dev/console; echo $?"),
    ("--init", "tr '\\0' ' ' </proc/1/cmdline"),
    ("", "exit 7"),
    ("--pid host", "kill -TERM $$"),
    ("--pid host", "kill -KILL $$"),
    ("--rm", "exec /no/such/program"),
];

/// Options for podman 5 only: with podman 4 goes runc 1.1, which takes no notice of `idmap`. The volume's file is 5:6's.
const IDMAP: &[(&str, &str)] = &[
    // No user namespace and so no mapping of its own: podman takes it for no option at all.
    ("-v @VOL:/v:idmap", "stat -c %u:%g /v/f; grep -c idmapped /proc/self/mountinfo"),
    ("--uidmap 0:100000:5000 -v @VOL:/v", "stat -c %u:%g /v/f; touch /v/x; echo $?"),
    (
        "--uidmap 0:100000:5000 --gidmap 0:200000:6000 -v @VOL:/v:idmap",
        "stat -c %u:%g /v/f; touch /v/x; stat -c %u:%g /v/x; grep -c ' /v .*idmapped' /proc/self/mountinfo",
    ),
    ("--uidmap 0:100000:5000 -v @VOL:/v:ro,idmap", "stat -c %u:%g /v/f; touch /v/x; echo $?"),
    (
        "--uidmap 0:100000:5000 -v @VOL:/v:idmap=uids=0-100100-10;gids=0-100200-10",
        "stat -c %u:%g /v/f; grep -c ' /v .*idmapped' /proc/self/mountinfo",
    ),
    (
        "--uidmap 0:100000:5000 -v @VOL:/v:idmap=uids=@0-100-10;gids=@0-200-10",
        "stat -c %u:%g /v/f; grep -c ' /v .*idmapped' /proc/self/mountinfo",
    ),
    (
        "--uidmap 0:100000:5000 --mount type=bind,src=@VOL,dst=/v,idmap",
        "stat -c %u:%g /v/f; grep -c ' /v .*idmapped' /proc/self/mountinfo",
    ),
];

fn missing(release: Release) -> Option<String> {
    setup::missing().or_else(|| release.bin().err().map(|e| format!("packages of {release:?}: {e:#}")))
}

/// The peer: runc of the same release.
fn runc(release: Release) -> std::path::PathBuf {
    release.bin().expect("tree").join("runc")
}

/// Rows of options and a script.
type Table = [(&'static str, &'static str)];

/// Runs all of the table; an answer each.
fn answers(release: Release, runtime: std::path::PathBuf, table: &Table) -> Vec<String> {
    let podman = Podman::with(release, runtime).expect("podman");
    let volume = podman.dir().join("volume");
    fs::create_dir(&volume).expect("volume");
    let seccomp = podman.dir().join("seccomp.json");
    let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}"#;
    fs::write(&seccomp, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#))
        .expect("profile");
    let run = |(options, script): &(&str, &str)| {
        if options.contains("--init") && !podman.has_init() {
            return "no catatonit in this tree".to_owned();
        }
        let file = volume.join("f");
        let _ = fs::remove_file(volume.join("x"));
        fs::write(&file, "data\n").expect("file");
        if options.contains("--uidmap") {
            chown(&file, Some(5), Some(6)).expect("chown");
        }
        let options = options
            .replace("@VOL", &volume.to_string_lossy())
            .replace("@SECCOMP", &seccomp.to_string_lossy());
        let words: Vec<&str> = std::iter::once("--rm").chain(options.split_whitespace()).collect();
        let call = if options.contains("--entrypoint") {
            podman.run(&words, &[script])
        } else {
            podman.run(&words, &["sh", "-c", script])
        };
        // Names differ from run to run: the container's, and the host folder's.
        let text = format!("{}\n{}", call.code, call.out).replace(&podman.word(), "WORD");
        text.lines().filter(|line| !line.starts_with("HOSTNAME=")).collect::<Vec<_>>().join("\n")
    };
    let answers = table.iter().map(run).collect();
    assert_nothing_left(&podman);
    answers
}

fn assert_nothing_left(podman: &Podman) {
    let mut left = Vec::new();
    poll::within(60, || {
        left = podman.left();
        left.is_empty().then_some(())
    });
    assert!(left.is_empty(), "{left:#?}");
}

fn options_do_what_they_do_with_runc(release: Release, table: &Table) {
    let (ours, peer) = std::thread::scope(|scope| {
        let peer = scope.spawn(|| answers(release, runc(release), table));
        (answers(release, setup::runtime(), table), peer.join().expect("runc"))
    });
    let different: Vec<String> = table
        .iter()
        .zip(ours.iter().zip(&peer))
        .filter(|(_, (ours, peer))| ours != peer)
        .map(|(options, (ours, peer))| format!("{options:?}\n--- davit\n{ours}\n--- runc\n{peer}"))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    // That both fail alike would be equal too.
    let failed = |answer: &str| answer.starts_with("125") || answer.starts_with("126");
    let failed: Vec<_> = table.iter().zip(&ours).filter(|(_, answer)| failed(answer)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn options_podman_4() {
    if let Some(reason) = missing(Release::Bookworm) {
        skip!("{reason}");
    }
    options_do_what_they_do_with_runc(Release::Bookworm, OPTIONS);
}

#[test]
fn options_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    options_do_what_they_do_with_runc(Release::SidPodman, OPTIONS);
}

#[test]
fn idmapped_volumes_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    options_do_what_they_do_with_runc(Release::SidPodman, IDMAP);
}

fn life_of_a_container(release: Release) {
    let podman = Podman::with(release, setup::runtime()).expect("podman");
    let ok = |args: &[&str]| {
        let call = podman.podman(args);
        assert_eq!(call.code, 0, "{args:?}: {}", call.err);
        call.out.trim_end().to_owned()
    };
    let state = || ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one"]);
    let script = "trap 'echo ending; exit 5' TERM; echo in the log; while :; do sleep 0.05; done";
    let started =
        podman.run(&["-d", "--name", "one", "--health-cmd", "test -e /bin/sh"], &["sh", "-c", script]);
    assert_eq!(started.code, 0, "{}", started.err);
    poll::until("the log", 30, || ok(&["logs", "one"]), |seen| seen.contains("in the log"));
    assert!(ok(&["top", "one"]).contains("trap"), "{}", ok(&["top", "one"]));
    let exec = podman.podman(&[
        "exec",
        "--user",
        "3",
        "--env",
        "A=b",
        "--workdir",
        "/tmp",
        "one",
        "sh",
        "-c",
        "echo $(id -u) $A $PWD; exit 3",
    ]);
    assert_eq!((exec.code, exec.out.as_str()), (3, "3 b /tmp\n"), "{}", exec.err);
    assert!(ok(&["exec", "-t", "one", "tty"]).starts_with("/dev/pts/"));
    assert_eq!(podman.podman(&["exec", "one", "/no/such"]).code, 127);
    assert_eq!(podman.podman(&["exec", "one", "/etc/passwd"]).code, 126);
    ok(&["healthcheck", "run", "one"]);
    ok(&["pause", "one"]);
    assert_eq!(state(), "paused 0");
    ok(&["unpause", "one"]);
    assert_eq!(state(), "running 0");
    ok(&["stop", "-t", "60", "one"]);
    assert_eq!(state(), "exited 5");
    ok(&["start", "one"]);
    ok(&["kill", "--signal", "KILL", "one"]);
    assert_eq!(ok(&["wait", "one"]), "137");
    ok(&["rm", "one"]);

    let deaf = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
    let started = podman.run(&["-d", "--name", "one"], &["sh", "-c", deaf]);
    assert_eq!(started.code, 0, "{}", started.err);
    poll::until("the trap", 30, || ok(&["logs", "one"]), |seen| seen.contains("deaf"));
    ok(&["stop", "-t", "1", "one"]);
    assert_eq!(state(), "exited 137");
    ok(&["rm", "one"]);
    assert_eq!(podman.run(&["--no-such-option"], &["true"]).code, 125);
    assert_nothing_left(&podman);
}

#[test]
fn life_podman_4() {
    if let Some(reason) = missing(Release::Bookworm) {
        skip!("{reason}");
    }
    life_of_a_container(Release::Bookworm);
}

#[test]
fn life_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    life_of_a_container(Release::SidPodman);
}

fn a_terminal(release: Release) {
    if !terminal::available() {
        skip!("no setsid");
    }
    let podman = Podman::with(release, setup::runtime()).expect("podman");
    let parent = format!("/{}", podman.word());
    // Not the shell's own prompt, which would ask this terminal where its cursor is.
    let script = "while read line; do eval \"$line\"; done";
    let options = ["run", "-it", "--name", "one", "--network", "none", "--cgroup-parent", &parent];
    let run = podman.line(&[&options[..], &[setup::IMAGE, "sh", "-c", script]].concat());
    let mut screen = OnTerminal::start(&run, 41, 121).expect("terminal");
    // The words that are waited for are not in what is typed, which the terminal shows too.
    screen.write("tty; echo sum $((20 + 3))\n").expect("type");
    let shown = screen.read_until("sum 23").expect("echo");
    assert!(shown.contains("/dev/pts/0"), "{shown}");
    let size = |screen: &mut OnTerminal, wanted: &str| {
        let ask = || {
            screen.write("stty size; echo asked $((20 + 3))\n").expect("type");
            screen.read_until("asked 23").expect("answer")
        };
        poll::until("the size", 30, ask, |seen| seen.contains(wanted));
    };
    size(&mut screen, "41 121");
    screen.resize(30, 90).expect("resize");
    size(&mut screen, "30 90");
    let exec = podman.line(&["exec", "-it", "one", "sh", "-c", "tty && exit 3"]);
    let (status, shown) = OnTerminal::start(&exec, 25, 77).expect("terminal").finish().expect("podman");
    assert!(shown.contains("/dev/pts/1"), "{shown}");
    assert_eq!(status.code(), Some(3), "{shown}");
    screen.write("exit 6\n").expect("type");
    let (status, shown) = screen.finish().expect("podman");
    assert_eq!(status.code(), Some(6), "{shown}");
    assert_nothing_left(&podman);
}

#[test]
fn terminal_podman_4() {
    if let Some(reason) = missing(Release::Bookworm) {
        skip!("{reason}");
    }
    a_terminal(Release::Bookworm);
}

#[test]
fn terminal_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    a_terminal(Release::SidPodman);
}

/// Not compared with runc, which podman knows to have no such mode.
fn without_a_cgroup(release: Release) {
    let podman = Podman::with(release, setup::runtime()).expect("podman");
    let ok = |args: &[&str]| {
        let call = podman.podman(args);
        assert_eq!(call.code, 0, "{args:?}: {}", call.err);
        call.out.trim_end().to_owned()
    };
    let options = ["-d", "--name", "one", "--network", "none", "--cgroups=disabled", "--cgroupns=host"];
    ok(&[&["run"][..], &options, &[setup::IMAGE, "sleep", "1000"]].concat());
    let ours = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    assert_eq!(ok(&["exec", "one", "cat", "/proc/1/cgroup"]), ours.trim_end());
    assert_eq!(ok(&["exec", "one", "cat", "/proc/self/cgroup"]), ours.trim_end());
    let pause = podman.podman(&["pause", "one"]);
    assert_ne!(pause.code, 0);
    assert!(pause.err.contains("cgroup"), "{}", pause.err);
    ok(&["stop", "-t", "0", "one"]);
    assert_eq!(ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one"]), "exited 137");
    ok(&["rm", "one"]);
    assert_nothing_left(&podman);
}

#[test]
fn without_a_cgroup_podman_4() {
    if let Some(reason) = missing(Release::Bookworm) {
        skip!("{reason}");
    }
    without_a_cgroup(Release::Bookworm);
}

#[test]
fn without_a_cgroup_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    without_a_cgroup(Release::SidPodman);
}

fn user_namespace_of_another(release: Release) {
    let podman = Podman::with(release, setup::runtime()).expect("podman");
    let one = podman.run(&["-d", "--name", "one", "--uidmap", "0:100000:5000"], &["sleep", "1000"]);
    assert_eq!(one.code, 0, "{}", one.err);
    let pid = podman.podman(&["inspect", "--format", "{{.State.Pid}}", "one"]).out;
    let link = |out: &str| out.lines().next().unwrap_or_default().to_owned();
    let theirs = fs::read_link(format!("/proc/{}/ns/user", pid.trim_end())).expect("link");
    let script = "readlink /proc/self/ns/user; id -u; cat /proc/self/uid_map; touch /x && stat -c %u /x";
    let by_name = podman.run(&["--rm", "--userns", "container:one"], &["sh", "-c", script]);
    assert_eq!(by_name.code, 0, "{}", by_name.err);
    assert_eq!(link(&by_name.out), theirs.to_string_lossy());
    let rest: Vec<&str> = by_name.out.lines().skip(1).map(str::trim).collect();
    assert_eq!(rest.first(), Some(&"0"));
    assert_eq!(rest.get(1).map(|map| map.split_whitespace().collect()), Some(vec!["0", "100000", "5000"]));
    assert_eq!(rest.get(2), Some(&"0"));
    podman.podman(&["rm", "--force", "--time", "0", "one"]);
    assert_nothing_left(&podman);
}

#[test]
fn user_namespace_of_another_podman_4() {
    if let Some(reason) = missing(Release::Bookworm) {
        skip!("{reason}");
    }
    user_namespace_of_another(Release::Bookworm);
}

#[test]
fn user_namespace_of_another_podman_5() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    user_namespace_of_another(Release::SidPodman);
}

#[test]
fn pods_share_namespaces() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    let podman = Podman::with(Release::SidPodman, setup::runtime()).expect("podman");
    let parent = format!("/{}", podman.word());
    let made = podman.podman(&[
        "pod",
        "create",
        "--name",
        "p",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
        "--share",
        "net,ipc,uts,pid",
        "--infra-image",
        setup::IMAGE,
        "--infra-command",
        "sleep 1000",
    ]);
    assert_eq!(made.code, 0, "{}", made.err);
    let namespaces = ["sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"];
    let join = || podman.podman(&[&["run", "--rm", "--pod", "p", setup::IMAGE][..], &namespaces].concat());
    let (first, second) = (join(), join());
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(first.out.lines().count(), 4);
    assert_eq!(first.out, second.out);
    let own = podman.run(&["--rm"], &namespaces);
    assert!(
        own.out.lines().zip(first.out.lines()).all(|(own, shared)| own != shared),
        "{} {}",
        own.out,
        first.out
    );
    let stopped = podman.podman(&["pod", "rm", "--force", "--time", "0", "p"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert_nothing_left(&podman);
}

#[test]
fn buildah_runs_steps() {
    if let Some(reason) = missing(Release::SidPodman) {
        skip!("{reason}");
    }
    let podman = Podman::with(Release::SidPodman, setup::runtime()).expect("podman");
    let context = podman.dir().join("context");
    fs::create_dir(&context).expect("context");
    fs::write(context.join("given"), "from the context\n").expect("file");
    let file = format!(
        "FROM {}\n\
         RUN echo first >/one && grep CapEff /proc/self/status >/caps\n\
         RUN --mount=type=bind,source=given,target=/given cat /given >/two\n\
         RUN --mount=type=tmpfs,target=/t touch /t/x && grep -c ' /t tmpfs' /proc/mounts >/three\n\
         RUN --mount=type=cache,target=/c touch /c/x && ls /c >/four\n\
         USER 1000\n\
         WORKDIR /tmp\n\
         RUN id -u >/tmp/five && pwd >>/tmp/five\n",
        setup::IMAGE
    );
    fs::write(context.join("Containerfile"), file).expect("Containerfile");
    let built = podman.buildah("build", &["--tag", "built", &context.to_string_lossy()]);
    assert_eq!(built.code, 0, "{}{}", built.out, built.err);
    let files = podman.podman(&[
        "run",
        "--rm",
        "--network",
        "none",
        "localhost/built",
        "cat",
        "/one",
        "/two",
        "/three",
        "/four",
        "/tmp/five",
    ]);
    assert_eq!(files.out, "first\nfrom the context\n1\nx\n1000\n/tmp\n", "{}", files.err);

    let container = podman.buildah("from", &[setup::IMAGE]);
    let name = container.out.trim_end();
    let run = podman.buildah(
        "run",
        &["--hostname", "hh", "--user", "7", name, "--", "sh", "-c", "id -u; hostname; exit 4"],
    );
    assert_eq!((run.code, run.out.as_str()), (4, "7\nhh\n"), "{}", run.err);
    assert_eq!(podman.buildah("rm", &[name]).code, 0);

    fs::write(context.join("Containerfile"), format!("FROM {}\nRUN exit 9\n", setup::IMAGE)).expect("file");
    let failed = podman.buildah("build", &[&context.to_string_lossy()]);
    assert_ne!(failed.code, 0);
    assert!(failed.err.contains("exit status 9"), "{}", failed.err);
    assert_nothing_left(&podman);
}
