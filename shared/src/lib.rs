//! What both services put on the wire, or need to live and to die.
//!
//! Nothing here knows a rule of campaigns or of chains: a module belongs in this crate only when both services use
//! it and it would be the same in each.

pub mod clock;
pub mod db;
pub mod dead_letter;
pub mod event;
pub mod fail_point;
pub mod finality;
pub mod health;
pub mod http;
pub mod id;
pub mod inbox;
pub mod ledger;
pub mod lifecycle;
mod members;
pub mod outbox;
pub mod pace;
pub mod pubsub;
pub mod random;
pub mod schema;
pub mod telemetry;
pub mod worker;

// What `db::row!` expands to.
#[doc(hidden)]
pub use const_format;
