//! Writing the tables back: one statement for each.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::fail_point;
use shared::id::{Actor, CampaignId, IdempotencyKey, RequestId, UserId, WalletAddress};
use sqlx::AnyConnection;

use super::{Block, Minute, Share};
use crate::domain::campaign::{Campaign, CampaignState};
use crate::domain::{Grant, State};
use crate::latency::Bucket;

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
    newest_claimable: Option<u64>,
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
            newest_claimable: tally.newest_claimable,
            created_at: created_at.timestamp_micros(),
            updated_at: updated_at.timestamp_micros(),
        }
    }
}

pub(super) async fn save_campaigns(connection: &mut AnyConnection, campaigns: &[Campaign]) -> db::Result<()> {
    if campaigns.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = campaigns.iter().map(CampaignRow::new).collect();
    sqlx::query(
        "-- projection::save_campaigns
         insert into campaign (campaign_id, spec, state, grants, completed, failed, requested_tokens, reserved, spent, users,
                               gas_used, fee, mint_micros, last_activity, newest_claimable, created_at, updated_at)
         select value->>'campaign_id', value->>'spec', value->>'state', cast(value->>'grants' as bigint),
                cast(value->>'completed' as bigint), cast(value->>'failed' as bigint),
                cast(value->>'requested_tokens' as bigint), cast(value->>'reserved' as bigint),
                cast(value->>'spent' as bigint), cast(value->>'users' as bigint), cast(value->>'gas_used' as bigint),
                value->>'fee', cast(value->>'mint_micros' as bigint), cast(value->>'last_activity' as bigint),
                cast(value->>'newest_claimable' as bigint), cast(value->>'created_at' as bigint),
                cast(value->>'updated_at' as bigint)
         from json_each($1) where true
         on conflict (campaign_id) do update set
             spec = excluded.spec, state = excluded.state, grants = excluded.grants, completed = excluded.completed, failed = excluded.failed,
             requested_tokens = excluded.requested_tokens, reserved = excluded.reserved, spent = excluded.spent,
             users = excluded.users, gas_used = excluded.gas_used, fee = excluded.fee,
             mint_micros = excluded.mint_micros, last_activity = excluded.last_activity,
             newest_claimable = excluded.newest_claimable, updated_at = excluded.updated_at",
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

pub(super) async fn save_lists(
    connection: &mut AnyConnection,
    lists: &BTreeMap<CampaignId, BTreeSet<UserId>>,
) -> db::Result<()> {
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

pub(super) async fn save_grants(connection: &mut AnyConnection, grants: &[Grant]) -> db::Result<()> {
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

pub(super) async fn save_keys(connection: &mut AnyConnection, keys: &[(IdempotencyKey, RequestId)]) -> db::Result<()> {
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

pub(super) async fn save_latencies(
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

pub(super) async fn save_minutes(
    connection: &mut AnyConnection,
    minutes: BTreeMap<(CampaignId, i64), Minute>,
) -> db::Result<()> {
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

pub(super) async fn save_transactions(
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
pub(super) struct SwitchRow {
    pub(super) engaged: u8,
    pub(super) actor: Actor,
    pub(super) reason: Option<String>,
    pub(super) changed_at: i64,
    pub(super) sequence: u64,
}

pub(super) async fn save_switch(connection: &mut AnyConnection, row: &SwitchRow) -> db::Result<()> {
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
