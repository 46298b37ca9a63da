//! The EVM chain: the only module that talks to a node, and the only one that holds a key.
//!
//! An error is what the node answered, what the contract answered, or no answer; the three are never confused.

use std::fmt;
use std::time::Duration;

use alloy::consensus::BlockHeader as _;
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::types::{Filter, Log, TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use alloy::transports::{RpcError, TransportErrorKind};
use url::Url;

use crate::contract::GRANT_PAID;
use crate::domain::GrantId;
use crate::fees::Fees;

/// How long a call to the node may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The transaction could not be signed.
    #[error("signing: {0}")]
    Signing(String),
}

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

impl Error {
    /// Whether a node that was sent a transaction says no more than that it has it, or that its nonce is mined. In words
    /// only: the codes differ from node to node.
    #[must_use]
    pub fn is_known_transaction(&self) -> bool {
        let Self::Node { message, .. } = self else { return false };
        let message = message.to_lowercase();
        ["already known", "already imported", "known transaction", "nonce too low"]
            .iter()
            .any(|words| message.contains(words))
    }

    /// Whether trying again later can help without anybody changing anything.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// The result of a call to the chain.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A transaction, signed: it can be sent as often as we like and is mined at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Its hash.
    pub hash: B256,
    /// Its bytes (EIP-2718).
    pub raw: Bytes,
}

/// What a transaction says before it is signed.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// Its place in the lane.
    pub nonce: u64,
    /// The contract; `None` creates one.
    pub to: Option<Address>,
    /// The call, or the creation code.
    pub data: Bytes,
    /// The most gas it may use.
    pub gas_limit: u64,
    /// What it offers for it.
    pub fees: Fees,
}

/// One chain, reached through one node, with one signer. Clones share the connection.
#[derive(Clone)]
pub struct Chain {
    provider: DynProvider,
    wallet: EthereumWallet,
    signer: Address,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("signer", &self.signer).finish_non_exhaustive()
    }
}

impl Chain {
    /// A chain behind a node's HTTP endpoint. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the HTTP client cannot be made.
    pub fn connect(rpc_url: Url, signer: PrivateKeySigner) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| Error::Unreachable(without_url(error.into())))?;
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_reqwest(client, rpc_url).erased();
        Ok(Self { provider, signer: signer.address(), wallet: signer.into() })
    }

    /// The account that signs.
    #[must_use]
    pub fn signer(&self) -> Address {
        self.signer
    }

    /// The chain's id (EIP-155).
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn chain_id(&self) -> Result<u64> {
        Ok(self.provider.get_chain_id().await?)
    }

    /// Whether there is a contract at the address.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn has_code(&self, address: Address) -> Result<bool> {
        Ok(!self.provider.get_code_at(address).await?.is_empty())
    }

    /// The number of the signer's transactions that are mined: the next nonce that the chain takes.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn mined_nonce(&self) -> Result<u64> {
        Ok(self.provider.get_transaction_count(self.signer).await?)
    }

    /// The same, counting those that wait in the node's mempool too.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn pending_nonce(&self) -> Result<u64> {
        Ok(self.provider.get_transaction_count(self.signer).pending().await?)
    }

    /// The signer's balance, in wei.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn signer_balance(&self) -> Result<U256> {
        Ok(self.provider.get_balance(self.signer).await?)
    }

    /// The number of the newest block.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn block_number(&self) -> Result<u64> {
        Ok(self.provider.get_block_number().await?)
    }

    /// The hash of the block that now has this number.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>> {
        let block = self.provider.get_block_by_number(number.into()).await?;
        Ok(block.map(|block| block.header.hash))
    }

    /// Calls a contract's view.
    ///
    /// # Errors
    ///
    /// When it reverts, or answers something else than it should, or the node does not answer.
    pub async fn view<C: SolCall>(&self, contract: Address, call: &C) -> Result<C::Return> {
        let data = self.simulate(contract, call.abi_encode().into(), None).await?;
        C::abi_decode_returns(&data).map_err(|error| Error::Node { code: 0, message: error.to_string() })
    }

    /// Runs a call as the signer would make it, on the newest block, and forgets it.
    ///
    /// # Errors
    ///
    /// [`Error::Reverted`] when it would revert.
    pub async fn simulate(&self, to: Address, data: Bytes, gas_limit: Option<u64>) -> Result<Bytes> {
        let mut request = TransactionRequest::default().with_from(self.signer).with_to(to).with_input(data);
        request.gas = gas_limit;
        Ok(self.provider.call(request).await?)
    }

    /// The newest block's base fee, and a tip that recent blocks took, in wei a gas.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn asked_fees(&self) -> Result<(u64, u64)> {
        let (block, tip) =
            tokio::try_join!(async { self.provider.get_block_by_number(BlockNumberOrTag::Latest).await }, async {
                self.provider.get_max_priority_fee_per_gas().await
            },)?;
        let base_fee = block.and_then(|block| block.header.base_fee_per_gas()).unwrap_or(0);
        Ok((base_fee, u64::try_from(tip).unwrap_or(u64::MAX)))
    }

    /// Signs a transaction of this chain. Nothing is sent.
    ///
    /// # Errors
    ///
    /// When the signer refuses.
    pub async fn sign(&self, chain_id: u64, unsigned: Unsigned) -> Result<Signed> {
        let mut request = TransactionRequest::default()
            .with_chain_id(chain_id)
            .with_nonce(unsigned.nonce)
            .with_gas_limit(unsigned.gas_limit)
            .with_max_fee_per_gas(unsigned.fees.max_fee_per_gas.into())
            .with_max_priority_fee_per_gas(unsigned.fees.max_priority_fee_per_gas.into())
            .with_input(unsigned.data);
        request.to = Some(unsigned.to.into());
        let envelope = NetworkTransactionBuilder::<alloy::network::Ethereum>::build(request, &self.wallet)
            .await
            .map_err(|error| Error::Signing(error.to_string()))?;
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() })
    }

    /// Gives signed bytes to the node. An error leaves open whether they are on their way: whoever calls this has the
    /// bytes committed, and sends them again until a receipt says what became of them.
    ///
    /// # Errors
    ///
    /// When the node does not take them, or does not answer.
    pub async fn send(&self, raw: &[u8]) -> Result<()> {
        let _pending = self.provider.send_raw_transaction(raw).await?;
        Ok(())
    }

    /// The receipt of a transaction that is in a block now. `None` does not mean that it never will be.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn receipt(&self, hash: B256) -> Result<Option<TransactionReceipt>> {
        Ok(self.provider.get_transaction_receipt(hash).await?)
    }

    /// The event of the payment of a grant, from block `from` on, if it was paid.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn payment_of(&self, distributor: Address, id: GrantId, from: u64) -> Result<Option<Log>> {
        let filter = Filter::new().address(distributor).event_signature(GRANT_PAID).topic1(id.0).from_block(from);
        Ok(self.provider.get_logs(&filter).await?.into_iter().next())
    }
}
