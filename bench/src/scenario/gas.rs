//! What a grant costs on chain, and how much of the gas that the chain allows is used while grants queue.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use testkit::{Which, anvil::ADMIN, anvil::SUBMITTER, paths::workspace, until_some};

use crate::{
    print::say,
    records::Transaction,
    report::Outcome,
    settings::Settings,
    spread::float,
    world::{Services, World},
};

/// Grants in each of the transactions whose gas is told.
const BATCH: u64 = 500;

/// Such transactions, after one that touches what is touched once: the campaign's, the day's and the signer's first.
const BATCHES: u64 = 8;

/// The gas of a block that grants may take, where that is limited: half of what a block of Ethereum has.
const BLOCK_GAS: u64 = 30_000_000;

/// What a grant costs about, and blocks that a queue should last, so that enough are neither its first nor its last.
const GRANT_GAS: u64 = 25_500;
const BLOCKS: u64 = 10;

const PATIENCE: Duration = Duration::from_mins(3);

/// Creation code of a token of `OpenZeppelin`'s whose owner mints; `contracts/compile.mjs` makes it.
const ANY_TOKEN: &str = include_str!("../../contracts/AnyToken.hex");

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let batched = settings.clone().with(Which::Blockchain, "BATCH_MAX_GRANTS", BATCH);
    let own = per_grant(World::start(&batched).await?).await?;
    say!("  own token: {own:.0} gas a grant");
    let any = per_grant(with_any_token(&batched).await?).await?;
    say!("  any token: {any:.0} gas a grant");
    let ceiling = ceiling(settings).await?;
    say!("  while grants queue: {:.0} % of {} gas a block", ceiling.ratio * 100.0, ceiling.gas_per_block);
    Ok(Outcome {
        figures: json!({ "gas_per_grant": { "own_token": own, "any_token": any }, "gas_ceiling_ratio": ceiling.ratio }),
        details: json!({
            "meaning": "gas_per_grant: of transactions with 500 fresh recipients, all of the transaction's gas. \
                        gas_ceiling_ratio: the gas that our transactions used in blocks during which grants queued, over \
                        what MAX_BLOCK_GAS allows them",
            "ceiling": ceiling,
            "settings": settings.describe(),
        }),
    })
}

/// The gas of a grant in a full batch.
async fn per_grant(mut world: World) -> Result<f64> {
    world.hold(true).await?;
    world.upload(BATCH * (BATCHES + 1), u64::MAX).await?;
    world.queued(BATCH * (BATCHES + 1), PATIENCE).await?;
    world.hold(false).await?;
    world.quiet(PATIENCE).await?;
    let mut transactions = mined(&world).await?;
    world.stop().await?;
    transactions.remove(0);
    let full: Vec<_> = transactions.iter().filter(|transaction| transaction.grants == BATCH).collect();
    ensure!(full.len() as u64 >= BATCHES / 2, "only {} transactions have {BATCH} grants", full.len());
    let gas: u64 = full.iter().map(|transaction| transaction.gas_used).sum();
    let grants: u64 = full.iter().map(|transaction| transaction.completed).sum();
    Ok(float(gas) / float(grants))
}

/// The campaign's transactions that are in blocks, the oldest first.
async fn mined(world: &World) -> Result<Vec<Transaction>> {
    let mut transactions = world.records().transactions().await?;
    transactions.retain(|transaction| transaction.block_number.is_some());
    transactions.reverse();
    ensure!(!transactions.is_empty(), "nothing was mined");
    Ok(transactions)
}

/// A system whose distributor mints a token that it has never heard of.
async fn with_any_token(settings: &Settings) -> Result<World> {
    let world = World::prepare(settings, Services::None).await?;
    let artifact = fs::read(workspace().join("contracts/artifacts/GrantDistributor.json"))?;
    let artifact: Value = serde_json::from_slice(&artifact)?;
    let code = artifact["bytecode"]["object"].as_str().context("an artifact has its bytecode")?;

    let token = create(&world, &format!("0x{}", ANY_TOKEN.trim())).await?;
    let arguments = [&token, ADMIN.address, SUBMITTER.address].map(word).concat();
    let distributor = create(&world, &format!("{code}{arguments}")).await?;
    // transferOwnership(address)
    send(&world, Some(&token), &format!("0xf2fde38b{}", word(&distributor))).await?;

    world.stack.blockchain.set("DISTRIBUTOR_ADDRESS", &distributor);
    tokio::try_join!(world.stack.campaign.start(), world.stack.blockchain.start())?;
    world.make_campaign().await?;
    Ok(world)
}

/// An address as an argument of a call.
fn word(address: &str) -> String {
    format!("{:0>64}", address.trim_start_matches("0x").to_ascii_lowercase())
}

async fn create(world: &World, code: &str) -> Result<String> {
    let receipt = send(world, None, code).await?;
    Ok(receipt["contractAddress"].as_str().context("a contract was created")?.to_owned())
}

/// Sends a transaction of the chain's administrator, whose key the development chain has; its receipt.
async fn send(world: &World, to: Option<&str>, data: &str) -> Result<Value> {
    let transaction = json!([{ "from": ADMIN.address, "to": to, "data": data, "gas": "0xb71b00" }]);
    let hash = world.stack.chain.rpc("eth_sendTransaction", transaction).await?;
    let receipt = until_some(Duration::from_secs(30), "a transaction to be mined", || async {
        let receipt = world.stack.chain.rpc("eth_getTransactionReceipt", json!([hash])).await.ok()?;
        receipt.is_object().then_some(receipt)
    })
    .await?;
    ensure!(receipt["status"] == "0x1", "a transaction failed: {receipt}");
    Ok(receipt)
}

/// How far the chain's gas was used.
#[derive(Debug, Serialize)]
struct Ceiling {
    ratio: f64,
    gas_per_block: u64,
    blocks: usize,
    transactions: usize,
    grants_per_second: f64,
}

async fn ceiling(settings: &Settings) -> Result<Ceiling> {
    let settings = settings.clone().with(Which::Blockchain, "MAX_BLOCK_GAS", BLOCK_GAS);
    let mut world = World::start(&settings).await?;
    world.hold(true).await?;
    let grants = BLOCK_GAS / GRANT_GAS * BLOCKS;
    world.upload(grants, u64::MAX).await?;
    world.queued(grants, PATIENCE).await?;
    world.hold(false).await?;
    world.quiet(PATIENCE).await?;
    let transactions = mined(&world).await?;
    let block_time = world.settings.block_time;
    world.stop().await?;
    let used: Vec<_> = transactions
        .iter()
        .filter_map(|transaction| Some((transaction.block_number?, transaction.gas_used, transaction.completed)))
        .collect();
    Ceiling::of(&used, BLOCK_GAS, block_time).context("the queue was too short: it lasted two blocks")
}

impl Ceiling {
    /// Of transactions' blocks, gas and grants. The first block and the last are left out: grants did not queue all the
    /// while.
    fn of(transactions: &[(u64, u64, u64)], gas_per_block: u64, block_time: f64) -> Option<Self> {
        let first = transactions.iter().map(|(block, ..)| *block).min()?;
        let last = transactions.iter().map(|(block, ..)| *block).max()?;
        let blocks = usize::try_from(last - first).ok()?.checked_sub(1).filter(|blocks| *blocks > 0)?;
        let inner: Vec<_> = transactions.iter().filter(|(block, ..)| (first + 1..last).contains(block)).collect();
        let gas: u64 = inner.iter().map(|(_, gas, _)| gas).sum();
        let grants: u64 = inner.iter().map(|(.., grants)| grants).sum();
        Some(Self {
            ratio: float(gas) / (float(blocks) * float(gas_per_block)),
            gas_per_block,
            blocks,
            transactions: inner.len(),
            grants_per_second: float(grants) / (float(blocks) * block_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_during_which_grants_queued_count() {
        let transactions = [(5, 1, 1), (6, 80, 40), (6, 100, 50), (8, 100, 50), (9, 7, 3)];
        let ceiling = Ceiling::of(&transactions, 200, 1.0).unwrap();
        // Blocks 6 to 8, of which 7 is empty.
        assert_eq!((ceiling.blocks, ceiling.transactions), (3, 3));
        assert!((ceiling.ratio - 280.0 / 600.0).abs() < 1e-9, "{ceiling:?}");
        assert!((ceiling.grants_per_second - 140.0 / 3.0).abs() < 1e-9, "{ceiling:?}");
        assert!(Ceiling::of(&transactions[..3], 200, 1.0).is_none());
    }

    #[test]
    fn an_address_fills_a_word() {
        assert_eq!(word("0xAb"), format!("{}ab", "0".repeat(62)));
    }
}
