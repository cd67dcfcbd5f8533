//! The only ways to touch a path once a rootfs is involved (DESIGN section 5, rules 1 to 4).
//!
//! Two kinds of path exist. A *host path* comes from config.json or the command line and is trusted; it
//! is opened on the host before the root changes. A *root path* names something inside the rootfs, which
//! is hostile: it may hold symlinks to anywhere, and other containers that share mounts may change it
//! while we look. [`RootDir`] resolves root paths with openat2(2) (kernel 5.6; `walk` before) so that no component
//! leaves the rootfs, and hands out descriptors: what is done afterwards is done to the descriptor. In here, in
//! `rootfs` and in `init` other ways to a file are clippy's errors.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod host;
mod proc;
mod root;
mod walk;

pub use proc::{Descriptors, ProcFs};
pub use root::{Create, Found, RootDir};
