//! Campaigns whose grants are claimed: by players, from the distributor, with what `GET /claims` tells them.

use alloy::primitives::{Address, B256, U256};
use anyhow::{Context as _, Result};
use blockchain::contract::GrantDistributor::{claimCall, pauseCall, unpauseCall};
use serde_json::{Value, json};
use testkit::stack::Builder;
use testkit::{GrantRequest, Stack, anvil, base_units, on_both_databases, until_some};

use crate::audit::audit;
use crate::campaigns::{budget_of, campaign, rebuild};
use crate::harness::{SOON, assert_supply, builder, transact};
use crate::outages::as_admin;

on_both_databases! {
    |kind| builder(kind);
    a_grant_is_claimed_once_and_completed,
    claims_survive_kill_9_of_both_services_and_a_broker_that_forgets,
    a_root_waits_while_the_distributor_is_paused,
}

const WALLETS: [&str; 3] = [
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
];

async fn airdrop(stack: &Stack) -> Result<()> {
    campaign(stack, "airdrop", &json!({"name": "Airdrop", "amount": 10, "budget": 100, "mode": "claim"})).await
}

/// Asks for a grant of the airdrop to this wallet; returns its id.
async fn request(stack: &Stack, user: usize, wallet: &str) -> Result<String> {
    let request = GrantRequest::new(format!("user-{user}"), "airdrop").to(wallet);
    stack.campaign_client().request(&request).await?.request_id()
}

/// What a wallet can claim, once it has so many grants and each has a proof.
async fn claims(stack: &Stack, wallet: &str, count: usize) -> Result<Value> {
    let (client, path) = (stack.campaign_client(), format!("/claims/airdrop/{wallet}"));
    until_some(SOON, &format!("proofs for {wallet}"), async || {
        let shown = client.get(&path).await.ok()?.body;
        let grants = shown["grants"].as_array()?;
        (grants.len() == count && grants.iter().all(|grant| grant["proof"].is_array())).then_some(shown)
    })
    .await
}

/// Claims one of the grants that are shown, as anybody may; whether the distributor paid.
async fn claim(stack: &Stack, shown: &Value, place: usize) -> Result<bool> {
    let grant = &shown["grants"][place];
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    let call = claimCall {
        campaign: text(&shown["campaign"])?.parse()?,
        id: text(&grant["id"])?.parse()?,
        to: text(&shown["to"])?.parse()?,
        amount: U256::from_str_radix(&text(&grant["amount"])?, 10)?,
        proof: serde_json::from_value::<Vec<B256>>(grant["proof"].clone())?,
    };
    let distributor: Address = text(&shown["published"]["distributor"])?.parse()?;
    let receipt = transact(stack, anvil::STRANGER.address, distributor, &call).await?;
    Ok(receipt["status"] == "0x1")
}

async fn a_grant_is_claimed_once_and_completed(builder: Builder) -> Result<()> {
    let stack = builder.campaign_env("CLAIM_ROOT_SECONDS", "1").start().await?;
    airdrop(&stack).await?;
    let mut ids = Vec::new();
    for (user, wallet) in WALLETS.iter().enumerate() {
        ids.push(request(&stack, user, wallet).await?);
    }
    let shown = claims(&stack, WALLETS[0], 1).await?;
    assert_eq!(shown["published"]["chain_id"], json!(anvil::CHAIN_ID));
    assert_supply(&stack, 0).await?;
    assert_eq!(budget_of(&stack, "airdrop").await?, [json!(30), json!(0), json!(70)]);
    let too_late = stack.campaign_client().delete(&format!("/grants/{}", ids[1])).await?;
    assert_eq!((too_late.status, &too_late.body["detail"]), (409, &json!("the grant is claimable")));

    assert!(claim(&stack, &shown, 0).await?);
    assert!(!claim(&stack, &shown, 0).await?, "it is paid once");
    let mut stolen = shown.clone();
    stolen["to"] = json!(WALLETS[1]);
    assert!(!claim(&stack, &stolen, 0).await?, "it is paid to nobody else");
    let completed = stack.final_grant(&ids[0], SOON).await?;
    assert!(completed.is_completed(), "{completed:?}");
    assert_eq!(completed.more["block_number"].as_u64().map(|number| number > 0), Some(true));
    assert_supply(&stack, 10).await?;
    assert_eq!(stack.chain.balance_of(WALLETS[0].parse()?).await?, base_units(10));
    assert_eq!(budget_of(&stack, "airdrop").await?, [json!(20), json!(10), json!(70)]);

    // A grant that comes later is in the next tree, and so are those that were not claimed yet.
    ids.push(request(&stack, 3, WALLETS[1]).await?);
    let shown = claims(&stack, WALLETS[1], 2).await?;
    assert!(claim(&stack, &shown, 1).await? && claim(&stack, &shown, 0).await?);
    // One without a wallet is claimed for the wallet that belongs to the user.
    let last = stack.campaign_client().request(&GrantRequest::new("nobody", "airdrop")).await?.request_id()?;
    let wallet = stack.chain.wallet_of("nobody").await?;
    assert!(claim(&stack, &claims(&stack, &wallet.to_string(), 1).await?, 0).await?);
    assert!(claim(&stack, &claims(&stack, WALLETS[2], 1).await?, 0).await?);
    ids.push(last);
    for id in &ids {
        assert!(stack.final_grant(id, SOON).await?.is_completed());
    }
    assert_eq!(stack.chain.balance_of(wallet).await?, base_units(10));
    assert_supply(&stack, 50).await?;
    assert_eq!(budget_of(&stack, "airdrop").await?, [json!(0), json!(50), json!(50)]);
    audit(&stack, &[]).await?.assert_equal();
    let (status, told) = rebuild(&stack, &[]).await?;
    assert_eq!((status, &told["differences"]), (0, &json!([])), "{told}");
    stack.stop().await
}

async fn claims_survive_kill_9_of_both_services_and_a_broker_that_forgets(builder: Builder) -> Result<()> {
    let stack = builder
        .own_emulator()
        .campaign_env("CLAIM_ROOT_SECONDS", "1")
        .campaign_env("REPUBLISH_AFTER_SECONDS", "2")
        .start()
        .await?;
    airdrop(&stack).await?;
    stack.chain.mine_every(0).await?;
    let mut ids = vec![request(&stack, 0, WALLETS[0]).await?];
    // The root is in a transaction, and no block comes.
    until_some(SOON, "the root to be sent", async || {
        stack.blockchain.logged().ok()?.contains("claim root is being published").then_some(())
    })
    .await?;
    stack.blockchain.kill9().await?;
    stack.campaign.kill9().await?;
    stack.chain.drop_pending().await?;
    stack.emulator().restart().await?;
    stack.blockchain.set("RESEND_AFTER_SECONDS", "1");
    stack.blockchain.start().await?;
    stack.campaign.start().await?;
    stack.chain.mine_every(1).await?;
    let shown = claims(&stack, WALLETS[0], 1).await?;

    // The claim is mined while nobody looks, and the next request waits for a broker that has lost all.
    stack.blockchain.kill9().await?;
    assert!(claim(&stack, &shown, 0).await?);
    ids.push(request(&stack, 1, WALLETS[1]).await?);
    stack.campaign.kill9().await?;
    stack.emulator().restart().await?;
    stack.campaign.start().await?;
    stack.blockchain.start().await?;
    assert!(stack.final_grant(&ids[0], SOON).await?.is_completed());
    assert!(claim(&stack, &claims(&stack, WALLETS[1], 1).await?, 0).await?);
    assert!(stack.final_grant(&ids[1], SOON).await?.is_completed());
    assert_supply(&stack, 20).await?;
    audit(&stack, &[]).await?.assert_equal();
    stack.stop().await
}

async fn a_root_waits_while_the_distributor_is_paused(builder: Builder) -> Result<()> {
    let stack = builder.campaign_env("CLAIM_ROOT_SECONDS", "1").start().await?;
    airdrop(&stack).await?;
    let id = request(&stack, 0, WALLETS[0]).await?;
    let shown = claims(&stack, WALLETS[0], 1).await?;
    as_admin(&stack, &pauseCall {}).await?;
    assert!(!claim(&stack, &shown, 0).await?, "nothing is claimed meanwhile");
    // Roots are published all the same: they pay nobody.
    request(&stack, 1, WALLETS[1]).await?;
    let other = claims(&stack, WALLETS[1], 1).await?;
    assert!(!claim(&stack, &other, 0).await?);
    assert_supply(&stack, 0).await?;
    as_admin(&stack, &unpauseCall {}).await?;
    assert!(claim(&stack, &other, 0).await?);
    assert!(claim(&stack, &claims(&stack, WALLETS[0], 1).await?, 0).await?);
    assert!(stack.final_grant(&id, SOON).await?.is_completed());
    stack.stop().await
}
