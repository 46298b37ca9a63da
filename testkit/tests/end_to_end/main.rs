//! Both services, the real emulator, a real chain and both databases: what a studio, a player and an operator see.
//!
//! Every test here runs on SQLite and on PostgreSQL, each with a stack of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod audit;
mod campaigns;
mod claims;
mod configuration;
mod crashes;
mod dead_letters;
mod harness;
mod lanes;
mod messages;
mod outages;
mod replicas;
mod republishing;
mod requests;
mod schemas;
mod telemetry;
