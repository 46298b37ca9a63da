//! An operator who looks after dead letters while everything else goes wrong, sends some again and discards some; and one
//! who stops all payments for a moment.

use std::time::Duration;

use anyhow::Result;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::World;
use crate::{service::Which, wait::until};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// How long an operator tries to use the kill switch: the service may be away for other reasons.
const INSISTS: Duration = Duration::from_mins(1);

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

impl World {
    /// Stops all payments, and lets them go on.
    ///
    /// # Errors
    /// When the service does not take the order.
    pub(super) async fn stop_payments(&self, time: Duration) -> Result<u32> {
        self.switch(true).await?;
        sleep(time).await;
        self.switch(false).await?;
        Ok(1)
    }

    async fn switch(&self, engaged: bool) -> Result<()> {
        let client = self.client().waiting(PATIENCE);
        let order = json!({ "engaged": engaged, "changed_by": "ops", "reason": "the fault campaign" });
        until(INSISTS, "the kill switch to be used", || async {
            client.put("/kill-switch", &order).await.is_ok_and(|answer| answer.status == 200)
        })
        .await
    }

    /// Looks after dead letters; does not return.
    pub(super) async fn operate(&self) {
        let client = Client::builder().timeout(PATIENCE).build().expect("the options are fixed and valid");
        loop {
            sleep(EVERY).await;
            for which in [Which::Campaign, Which::Blockchain] {
                // A service that is away has other worries; the next look is soon.
                let _ = tidy(&client, &self.service(which).url()).await;
            }
        }
    }
}

/// Sends every other open letter of a service again, and discards the rest.
async fn tidy(client: &Client, service: &str) -> reqwest::Result<()> {
    let open = client.get(format!("{service}/dead-letters?state=open&limit=10")).send().await?;
    let open: Value = open.error_for_status()?.json().await?;
    for (n, letter) in open["dead_letters"].as_array().into_iter().flatten().enumerate() {
        let id = letter["id"].as_str().unwrap_or_default();
        let action = if n % 2 == 0 { "redrive" } else { "discard" };
        client.post(format!("{service}/dead-letters/{id}/{action}")).send().await?;
    }
    Ok(())
}
