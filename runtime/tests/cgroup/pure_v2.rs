//! Pure cgroup v2 (only hugetlb has its controller there on a hybrid host).

use std::ffi::CStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use davit::cgroup::{Cgroup, Error, Layout, Mode, OnDenied, Stats};
use davit::sys::bpf;
use davit::sys::process::{Exit, Fork, WaitFor, WaitMode, clone3, wait};
use oci_spec::runtime::LinuxResources;

use crate::common::{Scratch, Shell, in_pure_v2, openable, until};

#[test]
fn layout_and_relative_paths() {
    in_pure_v2(|| {
        let layout = Layout::detect().unwrap();
        assert_eq!(layout.mode(), Mode::V2);
        assert_eq!(layout.hierarchies().len(), 1);
        let paths = |path: Option<&str>| {
            Cgroup::resolve(&layout, "id", path.map(Path::new), OnDenied::Fail).unwrap().paths()[""].clone()
        };
        // Beside the own cgroup; in the root there is no beside.
        let own = layout.hierarchies()[0].own().unwrap();
        let base = Path::new("/sys/fs/cgroup").join(own.parent().unwrap_or(&own).strip_prefix("/").unwrap());
        assert_eq!(paths(None), base.join("id"));
        assert_eq!(paths(Some("a/b")), base.join("a/b"));
        assert_eq!(paths(Some("/a/b")), Path::new("/sys/fs/cgroup/a/b"));
    });
}

#[test]
fn a_process_starts_inside() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let target = scratch.clone_target().unwrap();
        match clone3(0, Some(target)).unwrap() {
            // No allocation: a lock of another thread's would be held for ever here.
            Fork::Child => loop {
                nix::unistd::pause();
            },
            Fork::Parent { pid, pidfd } => {
                let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                scratch.kill(libc::SIGKILL).unwrap();
                let exit = wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block).unwrap().unwrap().1;
                assert_eq!(exit, Exit::Signal(libc::SIGKILL));
                let is_inside = |line: &str| line.starts_with("0::/davit-test-") && line.ends_with("/c");
                assert!(own.lines().any(is_inside), "{own}");
            }
        }
        scratch.remove().unwrap();
        assert!(!scratch.exists());
    });
}

#[test]
fn controllers_are_enabled_on_the_way() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        assert_eq!(scratch.read("", "cgroup.controllers"), available.trim_end());
        if !available.contains("hugetlb") {
            println!("skipped: no hugetlb controller");
            return;
        }
        scratch.apply_json(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}"#).unwrap();
        assert_eq!(scratch.read("", "hugetlb.2MB.max"), "2097152");
        scratch.apply_json(r#"{"unified":{"hugetlb.2MB.max":"4194304","cgroup.max.depth":"7"}}"#).unwrap();
        assert_eq!(scratch.read("", "hugetlb.2MB.max"), "4194304");
        assert_eq!(scratch.read("", "cgroup.max.depth"), "7");
    });
}

#[test]
fn errors_name_field_file_and_reason() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let dir = scratch.dir("").display().to_string();
        let error = |json: &str| scratch.apply_json(json).unwrap_err().to_string();
        if fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("memory") {
            println!("skipped: the memory controller is here");
            return;
        }
        assert_eq!(
            error(r#"{"memory":{"limit":10000000}}"#),
            format!("cannot set linux.resources.memory: controller \"memory\" is not available in {dir}")
        );
        assert_eq!(
            error(r#"{"unified":{"memory.max":"1"}}"#),
            "unified resource \"memory.max\" can't be set: controller \"memory\" not available"
        );
        assert_eq!(
            error(r#"{"unified":{"hugetlb.2MB.max":"zzz"}}"#),
            format!("write zzz to hugetlb.2MB.max of {dir}: invalid argument")
        );
        for key in ["a/b", "../x.y", "nodot", ".x"] {
            let error = error(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#));
            assert!(error.starts_with("invalid "), "{key}: {error}");
        }
    });
}

#[test]
fn freeze_kill_remove() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let mut shell = Shell::waiting("for i in 1 2 3; do sleep 100 & done; wait");
        scratch.attach(shell.pid()).unwrap();
        shell.go();
        until("4 processes", || scratch.pids().unwrap().len() == 4);
        // One of them in a sub-cgroup, as with systemd inside.
        let sub = scratch.dir("").join("sub/deeper");
        fs::create_dir_all(&sub).unwrap();
        fs::create_dir_all(scratch.dir("").join("other")).unwrap();
        let moved = *scratch.pids().unwrap().last().unwrap();
        fs::write(sub.join("cgroup.procs"), moved.to_string()).unwrap();
        assert!(scratch.pids().unwrap().contains(&moved));
        assert_eq!(scratch.of_process(moved).unwrap().paths()[""], sub);
        assert!(scratch.sub("other").unwrap().of_process(moved).is_err());
        scratch.freeze().unwrap();
        assert!(scratch.again().is_frozen().unwrap());
        assert!(scratch.read("", "cgroup.events").contains("frozen 1"));
        scratch.thaw().unwrap();
        assert!(!scratch.is_frozen().unwrap());
        assert!(matches!(scratch.again().create(), Err(Error::NotEmpty(4))));
        scratch.freeze().unwrap();
        scratch.kill(libc::SIGKILL).unwrap();
        assert_eq!(shell.killed_by(), Some(libc::SIGKILL));
        scratch.remove().unwrap();
        assert!(!scratch.exists());
    });
}

#[test]
fn other_signals_and_survivors() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let shell = Shell::waiting("sleep 100");
        scratch.attach(shell.pid()).unwrap();
        match scratch.remove() {
            Err(Error::Survivors { pids, .. }) => assert_eq!(pids, [shell.pid()]),
            other => panic!("{other:?}"),
        }
        scratch.kill(libc::SIGTERM).unwrap();
        assert_eq!(shell.killed_by(), Some(libc::SIGTERM));
    });
}

#[test]
fn an_existing_frozen_cgroup_is_refused() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        fs::write(scratch.dir("").join("cgroup.freeze"), "1").unwrap();
        assert!(matches!(scratch.again().create(), Err(Error::Frozen)));
        fs::write(scratch.dir("").join("cgroup.freeze"), "0").unwrap();
        scratch.again().create().unwrap();
    });
}

#[test]
fn device_rules() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        scratch.apply(&LinuxResources::default()).unwrap();
        let nodes = ["/dev/null", "/dev/urandom", "/dev/kmsg"];
        assert_eq!(openable(&scratch, &nodes), [true, true, false]);
        scratch.update_json("{}").unwrap();
        assert_eq!(openable(&scratch, &nodes), [true, true, false]);
        let kmsg = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
        scratch.update_json(kmsg).unwrap();
        assert_eq!(openable(&scratch, &nodes), [true, true, true]);
        scratch.update_json(r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":9,"access":"r"}]}"#).unwrap();
        // The default allow list takes a denied urandom back, as in runc.
        assert_eq!(openable(&scratch, &nodes), [true, true, true]);
        scratch.update_json(r#"{"devices":[]}"#).unwrap();
        assert_eq!(openable(&scratch, &nodes), [true, true, false]);
        assert_eq!(programs(&scratch), ["davit_device"], "each update replaces the program before");
    });
}

#[test]
fn a_foreign_device_program_stays() {
    in_pure_v2(|| {
        const DENY: [bpf::Insn; 2] = [
            bpf::Insn { code: 0xb7, registers: 0, offset: 0, imm: 0 },
            bpf::Insn { code: 0x95, registers: 0, offset: 0, imm: 0 },
        ];
        const NAME: &CStr = c"sd_devices";
        let scratch = Scratch::created();
        let dir = fs::File::open(scratch.dir("")).unwrap();
        let program = bpf::load_device_program(&DENY, NAME).unwrap();
        bpf::attach_device_program(dir.as_fd(), program.as_fd(), None).unwrap();
        scratch.apply(&LinuxResources::default()).unwrap();
        scratch.update_json(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
        assert_eq!(programs(&scratch), ["sd_devices", "davit_device"]);
        assert_eq!(openable(&scratch, &["/dev/null"]), [false], "both must allow");
    });
}

/// Names of the device programs attached to the cgroup.
fn programs(scratch: &Scratch) -> Vec<String> {
    let dir = fs::File::open(scratch.dir("")).unwrap();
    let name = |id: u32| bpf::program_name(bpf::program_by_id(id).unwrap().as_fd()).unwrap();
    let ids = bpf::attached_device_programs(dir.as_fd()).unwrap();
    ids.into_iter().map(|id| String::from_utf8(name(id)).unwrap()).collect()
}

#[test]
fn attach_where_controllers_are_delegated() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        if !scratch.read("", "cgroup.controllers").contains("hugetlb") {
            println!("skipped: no controller to delegate");
            return;
        }
        let inner = scratch.dir("").join("init");
        fs::create_dir(&inner).unwrap();
        let init = Shell::waiting("sleep 100");
        fs::write(inner.join("cgroup.procs"), init.pid().to_string()).unwrap();
        fs::write(scratch.dir("").join("cgroup.subtree_control"), "+hugetlb").unwrap();
        let exec = Shell::waiting("sleep 100");
        let error = scratch.attach(exec.pid()).unwrap_err();
        assert_eq!(error.errno(), Some(nix::errno::Errno::EBUSY), "{error}");
        scratch.of_process(init.pid()).unwrap().attach(exec.pid()).unwrap();
        assert_eq!(scratch.pids().unwrap().len(), 2);
    });
}

#[test]
fn below_a_threaded_cgroup() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let parent = scratch.dir("").parent().unwrap().to_owned();
        // A domain controller forbids threaded cgroups.
        for controller in scratch.read("", "cgroup.controllers").split_ascii_whitespace() {
            fs::write(parent.join("cgroup.subtree_control"), format!("-{controller}")).unwrap();
        }
        fs::write(scratch.dir("").join("cgroup.type"), "threaded").unwrap();
        let inner = scratch.sub("inner").unwrap();
        fs::create_dir(&inner.paths()[""]).unwrap();
        let kind = || fs::read_to_string(inner.paths()[""].join("cgroup.type")).unwrap();
        assert_eq!(kind(), "domain invalid\n");
        let shell = Shell::waiting("sleep 100");
        inner.attach(shell.pid()).unwrap();
        assert_eq!(kind(), "threaded\n");
        assert_eq!(scratch.pids().unwrap(), [shell.pid()]);
        scratch.kill(libc::SIGKILL).unwrap();
        assert_eq!(shell.killed_by(), Some(libc::SIGKILL));
    });
}

#[test]
fn delegated_to_a_user() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        scratch.delegate(4711).unwrap();
        let owner = |file: &str| {
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(scratch.dir("").join(file)).unwrap())
        };
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(owner(file), 4711, "{file}");
        }
        assert_eq!(owner("cgroup.freeze"), 0, "limits and the freezer stay with the host");
    });
}

#[test]
fn statistics() {
    in_pure_v2(|| {
        let scratch = Scratch::created();
        let mut shell = Shell::waiting("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
        scratch.attach(shell.pid()).unwrap();
        shell.go();
        let read = || match scratch.stats().unwrap() {
            Stats::V2(metrics) => *metrics,
            Stats::V1(_) => panic!("v1"),
        };
        until("some CPU time", || read().cpu.unwrap().usage_usec > 1000);
        let metrics = read();
        let cpu = metrics.cpu.unwrap();
        assert!(cpu.usage_usec >= cpu.user_usec && cpu.psi.is_some());
        let has = |name: &str| scratch.read("", "cgroup.controllers").contains(name);
        assert_eq!(metrics.memory.is_some(), has("memory"));
        let two_mb = metrics.hugetlb.iter().any(|h| h.pagesize == "2MB" && h.max > 1 << 60);
        assert_eq!(two_mb, has("hugetlb"), "{:?}", metrics.hugetlb);
        assert_eq!(scratch.oom_kills().is_some(), has("memory"));
        assert_eq!(scratch.oom_watch().is_ok(), has("memory"));
        drop(shell);
        scratch.remove().unwrap();
        assert!(scratch.again().stats().unwrap_err().is_gone());
    });
}
