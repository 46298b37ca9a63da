//! What a payment is, under which id the chain knows it, and what a transaction did to it. No I/O, no clock.

use alloy::primitives::{Address, B256, keccak256};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::event::{GrantClaimable, GrantCompleted, GrantFailed, GrantRequested, PaymentMode, ResultEvent, Terms};
use shared::id::{CampaignId, RequestId, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;

use crate::contract::base_units;

pub use shared::id::GrantId;

/// Where users without a wallet of their own are paid: an address that belongs to the user's id alone, from which
/// nobody can move anything until the factory has deployed a wallet there for the owner whom the player names.
#[derive(Debug, Clone, Copy)]
pub struct Wallets {
    /// The factory.
    pub factory: Address,
    /// `keccak256` of the wallet's creation code.
    pub code_hash: B256,
}

impl Wallets {
    /// The user's wallet (CREATE2, EIP-1014), its salt the hash of the user's id.
    #[must_use]
    pub fn of(&self, user: &UserId) -> Address {
        self.factory.create2(keccak256(user.as_str()), self.code_hash)
    }
}

/// A grant on its way to the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The grant.
    pub request_id: RequestId,
    /// Its id on chain.
    pub grant_id: GrantId,
    /// Who is paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// Where to.
    pub recipient: WalletAddress,
    /// Whole tokens.
    pub token_amount: TokenAmount,
    /// The `timestamp` of the request.
    pub requested_at: DateTime<Utc>,
    /// The trace of the request.
    pub trace: Option<TraceParent>,
    /// How it is to be paid; chain and token are those of the service, see [`Currency`].
    pub terms: Terms,
}

/// What a message demands of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// To be paid.
    Pay(Payment),
    /// To be claimed by its recipient.
    Claim(Payment),
    /// To be paid as this service does not pay: it fails.
    Impossible(Payment, Failure),
    /// Not to be paid, if it is in no transaction yet.
    Cancel(Payment),
}

impl Demand {
    /// The payment that it is about.
    #[must_use]
    pub fn payment(&self) -> &Payment {
        match self {
            Self::Pay(payment) | Self::Claim(payment) | Self::Impossible(payment, _) | Self::Cancel(payment) => payment,
        }
    }

    /// How the payment ends if it was not known before; `None` where it waits to be paid.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        match self {
            Self::Pay(_) | Self::Claim(_) => None,
            Self::Impossible(_, failure) => Some(failure.clone()),
            Self::Cancel(_) => Some(Failure::cancelled()),
        }
    }
}

/// The only token that is paid, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The token.
    pub token: Address,
    /// A whole token is 10 to the power of this many base units.
    pub decimals: u8,
}

impl Currency {
    /// What a request demands of this service, which pays in it.
    #[must_use]
    pub fn demand(self, payment: Payment, terms: &Terms) -> Demand {
        match (self.objection(terms), terms.mode) {
            (Some(failure), _) => Demand::Impossible(payment, failure),
            (None, PaymentMode::Mint) => Demand::Pay(payment),
            (None, PaymentMode::Claim) => Demand::Claim(payment),
        }
    }

    /// Why a grant on these terms cannot be paid in it.
    #[must_use]
    pub fn objection(self, terms: &Terms) -> Option<Failure> {
        if let Some(chain_id) = terms.chain_id.filter(|chain_id| *chain_id != self.chain_id) {
            let message = format!("it is to be paid on chain {chain_id}, and this service pays on {}", self.chain_id);
            return Some(Failure::new("wrong_chain", message));
        }
        let token = terms.token.filter(|token| token.address() != self.token)?;
        let message = format!("it is to be paid in {token}, and this service pays in {}", self.token);
        Some(Failure::new("wrong_token", message))
    }
}

impl Payment {
    /// The payment that a request asks for; `None` if the user's counterfactual wallet is the zero address, which no
    /// hash has ever been found to be.
    #[must_use]
    pub fn new(request: &GrantRequested, trace: Option<TraceParent>, wallets: &Wallets) -> Option<Self> {
        let recipient = match request.wallet_address {
            Some(wallet) => wallet,
            None => wallets.of(&request.user_id).try_into().ok()?,
        };
        Some(Self {
            request_id: request.request_id.clone(),
            grant_id: request.grant_id(),
            user_id: request.user_id.clone(),
            campaign_id: request.campaign_id.clone(),
            recipient,
            token_amount: request.token_amount,
            requested_at: request.timestamp,
            trace,
            terms: Terms { chain_id: None, token: None, ..request.terms.clone() },
        })
    }

    /// The message that tells how the payment, of a token with so many decimals, has to stand in a Merkle tree.
    ///
    /// # Panics
    ///
    /// If the amount does not fit 96 bits, which is ruled out at start.
    #[must_use]
    pub fn claimable(&self, decimals: u8, processed_at: DateTime<Utc>) -> ResultEvent {
        let amount = base_units(self.token_amount, decimals);
        ResultEvent::Claimable(GrantClaimable {
            user_id: self.user_id.clone(),
            campaign_id: self.campaign_id.clone(),
            request_id: self.request_id.clone(),
            grant_id: self.grant_id,
            wallet_address: self.recipient,
            amount: amount.try_into().expect("more decimals are refused at start"),
            timestamp: self.requested_at,
            processed_at,
        })
    }

    /// The result to publish.
    #[must_use]
    pub fn result(&self, ending: &Ending, processed_at: DateTime<Utc>) -> ResultEvent {
        let (user_id, campaign_id) = (self.user_id.clone(), self.campaign_id.clone());
        let (request_id, timestamp) = (self.request_id.clone(), self.requested_at);
        match ending {
            Ending::Completed(paid) => ResultEvent::Completed(GrantCompleted {
                user_id,
                campaign_id,
                request_id,
                transaction_hash: paid.transaction_hash.to_string(),
                timestamp,
                processed_at,
                wallet_address: Some(self.recipient),
                block_number: Some(paid.block_number),
                gas_used: paid.gas_used,
                gas_price: paid.gas_price,
            }),
            Ending::Failed(failure) => ResultEvent::Failed(GrantFailed {
                user_id,
                campaign_id,
                request_id,
                error_message: failure.message.clone(),
                timestamp,
                processed_at,
                error_code: Some(failure.code.clone()),
            }),
        }
    }
}

/// How a payment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The tokens are on chain.
    Completed(Paid),
    /// It will not be paid.
    Failed(Failure),
}

/// Where the tokens were paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paid {
    /// The transaction.
    pub transaction_hash: B256,
    /// Its block.
    pub block_number: u64,
    /// The grant's share of its gas, where we know it.
    pub gas_used: Option<u64>,
    /// What a unit of gas cost, in wei, where we know it.
    pub gas_price: Option<u64>,
}

/// Why a payment will not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A stable word for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure with this code.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    /// It was cancelled in time.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new("cancelled", "it was cancelled before it was in a transaction")
    }

    /// Its time was over too early.
    #[must_use]
    pub fn expired() -> Self {
        Self::new("expired", "it was in no transaction when its time was over")
    }
}

/// What a transaction that was mined did to one of its grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was minted.
    Paid,
    /// It had been paid by an earlier transaction.
    Skipped,
    /// The token or a cap refused it, for good.
    Rejected(Failure),
    /// It was refused for a reason that will pass, such as a pause: it is to be tried again.
    Postponed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_belongs_to_its_user_alone() {
        let wallets = Wallets { factory: Address::repeat_byte(1), code_hash: B256::repeat_byte(2) };
        let of = |user: &str| wallets.of(&user.parse().unwrap());
        assert_eq!(of("alice"), of("alice"));
        assert_ne!(of("alice"), of("bob"));
    }
}
