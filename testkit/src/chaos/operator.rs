//! An operator who looks after dead letters while everything else goes wrong: some are sent again, some discarded.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::time::sleep;

use super::{fault::Which, world::World};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

impl World {
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
