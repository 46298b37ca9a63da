//! Mistakes that can be planted, to see that the simulation finds them.
//!
//! Each takes away one thing that keeps a promise, where a programmer could have forgotten it. Some are switches in the
//! services' code ([`Bug::switch`]), others are made by the world around it.

use std::fmt;
use std::str::FromStr;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// An idempotency key is not stored: the same key with another body is a second grant.
    KeysForgotten,
    /// A grant is committed without the message that asks for its payment.
    GrantWithoutMessage,
    /// Nobody looks at what is left of a campaign's budget.
    BudgetIgnored,
    /// A message leaves the outbox before the broker has it.
    OutboxRemovedBeforePublish,
    /// Messages are acknowledged when they arrive.
    AckBeforeCommit,
    /// A payment that has ended is not remembered: its request is paid again when it is repeated.
    PaymentsForgotten,
    /// Requests are never published again.
    NoRepublishing,
    /// A transaction is sent before it is committed.
    BroadcastBeforeCommit,
    /// After a send that was answered with an error, the payments get another nonce.
    NewNonceAfterError,
    /// After a send that was answered with an error, another batch gets the nonce.
    NonceReusedAfterError,
    /// A transaction without a receipt is given up.
    NoReceiptMeansNotMined,
    /// A receipt is believed whose block is gone.
    ReceiptWithoutBlockHash,
    /// A transaction is settled before its block is final.
    SettledBeforeFinal,
    /// A process that has lost its lane goes on committing to it.
    FenceIgnored,
    /// The distributor does not see what it has paid; only where the blockchain service has lost its memory does that matter.
    ForgetfulDistributor,
    /// A payment ends without the message that tells of it.
    ResultWithoutMessage,
    /// Whatever result arrives last is right.
    ResultsMoveBackwards,
    /// The distributor does not see what it has paid, and nobody compares ledger and chain.
    PaidTwiceAndNotAudited,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::KeysForgotten,
        Self::GrantWithoutMessage,
        Self::BudgetIgnored,
        Self::OutboxRemovedBeforePublish,
        Self::AckBeforeCommit,
        Self::PaymentsForgotten,
        Self::NoRepublishing,
        Self::BroadcastBeforeCommit,
        Self::NewNonceAfterError,
        Self::NonceReusedAfterError,
        Self::NoReceiptMeansNotMined,
        Self::ReceiptWithoutBlockHash,
        Self::SettledBeforeFinal,
        Self::FenceIgnored,
        Self::ForgetfulDistributor,
        Self::ResultWithoutMessage,
        Self::ResultsMoveBackwards,
        Self::PaidTwiceAndNotAudited,
    ];

    /// The switch in the services' code that plants it; `None` where the world does.
    #[must_use]
    pub fn switch(self) -> Option<&'static str> {
        Some(match self {
            Self::KeysForgotten => "keys_forgotten",
            Self::GrantWithoutMessage => "grant_without_message",
            Self::BudgetIgnored => "budget_ignored",
            Self::OutboxRemovedBeforePublish => "outbox_removed_before_publish",
            Self::BroadcastBeforeCommit => "broadcast_before_commit",
            Self::NoReceiptMeansNotMined => "no_receipt_means_not_mined",
            Self::ReceiptWithoutBlockHash => "receipt_without_block_hash",
            Self::SettledBeforeFinal => "settled_before_final",
            Self::FenceIgnored => "fence_ignored",
            Self::ResultWithoutMessage => "result_without_message",
            Self::ResultsMoveBackwards => "results_move_backwards",
            Self::AckBeforeCommit
            | Self::PaymentsForgotten
            | Self::NoRepublishing
            | Self::NewNonceAfterError
            | Self::NonceReusedAfterError
            | Self::ForgetfulDistributor
            | Self::PaidTwiceAndNotAudited => return None,
        })
    }

    /// What a service with this mistake would do to the blockchain service's database before messages are taken in.
    pub(crate) fn before_delivery(self) -> &'static [&'static str] {
        match self {
            Self::PaymentsForgotten => &["delete from payment where state in ('completed', 'failed')"],
            _ => &[],
        }
    }

    /// The same after a send that was answered with an error.
    pub(crate) fn after_error(self) -> &'static [&'static str] {
        match self {
            Self::NewNonceAfterError => &["update payment set state = 'queued', transaction_id = null \
                 where state = 'assigned' and transaction_id = (select max(id) from chain_transaction)"],
            Self::NonceReusedAfterError => &[
                "update payment set state = 'queued', transaction_id = null \
                 where state = 'assigned' and transaction_id = (select max(id) from chain_transaction)",
                "delete from attempt where transaction_id = (select max(id) from chain_transaction)",
                "delete from chain_transaction_event where transaction_id = (select max(id) from chain_transaction)",
                "delete from chain_transaction where id = (select max(id) from chain_transaction)",
                "update lane set next_nonce = next_nonce - 1",
            ],
            _ => &[],
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The text names no mistake that can be planted.
#[derive(Debug, thiserror::Error)]
#[error("must be one of {:?}", Bug::ALL)]
pub struct UnknownBug;

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        Self::ALL.into_iter().find(|bug| bug.to_string() == name).ok_or(UnknownBug)
    }
}
