//! What was written once is read for ever: a ledger of each version of the events, folded to what it came to when that
//! version was new.
//!
//! A ledger that is here is never changed. A version that is added brings one of its own, with every kind of event in it,
//! and so do kinds that are added to a version.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};

use campaign::domain::campaign::Campaign;
use campaign::domain::event::{CampaignEvent, GrantEvent, ServiceEvent, VERSION};
use campaign::domain::{Effect, Grant};
use serde_json::{Value, json};
use shared::id::{CampaignId, RequestId};
use shared::ledger::{Entry, Seal, Stream};

/// The oldest first.
const LEDGERS: [(u32, &str); 3] =
    [(1, include_str!("v1.ndjson")), (2, include_str!("v2.ndjson")), (2, include_str!("v2_claims.ndjson"))];

/// All entries of this version of the program.
fn newest() -> Vec<Entry> {
    let of_version = LEDGERS.iter().filter(|(version, _)| *version == VERSION);
    of_version.flat_map(|(_, ledger)| entries(ledger)).collect()
}

/// The kinds that the events of older versions had.
const KINDS_OF_VERSION_1: [&str; 8] = [
    "campaign_created",
    "requested",
    "key_added",
    "submitted",
    "completed",
    "failed",
    "published_again",
    "needs_attention",
];

fn entries(ledger: &str) -> Vec<Entry> {
    ledger.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All that a ledger comes to.
fn fold(ledger: &str) -> Value {
    let mut grants: BTreeMap<RequestId, Grant> = BTreeMap::new();
    let mut campaigns: BTreeMap<CampaignId, Campaign> = BTreeMap::new();
    let (mut keys, mut roots, mut service) = (Vec::new(), Vec::new(), Vec::new());
    for Entry { at, stream, subject, kind, schema_version, data, sequence, .. } in entries(ledger) {
        match stream {
            Stream::Grant => {
                let event = GrantEvent::read(&kind, schema_version, data.get()).unwrap();
                if let GrantEvent::KeyAdded(added) = &event {
                    keys.push(json!([added.idempotency_key, subject]));
                }
                let request_id: RequestId = subject.parse().unwrap();
                let before = grants.get(&request_id).cloned();
                let (after, effect) = match (&before, &event) {
                    (Some(before), _) => {
                        let mut after = before.clone();
                        let effect = after.apply(&event, at);
                        (after, effect)
                    }
                    (None, GrantEvent::Requested(requested)) => {
                        keys.extend(requested.idempotency_key.as_ref().map(|key| json!([key, subject])));
                        (Grant::requested(request_id.clone(), requested, at), Effect::Moved)
                    }
                    (None, _) => panic!("entry {sequence}: {subject} was never requested"),
                };
                assert_ne!(effect, Effect::Repeat, "entry {sequence} says what was known");
                if before.as_ref() != Some(&after) {
                    let campaign = campaigns.get_mut(&after.request.campaign_id).unwrap();
                    campaign.tally.see(before.as_ref(), &after, &event, at, sequence);
                }
                grants.insert(request_id, after);
            }
            Stream::Campaign => {
                let event = CampaignEvent::read(&kind, schema_version, data.get()).unwrap();
                let campaign_id: CampaignId = subject.parse().unwrap();
                match &event {
                    CampaignEvent::Created(specified) | CampaignEvent::Changed(specified) => campaigns
                        .entry(campaign_id.clone())
                        .or_insert_with(|| Campaign::new(campaign_id, specified.spec.clone(), at))
                        .apply(&event, at),
                    CampaignEvent::ClaimRootMade(_) | CampaignEvent::ClaimRootPublished(_) => {
                        roots.push(format!("{event:?}"));
                    }
                }
            }
            Stream::Service => {
                let event = ServiceEvent::read(&kind, schema_version, data.get()).unwrap();
                service.push(format!("{event:?}"));
            }
        }
    }
    let grants: Vec<_> = grants.values().map(show_grant).collect();
    let campaigns: Vec<_> = campaigns.values().map(show_campaign).collect();
    json!({ "campaigns": campaigns, "grants": grants, "keys": keys, "roots": roots, "service": service })
}

/// A grant as it is shown, and what is not shown of it.
fn show_grant(grant: &Grant) -> Value {
    let mut shown = json!(grant);
    shown["grant_index"] = json!(grant.grant_index);
    shown["user_grant_number"] = json!(grant.user_grant_number);
    shown["round_began"] = json!(grant.round_began);
    shown["publish_again_at"] = json!(grant.publish_again_at);
    shown["progressed_at"] = json!(grant.progressed_at);
    shown["traceparent"] = json!(grant.trace.map(|trace| trace.to_string()));
    shown
}

fn show_campaign(campaign: &Campaign) -> Value {
    let Campaign { campaign_id, spec, tally, created_at, updated_at } = campaign;
    json!({
        "campaign_id": campaign_id, "spec": spec, "tally": format!("{tally:?}"), "created_at": created_at,
        "updated_at": updated_at,
    })
}

#[test]
fn a_ledger_of_version_1_comes_to_what_it_always_did() {
    insta::assert_json_snapshot!(fold(LEDGERS[0].1));
}

#[test]
fn a_ledger_of_version_2_comes_to_what_it_always_did() {
    insta::assert_json_snapshot!(fold(LEDGERS[1].1));
}

#[test]
fn a_ledger_of_version_2_with_claims_comes_to_what_it_always_did() {
    insta::assert_json_snapshot!(fold(LEDGERS[2].1));
}

#[test]
fn the_newest_ledgers_have_every_kind_of_event() {
    let there: BTreeSet<_> = newest().into_iter().map(|entry| (entry.stream, entry.kind)).collect();
    let known = [
        (Stream::Grant, GrantEvent::KINDS),
        (Stream::Campaign, CampaignEvent::KINDS),
        (Stream::Service, ServiceEvent::KINDS),
    ];
    let known =
        known.into_iter().flat_map(|(stream, kinds)| kinds.iter().map(move |kind| (stream, (*kind).to_owned())));
    assert_eq!(there, known.collect());

    let of_version_1: BTreeSet<_> = entries(LEDGERS[0].1).into_iter().map(|entry| entry.kind).collect();
    assert_eq!(of_version_1, KINDS_OF_VERSION_1.map(str::to_owned).into());
}

#[test]
fn the_newest_events_are_written_as_they_are_read() {
    for Entry { stream, kind, schema_version, data, .. } in newest() {
        let data = data.get();
        let (written, kind_written) = match stream {
            Stream::Grant => {
                let event = GrantEvent::read(&kind, schema_version, data).unwrap();
                (event.data(), event.kind())
            }
            Stream::Campaign => {
                let event = CampaignEvent::read(&kind, schema_version, data).unwrap();
                (event.data(), event.kind())
            }
            Stream::Service => {
                let event = ServiceEvent::read(&kind, schema_version, data).unwrap();
                (event.data(), event.kind())
            }
        };
        assert_eq!((written.as_str(), kind_written), (data, kind.as_str()));
    }
}

#[test]
fn the_seals_of_every_version_fit() {
    for (version, ledger) in LEDGERS {
        let mut seal = Seal::NONE;
        for (entry, number) in entries(ledger).iter().zip(1..) {
            assert_eq!((entry.schema_version, entry.sequence), (version, number));
            assert_eq!(entry.seal, entry.seal_after(seal), "entry {number} of version {version}");
            seal = entry.seal;
        }
    }
}

#[test]
fn what_no_version_knows_is_refused() {
    for (kind, version, data) in [
        ("Completed", VERSION, "{}"),
        ("Completed", VERSION, "[]"),
        ("Completed", VERSION, "no JSON"),
        ("completed", VERSION, "{}"),
        ("Published", 1, r#"{"retry_count": 0}"#),
        ("Published", 0, r#"{"retry_count": 0}"#),
        ("Published", VERSION + 1, r#"{"retry_count": 0}"#),
        ("CampaignCreated", VERSION, r#"{"name": "n", "amount": 1}"#),
    ] {
        assert!(GrantEvent::read(kind, version, data).is_err(), "{kind} of version {version}: {data}");
    }
}
