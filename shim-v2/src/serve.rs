//! The daemon: one thread that owns every container of a pod, and the loop that drives it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use davit::sys::fs::adopt;
use davit::sys::prctl::{set_child_subreaper, set_name};
use davit::sys::signal::{BrokenPipe, set_broken_pipe};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::api::{ApiError, Code, Response, Target};
use crate::events::{Next, Publisher};
use crate::flags::Flags;
use crate::io::stream::Stream;
use crate::jobs::Running;
use crate::logging;
use crate::reactor::{Interest, Poller, Timers, Token};
use crate::task::{Container, Ticket, Tombstones};
use crate::wire::conn::{Conn, ConnError};
use crate::wire::events::Event;
use crate::wire::frame::{Decoded, Kind, MESSAGE_LENGTH_MAX};
use crate::wire::task as messages;

/// Descriptor on which `start` hands over the listening socket.
pub const LISTEN_FD: i32 = 3;
/// Descriptor of the read-only clone of the program's mount that `start` made. Who closes the last one waits a
/// millisecond for the kernel to dissolve the mount's namespace: the daemon, so that `start` can answer.
pub const EXE_FD: i32 = 4;
/// Size of the one buffer for reads.
const SCRATCH: usize = 32 << 10;
/// How long shutdown waits for events and answers to leave.
const FLUSH: Duration = Duration::from_secs(5);
/// A shim that nobody is connected to and that has nothing to keep ends after this time.
const IDLE: Duration = Duration::from_secs(60);

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The event queue.
    Events,
    /// A stream whose FIFO has no reader, or whose terminal has no slave.
    Stream(u64),
    /// A Delete that waits for output.
    Drain(Target),
    /// An OOM whose victim was not counted yet.
    Oom(u64),
    /// Nobody is connected, or no container has been made yet.
    Idle,
    /// End, whatever is left.
    Shutdown,
}

/// A stream with what it waits for.
#[derive(Debug)]
pub struct ActiveStream {
    /// The copying itself.
    pub stream: Stream,
    /// Whose stdio.
    pub owner: Target,
    /// What epoll watches for it; nothing before the first turn.
    pub wants: Option<crate::io::stream::Wants>,
    /// Timer rounds so far.
    pub tries: u32,
}

/// Everything the shim knows.
pub struct Server {
    pub(crate) namespace: String,
    pub(crate) poller: Poller,
    pub(crate) timers: Timers<Timer>,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) tombstones: Tombstones,
    pub(crate) processes: HashMap<u64, Target>,
    pub(crate) oom_watches: HashMap<u64, String>,
    pub(crate) workers: BTreeMap<u64, Running>,
    pub(crate) streams: HashMap<u64, ActiveStream>,
    pub(crate) drains: Vec<crate::drain::Drain>,
    pub(crate) publisher: Publisher,
    pub(crate) scratch: Vec<u8>,
    conns: HashMap<u64, Conn>,
    listener: Option<UnixListener>,
    socket_path: Option<PathBuf>,
    signals: SignalFd,
    closing: Option<Instant>,
    shutdown_asked: bool,
    used: bool,
    children_changed: bool,
    /// A container has begun to run: what create and start have used of the program is not needed for now.
    pub(crate) code_unused: bool,
}

/// Serves until shutdown.
///
/// # Errors
/// What keeps the daemon from starting: the listening socket is missing, no epoll.
pub fn run(flags: &Flags) -> io::Result<()> {
    set_name(c"containerd-shim")?;
    // Before there is any container: while it is open the clone is in a mount namespace of its own, and who gets hold of
    // the program's file may make its mount writable again (mount_setattr(2), CVE-2019-5736).
    drop(inherited(EXE_FD)?);
    logging::start(std::path::Path::new("log"), flags.debug);
    // Staying in the bundle would pin its mount.
    std::env::set_current_dir("/")?;
    set_child_subreaper(true)?;
    set_broken_pipe(BrokenPipe::Ignore)?;
    let mut server = Server::new(flags)?;
    server.run_loop()
}

/// Takes over a descriptor of `start`, which no child is to get.
fn inherited(number: i32) -> io::Result<OwnedFd> {
    let fd = adopt(number)?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

impl Server {
    fn new(flags: &Flags) -> io::Result<Server> {
        let listener = UnixListener::from(inherited(LISTEN_FD)?);
        listener.set_nonblocking(true)?;
        let socket_path = listener.local_addr()?.as_pathname().map(std::path::Path::to_owned);
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let poller = Poller::new()?;
        poller.add(listener.as_fd(), Token::Listener, Interest::Read)?;
        poller.add(signals.as_fd(), Token::Signals, Interest::Read)?;
        let mut timers = Timers::new();
        timers.set(Timer::Idle, IDLE);
        let address = std::env::var("TTRPC_ADDRESS").ok();
        Ok(Server {
            namespace: flags.namespace.clone(),
            poller,
            timers,
            containers: BTreeMap::new(),
            tombstones: Tombstones::default(),
            processes: HashMap::new(),
            oom_watches: HashMap::new(),
            workers: BTreeMap::new(),
            streams: HashMap::new(),
            drains: Vec::new(),
            publisher: Publisher::new(address, flags.namespace.clone()),
            scratch: vec![0; SCRATCH],
            conns: HashMap::new(),
            listener: Some(listener),
            socket_path,
            signals,
            closing: None,
            shutdown_asked: false,
            used: false,
            children_changed: false,
            code_unused: false,
        })
    }

    fn run_loop(&mut self) -> io::Result<()> {
        loop {
            for token in self.poller.wait(self.timers.next())? {
                self.event(token);
            }
            for timer in self.timers.due() {
                self.timer(timer);
            }
            // After the pidfds of this batch: a worker's answer comes before what it leaves behind.
            if std::mem::take(&mut self.children_changed) {
                self.reap();
            }
            if self.shutdown_asked && self.containers.is_empty() && self.closing.is_none() {
                self.close();
            }
            if self.code_unused && self.workers.is_empty() && self.publisher.is_empty() {
                self.unmap_code();
            }
            if let Some(deadline) = self.closing {
                let flushed = self.publisher.is_empty() && self.conns.values().all(|c| c.unsent() == 0);
                if (flushed && self.workers.is_empty()) || Instant::now() >= deadline {
                    return Ok(());
                }
            }
        }
    }

    /// A container may run for months, and the shim needs little of its code meanwhile: what is mapped of the
    /// program's file goes back to the page cache, at the cost of a tenth of a millisecond.
    fn unmap_code(&mut self) {
        self.code_unused = false;
        if let Err(e) = davit::sys::memory::unmap_unchanged_files() {
            log::debug!("the program's pages stay mapped: {e}");
        }
    }

    fn event(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.signal(),
            Token::Events => {
                let next = self.publisher.readable(&mut self.scratch);
                self.after_publish(next);
            }
            Token::Conn(serial) => self.serve(serial),
            Token::Worker(serial) => self.worker_ended(serial),
            Token::Process(serial) => self.process_ended(serial),
            Token::Stream(serial) => self.pump(serial),
            Token::Oom(serial) => self.oom(serial),
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Events => {
                let next = self.publisher.expired();
                self.after_publish(next);
            }
            Timer::Stream(serial) => self.stream_timer(serial),
            Timer::Drain(target) => self.drain_timer(&target),
            Timer::Oom(serial) => self.oom(serial),
            Timer::Idle => self.idle(),
            // The loop looks at the deadline.
            Timer::Shutdown => {}
        }
    }

    fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                Some(Signal::SIGCHLD) => self.children_changed = true,
                Some(Signal::SIGUSR1) => self.dump(),
                // Like Go's shim: end; containerd's `delete` then ends the containers.
                Some(_) => self.close(),
                None => {}
            }
        }
    }

    /// One log line for a person who wonders what a shim does.
    fn dump(&self) {
        log::info!(
            "containers {} workers {} streams {} connections {} processes {} events delivered {}",
            self.containers.len(),
            self.workers.len(),
            self.streams.len(),
            self.conns.len(),
            self.processes.len(),
            self.publisher.is_empty()
        );
    }

    /// Queues an event and sends it if nothing is before it.
    pub(crate) fn publish(&mut self, event: Event) {
        self.publisher.push(event);
        let next = self.publisher.advance();
        self.after_publish(next);
    }

    fn after_publish(&mut self, next: Next) {
        for ended in self.publisher.take_ended() {
            self.poller.remove(ended.as_fd());
        }
        if let Some(fd) = self.publisher.new_connection() {
            if let Err(e) = self.poller.add(fd, Token::Events, Interest::Read) {
                log::error!("watch the event connection: {e}");
            }
        }
        match next {
            Next::Unchanged => {}
            Next::Quiet => self.timers.clear(&Timer::Events),
            Next::Answer(time) | Next::Retry(time) => self.timers.set(Timer::Events, time),
        }
    }

    fn accept(&mut self) {
        loop {
            let Some(listener) = &self.listener else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                // EAGAIN, or the client has gone again.
                Err(_) => return,
            };
            if let Err(e) = self.admit(stream) {
                log::warn!("connection refused: {e}");
            }
        }
    }

    /// Only containerd's own user may talk to a shim (Go ttrpc `UnixSocketRequireSameUser`).
    fn admit(&mut self, stream: UnixStream) -> io::Result<()> {
        let peer = getsockopt(&stream, PeerCredentials)?;
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if (peer.uid(), peer.gid()) != (uid, gid) {
            return Err(io::Error::other(format!("peer is uid {} gid {}", peer.uid(), peer.gid())));
        }
        stream.set_nonblocking(true)?;
        let serial = self.poller.serial();
        self.poller.add(stream.as_fd(), Token::Conn(serial), Interest::Read)?;
        self.conns.insert(serial, Conn::new(stream));
        if self.used {
            self.timers.clear(&Timer::Idle);
        }
        Ok(())
    }

    fn serve(&mut self, serial: u64) {
        let Some(conn) = self.conns.get_mut(&serial) else { return };
        if conn.unsent() > 0 {
            if let Err(e) = conn.flush() {
                return self.hang_up(serial, &e);
            }
            if conn.unsent() == 0 {
                let _ = self.poller.modify(conn.as_fd(), Token::Conn(serial), Interest::Read);
            }
        }
        let frames = match conn.receive(&mut self.scratch) {
            Ok(frames) => frames,
            Err(e) => return self.hang_up(serial, &e),
        };
        for frame in frames {
            self.frame(serial, frame);
        }
    }

    fn frame(&mut self, conn: u64, decoded: Decoded) {
        match decoded {
            Decoded::TooLarge { stream, length } => {
                let text = format!("message length {length} exceeds the maximum of 4194304");
                self.reply(Ticket { conn, stream }, &Err(ApiError::new(Code::ResourceExhausted, text)));
            }
            Decoded::Frame(frame) if frame.kind == Kind::Request => {
                let ticket = Ticket { conn, stream: frame.stream };
                let admitted = self.conns.get_mut(&conn).map_or(Ok(()), |c| c.admit(frame.stream));
                if let Err(text) = admitted {
                    return self.reply(ticket, &Err(ApiError::new(Code::InvalidArgument, text)));
                }
                match messages::decode(&frame.payload) {
                    Ok(request) => self.dispatch(ticket, request),
                    Err(error) => self.reply(ticket, &Err(error)),
                }
            }
            Decoded::Frame(frame) => log::warn!("ignored a {:?} frame", frame.kind),
        }
    }

    /// Answers a call; a client that has gone meanwhile is no error.
    pub(crate) fn reply(&mut self, ticket: Ticket, result: &Result<Response, ApiError>) {
        let Some(conn) = self.conns.get_mut(&ticket.conn) else { return };
        let mut payload = messages::encode(result);
        if payload.len() > MESSAGE_LENGTH_MAX {
            let text =
                format!("the answer of {} bytes exceeds the maximum of {MESSAGE_LENGTH_MAX}", payload.len());
            payload = messages::encode(&Err(ApiError::new(Code::ResourceExhausted, text)));
        }
        match conn.send(ticket.stream, Kind::Response, &payload) {
            Ok(()) if conn.unsent() > 0 => {
                let _ = self.poller.modify(conn.as_fd(), Token::Conn(ticket.conn), Interest::Both);
            }
            Ok(()) => {}
            Err(e) => self.hang_up(ticket.conn, &e),
        }
    }

    /// Drops a connection. What its client asked for is still done to the end.
    fn hang_up(&mut self, serial: u64, why: &ConnError) {
        let Some(conn) = self.conns.remove(&serial) else { return };
        if !matches!(why, ConnError::Closed) {
            log::warn!("connection dropped: {why}");
        }
        self.poller.remove(conn.as_fd());
        for container in self.containers.values_mut() {
            for process in container.processes_mut() {
                process.waiters.retain(|ticket| ticket.conn != serial);
            }
        }
        self.look_for_idleness();
    }

    /// A container has been made: from here on containerd says when the shim ends, or goes away.
    pub(crate) fn is_used(&mut self) {
        self.used = true;
        if !self.conns.is_empty() {
            self.timers.clear(&Timer::Idle);
        }
    }

    /// Starts the time after which a shim that nobody is connected to looks whether it is of any use.
    pub(crate) fn look_for_idleness(&mut self) {
        if self.conns.is_empty() {
            self.timers.set(Timer::Idle, IDLE);
        }
    }

    /// The call Shutdown: ends the shim once it has no container.
    pub(crate) fn shutdown(&mut self, ticket: Ticket) {
        self.reply(ticket, &Ok(Response::Empty));
        // A container that is just being made for a client that has given up would stay for ever; one that
        // exists keeps the shim, as in Go's.
        if self.containers.values().all(|c| !c.made) {
            self.shutdown_asked = true;
        }
    }

    /// Whether a container whose create ends now is wanted by nobody.
    pub(crate) fn is_doomed(&self) -> bool {
        self.shutdown_asked || self.closing.is_some()
    }

    /// Begins the end: the socket goes first, so that nobody finds a shim that is about to die.
    fn close(&mut self) {
        if self.closing.is_some() {
            return;
        }
        if let Some(path) = self.socket_path.take() {
            let _ = std::fs::remove_file(path);
        }
        if let Some(listener) = self.listener.take() {
            self.poller.remove(listener.as_fd());
        }
        self.closing = Some(Instant::now() + FLUSH);
        self.timers.set(Timer::Shutdown, FLUSH);
    }

    /// Nobody has been connected for a while: a shim without containers, or one whose containers have ended and
    /// whose bundles were removed behind its back, would leak. So would one that has never had a container though
    /// somebody is connected: containerd 1.6 that was killed before its Create connects to the shim again, and never asks
    /// it to end. (One that has had containers waits for RemovePodSandbox, under containerd 2.)
    fn idle(&mut self) {
        let keep = self.containers.values().any(|c| c.busy || c.init.exit.is_none() || c.bundle.exists());
        let unused = !self.used && self.containers.is_empty();
        if unused || self.conns.is_empty() && !keep {
            log::info!("nothing left to do");
            self.close();
        }
    }
}
