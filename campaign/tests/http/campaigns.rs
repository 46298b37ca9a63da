//! Campaigns are made, changed and shown, and the ledger tells by whom and why.

use super::*;

on_both_databases! {
    |kind| Service::strict(kind).await;
    a_campaign_is_made_once_and_the_same_settings_change_nothing,
    a_campaign_that_many_make_at_once_is_made_once,
    other_settings_are_an_event_that_names_who_and_why,
    put_resets_what_it_does_not_mention_and_patch_leaves_it,
    a_list_of_ten_thousand_users_is_taken_and_one_more_is_not,
    an_ended_campaign_stays_so,
    a_budget_is_never_less_than_what_is_promised_and_paid,
    campaigns_are_listed_page_by_page_and_by_state,
    every_bad_setting_is_named_with_its_rule_and_nothing_is_stored,
    what_does_not_exist_is_not_found,
}

async fn a_campaign_is_made_once_and_the_same_settings_change_nothing(service: Service) {
    let settings = json!({
        "name": "Summer", "amount": 10, "starts_at": "2023-11-01T00:00:00Z", "ends_at": "2023-12-01T01:00:00+01:00",
        "budget": 1000, "max_grants_per_user": 3, "eligibility": "block_list", "listed_users": ["mallory", "eve"],
        "state": "draft", "finality": "finalized", "priority": 9, "chain_id": 8453,
        "token": "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "changed_by": "carol", "reason": "a new season",
    });
    let made = service.put("/campaigns/summer", settings.clone()).await;
    let expected = json!({
        "campaign_id": "summer", "name": "Summer", "amount": 10, "starts_at": "2023-11-01T00:00:00Z",
        "ends_at": "2023-12-01T00:00:00Z", "budget": 1000, "max_grants_per_user": 3, "eligibility": "block_list",
        "listed_users": ["eve", "mallory"], "state": "draft", "finality": "finalized", "priority": 9, "chain_id": 8453,
        "token": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "reserved": 0, "spent": 0, "budget_left": 1000,
        "created_at": "2023-11-14T22:13:20Z", "updated_at": "2023-11-14T22:13:20Z",
    });
    assert_eq!((made.status, &made.body), (StatusCode::CREATED, &expected));
    let rows = service.all_rows().await;

    service.advance(60);
    let again = service.put("/campaigns/summer", settings).await;
    assert_eq!((again.status, &again.body), (StatusCode::OK, &expected));
    let shown = service.get("/campaigns/summer").await;
    assert_eq!((shown.status, &shown.body), (StatusCode::OK, &expected));
    assert_eq!(service.all_rows().await, rows, "the same settings are no event");

    // Nothing but the least that is required, in the query string.
    let request = Request::put("/campaigns/plain?name=Plain&amount=5").body(Body::empty()).unwrap();
    let plain = service.send(request).await;
    let by_itself = json!({
        "campaign_id": "plain", "name": "Plain", "amount": 5, "budget": null, "max_grants_per_user": 1,
        "eligibility": "open", "state": "active", "priority": 0, "reserved": 0, "spent": 0, "budget_left": null,
        "created_at": "2023-11-14T22:14:20Z", "updated_at": "2023-11-14T22:14:20Z",
    });
    assert_eq!((plain.status, &plain.body), (StatusCode::CREATED, &by_itself));
}

async fn a_campaign_that_many_make_at_once_is_made_once(service: Service) {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let routes = service.routes.clone();
        let settings = json!({"name": "Summer", "amount": 10, "budget": 100});
        running.spawn(async move { send(&routes, with_body(Request::put("/campaigns/summer"), settings)).await });
    }
    let mut answers = running.join_all().await;
    answers.sort_by_key(|answer| std::cmp::Reverse(answer.status));
    assert_eq!(answers[0].status, StatusCode::CREATED);
    for answer in &answers[1..] {
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &answers[0].body));
    }
    assert_eq!(service.count("select count(*) from event").await, 1);
}

async fn other_settings_are_an_event_that_names_who_and_why(service: Service) {
    service.campaign("summer", json!({})).await;
    service.advance(5);
    let change = json!({"name": "Summer", "amount": 20, "changed_by": "carol", "reason": "prices rose"});
    let changed = service.put("/campaigns/summer", change).await;
    assert_eq!((changed.status, &changed.body["amount"]), (StatusCode::OK, &json!(20)));
    assert_eq!(changed.body["created_at"], "2023-11-14T22:13:20Z");
    assert_eq!(changed.body["updated_at"], "2023-11-14T22:13:25Z");
    let mut paused = with_body(Request::patch("/campaigns/summer"), json!({"state": "paused"}));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    paused.headers_mut().insert("traceparent", trace.parse().unwrap());
    assert_eq!(service.send(paused).await.status, StatusCode::OK);

    let events = service.get("/campaigns/summer/events").await;
    assert_eq!(events.status, StatusCode::OK);
    let events = &events.body["events"];
    assert_eq!(each(events, "kind"), ["CampaignCreated", "CampaignChanged", "CampaignChanged"]);
    assert_eq!(each(events, "sequence"), [1, 2, 3]);
    assert_eq!(
        (&events[0]["cause"]["actor"], &events[0]["data"].get("reason")),
        (&json!("operator"), &None),
        "whoever says nothing is the operator"
    );
    assert_eq!((&events[1]["cause"]["actor"], &events[1]["data"]["reason"]), (&json!("carol"), &json!("prices rose")));
    assert_eq!((&events[1]["at"], &events[1]["data"]["amount"]), (&json!("2023-11-14T22:13:25Z"), &json!(20)));
    assert_eq!(events[2]["cause"]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&events[2]["stream"], &events[2]["subject"]), (&json!("campaign"), &json!("summer")));

    let rest = service.get("/campaigns/summer/events?after=1&limit=1").await;
    assert_eq!((each(&rest.body["events"], "sequence"), &rest.body["next_after"]), (vec![json!(2)], &json!(2)));
}

async fn put_resets_what_it_does_not_mention_and_patch_leaves_it(service: Service) {
    let all = json!({
        "budget": 1000, "max_grants_per_user": 3, "starts_at": "2023-11-01T00:00:00Z", "ends_at": "2024-01-01T00:00:00Z",
        "finality": "12", "chain_id": 1, "token": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "priority": 4,
        "eligibility": "allow_list", "listed_users": ["alice"],
    });
    service.campaign("summer", all).await;
    let before = service.get("/campaigns/summer").await.body;

    let renamed = service.patch("/campaigns/summer", json!({"name": "Autumn"})).await;
    let mut expected = before.clone();
    expected["name"] = json!("Autumn");
    assert_eq!((renamed.status, &renamed.body), (StatusCode::OK, &expected), "all else stays");
    let rows = service.all_rows().await;
    assert_eq!(service.patch("/campaigns/summer", json!({})).await.body, expected);
    assert_eq!(service.patch("/campaigns/summer", json!({"name": "Autumn", "priority": null})).await.body, expected);
    assert_eq!(service.all_rows().await, rows, "a patch that changes nothing is no event");

    // Null takes each limit away, one at a time.
    for limit in ["budget", "max_grants_per_user", "starts_at", "ends_at", "finality", "chain_id", "token"] {
        let taken = service.patch("/campaigns/summer", json!({ limit: null })).await;
        assert_eq!((taken.status, taken.body.get(limit).unwrap_or(&Value::Null)), (StatusCode::OK, &Value::Null));
    }
    let shown = service.get("/campaigns/summer").await.body;
    assert_eq!((&shown["priority"], &shown["listed_users"]), (&json!(4), &json!(["alice"])));
    assert_eq!(shown["budget_left"], Value::Null);

    let reset = service.put("/campaigns/summer", json!({"name": "Autumn", "amount": 10})).await.body;
    assert_eq!((&reset["priority"], &reset["max_grants_per_user"]), (&json!(0), &json!(1)));
    assert_eq!((&reset["eligibility"], reset.get("listed_users")), (&json!("open"), None));
    assert_eq!(service.count("select count(*) from listed_user").await, 0);
}

async fn a_list_of_ten_thousand_users_is_taken_and_one_more_is_not(service: Service) {
    let users = |count: usize| -> Vec<String> { (0..count).map(|user| format!("{user:0>100}")).collect() };
    let listed = json!({"eligibility": "allow_list", "listed_users": users(10_000)});
    assert!(listed.to_string().len() < 1024 * 1024, "ids of 100 bytes fit in the body");
    service.campaign("summer", listed).await;
    assert_eq!(service.count("select count(*) from listed_user").await, 10_000);
    let shown = service.get("/campaigns/summer").await;
    assert_eq!(shown.body["listed_users"].as_array().unwrap().len(), 10_000);
    let list = service.get("/campaigns").await;
    assert_eq!(list.body["campaigns"][0].get("listed_users"), None, "a page of campaigns leaves them out");

    let one_more = service.patch("/campaigns/summer", json!({"listed_users": users(10_001)})).await;
    assert_refused(&one_more, "listed_users", "must be at most 10000", "one more");
    let large = service.patch("/campaigns/summer", json!({"name": "x".repeat(1024 * 1024)})).await;
    assert_problem(&large, 413, "more than 1 MiB");
    assert!(large.body["detail"].as_str().unwrap().contains("1048576"));
    let open = service.patch("/campaigns/summer", json!({"eligibility": "open"})).await;
    assert_refused(&open, "listed_users", "needs eligibility allow_list or block_list", "an open campaign's list");
    assert_eq!(service.count("select count(*) from event").await, 1);

    let emptied = service.patch("/campaigns/summer", json!({"eligibility": "open", "listed_users": []})).await;
    assert_eq!(emptied.status, StatusCode::OK);
    assert_eq!(service.count("select count(*) from listed_user").await, 0);
}

async fn an_ended_campaign_stays_so(service: Service) {
    service.campaign("summer", json!({"state": "ended"})).await;
    let rows = service.all_rows().await;
    for state in ["draft", "active", "paused"] {
        let answer = service.patch("/campaigns/summer", json!({ "state": state })).await;
        assert_told(&answer, 409, "campaign-ended", "an ended campaign stays so; make another one");
    }
    let by_default = service.put("/campaigns/summer", json!({"name": "summer", "amount": 10})).await;
    assert_told(&by_default, 409, "campaign-ended", "an ended campaign stays so; make another one");
    assert_eq!(service.all_rows().await, rows);
    let renamed = service.patch("/campaigns/summer", json!({"name": "Past"})).await;
    assert_eq!((renamed.status, &renamed.body["state"]), (StatusCode::OK, &json!("ended")));
}

async fn a_budget_is_never_less_than_what_is_promised_and_paid(service: Service) {
    service.campaign("summer", json!({"budget": 100})).await;
    let alice = service.grant("user_id=alice&campaign_id=summer&token_amount=30").await;
    service.grant("user_id=bob&campaign_id=summer&token_amount=12").await;
    service.apply(&[completed(&alice, 1)]).await;
    let shown = service.get("/campaigns/summer").await.body;
    assert_eq!(["reserved", "spent", "budget_left"].map(|name| shown[name].clone()), [12, 30, 58]);

    let rows = service.all_rows().await;
    for answer in [
        service.patch("/campaigns/summer", json!({"budget": 41})).await,
        service.put("/campaigns/summer", json!({"name": "summer", "amount": 10, "budget": 0})).await,
    ] {
        assert_told(&answer, 409, "budget-below-spending", "42 tokens are reserved or spent");
    }
    assert_eq!(service.all_rows().await, rows);
    let just_enough = service.patch("/campaigns/summer", json!({"budget": 42})).await;
    assert_eq!((just_enough.status, &just_enough.body["budget_left"]), (StatusCode::OK, &json!(0)));
}

async fn campaigns_are_listed_page_by_page_and_by_state(service: Service) {
    assert_eq!(service.get("/campaigns").await.body, json!({"campaigns": []}));
    for (campaign_id, state) in [("c", "active"), ("a", "paused"), ("e", "active"), ("b", "draft"), ("d", "active")] {
        service.campaign(campaign_id, json!({ "state": state })).await;
    }
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("/campaigns?limit=2{cursor}")).await;
        assert_eq!(page.status, StatusCode::OK);
        pages.push(each(&page.body["campaigns"], "campaign_id"));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
    let active = service.get("/campaigns?state=active&limit=2&cursor=c").await;
    assert_eq!(each(&active.body["campaigns"], "campaign_id"), ["d", "e"]);
    assert_eq!(active.body.get("next_cursor"), None);
    assert_eq!(service.get("/campaigns?state=ended").await.body, json!({"campaigns": []}));
    for (query, field, rule) in [
        ("state=over", "state", "must be draft, active, paused or ended"),
        ("limit=0", "limit", "from 1 to 500"),
        ("cursor=", "cursor", "must not be blank"),
        ("campaign_id=a", "campaign_id", "is not a field"),
    ] {
        assert_refused(&service.get(&format!("/campaigns?{query}")).await, field, rule, query);
    }
}

async fn every_bad_setting_is_named_with_its_rule_and_nothing_is_stored(service: Service) {
    const TIME: &str = "must be a time as RFC 3339 has it";
    const TOKENS: &str = "must be a whole number of tokens from 0 to 1000000000000000, or null";
    const COUNT: &str = "must be a number from 1 on, or null";
    const AMOUNT: &str = "must be a whole number of tokens from 1 to 1000000000";
    const FINALITY: &str = "must be a number of blocks from 1 to 10000, `safe` or `finalized`";
    service.campaign("summer", json!({})).await;
    let rows = service.all_rows().await;
    for (field, value, rule) in [
        ("name", json!(""), "must be 1 to 200 bytes"),
        ("name", json!(" \t"), "must be 1 to 200 bytes"),
        ("name", json!("x".repeat(201)), "must be 1 to 200 bytes"),
        ("name", json!("a\u{0}b"), "without control characters"),
        ("name", json!(7), "must be text"),
        ("amount", json!(0), AMOUNT),
        ("amount", json!(-1), AMOUNT),
        ("amount", json!(1.5), AMOUNT),
        ("amount", json!(1_000_000_001), AMOUNT),
        ("starts_at", json!("yesterday"), TIME),
        ("starts_at", json!("2026-02-30T00:00:00Z"), TIME),
        ("ends_at", json!("2026-12-24"), TIME),
        ("ends_at", json!(1_700_000_000), TIME),
        ("budget", json!(-1), TOKENS),
        ("budget", json!(0.5), TOKENS),
        ("budget", json!(1_000_000_000_000_001_u64), TOKENS),
        ("budget", json!("lots"), TOKENS),
        ("budget", json!([]), "must be text"),
        ("max_grants_per_user", json!(0), COUNT),
        ("max_grants_per_user", json!(-3), COUNT),
        ("max_grants_per_user", json!(4_294_967_296_u64), COUNT),
        ("eligibility", json!("everybody"), "must be open, allow_list or block_list"),
        ("eligibility", json!("Open"), "must be open, allow_list or block_list"),
        ("listed_users", json!("alice"), "must be a list of texts"),
        ("listed_users[1]", json!(["alice", ""]), "must not be blank"),
        ("listed_users[0]", json!([7]), "must be text"),
        ("listed_users", json!(["alice"]), "needs eligibility allow_list or block_list"),
        ("state", json!("over"), "must be draft, active, paused or ended"),
        ("finality", json!("sometime"), FINALITY),
        ("finality", json!(0), FINALITY),
        ("finality", json!(10_001), FINALITY),
        ("priority", json!(10), "must be a number from 0 to 9"),
        ("priority", json!(-1), "must be a number from 0 to 9"),
        ("chain_id", json!(0), COUNT),
        ("chain_id", json!("mainnet"), COUNT),
        ("token", json!("0x12"), "must be 0x and 40 hexadecimal digits"),
        ("token", json!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"), "has a wrong EIP-55 checksum"),
        ("token", json!("0x0000000000000000000000000000000000000000"), "must not be the zero address"),
        ("changed_by", json!(" "), "must not be blank"),
        ("changed_by", json!("x".repeat(129)), "must be at most 128 bytes"),
        ("reason", json!(""), "must be text of 1 to 1000 bytes"),
        ("reason", json!("x".repeat(1001)), "must be text of 1 to 1000 bytes"),
        ("limit", json!(1), "is not a field of this request"),
    ] {
        let what = format!("{field} {value}");
        let name = field.split('[').next().unwrap();
        let mut all = json!({"name": "Winter", "amount": 10});
        all[name] = value.clone();
        assert_refused(&service.put("/campaigns/winter", all).await, field, rule, &what);
        assert_refused(&service.patch("/campaigns/summer", json!({ name: value })).await, field, rule, &what);
    }
    for (missing, rest) in [("name", json!({"amount": 10})), ("amount", json!({"name": "Winter", "amount": null}))] {
        assert_refused(&service.put("/campaigns/winter", rest).await, missing, "is missing", missing);
    }
    for ends_at in ["2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z", "2026-01-01T01:00:00+02:00"] {
        let window = json!({"starts_at": "2026-01-01T00:00:00Z", "ends_at": ends_at});
        let answer = service.patch("/campaigns/summer", window).await;
        assert_refused(&answer, "ends_at", "must be later than starts_at", ends_at);
    }
    for campaign_id in ["%20", &"x".repeat(129), "a%00b", "%FF"] {
        let answer = service.put(&format!("/campaigns/{campaign_id}"), json!({"name": "n", "amount": 1})).await;
        assert_problem(&answer, 400, campaign_id);
        assert_eq!(answer.body["errors"][0]["field"], "campaign_id");
    }
    let twice = service.put("/campaigns/winter?name=a", json!({"amount": 1})).await;
    assert_problem(&twice, 400, "fields in query and body");
    assert_eq!(service.all_rows().await, rows);
}

async fn what_does_not_exist_is_not_found(service: Service) {
    for path in ["", "/statistics", "/events"] {
        let answer = service.get(&format!("/campaigns/winter{path}")).await;
        assert_problem(&answer, 404, path);
        assert_eq!(answer.body["type"], "urn:problem-type:campaign-not-found");
    }
    let patched = service.patch("/campaigns/winter", json!({"name": "Winter"})).await;
    assert_problem(&patched, 404, "nothing to change");
    assert_eq!(service.count("select count(*) from event").await, 0);
}
