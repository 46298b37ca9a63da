//! What happened, as the ledger tells it: of a grant, of a campaign, of everything; and what stood at an earlier time.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared::db;
use shared::id::{CampaignId, RequestId, UserId};
use shared::ledger::{Entry, Stream};
use sqlx::AnyConnection;

use super::ledger::{entry, entry_columns};
use super::queries::{Page, Totals};
use super::{Store, grant, grant_columns};
use crate::domain::Grant;
use crate::domain::event::GrantEvent;

impl Store {
    /// Up to `limit` entries of the ledger, in their order; only those numbered above `after`.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn entries_after(&self, after: u64, limit: u16) -> db::Result<Vec<Entry>> {
        entries_after(&mut *self.database.reader().acquire().await?, after, limit.into()).await
    }

    /// What happened to a grant or a campaign, in order: up to `limit` entries numbered above `after`.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn entries_of(&self, stream: Stream, subject: &str, after: u64, limit: u16) -> db::Result<Vec<Entry>> {
        let rows = sqlx::query(concat!(
            "-- store::entries_of\n select ",
            entry_columns!(),
            " from event e where e.stream = $1 and e.subject = $2 and e.sequence > $3 order by e.sequence limit $4"
        ))
        .bind(stream.as_str())
        .bind(subject)
        .bind(after.cast_signed())
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(entry).collect()
    }

    /// A grant as it stood at this time, the last moment of it included.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn grant_at(&self, request_id: &RequestId, at: DateTime<Utc>) -> db::Result<Option<Grant>> {
        let rows = sqlx::query(concat!(
            "-- store::grant_at\n select ",
            entry_columns!(),
            " from event e where e.stream = 'grant' and e.subject = $1 and e.at <= $2 order by e.sequence"
        ))
        .bind(request_id.as_str())
        .bind(at.timestamp_micros())
        .fetch_all(self.database.reader())
        .await?;
        let entries = rows.iter().map(entry).collect::<db::Result<Vec<_>>>()?;
        Ok(fold(&entries)?.into_values().next())
    }

    /// A user's grants as they stood at this time, newest first, and their tokens.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn status_at(
        &self,
        user: &UserId,
        campaign: Option<&CampaignId>,
        page: Page,
        at: DateTime<Utc>,
    ) -> db::Result<(Vec<Grant>, Totals)> {
        /// How many grants are folded at a time.
        const PART: u16 = 500;
        let mut totals = Totals::default();
        let mut listed = Vec::new();
        let mut before = None;
        loop {
            let part = Page { limit: PART, before };
            let rows = sqlx::query(concat!(
                "-- store::granted_by\n select ",
                grant_columns!(),
                " from token_grant g where g.user_id = $1 and ($2 = '' or g.campaign_id = $2) and g.grant_index < $3
                   and g.requested_at <= $4 order by g.grant_index desc limit $5"
            ))
            .bind(user.as_str())
            .bind(campaign.map_or("", CampaignId::as_str))
            .bind(part.below())
            .bind(at.timestamp_micros())
            .bind(i64::from(PART))
            .fetch_all(self.database.reader())
            .await?;
            let now = rows.iter().map(grant).collect::<db::Result<Vec<_>>>()?;
            let then = self.grants_at(&now, at).await?;
            for grant in &then {
                totals.add(grant.state, 1, grant.request.token_amount.whole_tokens());
            }
            before = then.last().map(|grant| grant.grant_index);
            let is_whole = then.len() == usize::from(PART);
            let wanted = then.into_iter().filter(|grant| page.before.is_none_or(|before| grant.grant_index < before));
            let room = usize::from(page.limit) - listed.len();
            listed.extend(wanted.take(room));
            if !is_whole {
                return Ok((listed, totals));
            }
        }
    }

    /// These grants as they stood at this time, in their order.
    async fn grants_at(&self, grants: &[Grant], at: DateTime<Utc>) -> db::Result<Vec<Grant>> {
        // In a join SQLite reads the whole ledger first.
        let rows = sqlx::query(concat!(
            "-- store::grants_at\n select ",
            entry_columns!(),
            " from event e where e.stream = 'grant' and e.subject in (select value->>0 from jsonb_each($1)) and e.at <= $2
               order by e.sequence"
        ))
        .bind(db::keys(grants.iter().map(|grant| &grant.request_id)))
        .bind(at.timestamp_micros())
        .fetch_all(self.database.reader())
        .await?;
        let mut then = fold(&rows.iter().map(entry).collect::<db::Result<Vec<_>>>()?)?;
        Ok(grants.iter().filter_map(|grant| then.remove(&grant.request_id)).collect())
    }
}

/// Up to `limit` entries, in their order.
pub(super) async fn entries_after(connection: &mut AnyConnection, after: u64, limit: i64) -> db::Result<Vec<Entry>> {
    let rows = sqlx::query(concat!(
        "-- store::entries_after\n select ",
        entry_columns!(),
        " from event e where e.sequence > $1 order by e.sequence limit $2"
    ))
    .bind(after.cast_signed())
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(entry).collect()
}

/// The grants that these entries tell of, from the first of each on.
fn fold(entries: &[Entry]) -> db::Result<BTreeMap<RequestId, Grant>> {
    let mut grants: BTreeMap<RequestId, Grant> = BTreeMap::new();
    for entry in entries {
        let event = db::corrupt("data", GrantEvent::read(&entry.kind, entry.schema_version, entry.data.get()))?;
        let request_id: RequestId = db::corrupt("subject", entry.subject.parse())?;
        if let Some(grant) = grants.get_mut(&request_id) {
            grant.apply(&event, entry.at);
        } else if let GrantEvent::Requested(requested) = &event {
            grants.insert(request_id.clone(), Grant::requested(request_id, requested, entry.at));
        }
    }
    Ok(grants)
}
