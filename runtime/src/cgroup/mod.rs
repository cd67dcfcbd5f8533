//! Cgroups: where a container's processes are counted, limited, frozen and killed.
