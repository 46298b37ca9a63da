//! What a grant is and how its state moves. No I/O, no clock, no randomness.

mod patience;

use std::collections::HashMap;
use std::str::FromStr;

use chrono::{DateTime, Utc};
pub use patience::Patience;
use serde::{Deserialize, Serialize};
use shared::event::{GrantRequested, ResultEvent, TokenType};
use shared::fail_point;
use shared::id::{CampaignId, IdempotencyKey, Issuer, RequestId, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;
use utoipa::{IntoParams, ToSchema};

/// What a studio asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GrantRequest {
    /// Who is to be paid: the studio's name for the player.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "alice")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 128, example = "alice")]
    pub user_id: UserId,
    /// For which campaign. A user is paid once per campaign.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "summer")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 128, example = "summer")]
    pub campaign_id: CampaignId,
    /// Where to. Without it, to the wallet that belongs to `user_id`.
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$", example = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")]
    #[param(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$", example = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")]
    pub wallet_address: Option<WalletAddress>,
    /// Whole tokens.
    #[schema(value_type = u64, required = false, minimum = 1, maximum = 1_000_000_000, default = 100)]
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000, default = 100)]
    pub token_amount: TokenAmount,
}

/// A grant that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Grant {
    /// Names the grant.
    #[schema(value_type = String, example = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002")]
    pub request_id: RequestId,
    #[serde(skip)]
    /// The grant's number within this deployment.
    pub grant_index: u64,
    #[serde(flatten)]
    /// What was asked for.
    pub request: GrantRequest,
    /// The kind of token.
    #[schema(value_type = String, example = "ERC20")]
    pub token_type: TokenType,
    /// Where it stands.
    pub state: State,
    /// The transaction that pays it, once it is submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^0x[0-9a-f]{64}$")]
    pub transaction_hash: Option<String>,
    /// The block that holds the transaction, once it is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// Why it failed: a stable word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "rejected_by_token")]
    pub error_code: Option<String>,
    /// Why it failed, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// How often the request was published again for want of a result.
    pub retry_count: u32,
    #[serde(skip)]
    /// `retry_count` when the present round of publishing began.
    pub round_began: u32,
    /// Since when somebody should look at it, UTC: it was published as often as is allowed, and no result came. It may
    /// still be paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_attention_since: Option<DateTime<Utc>>,
    #[serde(skip)]
    /// The trace of the HTTP request that asked for it.
    pub trace: Option<TraceParent>,
    /// When it was accepted, UTC.
    pub requested_at: DateTime<Utc>,
    /// When its state last changed, UTC.
    pub updated_at: DateTime<Utc>,
    /// When it was completed or failed, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
}

/// Where a grant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted; not on its way to the chain yet.
    Requested,
    /// In a transaction that was sent.
    Submitted,
    /// The tokens are on chain. Final.
    Completed,
    /// It will not be paid. Final, unless the chain says otherwise.
    Failed,
}

impl State {
    /// The state as it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Submitted => "submitted",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more is expected to happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// The text names no state.
#[derive(Debug, thiserror::Error)]
#[error("unknown state")]
pub struct UnknownState;

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Requested, Self::Submitted, Self::Completed, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownState)
    }
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A grant that did not exist.
    New(Grant),
    /// The very grant that was asked for before, by key or by nature.
    Repeat(Grant),
    /// The idempotency key belongs to a request that asked for something else.
    KeyReused {
        /// The grant of the earlier request.
        earlier: RequestId,
    },
    /// The user has a grant of this campaign already, with another amount or wallet.
    AlreadyGranted {
        /// That grant.
        earlier: RequestId,
    },
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What is asked for.
    pub request: GrantRequest,
    /// The caller's name for the request.
    pub key: Option<IdempotencyKey>,
    /// The trace of the HTTP request.
    pub trace: TraceParent,
}

/// The grants that stand in the way of a batch of arrivals: those of its keys, and those of its users and campaigns.
#[derive(Debug, Default)]
pub struct Known {
    /// By idempotency key.
    pub by_key: HashMap<IdempotencyKey, Grant>,
    /// By campaign and user.
    pub by_nature: HashMap<(CampaignId, UserId), Grant>,
}

impl Known {
    /// Decides one arrival, and remembers the decision for those behind it in the batch. A new grant gets `grant_index`.
    pub fn decide(&mut self, arrival: &Arrival, grant_index: u64, now: DateTime<Utc>) -> Decision {
        let Arrival { request, key, trace } = arrival;
        if let Some(earlier) = key.as_ref().and_then(|key| self.by_key.get(key)) {
            return if earlier.request == *request {
                Decision::Repeat(earlier.clone())
            } else {
                Decision::KeyReused { earlier: earlier.request_id.clone() }
            };
        }
        let nature = (request.campaign_id.clone(), request.user_id.clone());
        let decision = match self.by_nature.get(&nature) {
            Some(earlier) if earlier.request == *request => Decision::Repeat(earlier.clone()),
            Some(earlier) => return Decision::AlreadyGranted { earlier: earlier.request_id.clone() },
            None => Decision::New(Grant::new(request.clone(), grant_index, *trace, now)),
        };
        if let Decision::New(grant) | Decision::Repeat(grant) = &decision {
            self.by_nature.insert(nature, grant.clone());
            if let Some(key) = key {
                self.by_key.insert(key.clone(), grant.clone());
            }
        }
        decision
    }
}

impl Grant {
    fn new(request: GrantRequest, grant_index: u64, trace: TraceParent, now: DateTime<Utc>) -> Self {
        Self {
            request_id: RequestId::unique(now),
            grant_index,
            request,
            token_type: TokenType::Erc20,
            state: State::Requested,
            transaction_hash: None,
            block_number: None,
            error_code: None,
            error_message: None,
            retry_count: 0,
            round_began: 0,
            needs_attention_since: None,
            trace: Some(trace),
            requested_at: now,
            updated_at: now,
            completed_at: None,
        }
    }

    /// The message that asks for this grant to be paid.
    #[must_use]
    pub fn to_message(&self, issuer: Issuer) -> GrantRequested {
        GrantRequested {
            user_id: self.request.user_id.clone(),
            campaign_id: self.request.campaign_id.clone(),
            token_amount: self.request.token_amount,
            token_type: self.token_type,
            request_id: self.request_id.clone(),
            timestamp: self.requested_at,
            retry_count: self.retry_count,
            wallet_address: self.request.wallet_address,
            issuer: Some(issuer),
            grant_index: Some(self.grant_index),
        }
    }

    /// Whether a result names this grant's user and campaign. One that does not is not about this grant, whatever its
    /// request id.
    #[must_use]
    pub fn is_meant_by(&self, event: &ResultEvent) -> bool {
        let (user, campaign) = match event {
            ResultEvent::Submitted(_) => return true,
            ResultEvent::Completed(completed) => (&completed.user_id, &completed.campaign_id),
            ResultEvent::Failed(failed) => (&failed.user_id, &failed.campaign_id),
        };
        *user == self.request.user_id && *campaign == self.request.campaign_id
    }

    /// What a result that has arrived does to the grant. The state never moves backwards: a payment is never forgotten,
    /// and one that is reported after a failure counts.
    pub fn apply(&mut self, event: &ResultEvent, now: DateTime<Utc>) -> Effect {
        let to = match event {
            ResultEvent::Submitted(_) => State::Submitted,
            ResultEvent::Completed(_) => State::Completed,
            ResultEvent::Failed(_) => State::Failed,
        };
        let moves = match (self.state, to) {
            (from, to) if from == to => {
                // The same message again, or another transaction: of a batch that is sent again, or of a payment that
                // somebody reports differently, which is recorded and changes nothing.
                let hash = match event {
                    ResultEvent::Submitted(submitted) => Some(&submitted.transaction_hash),
                    ResultEvent::Completed(completed) => Some(&completed.transaction_hash),
                    ResultEvent::Failed(_) => None,
                };
                if hash.is_none() || hash == self.transaction_hash.as_ref() {
                    return Effect::Repeat;
                }
                to == State::Submitted
            }
            (State::Completed, _) | (State::Failed, State::Submitted) => false,
            _ => true,
        };
        if !moves && !fail_point::switched("results_move_backwards") {
            return Effect::Late;
        }
        self.state = to;
        self.updated_at = now;
        self.completed_at = to.is_final().then_some(now);
        if to.is_final() {
            self.needs_attention_since = None;
        }
        match event {
            ResultEvent::Submitted(submitted) => self.transaction_hash = Some(submitted.transaction_hash.clone()),
            ResultEvent::Completed(completed) => {
                self.transaction_hash = Some(completed.transaction_hash.clone());
                self.block_number = completed.block_number;
                (self.error_code, self.error_message) = (None, None);
            }
            ResultEvent::Failed(failed) => {
                self.error_code.clone_from(&failed.error_code);
                self.error_message = Some(failed.error_message.clone());
            }
        }
        Effect::Moved
    }
}

/// What a result did to its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The state moved.
    Moved,
    /// It was known already.
    Repeat,
    /// It came too late to move the state, and is only recorded.
    Late,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::clock::from_micros;
    use shared::event::{GrantCompleted, GrantFailed, GrantsSubmitted};

    use super::*;

    fn request(user: &str, amount: i64) -> GrantRequest {
        GrantRequest {
            user_id: user.parse().unwrap(),
            campaign_id: "summer".parse().unwrap(),
            wallet_address: None,
            token_amount: amount.try_into().unwrap(),
        }
    }

    fn arrival(user: &str, amount: i64, key: Option<&str>) -> Arrival {
        Arrival { request: request(user, amount), key: key.map(|key| key.parse().unwrap()), trace: TraceParent::new() }
    }

    fn decide(known: &mut Known, user: &str, amount: i64, key: Option<&str>) -> Decision {
        known.decide(&arrival(user, amount, key), 0, from_micros(0))
    }

    #[test]
    fn the_same_request_is_the_same_grant() {
        let mut known = Known::default();
        let Decision::New(grant) = decide(&mut known, "alice", 100, None) else { panic!("new") };
        assert_eq!(decide(&mut known, "alice", 100, None), Decision::Repeat(grant.clone()));
        assert_eq!(decide(&mut known, "alice", 100, Some("k")), Decision::Repeat(grant.clone()));
        assert_eq!(decide(&mut known, "bob", 100, Some("k")), Decision::KeyReused { earlier: grant.request_id });
    }

    #[test]
    fn another_amount_for_the_same_user_is_refused() {
        let mut known = Known::default();
        let Decision::New(grant) = decide(&mut known, "alice", 100, Some("k")) else { panic!("new") };
        let earlier = grant.request_id;
        assert_eq!(decide(&mut known, "alice", 200, None), Decision::AlreadyGranted { earlier: earlier.clone() });
        assert_eq!(decide(&mut known, "alice", 200, Some("k")), Decision::KeyReused { earlier });
    }

    fn result(kind: u8, hash: u8) -> ResultEvent {
        let (user_id, campaign_id) = ("alice".parse().unwrap(), "summer".parse().unwrap());
        let (request_id, timestamp, processed_at) = ("r".parse().unwrap(), from_micros(0), from_micros(1));
        let transaction_hash = format!("0x{hash}");
        match kind {
            0 => ResultEvent::Submitted(GrantsSubmitted { request_ids: vec![], transaction_hash, processed_at }),
            1 => ResultEvent::Completed(GrantCompleted {
                user_id,
                campaign_id,
                request_id,
                transaction_hash,
                timestamp,
                processed_at,
                wallet_address: None,
                block_number: Some(1),
                gas_used: None,
            }),
            _ => ResultEvent::Failed(GrantFailed {
                user_id,
                campaign_id,
                request_id,
                error_message: "no".into(),
                timestamp,
                processed_at,
                error_code: None,
            }),
        }
    }

    proptest! {
        #[test]
        fn results_in_any_order_never_move_the_state_backwards(results: Vec<(u8, bool)>) {
            let Decision::New(mut grant) = decide(&mut Known::default(), "alice", 100, None) else { panic!("new") };
            let mut paid = false;
            for (kind, hash) in results {
                let before = grant.state;
                let event = result(kind % 3, u8::from(hash));
                let effect = grant.apply(&event, from_micros(1));
                paid |= kind % 3 == 1;
                prop_assert!(grant.state >= before || grant.state == State::Completed);
                prop_assert_eq!(grant.state == State::Completed, paid);
                prop_assert_eq!(grant.completed_at.is_some(), grant.state.is_final());
                prop_assert_eq!(grant.apply(&event, from_micros(2)) == Effect::Moved, false, "{:?}", effect);
            }
        }
    }
}
