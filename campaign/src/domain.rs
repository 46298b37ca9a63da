//! What a grant is and how its state moves. No I/O, no clock, no randomness.

pub mod admission;
pub mod campaign;
pub mod event;
mod patience;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use event::{GrantEvent, Requested};
pub use patience::Patience;
use serde::{Deserialize, Serialize};
use shared::clock::from_micros;
use shared::event::{CancelRequested, GrantRequested, ResultEvent, Terms, TokenType};
use shared::fail_point;
use shared::id::{CampaignId, GrantId, Issuer, RequestId, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;
use utoipa::{IntoParams, ToSchema};

/// What a studio asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GrantRequest {
    /// Who is to be paid: the studio's name for the player.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "alice")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 128, example = "alice")]
    pub user_id: UserId,
    /// For which campaign. By default, a campaign pays a user once.
    #[schema(value_type = String, min_length = 1, max_length = 128, example = "summer")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 128, example = "summer")]
    pub campaign_id: CampaignId,
    /// Where to. Without it, to the wallet that belongs to `user_id`.
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$", example = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")]
    #[param(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$", example = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")]
    pub wallet_address: Option<WalletAddress>,
    /// Whole tokens. Without it, what the campaign pays.
    #[schema(value_type = u64, required = false, minimum = 1, maximum = 1_000_000_000)]
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000)]
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
    #[serde(flatten)]
    /// How it is to be paid.
    pub terms: Terms,
    /// The kind of token.
    #[schema(value_type = String, example = "ERC20")]
    pub token_type: TokenType,
    #[serde(skip)]
    /// How many grants of this campaign the user has, those before this one and this one.
    pub user_grant_number: u64,
    /// Where it stands.
    pub state: State,
    /// The transaction that pays it, once it is submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^0x[0-9a-f]{64}$")]
    pub transaction_hash: Option<String>,
    /// The block that holds the transaction.
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
    /// Since when somebody does not want it any more, UTC. It may still be paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    /// When the request is published again for want of a result; `None` once nobody does.
    pub publish_again_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    /// When, by the blockchain service's clock, that happened which brought it to its state.
    pub progressed_at: Option<DateTime<Utc>>,
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
    /// The blockchain service has it.
    Started,
    /// It is not minted: its recipient can claim it, as soon as the root of the campaign's tree is on chain.
    Claimable,
    /// In a transaction that was sent.
    Submitted,
    /// In a block that is not final yet.
    Confirmed,
    /// The tokens are on chain. Final.
    Completed,
    /// It will not be paid. Final, unless the chain says otherwise.
    Failed,
    /// It was in no transaction when its time was over, and will not be paid. As final as failed.
    Expired,
    /// Somebody did not want it any more, and it will not be paid. As final as failed.
    Cancelled,
}

/// What a state means for whoever counts tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The tokens are promised.
    UnderWay,
    /// The tokens are on chain.
    Paid,
    /// The tokens are not promised any more.
    Unpaid,
}

impl State {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Requested,
        Self::Started,
        Self::Claimable,
        Self::Submitted,
        Self::Confirmed,
        Self::Completed,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The state as it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Started => "started",
            Self::Claimable => "claimable",
            Self::Submitted => "submitted",
            Self::Confirmed => "confirmed",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// What it means for the tokens.
    #[must_use]
    pub fn standing(self) -> Standing {
        match self {
            Self::Requested | Self::Started | Self::Claimable | Self::Submitted | Self::Confirmed => Standing::UnderWay,
            Self::Completed => Standing::Paid,
            Self::Failed | Self::Expired | Self::Cancelled => Standing::Unpaid,
        }
    }

    /// Whether nothing more is expected to happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.standing() != Standing::UnderWay
    }
}

/// The text names no state.
#[derive(Debug, thiserror::Error)]
#[error("unknown state")]
pub struct UnknownState;

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

impl Grant {
    /// The grant that an event makes.
    #[must_use]
    pub fn requested(request_id: RequestId, requested: &Requested, at: DateTime<Utc>) -> Self {
        Self {
            request_id,
            grant_index: requested.grant_index,
            request: requested.request.clone(),
            terms: requested.terms.clone(),
            token_type: TokenType::Erc20,
            user_grant_number: requested.user_grant_number,
            state: State::Requested,
            transaction_hash: None,
            block_number: None,
            error_code: None,
            error_message: None,
            retry_count: 0,
            round_began: 0,
            needs_attention_since: None,
            cancel_requested_at: None,
            publish_again_at: Some(requested.publish_again_at),
            progressed_at: None,
            trace: requested.traceparent.as_ref().and_then(|trace| trace.parse().ok()),
            requested_at: at,
            updated_at: at,
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
            terms: self.terms.clone(),
        }
    }

    /// The message that asks for this grant not to be paid.
    #[must_use]
    pub fn to_cancellation(&self, issuer: Issuer) -> CancelRequested {
        CancelRequested {
            user_id: self.request.user_id.clone(),
            campaign_id: self.request.campaign_id.clone(),
            request_id: self.request_id.clone(),
            timestamp: self.requested_at,
            request: Box::new(self.to_message(issuer)),
        }
    }

    /// How long it took from the request until it was completed or failed, in microseconds.
    #[must_use]
    pub fn mint_micros(&self) -> Option<u64> {
        u64::try_from((self.completed_at? - self.requested_at).num_microseconds()?).ok()
    }

    /// Whether a result names this grant's user and campaign, and its id on chain, where it names one. One that does not is
    /// not about this grant, whatever its request id.
    #[must_use]
    pub fn is_meant_by(&self, event: &ResultEvent, issuer: Issuer) -> bool {
        let (user, campaign) = match event {
            ResultEvent::Started(_)
            | ResultEvent::Submitted(_)
            | ResultEvent::Confirmed(_)
            | ResultEvent::Reverted(_)
            | ResultEvent::ClaimRootPublished(_) => return true,
            ResultEvent::Claimable(claimable) if claimable.grant_id != GrantId::dense(issuer, self.grant_index) => {
                return false;
            }
            ResultEvent::Claimable(claimable) => (&claimable.user_id, &claimable.campaign_id),
            ResultEvent::Completed(completed) => (&completed.user_id, &completed.campaign_id),
            ResultEvent::Failed(failed) => (&failed.user_id, &failed.campaign_id),
        };
        *user == self.request.user_id && *campaign == self.request.campaign_id
    }

    /// What an event does to the grant. What was paid is never forgotten, and a payment that is reported after a failure
    /// counts; before its end, a grant's state is what the blockchain service saw last, in whatever order it is told.
    pub fn apply(&mut self, event: &GrantEvent, at: DateTime<Utc>) -> Effect {
        let effect = match event {
            GrantEvent::Requested(_) => Effect::Repeat,
            GrantEvent::KeyAdded(_) | GrantEvent::Published(_) => return Effect::Noted,
            GrantEvent::CancelRequested(_) => {
                self.cancel_requested_at = Some(at);
                return Effect::Noted;
            }
            GrantEvent::Retried(retried) => {
                self.retry_count = retried.retry_count;
                self.publish_again_at = retried.publish_again_at.or(self.publish_again_at);
                return Effect::Noted;
            }
            GrantEvent::Redriven(redriven) => {
                (self.retry_count, self.round_began) = (redriven.retry_count, redriven.retry_count);
                self.publish_again_at = redriven.publish_again_at.or(Some(at));
                self.needs_attention_since = None;
                return Effect::Noted;
            }
            GrantEvent::NeedsAttention(_) => {
                self.publish_again_at = None;
                self.needs_attention_since = Some(at);
                return Effect::Noted;
            }
            GrantEvent::Started(_) => match self.state {
                State::Requested => Effect::Moved,
                _ => Effect::Repeat,
            },
            GrantEvent::Claimable(_) => match self.state {
                // One that is not wanted any more never gets into a tree: its cancellation cannot come too late.
                State::Requested | State::Started if self.cancel_requested_at.is_none() => Effect::Moved,
                _ => Effect::Repeat,
            },
            GrantEvent::Submitted(_) | GrantEvent::Confirmed(_) | GrantEvent::Reverted(_) => self.progress(event),
            GrantEvent::Completed(completed) => match self.state {
                State::Completed if self.transaction_hash.as_ref() == Some(&completed.transaction_hash) => {
                    Effect::Repeat
                }
                // Somebody reports the payment differently.
                State::Completed => Effect::Late,
                _ => Effect::Moved,
            },
            GrantEvent::Failed(_) | GrantEvent::Expired(_) | GrantEvent::Cancelled(_) => match self.state.standing() {
                Standing::UnderWay => Effect::Moved,
                Standing::Paid => Effect::Late,
                Standing::Unpaid => Effect::Repeat,
            },
        };
        if effect != Effect::Moved && !(effect == Effect::Late && fail_point::switched("results_move_backwards")) {
            return effect;
        }
        self.move_on(event, at);
        Effect::Moved
    }

    /// What news of its transaction does, before the grant's end.
    fn progress(&self, event: &GrantEvent) -> Effect {
        let (hash, block, processed_at) = match event {
            GrantEvent::Submitted(news) | GrantEvent::Reverted(news) => {
                (&news.transaction_hash, None, news.processed_at)
            }
            GrantEvent::Confirmed(news) => (&news.transaction_hash, Some(news.block_number), Some(news.processed_at)),
            _ => return Effect::Late,
        };
        if self.transaction_hash.as_ref() == Some(hash)
            && event.state() == Some(self.state)
            && self.block_number == block
        {
            return Effect::Repeat;
        }
        if self.state.is_final() || processed_at < self.progressed_at {
            return Effect::Late;
        }
        Effect::Moved
    }

    fn move_on(&mut self, event: &GrantEvent, at: DateTime<Utc>) {
        let Some(to) = event.state() else { return };
        self.state = to;
        self.updated_at = at;
        self.completed_at = to.is_final().then_some(at);
        if to.is_final() {
            (self.needs_attention_since, self.publish_again_at) = (None, None);
        }
        match event {
            GrantEvent::Claimable(_) => {
                self.round_began = self.retry_count;
                (self.needs_attention_since, self.publish_again_at) = (None, Some(at + patience::of_claimable(0)));
            }
            GrantEvent::Submitted(news) | GrantEvent::Reverted(news) => {
                self.transaction_hash = Some(news.transaction_hash.clone());
                self.block_number = None;
                self.progressed_at = news.processed_at.map(as_kept).or(self.progressed_at);
            }
            GrantEvent::Confirmed(news) => {
                self.transaction_hash = Some(news.transaction_hash.clone());
                self.block_number = Some(news.block_number);
                self.progressed_at = Some(as_kept(news.processed_at));
            }
            GrantEvent::Completed(completed) => {
                self.transaction_hash = Some(completed.transaction_hash.clone());
                self.block_number = completed.block_number;
                (self.error_code, self.error_message) = (None, None);
            }
            GrantEvent::Failed(failed) | GrantEvent::Expired(failed) | GrantEvent::Cancelled(failed) => {
                self.error_code.clone_from(&failed.error_code);
                self.error_message = Some(failed.error_message.clone());
                self.block_number = None;
            }
            _ => {}
        }
    }
}

/// Whole microseconds, as stores keep them: a grant that was not stored meanwhile has to come to the same.
fn as_kept(at: DateTime<Utc>) -> DateTime<Utc> {
    from_micros(at.timestamp_micros())
}

/// What an event did to its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The state moved.
    Moved,
    /// Something else than the state is different, or is known.
    Noted,
    /// It was known already.
    Repeat,
    /// It came too late to move the state, and is only recorded.
    Late,
}

#[cfg(test)]
mod tests {
    use event::{Attention, Claimable, Completed, Confirmed, Failed, Progress, Submitted};
    use proptest::prelude::*;

    use super::*;

    /// A grant that was just accepted.
    pub(super) fn grant() -> Grant {
        let requested = Requested {
            grant_index: 0,
            request: GrantRequest {
                user_id: "alice".parse().unwrap(),
                campaign_id: "summer".parse().unwrap(),
                wallet_address: None,
                token_amount: 100.try_into().unwrap(),
            },
            terms: Terms::default(),
            user_grant_number: 1,
            idempotency_key: None,
            traceparent: None,
            publish_again_at: from_micros(60_000_000),
        };
        Grant::requested("r".parse().unwrap(), &requested, from_micros(0))
    }

    fn news(kind: u8, hash: u8, second: u8) -> GrantEvent {
        let (transaction_hash, processed_at) = (format!("0x{hash}"), from_micros(i64::from(second) * 1_000_000));
        let sent = Submitted { transaction_hash: transaction_hash.clone(), processed_at: Some(processed_at) };
        let failed = Failed { error_code: None, error_message: "no".into(), processed_at };
        match kind {
            0 => GrantEvent::Started(Progress { processed_at }),
            1 => GrantEvent::Submitted(sent),
            2 => GrantEvent::Confirmed(Confirmed {
                transaction_hash,
                block_number: u64::from(second),
                block_hash: format!("0x{second}"),
                processed_at,
            }),
            3 => GrantEvent::Reverted(sent),
            4 => GrantEvent::Completed(Completed {
                transaction_hash,
                block_number: Some(1),
                gas_used: None,
                gas_price: None,
                wallet_address: None,
                processed_at,
            }),
            5 => GrantEvent::Failed(failed),
            6 => GrantEvent::Expired(failed),
            7 => GrantEvent::Cancelled(failed),
            _ => GrantEvent::Claimable(Claimable {
                grant_id: GrantId::dense(Issuer::new(1), 0),
                wallet_address: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed".parse().unwrap(),
                amount: "100".parse().unwrap(),
                processed_at,
            }),
        }
    }

    proptest! {
        #[test]
        fn news_in_any_order_never_takes_a_grant_back(all: Vec<(u8, u8, u8)>) {
            let mut grant = grant();
            let mut paid = false;
            for (kind, hash, second) in all {
                let before = grant.clone();
                let event = news(kind % 9, hash % 2, second);
                let effect = grant.apply(&event, from_micros(1));
                paid |= kind % 9 == 4;
                prop_assert!(!before.state.is_final() || grant.state.is_final());
                prop_assert!(grant.progressed_at >= before.progressed_at, "older news does not take the place of newer");
                prop_assert_eq!(grant.state == State::Completed, paid);
                prop_assert_eq!(grant.completed_at.is_some(), grant.state.is_final());
                prop_assert_eq!(grant.publish_again_at.is_some(), !grant.state.is_final());
                prop_assert_eq!(grant == before, effect != Effect::Moved, "{:?}", effect);
                prop_assert_ne!(grant.apply(&event, from_micros(2)), Effect::Moved);
            }
        }
    }

    #[test]
    fn a_grant_needs_attention_until_it_has_ended_or_waits_for_its_player() {
        for (kind, state, needs_attention, is_published_again) in [
            (0, State::Started, true, false),
            (2, State::Confirmed, true, false),
            (4, State::Completed, false, false),
            (5, State::Failed, false, false),
            (8, State::Claimable, false, true),
        ] {
            let mut grant = grant();
            grant.apply(&GrantEvent::NeedsAttention(Attention { retry_count: 0 }), from_micros(1));
            grant.apply(&news(kind, 1, 2), from_micros(3));
            let waits = (grant.needs_attention_since.is_some(), grant.publish_again_at.is_some());
            assert_eq!((grant.state, waits), (state, (needs_attention, is_published_again)));
        }
    }

    #[test]
    fn a_reorg_takes_a_confirmed_grant_back_to_submitted() {
        let mut grant = grant();
        let states: Vec<_> = [(0, 0), (1, 1), (2, 2), (3, 3), (2, 4), (4, 5)]
            .map(|(kind, second)| {
                grant.apply(&news(kind, 1, second), from_micros(1));
                (grant.state.as_str(), grant.block_number)
            })
            .into();
        let expected = [
            ("started", None),
            ("submitted", None),
            ("confirmed", Some(2)),
            ("submitted", None),
            ("confirmed", Some(4)),
            ("completed", Some(1)),
        ];
        assert_eq!(states, expected);
    }
}
