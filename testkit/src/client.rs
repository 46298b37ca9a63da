//! A small typed client of the services' HTTP interfaces, as a studio would write one.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What `POST /token-request` is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrantRequest {
    /// Who is rewarded.
    pub user_id: String,
    /// By which campaign.
    pub campaign_id: String,
    /// Where to; without it, to the wallet that belongs to the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<String>,
    /// How many whole tokens; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_amount: Option<u64>,
    /// The value of the `Idempotency-Key` header.
    #[serde(skip)]
    pub idempotency_key: Option<String>,
}

impl GrantRequest {
    /// The default amount for this user of this campaign.
    pub fn new(user_id: impl Into<String>, campaign_id: impl Into<String>) -> Self {
        Self { user_id: user_id.into(), campaign_id: campaign_id.into(), ..Self::default() }
    }

    /// To this wallet.
    #[must_use]
    pub fn to(mut self, wallet_address: impl Into<String>) -> Self {
        self.wallet_address = Some(wallet_address.into());
        self
    }

    /// So many whole tokens.
    #[must_use]
    pub fn amount(mut self, whole_tokens: u64) -> Self {
        self.token_amount = Some(whole_tokens);
        self
    }

    /// Under this idempotency key.
    #[must_use]
    pub fn key(mut self, idempotency_key: impl Into<String>) -> Self {
        self.idempotency_key = Some(idempotency_key.into());
        self
    }
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its `Content-Type`, empty without one.
    pub content_type: String,
    /// Its body, null where that is not JSON.
    pub body: Value,
}

impl Answer {
    /// The request id of an accepted grant (202, or 200 for a repeat).
    ///
    /// # Errors
    /// When the request was refused.
    pub fn request_id(&self) -> Result<String> {
        match (self.status, self.body["request_id"].as_str()) {
            (200 | 202, Some(id)) => Ok(id.to_owned()),
            _ => bail!("refused with {}: {}", self.status, self.body),
        }
    }
}

/// A grant as the campaign service tells it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Grant {
    /// Its id.
    pub request_id: String,
    /// Who is rewarded.
    pub user_id: String,
    /// By which campaign.
    pub campaign_id: String,
    /// How many whole tokens.
    pub token_amount: u64,
    /// Where it stands; `completed`, `failed`, `expired` and `cancelled` are final.
    pub state: String,
    /// Who paid it, once somebody did.
    #[serde(default)]
    pub transaction_hash: Option<String>,
    /// When it was accepted.
    pub requested_at: DateTime<Utc>,
    /// When it was known to be minted.
    #[serde(default)]
    pub completed_at: Option<DateTime<Utc>>,
    /// Everything else that the service says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Grant {
    /// Whether it is minted.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.state == "completed"
    }

    /// Whether it will never change again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "completed" | "failed" | "expired" | "cancelled")
    }

    /// From acceptance to being known as minted.
    #[must_use]
    pub fn time_to_mint(&self) -> Option<Duration> {
        (self.completed_at? - self.requested_at).to_std().ok()
    }
}

/// A campaign as the campaign service tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Campaign {
    /// Whole tokens that all its grants together may pay; none for no limit.
    pub budget: Option<u64>,
    /// Whole tokens of grants under way.
    pub reserved: u64,
    /// Whole tokens that were paid.
    pub spent: u64,
}

/// The campaign service.
#[derive(Clone, Debug)]
pub struct CampaignClient {
    client: Client,
    base: String,
}

impl CampaignClient {
    /// The service at this URL.
    ///
    /// # Panics
    /// When the machine cannot make HTTP requests at all.
    pub fn new(base: impl Into<String>) -> Self {
        Self { client: client(PATIENCE), base: base.into() }
    }

    /// The same, by somebody who waits no longer than this for an answer.
    ///
    /// # Panics
    /// When the machine cannot make HTTP requests at all.
    #[must_use]
    pub fn waiting(self, patience: Duration) -> Self {
        Self { client: client(patience), ..self }
    }

    /// Requests a grant, with a JSON body.
    ///
    /// # Errors
    /// When the service does not answer. A refusal is an answer.
    pub async fn request(&self, request: &GrantRequest) -> Result<Answer> {
        let mut post = self.client.post(format!("{}/token-request", self.base)).json(request);
        if let Some(key) = &request.idempotency_key {
            post = post.header("Idempotency-Key", key);
        }
        answer(post).await
    }

    /// Requests a grant, in the query string.
    ///
    /// # Errors
    /// When the service does not answer. A refusal is an answer.
    pub async fn request_by_query(&self, request: &GrantRequest) -> Result<Answer> {
        let mut post = self.client.post(format!("{}/token-request", self.base)).query(request);
        if let Some(key) = &request.idempotency_key {
            post = post.header("Idempotency-Key", key);
        }
        answer(post).await
    }

    /// Requests many grants, in one upload of JSON lines.
    ///
    /// # Errors
    /// When the service does not answer. A refusal is an answer.
    pub async fn upload(&self, requests: &[GrantRequest]) -> Result<Answer> {
        let mut body = String::new();
        for request in requests {
            let mut line = serde_json::to_value(request)?;
            if let Some(key) = &request.idempotency_key {
                line["idempotency_key"] = key.as_str().into();
            }
            body.push_str(&line.to_string());
            body.push('\n');
        }
        let post = self.client.post(format!("{}/token-requests/bulk", self.base));
        answer(post.header("Content-Type", "application/x-ndjson").body(body)).await
    }

    /// All grants of a user, newest first, from as many pages as they fill.
    ///
    /// # Errors
    /// When the service does not answer as expected.
    pub async fn grants_of(&self, user_id: &str) -> Result<Vec<Grant>> {
        let mut grants = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut get = self.client.get(format!("{}/status", self.base)).query(&[("user_id", user_id)]);
            if let Some(cursor) = &cursor {
                get = get.query(&[("cursor", cursor)]);
            }
            let mut answer = answer(get).await?;
            if answer.status != 200 {
                bail!("/status answered {}: {}", answer.status, answer.body);
            }
            let page: Vec<Grant> =
                serde_json::from_value(answer.body["grants"].take()).context("/status lists grants")?;
            grants.extend(page);
            match answer.body["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(grants),
            }
        }
    }

    /// One grant, or none of this id.
    ///
    /// # Errors
    /// When the service does not answer as expected.
    pub async fn grant(&self, request_id: &str) -> Result<Option<Grant>> {
        let answer = self.get(&format!("/grants/{request_id}")).await?;
        match answer.status {
            200 => Ok(Some(serde_json::from_value(answer.body).context("/grants/{id} is a grant")?)),
            404 => Ok(None),
            status => bail!("/grants/{request_id} answered {status}: {}", answer.body),
        }
    }

    /// One campaign, or none of this name.
    ///
    /// # Errors
    /// When the service does not answer as expected.
    pub async fn campaign(&self, campaign_id: &str) -> Result<Option<Campaign>> {
        let answer = self.get(&format!("/campaigns/{campaign_id}")).await?;
        match answer.status {
            200 => Ok(Some(serde_json::from_value(answer.body).context("/campaigns/{id} is a campaign")?)),
            404 => Ok(None),
            status => bail!("/campaigns/{campaign_id} answered {status}: {}", answer.body),
        }
    }

    /// Any path, by GET.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.client.get(format!("{}{path}", self.base))).await
    }

    /// Any path, by POST, with a JSON body.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        answer(self.client.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// Any path, by PUT, with a JSON body.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        answer(self.client.put(format!("{}{path}", self.base)).json(body)).await
    }

    /// Any path, by DELETE.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        answer(self.client.delete(format!("{}{path}", self.base))).await
    }
}

/// The blockchain service.
#[derive(Clone, Debug)]
pub struct BlockchainClient {
    client: Client,
    base: String,
}

impl BlockchainClient {
    /// The service at this URL.
    ///
    /// # Panics
    /// When the machine cannot make HTTP requests at all.
    pub fn new(base: impl Into<String>) -> Self {
        Self { client: client(PATIENCE), base: base.into() }
    }

    /// `GET /health`: the state of each dependency.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn health(&self) -> Result<Answer> {
        self.get("/health").await
    }

    /// `GET /stats`.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn stats(&self) -> Result<Value> {
        Ok(self.get("/stats").await?.body)
    }

    /// Any path, by GET.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.client.get(format!("{}{path}", self.base))).await
    }

    /// Any path, by POST, with a JSON body.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        answer(self.client.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// Any path, by PUT, with a JSON body.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        answer(self.client.put(format!("{}{path}", self.base)).json(body)).await
    }
}

/// How long a client waits for an answer unless told.
const PATIENCE: Duration = Duration::from_secs(30);

fn client(patience: Duration) -> Client {
    Client::builder().timeout(patience).build().expect("the options are fixed and valid")
}

async fn answer(request: RequestBuilder) -> Result<Answer> {
    let answer = request.send().await.context("the service does not answer")?;
    let status = answer.status().as_u16();
    let content_type =
        answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = answer.bytes().await.context("the answer broke off")?;
    Ok(Answer { status, content_type, body: serde_json::from_slice(&body).unwrap_or_default() })
}
