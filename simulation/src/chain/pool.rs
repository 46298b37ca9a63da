//! Signed bytes on their way into a block: decoded, checked and kept as a node's mempool does.

use std::sync::Arc;

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use blockchain::chain::Error;

use super::contracts::{self, MAX_GAS};
use super::{CHAIN_ID, State};

/// A transaction, as its signed bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The hash of the signed bytes.
    pub hash: B256,
    /// Who signed.
    pub sender: Address,
    /// Its place among the sender's transactions.
    pub nonce: u64,
    /// Whom it calls.
    pub to: Option<Address>,
    /// With what.
    pub data: Bytes,
    /// The most gas that it may use.
    pub gas_limit: u64,
    /// The most that it pays, in wei a gas.
    pub max_fee: u64,
    /// The most of it that goes to the block's producer.
    pub tip: u64,
    /// The ids of the grants that it pays.
    pub ids: Vec<U256>,
    chain_id: Option<u64>,
}

impl Transaction {
    /// Reads signed bytes; `None` where they are none.
    #[must_use]
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let envelope = TxEnvelope::decode_2718_exact(raw).ok()?;
        let groups = contracts::batch(envelope.input()).unwrap_or_default();
        Some(Self {
            hash: *envelope.tx_hash(),
            sender: envelope.signature().recover_address_from_prehash(&envelope.signature_hash()).ok()?,
            nonce: envelope.nonce(),
            to: envelope.to(),
            data: envelope.input().clone(),
            gas_limit: envelope.gas_limit(),
            max_fee: u64::try_from(envelope.max_fee_per_gas()).unwrap_or(u64::MAX),
            tip: u64::try_from(envelope.max_priority_fee_per_gas().unwrap_or_default()).unwrap_or(u64::MAX),
            ids: groups.iter().flatten().map(|item| item.id).collect(),
            chain_id: envelope.chain_id(),
        })
    }

    /// One that does nothing, of an account whose key we have not.
    pub(super) fn foreign(hash: B256, sender: Address, nonce: u64) -> Self {
        Self {
            hash,
            sender,
            nonce,
            to: Some(sender),
            data: Bytes::new(),
            gas_limit: 21_000,
            max_fee: 5_000 * super::GWEI,
            tip: 5_000 * super::GWEI,
            ids: vec![],
            chain_id: Some(CHAIN_ID),
        }
    }

    /// One that claims a grant for a player.
    pub(super) fn claim(hash: B256, sender: Address, nonce: u64, call: Bytes) -> Self {
        let to = Some(contracts::DISTRIBUTOR);
        Self { to, data: call, gas_limit: 400_000, ..Self::foreign(hash, sender, nonce) }
    }

    /// What the sender must own for it to be mined, in wei.
    #[must_use]
    pub fn highest_cost(&self) -> U256 {
        U256::from(self.max_fee) * U256::from(self.gas_limit)
    }

    /// Whether it offers enough more than another of the same nonce to take its place: a tenth.
    fn outbids(&self, other: &Self) -> bool {
        let tenth_more = |new: u64, old: u64| u128::from(new) * 10 >= u128::from(old) * 11;
        tenth_more(self.max_fee, other.max_fee) && tenth_more(self.tip, other.tip)
    }
}

fn refusal(message: &str) -> Error {
    Error::Node { code: -32000, message: message.to_owned() }
}

impl State {
    /// Remembers that these bytes were given to a node, and reads them.
    pub(super) fn hear(&mut self, raw: &[u8]) -> Result<Arc<Transaction>, Error> {
        let hash = alloy::primitives::keccak256(raw);
        let transaction = match self.known.get(&hash) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Transaction::decode(raw).ok_or_else(|| refusal("failed to decode signed transaction"))?),
        };
        self.known.insert(hash, Arc::clone(&transaction));
        self.sent.push(Arc::clone(&transaction));
        Ok(transaction)
    }

    /// Takes a transaction into the mempool, in geth's words and in the order of its checks.
    pub(super) fn take(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let place = (transaction.sender, transaction.nonce);
        let waits = self.pool.get(&place);
        if waits.is_some_and(|waits| waits.hash == transaction.hash) {
            return Err(refusal("already known"));
        }
        if transaction.chain_id != Some(CHAIN_ID) {
            return Err(refusal("invalid chain id for signer"));
        }
        if transaction.gas_limit > MAX_GAS {
            return Err(refusal("transaction gas limit too high"));
        }
        if transaction.tip > transaction.max_fee {
            return Err(refusal("max priority fee per gas higher than max fee per gas"));
        }
        if transaction.gas_limit < 21_000 {
            return Err(refusal("intrinsic gas too low"));
        }
        let nonce = self.nonce(transaction.sender);
        if transaction.nonce < nonce {
            return Err(refusal(&format!("nonce too low: next nonce {nonce}, tx nonce {}", transaction.nonce)));
        }
        if !self.affords(transaction) {
            return Err(refusal("insufficient funds for gas * price + value"));
        }
        if waits.is_some_and(|waits| !transaction.outbids(waits)) {
            return Err(refusal("replacement transaction underpriced"));
        }
        self.pool.insert(place, transaction.clone());
        Ok(())
    }
}
