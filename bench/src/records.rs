//! What the campaign service tells afterwards: its grants, their histories, and the transactions that paid them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use reqwest::Client;
use serde::{Deserialize, de::DeserializeOwned};

use crate::template::CAMPAIGN;

/// A grant as `GET /grants` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Grant {
    #[serde(rename = "grant_index")]
    pub(crate) index: u64,
    pub(crate) request_id: String,
    pub(crate) user_id: String,
    pub(crate) state: String,
    pub(crate) block_number: Option<u64>,
    pub(crate) completed_at: Option<DateTime<Utc>>,
}

/// A transaction as `GET /transactions` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) grants: u64,
    pub(crate) completed: u64,
    pub(crate) gas_used: u64,
    pub(crate) block_number: Option<u64>,
}

/// When each step of a grant's history was entered, and when the service that reported it took it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) events: BTreeMap<String, Step>,
}

/// An event's time, and the time at which the blockchain service saw what it tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) at: DateTime<Utc>,
    pub(crate) processed_at: Option<DateTime<Utc>>,
}

/// Reads a service's answers.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    base: String,
    client: Client,
}

impl Records {
    pub(crate) fn of(base: String) -> Self {
        Self { base, client: Client::new() }
    }

    /// The benchmark's grants numbered above `after` by the service, in their order. Only `keep` is kept of each.
    pub(crate) async fn grants<T>(&self, after: Option<u64>, keep: impl FnMut(Grant) -> Option<T>) -> Result<Vec<T>> {
        let after = after.map_or_else(String::new, |after| format!("&after={after}"));
        self.lines(&format!("/grants?campaign_id={CAMPAIGN}&format=ndjson{after}"), keep).await
    }

    /// The benchmark's transactions, newest first.
    pub(crate) async fn transactions(&self) -> Result<Vec<Transaction>> {
        self.lines(&format!("/transactions?campaign_id={CAMPAIGN}&format=ndjson"), Some).await
    }

    /// A grant's history.
    pub(crate) async fn history(&self, request_id: &str) -> Result<History> {
        #[derive(Deserialize)]
        struct Told {
            events: Vec<Event>,
        }
        #[derive(Deserialize)]
        struct Event {
            kind: String,
            at: DateTime<Utc>,
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            processed_at: Option<DateTime<Utc>>,
        }
        let told: Told = self.json(&format!("/grants/{request_id}")).await?;
        let step = |event: Event| (event.kind, Step { at: event.at, processed_at: event.data.processed_at });
        Ok(History { events: told.events.into_iter().map(step).collect() })
    }

    pub(crate) async fn text(&self, path: &str) -> Result<String> {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await?.error_for_status()?;
        Ok(answer.text().await?)
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_str(&self.text(path).await?).with_context(|| format!("{path} answers something else"))
    }

    /// Changes a setting that is named in the query.
    pub(crate) async fn switch(&self, path: &str) -> Result<()> {
        self.client.put(format!("{}{path}", self.base)).send().await?.error_for_status()?;
        Ok(())
    }

    /// Changes something, as the body says.
    pub(crate) async fn put(&self, path: &str, body: &serde_json::Value) -> Result<()> {
        let answer = self.client.put(format!("{}{path}", self.base)).json(body).send().await?;
        if !answer.status().is_success() {
            bail!("PUT {path}: {} {}", answer.status(), answer.text().await.unwrap_or_default());
        }
        Ok(())
    }

    /// Asks for many grants in one upload; returns how many were accepted.
    pub(crate) async fn upload(&self, lines: String) -> Result<u64> {
        #[derive(Deserialize)]
        struct Job {
            accepted: u64,
            repeated: u64,
            rejected: u64,
        }
        let request = self.client.post(format!("{}/token-requests/bulk", self.base));
        let answer = request.header("content-type", "application/x-ndjson").body(lines).send().await?;
        let job: Job = answer.error_for_status()?.json().await?;
        if job.rejected + job.repeated > 0 {
            bail!("of an upload {} lines were rejected and {} known", job.rejected, job.repeated);
        }
        Ok(job.accepted)
    }

    /// Reads lines of JSON as they arrive.
    async fn lines<T, K>(&self, path: &str, mut keep: impl FnMut(T) -> Option<K>) -> Result<Vec<K>>
    where
        T: DeserializeOwned,
    {
        let mut answer = self.client.get(format!("{}{path}", self.base)).send().await?.error_for_status()?;
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        while let Some(piece) = answer.chunk().await? {
            rest.extend_from_slice(&piece);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            for line in rest[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let element = serde_json::from_slice(line).with_context(|| format!("a line of {path}"))?;
                kept.extend(keep(element));
            }
            rest.drain(..=end);
        }
        Ok(kept)
    }
}
