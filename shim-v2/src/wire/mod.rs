//! ttrpc on the wire: frames and protobuf messages. Nothing of protobuf leaves this folder.

pub mod bootstrap;
pub mod conn;
pub mod events;
pub mod frame;
pub mod info;
pub mod metrics;
pub mod options;
pub mod task;
