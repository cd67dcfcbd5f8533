//! A terminal for a command, as a person at a keyboard has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Result;
use nix::pty::{OpenptyResult, Winsize, openpty};

use crate::setup::run;

/// A command that runs on a terminal of its own.
pub struct OnTerminal {
    child: Child,
    master: File,
    slave: OwnedFd,
}

impl OnTerminal {
    /// Starts `command` as leader of a session whose controlling terminal has this size.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<OnTerminal> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None)?;
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        let child = session
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave.try_clone()?))
            .spawn()?;
        Ok(OnTerminal { child, master: File::from(master), slave })
    }

    /// Gives the terminal another size; the kernel tells the command by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.resizer()?.resize(rows, columns)
    }

    /// What another thread changes the size with.
    pub fn resizer(&self) -> Result<Resizer> {
        Ok(Resizer(self.slave.try_clone()?))
    }

    /// Types this.
    pub fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Reads until `word` has been shown, and gives all that was shown; fails at the end of output.
    pub fn read_until(&mut self, word: &str) -> Result<String> {
        let mut seen = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if text.contains(word) {
                return Ok(text);
            }
            match self.master.read(&mut buffer) {
                Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
                _ => anyhow::bail!("the terminal ended before {word:?}; it showed {text:?}"),
            }
        }
    }

    /// Waits for the command's end; gives its status and the rest of what it showed.
    pub fn finish(mut self) -> Result<(ExitStatus, String)> {
        // With our own slave closed, reading the master ends (EIO) when the last user of the terminal is gone.
        drop(self.slave);
        let mut rest = Vec::new();
        let _ = self.master.read_to_end(&mut rest);
        Ok((self.child.wait()?, String::from_utf8_lossy(&rest).into_owned()))
    }
}

/// Changes a terminal's size. As long as it is there the terminal has not ended.
pub struct Resizer(OwnedFd);

impl Resizer {
    /// See [`OnTerminal::resize`].
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows, "cols", &columns]).stdin(Stdio::from(self.0.try_clone()?));
        let out = stty.output()?;
        anyhow::ensure!(out.status.success(), "stty: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

/// Whether the programs that `OnTerminal` runs are there.
pub fn available() -> bool {
    run(Command::new("setsid").arg("--version")).is_ok()
}
