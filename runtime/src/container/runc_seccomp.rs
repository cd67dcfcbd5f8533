//! A seccomp profile in state.json as runc's libcontainer has it: `runc exec` into a container of davit's compiles its
//! filter from this.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

/// runc's flag for a profile that has no `flags`.
const DEFAULT_FLAG: LinuxSeccompFilterFlag = LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow;

/// The profile under runc's keys: one entry of `syscalls` for each name of a rule.
#[derive(Clone, Debug)]
pub struct RuncSeccomp(pub LinuxSeccomp);

impl Serialize for RuncSeccomp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            default_action: u8,
            architectures: Option<Vec<String>>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            flags: &'a [LinuxSeccompFilterFlag],
            syscalls: Calls<'a>,
            default_errno_ret: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            listener_path: Option<&'a std::path::PathBuf>,
            #[serde(skip_serializing_if = "Option::is_none")]
            listener_metadata: Option<&'a String>,
        }
        let profile = &self.0;
        let archs = profile.architectures().as_ref();
        Whole {
            default_action: action(profile.default_action()),
            architectures: archs.map(|all| all.iter().map(|arch| architecture(*arch)).collect()),
            flags: profile.flags().as_deref().unwrap_or(&[DEFAULT_FLAG]),
            syscalls: Calls(profile.syscalls().as_deref().unwrap_or_default()),
            default_errno_ret: profile.default_errno_ret(),
            listener_path: profile.listener_path().as_ref(),
            listener_metadata: profile.listener_metadata().as_ref(),
        }
        .serialize(serializer)
    }
}

struct Calls<'a>(&'a [LinuxSyscall]);

impl Serialize for Calls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Call<'a> {
            name: &'a str,
            action: u8,
            #[serde(rename = "errnoRet")]
            errno_ret: Option<u32>,
            args: &'a [Arg],
        }
        let mut all = serializer.serialize_seq(None)?;
        for rule in self.0 {
            let args: Vec<Arg> = rule.args().iter().flatten().map(Arg::new).collect();
            for name in rule.names() {
                all.serialize_element(&Call {
                    name,
                    action: action(rule.action()),
                    errno_ret: rule.errno_ret(),
                    args: &args,
                })?;
            }
        }
        all.end()
    }
}

#[derive(Serialize)]
struct Arg {
    index: usize,
    value: u64,
    value_two: u64,
    op: u8,
}

impl Arg {
    /// The numbers of operators are those that runc 1.1 to 1.3 write.
    fn new(arg: &LinuxSeccompArg) -> Self {
        let op = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => 1,
            LinuxSeccompOperator::ScmpCmpNe => 2,
            LinuxSeccompOperator::ScmpCmpGt => 3,
            LinuxSeccompOperator::ScmpCmpGe => 4,
            LinuxSeccompOperator::ScmpCmpLt => 5,
            LinuxSeccompOperator::ScmpCmpLe => 6,
            LinuxSeccompOperator::ScmpCmpMaskedEq => 7,
        };
        Arg { index: arg.index(), value: arg.value(), value_two: arg.value_two().unwrap_or(0), op }
    }
}

/// runc's numbers for actions.
fn action(action: LinuxSeccompAction) -> u8 {
    match action {
        LinuxSeccompAction::ScmpActKill => 1,
        LinuxSeccompAction::ScmpActErrno => 2,
        LinuxSeccompAction::ScmpActTrap => 3,
        LinuxSeccompAction::ScmpActAllow => 4,
        LinuxSeccompAction::ScmpActTrace => 5,
        LinuxSeccompAction::ScmpActLog => 6,
        LinuxSeccompAction::ScmpActNotify => 7,
        LinuxSeccompAction::ScmpActKillThread => 8,
        LinuxSeccompAction::ScmpActKillProcess => 9,
    }
}

/// libseccomp's names, which are Debian's for some.
fn architecture(arch: Arch) -> String {
    match arch {
        Arch::ScmpArchX86_64 => "amd64".to_owned(),
        Arch::ScmpArchAarch64 => "arm64".to_owned(),
        other => other.to_string().trim_start_matches("SCMP_ARCH_").to_lowercase(),
    }
}
