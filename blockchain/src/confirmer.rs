//! Follows transactions to their end: sends the same bytes again while there is no receipt, and settles the grants when
//! the receipt is final.
//!
//! "No receipt" never means "not mined". A receipt counts when its block has the required confirmations and is still
//! the block of that number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::sol_types::SolEvent as _;
use chrono::TimeDelta;
use futures::future::try_join_all;
use shared::clock::Clock;
use shared::db;
use shared::worker::{Progress, Worker};
use tokio::sync::Notify;

use crate::chain::{self, At, Chain, LogEntry, Receipt};
use crate::contract::{self, GrantDistributor::GrantPaid};
use crate::deployment::Deployment;
use crate::domain::{Ending, Failure, GrantId, Outcome, Paid, Payment};
use crate::observe::Observations;
use crate::store::{LaneId, PendingTransaction, Settlement, Store, Verdict};

/// Why a step failed; transactions stay pending.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// The receipt says nothing about a grant that the transaction carried, or the chain says that a grant was paid
    /// before and does not say where. Nothing is decided.
    #[error("the chain's account of grant {0} is incomplete")]
    Incomplete(GrantId),
}

/// When a transaction is final, and when its bytes are sent again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How many blocks must hold it or follow it.
    pub confirmations: u64,
    /// How long after it was last sent, without a receipt, it is sent again.
    pub resend_after: Duration,
    /// How long a grant waits that was refused for a reason that will pass.
    pub postpone: Duration,
}

/// The confirmer of one lane.
#[derive(Debug)]
pub struct Confirmer {
    /// Payments and transactions.
    pub store: Store,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Time.
    pub clock: Clock,
    /// Whose transactions.
    pub lane: LaneId,
    /// The contracts.
    pub deployment: Deployment,
    /// When something is final.
    pub patience: Patience,
    /// What is seen.
    pub observations: Arc<Observations>,
    /// The newest block when all that could be settled last was.
    pub settled_head: AtomicU64,
    /// Notified when a transaction has ended, so that another can be sent.
    pub settled: Arc<Notify>,
    /// Notified when there is something to publish.
    pub outbox_ready: Arc<Notify>,
}

impl Worker for Confirmer {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let pending = self.store.pending(self.lane).await?;
        if pending.is_empty() {
            return Ok(Progress::Idle);
        }
        let head = self.chain.head().await?.number;
        if self.settled_head.load(Ordering::Relaxed) == head && !pending.iter().any(|one| self.is_overdue(one)) {
            // Receipts come with blocks.
            return Ok(Progress::Idle);
        }
        let receipts = try_join_all(pending.iter().map(|transaction| self.receipt(transaction))).await?;
        // One that cannot be followed for now does not hold up those behind it.
        let mut first_error = None;
        for (transaction, receipt) in pending.iter().zip(receipts) {
            if let Err(error) = self.follow(transaction, receipt, head).await {
                first_error.get_or_insert(error);
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        self.settled_head.store(head, Ordering::Relaxed);
        Ok(Progress::Idle)
    }
}

impl Confirmer {
    /// The receipt of whichever attempt is in a block.
    async fn receipt(&self, transaction: &PendingTransaction) -> chain::Result<Option<Receipt>> {
        for attempt in transaction.attempts.iter().rev() {
            if let Some(receipt) = self.chain.receipt(attempt.hash).await? {
                return Ok(Some(receipt));
            }
        }
        Ok(None)
    }

    async fn follow(&self, transaction: &PendingTransaction, receipt: Option<Receipt>, head: u64) -> Result<(), Error> {
        match receipt {
            Some(receipt) if self.is_final(&receipt, head).await? => self.settle(transaction, &receipt).await,
            None if self.is_overdue(transaction) => self.send_again(transaction).await,
            _ => Ok(()),
        }
    }

    /// Whether it is time to send a transaction again that has no receipt.
    fn is_overdue(&self, transaction: &PendingTransaction) -> bool {
        let patience = TimeDelta::from_std(self.patience.resend_after).unwrap_or(TimeDelta::MAX);
        let sent_at = transaction.attempts.last().and_then(|attempt| attempt.sent_at);
        sent_at.is_none_or(|sent_at| self.clock.now() - sent_at >= patience)
    }

    async fn is_final(&self, receipt: &Receipt, head: u64) -> chain::Result<bool> {
        let deep_enough = head + 1 >= receipt.block_number + self.patience.confirmations;
        let block = if deep_enough { self.chain.block(At::Number(receipt.block_number)).await? } else { None };
        Ok(block.is_some_and(|block| block.hash == receipt.block_hash))
    }

    async fn send_again(&self, transaction: &PendingTransaction) -> Result<(), Error> {
        let Some(attempt) = transaction.attempts.last() else { return Ok(()) };
        let raw = self.store.raw(attempt.hash).await?;
        match self.chain.send(&raw).await {
            Ok(()) => {
                tracing::info!(transaction_hash = %attempt.hash, nonce = transaction.nonce, "transaction sent again");
            }
            Err(error) if error.is_known_transaction() => {}
            Err(error) if error.is_unreachable() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(transaction_hash = %attempt.hash, nonce = transaction.nonce, %error, "node refuses it");
                self.store.mark_sent(&[attempt.hash], self.clock.now()).await?;
                return Err(error.into());
            }
        }
        Ok(self.store.mark_sent(&[attempt.hash], self.clock.now()).await?)
    }

    async fn settle(&self, transaction: &PendingTransaction, receipt: &Receipt) -> Result<(), Error> {
        let payments = self.store.payments_in(&transaction.id).await?;
        let now = self.clock.now();
        let grants = payments.len();
        let verdicts = if receipt.succeeded {
            self.verdicts(payments, receipt).await?
        } else {
            // Mined and reverted: nobody was paid, and the nonce is used up.
            tracing::warn!(transaction_hash = %receipt.transaction_hash, grants, "transaction reverted, grants go back");
            let not_before = now + self.patience.postpone;
            payments.into_iter().map(|payment| (payment, Verdict::Again { not_before })).collect()
        };
        let settlement =
            Settlement { transaction: Some(transaction.id.clone()), succeeded: receipt.succeeded, verdicts };
        self.store.settle(&settlement, now).await?;
        self.observations.transaction_ended(transaction, &settlement, receipt, now);
        self.settled.notify_one();
        self.outbox_ready.notify_one();
        Ok(())
    }

    async fn verdicts(&self, payments: Vec<Payment>, receipt: &Receipt) -> Result<Vec<(Payment, Verdict)>, Error> {
        let mut outcomes = contract::outcomes(&receipt.logs, self.deployment.distributor);
        let share = receipt.gas_used / (payments.len() as u64).max(1);
        let paid = Paid {
            transaction_hash: receipt.transaction_hash,
            block_number: receipt.block_number,
            gas_used: Some(share),
        };
        let mut verdicts = Vec::with_capacity(payments.len());
        for payment in payments {
            let outcome = outcomes.remove(&payment.grant_id).ok_or(Error::Incomplete(payment.grant_id))?;
            let verdict = match outcome {
                Outcome::Paid => Verdict::Ended(Ending::Completed(paid)),
                Outcome::Skipped => Verdict::Ended(self.earlier_payment(&payment).await?),
                Outcome::Rejected(failure) => Verdict::Ended(Ending::Failed(failure)),
                Outcome::Postponed(reason) => {
                    tracing::warn!(request_id = %payment.request_id, reason, "grant goes back to the queue");
                    Verdict::Again { not_before: self.clock.now() + self.patience.postpone }
                }
            };
            verdicts.push((payment, verdict));
        }
        Ok(verdicts)
    }

    /// How a grant ended that the distributor skipped: with the payment that it made earlier under this id. One to another
    /// recipient, or of another amount, was surely another grant's: a restored numbering counts twice.
    async fn earlier_payment(&self, payment: &Payment) -> Result<Ending, Error> {
        let id = payment.grant_id;
        let Deployment { distributor, decimals, block, .. } = self.deployment;
        let logs = self.chain.logs(&contract::payments_of(id, distributor, block)).await?;
        let LogEntry { log, transaction_hash, block_number, .. } =
            logs.into_iter().next().ok_or(Error::Incomplete(id))?;
        let paid = GrantPaid::decode_log(&log).map_err(|_| Error::Incomplete(id))?;
        if paid.to != payment.recipient.address() || paid.amount != contract::base_units(payment.token_amount, decimals)
        {
            let message = format!("the distributor has paid this id before, to {} in {transaction_hash}", paid.to);
            return Ok(Ending::Failed(Failure::new("grant_id_taken", message)));
        }
        Ok(Ending::Completed(Paid { transaction_hash, block_number, gas_used: None }))
    }
}
