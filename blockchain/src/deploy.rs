//! `blockchain deploy`: puts the three contracts on a chain.
//!
//! They are the first three transactions of a fresh deployer account, so that their addresses are known beforehand and a
//! run that was interrupted, or is repeated, goes on where the chain stands.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolConstructor;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use crate::chain::{At, Chain, Rpc};
use crate::contract::{GrantDistributor, GrantToken, WalletFactory};
use crate::fees::Fees;
use crate::signer::{Signer, Unsigned};

/// Deploys the token, the distributor and the wallet factory, and prints their addresses as JSON.
#[derive(Debug, Clone, Args)]
pub struct Deploy {
    /// JSON-RPC endpoint of a node.
    #[arg(long, env = "RPC_URL", default_value = "http://localhost:8545", hide_env_values = true)]
    pub rpc_url: Url,

    /// Private key of a fresh account with funds: the contracts are its first three transactions.
    #[arg(long, env = "DEPLOYER_KEY", hide_env_values = true)]
    pub deployer_key: SecretString,

    /// Account that administrates the contracts; a multisig in production.
    #[arg(long, env = "ADMIN_ADDRESS")]
    pub admin: Address,

    /// Account of the blockchain service's `SIGNER_KEY`.
    #[arg(long, env = "SUBMITTER_ADDRESS")]
    pub submitter: Address,

    /// Name of the token.
    #[arg(long, env = "TOKEN_NAME", default_value = "Campaign Reward")]
    pub token_name: String,

    /// Symbol of the token.
    #[arg(long, env = "TOKEN_SYMBOL", default_value = "REWARD")]
    pub token_symbol: String,
}

/// Where the contracts are. As JSON, with the checksums of EIP-55.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Deployed {
    /// The `GrantToken`.
    #[serde(serialize_with = "checksummed")]
    pub token: Address,
    /// The `GrantDistributor`.
    #[serde(serialize_with = "checksummed")]
    pub distributor: Address,
    /// The `WalletFactory`.
    #[serde(serialize_with = "checksummed")]
    pub wallet_factory: Address,
}

/// An address with its checksum (EIP-55).
pub(crate) fn checksummed<S: serde::Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

impl Deploy {
    /// Deploys what is missing.
    ///
    /// # Errors
    ///
    /// When the node does not answer, the account is not fresh, or a creation fails.
    pub async fn run(&self) -> anyhow::Result<Deployed> {
        let key: PrivateKeySigner = self
            .deployer_key
            .expose_secret()
            .parse()
            .ok()
            .context("DEPLOYER_KEY must be a private key, 0x and 64 digits")?;
        let deployer = Signer::new(key);
        let chain = Rpc::connect(std::slice::from_ref(&self.rpc_url))?;
        let chain_id = chain.chain_id().await.context("is RPC_URL right?")?;
        let [token, distributor, wallet_factory] = [0, 1, 2].map(|nonce| deployer.address().create(nonce));
        let creations = [
            (token, self.token(distributor)),
            (
                distributor,
                with_arguments(
                    &GrantDistributor::BYTECODE,
                    &GrantDistributor::constructorCall { token_: token, admin: self.admin, submitter: self.submitter },
                ),
            ),
            (
                wallet_factory,
                with_arguments(&WalletFactory::BYTECODE, &WalletFactory::constructorCall { issuer: self.admin }),
            ),
        ];
        for (nonce, (address, code)) in (0..).zip(creations) {
            create(&chain, &deployer, chain_id, nonce, address, code).await?;
        }
        Ok(Deployed { token, distributor, wallet_factory })
    }

    fn token(&self, distributor: Address) -> Bytes {
        with_arguments(
            &GrantToken::BYTECODE,
            &GrantToken::constructorCall {
                name_: self.token_name.clone(),
                symbol_: self.token_symbol.clone(),
                cap_: default_cap(),
                admin: self.admin,
                minter: distributor,
            },
        )
    }
}

/// The most tokens that may ever exist, in base units of 18 decimals: a hundred billion.
fn default_cap() -> U256 {
    U256::from(100_000_000_000_u64) * U256::from(10).pow(U256::from(18))
}

fn with_arguments(code: &Bytes, arguments: &impl SolConstructor) -> Bytes {
    [code.as_ref(), &arguments.abi_encode()].concat().into()
}

/// Creates the contract of one nonce, unless it is there.
async fn create(
    chain: &dyn Chain,
    deployer: &Signer,
    chain_id: u64,
    nonce: u64,
    address: Address,
    code: Bytes,
) -> anyhow::Result<()> {
    const GAS_LIMIT: u64 = 5_000_000;
    if chain.nonce(deployer.address(), At::Latest).await? > nonce {
        ensure!(
            !chain.code(address).await?.is_empty(),
            "the deployer {} has sent other transactions before; use the key of a fresh account",
            deployer.address()
        );
        tracing::info!(%address, "contract is there already");
        return Ok(());
    }
    let (base_fee, tip) = chain.asked_fees().await?;
    let fees = Fees::offer(base_fee, tip, u64::MAX)?;
    let unsigned = Unsigned { chain_id, nonce, to: None, data: code, gas_limit: GAS_LIMIT, fees };
    let signed = deployer.sign(unsigned)?;
    chain.send(&signed.raw).await.context("the node did not take the creation of a contract")?;
    for _ in 0..RECEIPT_TRIES {
        if let Some(receipt) = chain.receipt(signed.hash).await? {
            ensure!(receipt.succeeded, "the creation of {address} reverted in transaction {}", signed.hash);
            tracing::info!(%address, transaction_hash = %signed.hash, "contract created");
            return Ok(());
        }
        tokio::time::sleep(RECEIPT_POLL).await;
    }
    bail!("transaction {} was sent and is not mined yet; run the same command again", signed.hash)
}

const RECEIPT_POLL: Duration = Duration::from_millis(100);
const RECEIPT_TRIES: u32 = 3000;
