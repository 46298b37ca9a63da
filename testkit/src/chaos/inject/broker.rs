//! Faults of the broker and its messages. A broker that is away, for another fault or for this one, takes no hostile
//! messages: that is no failure.

use std::time::Duration;

use anyhow::Result;

use super::{World, hold};
use crate::{chaos::fault::Deleted, client::Grant};

impl World {
    pub(super) async fn restart_emulator(&self, down: Duration) -> Result<u32> {
        self.emulator.kill9().await?;
        hold(down).await;
        self.emulator.launch().await?;
        Ok(1)
    }

    pub(super) async fn repeat_messages(&self, messages: usize, hours_late: u32) -> Result<u32> {
        Ok(self.observer.repeat(&self.pubsub, messages, hours_late).await.unwrap_or(0))
    }

    pub(super) async fn publish_hostile(&self, messages: usize, salt: u64) -> Result<u32> {
        let client = self.client().waiting(Duration::from_secs(2));
        let is_final = async |request_id: &str| {
            let grant = client.grant(request_id).await.ok().flatten();
            grant.as_ref().is_some_and(Grant::is_completed)
        };
        Ok(self.observer.publish_hostile(&self.pubsub, messages, salt, is_final).await.unwrap_or(0))
    }

    pub(super) async fn delete_topics(&self, what: Deleted) -> Result<u32> {
        let (kind, name) = what.resource();
        Ok(u32::from(self.pubsub.delete(kind, name).await.is_ok()))
    }
}
