//! Accepting a batch of requests: decisions, grants and messages in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::db::{self, Tx, corrupt};
use shared::event::RequestEvent;
use shared::id::{CampaignId, IdempotencyKey, UserId};
use shared::ledger::Cause;
use shared::outbox::Pending;
use sqlx::Row as _;

use super::ledger::Ledger;
use super::{Store, grant, grant_columns};
use crate::domain::admission::{Answer, Arrival, Decision, Known};
use crate::domain::campaign::{Campaign, Participant, Refusal, Spec};
use crate::domain::event::{CampaignEvent, GrantEvent, KeyAdded, Requested, Specified, actor};

/// How requests are accepted.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long to wait for a result until the request is published again.
    pub republish_after: Duration,
    /// Whether the first use of a campaign makes it.
    pub auto_create: bool,
}

impl Store {
    /// Decides all the arrivals and commits what is new, each decision at its arrival's place.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn accept(&self, arrivals: &[Arrival], now: DateTime<Utc>, policy: Policy) -> db::Result<Vec<Decision>> {
        let mut ledger = self.ledger("accept", now).await?;
        let decisions = self.decide(&mut ledger, arrivals, now, policy).await?;
        ledger.commit().await?;
        Ok(decisions)
    }

    /// Decides all the arrivals, and records what is new.
    pub(super) async fn decide(
        &self,
        ledger: &mut Ledger,
        arrivals: &[Arrival],
        now: DateTime<Utc>,
        policy: Policy,
    ) -> db::Result<Vec<Decision>> {
        let campaigns: Vec<_> = arrivals.iter().map(|arrival| &arrival.campaign_id).collect();
        ledger.projection.load_campaigns(&mut ledger.tx, &campaigns).await?;
        let mut known = known(ledger, arrivals).await?;

        let mut decisions = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let cause = Cause { trace_id: Some(arrival.trace.trace_id()), ..Cause::by(actor::client()) };
            let made_by_use = || policy.auto_create.then(|| of_first_use(&arrival.campaign_id, now));
            let existing = ledger.projection.campaign(&arrival.campaign_id);
            let is_new = existing.is_none();
            let campaign = existing.cloned().or_else(made_by_use);
            let decision = match (known.decide(arrival, campaign.as_ref(), now), campaign) {
                (Answer::Decided(decision), _) => *decision,
                (Answer::Grant(_, _), None) => Decision::Refused(Refusal::UnknownCampaign),
                (Answer::Grant(request, user_grant_number), Some(campaign)) => {
                    let terms = campaign.spec.terms(arrival.expires_at);
                    if is_new {
                        let event = CampaignEvent::Created(Specified { spec: campaign.spec, reason: None });
                        ledger.record_campaign(&arrival.campaign_id, &event, cause.clone());
                    }
                    let requested = Requested {
                        grant_index: ledger.next_grant_index(),
                        request,
                        terms,
                        user_grant_number,
                        idempotency_key: arrival.key.clone(),
                        traceparent: Some(arrival.trace.to_string()),
                        publish_again_at: now + policy.republish_after,
                    };
                    let grant = ledger.grant(requested, cause.clone());
                    let message = RequestEvent::Requested(grant.to_message(self.issuer));
                    ledger.send(Pending::request(&message, grant.trace, now));
                    Decision::New(grant)
                }
            };
            let is_new_key = known.remember(arrival, &decision);
            if let (true, Decision::Repeat(grant), Some(key)) = (is_new_key, &decision, &arrival.key) {
                ledger.projection.hold(grant);
                let event = GrantEvent::KeyAdded(KeyAdded { idempotency_key: key.clone() });
                ledger.record(&grant.request_id, &event, &cause);
            }
            decisions.push(decision);
        }
        Ok(decisions)
    }
}

fn of_first_use(campaign_id: &CampaignId, now: DateTime<Utc>) -> Campaign {
    Campaign::new(campaign_id.clone(), Spec::of_first_use(campaign_id), now)
}

db::row! {
    /// What identifies an arrival.
    #[derive(Debug, Clone, Copy)]
    struct Identity<'a> {
        place: usize => bigint,
        idempotency_key: Option<&'a IdempotencyKey> => text,
        campaign_id: &'a CampaignId => text,
        user_id: &'a UserId => text,
    }
}

/// What the arrivals depend on.
async fn known(ledger: &mut Ledger, arrivals: &[Arrival]) -> db::Result<Known> {
    let identities: Vec<_> = arrivals
        .iter()
        .enumerate()
        .map(|(place, arrival)| Identity {
            place,
            idempotency_key: arrival.key.as_ref(),
            campaign_id: &arrival.campaign_id,
            user_id: &arrival.user_id,
        })
        .collect();
    let is_listing = |arrival: &Arrival| {
        ledger.projection.campaign(&arrival.campaign_id).is_some_and(|campaign| campaign.spec.has_list())
    };
    let any_lists = arrivals.iter().any(is_listing);
    let tx = &mut ledger.tx;
    let mut known = Known { stopped: ledger.projection.is_stopped(tx).await?, ..Known::default() };
    if any_lists {
        let listed = sqlx::query(db::sql!(
            "-- store::known_listed\n select l.campaign_id, l.user_id from (",
            Identity::SELECT,
            ") arrival join listed_user l on l.campaign_id = arrival.campaign_id and l.user_id = arrival.user_id"
        ))
        .bind(db::rows(&identities))
        .fetch_all(&mut **tx)
        .await?;
        for row in &listed {
            known.listed.insert((db::parse(row, "campaign_id")?, db::parse(row, "user_id")?));
        }
    }
    // Most often nobody was here before, which is found out for less than who it was. Not by `exists`, for which PostgreSQL
    // may read whole tables.
    let returning = sqlx::query(db::sql!(
        "-- store::known_places\n select arrival.place from (",
        Identity::SELECT,
        ") arrival
           where (select t.request_id from token_grant t
                  where t.campaign_id = arrival.campaign_id and t.user_id = arrival.user_id
                  order by t.user_grant_number desc limit 1) is not null
              or (select k.request_id from idempotency_key k
                  where k.idempotency_key = arrival.idempotency_key limit 1) is not null"
    ))
    .bind(db::rows(&identities))
    .fetch_all(&mut **tx)
    .await?;
    let returning = returning
        .iter()
        .map(|row| Ok(identities[corrupt("place", usize::try_from(row.try_get::<i64, _>("place")?))?]))
        .collect::<db::Result<Vec<_>>>()?;
    if !returning.is_empty() {
        know_grants(tx, &returning, &mut known).await?;
    }
    Ok(known)
}

/// Finds the grants of users and keys that were here before.
async fn know_grants(tx: &mut Tx, returning: &[Identity<'_>], known: &mut Known) -> db::Result<()> {
    let identities = db::rows(returning);
    let participants = sqlx::query(db::sql!(
        "-- store::known_participants
         select p.user_grants, p.standing, ",
        grant_columns!(),
        " from (select t.campaign_id, t.user_id, max(t.user_grant_number) as user_grants,
                       sum(case when t.state in ('failed', 'expired', 'cancelled') then 0 else 1 end) as standing,
                       max(case when t.state in ('failed', 'expired', 'cancelled') then -1
                                else t.user_grant_number end) as newest,
                       max(t.user_grant_number) as last
                from (select distinct campaign_id, user_id from (",
        Identity::SELECT,
        ") arrival) v
                join token_grant t on t.campaign_id = v.campaign_id and t.user_id = v.user_id
                group by t.campaign_id, t.user_id) p
           join token_grant g on g.campaign_id = p.campaign_id and g.user_id = p.user_id
             and g.user_grant_number = case when p.newest < 0 then p.last else p.newest end"
    ))
    .bind(&identities)
    .fetch_all(&mut **tx)
    .await?;
    for row in &participants {
        let latest = grant(row)?;
        let nature = (latest.request.campaign_id.clone(), latest.request.user_id.clone());
        let (grants, standing) = (db::unsigned(row, "user_grants")?, db::unsigned(row, "standing")?);
        known.participants.insert(nature, Participant { grants, standing, latest: Some(latest) });
    }
    let by_key = sqlx::query(db::sql!(
        "-- store::known_by_key\n select k.idempotency_key, ",
        grant_columns!(),
        " from (",
        Identity::SELECT,
        ") arrival join idempotency_key k on k.idempotency_key = arrival.idempotency_key
           join token_grant g on g.request_id = k.request_id"
    ))
    .bind(&identities)
    .fetch_all(&mut **tx)
    .await?;
    for row in &by_key {
        known.by_key.insert(db::parse(row, "idempotency_key")?, grant(row)?);
    }
    Ok(())
}
