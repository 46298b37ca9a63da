//! The real chain, over JSON-RPC: the only module that talks to nodes.
//!
//! Several nodes may serve it. One is used until it does not answer; then the next one is, from the next step on. A step
//! that failed is never finished on another node: what it read belongs to the one that failed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alloy::consensus::BlockHeader as _;
use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Filter, Log, TransactionReceipt, TransactionRequest};
use alloy::transports::{RpcError, TransportErrorKind, TransportResult};
use async_trait::async_trait;
use url::Url;

use super::{At, Block, Call, Chain, Error, LogEntry, Receipt, Result};

/// How long a call to a node may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl From<RpcError<TransportErrorKind>> for Error {
    fn from(error: RpcError<TransportErrorKind>) -> Self {
        match error {
            RpcError::ErrorResp(payload) => match payload.as_revert_data() {
                Some(data) => Self::Reverted(data),
                None => Self::Node { code: payload.code, message: payload.message.into_owned() },
            },
            RpcError::Transport(TransportErrorKind::Custom(error)) => Self::Unreachable(without_url(error)),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// An error in words with its cause, and without the URL: most providers put the key into it.
fn without_url(error: Box<dyn std::error::Error + Send + Sync>) -> String {
    let error = match error.downcast::<reqwest::Error>() {
        Ok(error) => Box::new(error.without_url()) as Box<dyn std::error::Error + Send + Sync>,
        Err(error) => error,
    };
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.last().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// A chain behind the HTTP endpoints of its nodes.
#[derive(Debug, Clone)]
pub struct Rpc {
    nodes: Arc<[Node]>,
    /// Which of them is used.
    current: Arc<AtomicUsize>,
    /// The one that is used whatever happens; `None` for the current one.
    only: Option<usize>,
    /// The chain, once it is known.
    chain_id: Arc<OnceLock<u64>>,
}

#[derive(Debug)]
struct Node {
    /// Without path and query, where providers put the key.
    host: String,
    provider: DynProvider,
    /// Whether it has said that it serves the chain.
    verified: AtomicBool,
}

impl Rpc {
    /// A chain behind these endpoints, the first preferred at the start. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the HTTP client cannot be made.
    pub fn connect(urls: &[Url]) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| Error::Unreachable(without_url(error.into())))?;
        let node = |url: &Url| Node {
            host: url.host_str().unwrap_or_default().to_owned(),
            provider: ProviderBuilder::new()
                .disable_recommended_fillers()
                .connect_reqwest(client.clone(), url.clone())
                .erased(),
            verified: AtomicBool::new(false),
        };
        Ok(Self {
            nodes: urls.iter().map(node).collect(),
            current: Arc::default(),
            only: None,
            chain_id: Arc::default(),
        })
    }

    /// Each node apart, with its host.
    pub fn each(&self) -> impl Iterator<Item = (&str, Self)> {
        self.nodes.iter().enumerate().map(|(at, node)| (&*node.host, Self { only: Some(at), ..self.clone() }))
    }

    /// From now on no node is used that serves another chain: one that is away now may come back as anything.
    pub fn expect_chain(&self, chain_id: u64) {
        self.chain_id.get_or_init(|| chain_id);
    }

    fn used(&self) -> usize {
        self.only.unwrap_or_else(|| self.current.load(Ordering::Relaxed))
    }

    /// Asks the node that is used; where it does not answer, or has no time, the next one is used from now on.
    async fn ask<T>(&self, question: impl AsyncFnOnce(&DynProvider) -> TransportResult<T>) -> Result<T> {
        let used = self.used();
        let answer = match self.verify(&self.nodes[used]).await {
            Ok(()) => question(&self.nodes[used].provider).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = &answer
            && error.is_passing()
            && self.nodes.len() > 1
        {
            let next = (used + 1) % self.nodes.len();
            if self.current.compare_exchange(used, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                metrics::counter!("rpc_failovers_total").increment(1);
                let (from, to) = (&self.nodes[used].host, &self.nodes[next].host);
                tracing::warn!(from, to, %error, "node does not answer, another one is used");
            }
        }
        answer
    }

    /// Asks a node that is used for the first time which chain it serves.
    async fn verify(&self, node: &Node) -> Result<()> {
        let Some(expected) = self.chain_id.get().filter(|_| !node.verified.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let chain_id = node.provider.get_chain_id().await?;
        if chain_id != *expected {
            return Err(Error::Unreachable(format!("it serves chain {chain_id}, not {expected}")));
        }
        node.verified.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Chain for Rpc {
    fn one_node(&self) -> Arc<dyn Chain> {
        Arc::new(Self { only: Some(self.used()), ..self.clone() })
    }

    async fn chain_id(&self) -> Result<u64> {
        self.ask(async |node| node.get_chain_id().await).await
    }

    async fn code(&self, address: Address) -> Result<Bytes> {
        self.ask(async |node| node.get_code_at(address).await).await
    }

    async fn balance(&self, account: Address) -> Result<U256> {
        self.ask(async |node| node.get_balance(account).await).await
    }

    async fn nonce(&self, account: Address, at: At) -> Result<u64> {
        self.ask(async |node| node.get_transaction_count(account).block_id(at.into()).await).await
    }

    async fn block(&self, at: At) -> Result<Option<Block>> {
        let block = self.ask(async |node| node.get_block_by_number(at).await).await?;
        Ok(block.map(|block| Block {
            number: block.header.number(),
            hash: block.header.hash,
            base_fee_per_gas: block.header.base_fee_per_gas().unwrap_or(0),
        }))
    }

    async fn priority_fee(&self) -> Result<u64> {
        let tip = self.ask(async |node| node.get_max_priority_fee_per_gas().await).await?;
        Ok(u64::try_from(tip).unwrap_or(u64::MAX))
    }

    async fn call(&self, call: Call) -> Result<Bytes> {
        let mut request = TransactionRequest::default().with_from(call.from).with_to(call.to).with_input(call.data);
        request.gas = call.gas_limit;
        self.ask(async |node| node.call(request).await).await
    }

    async fn send(&self, raw: &[u8]) -> Result<()> {
        self.ask(async |node| node.send_raw_transaction(raw).await.map(drop)).await
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>> {
        let receipts = self.ask(async |node| receipts(node, hashes).await).await?;
        Ok(receipts.into_iter().map(|receipt| receipt.as_ref().and_then(mined)).collect())
    }

    async fn logs(&self, filter: &Filter) -> Result<Vec<LogEntry>> {
        let logs = self.ask(async |node| node.get_logs(filter).await).await?;
        Ok(logs.into_iter().filter_map(entry).collect())
    }
}

/// All of them in one request, a JSON-RPC batch.
async fn receipts(node: &DynProvider, hashes: &[B256]) -> TransportResult<Vec<Option<TransactionReceipt>>> {
    if hashes.is_empty() {
        return Ok(Vec::new());
    }
    let mut batch = BatchRequest::new(node.client());
    let answers = hashes
        .iter()
        .map(|hash| batch.add_call::<_, Option<TransactionReceipt>>("eth_getTransactionReceipt", &(hash,)))
        .collect::<TransportResult<Vec<_>>>()?;
    batch.send().await?;
    futures::future::try_join_all(answers).await
}

/// A receipt without a block is none.
fn mined(receipt: &TransactionReceipt) -> Option<Receipt> {
    Some(Receipt {
        transaction_hash: receipt.transaction_hash,
        block_number: receipt.block_number?,
        block_hash: receipt.block_hash?,
        succeeded: receipt.status(),
        gas_used: receipt.gas_used,
        gas_price: u64::try_from(receipt.effective_gas_price).unwrap_or(u64::MAX),
        logs: receipt.logs().iter().map(|log| log.inner.clone()).collect(),
    })
}

/// A log without a block is of no block, or of one that is gone.
fn entry(log: Log) -> Option<LogEntry> {
    Some(LogEntry {
        transaction_hash: log.transaction_hash?,
        block_number: log.block_number?,
        block_hash: log.block_hash?,
        log_index: log.log_index?,
        log: log.inner,
    })
    .filter(|_| !log.removed)
}
