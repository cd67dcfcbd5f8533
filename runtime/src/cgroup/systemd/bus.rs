//! A connection to systemd: over its private socket where that is open to us (root), else over a D-Bus daemon.
//!
//! One thread asks and waits; every wait has a deadline. Calls are few, since systemd serves them one by one: a
//! start is one call and one signal.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::wire::{self, Call, HEADER, Kind, Message, Value, Writer};
use crate::cgroup::dir::Deadline;

/// How long an answer, and then the end of a job, may take: runc's patience.
pub(super) const SECONDS: u64 = 30;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const DAEMON: &str = "org.freedesktop.DBus";
const DAEMON_PATH: &str = "/org/freedesktop/DBus";

/// Why a call did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// systemd's (or the bus daemon's) answer: name of the error and its text.
    Refused { name: String, text: String },
    /// The other end went away: it is being executed anew (`systemctl daemon-reexec`, an upgrade) and is back soon.
    Lost(String),
    /// No answer, or none that can be understood.
    Broken(String),
}

impl Failure {
    /// Whether the answer was this error of systemd's.
    pub(super) fn is(&self, error: &str) -> bool {
        matches!(self, Failure::Refused { name, .. } if name.strip_prefix(SYSTEMD) == Some(error))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused { name, text } => write!(f, "{text} ({name})"),
            Failure::Lost(why) | Failure::Broken(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock,
        };
        match error.kind() {
            WouldBlock | TimedOut => Failure::Broken(format!("no answer within {SECONDS} s")),
            UnexpectedEof => Failure::Lost("the connection was closed".to_owned()),
            BrokenPipe | ConnectionRefused | ConnectionReset => Failure::Lost(error.to_string()),
            _ => Failure::Broken(error.to_string()),
        }
    }
}

/// Whether a daemon stands between us and systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// systemd itself.
    Systemd,
    /// A bus daemon, which wants Hello and has to be asked for signals.
    Daemon,
}

/// A socket where systemd may be found, as a D-Bus address (`unix:path=…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) text: String,
    pub(super) peer: Peer,
}

/// Where to look, in order. A user's own manager is asked instead of the system's with `user`.
pub(super) fn addresses(user: bool, env: impl Fn(&str) -> Option<String>) -> Vec<Address> {
    let at = |path: String, peer| Address { text: format!("unix:path={path}"), peer };
    let given = |name: &str| {
        let value = env(name).filter(|value| !value.is_empty());
        value.map(|text| Address { text, peer: Peer::Daemon })
    };
    if !user {
        let system = || at("/run/dbus/system_bus_socket".to_owned(), Peer::Daemon);
        let private = at("/run/systemd/private".to_owned(), Peer::Systemd);
        return vec![private, given("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(system)];
    }
    let runtime_dir = env("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let private = runtime_dir.as_ref().map(|dir| at(format!("{dir}/systemd/private"), Peer::Systemd));
    let session = given("DBUS_SESSION_BUS_ADDRESS")
        .or_else(|| runtime_dir.as_ref().map(|dir| at(format!("{dir}/bus"), Peer::Daemon)));
    private.into_iter().chain(session).collect()
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Active,
    Gone,
}

/// A method of the manager that queues a job.
#[derive(Debug)]
pub(super) struct Job<'j> {
    pub(super) member: &'j str,
    pub(super) signature: &'j str,
    pub(super) body: &'j [u8],
    pub(super) unit: &'j str,
    pub(super) goal: Goal,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    /// The address, for errors.
    pub(super) address: String,
    serial: u32,
    /// Jobs that ended while we waited for something else: path and result.
    ended: Vec<(String, String)>,
}

impl Connection {
    /// Connects to the first address that answers. The error names all that were tried.
    pub(super) fn open(addresses: &[Address]) -> Result<Connection, Failure> {
        let mut tried = Vec::new();
        let mut lost = false;
        for address in addresses {
            match Connection::try_open(address) {
                Ok(connection) => return Ok(connection),
                Err(failure) => {
                    lost |= matches!(failure, Failure::Lost(_));
                    tried.push(format!("{}: {failure}", address.text));
                }
            }
        }
        if tried.is_empty() {
            tried.push("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set".to_owned());
        }
        let tried = tried.join("; ");
        Err(if lost { Failure::Lost(tried) } else { Failure::Broken(tried) })
    }

    fn try_open(address: &Address) -> Result<Connection, Failure> {
        let socket = connect(&address.text)?;
        let mut connection =
            Connection { socket, address: address.text.clone(), serial: 0, ended: Vec::new() };
        connection.authenticate()?;
        if address.peer == Peer::Daemon {
            connection.daemon("Hello", None)?;
            let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
            connection.daemon("AddMatch", Some(&rule))?;
            connection.manager("Subscribe", "", Vec::new())?;
        }
        Ok(connection)
    }

    /// Who we are the socket's own credentials say, also from inside a user namespace, where our uid is another
    /// than the peer's view of it: so no uid is named (D-Bus Specification, "EXTERNAL").
    ///
    /// All lines go at once, as sd-bus sends them. systemd would not look at a call that it happens to read
    /// together with BEGIN before something else arrives: after its OK it has read BEGIN.
    fn authenticate(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after(SECONDS);
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", deadline)?;
        loop {
            let answer = self.line(deadline)?;
            if answer.starts_with("OK") {
                return Ok(());
            }
            if !answer.starts_with("DATA") {
                return Err(Failure::Broken(format!("authentication: {:?}", answer.trim_end())));
            }
        }
    }

    /// One line of the authentication, and not a byte more: a message may follow it.
    fn line(&mut self, deadline: Deadline) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut seen = [0; 256];
            self.socket.set_read_timeout(Some(left(deadline)?))?;
            let length = recv(self.socket.as_raw_fd(), &mut seen, MsgFlags::MSG_PEEK)?;
            let seen = seen.get_mut(..length).unwrap_or_default();
            let end = seen.iter().position(|byte| *byte == b'\n').map_or(length, |at| at + 1);
            let part = seen.get_mut(..end).filter(|part| !part.is_empty());
            let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.socket.read_exact(part)?;
            line.extend_from_slice(part);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        self.socket.set_write_timeout(Some(left(deadline)?))?;
        self.socket.write_all(bytes)
    }

    fn receive(&mut self, buffer: &mut [u8], deadline: Deadline) -> io::Result<()> {
        self.socket.set_read_timeout(Some(left(deadline)?))?;
        self.socket.read_exact(buffer)
    }

    fn message(&mut self, deadline: Deadline) -> Result<Message, Failure> {
        let malformed = || Failure::Broken("malformed message".to_owned());
        let mut header = [0; HEADER];
        self.receive(&mut header, deadline)?;
        let mut bytes = header.to_vec();
        bytes.resize(HEADER + wire::rest(&header).ok_or_else(malformed)?, 0);
        self.receive(bytes.get_mut(HEADER..).unwrap_or_default(), deadline)?;
        Message::parse(&bytes).ok_or_else(malformed)
    }

    /// Calls and waits for the answer.
    fn call(&mut self, call: &Call<'_>, body: &[u8]) -> Result<Message, Failure> {
        let deadline = Deadline::after(SECONDS);
        self.serial += 1;
        let serial = self.serial;
        self.send(&wire::encode(call, serial, body), deadline)?;
        loop {
            let message = self.message(deadline)?;
            match message.kind {
                Kind::Reply if message.reply_serial == serial => return Ok(message),
                Kind::Error if message.reply_serial == serial => {
                    let text = message.first_text();
                    return Err(match message.error_name.as_str() {
                        // The daemon's words for a systemd that went away.
                        "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Disconnected" => {
                            Failure::Lost(text)
                        }
                        _ => Failure::Refused { name: message.error_name, text },
                    });
                }
                _ => self.ended.extend(message.job_removed()),
            }
        }
    }

    fn daemon(&mut self, member: &str, argument: Option<&str>) -> Result<Message, Failure> {
        let mut body = Writer::default();
        if let Some(argument) = argument {
            body.value(&Value::Text(argument.to_owned()));
        }
        let signature = if argument.is_some() { "s" } else { "" };
        let call = Call { destination: DAEMON, path: DAEMON_PATH, interface: DAEMON, member, signature };
        self.call(&call, &body.into_bytes())
    }

    /// A method of systemd's manager.
    pub(super) fn manager(
        &mut self,
        member: &str,
        signature: &str,
        body: Vec<u8>,
    ) -> Result<Message, Failure> {
        let call = Call { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member, signature };
        self.call(&call, &body)
    }

    /// A method that queues a job of a unit: waits until that has ended; gives its result (`done`, `failed`…).
    pub(super) fn job(&mut self, job: &Job<'_>) -> Result<String, Failure> {
        self.ended.clear();
        let path = self.manager(job.member, job.signature, job.body.to_vec())?.first_text();
        let deadline = Deadline::after(SECONDS);
        loop {
            // It can end before the answer to the call is read.
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == path) {
                return Ok(result.clone());
            }
            if self.is_readable(Duration::from_secs(1).min(left(deadline)?))? {
                let message = self.message(deadline)?;
                self.ended.extend(message.job_removed());
                continue;
            }
            // Signals get lost while systemd reloads: look for ourselves.
            let state = self.active_state(job.unit)?;
            match (job.goal, state.as_deref()) {
                (Goal::Active, Some("active")) | (Goal::Gone, None | Some("inactive" | "failed")) => {
                    return Ok("done".to_owned());
                }
                (Goal::Active, Some("failed")) => return Ok("failed".to_owned()),
                _ => {}
            }
        }
    }

    fn is_readable(&self, within: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => Ok(false),
            result => Ok(result? > 0),
        }
    }

    /// ActiveState of a unit; None when there is none of the name.
    fn active_state(&mut self, unit: &str) -> Result<Option<String>, Failure> {
        let mut body = Writer::default();
        body.value(&Value::Text(unit.to_owned()));
        match self.manager("GetUnit", "s", body.into_bytes()) {
            Ok(reply) => {
                let path = reply.first_text();
                self.get(&path, "org.freedesktop.systemd1.Unit", "ActiveState").map(Some)
            }
            Err(failure) if failure.is(".NoSuchUnit") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// A property of systemd's manager that is a string.
    pub(super) fn property(&mut self, name: &str) -> Result<String, Failure> {
        self.get(MANAGER_PATH, MANAGER, name)
    }

    fn get(&mut self, path: &str, interface: &str, name: &str) -> Result<String, Failure> {
        let mut body = Writer::default();
        body.value(&Value::Text(interface.to_owned()));
        body.value(&Value::Text(name.to_owned()));
        let interface = "org.freedesktop.DBus.Properties";
        let call = Call { destination: SYSTEMD, path, interface, member: "Get", signature: "ss" };
        let reply = self.call(&call, &body.into_bytes())?;
        reply.text_in_variant().ok_or_else(|| Failure::Broken(format!("property {name} is no string")))
    }
}

/// Time that is left; a socket takes no timeout of zero.
fn left(deadline: Deadline) -> io::Result<Duration> {
    let left = deadline.left();
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Connects to a D-Bus address: the first `unix:` transport in the list.
fn connect(address: &str) -> io::Result<UnixStream> {
    for transport in address.split(';') {
        let Some(pairs) = transport.strip_prefix("unix:") else { continue };
        for (key, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
            let value = unescape(value).ok_or(io::ErrorKind::InvalidInput)?;
            match key {
                "path" => return UnixStream::connect(Path::new(&value)),
                "abstract" => return UnixStream::connect_addr(&SocketAddr::from_abstract_name(value)?),
                _ => {}
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not an address of a unix socket"))
}

/// `%XX` of a D-Bus address.
fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_systemd_is_looked_for() {
        let texts = |user, env: &[(&str, &str)]| {
            let get = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            addresses(user, get).into_iter().map(|address| address.text).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(false, &[]),
            ["unix:path=/run/systemd/private", "unix:path=/run/dbus/system_bus_socket"]
        );
        assert_eq!(texts(false, &[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")])[1], "unix:path=/x");
        assert_eq!(
            texts(true, &[("XDG_RUNTIME_DIR", "/run/user/5")]),
            ["unix:path=/run/user/5/systemd/private", "unix:path=/run/user/5/bus"]
        );
        assert_eq!(texts(true, &[("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=a")]), ["unix:abstract=a"]);
        assert!(texts(true, &[]).is_empty());
    }

    #[test]
    fn escapes_of_addresses() {
        assert_eq!(unescape("/a%20b").as_deref(), Some("/a b"));
        assert_eq!(unescape("/a%2"), None);
        assert!(connect("tcp:host=localhost").is_err());
    }
}
