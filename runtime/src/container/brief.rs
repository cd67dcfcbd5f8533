//! What `state` and `list` print of a container, at the head of its state.json: a list of hundreds of containers need
//! not parse the rest, which is runc's whole configuration, for each.
//!
//! Only a file that davit wrote and nobody has changed begins with it. Others are parsed whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Result;
use super::process_stat::ProcessStat;
use super::state::{Maker, State};
use crate::cgroup::Cgroup;
use crate::sorted::map_of;

/// How such a file begins. runc has no such key, and drops it when it writes the file anew.
const HEAD: &[u8] = b"{\"davit_brief\":";

/// The head of a state.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Container id.
    pub id: String,
    /// Init's pid; 0 before it is known.
    pub pid: i32,
    /// Init's start time, as in [`State`].
    pub start: u64,
    /// Creation time, RFC 3339.
    pub created: String,
    /// ociVersion of config.json.
    pub version: String,
    /// Host path of the root filesystem.
    pub rootfs: PathBuf,
    /// `bundle=<path>` and the annotations, as `key=value`.
    pub labels: Vec<String>,
    /// The cgroup whose freezer is used, with its key.
    pub freezer: BTreeMap<String, PathBuf>,
    /// As in [`State`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    restored: bool,
    /// Who wrote the file.
    #[serde(skip)]
    pub maker: Maker,
}

impl Brief {
    /// What is brief of a state.
    pub fn of(state: &State) -> Self {
        // As `cgroup::freezer` chooses: v1's where there is one.
        let freezer = ["freezer", ""].into_iter().find_map(|key| state.cgroup_paths.get_key_value(key));
        Brief {
            id: state.id.clone(),
            pid: state.init_process_pid,
            start: state.init_process_start,
            created: state.created.clone(),
            version: state.config.version.clone(),
            rootfs: state.config.rootfs.clone(),
            labels: state.config.labels.clone().unwrap_or_default(),
            freezer: map_of(freezer.map(|(key, dir)| (key.clone(), dir.clone()))),
            restored: state.restored,
            maker: state.maker(),
        }
    }

    /// Reads it from the text of a state.json.
    ///
    /// # Errors
    /// Those of parsing the whole when it has no such head.
    pub fn from_text(text: &[u8]) -> serde_json::Result<Self> {
        match text.strip_prefix(HEAD) {
            // What follows is not looked at.
            Some(rest) => {
                let brief = Brief::deserialize(&mut serde_json::Deserializer::from_slice(rest))?;
                let maker = if brief.restored { Maker::Restored } else { Maker::Davit };
                Ok(Brief { maker, ..brief })
            }
            None => Ok(Brief::of(&serde_json::from_slice(text)?)),
        }
    }

    /// The text of a whole state.json with this at its head.
    ///
    /// # Errors
    /// Those of serde_json; none is known.
    pub fn with(state: &State) -> serde_json::Result<Vec<u8>> {
        let mut text = HEAD.to_vec();
        serde_json::to_writer(&mut text, &Brief::of(state))?;
        let whole = serde_json::to_vec(state)?;
        text.push(b',');
        text.extend(whole.get(1..).unwrap_or_default());
        Ok(text)
    }

    /// The cgroup as far as its freezer is concerned.
    ///
    /// # Errors
    /// As [`Cgroup::open`].
    pub fn freezer(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(&self.freezer)?)
    }

    /// What /proc says of init; `None` when it is gone, also when a later process has its pid.
    pub fn live_init(&self) -> Result<Option<ProcessStat>> {
        ProcessStat::of_process(self.pid, self.start)
    }

    /// Absolute path of the bundle.
    pub fn bundle(&self) -> PathBuf {
        bundle(&self.labels)
    }

    /// Annotations of config.json.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        annotations(&self.labels)
    }
}

/// The bundle among labels.
pub fn bundle(labels: &[String]) -> PathBuf {
    let found = labels.iter().find_map(|label| label.strip_prefix("bundle="));
    found.map(|path| Path::new(path).to_owned()).unwrap_or_default()
}

/// All others of the labels.
pub fn annotations(labels: &[String]) -> BTreeMap<String, String> {
    let pairs = labels.iter().filter_map(|label| label.split_once('='));
    map_of(pairs.filter(|(key, _)| *key != "bundle").map(|(key, value)| (key.to_owned(), value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        serde_json::from_value(serde_json::json!({
            "davit_brief": {}, "id": "x1", "init_process_pid": 7, "init_process_start": 8, "created": "c",
            "config": {"rootfs": "/b/rootfs", "version": "1.2.0", "labels": ["bundle=/b", "k=v=w"]},
            "cgroup_paths": {"": "/sys/fs/cgroup/unified/x1", "freezer": "/sys/fs/cgroup/freezer/x1"}
        }))
        .unwrap()
    }

    #[test]
    fn the_head_is_read_alone() {
        let text = Brief::with(&state()).unwrap();
        let whole: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(whole["config"]["rootfs"], "/b/rootfs");
        let cut = &text[..text.len() / 2];
        assert!(serde_json::from_slice::<State>(cut).is_err());
        let brief = Brief::from_text(cut).unwrap();
        assert_eq!(brief, Brief::of(&state()));
        assert_eq!((brief.bundle(), brief.annotations()["k"].as_str()), ("/b".into(), "v=w"));
        assert_eq!(brief.freezer.keys().collect::<Vec<_>>(), ["freezer"]);
    }

    #[test]
    fn a_restored_container_is_told() {
        let mut state = state();
        state.restored = true;
        let text = Brief::with(&state).unwrap();
        assert_eq!(Brief::from_text(&text).unwrap().maker, Maker::Restored);
        let whole: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(whole["davit_restored"], true);
    }

    #[test]
    fn a_file_of_others_is_read_whole() {
        let text = serde_json::to_vec(&state()).unwrap();
        // As runc writes it, which keeps no foreign key.
        let others = Brief { maker: Maker::Other, ..Brief::of(&state()) };
        assert_eq!(Brief::from_text(&text).unwrap(), others);
        assert!(Brief::from_text(&text[..text.len() / 2]).is_err());
    }
}
