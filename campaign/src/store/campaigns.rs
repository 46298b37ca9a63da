//! Campaigns, and the switch that stops them all.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::event::{KillSwitchChanged, RequestEvent};
use shared::id::{Actor, CampaignId, UserId};
use shared::ledger::Cause;
use shared::outbox::Pending;
use sqlx::{AnyConnection, Row};
use utoipa::ToSchema;

use super::Store;
use super::projection::{campaign, campaign_columns};
use crate::domain::campaign::{Campaign, CampaignState, Spec};
use crate::domain::event::{CampaignEvent, ServiceEvent, Specified, Switched};

/// What became of a wish to change a campaign's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The campaign was made.
    Created(Campaign),
    /// It has other settings now.
    Changed(Campaign),
    /// It has these settings already.
    Same(Campaign),
}

/// Whether all payments are stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KillSwitch {
    /// Whether they are.
    pub engaged: bool,
    /// Who changed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub changed_by: Option<Actor>,
    /// Why, in their words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Gives a campaign other settings, or makes it. `decide` is told of the campaign as it is, and says what its
    /// settings are to be; nothing is changed where it refuses.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn change_campaign<R>(
        &self,
        campaign_id: &CampaignId,
        cause: Cause,
        reason: Option<String>,
        now: DateTime<Utc>,
        decide: impl FnOnce(Option<&Campaign>) -> Result<Spec, R>,
    ) -> db::Result<Result<Change, R>> {
        let mut ledger = self.ledger("change_campaign", now).await?;
        ledger.projection.load_campaigns(&mut ledger.tx, &[campaign_id]).await?;
        let mut before = ledger.projection.campaign(campaign_id).cloned();
        if let Some(campaign) = &mut before {
            campaign.spec.listed_users = listed_users(&mut ledger.tx, campaign_id).await?;
        }
        let spec = match decide(before.as_ref()) {
            Ok(spec) => spec,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let specified = Specified { spec: spec.clone(), reason };
        let (event, is_new) = match before {
            Some(campaign) if campaign.spec == spec => return Ok(Ok(Change::Same(campaign))),
            Some(_) => (CampaignEvent::Changed(specified), false),
            None => (CampaignEvent::Created(specified), true),
        };
        ledger.record_campaign(campaign_id, &event, cause);
        let recorded = ledger.projection.campaign(campaign_id).cloned();
        let campaign = Campaign { spec, ..recorded.unwrap_or_else(|| unreachable!("it was recorded above")) };
        ledger.commit().await?;
        Ok(Ok(if is_new { Change::Created(campaign) } else { Change::Changed(campaign) }))
    }

    /// One campaign, with its listed users.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn campaign(&self, campaign_id: &CampaignId) -> db::Result<Option<Campaign>> {
        let mut connection = self.database.reader().acquire().await?;
        let row = sqlx::query(concat!(
            "-- store::campaign\n select ",
            campaign_columns!(),
            " from campaign c where c.campaign_id = $1"
        ))
        .bind(campaign_id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut campaign = campaign(&row)?;
        campaign.spec.listed_users = listed_users(&mut connection, campaign_id).await?;
        Ok(Some(campaign))
    }

    /// Up to `limit` campaigns in the order of their ids, without their listed users; only those after `after`, and in
    /// `state`, if one is given.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        state: Option<CampaignState>,
        limit: u16,
    ) -> db::Result<Vec<Campaign>> {
        let rows = sqlx::query(concat!(
            "-- store::campaigns\n select ",
            campaign_columns!(),
            " from campaign c where c.campaign_id > $1 and ($2 = '' or c.state = $2)
               order by c.campaign_id limit $3"
        ))
        .bind(after.map_or("", CampaignId::as_str))
        .bind(state.map_or("", CampaignState::as_str))
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(campaign).collect()
    }

    /// Stops all payments, or lets them go on; the blockchain service is told. Nothing happens where they are already.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn switch(
        &self,
        engaged: bool,
        cause: Cause,
        reason: Option<String>,
        now: DateTime<Utc>,
    ) -> db::Result<KillSwitch> {
        let mut ledger = self.ledger("switch", now).await?;
        let before = kill_switch(&mut ledger.tx).await?;
        if before.engaged == engaged {
            return Ok(before);
        }
        let switched = Switched { reason: reason.clone() };
        let event = if engaged {
            ServiceEvent::KillSwitchEngaged(switched)
        } else {
            ServiceEvent::KillSwitchReleased(switched)
        };
        let (changed_by, changed_at) = (Some(cause.actor.clone()), Some(ledger.at()));
        let number = ledger.record_service(&event, cause);
        let message = KillSwitchChanged { engaged, number, timestamp: ledger.at() };
        ledger.send(Pending::request(&RequestEvent::KillSwitchChanged(message), None, now));
        ledger.commit().await?;
        Ok(KillSwitch { engaged, changed_by, reason, changed_at })
    }

    /// Whether all payments are stopped.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn kill_switch(&self) -> db::Result<KillSwitch> {
        kill_switch(&mut *self.database.reader().acquire().await?).await
    }
}

async fn listed_users(connection: &mut AnyConnection, campaign_id: &CampaignId) -> db::Result<BTreeSet<UserId>> {
    let rows = sqlx::query("-- store::listed_users\n select user_id from listed_user where campaign_id = $1")
        .bind(campaign_id.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| db::parse(row, "user_id")).collect()
}

async fn kill_switch(connection: &mut AnyConnection) -> db::Result<KillSwitch> {
    let row = sqlx::query("-- store::kill_switch\n select engaged, actor, reason, changed_at from kill_switch")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(KillSwitch { engaged: false, changed_by: None, reason: None, changed_at: None });
    };
    Ok(KillSwitch {
        engaged: row.try_get::<i64, _>("engaged")? == 1,
        changed_by: Some(db::parse(&row, "actor")?),
        reason: row.try_get("reason")?,
        changed_at: Some(db::time(&row, "changed_at")?),
    })
}
