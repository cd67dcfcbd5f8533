//! `exec`: the same probe, as a second process of a container.

use serde_json::json;

use crate::identity::DOCKERS;
use crate::setup::{Case, Setup};

/// A container with something to inherit.
fn container(s: &mut Setup<'_>) {
    s.set("/process/capabilities", json!({"bounding": DOCKERS, "effective": DOCKERS, "permitted": DOCKERS}));
    s.set("/process/noNewPrivileges", json!(false)).set("/process/oomScoreAdj", json!(100));
    s.set("/process/env", json!(["PATH=/bin", "A=1", "A=2"])).set("/process/cwd", json!("/tmp"));
    s.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 500, "hard": 1000}]));
}

pub const CASES: &[Case] = &[
    ("exec", |s| {
        container(s);
        s.exec_detached(&[]);
    }),
    ("exec as a user", |s| {
        container(s);
        s.exec(&["--user", "1000:1000"]);
    }),
    ("exec as a user without a group", |s| {
        container(s);
        s.exec(&["--user", "1000"]);
    }),
    ("exec with groups", |s| {
        container(s);
        s.exec(&["--user", "1000:5", "--additional-gids", "7", "--additional-gids", "8"]);
    }),
    ("exec with capabilities", |s| {
        container(s);
        s.exec(&["--cap", "CAP_SYS_ADMIN", "--cap", "CAP_NET_ADMIN"]);
    }),
    ("exec with capabilities as a user", |s| {
        container(s);
        s.exec(&["--cap", "CAP_NET_ADMIN", "--user", "1000:1000"]);
    }),
    ("exec without new privileges", |s| {
        container(s);
        s.exec(&["--no-new-privs"]);
    }),
    ("exec elsewhere", |s| {
        container(s);
        s.exec(&["--cwd", "/etc"]);
    }),
    ("exec with variables", |s| {
        container(s);
        s.exec(&["--env", "X=y", "--env", "A=5", "--env", "HOME=/there"]);
    }),
    ("exec with a terminal", |s| {
        container(s);
        s.exec(&["--tty"]);
        s.look("stty size; stat -c '%a %u %g' $(tty)");
    }),
    ("exec in a container with a terminal", |s| {
        container(s);
        s.set("/process/terminal", json!(true));
        s.exec(&[]);
    }),
    ("exec in a user namespace", |s| {
        container(s);
        s.user_namespace(100_000, 200_000);
        s.exec(&["--user", "1000:1000"]);
    }),
    ("exec in a cgroup namespace", |s| {
        container(s);
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        s.exec(&[]);
    }),
    ("exec under seccomp", |s| {
        container(s);
        s.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}));
        s.exec(&[]);
        s.look("mkdir /dev/shm/x 2>&1");
    }),
    ("exec with personality", |s| {
        s.set("/linux/personality", json!({"domain": "LINUX32"}));
        s.exec(&[]);
        s.look("uname -m");
    }),
    ("exec of a process file", |s| {
        container(s);
        s.exec_process(|process| {
            process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [9], "umask": 0o27});
            process["cwd"] = json!("/mnt");
            process["env"] = json!(["PATH=/bin", "FROM=file"]);
        });
    }),
    ("exec of a process file with limits", |s| {
        container(s);
        s.exec_process(|process| {
            process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
            process["capabilities"] = json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]});
            process["oomScoreAdj"] = json!(400);
            process["noNewPrivileges"] = json!(true);
        });
    }),
    ("exec of a process file with a terminal", |s| {
        container(s);
        s.exec_process(|process| {
            process["terminal"] = json!(true);
            process["consoleSize"] = json!({"height": 20, "width": 50});
        });
        s.look("stty size");
    }),
    ("exec of a process file with a scheduler", |s| {
        container(s);
        s.exec_process(|process| {
            process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
            process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 7});
        });
    }),
];
