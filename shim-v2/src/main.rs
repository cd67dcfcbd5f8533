//! containerd-shim-davit-v2: a containerd shim (runtime v2) that runs containers with davit.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    containerd_shim_davit_v2::main()
}
