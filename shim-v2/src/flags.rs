//! Command line in the rules of Go's `flag` package, which is what containerd writes.
//!
//! One or two dashes, `-x v` or `-x=v`, booleans without a separate value, parsing stops at the first word
//! that is no flag.

/// What the process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the daemon for a container and print its address.
    Start,
    /// Clean up after a dead shim.
    Delete,
    /// No action word: be the daemon.
    Serve,
    /// `-info`.
    Info,
    /// `-v`.
    Version,
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// containerd namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// Bundle directory (delete).
    pub bundle: String,
    /// `containerd` binary; accepted, events go through ttrpc.
    pub publish_binary: String,
    /// Obsolete; accepted.
    pub socket: String,
    /// More log lines.
    pub debug: bool,
    /// `-v` or `-version`.
    pub version: bool,
    /// `-info`.
    pub info: bool,
    /// The first word that is no flag.
    pub action: String,
}

/// A command line that Go's flag package would refuse too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not in the list.
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    /// The last word is a flag that needs a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// `-debug=maybe`.
    #[error("invalid boolean value {value:?} for -{name}")]
    NotBoolean {
        /// Flag.
        name: String,
        /// Its value.
        value: String,
    },
    /// `-=x` or `---x`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// A word that is neither start nor delete.
    #[error("unknown action {0:?}: expected start or delete")]
    Action(String),
}

impl Flags {
    /// Parses the words after the program's name.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Flags, FlagError> {
        let mut flags = Flags::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix('-').filter(|b| !b.is_empty()) else {
                flags.action = word;
                break;
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() {
                // `--` ends the flags.
                flags.action = words.next().unwrap_or_default();
                break;
            }
            if body.starts_with('-') || body.starts_with('=') {
                return Err(FlagError::Syntax(word));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (body.to_owned(), None),
            };
            flags.set(name, value, &mut words)?;
        }
        Ok(flags)
    }

    fn set(
        &mut self,
        name: String,
        value: Option<String>,
        words: &mut impl Iterator<Item = String>,
    ) -> Result<(), FlagError> {
        let boolean = match name.as_str() {
            "debug" => Some(&mut self.debug),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        };
        if let Some(field) = boolean {
            *field = match value.as_deref() {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
                Some(other) => return Err(FlagError::NotBoolean { name, value: other.to_owned() }),
            };
            return Ok(());
        }
        let field = match name.as_str() {
            "namespace" => &mut self.namespace,
            "id" => &mut self.id,
            "address" => &mut self.address,
            "bundle" => &mut self.bundle,
            "publish-binary" => &mut self.publish_binary,
            "socket" => &mut self.socket,
            _ => return Err(FlagError::Undefined(name)),
        };
        match value.or_else(|| words.next()) {
            Some(value) => *field = value,
            None => return Err(FlagError::NoValue(name)),
        }
        Ok(())
    }

    /// What to do; `-v` and `-info` win over an action word, as in Go's shim.
    ///
    /// # Errors
    /// An unknown action word.
    pub fn action(&self) -> Result<Action, FlagError> {
        if self.version {
            return Ok(Action::Version);
        }
        if self.info {
            return Ok(Action::Info);
        }
        match self.action.as_str() {
            "" => Ok(Action::Serve),
            "start" => Ok(Action::Start),
            "delete" => Ok(Action::Delete),
            other => Err(FlagError::Action(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_containerd_writes() {
        let flags = parse("-namespace k8s.io --address=/run/c.sock -publish-binary /usr/bin/containerd -id c1 -bundle /b -debug start").unwrap();
        assert_eq!((flags.namespace.as_str(), flags.address.as_str()), ("k8s.io", "/run/c.sock"));
        assert_eq!((flags.id.as_str(), flags.bundle.as_str(), flags.debug), ("c1", "/b", true));
        assert_eq!(flags.action(), Ok(Action::Start));
    }

    #[test]
    fn booleans_take_no_separate_value() {
        let flags = parse("-debug delete -id x").unwrap();
        assert_eq!((flags.action(), flags.id.as_str()), (Ok(Action::Delete), ""));
        assert!(!parse("-debug=false start").unwrap().debug);
        assert_eq!(
            parse("-debug=maybe"),
            Err(FlagError::NotBoolean { name: "debug".into(), value: "maybe".into() })
        );
    }

    #[test]
    fn actions() {
        assert_eq!(parse("").unwrap().action(), Ok(Action::Serve));
        assert_eq!(parse("-v start").unwrap().action(), Ok(Action::Version));
        assert_eq!(parse("--version").unwrap().action(), Ok(Action::Version));
        assert_eq!(parse("-info").unwrap().action(), Ok(Action::Info));
        assert_eq!(parse("-id a -- delete").unwrap().action(), Ok(Action::Delete));
        assert!(parse("stop").unwrap().action().is_err());
    }

    #[test]
    fn errors() {
        assert_eq!(parse("-nope").unwrap_err().to_string(), "flag provided but not defined: -nope");
        assert_eq!(parse("-id").unwrap_err().to_string(), "flag needs an argument: -id");
        assert!(matches!(parse("---id x"), Err(FlagError::Syntax(_))));
        assert_eq!(parse("-id= start").unwrap().id, "");
    }
}
