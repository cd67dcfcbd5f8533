//! Attacks: every known hole of a container runtime, tried on davit with the shape that its exploit had.
//!
//! A test asserts two things: a canary on the host is untouched, and the attack really happened (the racer did swap,
//! the link was there, the exploit works on Debian 12's runc 1.1.5 where that still has the hole, or on a stand-in
//! without the defence). SECURITY.md has the table of holes, rules and tests; `table.rs` holds it to the truth.
//! `ATTACK_CREATES=1000` makes the racers' tests long.

mod binary;
mod cgroups;
mod descriptors;
mod entering;
mod identity;
mod images;
mod procfs;
mod program;
mod races;
mod state;
mod support;
mod table;
