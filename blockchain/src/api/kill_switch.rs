//! `/kill-switch`: stops all payments of this service at once, also where no campaign service and no broker answers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::clock::Clock;
use shared::http::fields::Fields;
use shared::http::{Error, MAX_BODY_BYTES};
use tokio::sync::Notify;

use crate::store::{KillSwitch, Store, SwitchSource};

/// What the switch works on.
#[derive(Debug, Clone)]
pub struct Switchboard {
    /// Where it is remembered.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// Notified when payments may go on.
    pub queue_ready: Arc<Notify>,
}

pub(super) fn routes(switchboard: Switchboard) -> Router {
    Router::new().route("/kill-switch", axum::routing::get(get).put(put)).with_state(switchboard)
}

/// Who has stopped payments, and since when.
#[derive(Serialize)]
struct Answer {
    engaged: bool,
    by_campaign_since: Option<DateTime<Utc>>,
    by_operator_since: Option<DateTime<Utc>>,
}

impl From<KillSwitch> for Answer {
    fn from(switch: KillSwitch) -> Self {
        let KillSwitch { by_campaign_since, by_operator_since } = switch;
        Self { engaged: switch.is_engaged(), by_campaign_since, by_operator_since }
    }
}

async fn get(State(switchboard): State<Switchboard>) -> Result<Json<Answer>, Error> {
    Ok(Json(switchboard.store.kill_switch().await?.into()))
}

async fn put(State(switchboard): State<Switchboard>, request: Request) -> Result<impl IntoResponse, Error> {
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    let engaged = fields.required_flag("engaged");
    fields.finish()?;
    let Switchboard { store, clock, queue_ready } = &switchboard;
    store.switch(SwitchSource::Operator, engaged, None, clock.now()).await?;
    tracing::warn!(engaged, "somebody has used the kill switch");
    queue_ready.notify_one();
    Ok(Json(Answer::from(store.kill_switch().await?)))
}
