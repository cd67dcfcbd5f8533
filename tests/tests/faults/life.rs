//! A container's life in which one command is disturbed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use davit_tests::tracer::{Act, Made, Trace, command, wrapper};
use davit_tests::{Bundle, Call, Output, World, errnos, host, unique};
use serde_json::json;

/// The commands that are disturbed. `remove` is `delete --force` of a running container.
pub const COMMANDS: [&str; 6] = ["create", "start", "run", "exec", "delete", "remove"];

/// Environment variable that all processes have: davit's and the container's.
const MARK: &str = "DAVIT_FAULT_TEST";

/// What a container is like from inside: whatever davit does for its isolation shows here.
const PROBE: &str = "exec 2>/dev/null; cut -d' ' -f4- /proc/self/mountinfo; \
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/self/status; cat /proc/self/limits; cut -d: -f2- /proc/self/cgroup; \
    hostname; env | sort; pwd; ls -lnR /dev; ls /proc/self/fd; cat /proc/self/oom_score_adj; echo x 2>/dev/null >/proc/sys/kernel/x; \
    ls /proc/acpi /sys/firmware; cat /proc/kcore | wc -c; cat /proc/sysrq-trigger | wc -c";

/// What became of a disturbed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It says why it failed.
    Failed,
    /// It does what it always does.
    Worked,
    /// It was killed.
    Killed,
    /// No process made the call this time.
    NotReached,
}

/// One worker's containers.
pub struct Life<'w> {
    world: &'w World,
    mark: String,
    /// Of all ids of this test.
    stem: String,
    probing: Bundle,
    waiting: Bundle,
    fifo: PathBuf,
    /// From inside, undisturbed: of the container's program and of exec's.
    expected: [String; 2],
    /// Cgroup directories, with `ID` for the id.
    cgroups: Vec<String>,
    mounts: usize,
}

impl<'w> Life<'w> {
    pub fn new(world: &'w World, test: &str) -> Self {
        let mark = unique("mark");
        let stem = format!("davit-fault-{test}");
        let bundle = |args: &[&str]| {
            let mut bundle = world.bundle();
            bundle.args(args).push("/process/env", json!(format!("{MARK}={mark}")));
            bundle.write();
            bundle
        };
        let fifo = world.path(&unique("go"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut life = Life {
            world,
            probing: bundle(&["sh", "-c", PROBE]),
            waiting: bundle(&["sleep", "1000"]),
            mark,
            stem,
            fifo,
            expected: Default::default(),
            cgroups: Vec::new(),
            mounts: host::mounts().lines().count(),
        };
        life.learn();
        life
    }

    /// How things are when nothing happens.
    fn learn(&mut self) {
        let id = unique(&self.stem);
        self.call("create", &id).run().ok();
        let state = fs::read_to_string(self.world.root().join(&id).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        let paths = state["cgroup_paths"].as_object().unwrap().values();
        self.cgroups = paths.map(|path| path.as_str().unwrap().replace(&id, "ID")).collect();
        assert!(self.cgroups.iter().all(|path| path.contains("ID")), "{:?}", self.cgroups);
        self.remove(&id).unwrap();
        let output = self.call("run", &id).run().ok();
        assert!(output.stdout.contains("NoNewPrivs:\t1"), "{}", output.stdout);
        self.expected[0] = plain(&output.stdout, &id);
        self.remove(&id).unwrap();
        self.prepare("exec", &id).unwrap();
        self.expected[1] = plain(&self.call("exec", &id).run().ok().stdout, &id);
        self.remove(&id).unwrap();
    }

    /// The command line of a command; its files and its environment are this worker's.
    fn call(&self, command: &str, id: &str) -> Call<'w> {
        let words = match command {
            "exec" => vec!["exec", id, "sh", "-c", PROBE],
            "remove" => vec!["delete", "--force", id],
            command => vec![command, id],
        };
        let bundle = if matches!(command, "create" | "run") { &self.probing } else { &self.waiting };
        self.world.call(&words).dir(bundle.dir()).env(MARK, &self.mark).env("RUST_BACKTRACE", "0")
    }

    /// The calls of an undisturbed command.
    pub fn record(&self, command: &str) -> Vec<Made> {
        let id = unique(&self.stem);
        let before = self.prepare(command, &id).unwrap();
        let (trace, output) = self.traced(command, &id, Act::Record);
        let output = output.unwrap_or_else(|why| panic!("{command} hangs when it is traced: {why}")).ok();
        self.works(command, &id, &output, before.as_ref(), &[]).unwrap();
        self.remove(&id).unwrap();
        trace.calls
    }

    fn traced(&self, name: &str, id: &str, act: Act) -> (Trace, Result<Output, String>) {
        let words = wrapper(&self.fifo);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let running = self.call(name, id).wrapper(&words).spawn();
        let trace = command(running.pid(), &self.fifo, act);
        let output = match trace.code {
            Some(code) if trace.hung => Err(running.ended(code).stderr),
            Some(code) => Ok(running.ended(code)),
            None => running.wait_or_kill(),
        };
        (trace, output)
    }

    /// Makes what the command needs. The output is that of create, which the container writes to.
    fn prepare(&self, command: &str, id: &str) -> Result<Option<Output>, String> {
        let waiting = ["create", id];
        let waiting = || self.world.call(&waiting).dir(self.waiting.dir()).env(MARK, &self.mark);
        let done = match command {
            "start" => Some(good("create", self.call("create", id).run())?),
            "exec" | "remove" => {
                good("create", waiting().run())?;
                Some(good("start", self.call("start", id).run())?)
            }
            "delete" => {
                good("create", waiting().run())?;
                good("kill", self.world.call(&["kill", id, "KILL"]).run())?;
                self.stopped(id)?;
                None
            }
            _ => None,
        };
        Ok(done)
    }

    pub fn try_case(&self, name: &str, act: Act) -> Result<Outcome, String> {
        let id = unique(&self.stem);
        let result = self.disturbed(name, &id, act);
        let cleaned = self.remove(&id).and_then(|()| self.again(&id));
        let outcome = result?;
        cleaned.map(|()| outcome)
    }

    fn disturbed(&self, name: &str, id: &str, act: Act) -> Result<Outcome, String> {
        let before = self.prepare(name, id)?;
        let (trace, output) = self.traced(name, id, act);
        let output = output.map_err(|why| format!("hangs: {why}"))?;
        let ways = match (trace.hit, act) {
            (Some(call), Act::Fail(_, errno)) => errnos::other_ways(call, errno),
            _ => &[],
        };
        let outcome = match (trace.hit, output.code, act) {
            (None, ..) => Outcome::NotReached,
            (_, 137, Act::Kill(_)) => Outcome::Killed,
            (Some(call), 134 | 139, _) if errnos::is_memory(call) => Outcome::Killed,
            (_, 0, _) => Outcome::Worked,
            _ => Outcome::Failed,
        };
        match outcome {
            Outcome::Worked | Outcome::NotReached => {
                if output.code != 0 {
                    return Err(format!("fails by itself: {}", output.stderr));
                }
                match self.works(name, id, &output, before.as_ref(), ways) {
                    // Init opens and writes exec.fifo after create has ended: its words are the container's stderr.
                    Err(why) if name == "create" && is_after_create(act) && why.contains("has stopped") => {
                        return Ok(Outcome::Failed);
                    }
                    other => other?,
                }
            }
            Outcome::Failed => {
                is_clear(&output)?;
                // What failed undoes itself.
                if matches!(name, "create" | "run") {
                    self.left(id)
                        .map_err(|what| format!("({}) before delete, {what}", output.stderr.trim()))?;
                }
            }
            Outcome::Killed => {}
        }
        if name == "exec" {
            self.exec_left(id)?;
        }
        Ok(outcome)
    }

    /// A command that succeeded has done all it promises.
    fn works(
        &self,
        name: &str,
        id: &str,
        output: &Output,
        before: Option<&Output>,
        ways: &[&str],
    ) -> Result<(), String> {
        match name {
            "create" => {
                good("start after it", self.call("start", id).run())?;
                self.stopped(id)?;
                self.same(&output.stdout_now(), id, 0, ways)
            }
            "start" => {
                self.stopped(id)?;
                self.same(&before.map(Output::stdout_now).unwrap_or_default(), id, 0, ways)
            }
            "run" => self.same(&output.stdout, id, 0, ways),
            "exec" => self.same(&output.stdout, id, 1, ways),
            _ => self.left(id),
        }
    }

    fn same(&self, text: &str, id: &str, which: usize, ways: &[&str]) -> Result<(), String> {
        let differs = |line: &&str| !ways.iter().any(|way| line.contains(way));
        let got = plain(text, id);
        let (got, expected): (Vec<&str>, Vec<&str>) =
            (got.lines().filter(differs).collect(), self.expected[which].lines().filter(differs).collect());
        if got == expected {
            return Ok(());
        }
        let missing: Vec<_> = expected.iter().filter(|line| !got.contains(line)).collect();
        let added: Vec<_> = got.iter().filter(|line| !expected.contains(line)).collect();
        Err(format!(
            "succeeds, but inside {missing:?} became {added:?} ({} and {} lines)",
            expected.len(),
            got.len()
        ))
    }

    fn stopped(&self, id: &str) -> Result<(), String> {
        within("the end of its program", || {
            let output = self.world.call(&["state", id]).run();
            output.stdout.contains("\"stopped\"")
        })
    }

    /// After an exec only the container's own program runs.
    fn exec_left(&self, id: &str) -> Result<(), String> {
        let procs = format!("{}/cgroup.procs", self.cgroups[0].replace("ID", id));
        within("the end of exec's process", || {
            fs::read_to_string(&procs).unwrap_or_default().lines().count() == 1
        })?;
        let output = good("exec after it", self.call("exec", id).run())?;
        self.same(&output.stdout, id, 1, &[])
    }

    /// The same id is free, and works.
    fn again(&self, id: &str) -> Result<(), String> {
        let output = good("a second try", self.call("run", id).run())?;
        self.same(&output.stdout, id, 0, &[])?;
        self.remove(id)
    }

    /// `delete --force`, after which nothing is left.
    fn remove(&self, id: &str) -> Result<(), String> {
        good("delete --force", self.call("remove", id).run())?;
        self.left(id)
    }

    /// Nothing is left of a container.
    fn left(&self, id: &str) -> Result<(), String> {
        within("the end of all processes", || marked(&self.mark).is_empty())
            .map_err(|why| format!("{why}: {:?}", marked(&self.mark)))?;
        let mut left: Vec<String> = Vec::new();
        if self.world.root().join(id).exists() {
            left.push("state directory".into());
        }
        left.extend(
            self.cgroups.iter().map(|path| path.replace("ID", id)).filter(|path| Path::new(path).exists()),
        );
        let scratch = self.world.root().parent().unwrap().to_owned();
        let scratch = scratch.to_str().unwrap();
        left.extend(host::mounts().lines().filter(|line| line.contains(scratch)).map(str::to_owned));
        if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}")) }
    }

    pub fn assert_nothing_left(&self) {
        let state: Vec<_> =
            fs::read_dir(self.world.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(state.is_empty(), "state directories: {state:?}");
        let cgroups = host::cgroups_named(&format!("{}-{}-", self.stem, std::process::id()));
        assert!(cgroups.is_empty(), "cgroups: {cgroups:?}");
        let nsfs = host::mounts().lines().filter(|line| line.contains(" - nsfs ")).count();
        assert!(nsfs <= self.mounts, "a namespace is held by a mount");
    }
}

/// What differs between containers is left out: the id, and how /proc's files and the clock happen to be.
fn plain(text: &str, id: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with("master:")).collect();
        // `ls -l`: without month, day and time.
        let clock = words.iter().position(|word| word.len() == 5 && word.as_bytes()[2] == b':');
        let words = match clock.filter(|at| *at > 5) {
            Some(at) => [&words[..at - 2], &words[at + 1..]].concat(),
            None => words,
        };
        words.join(" ").replace(id, "ID")
    };
    // Hierarchies that it has no cgroup in: somebody else may mount one at any time.
    let is_foreign = |line: &String| line.ends_with(":/") && !line.contains(' ');
    let lines = text.lines().map(line).filter(|line| !line.starts_with("total ") && !is_foreign(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether it is a call of init, which outlives create.
fn is_after_create(act: Act) -> bool {
    matches!(act, Act::Fail(place, _) if place.process > 0)
}

/// Exit code 0, or its words.
fn good(what: &str, output: Output) -> Result<Output, String> {
    match output.code {
        0 => Ok(output),
        code => Err(format!("{what}: exit code {code}: {}{}", output.stderr, output.stdout)),
    }
}

/// A failure is one sentence, and no signal.
fn is_clear(output: &Output) -> Result<(), String> {
    let text = output.stderr.trim_end();
    // runc fails an exec with 255.
    if output.code >= 128 && output.code != 255 {
        return Err(format!("ends by signal {}: {text}", output.code - 128));
    }
    // With a container's output beside it, there is one of davit's.
    let lines = text.lines().count();
    if lines != 1 || text.contains("panicked") || text.len() < 10 {
        return Err(format!("not a sentence: {text:?} (exit code {})", output.code));
    }
    Ok(())
}

fn within(what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > davit_tests::DEADLINE {
            return Err(format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Pids and names of processes that have the mark in their environment.
fn marked(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} {}", entry.file_name().to_string_lossy(), name.trim_end()));
        }
    }
    found
}
