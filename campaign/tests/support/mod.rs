//! The store in a database of a test's own, what arrives there, and what is kept of it.

use std::time::Duration;

use campaign::domain::GrantRequest;
use campaign::domain::admission::Arrival;
use campaign::store::{Policy, Store};
use shared::outbox;
use shared::telemetry::TraceParent;
use testkit::Place;

/// How tests accept requests.
pub(crate) const POLICY: Policy = Policy { republish_after: Duration::from_mins(1), auto_create: true };

/// Opens the store, as one more process would.
pub(crate) async fn open(place: &Place) -> Store {
    Store::open(&place.url().into()).await.unwrap()
}

/// What a studio asks for, where nothing else matters.
pub(crate) fn request(user: &str, campaign: &str, tokens: i64) -> GrantRequest {
    GrantRequest {
        user_id: user.parse().unwrap(),
        campaign_id: campaign.parse().unwrap(),
        wallet_address: None,
        token_amount: tokens.try_into().unwrap(),
    }
}

/// The same as it arrives, under a key or none.
pub(crate) fn arrival(request: GrantRequest, key: Option<&str>) -> Arrival {
    let GrantRequest { user_id, campaign_id, wallet_address, token_amount } = request;
    Arrival {
        user_id,
        campaign_id,
        wallet_address,
        token_amount: Some(token_amount),
        expires_at: None,
        key: key.map(|key| key.parse().unwrap()),
        trace: TraceParent::new(),
    }
}

/// How many grants there are, entries of them, keys, and messages that wait: what an accepted request adds to.
pub(crate) async fn row_counts(store: &Store) -> [i64; 4] {
    let count = async |query: &'static str| -> i64 {
        sqlx::query_scalar(query).fetch_one(store.database().reader()).await.unwrap()
    };
    [
        count("select count(*) from token_grant").await,
        count("select count(*) from event where stream = 'grant'").await,
        count("select count(*) from idempotency_key").await,
        outbox::waiting(store.database(), i64::MAX).await.unwrap().len().try_into().unwrap(),
    ]
}
