//! podman of Debian 12 as an ordinary user, with our command line program as its runtime.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use davit_integration::containerd::Call;
use davit_integration::setup::{self, Release};
use davit_integration::{poll, skip};
use tempfile::TempDir;

/// The user; nobody else's on this machine, so that what is left of it can be told.
const UID: u32 = 23_457;
/// First id of its ranges.
const FIRST_ID: u32 = 2_000_000;
const IMAGE: &str = setup::IMAGE;

/// A user with ranges of ids and a podman that keeps everything below one folder.
struct User {
    dir: TempDir,
    programs: PathBuf,
}

impl User {
    /// Makes the user's files and loads the image, or says why that can't be here.
    fn new() -> Result<User, String> {
        if let Some(reason) = setup::missing() {
            return Err(reason);
        }
        if !["newuidmap", "newgidmap"].iter().all(|name| PathBuf::from("/usr/bin").join(name).exists()) {
            return Err("no newuidmap: apt-get install uidmap".to_owned());
        }
        setup::own_memory_cgroup();
        let programs = Release::Bookworm.bin().map_err(|e| format!("packages of Debian 12: {e:#}"))?;
        let user = User { dir: TempDir::with_prefix("davit-it-").map_err(|e| e.to_string())?, programs };
        let podman = user.programs.join("podman");
        if user.call(&["test", "-x", podman.to_str().expect("UTF-8")]).code != 0 {
            return Err("another user can't execute podman below target/debian".to_owned());
        }
        user.prepare();
        Ok(user)
    }

    /// A file of the user's, readable by all.
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn prepare(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["home", "run"] {
            fs::create_dir(self.file(name)).expect(name);
            chown(self.file(name), Some(UID), Some(UID)).expect("chown");
        }
        fs::set_permissions(self.file("run"), fs::Permissions::from_mode(0o700)).expect("chmod");
        for (name, text) in [
            ("passwd", format!("root:x:0:0:root:/root:/bin/sh\ntester:x:{UID}:{UID}::/:/bin/sh\n")),
            ("group", format!("root:x:0:\ntester:x:{UID}:\n")),
            ("subuid", format!("tester:{FIRST_ID}:65536\n")),
            ("subgid", format!("tester:{FIRST_ID}:65536\n")),
            ("policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#.to_owned()),
            (
                "containers.conf",
                format!(
                    "[engine]\nruntime = \"davit\"\nruntime_supports_nocgroup = [\"davit\"]\n\
                     [engine.runtimes]\ndavit = [\"{}\"]\n",
                    self.file("davit").display()
                ),
            ),
        ] {
            fs::write(self.file(name), text).expect(name);
        }
        fs::copy(setup::runtime(), self.file("davit")).expect("davit");
        let config = self.file("home/.config/containers");
        assert_eq!(self.call(&["mkdir", "-p", config.to_str().expect("UTF-8")]).code, 0);
        fs::copy(self.file("policy.json"), config.join("policy.json")).expect("policy.json");
        fs::copy(setup::image().expect("image"), self.file("image.tar")).expect("image");
        fs::set_permissions(self.file("image.tar"), fs::Permissions::from_mode(0o644)).expect("chmod");
        let load =
            self.podman(&["load", "--quiet", "--input", self.file("image.tar").to_str().expect("UTF-8")]);
        assert_eq!(load.code, 0, "podman load: {}", load.err);
    }

    /// Runs a command as the user, who is one in a mount namespace of this call only.
    fn call(&self, words: &[&str]) -> Call {
        let mut script = String::new();
        for name in ["passwd", "group", "subuid", "subgid"] {
            let file = self.file(name);
            script += &format!("test ! -e {0} || mount --bind {0} /etc/{name} || exit; ", file.display());
        }
        script += &format!("exec setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\"");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", self.programs.display());
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120", "unshare", "--mount", "sh", "-c", &script, "sh"]).args(words);
        command.current_dir("/").stdin(Stdio::null()).env_clear().env("PATH", path);
        command.env("HOME", self.file("home")).env("XDG_RUNTIME_DIR", self.file("run"));
        command.env("CONTAINERS_CONF", self.file("containers.conf"));
        match command.output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    fn podman(&self, args: &[&str]) -> Call {
        let (podman, conmon) = (self.programs.join("podman"), self.programs.join("conmon"));
        let (root, run) = (self.file("home/storage"), self.file("run/containers"));
        let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
        let (podman, conmon, root, run) = (text(&podman), text(&conmon), text(&root), text(&run));
        let mut words = vec![podman.as_str(), "--conmon", &conmon, "--root", &root, "--runroot", &run];
        words.extend(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"]);
        words.extend(args);
        self.call(&words)
    }

    /// `podman run` without network, which would need /dev/net/tun.
    fn run(&self, options: &[&str], command: &[&str]) -> Call {
        let words = [&["run", "--network", "none"], options, &[IMAGE], command].concat();
        self.podman(&words)
    }

    /// Asserts success and returns the output.
    #[track_caller]
    fn output(&self, options: &[&str], command: &[&str]) -> String {
        let run = self.run(&[&["--rm"], options].concat(), command);
        assert_eq!(run.code, 0, "{options:?} {command:?}: {}", run.err);
        run.out
    }

    /// Pids of every process with an id of the user's.
    fn processes() -> Vec<String> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
            .filter(|entry| {
                let uid = entry.metadata().map_or(0, |found| found.uid());
                uid == UID || (FIRST_ID..FIRST_ID + 65536).contains(&uid)
            })
            // Ended, and somebody else's to reap.
            .filter(|entry| {
                fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty())
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.file("image.tar").exists() {
            self.podman(&["rm", "--all", "--force", "--time", "0"]);
            // Ends the process that keeps the user namespace.
            self.podman(&["system", "migrate"]);
            for pid in User::processes() {
                let _ = Command::new("kill").args(["-9", &pid]).status();
            }
        }
    }
}

/// One test after another: they are the same user.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn rootless_podman_run_exec_stop() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let user = match User::new() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    assert_eq!(user.output(&[], &["id", "-u"]), "0\n");
    assert_eq!(user.run(&["--rm"], &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(user.run(&["--rm"], &["/no/such/program"]).code, 127);
    assert_eq!(user.run(&["--rm"], &["/etc/passwd"]).code, 126);

    let started = user.run(&["-d", "--name", "one"], &["sh", "-c", "echo in the log; sleep 1000"]);
    assert_eq!(started.code, 0, "{}", started.err);
    let exec = user.podman(&["exec", "--user", "33:44", "one", "sh", "-c", "id -u; id -g; exit 3"]);
    assert_eq!((exec.code, exec.out.as_str()), (3, "33\n44\n"), "{}", exec.err);
    poll::until("the log", 30, || user.podman(&["logs", "one"]).out, |seen| seen.contains("in the log"));
    assert!(user.podman(&["top", "one"]).out.contains("sleep 1000"));
    let inspect = user.podman(&["inspect", "--format", "{{.State.Status}} {{.OCIRuntime}}", "one"]);
    assert_eq!(inspect.out, "running davit\n");
    assert_eq!(user.podman(&["stop", "--time", "0", "one"]).code, 0);
    assert_eq!(user.podman(&["inspect", "--format", "{{.State.ExitCode}}", "one"]).out, "137\n");
    assert_eq!(user.podman(&["start", "one"]).code, 0);
    assert_eq!(user.podman(&["kill", "one"]).code, 0);
    assert_eq!(user.podman(&["rm", "--force", "--time", "0", "one"]).code, 0);
    assert_eq!(user.podman(&["ps", "--all", "--quiet"]).out, "");
    assert_eq!(user.podman(&["system", "migrate"]).code, 0);
    poll::until("the user's processes to end", 30, User::processes, Vec::is_empty);
    let states = fs::read_dir(user.file("run/davit")).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(states, 0, "state is left");
}

#[test]
fn rootless_podman_options() {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let user = match User::new() {
        Ok(user) => user,
        Err(reason) => skip!("{reason}"),
    };
    let map = ["awk", "{print $1, $2, $3}", "/proc/self/uid_map"];
    // The second column is in podman's own user namespace: 0 is the user, 1 and up its ranges.
    let keep = format!("0 1 {UID}\n{UID} 0 1\n{0} {0} {1}\n", UID + 1, 65536 - UID);
    assert_eq!(user.output(&["--userns=keep-id"], &map), keep);
    assert_eq!(user.output(&["--userns=nomap"], &map), "0 1 65536\n");
    let pieces = ["--uidmap", "0:1:100", "--uidmap", "100:0:1", "--gidmap", "0:1:1000"];
    assert_eq!(user.output(&pieces, &map), "0 1 100\n100 0 1\n");
    assert_eq!(user.output(&["--user", "5", "--group-add", "77"], &["id", "-G"]), "0 77\n");
    let caps = ["grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/self/status"];
    let dropped = user.output(&["--cap-drop", "all", "--security-opt", "no-new-privileges"], &caps);
    assert_eq!(dropped, "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
    assert_ne!(user.run(&["--rm", "--read-only"], &["touch", "/made"]).code, 0);
    fs::create_dir(user.file("volume")).expect("volume");
    chown(user.file("volume"), Some(UID), Some(UID)).expect("chown");
    let volume = format!("{}:/mnt", user.file("volume").display());
    user.output(&["--volume", &volume], &["touch", "/mnt/made"]);
    assert_eq!(fs::metadata(user.file("volume/made")).expect("made").uid(), UID);
    assert_ne!(user.run(&["--rm", "--volume", &format!("{volume}:ro")], &["touch", "/mnt/x"]).code, 0);
    assert_eq!(user.output(&["--ulimit", "nofile=100:100"], &["sh", "-c", "ulimit -n"]), "100\n");
    assert_eq!(user.output(&["--hostname", "box"], &["hostname"]), "box\n");
    let sysctl = ["cat", "/proc/sys/net/ipv4/ip_forward"];
    assert_eq!(user.output(&["--sysctl", "net.ipv4.ip_forward=1"], &sysctl), "1\n");
    assert_eq!(user.output(&["--pid=host"], &["id", "-u"]), "0\n");
    assert_eq!(user.output(&["--cgroups=disabled"], &["id", "-u"]), "0\n");
    assert_eq!(user.output(&["--tty"], &["id", "-u"]), "0\r\n");
}
