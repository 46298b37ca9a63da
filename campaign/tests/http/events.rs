//! The ledger as it is shown: in order, page by page or as a file, and sealed so that a changed byte is noticed.

use serde::Deserialize;
use shared::ledger::{Entry, Seal};
use support::{arrival, request};

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    everything_that_happens_is_an_entry,
    entries_come_page_by_page,
    anybody_can_work_the_seals_out_and_notices_a_changed_byte,
    a_file_has_all_entries_over_many_pages,
    a_file_of_one_grant_or_campaign_has_its_entries_alone,
    a_table_of_entries_is_safe_to_open,
    questions_that_cannot_be_read_are_refused,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Entry>,
}

/// The number of the first entry whose seal does not fit.
fn broken_seal(entries: &[Entry]) -> Option<u64> {
    let mut seal = Seal::NONE;
    entries.iter().find_map(|entry| {
        let fits = entry.seal == entry.seal_after(std::mem::replace(&mut seal, entry.seal));
        (!fits).then_some(entry.sequence)
    })
}

/// A little of everything.
async fn live(service: &Service) {
    service.campaign("summer", json!({"changed_by": "carol", "reason": "\"új\" \\ évad"})).await;
    let alice = service.send(with_key(post("user_id=alice&campaign_id=summer"), b"order-1")).await;
    let alice = service.stored(alice.body["request_id"].as_str().unwrap()).await;
    service.advance(1);
    let bob = service.grant("user_id=bob&campaign_id=first-use").await;
    service.send(with_key(post("user_id=bob&campaign_id=first-use"), b"order-2")).await;
    service.apply(&[started(&[&alice, &bob], 1), submitted(&[&alice], 1, 2), confirmed(&[&alice], 1, 7, 3)]).await;
    service.advance(1);
    service.apply(&[reverted(&[&alice], 1, 4), completed(&alice, 1)]).await;
    service.delete(&format!("/grants/{}", bob.request_id)).await;
    service.apply(&[failed(&bob, "cancelled")]).await;
    service.put("/kill-switch", json!({"engaged": true})).await;
}

const KINDS: [&str; 14] = [
    "CampaignCreated",
    "TokenGrantRequested",
    "CampaignCreated",
    "TokenGrantRequested",
    "KeyAdded",
    "Started",
    "Started",
    "BlockchainTxSubmitted",
    "Confirmed",
    "Reverted",
    "Completed",
    "CancelRequested",
    "Cancelled",
    "KillSwitchEngaged",
];

async fn everything_that_happens_is_an_entry(service: Service) {
    assert_eq!(service.get("/events").await.body, json!({"events": []}));
    live(&service).await;
    let events = service.get("/events").await.body;
    assert_eq!((each(&events["events"], "kind"), events.get("next_after")), (KINDS.map(Value::from).into(), None));
    assert_eq!(each(&events["events"], "sequence"), (1..=14).map(Value::from).collect::<Vec<_>>());
    assert!(each(&events["events"], "schema_version").iter().all(|version| *version == 2));
    let first_use = &events["events"][2];
    assert_eq!((&first_use["subject"], &first_use["cause"]["actor"]), (&json!("first-use"), &json!("client")));
    let confirmed = &events["events"][8];
    assert_eq!(
        confirmed["data"],
        json!({
            "transaction_hash": hash(1), "block_number": 7, "block_hash": hash(7), "processed_at": "2023-11-14T22:13:23Z",
        })
    );
    assert_eq!(confirmed["cause"], json!({"actor": "blockchain", "message_id": "7"}));
    assert_eq!(confirmed["at"], "2023-11-14T22:13:21Z", "by the clock of this service");
}

async fn entries_come_page_by_page(service: Service) {
    live(&service).await;
    let (mut after, mut kinds) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("/events?limit=4{after}")).await.body;
        let part = each(&page["events"], "kind");
        assert!(!part.is_empty() && part.len() <= 4, "{page}");
        kinds.extend(part);
        let Some(next) = page["next_after"].as_u64() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(kinds, KINDS);
    let exact = service.get("/events?limit=14").await.body;
    assert_eq!((exact["events"].as_array().unwrap().len(), exact.get("next_after")), (14, None));
    let beyond = service.get(&format!("/events?after={}", u64::MAX)).await.body;
    assert_eq!(beyond, json!({"events": []}));

    let alice = service.get("/status?user_id=alice").await.body["grants"][0]["request_id"].clone();
    let path = format!("/grants/{}/events", alice.as_str().unwrap());
    let first = service.get(&format!("{path}?limit=2")).await.body;
    assert_eq!(each(&first["events"], "kind"), ["TokenGrantRequested", "Started"]);
    let rest = service.get(&format!("{path}?after={}", first["next_after"])).await.body;
    assert_eq!(each(&rest["events"], "kind"), ["BlockchainTxSubmitted", "Confirmed", "Reverted", "Completed"]);
    assert_eq!((&rest["events"][0]["subject"], rest.get("next_after")), (&alice, None));
}

async fn anybody_can_work_the_seals_out_and_notices_a_changed_byte(service: Service) {
    live(&service).await;
    let answer = service.get("/events").await;
    let read = |text: &str| serde_json::from_str::<Page>(text).unwrap().events;
    assert_eq!((read(&answer.text).len(), broken_seal(&read(&answer.text))), (14, None));
    for (from, to, sequence) in [
        ("\"carol\"", "\"karol\"", 1),
        ("évad", "ével", 1),
        ("order-1", "order-2", 2),
        ("\"first-use\",\"kind\"", "\"second-use\",\"kind\"", 3),
        ("\"block_number\":7", "\"block_number\":8", 9),
        ("22:13:22Z\",\"stream\"", "22:13:22.000001Z\",\"stream\"", 10),
        ("CancelRequested", "Published", 12),
        ("KillSwitchEngaged\",\"schema_version\":2", "KillSwitchEngaged\",\"schema_version\":1", 14),
    ] {
        assert!(answer.text.contains(from), "{from}");
        assert_eq!(broken_seal(&read(&answer.text.replacen(from, to, 1))), Some(sequence), "{from}");
    }
    // What is taken out, or put in another place, is noticed too.
    let mut entries = read(&answer.text);
    entries.remove(5);
    assert_eq!(broken_seal(&entries), Some(7));
    entries.swap(1, 2);
    assert_eq!(broken_seal(&entries), Some(3));
}

/// Accepts so many grants, together.
async fn grants(service: &Service, count: usize) {
    let arrivals: Vec<_> =
        (0..count).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    service.store.accept(&arrivals, service.clock.now(), POLICY).await.unwrap();
}

async fn a_file_has_all_entries_over_many_pages(service: Service) {
    grants(&service, 1100).await;
    let file = service.get("/events?format=ndjson").await;
    assert_eq!(
        (file.status, &file.headers[header::CONTENT_TYPE]),
        (StatusCode::OK, &"application/x-ndjson".parse().unwrap())
    );
    let entries: Vec<Entry> = file.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), (1..=1101).collect::<Vec<_>>());
    assert_eq!(broken_seal(&entries), None, "a file says to the letter what was sealed");

    let table = csv_rows(&service.get("/events?format=csv").await);
    let header = ["sequence", "at", "stream", "subject", "kind", "schema_version", "cause", "data", "seal"];
    assert_eq!((table[0].as_slice(), table.len()), (header.map(str::to_owned).as_slice(), 1102));
    for (row, entry) in table[1..].iter().zip(&entries) {
        assert_eq!(row[0], entry.sequence.to_string());
        assert_eq!(row[3..5], [entry.subject.as_str(), &entry.kind]);
        assert_eq!(row[7..], [entry.data.get(), &entry.seal.to_string()]);
    }
    // Whoever has the first part asks for the rest; a page's limit is not that of a file.
    let rest = service.get("/events?format=ndjson&after=1000&limit=1").await;
    assert_eq!(rest.text.lines().count(), 101);
    let none = service.get("/events?format=ndjson&after=1101").await;
    assert_eq!((none.status, none.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(csv_rows(&service.get("/events?format=csv&after=1101").await), [header]);
}

async fn a_file_of_one_grant_or_campaign_has_its_entries_alone(service: Service) {
    live(&service).await;
    let alice = service.get("/status?user_id=alice").await.body["grants"][0]["request_id"].clone();
    let alice = alice.as_str().unwrap();
    let lines = async |path: &str| -> Vec<String> {
        let file = service.get(&format!("{path}?format=ndjson")).await;
        file.text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().kind).collect()
    };
    let kinds = ["TokenGrantRequested", "Started", "BlockchainTxSubmitted", "Confirmed", "Reverted", "Completed"];
    assert_eq!(lines(&format!("/grants/{alice}/events")).await, kinds);
    assert_eq!(lines("/campaigns/summer/events").await, ["CampaignCreated"]);
    let table = csv_rows(&service.get(&format!("/grants/{alice}/events?format=csv&after=7")).await);
    assert_eq!(table.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["sequence", "8", "9", "10", "11"]);
    for path in ["/grants/nobodys/events?format=csv", "/campaigns/none/events?format=ndjson"] {
        assert_problem(&service.get(path).await, 404, path);
    }
}

async fn a_table_of_entries_is_safe_to_open(service: Service) {
    let names = ["=1+1", "+1", "-1", "@SUM(A1)", "a,\"b\"", "ordinary"];
    for name in names {
        service.store.accept(&[arrival(request("u", name, 1), None)], at(0), POLICY).await.unwrap();
    }
    let table = csv_rows(&service.get("/events?format=csv").await);
    let subjects: Vec<_> = table.iter().filter(|row| row[2] == "campaign").map(|row| row[3].as_str()).collect();
    assert_eq!(subjects, ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "a,\"b\"", "ordinary"]);
    for row in &table[1..] {
        for cell in row {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell} is a formula");
        }
    }
}

async fn questions_that_cannot_be_read_are_refused(service: Service) {
    live(&service).await;
    let alice = service.get("/status?user_id=alice").await.body["grants"][0]["request_id"].clone();
    let of_grant = format!("/grants/{}/events", alice.as_str().unwrap());
    for path in ["/events", &of_grant, "/campaigns/summer/events"] {
        for (query, field, rule) in [
            ("limit=0", "limit", "must be a number from 1 to 500"),
            ("limit=501", "limit", "must be a number from 1 to 500"),
            ("after=-1", "after", "invalid digit"),
            ("after=x", "after", "invalid digit"),
            ("format=xml", "format", "must be json, ndjson or csv"),
            ("before=3", "before", "is not a field"),
        ] {
            assert_refused(&service.get(&format!("{path}?{query}")).await, field, rule, &format!("{path} {query}"));
        }
    }
    assert_refused(&service.get("/grants/%20/events").await, "request_id", "must not be blank", "no id");
    assert_refused(&service.get("/campaigns/%20/events").await, "campaign_id", "must not be blank", "no id");
    let unknown = service.get("/grants/nobodys/events").await;
    assert_eq!(
        (unknown.status, &unknown.body["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:problem-type:grant-not-found"))
    );
}
