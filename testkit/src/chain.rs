//! What tests and the demo ask the chain: balances, supply, wallets, who was paid, and anvil's special powers.

use std::{collections::BTreeMap, str::FromStr as _, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, Log, U256, keccak256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::types::Filter,
    sol,
    sol_types::{SolCall as _, SolEvent as _},
};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::interface::{GrantPaid, GrantSkipped, GrantsPaid, Token, WalletFactory, grantRoleCall};
use crate::{anvil, wait::until};

/// Base units in one whole token.
pub const UNIT: u64 = 1_000_000_000_000_000_000;

/// How long a transaction may take, over several blocks.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

#[allow(missing_docs, clippy::pedantic, reason = "the macro writes the code")]
mod interface {
    use super::sol;

    sol! {
        #[sol(rpc)]
        interface Token {
            function totalSupply() external view returns (uint256);
            function balanceOf(address account) external view returns (uint256);
        }

        #[sol(rpc)]
        interface WalletFactory {
            function walletOf(bytes32 key) external view returns (address);
        }

        function grantRole(bytes32 role, address account) external;

        event GrantPaid(uint256 indexed id, address indexed to, uint256 amount);
        event GrantsPaid(bytes32 indexed campaign, uint192 indexed prefix, bytes items);
        event GrantSkipped(uint256 indexed id);
    }
}

/// Where the contracts are.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Contracts {
    /// The ERC-20 token.
    pub token: Address,
    /// The distributor, which alone may mint it.
    pub distributor: Address,
    /// The factory of the wallets of users who named none.
    pub wallet_factory: Address,
}

/// One payment, as the distributor's event tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The grant's id on chain.
    pub id: U256,
    /// Who was paid.
    pub to: Address,
    /// How much, in base units.
    pub amount: U256,
    /// By which transaction.
    pub transaction_hash: B256,
    /// In which block.
    pub block_number: u64,
}

/// A chain with our contracts on it.
#[derive(Clone, Debug)]
pub struct Chain {
    url: String,
    contracts: Contracts,
    provider: DynProvider,
}

impl Chain {
    /// The chain behind this JSON-RPC interface.
    ///
    /// # Errors
    /// When `url` is none.
    pub fn new(url: &str, contracts: Contracts) -> Result<Self> {
        let provider = ProviderBuilder::new().connect_http(url.parse().with_context(|| format!("{url} is no URL"))?);
        Ok(Self { url: url.to_owned(), contracts, provider: provider.erased() })
    }

    /// Where the contracts are.
    #[must_use]
    pub fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// All tokens there are, in base units.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn total_supply(&self) -> Result<U256> {
        let token = Token::new(self.contracts.token, &self.provider);
        token.totalSupply().call().await.context("cannot read the total supply")
    }

    /// The tokens of one address, in base units.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn balance_of(&self, account: Address) -> Result<U256> {
        let token = Token::new(self.contracts.token, &self.provider);
        token.balanceOf(account).call().await.context("cannot read a balance")
    }

    /// The wallet that belongs to a user who named none.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn wallet_of(&self, user_id: &str) -> Result<Address> {
        let factory = WalletFactory::new(self.contracts.wallet_factory, &self.provider);
        let key = keccak256(user_id.as_bytes());
        factory.walletOf(key).call().await.context("cannot read a wallet's address")
    }

    /// The wallet named, or else the one that belongs to the user.
    ///
    /// # Errors
    /// When the chain does not answer or `wallet` is no address.
    pub async fn recipient(&self, user_id: &str, wallet: Option<&str>) -> Result<Address> {
        match wallet {
            Some(wallet) => Address::from_str(wallet).with_context(|| format!("{wallet} is no address")),
            None => self.wallet_of(user_id).await,
        }
    }

    /// All payments ever made, in order.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn payments(&self) -> Result<Vec<Payment>> {
        let signatures = vec![GrantPaid::SIGNATURE_HASH, GrantsPaid::SIGNATURE_HASH];
        let filter = Filter::new().address(self.contracts.distributor).event_signature(signatures).from_block(0);
        let logs = self.provider.get_logs(&filter).await.context("cannot read the payments")?;
        let mut payments = Vec::new();
        for log in &logs {
            let transaction_hash = log.transaction_hash.context("a mined log has a transaction")?;
            let block_number = log.block_number.context("a mined log has a block")?;
            let told = paid(&log.inner)?.into_iter();
            payments.extend(told.map(|(id, to, amount)| Payment { id, to, amount, transaction_hash, block_number }));
        }
        Ok(payments)
    }

    /// How often the distributor was given a grant that it had paid before, and paid nothing.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn skipped(&self) -> Result<usize> {
        let distributor = self.contracts.distributor;
        let filter = Filter::new().address(distributor).event_signature(GrantSkipped::SIGNATURE_HASH).from_block(0);
        Ok(self.provider.get_logs(&filter).await.context("cannot read what was skipped")?.len())
    }

    /// How many ids were paid more than once. The contract promises 0.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn ids_paid_twice(&self) -> Result<usize> {
        let mut times: BTreeMap<U256, usize> = BTreeMap::new();
        for payment in self.payments().await? {
            *times.entry(payment.id).or_default() += 1;
        }
        Ok(times.values().filter(|&&times| times > 1).count())
    }

    /// The number of the latest block.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn block_number(&self) -> Result<u64> {
        self.provider.get_block_number().await.context("cannot read the block number")
    }

    /// How many transactions of an account are mined.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn transactions_of(&self, account: Address) -> Result<u64> {
        let count = self.provider.get_transaction_count(account).await;
        count.context("cannot read a transaction count")
    }

    /// Mines so many blocks.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        /// More of them may take longer than an answer is waited for.
        const AT_ONCE: u64 = 100;
        let mut left = blocks;
        while left > 0 {
            let now = left.min(AT_ONCE);
            self.rpc("anvil_mine", json!([format!("{now:#x}")])).await?;
            left -= now;
        }
        Ok(())
    }

    /// Mines a block each so many seconds from now on; 0 stops the clock.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn mine_every(&self, seconds: u64) -> Result<()> {
        self.rpc("evm_setIntervalMining", json!([seconds])).await.map(drop)
    }

    /// Replaces the latest `depth` blocks by empty ones: their transactions are gone.
    ///
    /// # Errors
    /// When the chain does not answer or does not remember that many states.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        self.rpc("anvil_reorg", json!([depth, []])).await.map(drop)
    }

    /// Mines one block, whose gas costs at least so many gwei if that is given.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn mine_one(&self, base_fee_gwei: Option<u64>) -> Result<()> {
        if let Some(gwei) = base_fee_gwei {
            let wei = u128::from(gwei) * 1_000_000_000;
            self.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await?;
        }
        self.rpc("evm_mine", json!([])).await.map(drop)
    }

    /// Forgets all transactions that are not mined.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn drop_pending(&self) -> Result<()> {
        self.rpc("anvil_dropAllTransactions", json!([])).await.map(drop)
    }

    /// Lets another account submit batches, as the admin; anvil signs for its own accounts.
    ///
    /// # Errors
    /// When the chain does not take it.
    pub async fn appoint_submitter(&self, account: &str) -> Result<()> {
        let account = Address::from_str(account).with_context(|| format!("{account} is no address"))?;
        let call = grantRoleCall { role: keccak256("SUBMITTER_ROLE"), account };
        let transaction = json!([{
            "from": anvil::ADMIN.address,
            "to": self.contracts.distributor,
            "data": Bytes::from(call.abi_encode()),
        }]);
        let hash = self.rpc("eth_sendTransaction", transaction).await?;
        until(TRANSACTION_TIMEOUT, "the new submitter", async || {
            self.rpc("eth_getTransactionReceipt", json!([hash])).await.is_ok_and(|receipt| !receipt.is_null())
        })
        .await
    }

    /// Any other call.
    ///
    /// # Errors
    /// When the chain does not answer, or answers with an error.
    pub async fn rpc(&self, method: &str, parameters: Value) -> Result<Value> {
        rpc(&self.url, method, parameters).await
    }
}

/// Id, recipient and amount of each payment that an event tells of.
fn paid(log: &Log) -> Result<Vec<(U256, Address, U256)>> {
    if let Ok(paid) = GrantPaid::decode_log(log) {
        return Ok(vec![(paid.id, paid.to, paid.amount)]);
    }
    let paid = GrantsPaid::decode_log(log).context("not a payment")?;
    let prefix = U256::from(paid.prefix) << 64;
    // Low half of the id (8 bytes), recipient (20), amount (12).
    let read = |item: &[u8]| {
        let id = prefix | U256::from_be_slice(&item[..8]);
        (id, Address::from_slice(&item[8..28]), U256::from_be_slice(&item[28..]))
    };
    Ok(paid.items.chunks_exact(40).map(read).collect())
}

/// Whole tokens in base units.
#[must_use]
pub fn base_units(whole_tokens: u64) -> U256 {
    U256::from(whole_tokens) * U256::from(UNIT)
}

/// One JSON-RPC call, with five seconds for the answer.
///
/// # Errors
/// When nobody answers, or the answer is an error.
pub async fn rpc(url: &str, method: &str, parameters: Value) -> Result<Value> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters});
    let mut answer: Value = client.post(url).json(&call).send().await?.error_for_status()?.json().await?;
    if let Some(error) = answer.get("error") {
        bail!("{method}: {error}");
    }
    Ok(answer["result"].take())
}
