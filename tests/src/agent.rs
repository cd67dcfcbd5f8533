//! A seccomp agent (`agent.py`): who answers the calls that a filter notifies of.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{World, unique, wait_until};

/// What [`Agent::settle`] sends in place of a state.
const BARRIER: &str = "barrier";

/// A running agent; ends when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    log: PathBuf,
    /// Its socket.
    pub path: PathBuf,
}

impl Agent {
    /// Starts one with these answers, as `agent.py` reads them; `None` when there is no Python.
    ///
    /// # Panics
    /// When it does not listen.
    #[must_use]
    pub fn start(world: &World, answers: &Value) -> Option<Agent> {
        if !Path::new("/usr/bin/python3").exists() {
            return crate::skip("seccomp agent", "no python3: apt-get install python3-minimal");
        }
        let name = unique("agent");
        let (path, log) = (world.path(&format!("{name}.sock")), world.path(&format!("{name}.log")));
        let process = Command::new("python3")
            .arg("-c")
            .arg(include_str!("agent.py"))
            .args([&path, &log])
            .arg(answers.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("python3");
        let agent = Agent { process, log, path };
        wait_until("the agent", || agent.lines().iter().any(|line| line["listening"] == true));
        Some(agent)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The states that it has noted: what was sent may be in its socket still.
    #[must_use]
    pub fn states(&self) -> Vec<Value> {
        let is_state = |line: &Value| line.get("state").is_some_and(|state| *state != BARRIER);
        self.lines().into_iter().filter(is_state).collect()
    }

    /// The states, once there are so many.
    ///
    /// # Panics
    /// When there are not, or when there are more.
    #[must_use]
    #[track_caller]
    pub fn wait_for_states(&self, number: usize) -> Vec<Value> {
        wait_until(&format!("{number} states"), || self.states().len() >= number);
        let states = self.states();
        assert_eq!(states.len(), number, "{states:?}");
        states
    }

    /// Waits until it has taken what was sent before: it gets one more message, which it takes after those.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn settle(&self) {
        let mut stream = UnixStream::connect(&self.path).expect("the agent's socket");
        stream.write_all(format!("{BARRIER:?}").as_bytes()).expect("the agent's socket");
        drop(stream);
        wait_until("the agent", || self.lines().iter().any(|line| line["state"] == BARRIER));
    }

    /// The numbers of the calls that it was asked about.
    #[must_use]
    pub fn calls(&self) -> Vec<i64> {
        self.lines().iter().filter_map(|line| line["call"].as_i64()).collect()
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it can't be.
    pub fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
