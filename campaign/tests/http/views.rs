//! What is worked out of the grants: a user's tokens, the transactions that pay, and lists as files.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_users_tokens_are_added_up_by_token_and_state,
    a_transaction_is_shown_from_sent_to_completed,
    a_transaction_that_pays_some_and_fails_others_is_completed,
    a_transaction_that_another_takes_the_place_of_is_replaced,
    transactions_are_filtered_by_campaign_state_and_time,
    transactions_come_page_by_page_and_as_a_file,
    questions_about_transactions_that_cannot_be_read_are_refused,
    grants_are_filtered_by_campaign_state_and_transaction,
    grants_come_as_a_file,
}

async fn a_users_tokens_are_added_up_by_token_and_state(service: Service) {
    let token = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    service.campaign("gold", json!({"token": token, "max_grants_per_user": null})).await;
    service.campaign("plain", json!({"max_grants_per_user": null})).await;
    let alice = |campaign, amount| format!("user_id=alice&campaign_id={campaign}&token_amount={amount}");
    service.grant(&alice("gold", 1)).await;
    service.grant(&alice("plain", 20)).await;
    service.advance(5);
    let [paid, also_paid] = [service.grant(&alice("plain", 3)).await, service.grant(&alice("plain", 4)).await];
    service.grant("user_id=bob&campaign_id=plain&token_amount=500").await;
    service.advance(5);
    service.apply(&[completed(&paid, 1), completed(&also_paid, 1)]).await;

    let answer = service.get("/users/alice").await;
    let expected = json!([
        {"grants": 2, "last_activity": "2023-11-14T22:13:30Z", "state": "completed", "tokens": 7},
        {"grants": 1, "last_activity": "2023-11-14T22:13:20Z", "state": "requested", "tokens": 20},
        {"grants": 1, "last_activity": "2023-11-14T22:13:20Z", "state": "requested", "token": token, "tokens": 1},
    ]);
    assert_eq!((answer.status, &answer.body["holdings"]), (StatusCode::OK, &expected), "in the same order everywhere");
    assert_eq!(
        (&answer.body["user_id"], &answer.body["last_activity"]),
        (&json!("alice"), &json!("2023-11-14T22:13:30Z"))
    );

    let nobody = service.get("/users/nobody").await;
    assert_eq!((nobody.status, nobody.body), (StatusCode::OK, json!({"user_id": "nobody", "holdings": []})));
    assert_refused(&service.get("/users/%20").await, "user_id", "must not be blank", "no user");
    assert_refused(&service.get("/users/%FF").await, "user_id", "UTF-8", "not UTF-8");
}

/// The only transaction there is.
async fn transaction(service: &Service) -> Value {
    let answer = service.get("/transactions").await;
    assert_eq!((answer.status, answer.body["transactions"].as_array().unwrap().len()), (StatusCode::OK, 1));
    answer.body["transactions"][0].clone()
}

async fn a_transaction_is_shown_from_sent_to_completed(service: Service) {
    assert_eq!(service.get("/transactions").await.body, json!({"transactions": []}));
    let alice = service.grant("user_id=alice&campaign_id=summer&token_amount=5").await;
    let bob = service.grant("user_id=bob&campaign_id=summer&token_amount=6").await;
    assert_eq!(service.get("/transactions").await.body, json!({"transactions": []}));
    service.advance(1);
    service.apply(&[submitted(&[&alice, &bob], 1, 1)]).await;
    let mut expected = json!({
        "transaction_hash": hash(1), "campaign_id": "summer", "state": "submitted", "grants": 2, "completed": 0,
        "tokens": 11, "gas_used": 0, "first_seen_at": "2023-11-14T22:13:21Z", "last_seen_at": "2023-11-14T22:13:21Z",
    });
    assert_eq!(transaction(&service).await, expected);
    service.advance(1);
    service.apply(&[confirmed(&[&alice, &bob], 1, 7, 2)]).await;
    expected["state"] = json!("confirmed");
    expected["block_number"] = json!(7);
    expected["last_seen_at"] = json!("2023-11-14T22:13:22Z");
    assert_eq!(transaction(&service).await, expected);
    service.apply(&[reverted(&[&alice, &bob], 1, 3)]).await;
    let gone = transaction(&service).await;
    assert_eq!((&gone["state"], gone.get("block_number")), (&json!("submitted"), None));
    service.advance(1);
    service.apply(&[completed(&alice, 1)]).await;
    let half = transaction(&service).await;
    assert_eq!(
        (&half["state"], &half["completed"], &half["gas_used"]),
        (&json!("confirmed"), &json!(1), &json!(26_000))
    );
    service.apply(&[completed(&bob, 1)]).await;
    for (name, value) in [
        ("state", json!("completed")),
        ("completed", json!(2)),
        ("gas_used", json!(52_000)),
        ("gas_price", json!(3)),
        ("last_seen_at", json!("2023-11-14T22:13:23Z")),
    ] {
        expected[name] = value;
    }
    assert_eq!(transaction(&service).await, expected);
}

async fn a_transaction_that_pays_some_and_fails_others_is_completed(service: Service) {
    let alice = service.grant("user_id=alice&campaign_id=summer&token_amount=5").await;
    let bob = service.grant("user_id=bob&campaign_id=summer&token_amount=6").await;
    service.apply(&[submitted(&[&alice, &bob], 1, 1)]).await;
    service.apply(&[completed(&alice, 1), failed(&bob, "rejected_by_token")]).await;
    let ended = transaction(&service).await;
    let told = ["state", "grants", "completed", "tokens", "block_number"].map(|name| ended[name].clone());
    assert_eq!(told, [json!("completed"), json!(1), json!(1), json!(5), json!(7)]);
    // The chain has the last word.
    service.apply(&[completed(&bob, 1)]).await;
    let ended = transaction(&service).await;
    assert_eq!(["grants", "completed", "tokens"].map(|name| ended[name].clone()), [2, 2, 11]);
}

async fn a_transaction_that_another_takes_the_place_of_is_replaced(service: Service) {
    let alice = service.grant("user_id=alice&campaign_id=summer").await;
    let bob = service.grant("user_id=bob&campaign_id=summer").await;
    service.apply(&[submitted(&[&alice, &bob], 1, 1), confirmed(&[&alice, &bob], 1, 7, 2)]).await;
    service.advance(1);
    service.apply(&[submitted(&[&alice], 2, 3)]).await;
    let states = async || {
        let answer = service.get("/transactions").await.body;
        let states = each(&answer["transactions"], "state");
        (states, each(&answer["transactions"], "grants"), each(&answer["transactions"], "tokens"))
    };
    assert_eq!(states().await, (vec![json!("submitted"); 2], vec![json!(1); 2], vec![json!(100); 2]));
    service.apply(&[submitted(&[&bob], 2, 4)]).await;
    let (states, grants, tokens) = states().await;
    assert_eq!(
        (states, grants, tokens),
        (vec![json!("submitted"), json!("replaced")], vec![json!(2), json!(0)], vec![json!(200), json!(0)])
    );
    let replaced = service.get("/transactions?state=replaced").await.body;
    assert_eq!(each(&replaced["transactions"], "transaction_hash"), [hash(1)]);
    assert_eq!(replaced["transactions"][0].get("block_number"), None);
}

/// Six transactions, a second apart: odd ones of `a` and `b` together, even ones of `a` alone. The first is completed, the
/// second confirmed.
async fn six_transactions(service: &Service) {
    for number in 1..=6 {
        service.advance(1);
        let mut grants = vec![service.grant(&format!("user_id=user-{number}&campaign_id=a")).await];
        if number % 2 == 1 {
            grants.push(service.grant(&format!("user_id=user-{number}&campaign_id=b")).await);
        }
        let grants: Vec<_> = grants.iter().collect();
        service.apply(&[submitted(&grants, number, 1)]).await;
        match number {
            1 => service.apply(&[completed(grants[0], 1), completed(grants[1], 1)]).await,
            2 => service.apply(&[confirmed(&grants, 2, 7, 2)]).await,
            _ => {}
        }
    }
}

/// The transactions in an answer, by number and campaign.
fn numbers(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let name = |share: &Value| {
        let hash = share["transaction_hash"].as_str().unwrap();
        format!("{}{}", hash.trim_start_matches("0x").trim_start_matches('0'), share["campaign_id"].as_str().unwrap())
    };
    answer.body["transactions"].as_array().unwrap().iter().map(name).collect()
}

async fn transactions_are_filtered_by_campaign_state_and_time(service: Service) {
    six_transactions(&service).await;
    for (query, expected) in [
        ("", "6a 5b 5a 4a 3b 3a 2a 1b 1a"),
        ("campaign_id=b", "5b 3b 1b"),
        ("campaign_id=nobodys", ""),
        ("state=completed", "1b 1a"),
        ("state=confirmed", "2a"),
        ("state=submitted&campaign_id=b", "5b 3b"),
        ("state=replaced", ""),
        ("from=2023-11-14T22:13:24Z", "6a 5b 5a 4a"),
        ("until=2023-11-14T22:13:22Z", "1b 1a"),
        ("from=2023-11-14T22:13:23Z&until=2023-11-14T22:13:25Z&campaign_id=a", "4a 3a"),
        ("from=2023-11-14T22:13:25Z&until=2023-11-14T22:13:25Z", ""),
    ] {
        let answer = service.get(&format!("/transactions?{query}")).await;
        assert_eq!(numbers(&answer).join(" "), expected, "{query}");
    }
}

async fn transactions_come_page_by_page_and_as_a_file(service: Service) {
    six_transactions(&service).await;
    for (limit, pages) in [(2, 5), (3, 3), (9, 1), (500, 1)] {
        let (mut cursor, mut seen) = (String::new(), Vec::new());
        for page in 1..=pages {
            let answer = service.get(&format!("/transactions?limit={limit}{cursor}")).await;
            seen.extend(numbers(&answer));
            match answer.body["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => assert_eq!(page, pages),
            }
        }
        assert_eq!(seen.join(" "), "6a 5b 5a 4a 3b 3a 2a 1b 1a", "{limit} a page");
    }

    let lines = service.get("/transactions?format=ndjson&campaign_id=a").await;
    assert_eq!(lines.headers[header::CONTENT_TYPE], "application/x-ndjson");
    let shown = service.get("/transactions?campaign_id=a").await.body;
    let lines: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines), shown["transactions"]);

    let table = csv_rows(&service.get("/transactions?format=csv&state=completed&limit=1").await);
    let one = hash(1);
    let row = |campaign| {
        let time = "2023-11-14T22:13:21Z";
        [one.as_str(), campaign, "completed", "1", "1", "100", "26000", "3", "7", time, time]
    };
    assert_eq!(
        table[0].join(","),
        "transaction_hash,campaign_id,state,grants,completed,tokens,gas_used,gas_price,block_number,first_seen_at,last_seen_at"
    );
    assert_eq!(table[1..], [row("b"), row("a")]);
}

async fn questions_about_transactions_that_cannot_be_read_are_refused(service: Service) {
    for (query, field, rule) in [
        ("campaign_id=", "campaign_id", "must not be blank"),
        ("state=lost", "state", "must be submitted, confirmed, completed or replaced"),
        ("from=now", "from", "must be a time as RFC 3339 has it"),
        ("until=2023-11-14", "until", "must be a time as RFC 3339 has it"),
        ("limit=501", "limit", "must be a number from 1 to 500"),
        ("cursor=", "cursor", "must be the next_cursor of an earlier answer"),
        ("cursor=1.0xab", "cursor", "must be the next_cursor of an earlier answer"),
        ("cursor=x.0xab.a", "cursor", "must be the next_cursor of an earlier answer"),
        ("cursor=1.a%00b.a", "cursor", "must be the next_cursor of an earlier answer"),
        ("format=pdf", "format", "must be json, ndjson or csv"),
        ("transaction_hash=0x12", "transaction_hash", "is not a field"),
    ] {
        assert_refused(&service.get(&format!("/transactions?{query}")).await, field, rule, query);
    }
}

async fn grants_are_filtered_by_campaign_state_and_transaction(service: Service) {
    six_transactions(&service).await;
    service.grant("user_id=late&campaign_id=b").await;
    let one = hash(0xabc);
    let late = service
        .stored(service.get("/status?user_id=late").await.body["grants"][0]["request_id"].as_str().unwrap())
        .await;
    service.apply(&[submitted(&[&late], 0xabc, 1)]).await;
    let capitals = format!("0x{}", one[2..].to_uppercase());
    for (query, expected) in [
        (String::new(), vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("campaign_id=b".to_owned(), vec![1, 4, 7, 9]),
        ("campaign_id=b&limit=2&after=1".to_owned(), vec![4, 7]),
        ("state=completed".to_owned(), vec![0, 1]),
        ("state=confirmed".to_owned(), vec![2]),
        ("state=submitted&campaign_id=a".to_owned(), vec![3, 5, 6, 8]),
        (format!("transaction_hash={}", hash(3)), vec![3, 4]),
        (format!("transaction_hash={}&campaign_id=a", hash(3)), vec![3]),
        (format!("transaction_hash={}&state=completed", hash(3)), vec![]),
        (format!("transaction_hash={}", hash(99)), vec![]),
        (format!("transaction_hash={capitals}"), vec![9]),
        ("campaign_id=nobodys".to_owned(), vec![]),
    ] {
        let answer = service.get(&format!("/grants?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let expected: Vec<_> = expected.into_iter().map(Value::from).collect();
        assert_eq!(each(&answer.body["grants"], "grant_index"), expected, "{query}");
    }
    for (query, field, rule) in [
        ("campaign_id=", "campaign_id", "must not be blank"),
        ("state=paid", "state", "unknown state"),
        ("transaction_hash=0x12", "transaction_hash", "must be 0x and 64 hexadecimal digits"),
        ("format=xls", "format", "must be json, ndjson or csv"),
    ] {
        assert_refused(&service.get(&format!("/grants?{query}")).await, field, rule, query);
    }
}

async fn grants_come_as_a_file(service: Service) {
    let arrivals: Vec<_> =
        (0..1001).map(|user| support::arrival(support::request(&format!("user-{user}"), "summer", 1), None)).collect();
    service.store.accept(&arrivals, at(0), POLICY).await.unwrap();
    let evil = service.grant("user_id=%3DHYPERLINK(1)&campaign_id=%40summer&token_amount=7").await;
    service.apply(&[failed(&evil, "-x")]).await;

    let lines = service.get("/grants?format=ndjson").await;
    let indexes: Vec<_> = lines
        .text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["grant_index"].as_u64().unwrap())
        .collect();
    assert_eq!(indexes, (0..1002).collect::<Vec<_>>());
    let table = csv_rows(&service.get("/grants?format=csv&after=999").await);
    let header = "grant_index,request_id,user_id,campaign_id,wallet_address,token_amount,token_type,state,\
                  transaction_hash,block_number,error_code,error_message,retry_count,requested_at,updated_at,completed_at";
    assert_eq!((table[0].join(","), table.len()), (header.to_owned(), 3));
    let time = "2023-11-14T22:13:20Z";
    let expected = [
        "1001",
        evil.request_id.as_str(),
        "'=HYPERLINK(1)",
        "'@summer",
        "",
        "7",
        "ERC20",
        "failed",
        "",
        "",
        "'-x",
        "it is -x",
        "0",
        time,
        time,
        time,
    ];
    assert_eq!(table[2], expected);
    let filtered = service.get("/grants?format=ndjson&state=failed").await;
    assert_eq!(filtered.text.lines().count(), 1);
}
