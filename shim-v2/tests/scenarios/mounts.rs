//! Mounts of the rootfs, as containerd's snapshotters describe them.

use crate::prelude::*;

fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> pb::Mount {
    pb::Mount {
        type_: kind.into(),
        source: source.display().to_string(),
        target: target.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Default::default()
    }
}

/// Runs `script` on a rootfs of these mounts; the answer is its exit code.
fn run(
    daemon: &Daemon,
    script: &str,
    mounts: Vec<pb::Mount>,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<u32, Refusal> {
    daemon.make_bundle("c", script, change);
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.rootfs = mounts;
    client.call::<pb::CreateTaskResponse>("Create", &request)?;
    client.start("c", "")?;
    let code = client.wait("c", "");
    client.delete("c", "")?;
    assert!(!daemon.is_mounted("c"));
    Ok(code)
}

fn dirs<const N: usize>(daemon: &Daemon, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let path = daemon.dir.path().join("layers").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    })
}

fn overlay(lower: &str, upper: &Path, work: &Path) -> Vec<String> {
    vec![
        format!("lowerdir={lower}"),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ]
}

fn strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

pub fn overlay_of_layers(daemon: &Daemon) {
    let [upper, work, extra] = dirs(daemon, ["upper", "work", "extra"]);
    fs::write(extra.join("from-extra"), "x").unwrap();
    let lower = format!("{}:{}", extra.display(), daemon.rootfs.display());
    let options = overlay(&lower, &upper, &work);
    let mounts = vec![mount("overlay", Path::new("overlay"), "", &strs(&options))];
    assert_eq!(run(daemon, "cat /from-extra && echo y >/written", mounts, |_| ()).unwrap(), 0);
    assert_eq!(fs::read_to_string(upper.join("written")).unwrap(), "y\n");
}

/// More layers than a page of mount options holds (a hundred in an image is nothing special).
pub fn overlay_with_options_longer_than_a_page(daemon: &Daemon) {
    let [upper, work] = dirs(daemon, ["upper", "work"]);
    let mut lower: Vec<String> = (0..60)
        .map(|n| {
            let path = daemon
                .dir
                .path()
                .join(format!("a-rather-long-name-of-a-layer-as-containerd-has-them-{n}/fs"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(format!("f{n}")), "x").unwrap();
            path.display().to_string()
        })
        .collect();
    lower.push(daemon.rootfs.display().to_string());
    let options = overlay(&lower.join(":"), &upper, &work);
    let mounts = vec![mount("overlay", Path::new("overlay"), "", &strs(&options))];
    assert_eq!(run(daemon, "cat /f0 /f59", mounts, |_| ()).unwrap(), 0);
}

/// A pod with a user namespace on containerd 2.x: `uidmap=` and `gidmap=` map the layers.
pub fn overlay_with_mapped_ids(daemon: &Daemon) {
    let [upper, work] = dirs(daemon, ["upper", "work"]);
    for dir in [&upper, &work] {
        std::os::unix::fs::chown(dir, Some(100_000), Some(100_000)).unwrap();
    }
    Command::new("chmod").args(["-R", "a+rX"]).arg(daemon.dir.path()).status().unwrap();
    let mut options = overlay(&daemon.rootfs.display().to_string(), &upper, &work);
    options.extend(["uidmap=0:100000:65536".to_owned(), "gidmap=0:100000:65536".to_owned()]);
    let mounts = vec![mount("overlay", Path::new("overlay"), "", &strs(&options))];
    let script = "test $(stat -c %u /bin/busybox) = 0 && echo y >/written";
    let code = run(daemon, script, mounts, |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "user"}));
        let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    assert_eq!(code.unwrap(), 0, "root of the container owns its image");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(upper.join("written")).unwrap().uid(), 100_000);
    let left: Vec<_> = fs::read_dir(daemon.bundle("c")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name != ".lower"), "{left:?}");
}

/// An image in a file: `loop`.
pub fn filesystem_in_a_file(daemon: &Daemon) {
    let image = daemon.dir.path().join("image.ext4");
    let made =
        Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&daemon.rootfs).arg(&image).arg("16M").output();
    let (Ok(made), true) = (made, Path::new("/dev/loop-control").exists()) else {
        eprintln!("SKIPPED filesystem_in_a_file: needs mkfs.ext4 and loop devices");
        return;
    };
    assert!(made.status.success());
    let mounts = vec![mount("ext4", &image, "", &["loop"])];
    assert_eq!(run(daemon, "echo y >/written", mounts, |_| ()).unwrap(), 0);
    // The container's mount namespace may live a moment longer, and the device with it.
    let name = image.display().to_string();
    let released = || {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let backing = devices.filter_map(|d| fs::read_to_string(d.path().join("loop/backing_file")).ok());
        backing.into_iter().all(|file| !file.contains(&name)).then_some(())
    };
    until("the device's end", released);
    let mounts = vec![mount("ext4", &image, "", &["ro", "loop"])];
    let script = "cat /written; echo z 2>/dev/null >/written && exit 1; exit 0";
    assert_eq!(run(daemon, script, mounts, |_| ()).unwrap(), 0);
    until("the device's end", released);
}

/// FUSE file systems come by a helper program, here one that binds.
pub fn helper_program_for_fuse(daemon: &Daemon) {
    let (bin, target) = (daemon.dir.path().join("helpers"), daemon.dir.path().join("args"));
    fs::create_dir(&bin).unwrap();
    let [empty] = dirs(daemon, ["empty"]);
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{}\nmount -t overlay -o lowerdir={}:{} none \"$2\"\n",
        target.display(),
        empty.display(),
        daemon.rootfs.display()
    );
    install(&bin.join("mount.fuse3"), &script);
    daemon.make_bundle("c", "true", |_| ());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = daemon.shim("c", "start", b"", &[("PATH", &path)]);
    let mut client = Client::connect(&String::from_utf8(output.stdout).unwrap());
    let mut request = daemon.create_request("c", &Io::none());
    request.rootfs = vec![mount("fuse3.thing", Path::new("source"), "", &["allow_other"])];
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.delete("c", "").unwrap();
    assert!(!daemon.is_mounted("c"));
    let args = fs::read_to_string(target).unwrap();
    assert!(args.starts_with("source ") && args.ends_with("-o allow_other -t thing\n"), "{args}");
    client.shutdown();
}

/// A mount below the rootfs stays below it, whatever links the image has.
pub fn target_below_the_rootfs_is_not_led_out(daemon: &Daemon) {
    let [outside, inside] = dirs(daemon, ["outside", "inside"]);
    std::os::unix::fs::symlink(&outside, daemon.rootfs.join("escape")).unwrap();
    fs::write(inside.join("marker"), "x").unwrap();
    let bind = mount("bind", &daemon.rootfs, "", &["rbind", "rw"]);
    let escape = mount("bind", &inside, "escape", &["rbind"]);
    let outcome = run(daemon, "true", vec![bind, escape], |_| ());
    assert!(!outside.join("marker").exists());
    // Inside of the rootfs there is no such directory.
    assert!(outcome.is_err());
    assert!(!daemon.is_mounted("c"));
}

pub fn second_mount_below_the_first(daemon: &Daemon) {
    let [data] = dirs(daemon, ["data"]);
    fs::write(data.join("marker"), "x").unwrap();
    let bind = mount("bind", &daemon.rootfs, "", &["rbind", "rw"]);
    let below = mount("bind", &data, "tmp", &["rbind", "ro"]);
    let script = "cat /tmp/marker && ! echo y 2>/dev/null >/tmp/new";
    assert_eq!(run(daemon, script, vec![bind, below], |_| ()).unwrap(), 0);
}

/// A mount that fails undoes those before it.
pub fn failing_mount_undoes_the_others(daemon: &Daemon) {
    let bind = mount("bind", &daemon.rootfs, "", &["rbind", "rw"]);
    let bad = mount("nosuchfs", Path::new("none"), "tmp", &[]);
    let refusal = run(daemon, "true", vec![bind, bad], |_| ()).unwrap_err();
    assert!(refusal.text.contains("nosuchfs") || refusal.text.contains("no such device"), "{}", refusal.text);
    assert!(!daemon.is_mounted("c"));
}

/// Instructions to containerd's mount manager are not ours to ignore.
pub fn options_of_the_mount_manager_are_refused(daemon: &Daemon) {
    let bind = mount("bind", &daemon.rootfs, "", &["rbind", "X-containerd.mkdir.path=/x"]);
    assert!(run(daemon, "true", vec![bind], |_| ()).is_err());
    assert!(!daemon.is_mounted("c"));
}

pub fn read_only_bind(daemon: &Daemon) {
    let bind = mount("bind", &daemon.rootfs, "", &["rbind", "ro", "nosuid"]);
    assert_eq!(run(daemon, "echo x 2>/dev/null >/new && exit 1; exit 0", vec![bind], |_| ()).unwrap(), 0);
    assert!(!daemon.rootfs.join("new").exists());
}

/// No mounts at all: dockerd mounts the rootfs itself.
pub fn rootfs_that_is_there_already(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 3", |_| ());
    let rootfs = daemon.bundle("c").join("rootfs");
    assert!(
        Command::new("cp").arg("-a").arg(daemon.rootfs.join(".")).arg(&rootfs).status().unwrap().success()
    );
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.rootfs.clear();
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 3);
    client.delete("c", "").unwrap();
    assert!(rootfs.join("bin/busybox").exists());
}
