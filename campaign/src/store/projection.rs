//! The tables that people read, worked out from the ledger's events: grants, campaigns, and what is counted of them.
//!
//! What is loaded is changed in memory, by the domain's own functions, and written back in one statement for each table.
//! The same code keeps the tables up to date and [rebuilds](super::rebuild) them.

mod claims;
mod save;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{self, Writes, corrupt, unsigned};
use shared::id::{CampaignId, IdempotencyKey, RequestId, UserId};
use shared::ledger::{Cause, Entry, Stream};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use claims::{LeafRow, PublishedRow, RootRow, save_leaves, save_roots};
use save::{
    SwitchRow, insert_grants, save_campaigns, save_keys, save_latencies, save_lists, save_minutes, save_switch,
    save_transactions, update_grants,
};

use super::recent::{Kept, Recent};
use super::{grant, grant_columns};
use crate::domain::campaign::{Campaign, Tally};
use crate::domain::event::{CampaignEvent, GrantEvent, ServiceEvent};
use crate::domain::{Effect, Grant, Standing, State};
use crate::latency::Bucket;

/// The tables, each of which can be worked out again.
pub(super) const TABLES: [&str; 10] = [
    "token_grant",
    "idempotency_key",
    "campaign",
    "listed_user",
    "campaign_latency",
    "campaign_minute",
    "campaign_transaction",
    "kill_switch",
    "claim_leaf",
    "claim_root",
];

/// A part of the tables, in memory.
#[derive(Debug, Default)]
pub(super) struct Projection {
    /// What need not be read.
    recent: Recent,
    grants: BTreeMap<RequestId, Tracked<Grant>>,
    campaigns: BTreeMap<CampaignId, Tracked<Campaign>>,
    lists: BTreeMap<CampaignId, BTreeSet<UserId>>,
    keys: Vec<(IdempotencyKey, RequestId)>,
    latencies: BTreeMap<(CampaignId, Bucket), u64>,
    minutes: BTreeMap<(CampaignId, i64), Minute>,
    transactions: BTreeMap<(String, CampaignId), Share>,
    kill_switch: Option<SwitchRow>,
    leaves: Vec<LeafRow>,
    roots_made: Vec<RootRow>,
    roots_published: Vec<PublishedRow>,
}

/// What was loaded or made, and how it is to be written.
#[derive(Debug)]
struct Tracked<T> {
    value: T,
    write: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// It is as it was.
    Nothing,
    /// It is not as it was.
    Update,
    /// There was none.
    Insert,
}

impl<T> Tracked<T> {
    fn loaded(value: T) -> Self {
        Self { value, write: Write::Nothing }
    }

    fn made(value: T) -> Self {
        Self { value, write: Write::Insert }
    }

    fn change(&mut self) {
        if self.write == Write::Nothing {
            self.write = Write::Update;
        }
    }
}

#[derive(Debug, Default)]
struct Minute {
    requested: i64,
    completed: i64,
    failed: i64,
}

/// What a batch of events adds to a campaign's part of a transaction.
#[derive(Debug, Default)]
struct Share {
    grants: i64,
    completed: i64,
    tokens: i64,
    gas_used: i64,
    gas_price: Option<u64>,
    block: Option<Block>,
    first_seen_at: Option<DateTime<Utc>>,
    last_seen_at: Option<DateTime<Utc>>,
}

/// What a batch of events says of a transaction's block; it may say nothing.
#[derive(Debug, Clone, Copy)]
enum Block {
    /// It is in none any more.
    Gone,
    /// It is in the one of this number.
    Number(u64),
}

impl Projection {
    /// One that need not read what is in `recent`.
    pub(super) fn with(recent: Recent) -> Self {
        Self { recent, ..Self::default() }
    }

    /// A grant that is loaded.
    pub(super) fn grant(&self, request_id: &RequestId) -> Option<&Grant> {
        Some(&self.grants.get(request_id)?.value)
    }

    /// A campaign that is loaded.
    pub(super) fn campaign(&self, campaign_id: &CampaignId) -> Option<&Campaign> {
        Some(&self.campaigns.get(campaign_id)?.value)
    }

    /// Takes a grant that the caller has read in this transaction for loaded; its campaign is loaded.
    pub(super) fn hold(&mut self, grant: &Grant) {
        self.grants.entry(grant.request_id.clone()).or_insert_with(|| Tracked::loaded(grant.clone()));
    }

    /// Loads those of the grants that exist, and their campaigns.
    pub(super) async fn load_grants(&mut self, connection: &mut AnyConnection, ids: &[&RequestId]) -> db::Result<()> {
        let wanted = ids.iter().copied().filter(|id| !self.grants.contains_key(*id)).collect();
        let grants = load(connection, &mut self.recent.grants, wanted, LOAD_GRANTS, grant).await?;
        self.grants.extend(grants.into_iter().map(|(id, grant)| (id, Tracked::loaded(grant))));
        let loaded = ids.iter().filter_map(|id| self.grants.get(*id));
        let campaigns: BTreeSet<_> = loaded.map(|grant| grant.value.request.campaign_id.clone()).collect();
        self.load_campaigns(connection, &campaigns.iter().collect::<Vec<_>>()).await
    }

    /// Loads those of the campaigns that exist.
    pub(super) async fn load_campaigns(
        &mut self,
        connection: &mut AnyConnection,
        ids: &[&CampaignId],
    ) -> db::Result<()> {
        let wanted = ids.iter().copied().filter(|id| !self.campaigns.contains_key(*id)).collect();
        let campaigns = load(connection, &mut self.recent.campaigns, wanted, LOAD_CAMPAIGNS, campaign).await?;
        self.campaigns.extend(campaigns.into_iter().map(|(id, campaign)| (id, Tracked::loaded(campaign))));
        Ok(())
    }

    /// Whether all payments are stopped.
    pub(super) async fn is_stopped(&mut self, connection: &mut AnyConnection) -> db::Result<bool> {
        let is_stored = self.kill_switch.is_none();
        if let Some(stopped) = self.recent.stopped
            && !(cfg!(debug_assertions) && is_stored)
        {
            return Ok(stopped);
        }
        let engaged = sqlx::query("-- projection::is_stopped\n select engaged from kill_switch where engaged = 1");
        let stopped = engaged.fetch_optional(connection).await?.is_some();
        let remembered = *self.recent.stopped.get_or_insert(stopped);
        assert_eq!(remembered, stopped, "{REMEMBERED_WRONG}");
        Ok(stopped)
    }

    /// Loads what these entries are about.
    pub(super) async fn load(&mut self, connection: &mut AnyConnection, entries: &[Entry]) -> db::Result<()> {
        let mut grants = Vec::new();
        let mut campaigns = Vec::new();
        for entry in entries {
            match entry.stream {
                Stream::Grant => grants.push(corrupt("subject", entry.subject.parse())?),
                Stream::Campaign => campaigns.push(corrupt("subject", entry.subject.parse())?),
                Stream::Service => {}
            }
            if let Some(campaign_id) = campaign_of_new_grant(entry)? {
                campaigns.push(campaign_id);
            }
        }
        self.load_campaigns(connection, &campaigns.iter().collect::<Vec<_>>()).await?;
        self.load_grants(connection, &grants.iter().collect::<Vec<_>>()).await
    }

    /// Applies an entry, of whatever version; what it is about is loaded.
    pub(super) fn apply(&mut self, entry: &Entry) -> db::Result<()> {
        let (kind, version, data) = (entry.kind.as_str(), entry.schema_version, entry.data.get());
        match entry.stream {
            Stream::Grant => {
                let event = corrupt("data", GrantEvent::read(kind, version, data))?;
                let request_id = corrupt("subject", entry.subject.parse())?;
                if self.grant(&request_id).is_none() && !matches!(event, GrantEvent::Requested(_)) {
                    return corrupt("subject", Err("it names a grant that was never requested"));
                }
                self.apply_grant(&request_id, &event, entry.at, entry.sequence);
            }
            Stream::Campaign => {
                let event = corrupt("data", CampaignEvent::read(kind, version, data))?;
                let campaign_id = corrupt("subject", entry.subject.parse())?;
                let makes_it = matches!(event, CampaignEvent::Created(_) | CampaignEvent::Changed(_));
                if self.campaign(&campaign_id).is_none() && !makes_it {
                    return corrupt("subject", Err("it names a campaign that was never made"));
                }
                self.apply_campaign(&campaign_id, &event, entry.at, entry.sequence);
            }
            Stream::Service => {
                let event = corrupt("data", ServiceEvent::read(kind, version, data))?;
                self.apply_service(&event, &entry.cause, entry.at, entry.sequence);
            }
        }
        Ok(())
    }

    /// Applies what happened to a grant that is loaded, or is made by it.
    ///
    /// # Panics
    ///
    /// If the grant is not loaded and the event does not make it.
    pub(super) fn apply_grant(
        &mut self,
        request_id: &RequestId,
        event: &GrantEvent,
        at: DateTime<Utc>,
        sequence: u64,
    ) -> Effect {
        let Some(tracked) = self.grants.get_mut(request_id) else {
            let GrantEvent::Requested(requested) = event else { unreachable!("{request_id} is not loaded") };
            let grant = Grant::requested(request_id.clone(), requested, at);
            if let Some(key) = &requested.idempotency_key {
                self.keys.push((key.clone(), request_id.clone()));
            }
            self.count(None, &grant, event, at, sequence);
            self.grants.insert(request_id.clone(), Tracked::made(grant));
            return Effect::Moved;
        };
        let before = tracked.value.clone();
        let effect = tracked.value.apply(event, at);
        if tracked.value != before {
            tracked.change();
            let after = tracked.value.clone();
            self.count(Some(&before), &after, event, at, sequence);
            if let (GrantEvent::Claimable(claimable), Effect::Moved) = (event, effect) {
                self.leaves.push(LeafRow::new(&after, claimable, sequence));
            }
        }
        if let GrantEvent::KeyAdded(added) = event {
            self.keys.push((added.idempotency_key.clone(), request_id.clone()));
        }
        effect
    }

    /// Applies what happened to a campaign that is loaded, or is made by it.
    pub(super) fn apply_campaign(
        &mut self,
        campaign_id: &CampaignId,
        event: &CampaignEvent,
        at: DateTime<Utc>,
        sequence: u64,
    ) {
        let specified = match event {
            CampaignEvent::Created(specified) | CampaignEvent::Changed(specified) => specified,
            CampaignEvent::ClaimRootMade(made) => {
                return self.roots_made.push(RootRow::new(campaign_id, made, at, sequence));
            }
            CampaignEvent::ClaimRootPublished(published) => {
                return self.roots_published.push(PublishedRow::new(campaign_id, published));
            }
        };
        let tracked = self
            .campaigns
            .entry(campaign_id.clone())
            .or_insert_with(|| Tracked::made(Campaign::new(campaign_id.clone(), specified.spec.clone(), at)));
        tracked.value.apply(event, at);
        tracked.change();
        self.lists.insert(campaign_id.clone(), std::mem::take(&mut tracked.value.spec.listed_users));
    }

    /// Applies what happened to the service.
    pub(super) fn apply_service(&mut self, event: &ServiceEvent, cause: &Cause, at: DateTime<Utc>, sequence: u64) {
        let (engaged, switched) = match event {
            ServiceEvent::KillSwitchEngaged(switched) => (1, switched),
            ServiceEvent::KillSwitchReleased(switched) => (0, switched),
        };
        self.recent.stopped = Some(engaged == 1);
        let (actor, reason) = (cause.actor.clone(), switched.reason.clone());
        self.kill_switch = Some(SwitchRow { engaged, actor, reason, changed_at: at.timestamp_micros(), sequence });
    }

    /// Whether the root of this tree was published by what was applied.
    pub(super) fn has_published(&self, campaign_id: &CampaignId, number: u64) -> bool {
        self.roots_published.iter().any(|row| row.is_of(campaign_id, number))
    }

    /// Counts what an event did to a grant.
    fn count(&mut self, before: Option<&Grant>, after: &Grant, event: &GrantEvent, at: DateTime<Utc>, sequence: u64) {
        let campaign_id = &after.request.campaign_id;
        let campaign = self.campaigns.get_mut(campaign_id).expect("a grant's campaign is loaded with it");
        campaign.value.tally.see(before, after, event, at, sequence);
        campaign.change();

        let (left, entered) = (before.map(|grant| grant.state.standing()), after.state.standing());
        if left != Some(entered) {
            let minute = at.timestamp().div_euclid(60);
            let minute = self.minutes.entry((campaign_id.clone(), minute)).or_default();
            match entered {
                Standing::UnderWay => minute.requested += 1,
                Standing::Paid => minute.completed += 1,
                Standing::Unpaid => minute.failed += 1,
            }
            if let Some(micros) = after.mint_micros().filter(|_| entered == Standing::Paid) {
                *self.latencies.entry((campaign_id.clone(), Bucket::of(micros))).or_default() += 1;
            }
        }
        self.count_transaction(before, after, event, at);
    }

    fn count_transaction(&mut self, before: Option<&Grant>, after: &Grant, event: &GrantEvent, at: DateTime<Utc>) {
        let campaign_id = &after.request.campaign_id;
        let tokens = after.request.token_amount.whole_tokens().cast_signed();
        // A grant that will not be paid is in no transaction: those beside it are, and may all be paid.
        let is_in_one = |grant: &&Grant| grant.state.standing() != Standing::Unpaid;
        let left = before.filter(is_in_one).and_then(|grant| grant.transaction_hash.as_ref());
        let entered = Some(after).filter(is_in_one).and_then(|grant| grant.transaction_hash.as_ref());
        let was_paid = before.is_some_and(|grant| grant.state == State::Completed);
        if left != entered
            && let Some(hash) = left
        {
            let share = self.transactions.entry((hash.clone(), campaign_id.clone())).or_default();
            share.grants -= 1;
            share.tokens -= tokens;
            share.completed -= i64::from(was_paid);
            if entered.is_some() {
                // What a grant has left for another is in no block any more.
                share.block = Some(Block::Gone);
            }
            share.last_seen_at = Some(at);
        }
        let Some(hash) = entered else { return };
        let share = self.transactions.entry((hash.clone(), campaign_id.clone())).or_default();
        if left != entered {
            share.grants += 1;
            share.tokens += tokens;
            share.first_seen_at = share.first_seen_at.or(Some(at));
        }
        if after.state == State::Completed && !(was_paid && left == entered) {
            share.completed += 1;
        }
        if let GrantEvent::Completed(completed) = event {
            share.gas_used += completed.gas_used.unwrap_or(0).cast_signed();
            share.gas_price = completed.gas_price.or(share.gas_price);
        }
        match after.block_number {
            Some(number) => share.block = Some(Block::Number(number)),
            None if before.is_some_and(|grant| grant.block_number.is_some()) && after.state != State::Completed => {
                share.block = Some(Block::Gone);
            }
            None => {}
        }
        share.last_seen_at = Some(at);
    }

    /// What changed is written back when these are run.
    pub(super) fn save(&self, writes: &mut Writes) {
        update_grants(writes, &written(&self.grants, Write::Update));
        let campaigns = [Write::Insert, Write::Update].map(|write| written(&self.campaigns, write)).concat();
        save_campaigns(writes, &campaigns);
        save_lists(writes, &self.lists);
        insert_grants(writes, &written(&self.grants, Write::Insert));
        save_keys(writes, &self.keys);
        save_latencies(writes, &self.latencies);
        save_minutes(writes, &self.minutes);
        save_transactions(writes, &self.transactions);
        save_switch(writes, self.kill_switch.as_ref());
        save_leaves(writes, &self.leaves);
        save_roots(writes, &self.roots_made, &self.roots_published);
    }

    /// The grants that are not as they were, and what need not be read again, once all is saved.
    pub(super) fn saved(self) -> (Vec<Grant>, Recent) {
        let Self { mut recent, grants, campaigns, .. } = self;
        let changed = grants.values().filter(|grant| grant.write != Write::Nothing);
        let changed = changed.map(|grant| grant.value.clone()).collect();
        // Of a grant that has ended, little more is heard.
        let open = grants.into_iter().filter(|(_, grant)| !grant.value.state.is_final());
        recent.grants.keep(open.map(|(request_id, grant)| (request_id, grant.value)));
        recent.campaigns.keep(campaigns.into_iter().map(|(campaign_id, campaign)| (campaign_id, campaign.value)));
        (changed, recent)
    }
}

/// Those that are to be written like this.
fn written<K, T>(tracked: &BTreeMap<K, Tracked<T>>, write: Write) -> Vec<&T> {
    tracked.values().filter(|tracked| tracked.write == write).map(|tracked| &tracked.value).collect()
}

const LOAD_GRANTS: &str = concat!(
    "-- projection::load_grants\n select ",
    grant_columns!(),
    " from token_grant g where g.request_id in (select value->>0 from jsonb_each($1))"
);

const LOAD_CAMPAIGNS: &str = concat!(
    "-- projection::load_campaigns\n select ",
    campaign_columns!(),
    " from campaign c where c.campaign_id in (select value->>0 from jsonb_each($1))"
);

const REMEMBERED_WRONG: &str = "what is remembered is not what is stored";

/// Those of the rows that exist: from memory, else from the database. Builds for tests hold the one against the other.
async fn load<K, V>(
    connection: &mut AnyConnection,
    recent: &mut Kept<K, V>,
    wanted: BTreeSet<&K>,
    statement: &'static str,
    value: fn(&AnyRow) -> db::Result<V>,
) -> db::Result<BTreeMap<K, V>>
where
    V: Keyed<K> + PartialEq + Debug,
    K: Clone + Debug + Eq + Hash + Ord + Serialize,
{
    let (mut found, missing) = recent.take(wanted);
    if cfg!(debug_assertions) {
        let read = read(connection, statement, &found.keys().collect::<Vec<_>>(), value).await?;
        assert_eq!(found, read, "{REMEMBERED_WRONG}");
    }
    found.append(&mut read(connection, statement, &missing, value).await?);
    Ok(found)
}

async fn read<K, V>(
    connection: &mut AnyConnection,
    statement: &'static str,
    keys: &[&K],
    value: fn(&AnyRow) -> db::Result<V>,
) -> db::Result<BTreeMap<K, V>>
where
    V: Keyed<K>,
    K: Clone + Ord + Serialize,
{
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query(statement).bind(db::keys(keys)).fetch_all(connection).await?;
    rows.iter().map(|row| value(row).map(|value| (value.key().clone(), value))).collect()
}

/// What has a name.
trait Keyed<K> {
    fn key(&self) -> &K;
}

impl Keyed<RequestId> for Grant {
    fn key(&self) -> &RequestId {
        &self.request_id
    }
}

impl Keyed<CampaignId> for Campaign {
    fn key(&self) -> &CampaignId {
        &self.campaign_id
    }
}

/// The campaign of the grant that an entry makes.
fn campaign_of_new_grant(entry: &Entry) -> db::Result<Option<CampaignId>> {
    #[derive(serde::Deserialize)]
    struct Place {
        campaign_id: CampaignId,
    }
    if entry.stream != Stream::Grant || !matches!(entry.kind.as_str(), "TokenGrantRequested" | "requested") {
        return Ok(None);
    }
    let place: Place = corrupt("data", serde_json::from_str(entry.data.get()))?;
    Ok(Some(place.campaign_id))
}

/// The columns that [`campaign`] reads, from a table or alias `c`.
macro_rules! campaign_columns {
    () => {
        "c.campaign_id, c.spec, c.grants, c.completed, c.failed, c.requested_tokens, c.reserved, c.spent, c.users,
         c.gas_used, c.fee, c.mint_micros, c.last_activity, c.claimable,
         c.newest_claimable, c.created_at, c.updated_at"
    };
}
pub(super) use campaign_columns;

/// Reads a campaign; its settings do not name the listed users.
pub(super) fn campaign(row: &AnyRow) -> db::Result<Campaign> {
    let spec: String = row.try_get("spec")?;
    Ok(Campaign {
        campaign_id: db::parse(row, "campaign_id")?,
        spec: corrupt("spec", serde_json::from_str(&spec))?,
        tally: Tally {
            grants: unsigned(row, "grants")?,
            completed: unsigned(row, "completed")?,
            failed: unsigned(row, "failed")?,
            requested_tokens: unsigned(row, "requested_tokens")?,
            reserved: unsigned(row, "reserved")?,
            spent: unsigned(row, "spent")?,
            users: unsigned(row, "users")?,
            gas_used: unsigned(row, "gas_used")?,
            fee: db::parse(row, "fee")?,
            mint_micros: unsigned(row, "mint_micros")?,
            last_activity: row.try_get::<Option<i64>, _>("last_activity")?.map(shared::clock::from_micros),
            claimable: unsigned(row, "claimable")?,
            newest_claimable: row.try_get::<Option<i64>, _>("newest_claimable")?.map(i64::cast_unsigned),
        },
        created_at: db::time(row, "created_at")?,
        updated_at: db::time(row, "updated_at")?,
    })
}
