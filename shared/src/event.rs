//! The wire contract: what travels on the two topics, as JSON.
//!
//! Any program that knows only the founding fields can publish and read these messages. Fields that we added are
//! optional for the reader, unknown fields are ignored, and a field that is absent is not written.

use std::collections::BTreeMap;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::finality::Finality;
use crate::id::{BaseUnits, CampaignId, GrantId, Issuer, Priority, RequestId, TokenAmount, UserId, WalletAddress};
use crate::schema;
use crate::telemetry::{self, TraceParent};

/// A message on `token-grant-requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event_type")]
pub enum RequestEvent {
    /// Tokens are to be paid.
    #[serde(rename = "token.grant.requested")]
    Requested(GrantRequested),
    /// A grant is not wanted any more.
    #[serde(rename = "token.grant.cancel_requested")]
    CancelRequested(CancelRequested),
    /// All payments are stopped, or go on.
    #[serde(rename = "kill_switch.changed")]
    KillSwitchChanged(KillSwitchChanged),
    /// The grants of a campaign are to be claimed by another Merkle tree.
    #[serde(rename = "claim_root.changed")]
    ClaimRootChanged(ClaimRootChanged),
}

/// Tokens are to be paid: exactly once for each `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequested {
    /// Who is to be paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// Whole tokens.
    pub token_amount: TokenAmount,
    /// The kind of token.
    pub token_type: TokenType,
    /// Names the grant; a message that repeats it is the same grant.
    pub request_id: RequestId,
    /// When the grant was requested, RFC 3339, UTC.
    pub timestamp: DateTime<Utc>,
    /// How often the request was published again for want of a result.
    #[serde(default)]
    pub retry_count: u32,
    /// Where to; without it, to the counterfactual wallet of `user_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<WalletAddress>,
    /// Whose numbering `grant_index` belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
    /// The grant's number within its issuer: `issuer << 64 | grant_index` is its id on chain. Without both, the id is
    /// derived from `request_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_index: Option<u64>,
    /// How it is to be paid, where that is not left to the blockchain service.
    #[serde(flatten)]
    pub terms: Terms,
}

impl GrantRequested {
    /// The grant's id on chain: `issuer << 64 | grant_index`, dense, so that ids share storage words; for a message without
    /// them `keccak256(request_id)` with its top bit set, which no dense id has.
    #[must_use]
    pub fn grant_id(&self) -> GrantId {
        match (self.issuer, self.grant_index) {
            (Some(issuer), Some(index)) => GrantId::dense(issuer, index),
            _ => GrantId::sparse(&self.request_id),
        }
    }
}

/// How a grant is to be paid, where that is not left to the blockchain service's own settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Terms {
    /// Whether it is minted, or claimed.
    #[serde(default, skip_serializing_if = "PaymentMode::is_mint")]
    pub mode: PaymentMode,
    /// Not after this, UTC: a grant that is in no transaction by then fails as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Grants of a higher priority are paid first; 0 is ordinary.
    #[serde(default, skip_serializing_if = "Priority::is_ordinary")]
    #[schema(value_type = u8, minimum = 0, maximum = 9, default = 0)]
    pub priority: Priority,
    /// When its block counts as final: a number of blocks, `safe` or `finalized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "finalized")]
    pub finality: Option<Finality>,
    /// The chain (EIP-155) on which it must be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// The token in which it must be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$")]
    pub token: Option<WalletAddress>,
}

/// How the tokens of a grant come to their recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentMode {
    /// The blockchain service mints them.
    #[default]
    Mint,
    /// Nothing is minted until the recipient, or anybody for the recipient, claims them from the distributor.
    Claim,
}

impl PaymentMode {
    /// Whether it is what most grants have.
    #[must_use]
    pub fn is_mint(&self) -> bool {
        *self == Self::Mint
    }

    /// The word that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Claim => "claim",
        }
    }
}

impl FromStr for PaymentMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Mint, Self::Claim].into_iter().find(|mode| mode.as_str() == text).ok_or("must be mint or claim")
    }
}

/// A grant is not wanted any more: if it is in no transaction yet, it is not paid, and fails as `cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// Who was to be paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// The grant.
    pub request_id: RequestId,
    /// The `timestamp` of the request.
    pub timestamp: DateTime<Utc>,
    /// The grant as it was requested: whoever has not seen the request yet knows from it what never to pay.
    pub request: Box<GrantRequested>,
}

/// All payments are stopped, or go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitchChanged {
    /// Whether payments are stopped.
    pub engaged: bool,
    /// Grows with each change: a change of a lower number comes late, and is ignored.
    pub number: u64,
    /// When it was changed.
    pub timestamp: DateTime<Utc>,
}

/// The grants of a campaign are to be claimed by this Merkle tree, in place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRootChanged {
    /// Whose grants.
    pub campaign_id: CampaignId,
    /// The tree's root, 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub root: String,
    /// Grows with each tree of the campaign: a tree of a lower number comes late, and is ignored.
    pub number: u64,
    /// When the tree was made.
    pub timestamp: DateTime<Utc>,
}

/// The kind of token that is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TokenType {
    /// A fungible token (EIP-20).
    #[default]
    #[serde(rename = "ERC20")]
    Erc20,
}

/// A message on `token-grant-results`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event_type")]
pub enum ResultEvent {
    /// Requests were taken in: one message for all of a batch.
    #[serde(rename = "token.grants.started")]
    Started(GrantsStarted),
    /// A transaction that pays grants was sent: one message for all of them.
    #[serde(rename = "token.grants.submitted")]
    Submitted(GrantsSubmitted),
    /// A transaction that pays grants is in a block that is not final yet.
    #[serde(rename = "token.grants.confirmed")]
    Confirmed(GrantsConfirmed),
    /// The block that held a transaction is not on the chain any more.
    #[serde(rename = "token.grants.reverted")]
    Reverted(GrantsReverted),
    /// The tokens are on chain, and final under the service's finality setting.
    #[serde(rename = "token.grant.completed")]
    Completed(GrantCompleted),
    /// The grant will not be paid.
    #[serde(rename = "token.grant.failed")]
    Failed(GrantFailed),
    /// The grant is to be claimed, and this is how it has to stand in a Merkle tree.
    #[serde(rename = "token.grant.claimable")]
    Claimable(GrantClaimable),
    /// The root of a campaign's Merkle tree is on chain.
    #[serde(rename = "claim_root.published")]
    ClaimRootPublished(ClaimRootPublished),
}

/// Progress: the blockchain service has these grants, and will pay them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsStarted {
    /// The grants.
    pub request_ids: Vec<RequestId>,
    /// When they were taken in.
    pub processed_at: DateTime<Utc>,
}

/// Progress: the transaction that pays these grants is in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsConfirmed {
    /// The grants in the transaction.
    pub request_ids: Vec<RequestId>,
    /// 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub transaction_hash: String,
    /// The block's number.
    pub block_number: u64,
    /// The block's hash, 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub block_hash: String,
    /// When it was seen.
    pub processed_at: DateTime<Utc>,
}

/// Progress backwards: a reorg took the block away that held the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsReverted {
    /// The grants in the transaction.
    pub request_ids: Vec<RequestId>,
    /// 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub transaction_hash: String,
    /// When it was seen.
    pub processed_at: DateTime<Utc>,
}

/// Progress: a transaction that pays these grants was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsSubmitted {
    /// The grants in the transaction.
    pub request_ids: Vec<RequestId>,
    /// 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub transaction_hash: String,
    /// When it was sent.
    pub processed_at: DateTime<Utc>,
}

/// The tokens of one grant are on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantCompleted {
    /// Who was paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// The grant.
    pub request_id: RequestId,
    /// The transaction that paid it, 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub transaction_hash: String,
    /// The `timestamp` of the request.
    pub timestamp: DateTime<Utc>,
    /// When the payment became final for us.
    pub processed_at: DateTime<Utc>,
    /// The account that holds the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<WalletAddress>,
    /// The block of the transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// This grant's share of the transaction's gas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_used: Option<u64>,
    /// What a unit of gas cost, in wei.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gas_price: Option<u64>,
}

/// One grant will not be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantFailed {
    /// Who was to be paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// The grant.
    pub request_id: RequestId,
    /// Why, for people. What is longer than [`MAX_ERROR_CHARS`] is cut when it is read.
    #[serde(deserialize_with = "short_text")]
    pub error_message: String,
    /// The `timestamp` of the request.
    pub timestamp: DateTime<Utc>,
    /// When this was decided.
    pub processed_at: DateTime<Utc>,
    /// Why, for programs: a stable word such as `rejected_by_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// One grant is to be claimed: the blockchain service has it, and will not mint it. It is paid when the distributor says
/// that it was claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantClaimable {
    /// Who is to be paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// The grant.
    pub request_id: RequestId,
    /// Its id on chain.
    pub grant_id: GrantId,
    /// Who gets the tokens, whoever claims.
    pub wallet_address: WalletAddress,
    /// How much.
    pub amount: BaseUnits,
    /// The `timestamp` of the request.
    pub timestamp: DateTime<Utc>,
    /// When it was taken in.
    pub processed_at: DateTime<Utc>,
}

/// The root of a campaign's Merkle tree is on chain, in a final block: the grants in the tree can be claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRootPublished {
    /// Whose grants.
    pub campaign_id: CampaignId,
    /// The tree's root, 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub root: String,
    /// The tree's number, as it was told.
    pub number: u64,
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The contract that pays.
    pub distributor: WalletAddress,
    /// The transaction that published it, 0x and 64 hexadecimal digits.
    #[serde(deserialize_with = "hash")]
    pub transaction_hash: String,
    /// The block of the transaction.
    pub block_number: u64,
    /// When it became final for us.
    pub processed_at: DateTime<Utc>,
}

/// The most characters of an `error_message` that are kept.
pub const MAX_ERROR_CHARS: usize = 1000;

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.strip_prefix("0x").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(serde::de::Error::custom("a hash must be 0x and 64 hexadecimal digits"))
    }
}

fn short_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.chars().take(MAX_ERROR_CHARS).collect())
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON object. (Of an array our types would take the first element for the `event_type`.)
    #[error("a message must be a JSON object")]
    NoObject,
    /// It is not JSON, or breaks a rule of one of its fields.
    #[error(transparent)]
    Invalid(#[from] serde_json::Error),
}

/// Reads a message: plain JSON or, of the same fields, what an Avro encoder writes (see [`schema`]).
///
/// # Errors
///
/// When it breaks the format.
pub fn read<E: DeserializeOwned>(data: &[u8]) -> Result<E, Malformed> {
    if data.trim_ascii_start().first() != Some(&b'{') {
        return Err(Malformed::NoObject);
    }
    serde_json::from_slice(data).or_else(|plain| Ok(schema::read(data).unwrap_or(Err(plain))?))
}

/// What the attributes of a message repeat from its body, so that a subscription can filter and a log can correlate.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// `user_id` of the body.
    pub user_id: &'a UserId,
    /// `campaign_id` of the body.
    pub campaign_id: &'a CampaignId,
    /// `request_id` of the body.
    pub request_id: &'a RequestId,
    /// The trace that the message belongs to (W3C Trace Context).
    pub trace: Option<TraceParent>,
}

/// Name to value, as Pub/Sub carries them.
pub type AttributeMap = BTreeMap<String, String>;

impl Attributes<'_> {
    /// The attributes of a message whose body has this `event_type`.
    #[must_use]
    pub fn to_map(self, event_type: &str) -> AttributeMap {
        let mut map = AttributeMap::from([
            ("event_type".to_owned(), event_type.to_owned()),
            ("user_id".to_owned(), self.user_id.to_string()),
            ("campaign_id".to_owned(), self.campaign_id.to_string()),
            ("request_id".to_owned(), self.request_id.to_string()),
        ]);
        if let Some(trace) = self.trace {
            map.insert(telemetry::TRACEPARENT.to_owned(), trace.to_string());
        }
        map
    }
}

impl RequestEvent {
    /// The attributes that go with this message.
    #[must_use]
    pub fn attributes(&self, trace: Option<TraceParent>) -> AttributeMap {
        match self {
            Self::Requested(GrantRequested { user_id, campaign_id, request_id, .. }) => {
                Attributes { user_id, campaign_id, request_id, trace }.to_map("token.grant.requested")
            }
            Self::CancelRequested(CancelRequested { user_id, campaign_id, request_id, .. }) => {
                Attributes { user_id, campaign_id, request_id, trace }.to_map("token.grant.cancel_requested")
            }
            Self::KillSwitchChanged(_) => event_type_alone("kill_switch.changed"),
            Self::ClaimRootChanged(changed) => of_campaign("claim_root.changed", &changed.campaign_id),
        }
    }

    /// The grant that it is about, if it is about one.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Requested(GrantRequested { request_id, .. })
            | Self::CancelRequested(CancelRequested { request_id, .. }) => Some(request_id),
            Self::KillSwitchChanged(_) | Self::ClaimRootChanged(_) => None,
        }
    }
}

fn event_type_alone(event_type: &str) -> AttributeMap {
    AttributeMap::from([("event_type".to_owned(), event_type.to_owned())])
}

fn of_campaign(event_type: &str, campaign_id: &CampaignId) -> AttributeMap {
    let mut map = event_type_alone(event_type);
    map.insert("campaign_id".to_owned(), campaign_id.to_string());
    map
}

impl ResultEvent {
    /// The attributes that go with this message.
    #[must_use]
    pub fn attributes(&self, trace: Option<TraceParent>) -> AttributeMap {
        match self {
            Self::Started(_) => event_type_alone("token.grants.started"),
            Self::Submitted(_) => event_type_alone("token.grants.submitted"),
            Self::Confirmed(_) => event_type_alone("token.grants.confirmed"),
            Self::Reverted(_) => event_type_alone("token.grants.reverted"),
            Self::Completed(GrantCompleted { user_id, campaign_id, request_id, .. }) => {
                Attributes { user_id, campaign_id, request_id, trace }.to_map("token.grant.completed")
            }
            Self::Failed(GrantFailed { user_id, campaign_id, request_id, .. }) => {
                Attributes { user_id, campaign_id, request_id, trace }.to_map("token.grant.failed")
            }
            Self::Claimable(GrantClaimable { user_id, campaign_id, request_id, .. }) => {
                Attributes { user_id, campaign_id, request_id, trace }.to_map("token.grant.claimable")
            }
            Self::ClaimRootPublished(published) => of_campaign("claim_root.published", &published.campaign_id),
        }
    }

    /// The grants that it is about.
    #[must_use]
    pub fn request_ids(&self) -> &[RequestId] {
        match self {
            Self::Started(started) => &started.request_ids,
            Self::Submitted(submitted) => &submitted.request_ids,
            Self::Confirmed(confirmed) => &confirmed.request_ids,
            Self::Reverted(reverted) => &reverted.request_ids,
            Self::Completed(completed) => std::slice::from_ref(&completed.request_id),
            Self::Failed(failed) => std::slice::from_ref(&failed.request_id),
            Self::Claimable(claimable) => std::slice::from_ref(&claimable.request_id),
            Self::ClaimRootPublished(_) => &[],
        }
    }

    /// The grant that it is about, if it is about one alone.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Completed(completed) => Some(&completed.request_id),
            Self::Failed(failed) => Some(&failed.request_id),
            Self::Claimable(claimable) => Some(&claimable.request_id),
            Self::Started(_)
            | Self::Submitted(_)
            | Self::Confirmed(_)
            | Self::Reverted(_)
            | Self::ClaimRootPublished(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUNDING: &str = r#"{
        "event_type": "token.grant.requested", "user_id": "alice", "campaign_id": "summer", "token_amount": 100,
        "token_type": "ERC20", "request_id": "r-1", "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
        "somebody_elses_field": {"deep": [1]}
    }"#;

    #[test]
    fn a_message_with_only_the_founding_fields_is_read() {
        let RequestEvent::Requested(request) = serde_json::from_str(FOUNDING).unwrap() else { panic!("requested") };
        assert_eq!(request.terms, Terms::default());
        assert_eq!(request.user_id.as_str(), "alice");
        assert_eq!(request.token_amount.whole_tokens(), 100);
        assert_eq!((request.wallet_address, request.issuer, request.grant_index), (None, None, None));
    }

    #[test]
    fn our_own_message_keeps_the_founding_names() {
        let RequestEvent::Requested(mut request) = serde_json::from_str(FOUNDING).unwrap() else { panic!("requested") };
        (request.issuer, request.grant_index) = (Some(Issuer::new(u64::MAX)), Some(7));
        let event = RequestEvent::Requested(request);
        let json = serde_json::to_value(&event).unwrap();
        insta::assert_json_snapshot!(json, @r#"
        {
          "campaign_id": "summer",
          "event_type": "token.grant.requested",
          "grant_index": 7,
          "issuer": "ffffffffffffffff",
          "request_id": "r-1",
          "retry_count": 0,
          "timestamp": "2026-01-02T03:04:05Z",
          "token_amount": 100,
          "token_type": "ERC20",
          "user_id": "alice"
        }
        "#);
        assert_eq!(event.attributes(None)["event_type"], json["event_type"].as_str().unwrap());
        assert_eq!(serde_json::from_value::<RequestEvent>(json).unwrap(), event);
    }

    #[test]
    fn a_message_that_breaks_a_rule_says_which() {
        let broken = |from: &str, to: &str| {
            serde_json::from_str::<RequestEvent>(&FOUNDING.replace(from, to)).unwrap_err().to_string()
        };
        assert!(broken("\"alice\"", "\"\"").contains("must not be blank"));
        assert!(broken("100", "0").contains("whole number of tokens"));
        assert!(broken("token.grant.requested", "token.grant.cancelled").contains("unknown variant"));
        assert!(broken("\"request_id\": \"r-1\",", "").contains("missing field `request_id`"));
        assert!(broken("ERC20", "ERC721").contains("ERC721"));
    }

    #[test]
    fn results_of_a_foreign_service_are_read() {
        let completed = r#"{"event_type":"token.grant.completed","user_id":"alice","campaign_id":"summer","request_id":"r-1",
            "transaction_hash":"0xf5da5f1ab0ba90642db0fc701285512ea1527ec9be73e22bc7e368f1b93fe59d","timestamp":"2026-01-02T03:04:05Z","processed_at":"2026-01-02T03:04:06Z"}"#;
        assert!(matches!(serde_json::from_str(completed).unwrap(), ResultEvent::Completed(_)));
        let failed = completed.replace("completed\"", "failed\"").replace("transaction_hash", "error_message");
        assert!(matches!(serde_json::from_str(&failed).unwrap(), ResultEvent::Failed(_)));
        let hostile = serde_json::from_str::<ResultEvent>(&completed.replace("0xf5", "<script>"));
        assert!(hostile.unwrap_err().to_string().contains("64 hexadecimal digits"));
    }
}
