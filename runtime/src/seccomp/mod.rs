//! Seccomp: an OCI profile (runtime-spec config-linux.md, "Seccomp") becomes a classic BPF program.
