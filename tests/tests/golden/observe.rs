//! Runs a case with one runtime and writes down all that can be seen of the container: from inside by the
//! probe, from the host, and in the rootfs afterwards. Lines are `(section, line)`.

use std::path::{Path, PathBuf};
use std::process::Command;

use davit_tests::tty::{ConsoleSocket, Terminal};
use davit_tests::{Container, Running, wait_until};
use serde_json::{Value, json};

use crate::difference::FAILURE;
use crate::setup::{Case, Setup};

/// A line with the section that it is in.
pub type Line = (String, String);

/// Prints what a program sees of its container, in sections that begin with `## `.
const PROBE: &str = include_str!("probe.sh");

/// The probe's script, with the host's namespaces to compare with.
pub fn probe(extra: &str, end: &str) -> String {
    format!("{}{PROBE}echo '## extra'\n{extra}\necho '## end'\n{end}", host_namespaces())
}

/// Shell variables with the host's namespaces.
pub fn host_namespaces() -> String {
    let mut script = String::new();
    let mut all = String::new();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let name = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        script += &format!("HOST_{kind}='{}'; ", name.display());
        all += &format!("{} ", name.display());
    }
    script += &format!("HOST_NS='{all}'; ");
    script
}

/// Lines of a probe's text.
pub fn sections(text: &str) -> Vec<Line> {
    assert!(text.ends_with("## end\n"), "the probe did not end: {text}");
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("## ") {
            Some(name) => section = name.to_owned(),
            None => lines.push((section.clone(), without_libcs_signals(line))),
        }
    }
    lines
}

/// glibc's posix_spawn, by which these tests start both runtimes, leaves its own signals 32 and 33 ignored;
/// Go takes one of them for itself.
fn without_libcs_signals(line: &str) -> String {
    match line.strip_prefix("SigIgn:").map(|mask| u64::from_str_radix(mask.trim(), 16)) {
        Some(Ok(mask)) => format!("SigIgn: {:x}", mask & !(3 << 31)),
        _ => line.to_owned(),
    }
}

/// What is seen of a case when this runtime runs it.
pub fn observe(case: &Case, world: &davit_tests::World, runtime: &Path) -> Vec<Line> {
    let mut setup = Setup::new(world);
    (case.1)(&mut setup);
    let mut c = world.container(&setup.bundle);
    c.view = setup.view;
    // A process that `exec` detached is reaped by the host, which may take its time, and delete waits for that.
    let end = if setup.exec.is_some() { "" } else { "exec /bin/busybox sleep 1000" };
    let script = format!("ID={}; {}", c.id, probe(&setup.extra, end));
    let inner = match setup.exec {
        Some(_) => "exec /bin/busybox sleep 1000",
        None => &script,
    };
    setup.set("/process/args", json!(["/bin/sh", "-c", inner]));
    setup.bundle.write();
    let mut lines = Seen { setup: &setup, c: &c, runtime, lines: Vec::new() }.run(&script);
    lines.extend(tree(&setup));
    lines.extend(recorded(&setup));
    lines.retain(|(section, _)| !setup.without.contains(&section.as_str()));
    lines.into_iter().map(|(section, line)| (section, hide_paths(&setup, &line))).collect()
}

struct Seen<'a> {
    setup: &'a Setup<'a>,
    c: &'a Container<'a>,
    runtime: &'a Path,
    lines: Vec<Line>,
}

impl Seen<'_> {
    fn add(&mut self, section: &str, text: impl Into<String>) {
        self.lines.push((section.to_owned(), text.into()));
    }

    fn run(mut self, script: &str) -> Vec<Line> {
        let terminal = self.setup.bundle.config["process"]["terminal"] == true;
        // Detached: in the foreground runc puts pipes between the caller's stdio and the container's.
        let flags = [&self.setup.flags[..], &["--detach".to_owned()]].concat();
        let (call, output) = self.call("run", &flags, &[], terminal);
        if call.code != 0 {
            self.add(FAILURE, format!("run: {}: {}", call.code, call.error()));
            return self.lines;
        }
        let output = match &self.setup.exec {
            None => output,
            Some(flags) => {
                let (call, output) = self.exec(flags.clone(), script);
                if call.code != 0 {
                    self.add(FAILURE, format!("exec: {}: {}", call.code, call.error()));
                    self.delete();
                    return self.lines;
                }
                output
            }
        };
        self.lines.extend(sections(&output.text(self.c)));
        self.look_from_the_host();
        self.delete();
        self.lines
    }

    fn call(
        &self,
        command: &str,
        flags: &[String],
        rest: &[&str],
        terminal: bool,
    ) -> (davit_tests::Output, Shown) {
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let socket =
            terminal.then(|| ConsoleSocket::bind(&self.setup.world.path(&davit_tests::unique("tty"))));
        if let Some(socket) = &socket {
            flags.extend(["--console-socket", socket.path.to_str().unwrap()]);
        }
        let call = self.c.call(command, &flags, rest).dir(self.setup.bundle.dir()).with(self.runtime);
        let running: Running = call.spawn();
        let output = running.wait();
        let shown = match &socket {
            Some(socket) if output.code == 0 => Shown::Terminal(Terminal::new(socket.receive().0)),
            _ => Shown::File(output.stdout_path().to_owned()),
        };
        (output, shown)
    }

    fn exec(&self, mut flags: Vec<String>, script: &str) -> (davit_tests::Output, Shown) {
        let terminal = match &self.setup.process {
            Some(process) => process["terminal"] == true,
            None => flags.iter().any(|flag| flag == "--tty"),
        };
        if terminal || self.setup.detached {
            flags.push("--detach".to_owned());
        }
        let Some(mut process) = self.setup.process.clone() else {
            return self.call("exec", &flags, &["/bin/sh", "-c", script], terminal);
        };
        process["args"] = json!(["/bin/sh", "-c", script]);
        let file = self.setup.bundle.dir().join("process.json");
        std::fs::write(&file, process.to_string()).unwrap();
        flags.extend(["--process".to_owned(), file.to_str().unwrap().to_owned()]);
        self.call("exec", &flags, &[], terminal)
    }

    fn delete(&self) {
        self.c.call("delete", &["--force"], &[]).with(self.runtime).run().ok();
        self.c.assert_nothing_left();
    }

    /// `state`, state.json, and the settings of the container's cgroups.
    fn look_from_the_host(&mut self) {
        let mut state = self.c.call("state", &[], &[]).with(self.runtime).run().ok().json();
        let pid = state["pid"].as_i64().unwrap();
        assert!(pid > 0 && state["created"].as_str().unwrap().ends_with('Z'), "{state}");
        state["pid"] = json!("pid");
        state["created"] = json!("created");
        for (key, value) in state.as_object().unwrap() {
            self.add("state", format!("{key}: {value}"));
        }
        let file = std::fs::read(self.setup.world.root().join(&self.c.id).join("state.json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        for (key, value) in file["config"].as_object().unwrap() {
            // The keys of cgroups are compared one by one, annotations and version as `state` has them, namespaces as the
            // container has them: paths hold the pid of one run.
            if !["cgroups", "labels", "version", "namespaces"].contains(&key.as_str()) {
                self.add("config in state.json", format!("{key}: {}", unordered(key, value)));
            }
        }
        let mut keys = Vec::new();
        collect_keys("", &file, &mut keys);
        keys.into_iter().for_each(|key| self.add("state.json", key));
        for line in std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            self.add("cgroup of the host", format!("{controllers} {path}"));
            let controllers = match controllers {
                "" => "unified",
                other => other.trim_start_matches("name="),
            };
            let dir = Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/'));
            settings(&dir).into_iter().for_each(|line| self.add("cgroup of the host", line));
        }
    }
}

/// Files whose content is a setting, and not a statistic.
const SETTINGS: &[&str] = &[
    "memory.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.swappiness",
    "memory.use_hierarchy",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.cfs_burst_us",
    "cpu.idle",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "devices.list",
    "freezer.state",
    "blkio.weight",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_iops_device",
    "notify_on_release",
];

fn settings(dir: &Path) -> Vec<String> {
    let read = |name: &&str| {
        let text = std::fs::read_to_string(dir.join(name)).ok()?;
        let mut lines: Vec<&str> = text.lines().collect();
        // devices.list keeps the order of the writes, which means nothing.
        lines.sort_unstable();
        Some(format!("{name}: {}", lines.join("; ")))
    };
    SETTINGS.iter().filter_map(read).collect()
}

/// Every path of keys in a JSON value.
/// A value of runc's config; lists whose order says nothing are sorted.
fn unordered(key: &str, value: &Value) -> Value {
    let mut value = value.clone();
    let lists = match key {
        "devices" => vec![&mut value],
        "capabilities" => value.as_object_mut().into_iter().flat_map(|sets| sets.values_mut()).collect(),
        _ => Vec::new(),
    };
    lists.into_iter().filter_map(Value::as_array_mut).for_each(|list| list.sort_by_key(Value::to_string));
    value
}

fn collect_keys(at: &str, value: &Value, keys: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{at}/{key}");
        collect_keys(&path, value, keys);
        keys.push(path);
    }
}

/// Where the probe's output goes.
enum Shown {
    File(PathBuf),
    Terminal(Terminal),
}

impl Shown {
    fn text(self, c: &Container<'_>) -> String {
        match self {
            Shown::Terminal(mut terminal) => {
                let text = terminal.expect("## end\r\n").replace("\r\n", "\n");
                text.split_inclusive("## end\n").next().unwrap_or_default().to_owned()
            }
            Shown::File(path) => {
                let read = || String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                wait_until("the probe's end", || {
                    read().ends_with("## end\n") || (c.status() == "stopped" && !read().ends_with("## end\n"))
                });
                read()
            }
        }
    }
}

/// What is left in the rootfs.
fn tree(setup: &Setup<'_>) -> Vec<Line> {
    let find = Command::new("find")
        .args([".", "-not", "-path", "./bin/*", "-printf", "%p %y %m %U %G %l\n"])
        .current_dir(setup.bundle.rootfs(""))
        .output()
        .unwrap();
    let mut lines: Vec<_> = String::from_utf8(find.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines.into_iter().map(|line| ("rootfs".to_owned(), line)).collect()
}

/// What hooks have written to `recorded` in the bundle.
fn recorded(setup: &Setup<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    let Ok(entries) = std::fs::read_dir(setup.bundle.dir().join("recorded")) else { return lines };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            lines.push((format!("hook {name}"), line.to_owned()));
        }
    }
    lines
}

/// Names that differ between any two runs, by what they stand for.
fn hide_paths(setup: &Setup<'_>, line: &str) -> String {
    let bundle = setup.bundle.dir();
    let scratch = bundle.parent().unwrap().to_str().unwrap();
    hide_names(&line.replace(bundle.to_str().unwrap(), "BUNDLE").replace(scratch, "SCRATCH"))
}

/// Takes `-PID-N_` of [`davit_tests::unique`] out of a text.
pub fn hide_names(text: &str) -> String {
    let mark = format!("-{}-", std::process::id());
    let mut parts = text.split(&mark);
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        hidden.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('_'));
    }
    hidden
}
