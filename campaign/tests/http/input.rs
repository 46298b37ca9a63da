//! Bad input is refused with its field and its rule, and stores nothing.

use shared::http::MAX_BODY_BYTES;

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    bad_input_names_field_and_rule_and_stores_nothing,
    unreadable_requests_are_refused_and_store_nothing,
}

async fn bad_input_names_field_and_rule_and_stores_nothing(service: Service) {
    const BLANK: &str = "must not be blank";
    const LONG: &str = "must be at most 128 bytes, this has 129";
    const CONTROL: &str = "control characters";
    const AMOUNT: &str = "must be a whole number of tokens from 1 to 1000000000";
    let long = "x".repeat(129);
    let long_in_bytes = "%C3%BC".repeat(64) + "x";

    // By query string: what is wrong, the query, the field, the rule.
    let queries = [
        ("no user", "campaign_id=c", "user_id", "is missing"),
        ("no campaign", "user_id=u", "campaign_id", "is missing"),
        ("empty user", "user_id=&campaign_id=c", "user_id", BLANK),
        ("blank campaign", "user_id=u&campaign_id=%20%09+", "campaign_id", BLANK),
        ("over-long user", &format!("user_id={long}&campaign_id=c"), "user_id", LONG),
        ("over-long campaign, in bytes", &format!("user_id=u&campaign_id={long_in_bytes}"), "campaign_id", LONG),
        ("NUL", "user_id=a%00b&campaign_id=c", "user_id", CONTROL),
        ("line feed", "user_id=u&campaign_id=a%0Ab", "campaign_id", CONTROL),
        ("C1 control", "user_id=a%C2%85b&campaign_id=c", "user_id", CONTROL),
        ("space at the end", "user_id=a%20&campaign_id=c", "user_id", "white space"),
        ("not UTF-8", "user_id=a%FFb&campaign_id=c", "user_id", "must be UTF-8"),
        ("field twice", "user_id=u&campaign_id=c&user_id=v", "user_id", "more than once"),
        ("field twice, equal", "user_id=u&campaign_id=c&campaign_id=c", "campaign_id", "more than once"),
        ("unknown field", "user_id=u&campaign_id=c&wallet_adress=0x1", "wallet_adress", "is not a field"),
        ("field in capitals", "user_id=u&campaign_id=c&User_Id=v", "User_Id", "is not a field"),
    ];
    for (what, query, field, rule) in queries {
        assert_refused(&service.post(query).await, field, rule, what);
    }
    for (wallet, rule) in [
        ("", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6", "must be 0x and 40 hexadecimal digits"),
        ("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAzz", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "did you mean 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?"),
        ("0x0000000000000000000000000000000000000000", "must not be the zero address"),
    ] {
        let query = format!("user_id=u&campaign_id=c&wallet_address={wallet}");
        assert_refused(&service.post(&query).await, "wallet_address", rule, wallet);
    }
    for amount in ["0", "-1", "1.5", "1e3", "1000000001", "99999999999999999999999", "ten", "", "0x10", "%201", "NaN"] {
        let query = format!("user_id=u&campaign_id=c&token_amount={amount}");
        assert_refused(&service.post(&query).await, "token_amount", AMOUNT, amount);
    }
    // By body.
    let bodies = [
        ("no field", "{}", "user_id", "is missing"),
        ("null", r#"{"user_id":null,"campaign_id":"c"}"#, "user_id", "is missing"),
        ("NUL", r#"{"user_id":"a\u0000b","campaign_id":"c"}"#, "user_id", CONTROL),
        ("number", r#"{"user_id":42,"campaign_id":"c"}"#, "user_id", "must be text"),
        ("array", r#"{"user_id":["u"],"campaign_id":"c"}"#, "user_id", "must be text"),
        ("object", r#"{"user_id":"u","campaign_id":{}}"#, "campaign_id", "must be text"),
        ("boolean", r#"{"user_id":"u","campaign_id":"c","token_amount":true}"#, "token_amount", "must be"),
        ("zero", r#"{"user_id":"u","campaign_id":"c","token_amount":0}"#, "token_amount", AMOUNT),
        ("negative", r#"{"user_id":"u","campaign_id":"c","token_amount":-7}"#, "token_amount", AMOUNT),
        ("fraction", r#"{"user_id":"u","campaign_id":"c","token_amount":0.5}"#, "token_amount", AMOUNT),
        ("huge", r#"{"user_id":"u","campaign_id":"c","token_amount":18446744073709551616}"#, "token_amount", AMOUNT),
        ("words", r#"{"user_id":"u","campaign_id":"c","token_amount":"ten"}"#, "token_amount", AMOUNT),
        (
            "number as wallet",
            r#"{"user_id":"u","campaign_id":"c","wallet_address":7}"#,
            "wallet_address",
            "must be text",
        ),
        ("unknown field", r#"{"user_id":"u","campaign_id":"c","amount":7}"#, "amount", "is not a field"),
        ("field twice", r#"{"user_id":"u","campaign_id":"c","user_id":"v"}"#, "user_id", "more than once"),
    ];
    for (what, body, field, rule) in bodies {
        assert_refused(&service.send(post_json(body)).await, field, rule, what);
    }
    // By header.
    let good = || post("user_id=u&campaign_id=c");
    for (key, rule) in [
        (&b""[..], BLANK),
        (b"  ", BLANK),
        (long.as_bytes(), LONG),
        (b"a\tb", CONTROL),
        ("schlüssel".as_bytes(), "visible ASCII"),
        (b"\xff", "visible ASCII"),
    ] {
        let answer = service.send(with_key(good(), key)).await;
        assert_refused(&answer, "Idempotency-Key", rule, &String::from_utf8_lossy(key));
    }
    let twice = service.send(with_key(with_key(good(), b"one"), b"other")).await;
    assert_refused(&twice, "Idempotency-Key", "more than once", "two keys");

    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
}

async fn unreadable_requests_are_refused_and_store_nothing(service: Service) {
    let good = r#"{"user_id":"u","campaign_id":"c"}"#;

    for (what, body) in [
        ("cut off", r#"{"user_id":"u""#),
        ("not JSON", "user_id=u&campaign_id=c"),
        ("array", r#"[{"user_id":"u","campaign_id":"c"}]"#),
        ("text", r#""u""#),
        ("null", "null"),
        ("two documents", &format!("{good}{good}")),
        ("lone surrogate", r#"{"user_id":"\ud800","campaign_id":"c"}"#),
        ("nested too deep", &format!(r#"{{"user_id":{}1{}}}"#, "[".repeat(500), "]".repeat(500))),
        ("number out of range", r#"{"user_id":"u","campaign_id":"c","token_amount":1e999}"#),
    ] {
        let answer = service.send(post_json(body.to_owned())).await;
        assert_problem(&answer, 400, what);
        assert!(answer.body["detail"].as_str().unwrap().contains("body"), "{what}: {}", answer.body);
    }
    let not_utf8 = service.send(post_json(&b"{\"user_id\":\"\xff\",\"campaign_id\":\"c\"}"[..])).await;
    assert_problem(&not_utf8, 400, "not UTF-8");

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")]
    {
        let mut request = post_json(good);
        request.headers_mut().remove(header::CONTENT_TYPE);
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        let answer = service.send(request).await;
        assert_problem(&answer, 415, content_type.unwrap_or("no content type"));
        assert!(answer.body["detail"].as_str().unwrap().contains("application/json"));
    }

    let padding = " ".repeat(MAX_BODY_BYTES - good.len());
    let too_large = service.send(post_json(format!("{good}{padding} "))).await;
    assert_problem(&too_large, 413, "one byte too many");
    assert!(too_large.body["detail"].as_str().unwrap().contains("65536"));

    let mut both = post("user_id=u");
    both.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    *both.body_mut() = r#"{"campaign_id":"c"}"#.into();
    let both = service.send(both).await;
    assert_problem(&both, 400, "fields in query and body");
    assert!(both.body["detail"].as_str().unwrap().contains("not in both"));

    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
    let as_large_as_may_be = service.send(post_json(format!("{good}{padding}"))).await;
    assert_eq!(as_large_as_may_be.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn questions_with_bad_parameters_are_refused() {
    const LIMIT: &str = "must be a number from 1 to 500";
    const CURSOR: &str = "must be the next_cursor of an earlier answer";
    let service = Service::start(Database::Sqlite).await;
    let long = "x".repeat(129);
    for (query, field, rule) in [
        ("", "user_id", "is missing"),
        ("user_id=", "user_id", "must not be blank"),
        (&format!("user_id={long}"), "user_id", "must be at most 128 bytes"),
        ("user_id=a%00b", "user_id", "control characters"),
        ("user_id=u&user_id=v", "user_id", "more than once"),
        ("user_id=u&campaign_id=%0A", "campaign_id", "must not be blank"),
        ("user_id=u&campaign=c", "campaign", "is not a field"),
        ("user_id=u&limit=0", "limit", LIMIT),
        ("user_id=u&limit=501", "limit", LIMIT),
        ("user_id=u&limit=-1", "limit", LIMIT),
        ("user_id=u&limit=many", "limit", LIMIT),
        ("user_id=u&limit=99999999999", "limit", LIMIT),
        ("user_id=u&cursor=", "cursor", CURSOR),
        ("user_id=u&cursor=-1", "cursor", CURSOR),
        ("user_id=u&cursor=abc", "cursor", CURSOR),
        ("user_id=u&cursor=99999999999999999999", "cursor", CURSOR),
    ] {
        assert_refused(&service.get(&format!("/status?{query}")).await, field, rule, query);
    }
    for (path, rule) in [
        ("/grants/%20", "must not be blank"),
        (&format!("/grants/{long}"), "must be at most 128 bytes"),
        ("/grants/a%00b", "control characters"),
        ("/grants/a%0Ab", "control characters"),
        ("/grants/%FF", "UTF-8"),
    ] {
        assert_refused(&service.get(path).await, "request_id", rule, path);
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let service = Service::start(Database::Sqlite).await;
    let answer = service
        .post("user_id=%20&wallet_address=0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD&token_amount=0&token_amuont=5")
        .await;
    insta::assert_json_snapshot!(answer.body, @r#"
    {
      "errors": [
        {
          "field": "user_id",
          "rule": "must not be blank"
        },
        {
          "field": "campaign_id",
          "rule": "is missing"
        },
        {
          "field": "wallet_address",
          "rule": "has a wrong EIP-55 checksum; did you mean 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?"
        },
        {
          "field": "token_amount",
          "rule": "must be a whole number of tokens from 1 to 1000000000"
        },
        {
          "field": "token_amuont",
          "rule": "is not a field of this request"
        }
      ],
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:problem-type:invalid-request"
    }
    "#);
}
