//! The chain as the service sees it, through an endpoint that may be slow, behind, forgetful or wrong.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::{Filter, FilterBlockOption};
use async_trait::async_trait;
use blockchain::chain::{At, Block, Call, Chain, Error, LogEntry, Receipt, Result};

use super::{CHAIN_ID, Simulated, State, TIP, contracts, reverted};
use crate::dice::Dice;
use crate::fuse::Fuse;

/// How often, in thousand calls, an endpoint does what it should not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// It does not answer, and did nothing.
    pub silent: u16,
    /// It takes a transaction and does not answer.
    pub taken_silently: u16,
    /// It answers as of an older block.
    pub stale: u16,
    /// It says that there is no receipt.
    pub no_receipt: u16,
    /// It shows the receipt of a block that is gone.
    pub orphan: u16,
    /// It leaves out the last of the logs.
    pub truncated: u16,
    /// It answers a transaction with an error that is not true, and may have taken it.
    pub wrong_words: u16,
    /// A block is mined just before it answers.
    pub mined_meanwhile: u16,
    /// A reorg happens just before it answers.
    pub reorg_meanwhile: u16,
}

/// One endpoint; clones are the same one.
#[derive(Clone)]
pub struct Node {
    chain: Simulated,
    fuse: Fuse,
    mood: Arc<Mutex<Mood>>,
    /// How many blocks it is behind, for one that was [picked](Chain::one_node).
    behind: Option<u64>,
}

#[derive(Debug)]
struct Mood {
    weather: Weather,
    dice: Dice,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("behind", &self.behind).finish_non_exhaustive()
    }
}

impl Node {
    /// An endpoint in fair weather.
    #[must_use]
    pub fn new(chain: Simulated, fuse: Fuse) -> Self {
        let mood = Mood { weather: Weather::default(), dice: Dice::new(0) };
        Self { chain, fuse, mood: Arc::new(Mutex::new(mood)), behind: None }
    }

    /// What the next calls meet.
    pub fn set_weather(&self, weather: Weather, dice: Dice) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = Mood { weather, dice };
    }

    fn happens(&self, what: impl FnOnce(&Weather) -> u16) -> bool {
        let mut mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let often = what(&mood.weather);
        mood.dice.happens(often)
    }

    fn below(&self, bound: u64) -> u64 {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner).dice.below(bound)
    }

    /// How many of the newest blocks this call does not see.
    fn behind(&self) -> u64 {
        match self.behind {
            Some(behind) => behind,
            None if self.happens(|weather| weather.stale) => 1 + self.below(12),
            None => 0,
        }
    }

    /// The world goes on while a call is under way; then it answers, or does not.
    async fn ask<T>(&self, answer: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.fuse.pass("chain:asked").await;
        if self.happens(|weather| weather.mined_meanwhile) {
            self.chain.state().mine(|| true);
        }
        if self.happens(|weather| weather.reorg_meanwhile) {
            let depth = 1 + self.below(4);
            let returns = self.below(2) == 0;
            self.chain.state().reorg(depth, || returns, || returns);
        }
        if self.happens(|weather| weather.silent) {
            return Err(silence());
        }
        answer(&mut self.chain.state())
    }
}

fn silence() -> Error {
    Error::Unreachable("the simulated endpoint does not answer".to_owned())
}

impl State {
    /// The newest block that an endpoint sees that is so many blocks behind.
    fn seen(&self, behind: u64) -> u64 {
        self.head().number.saturating_sub(behind)
    }

    fn number_at(&self, at: At, seen: u64) -> Option<u64> {
        match at {
            At::Latest | At::Pending => Some(seen),
            At::Safe | At::Finalized => Some(seen.saturating_sub(self.finality.saturating_sub(1))),
            At::Earliest => Some(0),
            At::Number(number) => (number <= seen).then_some(number),
        }
    }

    fn block(&self, number: u64) -> Option<Block> {
        Some(self.blocks.get(usize::try_from(number).ok()?)?.block)
    }

    fn nonce_at(&self, account: Address, number: u64) -> u64 {
        let later = self.blocks.iter().rev().take_while(|mined| mined.block.number > number);
        let sent = later.flat_map(|mined| &mined.transactions).filter(|sent| sent.sender == account).count();
        self.nonce(account) - sent as u64
    }

    /// The nonce behind the transactions that wait in line.
    pub(super) fn pending_nonce(&self, account: Address) -> u64 {
        let mut nonce = self.nonce(account);
        while self.pool.contains_key(&(account, nonce)) {
            nonce += 1;
        }
        nonce
    }

    fn logs(&self, filter: &Filter, seen: u64) -> Vec<LogEntry> {
        let (from, to) = match filter.block_option {
            FilterBlockOption::Range { from_block, to_block } => (
                from_block.map_or(Some(seen), |at| self.number_at(at, seen)),
                to_block.map_or(Some(seen), |at| self.number_at(at, seen).or(Some(seen))),
            ),
            FilterBlockOption::AtBlockHash(hash) => {
                let at = self.blocks.iter().map(|mined| mined.block).find(|block| block.hash == hash);
                let number = at.map(|block| block.number).filter(|number| *number <= seen);
                (number, number)
            }
        };
        let (Some(from), Some(to)) = (from, to) else { return vec![] };
        let mut found = Vec::new();
        for mined in self.blocks.iter().filter(|mined| (from..=to).contains(&mined.block.number)) {
            let receipts = mined.transactions.iter().map(|transaction| &self.receipts[&transaction.hash]);
            let logs = receipts.flat_map(|receipt| receipt.logs.iter().map(|log| (receipt.transaction_hash, log)));
            for (log_index, (transaction_hash, log)) in (0..).zip(logs) {
                if filter.matches(log) {
                    let Block { number: block_number, hash: block_hash, .. } = mined.block;
                    found.push(LogEntry { log: log.clone(), transaction_hash, block_number, block_hash, log_index });
                }
            }
        }
        found
    }
}

#[async_trait]
impl Chain for Node {
    fn one_node(&self) -> std::sync::Arc<dyn Chain> {
        let behind = self.behind();
        std::sync::Arc::new(Self { behind: Some(behind), ..self.clone() })
    }

    async fn chain_id(&self) -> Result<u64> {
        self.ask(|_| Ok(CHAIN_ID)).await
    }

    async fn code(&self, address: Address) -> Result<Bytes> {
        let is_contract = [contracts::DISTRIBUTOR, contracts::TOKEN, contracts::FACTORY].contains(&address);
        self.ask(|_| Ok(if is_contract { vec![0xfe].into() } else { Bytes::new() })).await
    }

    async fn balance(&self, account: Address) -> Result<U256> {
        self.ask(|state| Ok(state.wei.get(&account).copied().unwrap_or_default())).await
    }

    async fn nonce(&self, account: Address, at: At) -> Result<u64> {
        let behind = self.behind();
        self.ask(|state| {
            if behind == 0 && at == At::Pending {
                return Ok(state.pending_nonce(account));
            }
            let number = state.number_at(at, state.seen(behind));
            number
                .map(|number| state.nonce_at(account, number))
                .ok_or_else(|| Error::Node { code: -32000, message: "header not found".to_owned() })
        })
        .await
    }

    async fn block(&self, at: At) -> Result<Option<Block>> {
        let behind = self.behind();
        self.ask(|state| Ok(state.number_at(at, state.seen(behind)).and_then(|number| state.block(number)))).await
    }

    async fn priority_fee(&self) -> Result<u64> {
        self.ask(|_| Ok(TIP)).await
    }

    async fn call(&self, call: Call) -> Result<Bytes> {
        self.ask(|state| {
            if let Some(answer) = state.contracts.view(call.to, &call.data) {
                return Ok(answer);
            }
            let gas_limit = call.gas_limit.unwrap_or(super::BLOCK_GAS);
            let effect = state.contracts.run(call.from, call.to, &call.data, gas_limit, state.now + 1);
            state.contracts.undo(effect.undo);
            effect.outcome.map(|_| Bytes::new()).map_err(reverted)
        })
        .await
    }

    async fn send(&self, raw: &[u8]) -> Result<()> {
        self.fuse.pass("chain:sending").await;
        // The bytes leave, whatever becomes of them.
        let transaction = self.chain.state().hear(raw)?;
        let lie = self.happens(|weather| weather.wrong_words);
        let lost = self.happens(|weather| weather.taken_silently);
        let answer = if lie && self.below(2) == 0 { Ok(()) } else { self.ask(|state| state.take(&transaction)).await };
        self.fuse.pass("chain:sent").await;
        if lie {
            let words = ["already known", "nonce too low", "replacement transaction underpriced"];
            let message = words[usize::try_from(self.below(3)).unwrap_or(0)].to_owned();
            return Err(Error::Node { code: -32000, message });
        }
        if lost {
            return Err(silence());
        }
        answer
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>> {
        let behind = self.behind();
        let missing = self.happens(|weather| weather.no_receipt);
        let orphan = self.happens(|weather| weather.orphan);
        let truncated = self.happens(|weather| weather.truncated);
        self.ask(|state| {
            let seen = state.seen(behind);
            let receipt = |hash: &B256| {
                if missing {
                    return None;
                }
                if orphan && let Some(receipt) = state.orphans.get(hash) {
                    return Some(receipt.clone());
                }
                let mut receipt = state.receipts.get(hash).filter(|receipt| receipt.block_number <= seen).cloned()?;
                if truncated {
                    receipt.logs.truncate(receipt.logs.len() / 2);
                }
                Some(receipt)
            };
            Ok(hashes.iter().map(receipt).collect())
        })
        .await
    }

    async fn logs(&self, filter: &Filter) -> Result<Vec<LogEntry>> {
        let behind = self.behind();
        let truncated = self.happens(|weather| weather.truncated);
        self.ask(|state| {
            let mut logs = state.logs(filter, state.seen(behind));
            if truncated {
                logs.truncate(logs.len() / 2);
            }
            Ok(logs)
        })
        .await
    }
}
