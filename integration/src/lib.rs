//! Tests of davit under real containerd, dockerd and podman.
