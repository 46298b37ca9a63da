//! The EVM chain as this service sees it: the JSON-RPC calls that it makes, and what they mean.
//!
//! [`Chain`] is one of the two seams to the outside: [`Rpc`] is the real chain, a simulation has its own. An error is what
//! the node answered, what the contract answered, or no answer; the three are never confused.

pub mod heads;
mod refusal;
mod rpc;

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, Log, U256};
use alloy::rpc::types::Filter;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
pub use refusal::{Refusal, is_range_refusal};
pub use rpc::Rpc;

/// Why the chain did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or none that is JSON-RPC.
    #[error("the node at RPC_URL does not answer: {0}")]
    Unreachable(String),
    /// The node answered with an error of its own.
    #[error("the node answered: {message} (code {code})")]
    Node {
        /// The JSON-RPC code; it says little, nodes differ.
        code: i64,
        /// In the node's words.
        message: String,
    },
    /// The contract reverted.
    #[error("the contract reverted: {}", crate::contract::revert_text(.0))]
    Reverted(Bytes),
}

impl Error {
    /// What the node means, if the error is its answer.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Node { message, .. } = self else { return None };
        Some(Refusal::of(message))
    }

    /// Whether trying again later can help without anybody changing anything.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether the node does not answer, or answers that it cannot answer now.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.is_unreachable() || self.refusal() == Some(Refusal::Busy)
    }
}

/// The result of a call to the chain.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A call that is run and forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who calls.
    pub from: Address,
    /// Which contract.
    pub to: Address,
    /// What.
    pub data: Bytes,
    /// The most gas that it may use; `None` for as much as the node grants.
    pub gas_limit: Option<u64>,
}

/// A place on the chain.
pub use alloy::eips::BlockNumberOrTag as At;

/// A block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash: another one at the same number is another block, after a reorg.
    pub hash: B256,
    /// What a unit of gas costs at least in it, in wei (EIP-1559).
    pub base_fee_per_gas: u64,
}

/// What became of a transaction that is in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub transaction_hash: B256,
    /// The number of its block.
    pub block_number: u64,
    /// The hash of its block.
    pub block_hash: B256,
    /// Whether it succeeded; if not, it was reverted and its nonce is used up.
    pub succeeded: bool,
    /// The gas that it used.
    pub gas_used: u64,
    /// What a unit of it cost, in wei; the largest number there is where it was more.
    pub gas_price: u64,
    /// What contracts told, in order.
    pub logs: Vec<Log>,
}

/// What a contract told, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// What.
    pub log: Log,
    /// The transaction.
    pub transaction_hash: B256,
    /// The number of its block.
    pub block_number: u64,
    /// The hash of its block.
    pub block_hash: B256,
    /// Its place among the logs of the block.
    pub log_index: u64,
}

/// One chain, through one node or several.
///
/// Every call fails with [`Error::Unreachable`] where no node answers, and with [`Error::Node`] where it answers with an
/// error of its own.
#[async_trait]
pub trait Chain: fmt::Debug + Send + Sync + 'static {
    /// The same chain through one node only, the one that answers now: what is read through it belongs together, such as
    /// a nonce and the receipts that explain it.
    fn one_node(&self) -> Arc<dyn Chain>;

    /// The chain's id (EIP-155).
    async fn chain_id(&self) -> Result<u64>;

    /// The code at an address; empty where there is no contract.
    async fn code(&self, address: Address) -> Result<Bytes>;

    /// What an account holds, in wei.
    async fn balance(&self, account: Address) -> Result<U256>;

    /// How many transactions of an account are mined at a place: the next nonce there. At [`At::Pending`] those that wait
    /// in the node's mempool count too.
    async fn nonce(&self, account: Address, at: At) -> Result<u64>;

    /// The block at a place; `None` if there is none (yet).
    async fn block(&self, at: At) -> Result<Option<Block>>;

    /// A tip that recent blocks took, in wei a gas.
    async fn priority_fee(&self) -> Result<u64>;

    /// Runs a call on the newest block and forgets it. [`Error::Reverted`] where it would revert.
    async fn call(&self, call: Call) -> Result<Bytes>;

    /// Gives signed bytes to the node. An error leaves open whether they are on their way: whoever calls this has the
    /// bytes committed, and sends them again until a receipt says what became of them.
    async fn send(&self, raw: &[u8]) -> Result<()>;

    /// The receipts of transactions that are in a block now, each at its transaction's place; one question to the node,
    /// however many they are. `None` does not mean that it never will be, nor that it is not.
    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>>;

    /// What contracts told, in the order of the chain.
    async fn logs(&self, filter: &Filter) -> Result<Vec<LogEntry>>;
}

impl dyn Chain {
    /// Calls a contract's view.
    ///
    /// # Errors
    ///
    /// When it reverts, or answers something else than it should, or the node does not answer.
    pub async fn view<C: SolCall>(&self, contract: Address, call: &C) -> Result<C::Return> {
        let call = Call { from: Address::ZERO, to: contract, data: call.abi_encode().into(), gas_limit: None };
        let data = self.call(call).await?;
        C::abi_decode_returns(&data).map_err(|error| Error::Node { code: 0, message: error.to_string() })
    }

    /// The receipt of one transaction, as [`receipts`](Chain::receipts).
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>> {
        Ok(self.receipts(&[hash]).await?.pop().flatten())
    }

    /// The newest block.
    ///
    /// # Errors
    ///
    /// When the node does not answer, or has no blocks.
    pub async fn head(&self) -> Result<Block> {
        let block = self.block(At::Latest).await?;
        block.ok_or_else(|| Error::Node { code: 0, message: "there is no newest block".to_owned() })
    }

    /// The newest block's base fee, and a tip that recent blocks took, in wei a gas.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn asked_fees(&self) -> Result<(u64, u64)> {
        let (head, tip) = tokio::try_join!(self.head(), self.priority_fee())?;
        Ok((head.base_fee_per_gas, tip))
    }
}
