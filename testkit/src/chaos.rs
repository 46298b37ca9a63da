//! The fault campaign: grants are requested through the public API while a schedule of faults is carried out; then
//! everything must become quiet, and what the client was told is held against the chain.
//!
//! A seed is one stack with fresh databases and a fresh chain. Its schedule follows from the seed before anything
//! begins, so a seed that fails can be run again. Nothing of the services' own books is believed: the
//! [audit] knows what the client was answered, and what is on the chain.
//!
//! `docs/RELIABILITY.md` says what each fault does and what the figures of the report mean.

pub mod audit;
mod auditor;
mod books;
pub mod fault;
mod inject;
pub mod kind;
mod load;
mod messages;
mod operator;
pub mod report;
pub mod schedule;
mod seed;
mod treasury;
mod world;

pub use self::{
    kind::{Area, Kind, Selection},
    report::Report,
    schedule::{Plan, Schedule},
    seed::{Outcome, Venue},
};
