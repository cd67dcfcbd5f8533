//! A network namespace of the tests' own, in which daemons make bridges and addresses that the machine never sees.
//! It goes when the last process in it has ended and the tests have let go of it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::setup;

/// A network namespace with nothing but a loopback device that is up.
#[derive(Debug)]
pub struct PrivateNet {
    namespace: File,
}

impl PrivateNet {
    /// Makes one.
    pub fn new() -> Result<PrivateNet> {
        // A thread of its own, since it cannot be left again without naming the old one.
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
            setup::run(Command::new("busybox").args(["ip", "link", "set", "lo", "up"]))?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = made.join().map_err(|_| anyhow!("the thread for a network namespace panicked"))??;
        Ok(PrivateNet { namespace })
    }

    /// A command that runs `program` inside. Its pid is the program's.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let of_ours = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        command.arg(of_ours).arg("--").arg(program);
        command
    }

    /// Calls `work` inside, on a thread of its own; what it connects stays connected outside.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread in the network namespace panicked"))?
        })
    }
}
