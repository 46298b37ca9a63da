//! What the ledger says of grants, campaigns and the service: the truth that everything else is worked out from.
//!
//! An event is stored under its kind and with [`VERSION`], and is never rewritten. Where the form of one changes, the
//! version grows and `upcast` learns to read the older form: `campaign/tests/events` has a ledger of each version.

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::event::{ResultEvent, Terms};
use shared::id::{Actor, BaseUnits, GrantId, IdempotencyKey, WalletAddress};

use super::campaign::Spec;
use super::{GrantRequest, State};

/// The form in which events are written.
pub const VERSION: u32 = 2;

macro_rules! events {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident($payload:ty) = $kind:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($payload),)*
        }

        impl $name {
            /// The words under which they are stored, all of them.
            pub const KINDS: &'static [&'static str] = &[$($kind,)*];

            /// The word under which it is stored.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// The details, as they are stored: a JSON object.
            ///
            /// # Panics
            ///
            /// Never: the details are plain structs.
            #[must_use]
            pub fn data(&self) -> String {
                match self { $(Self::$variant(data) => serde_json::to_string(data),)* }
                    .expect("details are plain structs")
            }

            /// Reads what was stored.
            ///
            /// # Errors
            ///
            /// When this version of the program knows no such event.
            pub fn read(kind: &str, version: u32, data: &str) -> serde_json::Result<Self> {
                if version == VERSION {
                    return match kind {
                        $($kind => serde_json::from_str(data).map(Self::$variant),)*
                        _ => Err(unknown(kind, version)),
                    };
                }
                let (kind, data) = upcast(kind, version, serde_json::from_str(data)?)?;
                match kind {
                    $($kind => details(data).map(Self::$variant),)*
                    _ => Err(unknown(kind, version)),
                }
            }
        }
    };
}

fn details<T: DeserializeOwned>(data: Value) -> serde_json::Result<T> {
    serde_json::from_value(data)
}

fn unknown(kind: &str, version: u32) -> serde_json::Error {
    serde_json::Error::custom(format!("there is no event {kind} of version {version}"))
}

events! {
    /// What happened to a grant.
    GrantEvent:
    /// It was accepted.
    Requested(Requested) = "TokenGrantRequested",
    /// Another idempotency key names it from now on.
    KeyAdded(KeyAdded) = "KeyAdded",
    /// The broker has its request.
    Published(Published) = "Published",
    /// The blockchain service has it, and will pay it.
    Started(Progress) = "Started",
    /// The blockchain service has it, and leaves it to its recipient to claim.
    Claimable(Claimable) = "Claimable",
    /// It is in a transaction that was sent.
    Submitted(Submitted) = "BlockchainTxSubmitted",
    /// Its transaction is in a block.
    Confirmed(Confirmed) = "Confirmed",
    /// The block of its transaction is gone: a reorg.
    Reverted(Submitted) = "Reverted",
    /// The tokens are on chain.
    Completed(Completed) = "Completed",
    /// It will not be paid.
    Failed(Failed) = "Failed",
    /// It will not be paid: it was in no transaction when its time was over.
    Expired(Failed) = "Expired",
    /// It will not be paid: somebody did not want it any more.
    Cancelled(Failed) = "Cancelled",
    /// Somebody does not want it any more; it may be too late.
    CancelRequested(CancelRequested) = "CancelRequested",
    /// No result came in time: its request is published again.
    Retried(Retried) = "Retried",
    /// No result came although it was published as often as is allowed.
    NeedsAttention(Attention) = "NeedsAttention",
    /// An operator set it going again.
    Redriven(Retried) = "Redriven",
}

events! {
    /// What happened to a campaign.
    CampaignEvent:
    /// It was made.
    Created(Specified) = "CampaignCreated",
    /// Its settings are others now.
    Changed(Specified) = "CampaignChanged",
    /// There is a tree of its grants that can be claimed; the blockchain service is to publish the root.
    ClaimRootMade(ClaimRootMade) = "ClaimRootMade",
    /// The root is on chain.
    ClaimRootPublished(ClaimRootPublished) = "ClaimRootPublished",
}

events! {
    /// What happened to the service as a whole.
    ServiceEvent:
    /// All payments are stopped.
    KillSwitchEngaged(Switched) = "KillSwitchEngaged",
    /// Payments go on.
    KillSwitchReleased(Switched) = "KillSwitchReleased",
}

/// Details of a grant that was accepted: all that was asked for and decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The grant's number within this deployment.
    pub grant_index: u64,
    /// What was asked for.
    #[serde(flatten)]
    pub request: GrantRequest,
    /// How it is to be paid.
    #[serde(flatten)]
    pub terms: Terms,
    /// How many grants of this campaign the user has, this one included, failed ones too.
    pub user_grant_number: u64,
    /// The caller's name for the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// The trace of the HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// When its result is overdue.
    pub publish_again_at: DateTime<Utc>,
}

/// Details of a key that names the grant too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAdded {
    /// The key.
    pub idempotency_key: IdempotencyKey,
}

/// Details of a request that the broker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// How often it had been published before for want of a result.
    pub retry_count: u32,
}

/// When the blockchain service saw what it reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The time, by its clock.
    pub processed_at: DateTime<Utc>,
}

/// Details of a grant that is to be claimed: its leaf in the campaign's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimable {
    /// Its id on chain.
    pub grant_id: GrantId,
    /// Who gets the tokens, whoever claims.
    pub wallet_address: WalletAddress,
    /// How much.
    pub amount: BaseUnits,
    /// When the blockchain service took it in.
    pub processed_at: DateTime<Utc>,
}

/// Details of a tree. The entry's number is the tree's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRootMade {
    /// Its root.
    pub root: B256,
    /// How many grants are in it.
    pub leaves: u64,
    /// It has all grants of the campaign that the ledger made claimable up to this entry.
    pub up_to: u64,
}

/// Details of a root that is on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRootPublished {
    /// The tree's number.
    pub number: u64,
    /// The root.
    pub root: B256,
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The contract that pays.
    pub distributor: WalletAddress,
    /// The transaction that published it.
    pub transaction_hash: String,
    /// Its block.
    pub block_number: u64,
    /// When the blockchain service saw it final.
    pub processed_at: DateTime<Utc>,
}

/// Details of a transaction that was sent, or that lost its block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The transaction.
    pub transaction_hash: String,
    /// When the blockchain service saw it; absent in entries of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed_at: Option<DateTime<Utc>>,
}

/// Details of a transaction that is in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The transaction.
    pub transaction_hash: String,
    /// The block's number.
    pub block_number: u64,
    /// The block's hash.
    pub block_hash: String,
    /// When the blockchain service saw it.
    pub processed_at: DateTime<Utc>,
}

/// Details of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The transaction.
    pub transaction_hash: String,
    /// Its block.
    pub block_number: Option<u64>,
    /// The grant's share of its gas.
    pub gas_used: Option<u64>,
    /// What a unit of gas cost, in wei.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_price: Option<u64>,
    /// The account that holds the tokens.
    pub wallet_address: Option<WalletAddress>,
    /// When the blockchain service saw it final.
    pub processed_at: DateTime<Utc>,
}

/// Why a grant will not be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// For programs.
    pub error_code: Option<String>,
    /// For people.
    pub error_message: String,
    /// When the blockchain service decided it.
    pub processed_at: DateTime<Utc>,
}

/// Details of a wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// Why, in the words of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Details of a request that is published again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// How often it was published for want of a result, this time included.
    pub retry_count: u32,
    /// When the result is overdue again; absent in entries of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_again_at: Option<DateTime<Utc>>,
}

/// Details of a grant that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// How often its request was published for want of a result.
    pub retry_count: u32,
}

/// A campaign's settings, all of them, and why they are so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Specified {
    /// The settings.
    #[serde(flatten)]
    pub spec: Spec,
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Details of a change of the kill switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl GrantEvent {
    /// What a result says of each of its grants; `None` where it is about none.
    #[must_use]
    pub fn of(result: &ResultEvent) -> Option<Self> {
        Some(match result {
            ResultEvent::ClaimRootPublished(_) => return None,
            ResultEvent::Started(started) => Self::Started(Progress { processed_at: started.processed_at }),
            ResultEvent::Claimable(claimable) => Self::Claimable(Claimable {
                grant_id: claimable.grant_id,
                wallet_address: claimable.wallet_address,
                amount: claimable.amount,
                processed_at: claimable.processed_at,
            }),
            ResultEvent::Submitted(submitted) => Self::Submitted(Submitted {
                transaction_hash: submitted.transaction_hash.clone(),
                processed_at: Some(submitted.processed_at),
            }),
            ResultEvent::Confirmed(confirmed) => Self::Confirmed(Confirmed {
                transaction_hash: confirmed.transaction_hash.clone(),
                block_number: confirmed.block_number,
                block_hash: confirmed.block_hash.clone(),
                processed_at: confirmed.processed_at,
            }),
            ResultEvent::Reverted(reverted) => Self::Reverted(Submitted {
                transaction_hash: reverted.transaction_hash.clone(),
                processed_at: Some(reverted.processed_at),
            }),
            ResultEvent::Completed(completed) => Self::Completed(Completed {
                transaction_hash: completed.transaction_hash.clone(),
                block_number: completed.block_number,
                gas_used: completed.gas_used,
                gas_price: completed.gas_price,
                wallet_address: completed.wallet_address,
                processed_at: completed.processed_at,
            }),
            ResultEvent::Failed(failed) => {
                let details = Failed {
                    error_code: failed.error_code.clone(),
                    error_message: failed.error_message.clone(),
                    processed_at: failed.processed_at,
                };
                match failed.error_code.as_deref() {
                    Some("expired") => Self::Expired(details),
                    Some("cancelled") => Self::Cancelled(details),
                    _ => Self::Failed(details),
                }
            }
        })
    }

    /// The state that the grant is in afterwards, if it moves.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        match self {
            Self::Requested(_) => Some(State::Requested),
            Self::Started(_) => Some(State::Started),
            Self::Claimable(_) => Some(State::Claimable),
            Self::Submitted(_) | Self::Reverted(_) => Some(State::Submitted),
            Self::Confirmed(_) => Some(State::Confirmed),
            Self::Completed(_) => Some(State::Completed),
            Self::Failed(_) => Some(State::Failed),
            Self::Expired(_) => Some(State::Expired),
            Self::Cancelled(_) => Some(State::Cancelled),
            Self::KeyAdded(_)
            | Self::Published(_)
            | Self::CancelRequested(_)
            | Self::Retried(_)
            | Self::NeedsAttention(_)
            | Self::Redriven(_) => None,
        }
    }
}

/// Names the parts of this service, and those who ask it, in the ledger.
pub mod actor {
    use super::Actor;

    /// A name that is known when the program is written.
    fn known(name: &str) -> Actor {
        name.parse().expect("it is short text")
    }

    /// A studio's server, that says no more of itself.
    #[must_use]
    pub fn client() -> Actor {
        known("client")
    }

    /// The blockchain service, by a result.
    #[must_use]
    pub fn blockchain() -> Actor {
        known("blockchain")
    }

    /// This service, by itself.
    #[must_use]
    pub fn campaign() -> Actor {
        known("campaign")
    }

    /// Somebody who looks after the system.
    #[must_use]
    pub fn operator() -> Actor {
        known("operator")
    }
}

/// Reads the details of an older form as those of [`VERSION`].
fn upcast(kind: &str, version: u32, mut data: Value) -> serde_json::Result<(&'static str, Value)> {
    // Version 1 had a history of grants alone, of campaigns without settings that paid a user once.
    if version != 1 {
        return Err(unknown(kind, version));
    }
    let kind = match kind {
        "requested" => {
            data["user_grant_number"] = json!(1);
            "TokenGrantRequested"
        }
        "key_added" => "KeyAdded",
        "submitted" => "BlockchainTxSubmitted",
        "completed" => "Completed",
        "failed" => "Failed",
        "published_again" if data["by"] == "operator" => "Redriven",
        "published_again" => "Retried",
        "needs_attention" => "NeedsAttention",
        "campaign_created" => "CampaignCreated",
        _ => return Err(unknown(kind, version)),
    };
    Ok((kind, data))
}
