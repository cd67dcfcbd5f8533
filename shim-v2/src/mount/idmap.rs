//! `uidmap=` and `gidmap=`: how containerd gives a pod with a user namespace an image that root of the host owns.
//!
//! For an overlay the lower layers are id-mapped (kernel 5.19); else the mount itself (5.12, by filesystem).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use davit::plan::IdMaps;
use davit::sys::mount::{MountAttr, Reach, clone_tree, mount_setattr, move_mount};
use nix::mount::{MntFlags, umount2};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::MountError;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Directory beside the rootfs where mapped layers are for the moment of the overlay's mount: before kernel 6.15
/// overlayfs refuses layers that are mounted nowhere.
const LAYERS: &str = ".lower";

/// Reads `container:host:size[,…]`; commas can't come through a list of options, so there is one range mostly.
fn ranges(text: &str) -> Option<Vec<LinuxIdMapping>> {
    text.split(',')
        .map(|range| {
            let mut numbers = range.split(':').map(|n| n.parse::<u32>().ok());
            let mapping = LinuxIdMappingBuilder::default()
                .container_id(numbers.next()??)
                .host_id(numbers.next()??)
                .size(numbers.next()??);
            if numbers.next().is_some() { None } else { mapping.build().ok() }
        })
        .collect()
}

/// A user namespace of the two options' values.
///
/// # Errors
/// [`MountError::IdMap`].
pub fn namespace((uids, gids): &(String, String)) -> Result<OwnedFd, MountError> {
    let fail = |option: &str, text: String| MountError::IdMap { option: option.to_owned(), text };
    let read = |text: &String| ranges(text).ok_or_else(|| fail(text, "not container:host:size".to_owned()));
    let maps = IdMaps { uids: read(uids)?, gids: read(gids)? };
    davit::container::user_namespace(&maps).map_err(|failure| fail(uids, failure.to_string()))
}

/// A detached copy of the mount at `path`, with its ids mapped.
///
/// # Errors
/// EINVAL for a filesystem that can't be id-mapped.
pub fn mapped(path: &Path, reach: Reach, userns: &OwnedFd) -> io::Result<OwnedFd> {
    let dir = File::open(path)?;
    let tree = clone_tree(dir.as_fd(), c"", reach)?;
    let attr =
        MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), &attr, reach)?;
    Ok(tree)
}

/// Mapped copies of an overlay's lower layers. They are needed until the overlay is mounted.
#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
    places: Vec<PathBuf>,
}

impl Layers {
    /// Maps the layers of `lowerdir=` and answers with the option's new value.
    ///
    /// # Errors
    /// As [`mapped`].
    pub fn map(lower: &str, rootfs: &Path, userns: &OwnedFd) -> io::Result<(Layers, String)> {
        let mut layers = Layers { dir: beside(rootfs), places: Vec::new() };
        fs::create_dir_all(&layers.dir)?;
        for (number, layer) in lower.split(':').enumerate() {
            let tree = mapped(Path::new(layer), Reach::One, userns)?;
            let place = layers.dir.join(number.to_string());
            fs::create_dir_all(&place)?;
            layers.places.push(place.clone());
            move_mount(tree.as_fd(), File::open(&place)?.as_fd())?;
        }
        let value = layers.places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(":");
        Ok((layers, value))
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        for place in &self.places {
            // The overlay has copies of its own. One that failed before its mount is just a directory.
            let _ = umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            let _ = fs::remove_dir(place);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

fn beside(rootfs: &Path) -> PathBuf {
    rootfs.parent().unwrap_or(rootfs).join(LAYERS)
}

/// Removes what a killed worker has left of [`Layers`].
pub fn remove_left(rootfs: &Path) {
    let dir = beside(rootfs);
    let Ok(entries) = fs::read_dir(&dir) else { return };
    let places = entries.flatten().map(|entry| entry.path()).collect();
    drop(Layers { dir, places });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_option() {
        let found = ranges("0:65536:1000").unwrap();
        let one = found.first().unwrap();
        assert_eq!((one.container_id(), one.host_id(), one.size(), found.len()), (0, 65536, 1000, 1));
        for bad in ["", "0:1", "0:1:2:3", "a:1:2", "0:1:-2"] {
            assert!(ranges(bad).is_none(), "{bad}");
        }
    }
}
