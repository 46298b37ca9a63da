//! Puts queued grants, and the roots that others are claimed by, into transactions: packed, tried, signed, committed, sent.
//! One submitter serves all lanes of its process, so that no two of them reach for the same grants.
//!
//! The nonce, the signed bytes and their hash are committed before the first byte leaves. What happens to a transaction
//! after that is the confirmer's business, and a send that fails is no reason to take another nonce.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256, keccak256};
use alloy::sol_types::SolCall;
use shared::clock::Clock;
use shared::id::CampaignId;
use shared::worker::{Progress, Worker};
use shared::{db, fail_point};
use tokio::sync::Notify;

use crate::chain::{self, Call, Chain, Refusal};
use crate::contract::{self, Batch, BatchRevert, GrantDistributor};
use crate::deployment::Deployment;
use crate::domain::{Ending, Failure, Payment};
use crate::fees::{Fees, TooExpensive};
use crate::observe::Observations;
use crate::sender::{self, Sender};
use crate::signer::{self, Signed, Unsigned};
use crate::store::{ClaimRoot, Lane, NewTransaction, Publication, Settlement, Store, Taken, Verdict};
use crate::transaction::Purpose;

/// Why a step failed; grants stay queued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// The key's holder refuses.
    #[error(transparent)]
    Signer(#[from] signer::Error),
    /// The chain is too expensive for now.
    #[error(transparent)]
    TooExpensive(#[from] TooExpensive),
    /// Transactions cannot be paid for.
    #[error(
        "the signer {signer} holds {balance_wei} wei and the next transaction may cost {cost_wei}; grants wait for funds"
    )]
    NoFunds {
        /// Who pays.
        signer: Address,
        /// What it holds.
        balance_wei: U256,
        /// What the transaction costs at most.
        cost_wei: U256,
    },
    /// The bytes may not be on their way yet.
    #[error(transparent)]
    Sender(#[from] sender::Error),
    /// The contract takes no batch at all for now.
    #[error("{0}; grants wait")]
    Held(String),
    /// The contract does not take a root, which is tried again later.
    #[error(
        "the distributor does not take the claim root of {campaign_id}: {reason}; its grants cannot be claimed yet"
    )]
    RootRefused {
        /// Whose root.
        campaign_id: CampaignId,
        /// In the contract's words.
        reason: String,
    },
}

/// How transactions are made.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most grants in a transaction.
    pub batch_grants: usize,
    /// The most transactions of a lane whose fate is open.
    pub in_flight: usize,
    /// The most gas that transactions have which wait for a block, if there is a limit.
    pub block_gas: Option<u64>,
    /// How long a grant waits for others to share a transaction with.
    pub linger: Duration,
    /// What one mint costs at most, in gas.
    pub gas_per_grant: u64,
    /// The most that is offered for a unit of gas, in wei.
    pub max_fee_per_gas: u64,
    /// How long a grant steps aside that would revert alone.
    pub postpone: Duration,
}

/// The submitter of a process.
#[derive(Debug)]
pub struct Submitter {
    /// Payments and transactions.
    pub store: Store,
    /// Where transactions are tried.
    pub chain: Arc<dyn Chain>,
    /// Time.
    pub clock: Clock,
    /// Who sends, one for each lane, and what that takes.
    pub senders: Vec<Sender>,
    /// The contracts.
    pub deployment: Deployment,
    /// How transactions are made.
    pub limits: Limits,
    /// How many grants the next batch may have: `limits.batch_grants` to begin with, halved when a batch would revert,
    /// doubled when one is sent.
    pub allowed: AtomicUsize,
    /// What is seen.
    pub observations: Arc<Observations>,
    /// Notified when there is something to publish.
    pub outbox_ready: Arc<Notify>,
}

impl Submitter {
    /// The lane of this process that has the most room for another transaction, if any has.
    async fn roomiest(&self) -> db::Result<Option<(&Sender, Lane)>> {
        let mut roomiest = None;
        let mut fewest = self.limits.in_flight;
        for sender in &self.senders {
            let Some(lane) = sender.lane() else { continue };
            let open = self.store.open_transactions(lane.id).await?;
            if open < fewest {
                (roomiest, fewest) = (Some((sender, lane)), open);
            }
        }
        Ok(roomiest)
    }

    /// How many grants the next transaction may have.
    async fn most(&self, chain_id: u64) -> db::Result<usize> {
        let allowed = self.allowed.load(Ordering::Relaxed);
        let Some(gas) = self.limits.block_gas else { return Ok(allowed) };
        let (transactions, grants) = self.store.unmined(chain_id).await?;
        Ok(allowed.min(contract::room_for(gas, transactions, grants, self.limits.gas_per_grant)))
    }

    /// The payments of the next transaction and since when each waits, once there are as many as `allowed` or the first
    /// has waited long enough.
    async fn next_batch(&self, allowed: usize) -> db::Result<Taken> {
        let mut taken = self.store.take_queued(allowed, self.clock.now()).await?;
        if let Some((_, since)) = taken.payments.first()
            && taken.payments.len() < allowed
        {
            let waited = (self.clock.now() - since).to_std().unwrap_or_default();
            if let Some(rest) = self.limits.linger.checked_sub(waited).filter(|rest| !rest.is_zero()) {
                taken.give_back().await?;
                tokio::time::sleep(rest).await;
                taken = self.store.take_queued(allowed, self.clock.now()).await?;
            }
        }
        // A transaction is final for all of its payments at the same time.
        let finality = taken.payments.first().map(|(payment, _)| payment.terms.finality);
        taken.payments.retain(|(payment, _)| Some(payment.terms.finality) == finality);
        Ok(taken)
    }

    /// Ends payments whose time is over; says whether there were any.
    async fn expire(&self) -> Result<bool, Error> {
        let now = self.clock.now();
        let expired = self.store.expired(self.limits.batch_grants, now).await?;
        if expired.is_empty() {
            return Ok(false);
        }
        tracing::warn!(grants = expired.len(), "grants have expired");
        let ended = |payment| (payment, Verdict::Ended(Ending::Failed(Failure::expired())));
        let settlement = Settlement { transaction: None, verdicts: expired.into_iter().map(ended).collect() };
        self.store.settle(&settlement, now).await?;
        self.observations.grants_ended(&settlement, now);
        self.outbox_ready.notify_one();
        Ok(true)
    }

    /// Runs the batch on the newest block without sending it.
    async fn try_out(&self, from: Address, call: &Bytes, gas_limit: u64) -> Result<Result<(), String>, Error> {
        let call = Call { from, to: self.deployment.distributor, data: call.clone(), gas_limit: Some(gas_limit) };
        let Err(error) = self.chain.call(call).await else { return Ok(Ok(())) };
        let chain::Error::Reverted(data) = &error else { return Err(error.into()) };
        match contract::batch_revert(data) {
            BatchRevert::Wait(reason) => Err(Error::Held(reason)),
            BatchRevert::Split(reason) => Ok(Err(reason)),
        }
    }

    /// What to offer for gas, if the signer can pay for as much of it.
    async fn affordable_fees(&self, signer: Address, gas_limit: u64) -> Result<Fees, Error> {
        let ((base_fee, tip), balance_wei) = tokio::try_join!(self.chain.asked_fees(), self.chain.balance(signer))?;
        let fees = Fees::offer(base_fee, tip, self.limits.max_fee_per_gas)?;
        let cost_wei = U256::from(gas_limit) * U256::from(fees.max_fee_per_gas);
        if balance_wei < cost_wei {
            return Err(Error::NoFunds { signer, balance_wei, cost_wei });
        }
        Ok(fees)
    }

    /// A batch that would revert: next time half of it. A grant that reverts alone steps aside for a while, so that those
    /// behind it pass; it does not fail, since the distributor reports a grant's own faults without reverting.
    async fn split(&self, payments: Vec<Payment>, reason: String) -> Result<Progress, Error> {
        if payments.len() > 1 {
            tracing::warn!(grants = payments.len(), reason, "batch would revert, trying half of it");
            self.allowed.store(payments.len() / 2, Ordering::Relaxed);
            return Ok(Progress::Worked(1));
        }
        let now = self.clock.now();
        let not_before = now + self.limits.postpone;
        let verdicts = payments.into_iter().map(|payment| (payment, Verdict::Again { not_before })).collect();
        let settlement = Settlement { transaction: None, verdicts };
        self.store.settle(&settlement, now).await?;
        self.observations.grants_ended(&settlement, now);
        Err(Error::Held(reason))
    }
}

impl Worker for Submitter {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        if self.senders.iter().all(|sender| sender.lane().is_none()) {
            return Ok(Progress::Idle);
        }
        if self.expire().await? {
            return Ok(Progress::Worked(1));
        }
        let is_stopped = self.store.kill_switch().await?.is_engaged();
        metrics::gauge!("kill_switch_engaged").set(u8::from(is_stopped));
        if is_stopped {
            // That is as it should be, and no reason to take the service out of rotation.
            return Ok(Progress::Idle);
        }
        let Some((sender, lane)) = self.roomiest().await? else { return Ok(Progress::Idle) };
        if let Some(root) = self.store.next_claim_root(self.clock.now()).await? {
            return self.publish(sender, lane, &root).await;
        }
        self.pay(sender, lane).await
    }
}

/// What a transaction is for.
struct Cargo<'a> {
    call: Bytes,
    gas_limit: u64,
    payments: &'a [Payment],
    /// What the payments were taken with.
    lock: Option<db::Tx>,
    publication: Option<Publication<'a>>,
}

impl Submitter {
    /// Puts the next batch of payments into a transaction.
    async fn pay(&self, sender: &Sender, lane: Lane) -> Result<Progress, Error> {
        let most = self.most(lane.id.chain_id).await?;
        if most == 0 {
            // The next block makes room.
            return Ok(Progress::Idle);
        }
        let Taken { payments, lock } = self.next_batch(most).await?;
        let (mut payments, queued_since): (Vec<_>, Vec<_>) = payments.into_iter().unzip();
        if payments.is_empty() {
            return Ok(Progress::Idle);
        }
        let (count, batch) = Batch::fill(&payments, self.deployment.decimals, self.limits.gas_per_grant);
        payments.truncate(count);
        let call = Bytes::from(GrantDistributor::payCall { batch: batch.packed }.abi_encode());
        if let Err(reason) = self.try_out(lane.id.signer, &call, batch.gas_limit).await? {
            drop(lock);
            return self.split(payments, reason).await;
        }
        let cargo = Cargo { call, gas_limit: batch.gas_limit, payments: &payments, lock, publication: None };
        let Some(signed) = self.commit(sender, lane, cargo).await? else { return Ok(Progress::Idle) };
        self.allowed.store((self.allowed.load(Ordering::Relaxed) * 2).min(self.limits.batch_grants), Ordering::Relaxed);
        self.observations.batch(&queued_since[..count], self.clock.now());

        // The bytes are safe. Whatever the node answers, the confirmer looks after them from here on.
        let sent = sender.send(lane, signed.hash).await;
        sender.sent.notify_one();
        if let Err(sender::Error::Chain { source, .. }) = &sent
            && source.refusal() == Some(Refusal::Invalid)
        {
            // The confirmer cancels it. What a node never takes is most often too large: next time half of it.
            self.allowed.store((payments.len() / 2).max(1), Ordering::Relaxed);
        }
        sent?;
        Ok(Progress::Worked(1))
    }

    /// Puts a root into a transaction that publishes it.
    async fn publish(&self, sender: &Sender, lane: Lane, root: &ClaimRoot) -> Result<Progress, Error> {
        let ClaimRoot { campaign_id, number, root: hash } = root;
        let campaign = keccak256(campaign_id.as_str());
        let call = Bytes::from(GrantDistributor::setClaimRootCall { campaign, root: *hash }.abi_encode());
        let gas_limit = contract::GAS_OF_CLAIM_ROOT;
        if let Err(reason) = self.try_out(lane.id.signer, &call, gas_limit).await? {
            let not_before = self.clock.now() + self.limits.postpone;
            self.store.postpone_claim_root(root, not_before).await?;
            return Err(Error::RootRefused { campaign_id: campaign_id.clone(), reason });
        }
        let publication = Some(Publication { root, distributor: self.deployment.distributor });
        let cargo = Cargo { call, gas_limit, payments: &[], lock: None, publication };
        let Some(signed) = self.commit(sender, lane, cargo).await? else { return Ok(Progress::Idle) };
        tracing::info!(%campaign_id, number, root = %hash, "claim root is being published");
        let sent = sender.send(lane, signed.hash).await;
        sender.sent.notify_one();
        sent?;
        Ok(Progress::Worked(1))
    }

    /// Signs a transaction at the lane's next nonce, and commits its bytes with what it is for; `None` where something of
    /// it was taken meanwhile.
    async fn commit(&self, sender: &Sender, lane: Lane, cargo: Cargo<'_>) -> Result<Option<Signed>, Error> {
        let Cargo { call, gas_limit, payments, lock, publication } = cargo;
        let fees = self.affordable_fees(lane.id.signer, gas_limit).await?;
        let nonce = self.store.next_nonce(lane.id).await?;
        let unsigned = Unsigned {
            chain_id: lane.id.chain_id,
            nonce,
            to: Some(self.deployment.distributor),
            data: call,
            gas_limit,
            fees,
        };
        let signed = sender.signer.sign(unsigned)?;
        if fail_point::switched("broadcast_before_commit") {
            self.chain.send(&signed.raw).await?;
        }
        let transaction =
            NewTransaction { nonce, signed: &signed, purpose: Purpose::Pay, gas_limit, fees, payments, publication };
        if self.store.assign(lock, lane, &transaction, self.clock.now()).await?.is_none() {
            tracing::warn!(nonce, "the lane, the nonce, a grant or the root was taken meanwhile");
            return Ok(None);
        }
        self.outbox_ready.notify_one();
        tracing::info!(transaction_hash = %signed.hash, nonce, grants = payments.len(), "transaction committed");
        Ok(Some(signed))
    }
}
