//! Ledger against chain: a clean run is equal, and whatever is done to a database, a topic or the chain behind the
//! services' back is named for what it is.

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use anyhow::{Context as _, Result, ensure};
use blockchain::contract::{Batch, GrantDistributor};
use blockchain::domain::{GrantId, Payment};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use testkit::process::{Process, Program};
use testkit::stack::Builder;
use testkit::{Service, Stack, anvil, on_both_databases, until, until_some};

use crate::harness::{SOON, assert_paid_exactly_once, await_final, builder, database, request_grants};
use crate::outages::as_admin;

on_both_databases! {
    |kind| builder(kind);
    a_clean_run_is_equal,
    every_change_of_the_ledger_is_found,
    payments_that_no_ledger_explains_are_found,
    an_id_that_was_paid_twice_is_found,
    a_forged_result_is_found,
    a_lost_result_is_repaired_and_reaches_the_campaign,
    payments_of_final_blocks_that_were_replaced_are_missing,
    an_audit_goes_on_after_kill_9,
    the_service_audits_itself_and_stays_ready,
    what_cannot_be_looked_at_is_neither_equal_nor_different,
    a_ledger_of_events_that_was_changed_is_noticed,
}

/// What an audit printed, and its exit status.
pub(crate) struct Audited {
    status: i32,
    report: Value,
}

impl Audited {
    /// How often each kind was found, by ledger and kind.
    fn kinds(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        for difference in self.report["differences"].as_array().unwrap() {
            let (ledger, kind) = (difference["ledger"].as_str().unwrap(), difference["kind"].as_str().unwrap());
            *kinds.entry(format!("{ledger} {kind}")).or_default() += 1;
        }
        kinds
    }

    #[track_caller]
    pub(crate) fn assert_equal(&self) {
        assert_eq!((self.status, &self.report["equal"]), (0, &json!(true)), "{}", self.report);
        assert_eq!((&self.report["differences"], &self.report["counts"]), (&json!([]), &json!({})));
    }

    #[track_caller]
    fn assert_differs(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        assert_eq!(self.kinds(), expected, "{}", self.report);
        assert_eq!((self.status, &self.report["equal"]), (1, &json!(false)));
        let counted = self.report["counts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap());
        assert_eq!(counted.sum::<u64>(), expected.values().sum::<u64>());
    }

    fn of(&self, ledger: &str, kind: &str) -> &Value {
        let differences = self.report["differences"].as_array().unwrap();
        differences.iter().find(|one| one["ledger"] == ledger && one["kind"] == kind).unwrap()
    }
}

fn command(stack: &Stack, arguments: &[&str]) -> Program {
    let log = stack.run_dir().log("audit");
    stack.blockchain.program().log_to(&log).output(log.with_extension("out")).arg("audit").args(arguments.to_vec())
}

async fn run(program: &Program, stack: &Stack) -> Result<(i32, String)> {
    let status = program.spawn()?.wait(SOON).await?;
    let told = std::fs::read_to_string(stack.run_dir().log("audit").with_extension("out"))?;
    Ok((status.code().context("it was killed")?, told))
}

pub(crate) async fn audit(stack: &Stack, arguments: &[&str]) -> Result<Audited> {
    let (status, told) = run(&command(stack, arguments).arg("--json"), stack).await?;
    let report = serde_json::from_str(&told).with_context(|| format!("exit status {status}: {told}"))?;
    Ok(Audited { status, report })
}

/// Changes rows behind the service's back; each statement changes one.
pub(crate) async fn change(service: &Service, statements: &[&str]) -> Result<()> {
    let mut database = database(service).await?;
    for statement in statements {
        let changed = sqlx::query(AssertSqlSafe((*statement).to_owned())).execute(&mut database).await?;
        ensure!(changed.rows_affected() == 1, "{} rows by {statement}", changed.rows_affected());
    }
    Ok(database.close().await?)
}

/// Pays by the signer's hand, past the service.
async fn pay(stack: &Stack, payments: &[(GrantId, Address, i64)]) -> Result<()> {
    let payments: Vec<_> = payments
        .iter()
        .map(|(grant_id, recipient, tokens)| Payment {
            request_id: "by hand".parse().unwrap(),
            grant_id: *grant_id,
            user_id: "mallory".parse().unwrap(),
            campaign_id: "summer".parse().unwrap(),
            recipient: (*recipient).try_into().unwrap(),
            token_amount: (*tokens).try_into().unwrap(),
            requested_at: chrono::DateTime::UNIX_EPOCH,
            trace: None,
            terms: shared::event::Terms::default(),
        })
        .collect();
    let batch = Batch::pack(&payments, 18, 30_000);
    let data = alloy::primitives::Bytes::from(GrantDistributor::payCall { batch: batch.packed }.abi_encode());
    let to = stack.chain.contracts().distributor;
    let call = json!([{ "from": anvil::SUBMITTER.address, "to": to, "data": data, "gas": "0x200000" }]);
    let before = stack.chain.payments().await?.len();
    stack.chain.rpc("eth_sendTransaction", call).await?;
    until(SOON, "payments by hand", async || {
        stack.chain.payments().await.is_ok_and(|all| all.len() == before + payments.len())
    })
    .await
}

/// The id of a grant on chain, from the service's own ledger.
async fn id_of(stack: &Stack, request_id: &str) -> Result<GrantId> {
    let mut database = database(&stack.blockchain).await?;
    let row = sqlx::query("select grant_id from payment where request_id = $1")
        .bind(request_id.to_owned())
        .fetch_one(&mut database)
        .await?;
    Ok(row.get::<String, _>("grant_id").parse()?)
}

async fn a_clean_run_is_equal(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("BATCH_MAX_GRANTS", "20").start().await?;
    audit(&stack, &[]).await?.assert_equal();
    let foreign = json!({
        "event_type": "token.grant.requested", "user_id": "carol", "campaign_id": "their-campaign", "token_amount": 7,
        "token_type": "ERC20", "request_id": "their-request", "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
    });
    stack.pubsub().publish("token-grant-requests", foreign.to_string().as_bytes(), &[]).await?;
    let ids = request_grants(&stack, "summer", 60).await?;
    // While grants are under way nothing differs either.
    audit(&stack, &[]).await?.assert_equal();
    await_final(&stack, &ids).await?;
    until(SOON, "the foreign payment", async || stack.chain.payments().await.is_ok_and(|all| all.len() == 61)).await?;

    let all_read = until_some(SOON, "an audit of all payments", async || {
        audit(&stack, &["--repair"]).await.ok().filter(|audited| audited.report["chain"]["payments"] == 61)
    })
    .await?;
    all_read.assert_equal();
    assert_eq!(all_read.report["ledgers"]["campaign"]["completed"], 60);
    assert_eq!(all_read.report["ledgers"]["blockchain"]["grants"], 61);
    assert_eq!(all_read.report["repaired"], 0);
    let again = audit(&stack, &["--read-again"]).await?;
    again.assert_equal();
    assert_eq!(again.report["chain"]["payments"], 61);
    let (status, told) = run(&command(&stack, &[]), &stack).await?;
    assert!(status == 0 && told.contains("ledger and chain are equal"), "{told}");
    stack.stop().await
}

async fn every_change_of_the_ledger_is_found(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 8).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let elsewhere = Address::repeat_byte(0xee).to_checksum(None);
    let nowhere = B256::repeat_byte(0xee);
    let where_is = |at: usize| format!("where request_id = '{}'", ids[at]);
    change(
        &stack.blockchain,
        &[
            &format!("delete from payment {}", where_is(0)),
            &format!(
                "insert into payment (request_id, grant_id, user_id, campaign_id, recipient, token_amount, state, \
                 not_before, transaction_hash, block_number, requested_at, received_at, finished_at) \
                 select 'invented', '{:064x}', user_id, campaign_id, recipient, token_amount, state, not_before, \
                 transaction_hash, block_number, requested_at, received_at, finished_at from payment {}",
                U256::from(77),
                where_is(1)
            ),
            &format!("update payment set recipient = '{elsewhere}' {}", where_is(2)),
            &format!("update payment set token_amount = token_amount + 1 {}", where_is(3)),
            &format!("update payment set transaction_hash = '{nowhere}' {}", where_is(4)),
            &format!("update payment set state = 'failed', error_code = 'x', error_message = 'x' {}", where_is(5)),
        ],
    )
    .await?;
    change(
        &stack.campaign,
        &[
            &format!("update token_grant set wallet_address = '{elsewhere}' {}", where_is(6)),
            &format!("update token_grant set token_amount = 1 {}", where_is(7)),
            &format!("update token_grant set state = 'failed' {}", where_is(0)),
        ],
    )
    .await?;
    let audited = audit(&stack, &["--repair"]).await?;
    audited.assert_differs(&[
        ("blockchain unknown_payment", 1),
        ("blockchain missing_payment", 1),
        ("blockchain wrong_recipient", 1),
        ("blockchain wrong_amount", 1),
        ("blockchain wrong_transaction", 1),
        ("campaign wrong_recipient", 1),
        ("campaign wrong_amount", 1),
        ("campaign paid_though_failed", 1),
    ]);
    let unknown = audited.of("blockchain", "unknown_payment");
    assert_eq!((&unknown["request_id"], &unknown["expected"]), (&json!(null), &json!(null)));
    assert_eq!(audited.of("blockchain", "missing_payment")["request_id"], "invented");
    let wrong = audited.of("blockchain", "wrong_recipient");
    assert_eq!((&wrong["request_id"], &wrong["expected"]["recipient"]), (&json!(ids[2]), &json!(elsewhere)));
    assert_ne!(wrong["found"]["recipient"], json!(elsewhere));
    let wrong = audited.of("campaign", "wrong_amount");
    assert_eq!(wrong["expected"]["amount"], "1000000000000000000");
    assert_eq!(wrong["found"]["amount"], "100000000000000000000");
    assert_eq!(
        audited.report["repaired"], 1,
        "one that was paid though it is called failed; nothing else is safe to repair"
    );

    let (status, told) = run(&command(&stack, &[]), &stack).await?;
    assert_eq!(status, 1);
    for line in ["8 differences", "1  missing_payment", "expected  1 tokens to", "found     100 tokens to"] {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }
    stack.stop().await
}

async fn payments_that_no_ledger_explains_are_found(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let pubsub = stack.pubsub();
    pubsub.create_subscription("token-grant-requests", "our-requests").await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let request =
        until_some(SOON, "a request", async || pubsub.pull("our-requests", 10).await.ok()?.first()?.json().ok())
            .await?;
    // A forged request in the name of the campaign service is paid: only its own ledger can tell.
    let mut forged = request.clone();
    (forged["request_id"], forged["user_id"], forged["grant_index"]) = (json!("forged"), json!("eve"), json!(5000));
    pubsub.publish("token-grant-requests", forged.to_string().as_bytes(), &[]).await?;
    until(SOON, "the forged payment", async || stack.chain.payments().await.is_ok_and(|all| all.len() == 4)).await?;
    // And two payments by the signer's own hand, one of them with a number of the campaign service.
    let paid = id_of(&stack, &ids[0]).await?;
    let numbered = GrantId((paid.0 >> 64_usize << 64_usize) | U256::from(1000));
    let eve = Address::repeat_byte(0xe5);
    pay(&stack, &[(numbered, eve, 5), (GrantId(U256::MAX), eve, 6)]).await?;
    let audited = until_some(SOON, "an audit of all payments", async || {
        audit(&stack, &[]).await.ok().filter(|audited| audited.report["chain"]["payments"] == 6)
    })
    .await?;
    audited.assert_differs(&[("blockchain unknown_payment", 2), ("campaign unknown_payment", 2)]);
    assert_eq!(audited.report["differences"][0]["found"]["recipient"], json!(eve.to_checksum(None)));
    stack.stop().await
}

/// The contract keeps its promise: the test has to break into its storage.
async fn an_id_that_was_paid_twice_is_found(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 2).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let paid = id_of(&stack, &ids[0]).await?;
    let (distributor, word) = (stack.chain.contracts().distributor, paid.0 >> 8_usize);
    for slot in 0..12_u64 {
        let place = keccak256((word, U256::from(slot)).abi_encode());
        stack.chain.rpc("anvil_setStorageAt", json!([distributor, place, B256::ZERO])).await?;
    }
    let thief = Address::repeat_byte(0x7f);
    pay(&stack, &[(paid, thief, 9)]).await?;
    let audited = until_some(SOON, "an audit of all payments", async || {
        audit(&stack, &[]).await.ok().filter(|audited| audited.report["chain"]["payments"] == 3)
    })
    .await?;
    audited.assert_differs(&[("blockchain paid_twice", 1), ("campaign paid_twice", 1)]);
    let twice = audited.of("campaign", "paid_twice");
    assert_eq!((&twice["request_id"], &twice["found"]["recipient"]), (&json!(ids[0]), &json!(thief.to_checksum(None))));
    stack.stop().await
}

async fn a_forged_result_is_found(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    as_admin(&stack, &GrantDistributor::pauseCall {}).await?;
    let ids = request_grants(&stack, "summer", 2).await?;
    let forged = |at: usize, block: Option<u64>| {
        json!({
            "event_type": "token.grant.completed", "user_id": format!("user-{at}"), "campaign_id": "summer",
            "request_id": ids[at], "transaction_hash": B256::repeat_byte(0xf0), "timestamp": "2026-01-02T03:04:05Z",
            "processed_at": "2026-01-02T03:04:05Z", "block_number": block,
        })
    };
    for result in [forged(0, Some(1)), forged(1, None)] {
        stack.pubsub().publish("token-grant-results", result.to_string().as_bytes(), &[]).await?;
    }
    await_final(&stack, &ids).await?;
    let audited = audit(&stack, &[]).await?;
    // One that names no block may be in a block that is not final yet, for a while.
    audited.assert_differs(&[("campaign missing_payment", 1)]);
    assert_eq!(audited.of("campaign", "missing_payment")["request_id"], json!(ids[0]));
    assert_eq!(audited.report["ledgers"]["campaign"]["on_their_way"], 1);
    audit(&stack, &["--audit-grace-seconds=0"]).await?.assert_differs(&[("campaign missing_payment", 2)]);

    as_admin(&stack, &GrantDistributor::unpauseCall {}).await?;
    until(SOON, "both payments", async || stack.chain.payments().await.is_ok_and(|all| all.len() == 2)).await?;
    let audited = until_some(SOON, "an audit of both payments", async || {
        audit(&stack, &[]).await.ok().filter(|audited| audited.report["chain"]["payments"] == 2)
    })
    .await?;
    audited.assert_differs(&[("campaign wrong_transaction", 2)]);
    stack.stop().await
}

async fn a_lost_result_is_repaired_and_reaches_the_campaign(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let paid = stack.campaign_client().grant(&ids[0]).await?.unwrap();
    let lose = async |at: usize, payment: &str| -> Result<()> {
        stack.blockchain.stop().await?;
        let place = format!("where request_id = '{}'", ids[at]);
        let forget = "transaction_hash = null, block_number = null";
        change(
            &stack.blockchain,
            &[&format!("update payment set state = {payment}, finished_at = null, gas_used = null, {forget} {place}")],
        )
        .await?;
        let grant = "state = 'submitted', completed_at = null, publish_again_at = 9000000000000000";
        change(&stack.campaign, &[&format!("update token_grant set {grant}, {forget} {place}")]).await
    };
    // Of a payment that is bound to a transaction which has ended, nothing else could ever find the result again.
    lose(0, "'assigned'").await?;
    let found = audit(&stack, &[]).await?;
    found.assert_differs(&[("blockchain result_lost", 1)]);
    assert_eq!(found.report["ledgers"]["campaign"]["on_their_way"], 1);
    let late = audit(&stack, &["--audit-grace-seconds=0"]).await?;
    late.assert_differs(&[("blockchain result_lost", 1), ("campaign result_overdue", 1)]);
    let repaired = audit(&stack, &["--repair"]).await?;
    repaired.assert_equal();
    assert_eq!(repaired.report["repaired"], 1);
    assert_eq!(audit(&stack, &["--repair"]).await?.report["repaired"], 0);
    stack.blockchain.start().await?;
    let grant = stack.final_grant(&ids[0], SOON).await?;
    assert_eq!((&grant.state, &grant.transaction_hash), (&paid.state, &paid.transaction_hash));

    // The service does the same by itself.
    lose(1, "'assigned'").await?;
    stack.blockchain.start().await?;
    stack.final_grant(&ids[1], SOON).await?;
    assert!(stack.blockchain_client().get("/metrics").await.is_ok());
    assert_paid_exactly_once(&stack, &ids).await?;
    audit(&stack, &[]).await?.assert_equal();
    stack.stop().await
}

async fn a_ledger_of_events_that_was_changed_is_noticed(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let sound = audit(&stack, &[]).await?;
    sound.assert_equal();
    let read = sound.report["sealed"]["sequence"].as_u64().unwrap();
    assert_eq!((read >= 10, &sound.report["sealed"]["broken"]), (true, &Value::Null), "{}", sound.report);
    assert_eq!(audit(&stack, &[]).await?.report["sealed"]["entries"], 0, "what was read is not read again");

    // The last entry, which this audit has seen.
    change(&stack.campaign, &[&format!("update event set actor = 'mallory' where sequence = {read}")]).await?;
    audit(&stack, &[]).await?.assert_equal();
    let changed = audit(&stack, &["--read-again"]).await?;
    assert_eq!((changed.status, &changed.report["sealed"]["broken"]["sequence"]), (1, &json!(read)));
    assert_eq!(changed.report["differences"], json!([]), "the grants are as they were");

    change(&stack.campaign, &[&format!("update event set actor = 'blockchain' where sequence = {read}")]).await?;
    audit(&stack, &["--read-again"]).await?.assert_equal();
    change(&stack.campaign, &[&format!("delete from event where sequence = {read}")]).await?;
    let (status, told) = run(&command(&stack, &[]), &stack).await?;
    assert_eq!(status, 1, "{told}");
    assert!(told.contains(&format!("THE LEDGER OF EVENTS WAS CHANGED: entry {read}: it was read before")), "{told}");
    stack.stop().await
}

async fn payments_of_final_blocks_that_were_replaced_are_missing(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let first = request_grants(&stack, "summer", 3).await?;
    assert_paid_exactly_once(&stack, &first).await?;
    // Far enough apart for one payment to stay.
    stack.chain.mine(20).await?;
    let second = request_grants(&stack, "winter", 2).await?;
    assert_paid_exactly_once(&stack, &[&first[..], &second].concat()).await?;
    until_some(SOON, "an audit of all payments", async || {
        audit(&stack, &[]).await.ok().filter(|audited| audited.report["chain"]["payments"] == 5)
    })
    .await?
    .assert_equal();
    stack.blockchain.stop().await?;
    stack.chain.mine_every(0).await?;
    let blocks: Vec<_> = stack.chain.payments().await?.iter().map(|payment| payment.block_number).collect();
    let gone = stack.chain.block_number().await? - blocks[3] + 1;
    ensure!(blocks[2] + 10 < blocks[3] && gone < 60, "{blocks:?}, {gone}");
    stack.chain.reorg(gone).await?;
    let audited = audit(&stack, &[]).await?;
    audited.assert_differs(&[("blockchain missing_payment", 2), ("campaign missing_payment", 2)]);
    assert_eq!(audited.report["chain"]["payments"], 3);
    stack.stop().await
}

async fn an_audit_goes_on_after_kill_9(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.blockchain.stop().await?;
    stack.chain.mine(1500).await?;
    let read = async || -> Option<u64> {
        let mut database = database(&stack.blockchain).await.ok()?;
        let row = sqlx::query("select next_block from chain_cursor").fetch_optional(&mut database).await.ok()??;
        row.get::<i64, _>("next_block").try_into().ok()
    };
    let slowly = ["--audit-max-blocks=1"];
    let process: Process = command(&stack, &[&slowly[..], &["--read-again"]].concat()).spawn()?;
    until(SOON, "a beginning", async || read().await.is_some_and(|next_block| (20..1000).contains(&next_block)))
        .await?;
    process.kill9().await?;
    let before = read().await.context("a cursor")?;
    assert!((20..1500).contains(&before), "{before}");

    let log = stack.run_dir().log("resumed");
    let resumed = command(&stack, &["--json"]).env("RUST_LOG", "blockchain=debug").log_to(&log);
    assert_eq!(run(&resumed, &stack).await?.0, 0);
    let told = std::fs::read_to_string(&log)?;
    let first = told.lines().find(|line| line.contains("events read")).context("something is read")?;
    // A commit that had left the process when it was killed comes about all the same.
    let begins_at = |block: u64| first.contains(&format!("from={block} ")) || first.ends_with(&format!("from={block}"));
    assert!(begins_at(before) || begins_at(before + 1), "{first} does not begin at {before}");
    audit(&stack, &[]).await?.assert_equal();
    stack.stop().await
}

async fn the_service_audits_itself_and_stays_ready(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("AUDIT_EVERY_SECONDS", "1").start().await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let until_metric = async |line: &str| {
        until(SOON, line, async || {
            let metrics = reqwest::get(format!("{}/metrics", stack.blockchain.url())).await;
            let Ok(metrics) = metrics else { return false };
            metrics.text().await.is_ok_and(|text| text.lines().any(|found| found == line))
        })
        .await
    };
    let gauge = |ledger: &str, kind: &str, count: u64| {
        format!("audit_differences{{ledger=\"{ledger}\",kind=\"{kind}\"}} {count}")
    };
    until_metric(&gauge("campaign", "wrong_amount", 0)).await?;
    let place = format!("where request_id = '{}'", ids[0]);
    change(&stack.campaign, &[&format!("update token_grant set token_amount = 1 {place}")]).await?;
    until_metric(&gauge("campaign", "wrong_amount", 1)).await?;
    until_metric(&gauge("blockchain", "wrong_amount", 0)).await?;
    assert!(stack.blockchain.answers("/readyz").await);

    // The campaign service away is no reason either; what was found last stays.
    stack.campaign.stop().await?;
    until(SOON, "an audit without the campaign service", async || {
        stack.blockchain.logged().is_ok_and(|log| log.contains("the ledger of the campaign service is not compared"))
    })
    .await?;
    assert!(stack.blockchain.answers("/readyz").await);
    until_metric(&gauge("campaign", "wrong_amount", 1)).await?;
    stack.campaign.start().await?;
    change(&stack.campaign, &[&format!("update token_grant set token_amount = 100 {place}")]).await?;
    until_metric(&gauge("campaign", "wrong_amount", 0)).await?;
    let log = stack.blockchain.logged()?;
    assert_eq!(log.matches("ledger and chain differ").count(), 1, "a difference is logged once");
    stack.stop().await
}

async fn what_cannot_be_looked_at_is_neither_equal_nor_different(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let missing = stack.run_dir().path().join("missing.db");
    let missing = format!("--database-url=sqlite://{}", missing.display());
    for (argument, reason) in [
        ("--rpc-url=http://127.0.0.1:9", "RPC_URL does not answer"),
        ("--campaign-url=http://127.0.0.1:9", "CAMPAIGN_URL does not answer"),
        ("--campaign-url=nowhere", "CAMPAIGN_URL must be a URL"),
        ("--chain-id=1", "CHAIN_ID is 1"),
        (&missing, "there is no database at DATABASE_URL"),
    ] {
        let (status, told) = run(&command(&stack, &[argument, "--json"]), &stack).await?;
        assert_eq!((status, told.as_str()), (2, ""), "{argument}");
        let log = std::fs::read_to_string(stack.run_dir().log("audit"))?;
        assert!(log.contains(reason), "{reason} is not in {log}");
    }
    // No key is needed to look.
    let program = command(&stack, &["--json"]).without_env("SIGNER_KEY");
    assert_eq!(tokio::time::timeout(Duration::from_mins(1), run(&program, &stack)).await??.0, 0);
    stack.stop().await
}
