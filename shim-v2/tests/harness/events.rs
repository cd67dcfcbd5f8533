//! containerd's event service.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task as events;
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message};
use ttrpc::proto::{Request, Response, Status};

use super::client::{read_frame, write_frame};
use super::until;

/// An event as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub topic: String,
    /// Exec id or container id of an exit; exec id of exec events; container id of the others.
    pub process: String,
    pub status: u32,
    /// Of a create: what it is to be restored from.
    pub checkpoint: String,
}

/// What the server does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Records and answers.
    Well,
    /// Reads and never answers.
    Stalled,
    /// Answers with this code.
    Refusing(i32),
}

struct Inner {
    seen: Mutex<Vec<Seen>>,
    mood: Mutex<Mood>,
    peers: Mutex<Vec<UnixStream>>,
    /// How often it has stopped. Changed under the lock of `seen`: a daemon that is gone records nothing more, even
    /// what it has read already.
    stops: AtomicU32,
    path: PathBuf,
}

/// The recording event server, which can stall, refuse, go away and come back.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

impl Events {
    pub fn listen(path: &Path) -> Events {
        let inner = Inner {
            seen: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            peers: Mutex::default(),
            stops: AtomicU32::new(0),
            path: path.to_owned(),
        };
        let events = Events(Arc::new(inner));
        events.start();
        events
    }

    /// Listens, again after [`Events::stop`].
    pub fn start(&self) {
        let _ = fs::remove_file(&self.0.path);
        let listener = UnixListener::bind(&self.0.path).unwrap();
        let server = self.clone();
        let stops = self.0.stops.load(Ordering::Relaxed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (server.clone(), stream.unwrap());
                let mut peers = server.0.peers.lock().unwrap();
                // A connection that waited for this daemon when it stopped ends with it.
                if server.0.stops.load(Ordering::Relaxed) != stops {
                    return;
                }
                peers.push(stream.try_clone().unwrap());
                drop(peers);
                thread::spawn(move || server.serve(stream, stops));
            }
        });
    }

    /// The daemon is gone: no socket, and what was connected is closed.
    pub fn stop(&self) {
        let _ = fs::remove_file(&self.0.path);
        let mut peers = self.0.peers.lock().unwrap();
        let recorded = self.0.seen.lock().unwrap();
        self.0.stops.fetch_add(1, Ordering::Relaxed);
        drop(recorded);
        for peer in peers.drain(..) {
            let _ = peer.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
    }

    /// Serves a connection that was made after so many stops.
    fn serve(&self, mut stream: UnixStream, stops: u32) {
        while let Some((id, payload)) = read_frame(&mut stream) {
            let mood = *self.0.mood.lock().unwrap();
            let request = Request::parse_from_bytes(&payload).unwrap();
            let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
            assert!(forward.envelope.timestamp.seconds > 0 && !forward.envelope.namespace.is_empty());
            let code = match mood {
                Mood::Stalled => continue,
                Mood::Refusing(code) => code,
                Mood::Well => {
                    let event = seen(&forward.envelope.topic, &forward.envelope.event);
                    let mut recorded = self.0.seen.lock().unwrap();
                    if self.0.stops.load(Ordering::Relaxed) != stops {
                        return;
                    }
                    recorded.push(event);
                    0
                }
            };
            let mut reply = Response::new();
            reply.set_status(Status { code: EnumOrUnknown::from_i32(code), ..Default::default() });
            write_frame(&mut stream, id, 2, &reply.write_to_bytes().unwrap());
        }
    }

    /// Forgets what it has recorded.
    pub fn forget(&self) {
        self.0.seen.lock().unwrap().clear();
    }

    pub fn all(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Topics of the events of one process, in the order of arrival.
    pub fn topics(&self, process: &str) -> Vec<String> {
        self.order().into_iter().filter(|(_, p)| p == process).map(|(topic, _)| topic).collect()
    }

    /// Waits for an event of `topic` for `process`.
    pub fn wait(&self, topic: &str, process: &str) -> Seen {
        until(&format!("{topic} of {process}; have {:?}", self.all()), || {
            self.all().into_iter().find(|e| e.topic == topic && e.process == process)
        })
    }

    /// Topics and processes in the order of arrival. A daemon that stops between an event and its answer gets that
    /// event again, right behind: it is one.
    pub fn order(&self) -> Vec<(String, String)> {
        let mut all = self.all();
        if self.0.stops.load(Ordering::Relaxed) > 0 {
            all.dedup();
        }
        all.into_iter().map(|e| (e.topic.trim_start_matches("/tasks/").to_owned(), e.process)).collect()
    }
}

fn seen(topic: &str, any: &Any) -> Seen {
    let value = &any.value;
    let (process, status) = match any.type_url.as_str() {
        "containerd.events.TaskExit" => {
            let e = events::TaskExit::parse_from_bytes(value).unwrap();
            (e.id, e.exit_status)
        }
        "containerd.events.TaskDelete" => {
            let e = events::TaskDelete::parse_from_bytes(value).unwrap();
            (e.container_id, e.exit_status)
        }
        "containerd.events.TaskExecAdded" => {
            (events::TaskExecAdded::parse_from_bytes(value).unwrap().exec_id, 0)
        }
        "containerd.events.TaskExecStarted" => {
            (events::TaskExecStarted::parse_from_bytes(value).unwrap().exec_id, 0)
        }
        // The others have the container's id in field 1.
        _ => (events::TaskPaused::parse_from_bytes(value).unwrap().container_id, 0),
    };
    let checkpoint = match any.type_url.as_str() {
        "containerd.events.TaskCreate" => events::TaskCreate::parse_from_bytes(value).unwrap().checkpoint,
        _ => String::new(),
    };
    Seen { topic: topic.to_owned(), process, status, checkpoint }
}
