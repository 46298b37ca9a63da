//! Writing the tables back: one statement for each.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use shared::db::{self, Writes};
use shared::fail_point;
use shared::id::{Actor, CampaignId, IdempotencyKey, RequestId, UserId, WalletAddress};

use super::{Block, Minute, Share};
use crate::domain::campaign::{Campaign, CampaignState};
use crate::domain::{Grant, State};
use crate::latency::Bucket;

db::row! {
    #[derive(Debug)]
    struct CampaignRow<'a> {
        campaign_id: &'a CampaignId => text,
        spec: String => text,
        state: CampaignState => text,
        grants: u64 => bigint,
        completed: u64 => bigint,
        failed: u64 => bigint,
        requested_tokens: u64 => bigint,
        reserved: u64 => bigint,
        spent: u64 => bigint,
        users: u64 => bigint,
        gas_used: u64 => bigint,
        fee: String => text,
        mint_micros: u64 => bigint,
        last_activity: Option<i64> => bigint,
        claimable: u64 => bigint,
        newest_claimable: Option<u64> => bigint,
        created_at: i64 => bigint,
        updated_at: i64 => bigint,
    }
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
            claimable: tally.claimable,
            newest_claimable: tally.newest_claimable,
            created_at: created_at.timestamp_micros(),
            updated_at: updated_at.timestamp_micros(),
        }
    }
}

pub(super) fn save_campaigns(writes: &mut Writes, campaigns: &[&Campaign]) {
    let rows: Vec<_> = campaigns.iter().map(|campaign| CampaignRow::new(campaign)).collect();
    writes.add(
        db::sql!(
            "-- projection::save_campaigns\n insert into campaign ",
            CampaignRow::VALUES,
            " where true
             on conflict (campaign_id) do update set
                 spec = excluded.spec, state = excluded.state, grants = excluded.grants,
                 completed = excluded.completed, failed = excluded.failed,
                 requested_tokens = excluded.requested_tokens, reserved = excluded.reserved, spent = excluded.spent,
                 users = excluded.users, gas_used = excluded.gas_used, fee = excluded.fee,
                 mint_micros = excluded.mint_micros, last_activity = excluded.last_activity,
                 claimable = excluded.claimable, newest_claimable = excluded.newest_claimable, updated_at = excluded.updated_at"
        ),
        &rows,
    );
}

db::row! {
    #[derive(Debug)]
    struct ListedRow<'a> {
        campaign_id: &'a CampaignId => text,
        user_id: &'a UserId => text,
    }
}

pub(super) fn save_lists(writes: &mut Writes, lists: &BTreeMap<CampaignId, BTreeSet<UserId>>) {
    let campaigns: Vec<_> = lists.keys().map(|campaign_id| [campaign_id]).collect();
    writes.change(
        "-- projection::forget_lists
         delete from listed_user where campaign_id in (select value->>0 from jsonb_each($1))",
        &campaigns,
    );
    let rows: Vec<_> = lists
        .iter()
        .flat_map(|(campaign_id, users)| users.iter().map(move |user_id| ListedRow { campaign_id, user_id }))
        .collect();
    writes.add(db::sql!("-- projection::save_lists\n insert into listed_user ", ListedRow::VALUES), &rows);
}

db::row! {
    #[derive(Debug)]
    struct GrantRow<'a> {
        request_id: &'a RequestId => text,
        grant_index: u64 => bigint,
        user_id: &'a UserId => text,
        campaign_id: &'a CampaignId => text,
        user_grant_number: u64 => bigint,
        wallet_address: Option<WalletAddress> => text,
        token_amount: u64 => bigint,
        terms: String => text,
        token: Option<WalletAddress> => text,
        state: State => text,
        transaction_hash: Option<&'a str> => text,
        block_number: Option<u64> => bigint,
        error_code: Option<&'a str> => text,
        error_message: Option<&'a str> => text,
        retry_count: u32 => bigint,
        round_began: u32 => bigint,
        traceparent: Option<String> => text,
        requested_at: i64 => bigint,
        updated_at: i64 => bigint,
        completed_at: Option<i64> => bigint,
        progressed_at: Option<i64> => bigint,
        cancel_requested_at: Option<i64> => bigint,
        publish_again_at: Option<i64> => bigint,
        needs_attention_since: Option<i64> => bigint,
    }
}

fn micros(at: Option<DateTime<Utc>>) -> Option<i64> {
    at.map(|at| at.timestamp_micros())
}

impl<'a> GrantRow<'a> {
    fn new(grant: &'a Grant) -> Self {
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

/// Adds grants that there were not.
pub(super) fn insert_grants(writes: &mut Writes, grants: &[&Grant]) {
    let rows: Vec<_> = grants.iter().map(|grant| GrantRow::new(grant)).collect();
    writes.add(db::sql!("-- projection::insert_grants\n insert into token_grant ", GrantRow::VALUES), &rows);
}

db::row! {
    /// What may change of a grant.
    #[derive(Debug)]
    struct ChangedGrantRow<'a> {
        request_id: &'a RequestId => text,
        state: State => text,
        transaction_hash: Option<&'a str> => text,
        block_number: Option<u64> => bigint,
        error_code: Option<&'a str> => text,
        error_message: Option<&'a str> => text,
        retry_count: u32 => bigint,
        round_began: u32 => bigint,
        updated_at: i64 => bigint,
        completed_at: Option<i64> => bigint,
        progressed_at: Option<i64> => bigint,
        cancel_requested_at: Option<i64> => bigint,
        publish_again_at: Option<i64> => bigint,
        needs_attention_since: Option<i64> => bigint,
    }
}

impl<'a> ChangedGrantRow<'a> {
    fn new(grant: &'a Grant) -> Self {
        Self {
            request_id: &grant.request_id,
            state: grant.state,
            transaction_hash: grant.transaction_hash.as_deref(),
            block_number: grant.block_number,
            error_code: grant.error_code.as_deref(),
            error_message: grant.error_message.as_deref(),
            retry_count: grant.retry_count,
            round_began: grant.round_began,
            updated_at: grant.updated_at.timestamp_micros(),
            completed_at: micros(grant.completed_at),
            progressed_at: micros(grant.progressed_at),
            cancel_requested_at: micros(grant.cancel_requested_at),
            publish_again_at: micros(grant.publish_again_at),
            needs_attention_since: micros(grant.needs_attention_since),
        }
    }
}

/// Changes grants that there are, as far as a grant may change.
pub(super) fn update_grants(writes: &mut Writes, grants: &[&Grant]) {
    let rows: Vec<_> = grants.iter().map(|grant| ChangedGrantRow::new(grant)).collect();
    writes.change(
        db::sql!(
            "-- projection::update_grants
         update token_grant set
             state = changed.state, transaction_hash = changed.transaction_hash, block_number = changed.block_number,
             error_code = changed.error_code, error_message = changed.error_message,
             retry_count = changed.retry_count, round_began = changed.round_began, updated_at = changed.updated_at,
             completed_at = changed.completed_at, progressed_at = changed.progressed_at,
             cancel_requested_at = changed.cancel_requested_at, publish_again_at = changed.publish_again_at,
             needs_attention_since = changed.needs_attention_since
         from (",
            ChangedGrantRow::SELECT,
            ") changed where token_grant.request_id = changed.request_id"
        ),
        &rows,
    );
}

db::row! {
    #[derive(Debug)]
    struct KeyRow<'a> {
        idempotency_key: &'a IdempotencyKey => text,
        request_id: &'a RequestId => text,
    }
}

pub(super) fn save_keys(writes: &mut Writes, keys: &[(IdempotencyKey, RequestId)]) {
    if keys.is_empty() || fail_point::switched("keys_forgotten") {
        return;
    }
    let rows: Vec<_> =
        keys.iter().map(|(idempotency_key, request_id)| KeyRow { idempotency_key, request_id }).collect();
    writes.add(db::sql!("-- projection::save_keys\n insert into idempotency_key ", KeyRow::VALUES), &rows);
}

db::row! {
    #[derive(Debug)]
    struct LatencyRow<'a> {
        campaign_id: &'a CampaignId => text,
        bucket: u16 => bigint,
        grants: u64 => bigint,
    }
}

pub(super) fn save_latencies(writes: &mut Writes, latencies: &BTreeMap<(CampaignId, Bucket), u64>) {
    let rows: Vec<_> = latencies
        .iter()
        .map(|((campaign_id, bucket), &grants)| LatencyRow { campaign_id, bucket: bucket.number(), grants })
        .collect();
    writes.add(
        db::sql!(
            "-- projection::save_latencies\n insert into campaign_latency ",
            LatencyRow::VALUES,
            " where true
             on conflict (campaign_id, bucket) do update set grants = campaign_latency.grants + excluded.grants"
        ),
        &rows,
    );
}

db::row! {
    #[derive(Debug)]
    struct MinuteRow<'a> {
        campaign_id: &'a CampaignId => text,
        minute: i64 => bigint,
        requested: i64 => bigint,
        completed: i64 => bigint,
        failed: i64 => bigint,
    }
}

pub(super) fn save_minutes(writes: &mut Writes, minutes: &BTreeMap<(CampaignId, i64), Minute>) {
    let rows: Vec<_> = minutes
        .iter()
        .map(|(&(ref campaign_id, minute), &Minute { requested, completed, failed })| MinuteRow {
            campaign_id,
            minute,
            requested,
            completed,
            failed,
        })
        .collect();
    writes.add(
        db::sql!(
            "-- projection::save_minutes\n insert into campaign_minute ",
            MinuteRow::VALUES,
            " where true
             on conflict (campaign_id, minute) do update set
                 requested = campaign_minute.requested + excluded.requested,
                 completed = campaign_minute.completed + excluded.completed,
                 failed = campaign_minute.failed + excluded.failed"
        ),
        &rows,
    );
}

db::row! {
    #[derive(Debug)]
    struct TransactionRow<'a> {
        transaction_hash: &'a str => text,
        campaign_id: &'a CampaignId => text,
        grants: i64 => bigint,
        completed: i64 => bigint,
        tokens: i64 => bigint,
        gas_used: i64 => bigint,
        gas_price: Option<u64> => bigint,
        block_number: Option<u64> => bigint,
        first_seen_at: Option<i64> => bigint,
        last_seen_at: Option<i64> => bigint,
    }
}

pub(super) fn save_transactions(writes: &mut Writes, transactions: &BTreeMap<(String, CampaignId), Share>) {
    forget_blocks(writes, transactions);
    let rows: Vec<_> = transactions
        .iter()
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
    writes.add(
        db::sql!(
            "-- projection::save_transactions\n insert into campaign_transaction ",
            TransactionRow::VALUES,
            " where true
             on conflict (transaction_hash, campaign_id) do update set
                 grants = campaign_transaction.grants + excluded.grants,
                 completed = campaign_transaction.completed + excluded.completed,
                 tokens = campaign_transaction.tokens + excluded.tokens,
                 gas_used = campaign_transaction.gas_used + excluded.gas_used,
                 gas_price = coalesce(excluded.gas_price, campaign_transaction.gas_price),
                 block_number = coalesce(excluded.block_number, campaign_transaction.block_number),
                 last_seen_at = excluded.last_seen_at"
        ),
        &rows,
    );
}

db::row! {
    #[derive(Debug)]
    struct GoneRow<'a> {
        transaction_hash: &'a str => text,
        campaign_id: &'a CampaignId => text,
    }
}

/// Forgets the block of transactions that are in none any more. One that is not there yet is added without a block.
fn forget_blocks(writes: &mut Writes, transactions: &BTreeMap<(String, CampaignId), Share>) {
    let gone: Vec<_> = transactions
        .iter()
        .filter(|(_, share)| matches!(share.block, Some(Block::Gone)))
        .map(|((transaction_hash, campaign_id), _)| GoneRow { transaction_hash, campaign_id })
        .collect();
    writes.change(
        db::sql!(
            "-- projection::forget_blocks\n update campaign_transaction set block_number = null from (",
            GoneRow::SELECT,
            ") gone where campaign_transaction.transaction_hash = gone.transaction_hash
                      and campaign_transaction.campaign_id = gone.campaign_id"
        ),
        &gone,
    );
}

db::row! {
    #[derive(Debug)]
    pub(super) struct SwitchRow {
        pub(super) engaged: u8 => bigint,
        pub(super) actor: Actor => text,
        pub(super) reason: Option<String> => text,
        pub(super) changed_at: i64 => bigint,
        pub(super) sequence: u64 => bigint,
    }
}

pub(super) fn save_switch(writes: &mut Writes, row: Option<&SwitchRow>) {
    writes.add(
        db::sql!(
            "-- projection::save_switch\n insert into kill_switch (singleton, ",
            SwitchRow::COLUMNS,
            ") select 1, ",
            SwitchRow::COLUMNS,
            " from (",
            SwitchRow::SELECT,
            ") switch where true
             on conflict (singleton) do update set
                 engaged = excluded.engaged, actor = excluded.actor, reason = excluded.reason,
                 changed_at = excluded.changed_at, sequence = excluded.sequence"
        ),
        row.as_slice(),
    );
}
