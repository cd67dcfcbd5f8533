//! Debian's conmon drives davit as CRI-O has it do: create, the log and exit files, exec, a terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit_integration::setup::{self, Release};
use davit_integration::{poll, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A bundle, and folders for what conmon writes.
struct Crio {
    dir: TempDir,
    conmon: PathBuf,
    id: String,
}

impl Crio {
    /// Makes the bundle of a container whose program is this script, and creates it by conmon.
    fn create(script: &str, terminal: bool) -> Crio {
        setup::own_memory_cgroup();
        let dir = TempDir::with_prefix("davit-it-").expect("folder");
        let id = dir.path().file_name().expect("name").to_string_lossy().into_owned();
        let conmon = Release::Bookworm.bin().expect("tree").join("conmon");
        let crio = Crio { dir, conmon, id };
        crio.unpack();
        crio.davit(&["spec", "--bundle", &crio.text("bundle")]);
        let file = crio.path("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).expect("config")).expect("JSON");
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(terminal);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/c", crio.id));
        fs::write(file, config.to_string()).expect("config");
        crio.conmon("create", if terminal { &["--terminal"] } else { &[] });
        // conmon goes into the background before davit has made it.
        let made = || crio.path("create.pid").exists() && crio.try_status().is_some_and(|s| s == "created");
        poll::until("the container and its pid file", 60, made, |made| *made);
        crio
    }

    /// The image's only layer as root filesystem.
    fn unpack(&self) {
        let image = self.path("image");
        fs::create_dir_all(self.path("bundle/rootfs")).expect("folder");
        fs::create_dir(&image).expect("folder");
        let tar = |file: &Path, into: &Path| {
            setup::run(Command::new("tar").arg("-xf").arg(file).arg("-C").arg(into)).expect("tar");
        };
        tar(setup::image().expect("image"), &image);
        let manifest: Value =
            serde_json::from_slice(&fs::read(image.join("manifest.json")).expect("manifest")).expect("JSON");
        let layer = manifest[0]["Layers"][0].as_str().expect("layer");
        tar(&image.join(layer), &self.path("bundle/rootfs"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Runs conmon, which goes into the background; its files are named after `what`.
    fn conmon(&self, what: &str, options: &[&str]) {
        for name in ["exits", "attach"] {
            fs::create_dir_all(self.path(&format!("{what}.{name}"))).expect("folder");
        }
        let mut command = Command::new(&self.conmon);
        command.args(["--cid", &self.id, "--cuuid", &self.id, "--name", "one"]);
        command.arg("--runtime").arg(setup::runtime());
        command.args(["--runtime-arg", "--root", "--runtime-arg", &self.text("state")]);
        command.args(["--bundle", &self.text("bundle")]);
        command.args(["--log-path", &self.text(&format!("{what}.log"))]);
        command.args(["--container-pidfile", &self.text(&format!("{what}.pid"))]);
        command.args(["--conmon-pidfile", &self.text(&format!("{what}.conmon"))]);
        command.args(["--exit-dir", &self.text(&format!("{what}.exits"))]);
        command.args(["--socket-dir-path", &self.text(&format!("{what}.attach"))]);
        let status = command
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("conmon");
        assert!(status.success(), "{status}");
    }

    /// Runs davit with success; its output.
    #[track_caller]
    fn davit(&self, args: &[&str]) -> String {
        let out = setup::run(Command::new(setup::runtime()).args(["--root", &self.text("state")]).args(args));
        String::from_utf8(out.expect("davit").stdout).expect("UTF-8")
    }

    fn status(&self) -> Value {
        self.try_status().expect("state")
    }

    fn try_status(&self) -> Option<Value> {
        let mut state = Command::new(setup::runtime());
        let out = setup::run(state.args(["--root", &self.text("state"), "state", &self.id])).ok()?;
        Some(serde_json::from_slice::<Value>(&out.stdout).ok()?["status"].clone())
    }

    /// The exit file's content, once it is there.
    fn exit(&self, what: &str) -> String {
        let file = self.path(&format!("{what}.exits")).join(&self.id);
        let code = || fs::read_to_string(&file).unwrap_or_default();
        poll::until("the exit file", 30, code, |code| !code.is_empty())
    }

    /// The log's lines without their times.
    fn log(&self, what: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path(&format!("{what}.log"))).unwrap_or_default();
        log.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest.to_owned()).collect()
    }
}

impl Drop for Crio {
    fn drop(&mut self) {
        let mut delete = Command::new(setup::runtime());
        delete.args(["--root", &self.text("state"), "delete", "--force", &self.id]);
        let _ = delete.stdin(Stdio::null()).output();
        davit_integration::leaks::remove_cgroup_parents(&self.id);
    }
}

fn missing() -> Option<String> {
    setup::missing()
        .or_else(|| Release::Bookworm.bin().err().map(|e| format!("packages of Debian 12: {e:#}")))
}

#[test]
fn conmon_logs_and_executes() {
    if let Some(reason) = missing() {
        skip!("{reason}");
    }
    let script = "echo hello; echo oops >&2; while [ ! -e /done ]; do sleep 0.05; done; exit 7";
    let one = Crio::create(script, false);
    assert_eq!(one.status(), "created");
    assert_eq!(one.log("create"), Vec::<String>::new());
    one.davit(&["start", &one.id]);
    poll::until("the log", 30, || one.log("create"), |seen| seen.len() == 2);
    let mut log = one.log("create");
    log.sort();
    assert_eq!(log, ["stderr F oops", "stdout F hello"]);
    assert_eq!(one.status(), "running");

    let spec = json!({
        "user": {"uid": 3, "gid": 4}, "args": ["sh", "-c", "id -u; id -g; echo $A; exit 5"],
        "env": ["PATH=/bin", "A=b"], "cwd": "/tmp"
    });
    fs::create_dir_all(one.path("bundle/rootfs/tmp")).expect("folder");
    fs::write(one.path("process.json"), spec.to_string()).expect("process");
    one.conmon("exec", &["--exec", "--exec-process-spec", &one.text("process.json")]);
    assert_eq!(one.exit("exec"), "5");
    assert_eq!(one.log("exec"), ["stdout F 3", "stdout F 4", "stdout F b"]);

    fs::write(one.path("bundle/rootfs/done"), "").expect("file");
    assert_eq!(one.exit("create"), "7");
    assert_eq!(one.status(), "stopped");
    one.davit(&["delete", &one.id]);
    assert_eq!(one.davit(&["list", "--quiet"]), "");
}

#[test]
fn conmon_has_a_terminal() {
    if let Some(reason) = missing() {
        skip!("{reason}");
    }
    let one = Crio::create("tty; test -t 2 && exit 9", true);
    one.davit(&["start", &one.id]);
    assert_eq!(one.exit("create"), "9");
    // conmon may read the line and its end apart: a partial line, and the rest of it.
    let log = one.log("create");
    let parts = log.iter().map(|line| line.strip_prefix("stdout P ").or(line.strip_prefix("stdout F ")));
    assert_eq!(parts.collect::<Option<String>>().as_deref(), Some("/dev/pts/0"), "{log:?}");
    assert!(log.last().is_some_and(|line| line.starts_with("stdout F ")), "{log:?}");
    one.davit(&["delete", &one.id]);
}
