//! The campaign service's ledger, read page by page over HTTP: what players were promised, and what they were told.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::id::{Issuer, RequestId, TokenAmount, UserId, WalletAddress};
use url::Url;

use super::{Claim, Entry};
use crate::contract::base_units;
use crate::domain::{GrantId, Wallets};

/// How many grants or entries a page has.
pub(super) const PAGE: u16 = 500;

/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or a refusal.
    #[error("the campaign service at CAMPAIGN_URL does not answer: {0}")]
    Unreachable(String),
    /// An answer that is no page of a ledger.
    #[error("the answer of the campaign service at CAMPAIGN_URL is no page of its ledger: {0}")]
    Malformed(String),
}

/// The ledger.
#[derive(Debug, Clone)]
pub struct CampaignLedger {
    client: reqwest::Client,
    grants: Url,
    events: Url,
}

/// A page of it.
#[derive(Debug)]
pub struct Page {
    /// Whose numbering it is.
    pub issuer: Issuer,
    /// The grants, in the order of their numbers.
    pub grants: Vec<Grant>,
    /// The number behind which the next page begins; `None` on the last.
    pub next_after: Option<u64>,
}

/// A grant of the campaign service, as far as an audit needs it.
#[derive(Debug, Deserialize)]
pub struct Grant {
    request_id: RequestId,
    #[serde(rename = "grant_index")]
    number: u64,
    user_id: UserId,
    wallet_address: Option<WalletAddress>,
    token_amount: TokenAmount,
    state: State,
    transaction_hash: Option<B256>,
    block_number: Option<u64>,
    updated_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Completed,
    #[serde(alias = "expired", alias = "cancelled")]
    Failed,
    /// Whatever else there is, or will be: none of them is final.
    #[serde(other)]
    Open,
}

#[derive(Deserialize)]
struct Answer {
    issuer: Issuer,
    grants: Vec<Grant>,
    next_after: Option<u64>,
}

impl CampaignLedger {
    /// The ledger of the service at this URL.
    ///
    /// # Errors
    ///
    /// When this machine cannot make HTTP requests.
    pub fn new(base: &Url) -> Result<Self, Error> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(unreachable)?;
        let below = |name: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}/{name}", base.path().trim_end_matches('/')));
            url
        };
        Ok(Self { client, grants: below("grants"), events: below("events") })
    }

    /// The page behind this number.
    ///
    /// # Errors
    ///
    /// When the service does not answer with one.
    pub async fn page(&self, after: Option<u64>) -> Result<Page, Error> {
        let Answer { issuer, grants, next_after } = self.ask(&self.grants, after).await?;
        let ascends = grants.is_sorted_by(|a, b| a.number < b.number)
            && grants.first().is_none_or(|first| after.is_none_or(|after| first.number > after))
            && next_after.is_none_or(|next| grants.last().is_some_and(|last| last.number == next));
        if !ascends {
            return Err(Error::Malformed("its grants are not in the order of their numbers".to_owned()));
        }
        Ok(Page { issuer, grants, next_after })
    }

    /// Up to 500 entries of the ledger of events, those numbered above this.
    ///
    /// # Errors
    ///
    /// When the service does not answer with them.
    pub async fn entries(&self, after: u64) -> Result<Vec<shared::ledger::Entry>, Error> {
        #[derive(Deserialize)]
        struct Entries {
            events: Vec<shared::ledger::Entry>,
        }
        let Entries { events } = self.ask(&self.events, Some(after)).await?;
        Ok(events)
    }

    async fn ask<T: DeserializeOwned>(&self, url: &Url, after: Option<u64>) -> Result<T, Error> {
        let mut request = self.client.get(url.clone()).query(&[("limit", PAGE)]);
        if let Some(after) = after {
            request = request.query(&[("after", after)]);
        }
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(unreachable)?;
        let text = answer.text().await.map_err(unreachable)?;
        serde_json::from_str(&text).map_err(|error| Error::Malformed(error.to_string()))
    }
}

impl Grant {
    /// The grant as an entry of a ledger. One whose wallet cannot be is no entry: no hash is known to end in 20 zero bytes.
    #[must_use]
    pub fn entry(&self, issuer: Issuer, wallets: &Wallets, decimals: u8) -> Entry {
        let recipient: Address = self.wallet_address.map_or_else(|| wallets.of(&self.user_id), WalletAddress::address);
        let amount: U256 = base_units(self.token_amount, decimals);
        let claim = match self.state {
            State::Completed => {
                Claim::Paid { transaction_hash: self.transaction_hash, block_number: self.block_number }
            }
            State::Failed => Claim::Failed,
            State::Open => Claim::UnderWay,
        };
        Entry {
            request_id: self.request_id.clone(),
            grant_id: GrantId::dense(issuer, self.number),
            recipient,
            amount,
            claim,
            since: self.updated_at,
        }
    }
}

/// In words with the cause, and without the URL, which may hold a password.
fn unreachable(error: reqwest::Error) -> Error {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    Error::Unreachable(causes.last().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
}
