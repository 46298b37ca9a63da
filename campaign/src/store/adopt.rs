//! What was known before there was a ledger, as its first entries.
//!
//! Migration 4 set it aside. It is adopted once, in version 1 of the events, a batch in one transaction, before anything
//! else is written.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::db::{self, Database};
use shared::id::{CampaignId, RequestId};
use shared::ledger::{Cause, Stream};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Store;
use super::ledger::Ledger;
use crate::domain::campaign::Spec;
use crate::domain::event::actor;

/// The most old rows that one transaction adopts.
const BATCH: i64 = 2000;

impl Store {
    pub(super) async fn adopt_what_was_before_the_ledger(&self) -> db::Result<()> {
        let mut entries = 0;
        for (find, remove, read) in [
            (
                "-- adopt::events\n select * from old_event order by id limit $1",
                "-- adopt::forget_events\n delete from old_event where id in (select value->>0 from jsonb_each($1))",
                old_event as fn(&AnyRow) -> db::Result<Old>,
            ),
            (
                "-- adopt::keys
                 select idempotency_key as id, request_id from old_key order by idempotency_key limit $1",
                "-- adopt::forget_keys
                 delete from old_key where idempotency_key in (select value->>0 from jsonb_each($1))",
                old_key,
            ),
        ] {
            while is_any_left(&self.database, find).await? {
                let mut ledger = self.ledger("adopt", DateTime::UNIX_EPOCH).await?;
                let rows = sqlx::query(find).bind(BATCH).fetch_all(&mut *ledger.tx).await?;
                let old = rows.iter().map(read).collect::<db::Result<Vec<_>>>()?;
                adopt(&mut ledger, &old).await?;
                let ids = db::keys(old.iter().map(|old| &old.id));
                sqlx::query(remove).bind(ids).execute(&mut *ledger.tx).await?;
                ledger.commit().await?;
                entries += old.len();
            }
        }
        if entries > 0 {
            tracing::info!(entries, "what was known before there was a ledger is in it now");
        }
        Ok(())
    }
}

async fn is_any_left(database: &Database, find: &'static str) -> db::Result<bool> {
    Ok(sqlx::query(find).bind(1_i64).fetch_optional(database.reader()).await?.is_some())
}

/// A line of the history, or a key, of before.
struct Old {
    id: String,
    request_id: RequestId,
    kind: String,
    data: Value,
    at: DateTime<Utc>,
}

fn old_event(row: &AnyRow) -> db::Result<Old> {
    let kind: String = row.try_get("kind")?;
    let mut data: Value = db::corrupt("data", serde_json::from_str(&row.try_get::<String, _>("data")?))?;
    let at = db::time(row, "at")?;
    // What stood in the grant's row alone.
    let publish_again_at = row.try_get::<Option<i64>, _>("publish_again_at")?.map(shared::clock::from_micros);
    match kind.as_str() {
        "requested" => {
            data["grant_index"] = json!(row.try_get::<i64, _>("grant_index")?);
            data["traceparent"] = json!(row.try_get::<Option<String>, _>("traceparent")?);
            data["publish_again_at"] = json!(publish_again_at.unwrap_or(at));
        }
        "published_again" => data["publish_again_at"] = json!(publish_again_at),
        _ => {}
    }
    Ok(Old { id: row.try_get("id")?, request_id: db::parse(row, "request_id")?, kind, data, at })
}

fn old_key(row: &AnyRow) -> db::Result<Old> {
    let id: String = row.try_get("id")?;
    let data = json!({ "idempotency_key": id });
    let request_id = db::parse(row, "request_id")?;
    Ok(Old { id, request_id, kind: "key_added".to_owned(), data, at: DateTime::UNIX_EPOCH })
}

async fn adopt(ledger: &mut Ledger, old: &[Old]) -> db::Result<()> {
    ledger.load_grants(&old.iter().map(|old| &old.request_id).collect::<Vec<_>>()).await?;
    let campaigns: Vec<CampaignId> =
        old.iter().filter_map(|old| old.data["campaign_id"].as_str()?.parse().ok()).collect();
    ledger.projection.load_campaigns(&mut ledger.tx, &campaigns.iter().collect::<Vec<_>>()).await?;
    for Old { request_id, kind, data, at, .. } in old {
        if let Some(campaign_id) = data["campaign_id"].as_str().filter(|_| kind == "requested") {
            let campaign_id: CampaignId = db::corrupt("campaign_id", campaign_id.parse())?;
            if ledger.projection.campaign(&campaign_id).is_none() {
                let spec = json!(Spec::of_first_use(&campaign_id));
                ledger.enter_old(Stream::Campaign, campaign_id.as_str(), "campaign_created", &spec, *at)?;
            }
        }
        ledger.enter_old(Stream::Grant, request_id.as_str(), kind, data, *at)?;
    }
    Ok(())
}

impl Ledger {
    /// Adds an entry in the form of version 1, and applies it.
    fn enter_old(
        &mut self,
        stream: Stream,
        subject: &str,
        kind: &str,
        data: &Value,
        at: DateTime<Utc>,
    ) -> db::Result<()> {
        self.advance_to(at);
        let entry = self.enter_as(1, stream, subject, kind, data.to_string(), Cause::by(actor::campaign())).clone();
        self.projection.apply(&entry)?;
        if let Some(grant_index) = data["grant_index"].as_u64() {
            self.advance_numbering(grant_index + 1);
        }
        Ok(())
    }
}
