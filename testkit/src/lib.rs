//! The real parts of the system, started, waited for and stopped: the Pub/Sub emulator, a chain with our contracts,
//! databases and both services. Tests, the demo and benchmarks stand on it.
//!
//! Three promises: nothing is faked; everything runs on free ports or those it is told, beside whatever else runs; and no process is left behind,
//! however the program that uses this crate ends (see [`process`]).
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use testkit::{GrantRequest, Stack};
//!
//! let stack = Stack::start().await?;
//! let answer = stack.campaign_client().request(&GrantRequest::new("alice", "summer")).await?;
//! let grant = stack.final_grant(&answer.request_id()?, Duration::from_secs(30)).await?;
//! assert!(grant.is_completed());
//! # Ok(())
//! # }
//! ```

pub mod anvil;
pub mod chain;
pub mod chaos;
pub mod client;
pub mod disk;
pub mod emulator;
pub mod ledger;
pub mod miner;
pub mod paths;
pub mod place;
mod plans;
pub mod ports;
pub mod postgres;
pub mod postgres_proxy;
pub mod process;
pub mod pubsub;
pub mod rpc_proxy;
pub mod service;
pub mod stack;
pub mod wait;

pub use self::{
    anvil::Anvil,
    chain::{Chain, Contracts, base_units},
    client::{Answer, BlockchainClient, CampaignClient, Grant, GrantRequest},
    disk::Disk,
    emulator::Emulator,
    miner::Miner,
    paths::RunDir,
    place::Place,
    postgres::Postgres,
    postgres_proxy::PostgresProxy,
    pubsub::Pubsub,
    rpc_proxy::{Lie, RpcProxy},
    service::{Service, Which},
    stack::{Database, Ports, Stack},
    wait::{until, until_some},
};
