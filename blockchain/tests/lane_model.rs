//! The decisions about a lane's transactions, against a model of the chain: any interleaving of submissions, looks through
//! nodes that lag or follow another branch, answers that are lost, blocks, reorgs below finality, mempools that forget,
//! somebody else's transactions and crashes between a commit and a send.
//!
//! What must hold at every moment, without any help from the contract: no batch is paid twice on the chain; what ended as
//! succeeded is on the chain; a batch is in one place only. And when all is quiet, every batch has been paid.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;

use alloy::primitives::{B256, keccak256};
use blockchain::chain::{Receipt, Refusal};
use blockchain::fees::Fees;
use blockchain::transaction::{Attempt, BlockId, End, Patience, Pending, Purpose, Sight, Step};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use shared::clock::from_micros;

/// A block is final when so many hold it or follow it; reorgs are less deep.
const FINALITY: usize = 4;

const PATIENCE: Patience = Patience {
    resend_after: TimeDelta::seconds(10),
    replace_after: TimeDelta::seconds(60),
    cancel_after: TimeDelta::seconds(300),
};

/// What the chain asks for.
const FEES: Fees = Fees { max_fee_per_gas: 1_000, max_priority_fee_per_gas: 100 };

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_pays_each_batch_once(sequential 1..80 => World);
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A batch of grants wants to be paid.
    Request,
    /// The submitter takes one.
    Submit,
    /// The confirmer looks, and does what is to be done.
    Look { node: Node, answer: Answer },
    /// The gap repairer looks, and fills what is missing.
    Repair,
    /// A block holds the next so many transactions of the mempool.
    Mine(usize),
    /// So many blocks are replaced by empty ones; their transactions wait again, or are forgotten.
    Reorg { depth: usize, forgotten: bool },
    /// The mempool is empty.
    Forget,
    /// Somebody else uses the signer's next nonce.
    Foreign,
    /// Time passes.
    Wait(i64),
}

/// Through which node the confirmer looks.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// By how many blocks it is behind.
    lag: usize,
    /// How many reorgs it has not heard of.
    branch: usize,
}

/// What becomes of the bytes that are sent.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// The node says what it does with them.
    Given,
    /// They arrive, and nobody says so.
    LostAfter,
    /// They do not arrive.
    LostBefore,
    /// They arrive, and the node says that they do not.
    Lie(Refusal),
    /// The process is killed after it has committed them.
    Killed,
}

/// The model knows how many batches there are, which is how many there must be in the end.
#[derive(Debug, Clone, Default)]
struct Model {
    batches: usize,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Event> {
        let node = (0..4_usize, 0..3_usize).prop_map(|(lag, branch)| Node { lag, branch });
        let lies = prop::sample::select(vec![
            Refusal::Known,
            Refusal::NonceTooLow,
            Refusal::ReplacementUnderpriced,
            Refusal::Underpriced,
            Refusal::InsufficientFunds,
            Refusal::Invalid,
            Refusal::Unknown,
        ]);
        let answer = prop_oneof![
            6 => Just(Answer::Given),
            1 => Just(Answer::LostAfter),
            1 => Just(Answer::LostBefore),
            1 => Just(Answer::Killed),
            1 => lies.prop_map(Answer::Lie),
        ];
        prop_oneof![
            3 => Just(Event::Request),
            4 => Just(Event::Submit),
            8 => (node, answer).prop_map(|(node, answer)| Event::Look { node, answer }),
            1 => Just(Event::Repair),
            6 => (0..3_usize).prop_map(Event::Mine),
            2 => (1..FINALITY, any::<bool>()).prop_map(|(depth, forgotten)| Event::Reorg { depth, forgotten }),
            1 => Just(Event::Forget),
            1 => Just(Event::Foreign),
            4 => prop::sample::select(vec![1, 10, 60, 300]).prop_map(Event::Wait),
        ]
        .boxed()
    }

    fn apply(mut model: Self, event: &Event) -> Self {
        model.batches += usize::from(matches!(event, Event::Request));
        model
    }
}

#[derive(Debug, Clone)]
struct Block {
    hash: B256,
    /// Nonce and hash of the signer's transactions in it.
    transactions: Vec<(u64, B256)>,
}

/// A transaction as the store keeps it.
struct Stored {
    pending: Pending,
    /// What it pays; a transaction that fills a gap pays nothing.
    batch: Option<usize>,
    end: Option<End>,
}

/// The chain, and the lane under test.
struct World {
    blocks: Vec<Block>,
    /// The branches that were given up, the latest last.
    branches: Vec<Vec<Block>>,
    mempool: BTreeMap<u64, (B256, Fees)>,
    queue: Vec<usize>,
    batches: usize,
    transactions: Vec<Stored>,
    now: DateTime<Utc>,
    hashes: u64,
    /// The newest block when the confirmer looked last.
    seen_head: Option<B256>,
}

impl StateMachineTest for World {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let mut world = Self {
            blocks: vec![],
            branches: vec![],
            mempool: BTreeMap::new(),
            queue: vec![],
            batches: 0,
            transactions: vec![],
            now: from_micros(1_700_000_000_000_000),
            hashes: 0,
            seen_head: None,
        };
        world.mine(0);
        world
    }

    fn apply(mut world: Self, _: &Model, event: Event) -> Self {
        match event {
            Event::Request => {
                world.queue.push(world.batches);
                world.batches += 1;
            }
            Event::Submit => world.submit(),
            Event::Look { node, answer } => world.look(node, answer),
            Event::Repair => world.repair(),
            Event::Mine(most) => world.mine(most),
            Event::Reorg { depth, forgotten } => world.reorg(depth, forgotten),
            Event::Forget => world.mempool.clear(),
            Event::Foreign => {
                let (nonce, hash) = (mined_nonce(&world.blocks), world.hash());
                world.mempool.remove(&nonce);
                let block = Block { hash: world.hash(), transactions: vec![(nonce, hash)] };
                world.blocks.push(block);
            }
            Event::Wait(seconds) => world.now += TimeDelta::seconds(seconds),
        }
        world
    }

    fn check_invariants(world: &Self, model: &Model) {
        assert_eq!(world.batches, model.batches);
        let on_chain: Vec<_> = world.blocks.iter().flat_map(|block| &block.transactions).collect();
        for batch in 0..world.batches {
            let of_batch = || world.transactions.iter().filter(|stored| stored.batch == Some(batch));
            let paid = of_batch()
                .flat_map(|stored| stored.pending.attempts.iter().filter(|attempt| attempt.purpose == Purpose::Pay))
                .filter(|attempt| on_chain.iter().any(|(_, hash)| *hash == attempt.hash))
                .count();
            assert!(paid <= 1, "batch {batch} is paid {paid} times");
            let open = of_batch().filter(|stored| stored.end.is_none()).count();
            let ended = of_batch().filter(|stored| stored.end == Some(End::Succeeded)).count();
            let queued = world.queue.iter().filter(|queued| **queued == batch).count();
            assert_eq!(open + ended + queued, 1, "batch {batch}: {open} open, {ended} ended, {queued} queued");
            assert!(ended <= paid, "batch {batch} ended as paid and is not on the chain");
        }
    }

    /// Quiet: nothing goes wrong any more, and time goes on.
    fn teardown(mut world: Self, model: Model) {
        for _ in 0..200 {
            for _ in 0..world.queue.len() {
                world.submit();
            }
            world.repair();
            world.look(Node { lag: 0, branch: 0 }, Answer::Given);
            world.mine(usize::MAX);
            world.now += TimeDelta::seconds(15);
        }
        Self::check_invariants(&world, &model);
        let paid = world.transactions.iter().filter(|stored| stored.end == Some(End::Succeeded)).count();
        assert_eq!(paid, model.batches, "every batch is paid in the end");
    }
}

impl World {
    fn hash(&mut self) -> B256 {
        self.hashes += 1;
        keccak256(self.hashes.to_be_bytes())
    }

    fn attempt(&mut self, purpose: Purpose, fees: Fees) -> Attempt {
        Attempt { hash: self.hash(), purpose, fees, created_at: self.now, sent_at: None, refusal: None }
    }

    /// What the submitter commits; it is killed before it sends.
    fn submit(&mut self) {
        if self.queue.is_empty() || self.transactions.iter().filter(|stored| stored.end.is_none()).count() >= 4 {
            return;
        }
        let batch = self.queue.remove(0);
        let after_ours = self.transactions.iter().map(|stored| stored.pending.nonce + 1).max().unwrap_or(0);
        // Where somebody else has used nonces, they are skipped.
        self.commit(after_ours.max(mined_nonce(&self.blocks)), Purpose::Pay, Some(batch));
    }

    fn commit(&mut self, nonce: u64, purpose: Purpose, batch: Option<usize>) {
        let attempt = self.attempt(purpose, FEES);
        let id = self.transactions.len().to_string();
        let (created_at, open_since) = (self.now, self.now);
        let pending =
            Pending { id, nonce, created_at, open_since, mined_in: None, finality: None, attempts: vec![attempt] };
        self.transactions.push(Stored { pending, batch, end: None });
    }

    /// What the gap repairer commits, where somebody else's transactions are gone that were skipped.
    fn repair(&mut self) {
        let open = self.transactions.iter().filter(|stored| stored.end.is_none()).map(|stored| stored.pending.nonce);
        let oldest_open = open.min().unwrap_or(0);
        for nonce in mined_nonce(&self.blocks)..oldest_open {
            let known = self.transactions.iter().any(|stored| stored.pending.nonce == nonce);
            assert!(!known, "what has ended is not taken away by a reorg below finality");
            self.commit(nonce, Purpose::Cancel, None);
        }
    }

    /// What the confirmer does in a step.
    fn look(&mut self, node: Node, answer: Answer) {
        let given_up = self.branches.len().checked_sub(node.branch).filter(|_| node.branch > 0);
        let branch = given_up.map_or(&self.blocks, |at| &self.branches[at]);
        let seen = branch[..branch.len().saturating_sub(node.lag).max(1)].to_vec();
        let last_final = (seen.len()).checked_sub(FINALITY);
        let sight = Sight {
            mined_nonce: mined_nonce(&seen),
            final_nonce: last_final.map(|last| mined_nonce(&seen[..=last])),
            final_block: last_final.map(|last| last as u64),
            new_block: std::mem::replace(&mut self.seen_head, seen.last().map(|block| block.hash))
                != seen.last().map(|block| block.hash),
        };
        for at in 0..self.transactions.len() {
            let stored = &self.transactions[at];
            if stored.end.is_some() {
                continue;
            }
            let receipt = receipt(&seen, &stored.pending);
            match stored.pending.next_step(&sight, receipt.as_ref(), &PATIENCE, self.now) {
                Step::Wait => {}
                Step::Mined(block) => self.transactions[at].pending.mined_in = Some(block),
                Step::FellBack => {
                    self.transactions[at].pending.mined_in = None;
                    self.send(at, answer);
                }
                Step::SendAgain => self.send(at, answer),
                Step::Replace(purpose) => {
                    let fees = match stored.pending.fees_to_outbid() {
                        Some(before) => before.replaced_by(before, u64::MAX).unwrap(),
                        None => FEES,
                    };
                    let attempt = self.attempt(purpose, fees);
                    self.transactions[at].pending.attempts.push(attempt);
                    self.send(at, answer);
                }
                Step::Settle => {
                    let mined = stored.pending.attempt(receipt.unwrap().transaction_hash).unwrap();
                    let end = if mined.purpose == Purpose::Pay { End::Succeeded } else { End::Cancelled };
                    self.end(at, end);
                }
                Step::GiveUp => self.end(at, End::GivenUp),
            }
        }
    }

    fn end(&mut self, at: usize, end: End) {
        self.transactions[at].end = Some(end);
        if end != End::Succeeded {
            self.queue.extend(self.transactions[at].batch);
        }
    }

    fn send(&mut self, at: usize, answer: Answer) {
        let (nonce, now) = (self.transactions[at].pending.nonce, self.now);
        let attempt = self.transactions[at].pending.attempts.last().unwrap().clone();
        let refusal = if matches!(answer, Answer::LostBefore | Answer::Killed) {
            return;
        } else if nonce < mined_nonce(&self.blocks) {
            Some(Refusal::NonceTooLow)
        } else {
            match self.mempool.get(&nonce) {
                Some((hash, _)) if *hash == attempt.hash => Some(Refusal::Known),
                // The rule of the nodes: a tenth more.
                Some((_, fees)) if attempt.fees.max_fee_per_gas * 10 < fees.max_fee_per_gas * 11 => {
                    Some(Refusal::ReplacementUnderpriced)
                }
                _ => {
                    self.mempool.insert(nonce, (attempt.hash, attempt.fees));
                    None
                }
            }
        };
        let told = match answer {
            Answer::LostAfter => return,
            Answer::Lie(refusal) => Some(refusal),
            _ => refusal,
        };
        // As the sender does.
        let newest = self.transactions[at].pending.attempts.last_mut().unwrap();
        newest.sent_at = Some(now);
        newest.refusal = told.filter(|refusal| !matches!(refusal, Refusal::Known | Refusal::NonceTooLow));
    }

    fn mine(&mut self, most: usize) {
        let mut transactions = Vec::new();
        let mut next = mined_nonce(&self.blocks);
        while transactions.len() < most
            && let Some((hash, _)) = self.mempool.remove(&next)
        {
            transactions.push((next, hash));
            next += 1;
        }
        let block = Block { hash: self.hash(), transactions };
        self.blocks.push(block);
    }

    fn reorg(&mut self, depth: usize, forgotten: bool) {
        // The first block is the chain's own, and what was final when anybody looked stays.
        let depth = depth.min(self.blocks.len() - 1);
        self.branches.push(self.blocks.clone());
        let removed = self.blocks.split_off(self.blocks.len() - depth);
        for (nonce, hash) in removed.into_iter().flat_map(|block| block.transactions) {
            let attempt = self.transactions.iter().find_map(|stored| stored.pending.attempt(hash));
            if let Some(attempt) = attempt.filter(|_| !forgotten) {
                self.mempool.entry(nonce).or_insert((hash, attempt.fees));
            }
        }
        // A branch is followed since it is the longer one.
        for _ in 0..=depth {
            self.mine(0);
        }
    }
}

fn mined_nonce(blocks: &[Block]) -> u64 {
    blocks.iter().flat_map(|block| &block.transactions).map(|(nonce, _)| nonce + 1).max().unwrap_or(0)
}

/// The receipt of whichever attempt is in a block.
fn receipt(blocks: &[Block], pending: &Pending) -> Option<Receipt> {
    blocks.iter().enumerate().find_map(|(number, block)| {
        let (_, hash) = block.transactions.iter().find(|(_, hash)| pending.attempt(*hash).is_some())?;
        let BlockId { number, hash: block_hash } = BlockId { number: number as u64, hash: block.hash };
        Some(Receipt {
            transaction_hash: *hash,
            block_number: number,
            block_hash,
            succeeded: true,
            gas_used: 1,
            gas_price: 1,
            logs: vec![],
        })
    })
}
