//! Disks for limits of block devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::World;

/// Numbers of disks on this machine.
#[derive(Debug)]
pub struct Disks {
    /// One that can be throttled.
    pub first: (u64, u64),
    /// One that has the BFQ scheduler, which alone knows weights per device. A loop device of the test's own.
    pub bfq: Option<(u64, u64)>,
    own: Option<PathBuf>,
}

impl Disks {
    /// Finds a disk and makes the loop device; without it when the kernel has no loop device or no BFQ.
    ///
    /// # Panics
    /// When the machine has no disk.
    #[must_use]
    pub fn new(world: &World) -> Disks {
        let list = Command::new("lsblk").args(["-dnro", "MAJ:MIN,TYPE"]).output().expect("lsblk");
        let text = String::from_utf8(list.stdout).expect("UTF-8");
        let line = text.lines().find(|line| line.ends_with(" disk")).expect("a disk");
        let (major, minor) = line.split(' ').next().and_then(|pair| pair.split_once(':')).expect("numbers");
        let first = (major.parse().expect("major"), minor.parse().expect("minor"));
        match loop_device(&world.path(&crate::unique("disk"))) {
            Ok(own) => {
                let device = fs::metadata(&own).expect("loop device").rdev();
                let bfq = Some((nix::sys::stat::major(device), nix::sys::stat::minor(device)));
                Disks { first, bfq, own: Some(own) }
            }
            Err(reason) => {
                println!("no disk with BFQ: {reason}");
                Disks { first, bfq: None, own: None }
            }
        }
    }
}

fn loop_device(file: &Path) -> Result<PathBuf, String> {
    fs::File::create(file).and_then(|file| file.set_len(16 << 20)).map_err(|e| e.to_string())?;
    let made =
        Command::new("losetup").args(["-f", "--show"]).arg(file).output().map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned());
    }
    let path = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
    set_scheduler(&path, "bfq").map(|()| path.clone()).map_err(|e| {
        detach(&path);
        format!("scheduler bfq of {}: {e}", path.display())
    })
}

fn set_scheduler(device: &Path, name: &str) -> std::io::Result<()> {
    let device = device.file_name().unwrap_or_default();
    fs::write(Path::new("/sys/block").join(device).join("queue/scheduler"), name)
}

fn detach(device: &Path) {
    let _ = Command::new("losetup").arg("-d").arg(device).status();
}

impl Drop for Disks {
    fn drop(&mut self) {
        if let Some(device) = &self.own {
            // It keeps its scheduler for whoever uses the number next.
            let _ = set_scheduler(device, "none");
            detach(device);
        }
    }
}
