//! Network devices of the host that become a container's (config-linux.md "Network Devices"); and in `home` the way
//! into another network namespace and back.
//!
//! The client is our own: five kinds of message are needed. Of the kept libraries, rtnetlink brings an async
//! runtime; netlink-packet-route 0.25 with netlink-sys adds 400 KB to a small static program for one request and one
//! dump (measured with the release profile), a fifth of what all of davit may be.

pub(crate) mod home;
pub(crate) mod netlink;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use home::Home;
use netlink::{Message, Reply, Socket};

/// Size of `struct ifinfomsg`.
const LINK: usize = 16;
/// Size of `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// Attributes of links and addresses (`linux/if_link.h`, `linux/if_addr.h`).
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What an address is given by its maker: NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN.
const IFA_F_OF_MAKER: u32 = 0x712;

/// Why a device could not be moved: the step, the device, and the kernel's error.
#[derive(Debug)]
pub struct MoveError {
    /// What was done to it.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> MoveError {
    move |source| MoveError { step, source }
}

/// A device as it was on the host.
#[derive(Debug)]
struct Link {
    index: u32,
    up: bool,
}

/// An address that goes along with its device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// `struct ifaddrmsg` but for the index.
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST.
    parts: Vec<(u16, Vec<u8>)>,
}

/// Brings up `lo` of a network namespace. The caller has one thread, and is in its own namespace again when this
/// returns.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN over the namespace.
pub fn loopback_up(target: BorrowedFd<'_>) -> io::Result<()> {
    Home::open()?.leave_for(target, crate::sys::fs::loopback_up)?
}

/// A device that was moved, with what it takes to give it back.
#[derive(Debug)]
pub struct Moved {
    host_name: String,
    inside_name: String,
    up: bool,
    addresses: Vec<Address>,
}

/// The host's and the container's network namespace, with a socket in each.
#[derive(Debug)]
pub struct Mover<'a> {
    target: BorrowedFd<'a>,
    home: Home,
    host: Socket,
    inside: Socket,
}

impl<'a> Mover<'a> {
    /// Opens both sockets. The caller has one thread, and is in its own namespace again when this returns.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN over the namespace.
    pub fn new(target: BorrowedFd<'a>) -> io::Result<Self> {
        let home = Home::open()?;
        let host = Socket::open()?;
        let inside = home.leave_for(target, Socket::open)??;
        Ok(Mover { target, home, host, inside })
    }

    /// Moves a device and renames it in one request, so that no name has to be free on the host; gives it its
    /// permanent global addresses again, which the kernel drops, and brings it up (runc).
    ///
    /// # Errors
    /// ENODEV, EEXIST for a name that the container has already, EINVAL for a kind that can't be moved. The
    /// device is on the host as it was then, unless the way back fails too.
    pub fn take(&mut self, name: &str, inside_name: &str) -> Result<Moved, MoveError> {
        let link = find(&mut self.host, name).map_err(step("find"))?;
        // Before the move, and not after taking it down as runc does: IPv6 addresses are gone then.
        let addresses = addresses(&mut self.host, link.index).map_err(step("read addresses of"))?;
        let mut moved =
            Moved { host_name: name.to_owned(), inside_name: inside_name.to_owned(), up: link.up, addresses };
        if let Err(source) = rename_into(&mut self.host, link.index, inside_name, self.target) {
            // One request, but two steps of the kernel: the device may have moved and kept its name.
            if find(&mut self.host, name).is_err() {
                name.clone_into(&mut moved.inside_name);
                self.give_back(&moved);
            }
            return Err(MoveError { step: "move", source });
        }
        let finished = find(&mut self.inside, inside_name)
            .map_err(step("find in the container"))
            .and_then(|link| set_up(&mut self.inside, link.index, &moved.addresses, true));
        match finished {
            Ok(()) => Ok(moved),
            Err(error) => {
                self.give_back(&moved);
                Err(error)
            }
        }
    }

    /// Moves a device back to the host, as it was. Errors are logged: there is another one to report.
    pub fn give_back(&mut self, moved: &Moved) {
        let back = find(&mut self.inside, &moved.inside_name)
            .and_then(|link| rename_into(&mut self.inside, link.index, &moved.host_name, self.home.as_fd()))
            .and_then(|()| find(&mut self.host, &moved.host_name))
            .map_err(step("move"))
            .and_then(|link| set_up(&mut self.host, link.index, &moved.addresses, moved.up));
        if let Err(error) = back {
            log::warn!("giving network device {} back: {}: {}", moved.host_name, error.step, error.source);
        }
    }
}

/// `struct ifinfomsg`: of any family, with flags to change.
fn link_body(index: u32, flags: u32, change: u32) -> [u8; LINK] {
    let mut body = [0; LINK];
    let numbers = [0, index, flags, change];
    for (place, number) in body.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    body
}

fn find(socket: &mut Socket, name: &str) -> io::Result<Link> {
    let request = Message::new(libc::RTM_GETLINK, libc::NLM_F_ACK as u16, &link_body(0, 0, 0))
        .with(IFLA_IFNAME, &terminated(name))?;
    let replies = socket.request(request)?;
    let link = replies.iter().find(|reply| reply.kind == libc::RTM_NEWLINK).and_then(|reply| {
        Some(Link { index: reply.number(4)?, up: reply.number(8)? & libc::IFF_UP as u32 != 0 })
    });
    link.ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))
}

fn rename_into(socket: &mut Socket, index: u32, name: &str, target: BorrowedFd<'_>) -> io::Result<()> {
    let target = target.as_raw_fd() as u32;
    let request = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16, &link_body(index, 0, 0))
        .with(IFLA_IFNAME, &terminated(name))?
        .with(IFLA_NET_NS_FD, &target.to_ne_bytes())?;
    socket.request(request).map(drop)
}

fn set_up(socket: &mut Socket, index: u32, addresses: &[Address], up: bool) -> Result<(), MoveError> {
    for address in addresses {
        socket
            .request(address.request(index).map_err(step("set an address of"))?)
            .map_err(step("set an address of"))?;
    }
    if up {
        let flag = libc::IFF_UP as u32;
        let request = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16, &link_body(index, flag, flag));
        socket.request(request).map_err(step("bring up"))?;
    }
    Ok(())
}

/// The addresses of a device that mean something in another namespace: permanent, so set by somebody and not
/// by a router's word, and of global scope.
fn addresses(socket: &mut Socket, index: u32) -> io::Result<Vec<Address>> {
    let dump = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP as u16, &[0; ADDRESS]);
    let replies = socket.request(dump)?;
    let all =
        replies.iter().filter(|reply| reply.kind == libc::RTM_NEWADDR && reply.number(4) == Some(index));
    Ok(all
        .filter_map(Address::read)
        .filter(|address| address.flags & IFA_F_PERMANENT != 0 && address.scope == libc::RT_SCOPE_UNIVERSE)
        .collect())
}

impl Address {
    fn read(reply: &Reply) -> Option<Self> {
        let &[family, prefix, flags, scope, ..] = reply.body.as_slice() else { return None };
        let mut address = Address { family, prefix, scope, flags: u32::from(flags), parts: Vec::new() };
        for (kind, value) in reply.attributes(ADDRESS) {
            match kind {
                IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => address.parts.push((kind, value.to_vec())),
                // All 32 bits; the fixed part has 8 of them.
                IFA_FLAGS => address.flags = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        Some(address)
    }

    fn request(&self, index: u32) -> io::Result<Message> {
        let mut body = vec![self.family, self.prefix, 0, self.scope];
        body.extend_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut message = Message::new(libc::RTM_NEWADDR, flags as u16, &body)
            .with(IFA_FLAGS, &(self.flags & IFA_F_OF_MAKER).to_ne_bytes())?;
        for (kind, value) in &self.parts {
            message = message.with(*kind, value)?;
        }
        Ok(message)
    }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_with_its_address() {
        let mut socket = Socket::open().unwrap();
        assert!(find(&mut socket, "lo").unwrap().index > 0);
        assert_eq!(find(&mut socket, "no-such-dev").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        // 127.0.0.1 has host scope: it stays behind.
        assert_eq!(addresses(&mut socket, 1).unwrap(), []);
    }

    #[test]
    fn an_address_is_asked_for_as_it_was() {
        let mut body = vec![2, 24, 0x80, 0];
        body.extend_from_slice(&3u32.to_ne_bytes());
        for (kind, value) in
            [(IFA_ADDRESS, [10, 0, 0, 2]), (3, *b"eth0"), (IFA_FLAGS, 0x282u32.to_ne_bytes())]
        {
            body.extend_from_slice(&8u16.to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(&value);
        }
        let address = Address::read(&Reply { kind: libc::RTM_NEWADDR, body }).unwrap();
        assert_eq!((address.prefix, address.flags), (24, 0x282));
        assert_eq!(address.parts, [(IFA_ADDRESS, vec![10, 0, 0, 2])], "the label has the old name");
        address.request(7).unwrap();
    }
}
