//! Follows transactions to their end: remembers the blocks that hold them, sends the same bytes again, replaces what does
//! not move, and settles the grants when a block is final.
//!
//! What is to be done is decided by [`Pending::next_step`], from what one node has shown in one look.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use shared::worker::{Progress, Worker};
use shared::{db, fail_point};
use tokio::sync::Notify;

use crate::audit::{ChainPayment, reader};
use crate::chain::{self, At, Block, Chain, Receipt, Refusal};
use crate::contract::{self, GrantDistributor::isPaidCall};
use crate::deployment::Deployment;
use crate::domain::{Ending, Failure, GrantId, Outcome, Paid, Payment};
use crate::earlier::Earlier;
use crate::fees::{Fees, TooExpensive};
use crate::finality::{self, Finality};
use crate::observe::Observations;
use crate::sender::{self, Sender};
use crate::signer::{self, Unsigned};
use crate::store::{Ended, Lane, NewTransaction, Settlement, Verdict};
use crate::transaction::{End, Patience, Pending, Purpose, Sight, Step};

/// Why a step failed; transactions stay pending.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// Bytes could not be sent.
    #[error(transparent)]
    Sender(#[from] sender::Error),
    /// The key's holder refuses.
    #[error(transparent)]
    Signer(#[from] signer::Error),
    /// Stored bytes cannot be read.
    #[error(transparent)]
    NotOurs(#[from] signer::NotOurs),
    /// A replacement would cost too much for now.
    #[error("a transaction does not move: {0}")]
    TooExpensive(#[from] TooExpensive),
    /// Earlier payments could not be looked for.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// The receipt says nothing about a grant that the transaction carried, or the chain says that a grant was paid
    /// before and does not say where. Nothing is decided.
    #[error("the chain's account of grant {0} is incomplete")]
    Incomplete(GrantId),
}

/// How transactions are followed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// When a block is final.
    pub finality: Finality,
    /// How long to wait for what.
    pub patience: Patience,
    /// The most that is offered for a unit of gas, in wei.
    pub max_fee_per_gas: u64,
    /// How long a grant waits that was refused for a reason that will pass.
    pub postpone: TimeDelta,
}

/// The confirmer of one lane.
#[derive(Debug)]
pub struct Confirmer {
    /// Who sends, and what that takes.
    pub sender: Sender,
    /// The contracts.
    pub deployment: Deployment,
    /// How transactions are followed.
    pub rules: Rules,
    /// What was paid before.
    pub earlier: Earlier,
    /// What is seen.
    pub observations: Arc<Observations>,
    /// The newest block when all that could be settled last was.
    pub settled_head: AtomicU64,
    /// Notified when a transaction is in a block, or has ended: another one may have room now.
    pub made_room: Arc<Notify>,
    /// Notified when there is something to publish.
    pub outbox_ready: Arc<Notify>,
}

impl Worker for Confirmer {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let Some(lane) = self.sender.lane() else { return Ok(Progress::Idle) };
        let pending = self.sender.store.pending(lane.id).await?;
        if pending.is_empty() {
            return Ok(Progress::Idle);
        }
        // What is read in one look belongs together: one node, the nonces before the receipts.
        let node = self.sender.chain.one_node();
        let head = node.head().await?;
        let (now, resend_after) = (self.sender.clock.now(), self.rules.patience.resend_after);
        let new_block = self.settled_head.load(Ordering::Relaxed) != head.number;
        if !new_block && !pending.iter().any(|one| one.is_unseen_for(resend_after, now)) {
            // Receipts come with blocks.
            return Ok(Progress::Idle);
        }
        // One that cannot be followed for now does not hold up those behind it.
        let mut first_error = None;
        let mut by_finality: BTreeMap<Finality, Vec<Pending>> = BTreeMap::new();
        for transaction in pending {
            let finality = transaction.finality.unwrap_or(self.rules.finality);
            by_finality.entry(finality).or_default().push(transaction);
        }
        for (finality, pending) in by_finality {
            if let Err(error) = self.follow_all(&*node, lane, head, new_block, finality, &pending).await {
                first_error.get_or_insert(error);
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        self.settled_head.store(head.number, Ordering::Relaxed);
        Ok(Progress::Idle)
    }
}

impl Confirmer {
    /// Follows all the transactions that are final at the same time.
    async fn follow_all(
        &self,
        node: &dyn Chain,
        lane: Lane,
        head: Block,
        new_block: bool,
        finality: Finality,
        pending: &[Pending],
    ) -> Result<(), Error> {
        let final_block = finality::last_block(finality, node, head).await?;
        let mined_nonce = node.nonce(lane.id.signer, At::Latest).await?;
        let mut sight = Sight { mined_nonce, final_nonce: None, final_block, new_block };
        let mut receipts = self.receipts(node, pending).await?;
        let mut first_error = None;
        let (now, resend_after) = (self.sender.clock.now(), self.rules.patience.resend_after);
        let unexplained = |(one, receipt): (&Pending, &Option<Receipt>)| {
            receipt.is_none() && one.nonce < mined_nonce && one.is_unseen_for(resend_after, now)
        };
        if let Some(number) = final_block
            && pending.iter().zip(&receipts).any(unexplained)
        {
            // Asked only then, since many nodes keep no old states; and the receipts again, which must be newer.
            match node.nonce(lane.id.signer, At::Number(number)).await {
                Ok(nonce) => {
                    sight.final_nonce = Some(nonce);
                    receipts = self.receipts(node, pending).await?;
                }
                Err(error) => first_error = Some(error.into()),
            }
        }
        for (transaction, receipt) in pending.iter().zip(receipts) {
            if let Err(error) = self.follow(node, lane, transaction, receipt, &sight).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The receipts of the transactions whose blocks are on the chain now: a node may go on showing one of a block that is
    /// gone.
    async fn receipts(&self, node: &dyn Chain, pending: &[Pending]) -> chain::Result<Vec<Option<Receipt>>> {
        // Of each transaction, that of whichever attempt is in a block.
        let hashes: Vec<_> = pending.iter().flat_map(|one| one.attempts.iter().map(|attempt| attempt.hash)).collect();
        let mut answers = node.receipts(&hashes).await?.into_iter();
        let receipt_of = |one: &Pending| answers.by_ref().take(one.attempts.len()).flatten().last();
        let mut receipts: Vec<_> = pending.iter().map(receipt_of).collect();
        if fail_point::switched("receipt_without_block_hash") {
            return Ok(receipts);
        }
        let mut hashes = BTreeMap::new();
        for receipt in receipts.iter().flatten() {
            if let Entry::Vacant(unknown) = hashes.entry(receipt.block_number) {
                let block = node.block(At::Number(receipt.block_number)).await?;
                unknown.insert(block.map(|block| block.hash));
            }
        }
        for receipt in &mut receipts {
            receipt.take_if(|receipt| hashes[&receipt.block_number] != Some(receipt.block_hash));
        }
        Ok(receipts)
    }

    async fn follow(
        &self,
        node: &dyn Chain,
        lane: Lane,
        transaction: &Pending,
        receipt: Option<Receipt>,
        sight: &Sight,
    ) -> Result<(), Error> {
        let now = self.sender.clock.now();
        let nonce = transaction.nonce;
        match (transaction.next_step(sight, receipt.as_ref(), &self.rules.patience, now), receipt) {
            (Step::Settle, Some(receipt)) => self.settle(node, lane, transaction, &receipt).await,
            (Step::Mined(block), Some(receipt)) => {
                let Some(attempt) = transaction.attempt(receipt.transaction_hash) else { return Ok(()) };
                self.sender.store.mined(lane, transaction, attempt, Some(block), now).await?;
                self.made_room.notify_one();
                self.outbox_ready.notify_one();
                Ok(())
            }
            (Step::Wait | Step::Settle | Step::Mined(_), _) => Ok(()),
            (Step::FellBack, _) => {
                metrics::counter!("transactions_fallen_back_total").increment(1);
                tracing::warn!(nonce, "the block of a transaction is gone, its bytes go out again");
                let Some(newest) = transaction.attempts.last() else { return Ok(()) };
                self.sender.store.mined(lane, transaction, newest, None, now).await?;
                self.outbox_ready.notify_one();
                self.send_again(lane, transaction).await
            }
            (Step::SendAgain, _) => self.send_again(lane, transaction).await,
            (Step::Replace(purpose), _) => self.replace(lane, transaction, purpose).await,
            (Step::GiveUp, _) => {
                let payments = self.sender.store.payments_in(&transaction.id).await?;
                let verdicts = self.without_receipt(node, payments, sight).await?;
                tracing::error!(nonce, "the nonce was used by a transaction that is not ours, its grants go back");
                self.end(lane, transaction, End::GivenUp, None, verdicts).await
            }
        }
    }

    /// What becomes of payments whose nonce is used up, where no receipt says by what. That is no proof that they were not
    /// made: the distributor is asked for each.
    async fn without_receipt(
        &self,
        node: &dyn Chain,
        payments: Vec<Payment>,
        sight: &Sight,
    ) -> Result<Vec<(Payment, Verdict)>, Error> {
        let not_before = self.sender.clock.now();
        let mut verdicts = Vec::with_capacity(payments.len());
        let mut paid = Vec::new();
        for payment in payments {
            if node.view(self.deployment.distributor, &isPaidCall { id: payment.grant_id.0 }).await? {
                paid.push(payment);
            } else {
                verdicts.push((payment, Verdict::Again { not_before }));
            }
        }
        let endings = self.earlier_endings(node, &paid.iter().collect::<Vec<_>>()).await?;
        for (payment, ending) in paid.into_iter().zip(endings) {
            if let Ending::Completed(paid) = &ending
                && sight.final_block.is_none_or(|number| paid.block_number > number)
            {
                // Not final yet: another look will see more.
                return Err(Error::Incomplete(payment.grant_id));
            }
            verdicts.push((payment, Verdict::Ended(ending)));
        }
        Ok(verdicts)
    }

    /// Sends the newest attempt again.
    async fn send_again(&self, lane: Lane, transaction: &Pending) -> Result<(), Error> {
        let Some(newest) = transaction.attempts.last() else { return Ok(()) };
        self.sender.send(lane, newest.hash).await?;
        tracing::info!(transaction_hash = %newest.hash, nonce = transaction.nonce, "transaction sent again");
        Ok(())
    }

    /// Makes an attempt that offers more, and sends it. Where more is not to be had, the old bytes go out again.
    async fn replace(&self, lane: Lane, transaction: &Pending, purpose: Purpose) -> Result<(), Error> {
        let Some(newest) = transaction.attempts.last() else { return Ok(()) };
        let (base_fee, tip) = self.sender.chain.asked_fees().await?;
        let ceiling = self.rules.max_fee_per_gas;
        let fees = Fees::offer(base_fee, tip, ceiling).and_then(|offer| match transaction.fees_to_outbid() {
            Some(fees) => fees.replaced_by(offer, ceiling),
            None => Ok(offer),
        });
        let fees = match fees {
            Ok(fees) => fees,
            Err(error) if transaction.is_overdue(self.rules.patience.resend_after, self.sender.clock.now()) => {
                self.send_again(lane, transaction).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        let unsigned = match purpose {
            Purpose::Pay => Unsigned { fees, ..Unsigned::decode(&self.sender.store.raw(newest.hash).await?)? },
            Purpose::Cancel => Unsigned::cancel(lane.id, transaction.nonce, fees),
        };
        let gas_limit = unsigned.gas_limit;
        let signed = self.sender.signer.sign(unsigned)?;
        if transaction.attempt(signed.hash).is_some() {
            // The same offer makes the same bytes.
            return Ok(self.sender.send(lane, signed.hash).await?);
        }
        let payments = self.sender.store.payments_in(&transaction.id).await?;
        let nonce = transaction.nonce;
        let signed = &signed;
        let attempt =
            NewTransaction { nonce, signed, purpose, gas_limit, fees, payments: &payments, publication: None };
        if !self.sender.store.replace(lane, &transaction.id, &attempt, self.sender.clock.now()).await? {
            return Ok(());
        }
        self.outbox_ready.notify_one();
        self.observations.replaced(purpose);
        let (old_hash, max_fee_per_gas) = (newest.hash, fees.max_fee_per_gas);
        let purpose = purpose.as_str();
        tracing::warn!(%old_hash, transaction_hash = %signed.hash, nonce, purpose, max_fee_per_gas, "transaction replaced");
        Ok(self.sender.send(lane, signed.hash).await?)
    }

    async fn settle(
        &self,
        node: &dyn Chain,
        lane: Lane,
        transaction: &Pending,
        receipt: &Receipt,
    ) -> Result<(), Error> {
        let payments = self.sender.store.payments_in(&transaction.id).await?;
        let now = self.sender.clock.now();
        let cancelled =
            transaction.attempt(receipt.transaction_hash).is_some_and(|attempt| attempt.purpose == Purpose::Cancel);
        let refused = transaction.attempts.iter().any(|attempt| attempt.refusal == Some(Refusal::Invalid));
        let (end, verdicts) = if cancelled && refused {
            // The same grants in a transaction like this one would be refused again: others first.
            (End::Cancelled, again(payments, now + self.rules.postpone))
        } else if cancelled {
            (End::Cancelled, again(payments, now))
        } else if receipt.succeeded {
            (End::Succeeded, self.verdicts(node, payments, receipt).await?)
        } else {
            // Mined and reverted: nobody was paid, and the nonce is used up.
            let (transaction_hash, grants) = (receipt.transaction_hash, payments.len());
            tracing::warn!(%transaction_hash, grants, "transaction reverted, grants go back");
            (End::Reverted, again(payments, now + self.rules.postpone))
        };
        self.end(lane, transaction, end, Some(receipt), verdicts).await
    }

    async fn end(
        &self,
        lane: Lane,
        transaction: &Pending,
        end: End,
        receipt: Option<&Receipt>,
        verdicts: Vec<(Payment, Verdict)>,
    ) -> Result<(), Error> {
        let now = self.sender.clock.now();
        let mined = receipt.map(|receipt| (receipt.transaction_hash, receipt.block_number));
        let ended = Ended { lane, id: transaction.id.clone(), end, mined };
        let settlement = Settlement { transaction: Some(ended), verdicts };
        if self.sender.store.settle(&settlement, now).await? {
            self.observations.transaction_ended(transaction, end, &settlement, receipt, now);
            self.made_room.notify_one();
            self.outbox_ready.notify_one();
        }
        Ok(())
    }

    async fn verdicts(
        &self,
        node: &dyn Chain,
        payments: Vec<Payment>,
        receipt: &Receipt,
    ) -> Result<Vec<(Payment, Verdict)>, Error> {
        let mut outcomes = contract::outcomes(&receipt.logs, self.deployment.distributor);
        let skipped = |payment: &&Payment| matches!(outcomes.get(&payment.grant_id), Some(Outcome::Skipped));
        let skipped: Vec<_> = payments.iter().filter(skipped).collect();
        let mut earlier = self.earlier_endings(node, &skipped).await?.into_iter();
        let share = receipt.gas_used / (payments.len() as u64).max(1);
        let paid = Paid {
            transaction_hash: receipt.transaction_hash,
            block_number: receipt.block_number,
            gas_used: Some(share),
            gas_price: Some(receipt.gas_price),
        };
        let mut verdicts = Vec::with_capacity(payments.len());
        for payment in payments {
            let incomplete = Error::Incomplete(payment.grant_id);
            let verdict = match outcomes.remove(&payment.grant_id) {
                None => return Err(incomplete),
                Some(Outcome::Paid) => Verdict::Ended(Ending::Completed(paid)),
                Some(Outcome::Skipped) => Verdict::Ended(earlier.next().ok_or(incomplete)?),
                Some(Outcome::Rejected(failure)) => Verdict::Ended(Ending::Failed(failure)),
                Some(Outcome::Postponed(reason)) => {
                    tracing::warn!(request_id = %payment.request_id, reason, "grant goes back to the queue");
                    Verdict::Again { not_before: self.sender.clock.now() + self.rules.postpone }
                }
            };
            verdicts.push((payment, verdict));
        }
        Ok(verdicts)
    }

    /// How grants ended that the distributor had paid before, one for each: with the payments that it made under their ids.
    /// One to another recipient, or of another amount, was surely another grant's: a restored numbering counts twice.
    async fn earlier_endings(&self, node: &dyn Chain, payments: &[&Payment]) -> Result<Vec<Ending>, Error> {
        let ids: Vec<_> = payments.iter().map(|payment| payment.grant_id).collect();
        let earlier = self.earlier.payments(node, &ids).await?;
        let ending = |payment: &&Payment| {
            let id = payment.grant_id;
            let paid = earlier.get(&id).ok_or(Error::Incomplete(id))?;
            let ChainPayment { recipient, amount, transaction_hash, block_number, .. } = *paid;
            let expected = contract::base_units(payment.token_amount, self.deployment.decimals);
            if recipient != payment.recipient.address() || amount != expected {
                let message = format!("the distributor has paid this id before, to {recipient} in {transaction_hash}");
                return Ok(Ending::Failed(Failure::new("grant_id_taken", message)));
            }
            Ok(Ending::Completed(Paid { transaction_hash, block_number, gas_used: None, gas_price: None }))
        };
        payments.iter().map(ending).collect()
    }
}

/// All of them go back to the queue, until then at least.
fn again(payments: Vec<Payment>, not_before: DateTime<Utc>) -> Vec<(Payment, Verdict)> {
    payments.into_iter().map(|payment| (payment, Verdict::Again { not_before })).collect()
}
