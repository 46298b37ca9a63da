//! A chain in memory: accounts, nonces, a mempool, fees, blocks, reorgs, receipts, and the contracts' rules.
//!
//! It is held to a real node by the suite in `tests/conformance.rs`, and shares no code with the service's own encoding.
//! [`Simulated`] is the chain as the world moves it; a [`Node`] is what the service sees of it, through an RPC endpoint
//! that fails and lies as the world likes.

pub mod contracts;
mod node;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy::primitives::{Address, B256, Bytes, Log, U256, keccak256};
use blockchain::chain::{Block, Receipt};
pub use node::{Node, Weather};
pub use pool::Transaction;

use self::contracts::{Contracts, Effect, Undo};

/// The chain's id.
pub const CHAIN_ID: u64 = 31_337;
/// The chain's first block is made at this time, in seconds since the Unix epoch.
pub const GENESIS: u64 = 1_700_000_000;
/// The gas of one block.
const BLOCK_GAS: u64 = 60_000_000;
/// Wei in a gwei.
pub const GWEI: u64 = 1_000_000_000;
/// What every block's producer asks for, in wei a gas.
pub const TIP: u64 = GWEI;

/// A chain; clones are the same one.
#[derive(Debug, Clone)]
pub struct Simulated(Arc<Mutex<State>>);

/// All there is on the chain, and in the mempool of its nodes.
#[derive(Debug)]
pub struct State {
    /// How many blocks stand on one that nothing replaces: `finalized` is so far behind.
    finality: u64,
    /// The time of the next block, in seconds since the Unix epoch.
    pub now: u64,
    /// What the next blocks ask for, in wei a gas.
    pub base_fee: u64,
    blocks: Vec<Mined>,
    nonces: BTreeMap<Address, u64>,
    wei: BTreeMap<Address, U256>,
    contracts: Contracts,
    pool: BTreeMap<(Address, u64), Transaction>,
    /// Of the transactions in blocks of this chain.
    receipts: BTreeMap<B256, Receipt>,
    /// Of those that were in blocks that are gone.
    orphans: BTreeMap<B256, Receipt>,
    /// Every transaction that was ever given to a node, whatever it answered.
    known: BTreeMap<B256, Arc<Transaction>>,
    /// Which of them were given since the world last looked.
    sent: Vec<Arc<Transaction>>,
    /// Makes two blocks of the same contents differ.
    branch: u64,
}

#[derive(Debug)]
struct Mined {
    block: Block,
    timestamp: u64,
    transactions: Vec<Arc<Transaction>>,
    undo: Vec<Undone>,
}

/// How to undo a transaction.
#[derive(Debug)]
struct Undone {
    sender: Address,
    wei: U256,
    contracts: Vec<Undo>,
}

/// A payment, as the distributor told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paid {
    /// The grant's id on chain.
    pub id: U256,
    /// Who was paid.
    pub to: Address,
    /// How much, in base units.
    pub amount: U256,
    /// By which transaction.
    pub transaction_hash: B256,
}

impl Simulated {
    /// A chain whose blocks are final when so many are mined on them, with the contracts in place, and `submitter`
    /// funded and allowed to pay.
    #[must_use]
    pub fn new(finality: u64, submitter: Address) -> Self {
        let genesis = Block { number: 0, hash: keccak256("genesis"), base_fee_per_gas: GWEI };
        let mut state = State {
            finality,
            now: GENESIS,
            base_fee: GWEI,
            blocks: vec![Mined { block: genesis, timestamp: GENESIS, transactions: vec![], undo: vec![] }],
            nonces: BTreeMap::new(),
            wei: BTreeMap::new(),
            contracts: Contracts::new(submitter),
            pool: BTreeMap::new(),
            receipts: BTreeMap::new(),
            orphans: BTreeMap::new(),
            known: BTreeMap::new(),
            sent: vec![],
            branch: 0,
        };
        state.fund(submitter);
        Self(Arc::new(Mutex::new(state)))
    }

    /// The chain as it is now.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newest block.
    ///
    /// # Panics
    ///
    /// Never: there is a first block.
    #[must_use]
    pub fn head(&self) -> Block {
        self.blocks.last().expect("there is a first block").block
    }

    /// How many transactions wait.
    #[must_use]
    pub fn pool_size(&self) -> usize {
        self.pool.len()
    }

    /// Gives an account ether in plenty.
    pub fn fund(&mut self, account: Address) {
        self.wei.insert(account, U256::from(10).pow(U256::from(24)));
    }

    /// Leaves an account without ether.
    pub fn drain(&mut self, account: Address) {
        self.wei.insert(account, U256::from(1000));
    }

    /// Stops the distributor, or lets it go on.
    pub fn pause(&mut self, paused: bool) {
        self.contracts.paused = paused;
    }

    /// Stops the token, or lets it go on.
    pub fn pause_token(&mut self, paused: bool) {
        self.contracts.token_paused = paused;
    }

    /// The most that a day may pay, in base units; 0 for no limit.
    pub fn cap_days(&mut self, cap: U256) {
        self.contracts.daily_cap = cap;
    }

    /// The most that a campaign may pay, in base units.
    pub fn cap_campaign(&mut self, campaign: &str, cap: U256) {
        self.contracts.campaign_caps.insert(keccak256(campaign), cap);
    }

    /// From now on the distributor does not see what it has paid.
    pub fn make_forgetful(&mut self) {
        self.contracts.forgetful = true;
    }

    /// Forgets the transactions that wait, but for those that `stays`.
    pub fn drop_pool(&mut self, mut stays: impl FnMut() -> bool) -> usize {
        let before = self.pool.len();
        self.pool.retain(|_, _| stays());
        before - self.pool.len()
    }

    /// Somebody else who has the account's key sends a transaction from it that does nothing: behind those that wait, or in
    /// the place of the first of them.
    pub fn intrude(&mut self, account: Address, displaces: bool) -> u64 {
        let mut nonce = self.nonce(account);
        while !displaces && self.pool.contains_key(&(account, nonce)) {
            nonce += 1;
        }
        self.branch += 1;
        let hash = keccak256(self.branch.to_be_bytes());
        self.pool.insert((account, nonce), Transaction::foreign(hash, account, nonce));
        nonce
    }

    /// A player's claim, behind those that wait.
    pub fn claim(&mut self, call: Bytes) {
        let sender = contracts::CLAIMER;
        self.fund(sender);
        self.branch += 1;
        let hash = keccak256(self.branch.to_be_bytes());
        let nonce = self.pending_nonce(sender);
        let claim = Transaction::claim(hash, sender, nonce, call);
        self.pool.insert((sender, nonce), claim);
    }

    /// Mines a block from the transactions that wait, in the order of their nonces, leaving out those that `joins` does
    /// not let in and what stands behind them. Returns how many it holds.
    pub fn mine(&mut self, mut joins: impl FnMut() -> bool) -> usize {
        let parent = self.head();
        self.now = self.now.max(self.blocks.last().map_or(0, |mined| mined.timestamp)) + 1;
        self.branch += 1;
        let number = parent.number + 1;
        let mut seed = parent.hash.to_vec();
        seed.extend(self.now.to_be_bytes());
        seed.extend(self.branch.to_be_bytes());

        let mut chosen = Vec::new();
        let mut shut: BTreeSet<Address> = BTreeSet::new();
        let mut gas = 0;
        let mut next = self.nonces.clone();
        for ((sender, nonce), transaction) in &self.pool {
            let expected = next.entry(*sender).or_default();
            let fits = *nonce == *expected && transaction.max_fee >= self.base_fee && self.affords(transaction);
            if shut.contains(sender) || !fits || gas + transaction.gas_limit > BLOCK_GAS || !joins() {
                shut.insert(*sender);
                continue;
            }
            *expected += 1;
            gas += transaction.gas_limit;
            chosen.push(transaction.clone());
        }
        for transaction in &chosen {
            seed.extend(transaction.hash);
            self.pool.remove(&(transaction.sender, transaction.nonce));
        }
        let block = Block { number, hash: keccak256(&seed), base_fee_per_gas: self.base_fee };
        let mut mined = Mined { block, timestamp: self.now, transactions: vec![], undo: vec![] };
        for transaction in chosen {
            self.execute(&mut mined, Arc::new(transaction));
        }
        let count = mined.transactions.len();
        self.blocks.push(mined);
        count
    }

    fn affords(&self, transaction: &Transaction) -> bool {
        self.wei.get(&transaction.sender).is_some_and(|wei| *wei >= transaction.highest_cost())
    }

    fn execute(&mut self, mined: &mut Mined, transaction: Arc<Transaction>) {
        let Transaction { sender, hash, gas_limit, .. } = *transaction;
        let effect = match transaction.to {
            Some(to) => self.contracts.run(sender, to, &transaction.data, gas_limit, mined.timestamp),
            None => Effect { gas_used: gas_limit.min(53_000), outcome: Ok(vec![]), undo: vec![] },
        };
        let Effect { gas_used, outcome, undo } = effect;
        let price = transaction.max_fee.min(self.base_fee.saturating_add(transaction.tip));
        let wei = self.wei.entry(sender).or_default();
        mined.undo.push(Undone { sender, wei: *wei, contracts: undo });
        *wei = wei.saturating_sub(U256::from(price) * U256::from(gas_used));
        *self.nonces.entry(sender).or_default() += 1;
        let receipt = Receipt {
            transaction_hash: hash,
            block_number: mined.block.number,
            block_hash: mined.block.hash,
            succeeded: outcome.is_ok(),
            gas_used,
            gas_price: price,
            logs: outcome.unwrap_or_default(),
        };
        self.receipts.insert(hash, receipt);
        mined.transactions.push(transaction);
    }

    /// Takes the newest blocks away and puts others in their place, one more than there were. A transaction of theirs
    /// waits again where `returns` says so, and is gone otherwise. Returns the depth that was possible: what is final
    /// stays.
    pub fn reorg(&mut self, depth: u64, mut returns: impl FnMut() -> bool, mut joins: impl FnMut() -> bool) -> u64 {
        self.replace_blocks(depth.min(self.finality.saturating_sub(1)), &mut returns, &mut joins)
    }

    /// The same, and what is final does not stay: an attack, or a chain that was restored from an older copy.
    pub fn deep_reorg(&mut self, depth: u64) -> u64 {
        self.replace_blocks(depth, &mut || false, &mut || true)
    }

    fn replace_blocks(
        &mut self,
        depth: u64,
        returns: &mut dyn FnMut() -> bool,
        joins: &mut dyn FnMut() -> bool,
    ) -> u64 {
        let depth = depth.min(self.head().number);
        for _ in 0..depth {
            let mined = self.blocks.pop().expect("the depth is below the number of the head");
            for (transaction, undone) in mined.transactions.into_iter().zip(mined.undo).rev() {
                self.contracts.undo(undone.contracts);
                self.wei.insert(undone.sender, undone.wei);
                self.nonces.entry(undone.sender).and_modify(|nonce| *nonce -= 1);
                if let Some(receipt) = self.receipts.remove(&transaction.hash) {
                    self.orphans.insert(transaction.hash, receipt);
                }
                if returns() {
                    // A replacement that waits meanwhile, at the same nonce, gives way.
                    self.pool.insert((transaction.sender, transaction.nonce), Transaction::clone(&transaction));
                }
            }
        }
        if depth > 0 {
            for _ in 0..=depth {
                self.mine(&mut *joins);
            }
        }
        depth
    }

    /// The transactions that were given to a node since this was last asked.
    pub fn take_sent(&mut self) -> Vec<Arc<Transaction>> {
        std::mem::take(&mut self.sent)
    }

    /// The next nonce of an account, on the newest block.
    #[must_use]
    pub fn nonce(&self, account: Address) -> u64 {
        self.nonces.get(&account).copied().unwrap_or(0)
    }

    /// The number of the block that holds this transaction, if no reorg takes it away.
    #[must_use]
    pub fn final_block_of(&self, hash: B256) -> Option<u64> {
        let number = self.receipts.get(&hash)?.block_number;
        (number + self.finality <= self.head().number + 1).then_some(number)
    }

    /// What contracts told in a transaction; nothing where it is in no block.
    #[must_use]
    pub fn logs_of(&self, hash: B256) -> &[Log] {
        self.receipts.get(&hash).map_or(&[], |receipt| &receipt.logs)
    }

    /// All payments of this chain, in its order.
    #[must_use]
    pub fn payments(&self) -> Vec<Paid> {
        let logs = self.blocks.iter().flat_map(|mined| &mined.transactions).flat_map(|transaction| {
            let receipt = &self.receipts[&transaction.hash];
            receipt.logs.iter().map(|log| (receipt.transaction_hash, log))
        });
        let paid = logs.flat_map(|(transaction_hash, log)| {
            let payments = contracts::payments(log).into_iter();
            payments.map(move |(id, to, amount)| Paid { id, to, amount, transaction_hash })
        });
        paid.collect()
    }

    /// What every account holds of the token, in base units.
    #[must_use]
    pub fn balances(&self) -> &BTreeMap<Address, U256> {
        self.contracts.balances()
    }

    /// The transaction in a block of this chain at this nonce.
    #[must_use]
    pub fn mined_at(&self, sender: Address, nonce: u64) -> Option<&Transaction> {
        let all = self.blocks.iter().rev().flat_map(|mined| &mined.transactions);
        all.map(AsRef::as_ref).find(|transaction| transaction.sender == sender && transaction.nonce == nonce)
    }
}

/// What a node answers where a call was reverted.
fn reverted(data: Bytes) -> blockchain::chain::Error {
    blockchain::chain::Error::Reverted(data)
}
