//! Reading the chain for an audit, from nodes as they are: they refuse long ranges and long answers, fall behind, leave
//! events out, and change their mind about blocks. In the end every event of the chain is kept, and nothing else.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use alloy::primitives::aliases::U192;
use alloy::primitives::{Address, B256, Bytes, Log, LogData, U256};
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent as _;
use async_trait::async_trait;
use blockchain::audit::Kind;
use blockchain::audit::auditor::Auditor;
use blockchain::audit::reader::{Chunk, Error, Reader, Reading};
use blockchain::chain::{self, At, Block, Call, Chain, LogEntry, Receipt};
use blockchain::contract::GrantDistributor::{GrantPaid, GrantsPaid};
use blockchain::deployment::Deployment;
use blockchain::domain::{Demand, Ending, GrantId, Paid, Payment, Wallets};
use blockchain::earlier::Earlier;
use blockchain::finality::Finality;
use blockchain::store::{Settlement, Source, Store, Verdict};
use chrono::TimeDelta;
use shared::clock::{Clock, from_micros};
use shared::event::Terms;
use testkit::Place;

const DISTRIBUTOR: Address = Address::repeat_byte(0xd1);
const SOURCE: Source = Source { chain_id: 31_337, distributor: DISTRIBUTOR, first_block: 5 };

/// A node, and what it does not like.
#[derive(Debug, Default)]
struct Node {
    /// Its blocks, each with the ids of the grants that it pays; the number is the place.
    blocks: Vec<(B256, Vec<u64>)>,
    /// It refuses longer ranges.
    max_blocks: Option<u64>,
    /// It refuses longer answers.
    max_events: Option<usize>,
    /// It says nothing of these blocks' events.
    silent: Vec<u64>,
    /// It answers about events of another contract.
    confused: bool,
    /// The ranges that it was asked for.
    asked: Vec<(u64, u64)>,
}

/// The node, shared with the reader.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Node>>);

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Node)) {
        change(&mut self.0.lock().unwrap());
    }

    fn asked(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

fn paid(grant: u64) -> LogData {
    GrantPaid { id: U256::from(grant), to: Address::repeat_byte(1), amount: U256::from(7) }.encode_log_data()
}

fn paid_together(grants: &[u64]) -> LogData {
    let item = |grant: &u64| [&grant.to_be_bytes()[..], &[1; 20], &[0; 11], &[7]].concat();
    let items = grants.iter().flat_map(item).collect::<Vec<_>>().into();
    GrantsPaid { campaign: B256::ZERO, prefix: U192::ZERO, items }.encode_log_data()
}

fn refused(message: &str) -> chain::Error {
    chain::Error::Node { code: -32_005, message: message.to_owned() }
}

#[async_trait]
impl Chain for Shared {
    fn one_node(&self) -> Arc<dyn Chain> {
        Arc::new(self.clone())
    }

    async fn block(&self, at: At) -> chain::Result<Option<Block>> {
        let node = self.0.lock().unwrap();
        let head = node.blocks.len() as u64 - 1;
        let number = match at {
            At::Number(number) => number,
            At::Finalized => head - 20,
            _ => head,
        };
        let found = node.blocks.get(usize::try_from(number).unwrap());
        Ok(found.map(|(hash, _)| Block { number, hash: *hash, base_fee_per_gas: 0 }))
    }

    async fn logs(&self, filter: &Filter) -> chain::Result<Vec<LogEntry>> {
        let mut node = self.0.lock().unwrap();
        let (from, to) = (filter.get_from_block().unwrap(), filter.get_to_block().unwrap());
        node.asked.push((from, to));
        if node.max_blocks.is_some_and(|max| to - from + 1 > max) {
            return Err(refused("block range is too wide"));
        }
        let address = if node.confused { Address::repeat_byte(0xee) } else { DISTRIBUTOR };
        let mut logs = Vec::new();
        for number in (from..=to).filter(|number| !node.silent.contains(number)) {
            let Some((hash, grants)) = node.blocks.get(usize::try_from(number).unwrap()) else { continue };
            // Every second of these blocks tells of its payments in one event.
            let together = number % 20 == 19;
            let told = grants.chunks(if together { grants.len().max(1) } else { 1 });
            for (log_index, grants) in (0..).zip(told) {
                let data = if together { paid_together(grants) } else { paid(grants[0]) };
                logs.push(LogEntry {
                    log: Log { address, data },
                    transaction_hash: *hash,
                    block_number: number,
                    block_hash: *hash,
                    log_index,
                });
            }
        }
        if node.max_events.is_some_and(|max| logs.len() > max) {
            return Err(refused("query returned more results than allowed"));
        }
        Ok(logs)
    }

    async fn chain_id(&self) -> chain::Result<u64> {
        unreachable!("a reader does not ask")
    }

    async fn code(&self, _: Address) -> chain::Result<Bytes> {
        unreachable!("a reader does not ask")
    }

    async fn balance(&self, _: Address) -> chain::Result<U256> {
        unreachable!("a reader does not ask")
    }

    async fn nonce(&self, _: Address, _: At) -> chain::Result<u64> {
        unreachable!("a reader does not ask")
    }

    async fn priority_fee(&self) -> chain::Result<u64> {
        unreachable!("a reader does not ask")
    }

    async fn call(&self, _: Call) -> chain::Result<Bytes> {
        unreachable!("a reader does not ask")
    }

    async fn send(&self, _: &[u8]) -> chain::Result<()> {
        unreachable!("a reader does not ask")
    }

    async fn receipts(&self, _: &[B256]) -> chain::Result<Vec<Option<Receipt>>> {
        unreachable!("a reader does not ask")
    }
}

/// A hundred blocks, of which each tenth pays two grants; `branch` makes them others.
fn blocks(branch: u8) -> Vec<(B256, Vec<u64>)> {
    let hash = |number: u64| B256::from(U256::from(number) << 16 | U256::from(branch));
    let paid = |number: u64| if number % 10 == 9 { vec![number, number + 1000] } else { Vec::new() };
    (0..100).map(|number| (hash(number), paid(number))).collect()
}

struct Stage {
    node: Shared,
    reader: Reader,
    _place: Place,
}

impl Stage {
    async fn set(node: Node) -> Self {
        let place = Place::sqlite().unwrap();
        let node = Shared(Arc::new(Mutex::new(node)));
        let reader = Reader {
            store: Store::open(&place.url().into()).await.unwrap(),
            chain: Arc::new(node.clone()),
            clock: Clock::manual(from_micros(0)),
            source: SOURCE,
            finality: Finality::Blocks(1),
            chunk: Chunk::new(40),
        };
        Self { node, reader, _place: place }
    }

    /// Reads all there is; returns the first block that was not read.
    async fn read(&self) -> u64 {
        loop {
            if let Reading::UpTo { next_block } = self.reader.read_once().await.unwrap() {
                return next_block;
            }
        }
    }

    /// What is kept: block and id of each event.
    async fn kept(&self) -> Vec<(u64, u64)> {
        let page = self.reader.store.chain_payments_after(None, u64::MAX >> 1, 500).await.unwrap();
        page.into_iter().map(|(paid, _)| (paid.block_number, paid.grant_id.0.to())).collect()
    }
}

/// What is to be kept of these blocks.
fn events(blocks: &[(B256, Vec<u64>)]) -> Vec<(u64, u64)> {
    let numbered = (0..).zip(blocks).skip(5);
    numbered.flat_map(|(number, (_, grants))| grants.iter().map(move |grant| (number, *grant))).collect()
}

#[tokio::test]
async fn every_event_is_read_once_from_the_first_block_on() {
    let stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    assert_eq!(stage.read().await, 100);
    assert_eq!(stage.kept().await, events(&blocks(0)));
    assert_eq!(stage.node.asked(), [(5, 12), (13, 28), (29, 60), (61, 99)]);
    stage.read().await;
    assert_eq!(stage.node.asked(), [], "nothing is read twice");
}

#[tokio::test]
async fn only_final_blocks_are_read() {
    let mut stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    stage.reader.finality = Finality::Blocks(12);
    assert_eq!(stage.read().await, 89);
    assert_eq!(stage.kept().await, events(&blocks(0)[..89]));
    for fewer in [Finality::Blocks(1000), Finality::Finalized] {
        stage.reader.finality = fewer;
        assert_eq!(stage.read().await, 89);
    }
    let mut stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    stage.reader.finality = Finality::Finalized;
    assert_eq!(stage.read().await, 80);
}

#[tokio::test]
async fn a_node_that_refuses_a_range_is_asked_for_shorter_ones() {
    let stage = Stage::set(Node { blocks: blocks(0), max_blocks: Some(7), ..Node::default() }).await;
    assert_eq!(stage.read().await, 100);
    assert_eq!(stage.kept().await, events(&blocks(0)));
    assert_eq!(stage.node.asked()[..4], [(5, 12), (5, 8), (9, 16), (9, 12)]);

    let stage = Stage::set(Node { blocks: blocks(0), max_events: Some(3), ..Node::default() }).await;
    stage.read().await;
    assert_eq!(stage.kept().await, events(&blocks(0)));

    let hopeless = Stage::set(Node { blocks: blocks(0), max_blocks: Some(0), ..Node::default() }).await;
    let error = loop {
        match hopeless.reader.read_once().await {
            Ok(reading) => assert_eq!(reading, Reading::More),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Chain(chain::Error::Node { .. })), "{error}");
}

#[tokio::test]
async fn blocks_that_were_replaced_are_read_again_from_the_last_that_stayed() {
    let stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    stage.read().await;
    // From block 60 on it is another chain, on which some grants are paid elsewhere and some are not.
    let mut replaced = blocks(0);
    replaced.splice(60.., blocks(1).split_off(60));
    replaced[69].1.clear();
    replaced[75].1.push(69);
    stage.node.change(|node| node.blocks.clone_from(&replaced));
    stage.node.asked();
    assert_eq!(stage.read().await, 100);
    assert_eq!(stage.kept().await, events(&replaced));
    assert_eq!(stage.node.asked()[0].0, 60, "what stayed is not read again: block 59 pays");

    stage.node.change(|node| node.blocks = blocks(2));
    stage.read().await;
    assert_eq!(stage.kept().await, events(&blocks(2)));
    assert_eq!(stage.node.asked()[0].0, SOURCE.first_block);
}

#[tokio::test]
async fn a_node_that_is_behind_changes_nothing() {
    let stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    stage.read().await;
    stage.node.change(|node| node.blocks.truncate(50));
    let error = stage.reader.read_once().await.unwrap_err();
    assert!(matches!(error, Error::Behind(99)), "{error}");
    assert_eq!(stage.kept().await, events(&blocks(0)));
    stage.node.change(|node| node.blocks = blocks(0));
    assert_eq!(stage.read().await, 100);
}

#[tokio::test]
async fn what_a_node_left_out_is_found_when_its_block_is_read_again() {
    let stage = Stage::set(Node { blocks: blocks(0), silent: vec![29], ..Node::default() }).await;
    stage.read().await;
    assert_eq!(stage.kept().await.len(), events(&blocks(0)).len() - 2);
    assert_eq!(stage.reader.read_again(29).await.unwrap(), 0);
    stage.node.change(|node| node.silent.clear());
    assert_eq!(stage.reader.read_again(29).await.unwrap(), 2);
    assert_eq!(stage.reader.read_again(29).await.unwrap(), 0);
    assert_eq!(stage.kept().await, events(&blocks(0)));
}

/// A payment that a node left out is no difference: the block in which the ledger places it is read again.
#[tokio::test]
async fn a_payment_is_missing_only_after_a_second_look() {
    let stage = Stage::set(Node { blocks: blocks(0), silent: vec![29, 39], ..Node::default() }).await;
    let Stage { node, reader, _place } = stage;
    let store = reader.store.clone();
    for grant in [29, 39] {
        let payment = Payment {
            request_id: format!("request-{grant}").parse().unwrap(),
            grant_id: GrantId(U256::from(grant)),
            user_id: "alice".parse().unwrap(),
            campaign_id: "summer".parse().unwrap(),
            recipient: Address::repeat_byte(1).try_into().unwrap(),
            token_amount: 7.try_into().unwrap(),
            requested_at: from_micros(0),
            trace: None,
            terms: Terms::default(),
        };
        store.receive(&[Demand::Pay(payment.clone())], 18, from_micros(0)).await.unwrap();
        let (transaction_hash, _) = blocks(0)[usize::try_from(grant).unwrap()];
        let ending = Ending::Completed(Paid { transaction_hash, block_number: grant, gas_used: None, gas_price: None });
        let verdicts = vec![(payment, Verdict::Ended(ending))];
        store.settle(&Settlement { transaction: None, verdicts }, from_micros(0)).await.unwrap();
    }
    let wallets = Wallets { factory: Address::ZERO, code_hash: B256::ZERO };
    let auditor = Auditor {
        store,
        clock: reader.clock.clone(),
        reader,
        deployment: Deployment {
            distributor: DISTRIBUTOR,
            token: Address::ZERO,
            decimals: 0,
            mints_batches: true,
            wallets,
            block: 5,
        },
        campaign: None,
        grace: TimeDelta::zero(),
        repair: true,
        claims_seen_below: AtomicU64::new(0),
        observations: Arc::default(),
        outbox_ready: Arc::default(),
    };
    let missing = async || {
        while auditor.read_once().await.unwrap() == Reading::More {}
        let mut round = auditor.begin(100);
        while auditor.step(&mut round).await.unwrap() {}
        round.into_report().counts.get(&Kind::MissingPayment).copied()
    };
    assert_eq!(missing().await, Some(2));
    node.change(|node| node.silent = vec![39]);
    assert_eq!(missing().await, Some(1));
    node.change(|node| node.silent.clear());
    assert_eq!(missing().await, None);
}

/// Which of these grants are found to have been paid, in which blocks.
async fn found(earlier: &Earlier, node: &Shared, grants: &[u64]) -> Vec<(u64, u64)> {
    let ids: Vec<_> = grants.iter().map(|grant| GrantId(U256::from(*grant))).collect();
    let found = earlier.payments(node, &ids).await.unwrap();
    let mut found: Vec<_> = found.iter().map(|(id, paid)| (id.0.to(), paid.block_number)).collect();
    found.sort_unstable();
    found
}

fn earlier(stage: &Stage, max_blocks: u64) -> Earlier {
    let Reader { store, chain, clock, source, finality, .. } = &stage.reader;
    let (store, chain, clock) = (store.clone(), Arc::clone(chain), clock.clone());
    let reader = Reader { store, chain, clock, source: *source, finality: *finality, chunk: Chunk::new(max_blocks) };
    Earlier::over(reader, max_blocks)
}

#[tokio::test]
async fn earlier_payments_are_found_where_they_were_read_and_where_they_were_not() {
    let mut stage = Stage::set(Node { blocks: blocks(0), ..Node::default() }).await;
    stage.reader.finality = Finality::Blocks(41);
    assert_eq!(stage.read().await, 60);
    let earlier = earlier(&stage, 50);
    stage.node.asked();
    assert_eq!(found(&earlier, &stage.node, &[1019, 9]).await, [(9, 9), (1019, 19)]);
    assert_eq!(stage.node.asked(), [], "what was read is not asked for");
    assert_eq!(found(&earlier, &stage.node, &[19, 1079, 69]).await, [(19, 19), (69, 69), (1079, 79)]);
    assert_eq!(found(&earlier, &stage.node, &[1099, 55]).await, [(1099, 99)]);
    assert_eq!(found(&earlier, &stage.node, &[]).await, []);
}

#[tokio::test]
async fn no_more_is_asked_for_than_an_answer_may_hold_and_the_reader_catches_up() {
    let stage = Stage::set(Node { blocks: blocks(0), max_blocks: Some(10), ..Node::default() }).await;
    let earlier = earlier(&stage, 10);
    assert_eq!(found(&earlier, &stage.node, &[9, 79]).await, [(9, 9)]);
    assert!(stage.node.asked().iter().all(|(from, to)| *from >= 5 && *to < 15));
    stage.read().await;
    assert_eq!(found(&earlier, &stage.node, &[9, 79]).await, [(9, 9), (79, 79)]);
}

#[tokio::test]
async fn what_a_node_had_left_out_is_found_in_the_end() {
    let stage = Stage::set(Node { blocks: blocks(0), silent: vec![29, 39], ..Node::default() }).await;
    stage.read().await;
    stage.node.change(|node| node.silent.clear());
    let earlier = earlier(&stage, 10);
    let mut looks = 0;
    while found(&earlier, &stage.node, &[1029, 39]).await.len() < 2 {
        looks += 1;
        assert!(looks < 20);
    }
    assert_eq!(stage.kept().await, events(&blocks(0)), "and kept");
}

#[tokio::test]
async fn an_answer_to_another_question_is_refused() {
    let stage = Stage::set(Node { blocks: blocks(0), confused: true, ..Node::default() }).await;
    let error = stage.reader.read_once().await.unwrap_err();
    assert!(matches!(error, Error::Malformed { from: 5, to: 12 }), "{error}");
    assert_eq!(stage.kept().await, []);
}
