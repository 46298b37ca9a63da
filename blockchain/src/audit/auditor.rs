//! One audit, a small step at a time: through the ledger of the blockchain service, through the events of the chain, and
//! through the ledger of the campaign service, page by page. However long they are, memory holds one page of each.
//!
//! It repairs what is safe: a payment in a final block, to the right recipient and of the right amount, that the ledger does
//! not call one, is settled as every payment is. Its result was lost; or it was cancelled, and a transaction paid it that a
//! restored database had forgotten.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::TimeDelta;
use shared::clock::Clock;
use shared::db;
use shared::id::Issuer;
use tokio::sync::Notify;

use super::campaign::{self, CampaignLedger};
use super::reader::{self, Chunk, Reader, Reading};
use super::report::Report;
use super::{ChainPayment, Entry, Horizon, Kind, Ledger, Verdict, compare, seals};
use crate::chain::Chain;
use crate::config::{ChainSettings, Config};
use crate::contract::base_units;
use crate::deployment::Deployment;
use crate::domain::{Ending, GrantId, Paid, Payment};
use crate::observe::Observations;
use crate::store::{LedgerPayment, Place, Settlement, Source, Span, Store, Verdict as Settled};

/// How many rows a step looks at.
const PAGE: u16 = 500;

/// How many blocks a step reads again, where payments are missing that the ledger places in them.
const SECOND_LOOKS: usize = 20;

/// Why a step failed; it can be taken again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain could not be read.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// The ledger of the campaign service could not be read.
    #[error(transparent)]
    Campaign(#[from] campaign::Error),
    /// What was compared is not the chain's any more.
    #[error("final blocks were replaced during the audit; it has to be made again")]
    Replaced,
}

/// Who audits: reads the chain, and compares.
#[derive(Debug)]
pub struct Auditor {
    /// Payments, and what was read of the chain.
    pub store: Store,
    /// Reads the chain.
    pub reader: Reader,
    /// The contracts.
    pub deployment: Deployment,
    /// The ledger of the campaign service, where it is known.
    pub campaign: Option<CampaignLedger>,
    /// Time.
    pub clock: Clock,
    /// How long something may be on its way.
    pub grace: TimeDelta,
    /// Whether lost results are recorded.
    pub repair: bool,
    /// Every grant that was claimed in a block below this is completed.
    pub claims_seen_below: AtomicU64,
    /// What is seen.
    pub observations: Arc<Observations>,
    /// Notified when there is something to publish.
    pub outbox_ready: Arc<Notify>,
}

/// An audit under way.
#[derive(Debug)]
pub struct Round {
    phase: Phase,
    /// As of its beginning: what a ledger learns while it goes on is on its way.
    horizon: Horizon,
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Payments { after: Option<GrantId> },
    Events { after: Option<Place> },
    Grants { after: Option<u64> },
    Seals { issuer: Issuer },
    Done,
}

impl Round {
    /// What was found so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was found.
    #[must_use]
    pub fn into_report(self) -> Report {
        self.report
    }

    /// Leaves the ledger of the campaign service out, for it cannot be read.
    pub fn leave_out_campaign(&mut self) {
        self.report.leave_out(Ledger::Campaign);
        self.phase = Phase::Done;
    }
}

impl Auditor {
    /// An auditor as the configuration wants it, which repairs.
    ///
    /// # Errors
    ///
    /// When this machine cannot make HTTP requests.
    pub fn new(
        config: &Config,
        settings: &ChainSettings,
        store: &Store,
        chain: &Arc<dyn Chain>,
        deployment: Deployment,
        chain_id: u64,
        clock: Clock,
    ) -> Result<Self, Error> {
        let Deployment { distributor, block: first_block, .. } = deployment;
        Ok(Self {
            store: store.clone(),
            reader: Reader {
                store: store.clone(),
                chain: Arc::clone(chain),
                clock: clock.clone(),
                source: Source { chain_id, distributor, first_block },
                finality: config.confirmations,
                chunk: Chunk::new(config.audit_max_blocks),
            },
            deployment,
            campaign: settings.campaign_url.as_ref().map(CampaignLedger::new).transpose()?,
            clock,
            grace: TimeDelta::seconds(config.audit_grace_seconds.into()),
            repair: true,
            claims_seen_below: AtomicU64::new(0),
            observations: Arc::default(),
            outbox_ready: Arc::default(),
        })
    }

    /// Reads one chunk of the chain.
    ///
    /// # Errors
    ///
    /// When nothing was read.
    pub async fn read_once(&self) -> Result<Reading, Error> {
        Ok(self.reader.read_once().await?)
    }

    /// Completes grants that were claimed in the blocks that were read since the last time, at first in all of them; a page
    /// at a time. Returns how many. One that is missed, since its request came after its claim, is a lost result to the next
    /// comparison.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn complete_claimed(&self) -> Result<usize, Error> {
        let cursor = self.store.chain_cursor(&self.reader.source).await?;
        // What was read again is looked at again.
        let from_block = self.claims_seen_below.load(Ordering::Relaxed).min(cursor.next_block);
        let claimed = self.store.claimed(self.deployment.decimals, from_block, PAGE).await?;
        let verdicts: Vec<_> =
            claimed.into_iter().map(|(payment, paid)| (payment, Settled::Ended(Ending::Completed(paid)))).collect();
        let grants = verdicts.len();
        if grants > 0 {
            self.end(verdicts).await?;
            tracing::info!(grants, "grants were claimed");
        } else {
            self.claims_seen_below.store(cursor.next_block, Ordering::Relaxed);
        }
        Ok(grants)
    }

    /// Ends payments that are in no transaction.
    async fn end(&self, verdicts: Vec<(Payment, Settled)>) -> Result<(), Error> {
        let (settlement, now) = (Settlement { transaction: None, verdicts }, self.clock.now());
        self.store.settle(&settlement, now).await?;
        self.observations.grants_ended(&settlement, now);
        self.outbox_ready.notify_one();
        Ok(())
    }

    /// Begins to compare with the blocks below `next_block`, which have been read.
    #[must_use]
    pub fn begin(&self, next_block: u64) -> Round {
        let report = Report::new(&self.reader.source, next_block, self.deployment.decimals);
        let horizon = Horizon { next_block, now: self.clock.now(), grace: self.grace };
        Round { phase: Phase::Payments { after: None }, horizon, report }
    }

    /// Compares one page. Returns whether there is more to compare.
    ///
    /// # Errors
    ///
    /// When the page could not be compared.
    pub async fn step(&self, round: &mut Round) -> Result<bool, Error> {
        let horizon = round.horizon;
        round.phase = match round.phase {
            Phase::Payments { after } => match self.compare_payments(after, horizon, &mut round.report).await? {
                Some(last) => Phase::Payments { after: Some(last) },
                None => Phase::Events { after: None },
            },
            Phase::Events { after } => match self.compare_events(after, horizon, &mut round.report).await? {
                Some(last) => Phase::Events { after: Some(last) },
                None if self.campaign.is_some() => Phase::Grants { after: None },
                None => Phase::Done,
            },
            Phase::Grants { after } => match self.compare_grants(after, horizon, &mut round.report).await? {
                (_, Some(last)) => Phase::Grants { after: Some(last) },
                (Some(issuer), None) => Phase::Seals { issuer },
                (None, None) => Phase::Done,
            },
            Phase::Seals { issuer } if self.follow_seals(issuer, &mut round.report).await? => Phase::Seals { issuer },
            Phase::Seals { .. } | Phase::Done => Phase::Done,
        };
        if round.phase != Phase::Done {
            return Ok(true);
        }
        let cursor = self.store.chain_cursor(&self.reader.source).await?;
        if cursor.next_block < horizon.next_block {
            return Err(Error::Replaced);
        }
        Ok(false)
    }

    /// A page of the blockchain service's ledger against the chain; returns its last id if there may be another page.
    async fn compare_payments(
        &self,
        after: Option<GrantId>,
        horizon: Horizon,
        report: &mut Report,
    ) -> Result<Option<GrantId>, Error> {
        let mut page = self.payments_page(after, horizon).await?;
        let lost = page.lost();
        let acted = self.look_again(&page).await? | self.record_lost(&lost).await?;
        if acted {
            page = self.payments_page(after, horizon).await?;
            if self.repair {
                let still: BTreeSet<_> = page.lost().into_iter().map(|(payment, _)| payment.grant_id).collect();
                report.repaired += lost.iter().filter(|(payment, _)| !still.contains(&payment.grant_id)).count() as u64;
            }
        }
        report.ledger(Ledger::Blockchain);
        for (_, entry, paid) in &page.rows {
            report.add(Ledger::Blockchain, entry, &compare(entry, paid, &page.horizon));
        }
        Ok(page.rows.last().filter(|_| page.is_full()).map(|(_, entry, _)| entry.grant_id))
    }

    async fn payments_page(&self, after: Option<GrantId>, horizon: Horizon) -> Result<PaymentsPage, Error> {
        let rows = self.store.ledger_after(after, PAGE).await?;
        let ids: Vec<_> = rows.iter().map(|row| row.payment.grant_id).collect();
        let mut paid = self.paid(&ids, horizon.next_block).await?;
        let rows = rows
            .into_iter()
            .map(|row| {
                let paid = paid.remove(&row.payment.grant_id).unwrap_or_default();
                let entry = self.entry(&row);
                (row.payment, entry, paid)
            })
            .collect();
        Ok(PaymentsPage { rows, horizon })
    }

    fn entry(&self, row: &LedgerPayment) -> Entry {
        let LedgerPayment { payment, claim, since } = row;
        Entry {
            request_id: payment.request_id.clone(),
            grant_id: payment.grant_id,
            recipient: payment.recipient.address(),
            amount: base_units(payment.token_amount, self.deployment.decimals),
            claim: *claim,
            since: *since,
        }
    }

    async fn paid(&self, ids: &[GrantId], next_block: u64) -> db::Result<HashMap<GrantId, Vec<ChainPayment>>> {
        let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
        for payment in self.store.chain_payments_of(ids, next_block).await? {
            by_id.entry(payment.grant_id).or_default().push(payment);
        }
        Ok(by_id)
    }

    /// Reads the blocks again in which the ledger places payments that are missing: a node that is behind answers as if
    /// there were nothing. Returns whether anything was found.
    async fn look_again(&self, page: &PaymentsPage) -> Result<bool, Error> {
        let blocks: BTreeSet<_> = page
            .rows
            .iter()
            .filter(|(_, entry, paid)| {
                compare(entry, paid, &page.horizon) == Verdict::Differs(vec![(Kind::MissingPayment, None)])
            })
            .filter_map(|(_, entry, _)| entry.claim.block_number())
            .filter(|block| (self.reader.source.first_block..page.horizon.next_block).contains(block))
            .collect();
        let mut found = 0;
        for block in blocks.into_iter().take(SECOND_LOOKS) {
            found += self.reader.read_again(block).await?;
        }
        Ok(found > 0)
    }

    /// Settles payments that are on chain, whatever the ledger says of them. Returns whether it did anything.
    async fn record_lost(&self, lost: &[(Payment, Ending)]) -> Result<bool, Error> {
        if lost.is_empty() || !self.repair {
            return Ok(false);
        }
        let payments: Vec<_> = lost.iter().map(|(payment, _)| payment.clone()).collect();
        self.store.requeue(&payments).await?;
        let ended = |(payment, ending): &(Payment, Ending)| (payment.clone(), Settled::Ended(ending.clone()));
        self.end(lost.iter().map(ended).collect()).await?;
        Ok(true)
    }

    /// A page of events against the blockchain service's ledger; returns its last place if there may be another page.
    async fn compare_events(
        &self,
        after: Option<Place>,
        horizon: Horizon,
        report: &mut Report,
    ) -> Result<Option<Place>, Error> {
        let events = self.store.chain_payments_after(after, horizon.next_block, PAGE).await?;
        report.chain.payments += events.len() as u64;
        for (payment, _) in events.iter().filter(|(_, is_known)| !is_known) {
            report.add_unknown(Ledger::Blockchain, payment);
        }
        let last = events.last().filter(|_| events.len() == usize::from(PAGE));
        Ok(last.map(|(payment, _)| (payment.block_number, payment.log_index)))
    }

    /// A page of the campaign service's ledger of events, behind what was read before; says whether there may be another.
    async fn follow_seals(&self, issuer: Issuer, report: &mut Report) -> Result<bool, Error> {
        let Some(campaign) = &self.campaign else { return Ok(false) };
        let seen = self.store.seen_ledger(issuer).await?;
        let page = campaign.entries(seen.sequence.saturating_sub(1)).await?;
        let sealed = report.sealed.get_or_insert_default();
        match seals::follow(seen, &page) {
            Ok(now) => {
                sealed.entries += now.sequence - seen.sequence;
                sealed.sequence = now.sequence;
                if now != seen {
                    self.store.remember_ledger(issuer, now, self.clock.now()).await?;
                }
                Ok(page.len() == usize::from(campaign::PAGE))
            }
            Err(broken) => {
                sealed.sequence = seen.sequence;
                sealed.broken = Some(broken);
                report.equal = false;
                Ok(false)
            }
        }
    }

    /// A page of the campaign service's ledger against the chain; returns whose numbering it is, and its last number if
    /// there is another page.
    async fn compare_grants(
        &self,
        after: Option<u64>,
        horizon: Horizon,
        report: &mut Report,
    ) -> Result<(Option<Issuer>, Option<u64>), Error> {
        let Some(campaign) = &self.campaign else { return Ok((None, None)) };
        let campaign::Page { issuer, grants, next_after } = campaign.page(after).await?;
        let Deployment { wallets, decimals, .. } = &self.deployment;
        let entries: Vec<_> = grants.iter().map(|grant| grant.entry(issuer, wallets, *decimals)).collect();
        let ids: Vec<_> = entries.iter().map(|entry| entry.grant_id).collect();
        let paid = self.paid(&ids, horizon.next_block).await?;
        report.ledger(Ledger::Campaign);
        for entry in &entries {
            let paid = paid.get(&entry.grant_id).map_or(&[][..], Vec::as_slice);
            report.add(Ledger::Campaign, entry, &compare(entry, paid, &horizon));
        }

        let mut span = Span { issuer, after: after.map(|after| (after, None)), last: next_after, known: &ids };
        loop {
            let strangers = self.store.strangers_of(&span, horizon.next_block, PAGE).await?;
            for payment in &strangers {
                report.add_unknown(Ledger::Campaign, payment);
            }
            let last = strangers.last().filter(|_| strangers.len() == usize::from(PAGE));
            let Some((payment, (_, number))) = last.and_then(|last| Some((last, last.grant_id.number()?))) else {
                return Ok((Some(issuer), next_after));
            };
            span.after = Some((number, Some((payment.block_number, payment.log_index))));
        }
    }
}

/// A page of the blockchain service's ledger, each payment with what was paid under its id.
struct PaymentsPage {
    rows: Vec<(Payment, Entry, Vec<ChainPayment>)>,
    horizon: Horizon,
}

impl PaymentsPage {
    fn is_full(&self) -> bool {
        self.rows.len() == usize::from(PAGE)
    }

    /// Payments that were made once, as they should be, and that the ledger does not call paid, nor is about to.
    fn lost(&self) -> Vec<(Payment, Ending)> {
        let rows = self.rows.iter().filter_map(|(payment, entry, paid)| {
            let Verdict::Differs(differences) = compare(entry, paid, &self.horizon) else { return None };
            let [(Kind::ResultLost | Kind::PaidThoughFailed, Some(paid))] = differences[..] else { return None };
            let (transaction_hash, block_number) = (paid.transaction_hash, paid.block_number);
            let paid = Paid { transaction_hash, block_number, gas_used: None, gas_price: None };
            Some((payment.clone(), Ending::Completed(paid)))
        });
        rows.collect()
    }
}
