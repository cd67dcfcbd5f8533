//! Security contexts, seccomp and AppArmor, mounts.

use std::fs;

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{Capability, Int64Value, LinuxContainerSecurityContext, Mount, SecurityProfile};

use crate::node::{Node, container};

fn secured(name: &str, context: LinuxContainerSecurityContext) -> k8s_cri::v1::ContainerConfig {
    let mut config = container(name, &["sleep", "1000"]);
    config.linux.as_mut().expect("linux").security_context = Some(context);
    config
}

pub fn contexts(node: &Node) {
    let mut pod = node.pod("contexts");
    let strict = pod.run(secured(
        "strict",
        LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 1234 }),
            run_as_group: Some(Int64Value { value: 2345 }),
            supplemental_groups: vec![3456],
            readonly_rootfs: true,
            no_new_privs: true,
            capabilities: Some(Capability {
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            }),
            masked_paths: vec!["/etc/group".to_owned(), "/proc/acpi".to_owned()],
            readonly_paths: vec!["/proc/sys".to_owned()],
            ..Default::default()
        },
    ));
    assert_eq!(pod.output(&strict, "id -u; id -g; id -G"), "1234\n2345\n2345 3456");
    let status = pod.output(&strict, "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | cut -f2");
    assert_eq!(status, "0000000000000000\n0000000000000000\n1");
    let refused = pod
        .output(&strict, "touch /x 2>&1; wc -c </etc/group; echo 1 2>&1 >/proc/sys/kernel/domainname; true");
    assert!(refused.contains("Read-only file system") && refused.contains("\n0"), "{refused}");
    let capable = pod.run(secured(
        "capable",
        LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: vec!["NET_ADMIN".to_owned()],
                drop_capabilities: vec!["CHOWN".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        },
    ));
    pod.output(&capable, "ip link add dummy type bridge || ip link set lo down");
    let chown = pod.exec_sync(&capable, &["chown", "5", "/etc/group"], 60).expect("exec");
    assert_ne!(chown.0, 0);
    mounts(node, &mut pod);
    pod.remove();
}

fn mounts(node: &Node, pod: &mut crate::node::Pod<'_>) {
    let folder = node.containerd.dir().join("volume");
    fs::create_dir_all(&folder).expect("volume");
    fs::write(folder.join("file"), "data\n").expect("file");
    let mut config = container("mounts", &["sleep", "1000"]);
    for (path, readonly) in [("/rw", false), ("/ro", true)] {
        config.mounts.push(Mount {
            container_path: path.to_owned(),
            host_path: folder.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        });
    }
    let id = pod.run(config);
    assert_eq!(pod.output(&id, "cat /ro/file; echo new >/rw/new; cat /ro/new"), "data\nnew");
    assert_ne!(pod.exec_sync(&id, &["touch", "/ro/x"], 60).expect("exec").0, 0);
}

pub fn seccomp_and_apparmor(node: &Node) {
    let mut pod = node.pod("profiles");
    let file = node.containerd.dir().join("seccomp.json");
    let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}"#;
    fs::write(&file, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#))
        .expect("profile");
    let profile = |kind: ProfileType, path: &str| SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path.to_owned(),
    };
    let file = file.to_string_lossy().into_owned();
    let cases = [
        ("default", profile(ProfileType::RuntimeDefault, ""), "2"),
        ("unconfined", profile(ProfileType::Unconfined, ""), "0"),
        ("local", profile(ProfileType::Localhost, &file), "2"),
    ];
    for (name, seccomp, mode) in cases {
        let context = LinuxContainerSecurityContext { seccomp: Some(seccomp), ..Default::default() };
        let id = pod.run(secured(name, context));
        assert_eq!(pod.output(&id, "grep Seccomp: /proc/self/status | cut -f2"), mode, "{name}");
        let made = pod.exec_sync(&id, &["mkdir", "/made"], 60).expect("exec");
        assert_eq!(made.0 == 0, name != "local", "{name}: {made:?}");
        // RuntimeDefault keeps a container without CAP_SYS_ADMIN from a new user namespace.
        let unshared = pod.exec_sync(&id, &["unshare", "-U", "true"], 60).expect("exec");
        assert_eq!(unshared.0 == 0, name != "default", "{name}: {unshared:?}");
    }
    apparmor(&mut pod);
    pod.remove();
}

/// What the field makes of a container. Without AppArmor in the kernel, containerd refuses what asks for a profile.
fn apparmor(pod: &mut crate::node::Pod<'_>) {
    let there = std::path::Path::new("/sys/kernel/security/apparmor").exists();
    let cases = [
        ("unconfined-too", ProfileType::Unconfined, "", Some(if there { "unconfined" } else { "none" })),
        (
            "default-too",
            ProfileType::RuntimeDefault,
            "",
            there.then_some("cri-containerd.apparmor.d (enforce)"),
        ),
        ("named", ProfileType::Localhost, "no-such-profile", None),
    ];
    for (name, kind, path, wanted) in cases {
        let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() };
        let context = LinuxContainerSecurityContext { apparmor: Some(profile), ..Default::default() };
        match (pod.try_run(secured(name, context)), wanted) {
            (Ok(id), Some(wanted)) => {
                let shown = pod.output(&id, "cat /proc/self/attr/current 2>/dev/null || echo none");
                assert_eq!(shown.trim_matches('\0'), wanted, "{name}");
            }
            (Err(e), None) => assert!(e.message().to_lowercase().contains("apparmor"), "{name}: {e}"),
            (answer, _) => panic!("{name}: {answer:?}"),
        }
    }
}
