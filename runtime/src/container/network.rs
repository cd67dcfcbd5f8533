//! The container's network namespace, where the runtime makes it while init mounts
//! ([`Namespaces::network_apart`](crate::plan::Namespaces::network_apart)).

use std::os::fd::AsFd;

use super::Result;
use super::spawn::no_namespaces;
use crate::init::{Channel, Context, Failure, Kind};
use crate::net::home::{Home, NotMade};

/// Whence the runtime may leave, and come back to; found before there is an init.
pub(super) fn home() -> Result<Option<Home>> {
    Ok(Home::with_return().during("open", || "/proc/thread-self/ns/net")?)
}

/// Makes the namespace and sends it to init.
///
/// # Errors
/// The step that failed.
pub(super) fn make(home: &Home, channel: &Channel) -> Result<()> {
    let made = home.make_other().map_err(|error| match error {
        NotMade::Unshare(e) => no_namespaces("make network namespace", libc::CLONE_NEWNET as u64, &e),
        NotMade::Loopback(e) => Failure::new("bring up", "lo", &e),
        NotMade::Open(e) => Failure::new("open network namespace", "", &e),
        NotMade::Return(e) => Failure::new("return to the runtime's network namespace", "", &e),
    })?;
    Ok(channel
        .send_with(Kind::Network, &[], Some(made.as_fd()))
        .during("send network namespace", String::new)?)
}
