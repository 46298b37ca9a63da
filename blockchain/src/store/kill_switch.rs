//! Who has stopped all payments: the campaign service, by a message, or whoever looks after this one.

use chrono::{DateTime, Utc};
use shared::db;
use sqlx::Row;

use super::Store;

/// Who may stop payments. Each lets go of what it has stopped itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchSource {
    /// The campaign service, by a message.
    Campaign,
    /// Whoever looks after this service.
    Operator,
}

impl SwitchSource {
    fn as_str(self) -> &'static str {
        match self {
            Self::Campaign => "campaign",
            Self::Operator => "operator",
        }
    }
}

/// Who has stopped all payments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KillSwitch {
    /// Since when, by a message of the campaign service.
    pub by_campaign_since: Option<DateTime<Utc>>,
    /// Since when, by whoever looks after this service.
    pub by_operator_since: Option<DateTime<Utc>>,
}

impl KillSwitch {
    /// Whether anybody has.
    #[must_use]
    pub fn is_engaged(self) -> bool {
        self.by_campaign_since.is_some() || self.by_operator_since.is_some()
    }
}

impl Store {
    /// Whether payments are stopped, and by whom.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn kill_switch(&self) -> db::Result<KillSwitch> {
        let rows = sqlx::query("-- store::kill_switch\n select source, changed_at from kill_switch where engaged = 1")
            .fetch_all(self.database.reader())
            .await?;
        let mut switch = KillSwitch::default();
        for row in &rows {
            let since = Some(db::time(row, "changed_at")?);
            match row.try_get::<&str, _>("source")? {
                "campaign" => switch.by_campaign_since = since,
                _ => switch.by_operator_since = since,
            }
        }
        Ok(switch)
    }

    /// Stops payments in the name of `source`, or lets go. What is not newer than what is known of it is ignored: with
    /// `number`, a lower or equal one; without, nothing.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn switch(
        &self,
        source: SwitchSource,
        engaged: bool,
        number: Option<u64>,
        now: DateTime<Utc>,
    ) -> db::Result<()> {
        let mut tx = self.database.begin("switch").await?;
        sqlx::query(
            "-- store::switch
             insert into kill_switch (source, engaged, number, changed_at) values ($1, $2, $3, $4)
             on conflict (source) do update set
                 engaged = excluded.engaged, number = excluded.number, changed_at = excluded.changed_at
             where kill_switch.number < excluded.number or excluded.number < 0",
        )
        .bind(source.as_str())
        .bind(i64::from(engaged))
        .bind(number.map_or(-1, |number| i64::try_from(number).unwrap_or(i64::MAX)))
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}
