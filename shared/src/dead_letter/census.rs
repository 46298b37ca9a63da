//! Counts the dead letters that wait for an operator, for `/metrics`.

use super::DeadLetters;
use crate::db;
use crate::pubsub::Topic;
use crate::worker::{Progress, Worker};

/// The worker behind the gauge `dead_letters_open`.
#[derive(Debug)]
pub struct Census {
    /// What is counted.
    pub letters: DeadLetters,
}

impl Worker for Census {
    type Error = db::Error;

    async fn run_once(&self) -> db::Result<Progress> {
        let open = self.letters.open_by_topic().await?;
        for topic in Topic::LIVE {
            let count = open.get(&topic).copied().unwrap_or(0);
            metrics::gauge!("dead_letters_open", "topic" => topic.name())
                .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
        Ok(Progress::Idle)
    }
}
