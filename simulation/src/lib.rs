//! Both services in one process, over a simulated broker and a simulated chain, moved one step at a time by a seed.
//!
//! Everything between the two seams (`Bus` and `Chain`) is the services' real code, on SQLite. One number decides every
//! delivery, repeat, delay, order, crash, restart, lie and clock jump, so a world that breaks a rule is run again from
//! its number. See `docs/RELIABILITY.md`.
#![cfg(feature = "failpoints")]

mod affinity;
pub mod bug;
mod calm;
pub mod chain;
pub mod check;
pub mod client;
pub mod coverage;
pub mod dice;
pub mod fuse;
pub mod network;
pub mod plan;
pub mod run;
pub mod services;
pub mod story;
mod world;

pub use world::Count;
