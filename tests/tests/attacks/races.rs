//! Racers: another container exchanges a component of a path while this one is made.

use std::fs;

use serde_json::json;

use crate::support::{Canary, Volume, create_until_met, creates, enter, run, until_met};

/// A mount whose destination leads through what the racer exchanges. Either half of the swap is inside the root: a
/// link of the volume is the container's, wherever it points.
#[test]
fn cve_2021_30465_mount_destination_swapped_for_a_link() {
    let Some(world) = enter("cve_2021_30465_mount_destination_swapped_for_a_link") else { return };
    let canary = Canary::new(&world, "canary");
    let volume = Volume::new(&world, "vol", canary.path());
    let mut bundle = world.bundle();
    bundle
        .mount("/mnt", "bind", volume.text(), &["rbind"])
        .mount("/mnt/sw/deep", "tmpfs", "marker", &[])
        .script("awk '/ - tmpfs marker /{print $5}' /proc/self/mountinfo; cat /mnt/*/secret; true");
    let racer = volume.race();
    let (mut direct, mut linked, mut failed) = (0, 0, 0);
    create_until_met(&racer, || {
        let output = run(&world, &bundle);
        assert!(!output.stdout.contains(crate::support::SECRET), "{}", output.stdout);
        match output.stdout.trim_end() {
            // Seen below the volume, at whichever name it has by now.
            "/mnt/sw/deep" | "/mnt/other/deep" => direct += 1,
            point if point.ends_with("canary/deep") => linked += 1,
            // A clean error; a container that runs has the mount somewhere in its root.
            "" if output.code != 0 => failed += 1,
            other => panic!("the mount is at {other:?}: {} {}", output.code, output.error()),
        }
        direct > 0 && linked > 0
    });
    let swaps = racer.stop();
    println!("{swaps} swaps: {direct} at the directory, {linked} behind the link, {failed} failed");
    canary.assert_untouched();
}

/// Missing parents of a mount point are made where the link led a moment ago.
#[test]
fn cve_2024_45310_directories_are_made_in_the_root() {
    let Some(world) = enter("cve_2024_45310_directories_are_made_in_the_root") else { return };
    made_in_the_root(&world, |bundle, at| {
        bundle.mount(&format!("/mnt/sw/{at}/x"), "tmpfs", "tmpfs", &[]);
    });
}

/// The same for the empty file that a bind of a file goes on.
#[test]
fn cve_2024_45310_files_are_made_in_the_root() {
    let Some(world) = enter("cve_2024_45310_files_are_made_in_the_root") else { return };
    made_in_the_root(&world, |bundle, at| {
        bundle.mount(&format!("/mnt/sw/{at}"), "bind", "/etc/hostname", &["bind"]);
    });
}

fn made_in_the_root(world: &davit_tests::World, add: impl Fn(&mut davit_tests::Bundle, &str)) {
    let mut serial = 0;
    let mut next = |volume: &Volume| {
        serial += 1;
        let mut bundle = world.bundle();
        bundle.mount("/mnt", "bind", volume.text(), &["rbind"]).args(&["true"]);
        let name = format!("new{serial}");
        add(&mut bundle, &name);
        (bundle, name)
    };
    assert_path_lookups_are_raced(world);
    if creates() >= 1000 && crate::support::has_old_runc() {
        // Some hundred creates by runc take minutes.
        let weak = Canary::new(world, "weak");
        let volume = Volume::new(world, "weak-vol", weak.path());
        let racer = volume.race();
        let tries = (0..1000).take_while(|_| {
            crate::support::run_by_old_runc(world, &next(&volume).0);
            !weak.is_touched()
        });
        let tries = tries.count();
        assert!(tries < 1000, "the attack did not work on runc 1.1.5");
        println!("runc 1.1.5 made it on the host at try {tries}");
        drop(racer);
    }

    let canary = Canary::new(world, "canary");
    let volume = Volume::new(world, "vol", canary.path());
    let racer = volume.race();
    let (mut direct, mut linked) = (0, 0);
    create_until_met(&racer, || {
        let (bundle, name) = next(&volume);
        run(world, &bundle);
        // A link of the volume means a place in the root.
        linked += u32::from(bundle.rootfs(&canary.text()[1..]).join(&name).exists());
        let real = ["sw", "other"].map(|half| std::path::Path::new(volume.text()).join(half).join(&name));
        direct += u32::from(real.iter().any(|path| path.exists()));
        fs::remove_dir_all(bundle.dir()).unwrap();
        direct > 0 && linked > 0
    });
    println!("{} swaps: {direct} made in the directory, {linked} behind the link", racer.stop());
    canary.assert_untouched();
}

/// That the race can be won: what runc 1.1.5 does, which looks at the path and then uses it, makes a directory where
/// the link leads.
fn assert_path_lookups_are_raced(world: &davit_tests::World) {
    let weak = Canary::new(world, "weak-lookup");
    let volume = Volume::new(world, "weak-lookup-vol", weak.path());
    let racer = volume.race();
    let sw = std::path::Path::new(volume.text()).join("sw");
    let mut serial = 0u64;
    until_met("a directory behind the link", || {
        serial += 1;
        if fs::symlink_metadata(&sw).is_ok_and(|found| found.is_dir()) {
            // runc is slower between the two than a program that does nothing else.
            std::thread::yield_now();
            let _ = fs::create_dir(sw.join(format!("new{serial}")));
        }
        serial % 100 == 0 && weak.is_touched()
    });
    drop(racer);
}

/// The working directory, masked and read-only paths are made and covered through the racer's link too.
#[test]
fn masks_and_working_directory_stay_in_the_root() {
    let Some(world) = enter("masks_and_working_directory_stay_in_the_root") else { return };
    let canary = Canary::new(&world, "canary");
    let volume = Volume::new(&world, "vol", canary.path());
    let mut bundle = world.bundle();
    fs::create_dir_all(bundle.rootfs(&canary.text()[1..]).join("deep")).unwrap();
    bundle
        .mount("/mnt", "bind", volume.text(), &["rbind"])
        .set("/root/readonly", json!(false))
        .set("/process/cwd", json!("/mnt/sw/work"))
        // On both sides of the swap.
        .push("/linux/maskedPaths", json!("/mnt/sw/deep"))
        .push("/linux/readonlyPaths", json!("/mnt/sw/deep"))
        .script("cat secret ../secret ../../secret 2>/dev/null; pwd");
    let racer = volume.race();
    let (mut direct, mut linked, mut failed) = (0, 0, 0);
    create_until_met(&racer, || {
        let output = run(&world, &bundle);
        assert!(!output.stdout.contains(crate::support::SECRET), "{}", output.stdout);
        match output.stdout.trim_end() {
            // A clean error: what was made is behind the other half by now.
            "" if output.code != 0 => failed += 1,
            place if place.ends_with("canary/work") => linked += 1,
            _ => direct += 1,
        }
        direct > 0 && linked > 0
    });
    let swaps = racer.stop();
    println!("{swaps} swaps: {direct} started in the directory, {linked} behind the link, {failed} failed");
    canary.assert_untouched();
}

/// CVE-2023-27561 and CVE-2019-19921 as a race: the directory that has become /proc is exchanged for another one
/// before it is masked. The masks must be where the procfs is.
#[test]
fn cve_2019_19921_masks_follow_a_proc_that_is_exchanged() {
    let Some(world) = enter("cve_2019_19921_masks_follow_a_proc_that_is_exchanged") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let decoy = bundle.rootfs("decoy");
    for name in ["kcore", "keys", "timer_list", "sysrq-trigger"] {
        fs::create_dir_all(&decoy).unwrap();
        fs::write(decoy.join(name), "decoy").unwrap();
    }
    fs::create_dir_all(decoy.join("sys/kernel")).unwrap();
    let racer = crate::support::Racer::swap(&bundle.rootfs("proc"), &decoy);
    let (mut made, mut moved) = (0, 0);
    create_until_met(&racer, || {
        let c = world.container(&bundle);
        if c.create(&[]).code == 0 {
            let pid = c.pid();
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            moved += i32::from(assert_proc_is_masked(&table));
            made += 1;
        }
        c.finish();
        moved > 0
    });
    println!("{} swaps; {made} containers, the procfs of {moved} is not at /proc", racer.stop());
}

/// Asserts that a procfs of a mount table has its masks and read-only parts; tells whether it is not at /proc. Mounts
/// are told by their ids: names change while the table is read.
fn assert_proc_is_masked(table: &str) -> bool {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = table.lines().map(fields).collect();
    let is_proc = |line: &&Vec<String>| line[3] == "/" && line.windows(2).any(|w| w == ["-", "proc"]);
    let proc = lines.iter().find(is_proc).unwrap_or_else(|| panic!("no procfs: {table}"));
    let covered = |name: &str| {
        let above = lines.iter().find(|line| line[1] == proc[0] && line[4].ends_with(&format!("/{name}")));
        above.unwrap_or_else(|| panic!("{name} is not covered: {table}"))
    };
    // What this kernel has of the bundle's paths.
    let here = |name: &&str| std::path::Path::new("/proc").join(name).exists();
    for name in ["kcore", "keys", "timer_list"].into_iter().filter(here) {
        assert_eq!(covered(name)[3], "/null", "{name}: {table}");
    }
    for name in ["sys", "sysrq-trigger"].into_iter().filter(here) {
        assert!(covered(name)[5].starts_with("ro"), "{name} can be written: {table}");
    }
    proc[4] != "/proc"
}

/// The image's links as they lie, without a race (CVE-2019-18837 of crun): absolute, relative, in a chain.
#[test]
fn cve_2019_18837_links_of_the_image_stay_in_the_root() {
    let Some(world) = enter("cve_2019_18837_links_of_the_image_stay_in_the_root") else { return };
    let canary = Canary::new(&world, "canary");
    let up = "../".repeat(20);
    let mut bundle = world.bundle();
    let link = |name: &str, target: &str| {
        std::os::unix::fs::symlink(target, bundle.rootfs("mnt").join(name)).unwrap();
    };
    link("absolute", canary.text());
    link("up", &format!("{up}{}", &canary.text()[1..]));
    link("chain", "/mnt/up");
    link("self", "/proc/self/root");
    for name in ["absolute", "up"] {
        let outside = fs::canonicalize(bundle.rootfs("mnt").join(name)).unwrap();
        assert_eq!(
            outside,
            fs::canonicalize(canary.path()).unwrap(),
            "on the host {name} leads to the canary"
        );
    }
    for name in ["absolute", "up", "chain"] {
        bundle
            .mount(&format!("/mnt/{name}"), "tmpfs", "tmpfs", &[])
            .mount(&format!("/mnt/{name}/deep/new"), "tmpfs", "tmpfs", &[])
            .mount(&format!("/mnt/{name}/file"), "bind", "/etc/hostname", &["bind"]);
    }
    bundle.set("/root/readonly", json!(false)).script("cat /mnt/*/secret 2>/dev/null; true");
    assert_eq!(run(&world, &bundle).ok().stdout, "");
    bundle.mount("/mnt/self/tmp/x", "tmpfs", "tmpfs", &[]);
    // A magic link of a procfs that is mounted already.
    run(&world, &bundle).fails(1, "too many symbolic links");
    canary.assert_untouched();
}
