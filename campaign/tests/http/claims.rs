//! Campaigns whose grants are claimed: leaves, trees, roots, and proofs that hold.

use alloy::primitives::{B256, U256, keccak256};
use campaign::claims::RootMaker;
use campaign::merkle::{Leaf, verify};
use shared::event::{ClaimRootPublished, GrantClaimable};
use shared::id::{GrantId, Issuer};
use shared::worker::Worker as _;

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_grant_that_can_be_claimed_is_shown_and_gets_its_proof_when_the_root_is_on_chain,
    a_tree_waits_for_the_root_before_it_and_for_its_time,
    a_proof_leads_to_the_root_on_chain_while_another_is_under_way,
    a_grant_that_can_be_claimed_is_not_cancelled_and_not_given_up,
    a_grant_that_is_not_wanted_never_gets_into_a_tree,
    what_is_claimed_is_not_minted_and_does_not_expire,
    a_root_that_is_not_ours_is_not_believed,
    a_root_is_told_again_until_it_is_on_chain,
    the_claims_of_a_wallet_come_in_pages,
    a_bad_wallet_is_named,
    leaves_that_were_changed_are_noticed,
}

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

impl Service {
    /// A campaign whose grants are claimed.
    async fn airdrop(&self) {
        self.campaign("airdrop", json!({"mode": "claim", "budget": 1000, "max_grants_per_user": null})).await;
    }

    /// A grant of it that the blockchain service has taken in.
    async fn claimable(&self, user: &str, wallet: &str) -> Grant {
        let grant = self.grant(&format!("user_id={user}&campaign_id=airdrop&wallet_address={wallet}")).await;
        self.apply(&[claimable(&grant, self.store.issuer(), wallet)]).await;
        self.stored(grant.request_id.as_str()).await
    }

    /// Makes the trees that are due.
    async fn make_roots(&self) {
        let (store, trees) = (self.store.clone(), Trees::new(self.store.clone()));
        let maker = RootMaker::new(store, trees, self.clock.clone(), Duration::from_secs(10), Arc::default());
        maker.run_once().await.unwrap();
    }

    /// The root that was asked to be published last.
    async fn told_root(&self) -> Option<Value> {
        self.messages().await.into_iter().rfind(|message| message["event_type"] == "claim_root.changed")
    }

    /// Reports that it is on chain.
    async fn publish(&self, told: &Value) {
        self.apply(&[published(told)]).await;
    }

    async fn claims(&self, wallet: &str) -> Value {
        let answer = self.get(&format!("/claims/airdrop/{wallet}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body
    }
}

/// It pays 10 tokens of 18 decimals.
fn claimable(grant: &Grant, issuer: Issuer, wallet: &str) -> ResultEvent {
    ResultEvent::Claimable(GrantClaimable {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        grant_id: GrantId::dense(issuer, grant.grant_index),
        wallet_address: wallet.parse().unwrap(),
        amount: "10000000000000000000".parse().unwrap(),
        timestamp: grant.requested_at,
        processed_at: at(1),
    })
}

fn published(told: &Value) -> ResultEvent {
    ResultEvent::ClaimRootPublished(ClaimRootPublished {
        campaign_id: told["campaign_id"].as_str().unwrap().parse().unwrap(),
        root: told["root"].as_str().unwrap().to_owned(),
        number: told["number"].as_u64().unwrap(),
        chain_id: 31_337,
        distributor: "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512".parse().unwrap(),
        transaction_hash: hash(9),
        block_number: 12,
        processed_at: at(2),
    })
}

/// Checks that what is shown is proved to the root that is shown, as the distributor checks it.
#[track_caller]
fn assert_proved(shown: &Value, place: usize) {
    let claim = &shown["grants"][place];
    let leaf = Leaf {
        id: claim["id"].as_str().unwrap().parse().unwrap(),
        to: shown["to"].as_str().unwrap().parse().unwrap(),
        amount: U256::from_str_radix(claim["amount"].as_str().unwrap(), 10).unwrap(),
    };
    let proof: Vec<B256> = serde_json::from_value(claim["proof"].clone()).unwrap_or_else(|_| panic!("{shown}"));
    let root = shown["published"]["root"].as_str().unwrap().parse().unwrap();
    assert!(verify(root, &leaf, &proof), "{shown}");
}

async fn a_grant_that_can_be_claimed_is_shown_and_gets_its_proof_when_the_root_is_on_chain(service: Service) {
    service.airdrop().await;
    let grant = service.claimable("alice", WALLET).await;
    assert_eq!(grant.state.as_str(), "claimable");
    for user in ["bob", "carol", "dave"] {
        service.claimable(user, "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359").await;
    }
    let before = service.claims(WALLET).await;
    let expected = json!({
        "campaign_id": "airdrop",
        "campaign": keccak256("airdrop"),
        "to": WALLET,
        "grants": [{
            "request_id": grant.request_id,
            "state": "claimable",
            "token_amount": 10,
            "id": GrantId::dense(service.store.issuer(), grant.grant_index),
            "amount": "10000000000000000000",
        }],
    });
    assert_eq!(before, expected);

    service.make_roots().await;
    let told = service.told_root().await.unwrap();
    assert!(service.claims(WALLET).await["grants"][0].get("proof").is_none(), "the root is not on chain yet");
    service.publish(&told).await;
    let shown = service.claims(WALLET).await;
    assert_proved(&shown, 0);
    assert_eq!(shown["published"]["root"], told["root"]);
    assert_eq!(shown["published"]["chain_id"], 31_337);
    let kinds = service.get("/campaigns/airdrop/events").await.body;
    assert_eq!(each(&kinds["events"], "kind"), ["CampaignCreated", "ClaimRootMade", "ClaimRootPublished"]);

    // The player has claimed.
    service.apply(&[completed(&grant, 5)]).await;
    let shown = service.claims(WALLET).await;
    assert_eq!(shown["grants"][0]["state"], "completed");
    assert_proved(&shown, 0);
    let campaign = service.get("/campaigns/airdrop").await.body;
    assert_eq!(
        (&campaign["mode"], &campaign["reserved"], &campaign["spent"]),
        (&json!("claim"), &json!(30), &json!(10))
    );
    service.grant("user_id=eve&campaign_id=airdrop").await;
    let open = service.store.open_grants().await.unwrap();
    assert_eq!(open.grants, 1, "three wait for their players, and one is not claimable yet");
    let rebuilt = service.store.rebuild(false).await.unwrap();
    assert_eq!((rebuilt.differences, rebuilt.broken_seal), (vec![], None));
    // Who has no grant has nothing to claim.
    assert_eq!(service.claims("0xde709f2102306220921060314715629080e2fb77").await["grants"], json!([]));
}

async fn a_tree_waits_for_the_root_before_it_and_for_its_time(service: Service) {
    service.airdrop().await;
    service.make_roots().await;
    assert_eq!(service.told_root().await, None, "there is nothing to claim yet");
    service.claimable("alice", WALLET).await;
    service.make_roots().await;
    let first = service.told_root().await.unwrap();
    service.claimable("bob", WALLET).await;
    service.advance(60);
    service.make_roots().await;
    assert_eq!(service.told_root().await.unwrap(), first, "the first root is not on chain yet");
    service.publish(&first).await;
    service.make_roots().await;
    let second = service.told_root().await.unwrap();
    assert!(second["number"].as_u64() > first["number"].as_u64());
    assert_ne!(second["root"], first["root"]);
    service.publish(&second).await;
    service.claimable("carol", WALLET).await;
    service.make_roots().await;
    assert_eq!(service.told_root().await.unwrap(), second, "ten seconds are not over");
    service.advance(10);
    service.make_roots().await;
    assert_ne!(service.told_root().await.unwrap(), second);
    service.advance(60);
    service.make_roots().await;
    let events = service.get("/campaigns/airdrop/events").await.body;
    let made = each(&events["events"], "kind").into_iter().filter(|kind| kind == "ClaimRootMade").count();
    assert_eq!(made, 3, "without new grants there is no new tree");
}

async fn a_proof_leads_to_the_root_on_chain_while_another_is_under_way(service: Service) {
    service.airdrop().await;
    service.claimable("alice", WALLET).await;
    service.make_roots().await;
    let first = service.told_root().await.unwrap();
    service.publish(&first).await;
    service.claimable("bob", WALLET).await;
    service.advance(60);
    service.make_roots().await;
    let shown = service.claims(WALLET).await;
    assert_eq!(shown["published"]["root"], first["root"]);
    assert_proved(&shown, 0);
    assert!(shown["grants"][1].get("proof").is_none(), "it is in no root on chain");
    service.publish(&service.told_root().await.unwrap()).await;
    let shown = service.claims(WALLET).await;
    assert_proved(&shown, 0);
    assert_proved(&shown, 1);
}

async fn a_grant_that_can_be_claimed_is_not_cancelled_and_not_given_up(service: Service) {
    service.airdrop().await;
    let grant = service.claimable("alice", WALLET).await;
    let cancelled = service.delete(&format!("/grants/{}", grant.request_id)).await;
    assert_told(&cancelled, 409, "too-late-to-cancel", "the grant is claimable");
    // A repeat of what is known says nothing new, and neither does a start that comes late.
    let rows = service.all_rows().await;
    service.apply(&[claimable(&grant, service.store.issuer(), WALLET), started(&[&grant], 3)]).await;
    assert_eq!(service.all_rows().await, rows);

    let forget = async || {
        sqlx::query("delete from outbox").execute(service.store.database().writer()).await.unwrap();
    };
    for days in [1, 2, 4] {
        // The broker has taken everything, and lost it.
        forget().await;
        service.advance(days * 86_400 + 1);
        let republished = service.store.republish(service.clock.now(), PATIENCE, 10).await.unwrap();
        assert_eq!((republished.published, republished.given_up.len()), (1, 0), "{days} days later");
    }
    let open = service.store.open_grants().await.unwrap();
    assert_eq!((open.grants, open.oldest), (0, None), "it waits for the player, and for nobody else");
    service.make_roots().await;
    let told = service.told_root().await.unwrap();
    service.publish(&told).await;
    for _ in 0..2 {
        service.advance(40 * 86_400);
        forget().await;
        assert_eq!(service.store.republish(service.clock.now(), PATIENCE, 10).await.unwrap().published, 1);
        service.make_roots().await;
        assert_eq!(service.told_root().await, None, "it is no other grant for that");
    }
}

async fn a_grant_that_is_not_wanted_never_gets_into_a_tree(service: Service) {
    service.airdrop().await;
    let grant = service.grant(&format!("user_id=alice&campaign_id=airdrop&wallet_address={WALLET}")).await;
    let cancelled = service.delete(&format!("/grants/{}?changed_by=mara&reason=a+mistake", grant.request_id)).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::ACCEPTED, &json!("requested")));
    // The blockchain service has taken it in meanwhile.
    service.apply(&[claimable(&grant, service.store.issuer(), WALLET)]).await;
    service.make_roots().await;
    assert_eq!(service.told_root().await, None);
    assert_eq!(service.claims(WALLET).await["grants"], json!([]));
    assert_eq!(service.messages().await.last().unwrap()["event_type"], "token.grant.cancel_requested");
    service.apply(&[failed(&grant, "cancelled"), claimable(&grant, service.store.issuer(), WALLET)]).await;
    assert_eq!(service.stored(grant.request_id.as_str()).await.state.as_str(), "cancelled");
    assert_eq!(service.get("/campaigns/airdrop").await.body["budget_left"], 1000);
    let events = service.get(&format!("/grants/{}/events", grant.request_id)).await.body;
    assert_eq!(each(&events["events"], "kind"), ["TokenGrantRequested", "CancelRequested", "Cancelled"]);
}

async fn what_is_claimed_is_not_minted_and_does_not_expire(service: Service) {
    service.airdrop().await;
    service.grant("user_id=alice&campaign_id=airdrop").await;
    assert_eq!(service.messages().await.last().unwrap()["mode"], "claim");
    let rows = service.all_rows().await;
    let refused = service.post("user_id=bob&campaign_id=airdrop&expires_at=2030-01-01T00:00:00Z").await;
    let detail = "the grants of this campaign are claimed by the players, and do not expire: leave expires_at out";
    assert_told(&refused, 422, "claims-do-not-expire", detail);
    assert_eq!(service.all_rows().await, rows);
    // Another mode is for the grants to come.
    assert_eq!(service.patch("/campaigns/airdrop", json!({"mode": "mint"})).await.status, StatusCode::OK);
    service.grant("user_id=bob&campaign_id=airdrop&expires_at=2030-01-01T00:00:00Z").await;
    assert_eq!(service.messages().await.last().unwrap().get("mode"), None);
    let refused = service.patch("/campaigns/airdrop", json!({"mode": "gift"})).await;
    assert_refused(&refused, "mode", "must be mint or claim", "mode");
}

async fn a_root_that_is_not_ours_is_not_believed(service: Service) {
    service.airdrop().await;
    let grant = service.grant("user_id=alice&campaign_id=airdrop").await;
    let foreign = claimable(&grant, Issuer::new(7), WALLET);
    let unknown = async |event: ResultEvent| {
        let report = Report { event: &event, message_id: None, trace: None };
        service.store.apply(&[report], at(1)).await.unwrap().unknown
    };
    assert_eq!(unknown(foreign).await, 1);
    assert_eq!(service.stored(grant.request_id.as_str()).await.state.as_str(), "requested");

    service.claimable("bob", WALLET).await;
    service.make_roots().await;
    let told = service.told_root().await.unwrap();
    for (member, value) in [("root", json!(hash(1))), ("number", json!(1)), ("campaign_id", json!("winter"))] {
        let mut other = told.clone();
        other[member] = value;
        assert_eq!(unknown(published(&other)).await, 1, "{member}");
    }
    assert_eq!(service.claims(WALLET).await.get("published"), None);
    let rows = service.all_rows().await;
    service.apply(&[published(&told), published(&told)]).await;
    service.apply(&[published(&told)]).await;
    let entries = |rows: &[(&str, i64)]| rows.iter().find(|(table, _)| *table == "event").unwrap().1;
    assert_eq!(entries(&service.all_rows().await), entries(&rows) + 1, "it is news once");
}

async fn a_root_is_told_again_until_it_is_on_chain(service: Service) {
    let tell = async || service.store.tell_again(service.clock.now(), PATIENCE.first_wait).await.unwrap();
    service.airdrop().await;
    assert!(!tell().await, "there is nothing to tell");
    service.claimable("alice", WALLET).await;
    service.make_roots().await;
    let told = service.told_root().await.unwrap();
    for _ in 0..2 {
        sqlx::query("delete from outbox").execute(service.store.database().writer()).await.unwrap();
        service.advance(61);
        assert!(tell().await);
        assert!(!tell().await, "once a minute");
        let again = service.told_root().await.unwrap();
        assert_eq!((&again["root"], &again["number"]), (&told["root"], &told["number"]));
    }
    service.publish(&told).await;
    service.advance(61);
    assert!(!tell().await);
}

async fn the_claims_of_a_wallet_come_in_pages(service: Service) {
    service.airdrop().await;
    for user in 0..5 {
        service.claimable(&format!("user-{user}"), WALLET).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/claims/airdrop/{WALLET}?limit=2{cursor}")).await.body;
        seen.extend(each(&page["grants"], "id"));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, each(&service.claims(WALLET).await["grants"], "id"));
    assert_eq!(seen.len(), 5);
}

async fn a_bad_wallet_is_named(service: Service) {
    service.airdrop().await;
    for (path, field, rule) in [
        ("/claims/airdrop/alice", "wallet_address", "must be 0x and 40 hexadecimal digits"),
        ("/claims/airdrop/0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "wallet_address", "did you mean"),
        ("/claims/%20/0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "campaign_id", "must not be blank"),
        ("/claims/airdrop/0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?limit=0", "limit", "must be"),
        ("/claims/airdrop/0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?cursor=x", "cursor", "must be"),
    ] {
        assert_refused(&service.get(path).await, field, rule, path);
    }
    assert_problem(&service.get(&format!("/claims/winter/{WALLET}")).await, 404, "no campaign");
}

async fn leaves_that_were_changed_are_noticed(service: Service) {
    service.airdrop().await;
    service.claimable("alice", WALLET).await;
    service.make_roots().await;
    service.publish(&service.told_root().await.unwrap()).await;
    sqlx::query("update claim_leaf set amount = '11'").execute(service.store.database().writer()).await.unwrap();
    assert_problem(&service.get(&format!("/claims/airdrop/{WALLET}")).await, 500, "no proof of it leads to the root");
    let rebuilt = service.store.rebuild(true).await.unwrap();
    assert_eq!(rebuilt.differences.iter().map(|difference| difference.table).collect::<Vec<_>>(), ["claim_leaf"]);
    assert_proved(&service.claims(WALLET).await, 0);
}
