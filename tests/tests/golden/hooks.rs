//! Hooks: what each of the six kinds reads on its standard input, and in which surroundings it runs.

use serde_json::{Value, json};

use crate::observe::host_namespaces;
use crate::setup::{Case, Setup};

/// A hook that records itself. The bundle is mounted in the container under its own path, so that hooks that
/// run there can write too.
fn recorder(s: &Setup<'_>, name: &str) -> Value {
    let dir = s.bundle.dir().join("recorded");
    let script = format!(
        "R={0}/{name}; {{ sed 's/\"pid\":[1-9][0-9]*/\"pid\":PID/'; echo; echo \"$0 $*\"; env | sort; }} > $R; \
         {1} for n in cgroup ipc mnt net pid uts user; do \
         if [ $(readlink /proc/self/ns/$n) = $(eval echo \\$HOST_$n) ]; then echo \"$n host\"; else echo \"$n other\"; fi >> $R; done; \
         ls -d $PWD >> $R; id >> $R; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status >> $R; umask >> $R",
        dir.display(),
        host_namespaces()
    );
    json!({"path": "/bin/busybox", "args": ["sh", "-c", script, "arg0", "one", "two"], "env": ["PATH=/bin:/usr/bin", format!("KIND={name}")]})
}

fn with_hooks(s: &mut Setup<'_>, kinds: &[&str]) {
    let dir = s.bundle.dir().join("recorded");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.to_str().unwrap().to_owned();
    s.mount(&path, "bind", &path, &["bind"]);
    for kind in kinds {
        let hook = recorder(s, kind);
        s.set(&format!("/hooks/{kind}"), json!([hook]));
    }
    // The destination of the bind differs from run to run.
    s.without = vec!["mountinfo", "rootfs"];
}

pub const CASES: &[Case] = &[
    ("prestart", |s| with_hooks(s, &["prestart"])),
    ("createRuntime", |s| with_hooks(s, &["createRuntime"])),
    ("createContainer", |s| with_hooks(s, &["createContainer"])),
    ("startContainer", |s| with_hooks(s, &["startContainer"])),
    ("poststart", |s| with_hooks(s, &["poststart"])),
    ("poststop", |s| with_hooks(s, &["poststop"])),
    ("all hooks, annotations", |s| {
        with_hooks(
            s,
            &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        );
        s.set("/annotations", json!({"b": "2", "a": "1"}));
    }),
    ("hooks without args and env", |s| {
        let dir = s.dir("recorded");
        std::fs::remove_file(dir.join("file")).unwrap();
        let script = s.bundle.dir().join("hook");
        let text = format!(
            "#!/bin/sh\ncat > /dev/null; {{ echo $#; echo \"CARGO ${{CARGO:+as the caller's}}\"; }} > {}/bare\n",
            dir.display()
        );
        davit_tests::write_program(&script, &text);
        s.set("/hooks/createRuntime", json!([{"path": script}]));
    }),
];
