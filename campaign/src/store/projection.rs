//! The tables that people read, worked out from the ledger's events: grants, campaigns, and what is counted of them.
//!
//! What is loaded is changed in memory, by the domain's own functions, and written back in one statement for each table.
//! The same code keeps the tables up to date and [rebuilds](super::rebuild) them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{self, corrupt, unsigned};
use shared::fail_point;
use shared::id::{Actor, CampaignId, IdempotencyKey, RequestId, UserId, WalletAddress};
use shared::ledger::{Cause, Entry, Stream};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{grant, grant_columns};
use crate::domain::campaign::{Campaign, CampaignState, Tally};
use crate::domain::event::{CampaignEvent, GrantEvent, ServiceEvent};
use crate::domain::{Effect, Grant, Standing, State};
use crate::latency::Bucket;

/// The tables, each of which can be worked out again.
pub(super) const TABLES: [&str; 8] = [
    "token_grant",
    "idempotency_key",
    "campaign",
    "listed_user",
    "campaign_latency",
    "campaign_minute",
    "campaign_transaction",
    "kill_switch",
];

/// A part of the tables, in memory.
#[derive(Debug, Default)]
pub(super) struct Projection {
    grants: HashMap<RequestId, Tracked<Grant>>,
    campaigns: HashMap<CampaignId, Tracked<Campaign>>,
    lists: BTreeMap<CampaignId, BTreeSet<UserId>>,
    keys: Vec<(IdempotencyKey, RequestId)>,
    latencies: BTreeMap<(CampaignId, Bucket), u64>,
    minutes: BTreeMap<(CampaignId, i64), Minute>,
    transactions: BTreeMap<(String, CampaignId), Share>,
    kill_switch: Option<SwitchRow>,
}

/// What was loaded, and whether it is to be written back.
#[derive(Debug)]
struct Tracked<T> {
    value: T,
    is_changed: bool,
}

impl<T> Tracked<T> {
    fn loaded(value: T) -> Self {
        Self { value, is_changed: false }
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
        let missing: BTreeSet<_> = ids.iter().filter(|id| !self.grants.contains_key(**id)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(concat!(
            "-- projection::load_grants\n select ",
            grant_columns!(),
            " from token_grant g where g.request_id in (select value->>'id' from json_each($1))"
        ))
        .bind(db::rows(&missing.into_iter().map(|id| Id { id: id.as_str() }).collect::<Vec<_>>()))
        .fetch_all(&mut *connection)
        .await?;
        let mut campaigns = Vec::with_capacity(rows.len());
        for row in &rows {
            let grant = grant(row)?;
            campaigns.push(grant.request.campaign_id.clone());
            self.grants.insert(grant.request_id.clone(), Tracked::loaded(grant));
        }
        self.load_campaigns(connection, &campaigns.iter().collect::<Vec<_>>()).await
    }

    /// Loads those of the campaigns that exist.
    pub(super) async fn load_campaigns(
        &mut self,
        connection: &mut AnyConnection,
        ids: &[&CampaignId],
    ) -> db::Result<()> {
        let missing: BTreeSet<_> = ids.iter().filter(|id| !self.campaigns.contains_key(**id)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(concat!(
            "-- projection::load_campaigns\n select ",
            campaign_columns!(),
            " from campaign c where c.campaign_id in (select value->>'id' from json_each($1))"
        ))
        .bind(db::rows(&missing.into_iter().map(|id| Id { id: id.as_str() }).collect::<Vec<_>>()))
        .fetch_all(connection)
        .await?;
        for row in &rows {
            let campaign = campaign(row)?;
            self.campaigns.insert(campaign.campaign_id.clone(), Tracked::loaded(campaign));
        }
        Ok(())
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
                self.apply_grant(&request_id, &event, entry.at);
            }
            Stream::Campaign => {
                let event = corrupt("data", CampaignEvent::read(kind, version, data))?;
                self.apply_campaign(&corrupt("subject", entry.subject.parse())?, &event, entry.at);
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
    pub(super) fn apply_grant(&mut self, request_id: &RequestId, event: &GrantEvent, at: DateTime<Utc>) -> Effect {
        let Some(tracked) = self.grants.get_mut(request_id) else {
            let GrantEvent::Requested(requested) = event else { unreachable!("{request_id} is not loaded") };
            let grant = Grant::requested(request_id.clone(), requested, at);
            if let Some(key) = &requested.idempotency_key {
                self.keys.push((key.clone(), request_id.clone()));
            }
            self.count(None, &grant, event, at);
            self.grants.insert(request_id.clone(), Tracked { value: grant, is_changed: true });
            return Effect::Moved;
        };
        let before = tracked.value.clone();
        let effect = tracked.value.apply(event, at);
        if tracked.value != before {
            tracked.is_changed = true;
            let after = tracked.value.clone();
            self.count(Some(&before), &after, event, at);
        }
        if let GrantEvent::KeyAdded(added) = event {
            self.keys.push((added.idempotency_key.clone(), request_id.clone()));
        }
        effect
    }

    /// Applies what happened to a campaign that is loaded, or is made by it.
    pub(super) fn apply_campaign(&mut self, campaign_id: &CampaignId, event: &CampaignEvent, at: DateTime<Utc>) {
        let (CampaignEvent::Created(specified) | CampaignEvent::Changed(specified)) = event;
        let tracked = self
            .campaigns
            .entry(campaign_id.clone())
            .or_insert_with(|| Tracked::loaded(Campaign::new(campaign_id.clone(), specified.spec.clone(), at)));
        tracked.value.apply(event, at);
        tracked.is_changed = true;
        self.lists.insert(campaign_id.clone(), std::mem::take(&mut tracked.value.spec.listed_users));
    }

    /// Applies what happened to the service.
    pub(super) fn apply_service(&mut self, event: &ServiceEvent, cause: &Cause, at: DateTime<Utc>, sequence: u64) {
        let (engaged, switched) = match event {
            ServiceEvent::KillSwitchEngaged(switched) => (1, switched),
            ServiceEvent::KillSwitchReleased(switched) => (0, switched),
        };
        let (actor, reason) = (cause.actor.clone(), switched.reason.clone());
        self.kill_switch = Some(SwitchRow { engaged, actor, reason, changed_at: at.timestamp_micros(), sequence });
    }

    /// Counts what an event did to a grant.
    fn count(&mut self, before: Option<&Grant>, after: &Grant, event: &GrantEvent, at: DateTime<Utc>) {
        let campaign_id = &after.request.campaign_id;
        let campaign = self.campaigns.get_mut(campaign_id).expect("a grant's campaign is loaded with it");
        campaign.value.tally.see(before, after, event, at);
        campaign.is_changed = true;

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

    /// Writes everything back that changed. Returns the grants among it.
    pub(super) async fn save(self, connection: &mut AnyConnection) -> db::Result<Vec<Grant>> {
        let campaigns: Vec<_> = self
            .campaigns
            .into_values()
            .filter(|campaign| campaign.is_changed)
            .map(|campaign| campaign.value)
            .collect();
        save_campaigns(connection, &campaigns).await?;
        save_lists(connection, &self.lists).await?;
        let grants: Vec<_> =
            self.grants.into_values().filter(|grant| grant.is_changed).map(|grant| grant.value).collect();
        save_grants(connection, &grants).await?;
        save_keys(connection, &self.keys).await?;
        save_latencies(connection, self.latencies).await?;
        save_minutes(connection, self.minutes).await?;
        save_transactions(connection, self.transactions).await?;
        if let Some(row) = &self.kill_switch {
            save_switch(connection, row).await?;
        }
        Ok(grants)
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

/// One element of `json_each($1)` where a query needs identifiers alone.
#[derive(Debug, Serialize)]
struct Id<'a> {
    id: &'a str,
}

/// The columns that [`campaign`] reads, from a table or alias `c`.
macro_rules! campaign_columns {
    () => {
        "c.campaign_id, c.spec, c.grants, c.completed, c.failed, c.requested_tokens, c.reserved, c.spent, c.users,
         c.gas_used, c.fee, c.mint_micros, c.last_activity, c.created_at, c.updated_at"
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
        },
        created_at: db::time(row, "created_at")?,
        updated_at: db::time(row, "updated_at")?,
    })
}

#[derive(Debug, Serialize)]
struct CampaignRow<'a> {
    campaign_id: &'a CampaignId,
    spec: String,
    state: CampaignState,
    grants: u64,
    completed: u64,
    failed: u64,
    requested_tokens: u64,
    reserved: u64,
    spent: u64,
    users: u64,
    gas_used: u64,
    fee: String,
    mint_micros: u64,
    last_activity: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl<'a> CampaignRow<'a> {
    fn new(campaign: &'a Campaign) -> Self {
        let Campaign { campaign_id, spec, tally, created_at, updated_at } = campaign;
        Self {
            campaign_id,
            spec: serde_json::to_string(spec).expect("settings are a plain struct"),
            state: spec.state,
            grants: tally.grants,
            completed: tally.completed,
            failed: tally.failed,
            requested_tokens: tally.requested_tokens,
            reserved: tally.reserved,
            spent: tally.spent,
            users: tally.users,
            gas_used: tally.gas_used,
            fee: tally.fee.to_string(),
            mint_micros: tally.mint_micros,
            last_activity: tally.last_activity.map(|at| at.timestamp_micros()),
            created_at: created_at.timestamp_micros(),
            updated_at: updated_at.timestamp_micros(),
        }
    }
}

async fn save_campaigns(connection: &mut AnyConnection, campaigns: &[Campaign]) -> db::Result<()> {
    if campaigns.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = campaigns.iter().map(CampaignRow::new).collect();
    sqlx::query(
        "-- projection::save_campaigns
         insert into campaign (campaign_id, spec, state, grants, completed, failed, requested_tokens, reserved, spent, users,
                               gas_used, fee, mint_micros, last_activity, created_at, updated_at)
         select value->>'campaign_id', value->>'spec', value->>'state', cast(value->>'grants' as bigint),
                cast(value->>'completed' as bigint), cast(value->>'failed' as bigint),
                cast(value->>'requested_tokens' as bigint), cast(value->>'reserved' as bigint),
                cast(value->>'spent' as bigint), cast(value->>'users' as bigint), cast(value->>'gas_used' as bigint),
                value->>'fee', cast(value->>'mint_micros' as bigint), cast(value->>'last_activity' as bigint),
                cast(value->>'created_at' as bigint), cast(value->>'updated_at' as bigint)
         from json_each($1) where true
         on conflict (campaign_id) do update set
             spec = excluded.spec, state = excluded.state, grants = excluded.grants, completed = excluded.completed, failed = excluded.failed,
             requested_tokens = excluded.requested_tokens, reserved = excluded.reserved, spent = excluded.spent,
             users = excluded.users, gas_used = excluded.gas_used, fee = excluded.fee,
             mint_micros = excluded.mint_micros, last_activity = excluded.last_activity,
             updated_at = excluded.updated_at",
    )
    .bind(db::rows(&rows))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct ListedRow<'a> {
    campaign_id: &'a CampaignId,
    user_id: &'a UserId,
}

async fn save_lists(connection: &mut AnyConnection, lists: &BTreeMap<CampaignId, BTreeSet<UserId>>) -> db::Result<()> {
    for (campaign_id, users) in lists {
        sqlx::query("-- projection::forget_list\n delete from listed_user where campaign_id = $1")
            .bind(campaign_id.as_str())
            .execute(&mut *connection)
            .await?;
        let rows: Vec<_> = users.iter().map(|user_id| ListedRow { campaign_id, user_id }).collect();
        sqlx::query(
            "-- projection::save_list
             insert into listed_user (campaign_id, user_id)
             select value->>'campaign_id', value->>'user_id' from json_each($1)",
        )
        .bind(db::rows(&rows))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct GrantRow<'a> {
    request_id: &'a RequestId,
    grant_index: u64,
    user_id: &'a UserId,
    campaign_id: &'a CampaignId,
    user_grant_number: u64,
    wallet_address: Option<WalletAddress>,
    token_amount: u64,
    terms: String,
    token: Option<WalletAddress>,
    state: State,
    transaction_hash: Option<&'a str>,
    block_number: Option<u64>,
    error_code: Option<&'a str>,
    error_message: Option<&'a str>,
    retry_count: u32,
    round_began: u32,
    traceparent: Option<String>,
    requested_at: i64,
    updated_at: i64,
    completed_at: Option<i64>,
    progressed_at: Option<i64>,
    cancel_requested_at: Option<i64>,
    publish_again_at: Option<i64>,
    needs_attention_since: Option<i64>,
}

impl<'a> GrantRow<'a> {
    fn new(grant: &'a Grant) -> Self {
        let micros = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_micros());
        Self {
            request_id: &grant.request_id,
            grant_index: grant.grant_index,
            user_id: &grant.request.user_id,
            campaign_id: &grant.request.campaign_id,
            user_grant_number: grant.user_grant_number,
            wallet_address: grant.request.wallet_address,
            token_amount: grant.request.token_amount.whole_tokens(),
            terms: serde_json::to_string(&grant.terms).expect("terms are a plain struct"),
            token: grant.terms.token,
            state: grant.state,
            transaction_hash: grant.transaction_hash.as_deref(),
            block_number: grant.block_number,
            error_code: grant.error_code.as_deref(),
            error_message: grant.error_message.as_deref(),
            retry_count: grant.retry_count,
            round_began: grant.round_began,
            traceparent: grant.trace.map(|trace| trace.to_string()),
            requested_at: grant.requested_at.timestamp_micros(),
            updated_at: grant.updated_at.timestamp_micros(),
            completed_at: micros(grant.completed_at),
            progressed_at: micros(grant.progressed_at),
            cancel_requested_at: micros(grant.cancel_requested_at),
            publish_again_at: micros(grant.publish_again_at),
            needs_attention_since: micros(grant.needs_attention_since),
        }
    }
}

async fn save_grants(connection: &mut AnyConnection, grants: &[Grant]) -> db::Result<()> {
    if grants.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = grants.iter().map(GrantRow::new).collect();
    sqlx::query(
        "-- projection::save_grants
         insert into token_grant (request_id, grant_index, user_id, campaign_id, user_grant_number, wallet_address,
                                  token_amount, terms, token, state, transaction_hash, block_number, error_code,
                                  error_message, retry_count, round_began, traceparent, requested_at, updated_at,
                                  completed_at, progressed_at, cancel_requested_at, publish_again_at,
                                  needs_attention_since)
         select value->>'request_id', cast(value->>'grant_index' as bigint), value->>'user_id', value->>'campaign_id',
                cast(value->>'user_grant_number' as bigint), value->>'wallet_address',
                cast(value->>'token_amount' as bigint), value->>'terms', value->>'token', value->>'state',
                value->>'transaction_hash',
                cast(value->>'block_number' as bigint), value->>'error_code', value->>'error_message',
                cast(value->>'retry_count' as bigint), cast(value->>'round_began' as bigint), value->>'traceparent',
                cast(value->>'requested_at' as bigint), cast(value->>'updated_at' as bigint),
                cast(value->>'completed_at' as bigint), cast(value->>'progressed_at' as bigint),
                cast(value->>'cancel_requested_at' as bigint), cast(value->>'publish_again_at' as bigint),
                cast(value->>'needs_attention_since' as bigint)
         from json_each($1) where true
         on conflict (request_id) do update set
             state = excluded.state, transaction_hash = excluded.transaction_hash,
             block_number = excluded.block_number, error_code = excluded.error_code,
             error_message = excluded.error_message, retry_count = excluded.retry_count,
             round_began = excluded.round_began, updated_at = excluded.updated_at,
             completed_at = excluded.completed_at, progressed_at = excluded.progressed_at,
             cancel_requested_at = excluded.cancel_requested_at, publish_again_at = excluded.publish_again_at,
             needs_attention_since = excluded.needs_attention_since",
    )
    .bind(db::rows(&rows))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct KeyRow<'a> {
    idempotency_key: &'a IdempotencyKey,
    request_id: &'a RequestId,
}

async fn save_keys(connection: &mut AnyConnection, keys: &[(IdempotencyKey, RequestId)]) -> db::Result<()> {
    if keys.is_empty() || fail_point::switched("keys_forgotten") {
        return Ok(());
    }
    let rows: Vec<_> =
        keys.iter().map(|(idempotency_key, request_id)| KeyRow { idempotency_key, request_id }).collect();
    sqlx::query(
        "-- projection::save_keys
         insert into idempotency_key (idempotency_key, request_id)
         select value->>'idempotency_key', value->>'request_id' from json_each($1)",
    )
    .bind(db::rows(&rows))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct LatencyRow {
    campaign_id: CampaignId,
    bucket: u16,
    grants: u64,
}

async fn save_latencies(
    connection: &mut AnyConnection,
    latencies: BTreeMap<(CampaignId, Bucket), u64>,
) -> db::Result<()> {
    if latencies.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = latencies
        .into_iter()
        .map(|((campaign_id, bucket), grants)| LatencyRow { campaign_id, bucket: bucket.number(), grants })
        .collect();
    sqlx::query(
        "-- projection::save_latencies
         insert into campaign_latency (campaign_id, bucket, grants)
         select value->>'campaign_id', cast(value->>'bucket' as bigint), cast(value->>'grants' as bigint)
         from json_each($1) where true
         on conflict (campaign_id, bucket) do update set grants = campaign_latency.grants + excluded.grants",
    )
    .bind(db::rows(&rows))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct MinuteRow {
    campaign_id: CampaignId,
    minute: i64,
    requested: i64,
    completed: i64,
    failed: i64,
}

async fn save_minutes(connection: &mut AnyConnection, minutes: BTreeMap<(CampaignId, i64), Minute>) -> db::Result<()> {
    if minutes.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = minutes
        .into_iter()
        .map(|((campaign_id, minute), Minute { requested, completed, failed })| MinuteRow {
            campaign_id,
            minute,
            requested,
            completed,
            failed,
        })
        .collect();
    sqlx::query(
        "-- projection::save_minutes
         insert into campaign_minute (campaign_id, minute, requested, completed, failed)
         select value->>'campaign_id', cast(value->>'minute' as bigint), cast(value->>'requested' as bigint),
                cast(value->>'completed' as bigint), cast(value->>'failed' as bigint)
         from json_each($1) where true
         on conflict (campaign_id, minute) do update set
             requested = campaign_minute.requested + excluded.requested,
             completed = campaign_minute.completed + excluded.completed,
             failed = campaign_minute.failed + excluded.failed",
    )
    .bind(db::rows(&rows))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct TransactionRow {
    transaction_hash: String,
    campaign_id: CampaignId,
    grants: i64,
    completed: i64,
    tokens: i64,
    gas_used: i64,
    gas_price: Option<u64>,
    block_number: Option<u64>,
    first_seen_at: Option<i64>,
    last_seen_at: Option<i64>,
}

#[derive(Debug, Serialize)]
struct GoneRow {
    transaction_hash: String,
    campaign_id: CampaignId,
}

async fn save_transactions(
    connection: &mut AnyConnection,
    transactions: BTreeMap<(String, CampaignId), Share>,
) -> db::Result<()> {
    if transactions.is_empty() {
        return Ok(());
    }
    let is_gone = |share: &Share| matches!(share.block, Some(Block::Gone));
    let gone: Vec<_> = transactions
        .iter()
        .filter(|(_, share)| is_gone(share))
        .map(|((transaction_hash, campaign_id), _)| GoneRow {
            transaction_hash: transaction_hash.clone(),
            campaign_id: campaign_id.clone(),
        })
        .collect();
    let rows: Vec<_> = transactions
        .into_iter()
        .map(|((transaction_hash, campaign_id), share)| TransactionRow {
            transaction_hash,
            campaign_id,
            grants: share.grants,
            completed: share.completed,
            tokens: share.tokens,
            gas_used: share.gas_used,
            gas_price: share.gas_price,
            block_number: match share.block {
                Some(Block::Number(number)) => Some(number),
                Some(Block::Gone) | None => None,
            },
            first_seen_at: share.first_seen_at.or(share.last_seen_at).map(|at| at.timestamp_micros()),
            last_seen_at: share.last_seen_at.map(|at| at.timestamp_micros()),
        })
        .collect();
    sqlx::query(
        "-- projection::save_transactions
         insert into campaign_transaction (transaction_hash, campaign_id, grants, completed, tokens, gas_used,
                                           gas_price, block_number, first_seen_at, last_seen_at)
         select value->>'transaction_hash', value->>'campaign_id', cast(value->>'grants' as bigint),
                cast(value->>'completed' as bigint), cast(value->>'tokens' as bigint),
                cast(value->>'gas_used' as bigint), cast(value->>'gas_price' as bigint),
                cast(value->>'block_number' as bigint), cast(value->>'first_seen_at' as bigint),
                cast(value->>'last_seen_at' as bigint)
         from json_each($1) where true
         on conflict (transaction_hash, campaign_id) do update set
             grants = campaign_transaction.grants + excluded.grants,
             completed = campaign_transaction.completed + excluded.completed,
             tokens = campaign_transaction.tokens + excluded.tokens,
             gas_used = campaign_transaction.gas_used + excluded.gas_used,
             gas_price = coalesce(excluded.gas_price, campaign_transaction.gas_price),
             block_number = coalesce(excluded.block_number, campaign_transaction.block_number),
             last_seen_at = excluded.last_seen_at",
    )
    .bind(db::rows(&rows))
    .execute(&mut *connection)
    .await?;
    if !gone.is_empty() {
        sqlx::query(
            "-- projection::forget_blocks
             update campaign_transaction set block_number = null from json_each($1)
             where campaign_transaction.transaction_hash = value->>'transaction_hash'
               and campaign_transaction.campaign_id = value->>'campaign_id'",
        )
        .bind(db::rows(&gone))
        .execute(connection)
        .await?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct SwitchRow {
    engaged: u8,
    actor: Actor,
    reason: Option<String>,
    changed_at: i64,
    sequence: u64,
}

async fn save_switch(connection: &mut AnyConnection, row: &SwitchRow) -> db::Result<()> {
    sqlx::query(
        "-- projection::save_switch
         insert into kill_switch (singleton, engaged, actor, reason, changed_at, sequence)
         select 1, cast(value->>'engaged' as bigint), value->>'actor', value->>'reason',
                cast(value->>'changed_at' as bigint), cast(value->>'sequence' as bigint)
         from json_each($1) where true
         on conflict (singleton) do update set
             engaged = excluded.engaged, actor = excluded.actor, reason = excluded.reason,
             changed_at = excluded.changed_at, sequence = excluded.sequence",
    )
    .bind(db::rows(&[row]))
    .execute(connection)
    .await?;
    Ok(())
}
