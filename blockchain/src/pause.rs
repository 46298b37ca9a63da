//! `blockchain pause` and `blockchain unpause`: stop the distributor, and let it go on.
//!
//! They look before they send, so that a repeat sends nothing. What is sent does not queue behind anything: it takes the
//! place of whatever else of the account waits to be mined, and pays more for as long as it is not mined itself.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use crate::chain::{self, At, Chain, Receipt, Refusal, Rpc};
use crate::contract::GrantDistributor;
use crate::deploy::checksummed;
use crate::fees::Fees;
use crate::signer::{Signer, Unsigned};

/// Pauses or unpauses the distributor, and prints what is so now as JSON. Exit status: 0 if it is as asked for, whether or
/// not it was before; 1 if it is not, or if that could not be found out.
#[derive(Debug, Clone, Args)]
pub struct Pausing {
    /// JSON-RPC endpoint of a node; several, separated by commas, where others stand in for one that does not answer.
    #[arg(
        long,
        env = "RPC_URL",
        default_value = "http://localhost:8545",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub rpc_url: Vec<Url>,

    /// The `GrantDistributor`.
    #[arg(long, env = "DISTRIBUTOR_ADDRESS")]
    pub distributor_address: Address,

    /// Private key of an account that holds `PAUSER_ROLE` at the distributor, and funds for gas. What else of the account
    /// waits to be mined is replaced.
    #[arg(long, env = "PAUSER_KEY", hide_env_values = true)]
    pub pauser_key: SecretString,
}

/// What is so on chain now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// The `GrantDistributor`, with the checksum of EIP-55.
    #[serde(serialize_with = "checksummed")]
    pub distributor: Address,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether this run has made it so; otherwise it was so already.
    pub changed: bool,
    /// The transaction that has made it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_hash: Option<B256>,
    /// The block that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
}

/// The most gas: either call needs some 30,000, and a rollup adds for its data.
const GAS_LIMIT: u64 = 300_000;

/// How long a transaction may take until another one, which pays more, takes its place.
const REPLACE_AFTER: Duration = Duration::from_secs(15);

/// How often it is asked for meanwhile.
const POLL: Duration = Duration::from_millis(100);

/// How many transactions are tried, each of which pays an eighth more than the one before.
const TRIES: u32 = 40;

impl Pausing {
    /// Makes it paused, or not, as wanted; returns when it is so.
    ///
    /// # Errors
    ///
    /// When it is not so: the key has not the role, or no node answers, or none of the transactions is mined in time.
    pub async fn run(&self, wanted: bool) -> anyhow::Result<Paused> {
        let key: PrivateKeySigner = self
            .pauser_key
            .expose_secret()
            .parse()
            .ok()
            .context("PAUSER_KEY must be a private key, 0x and 64 digits")?;
        let signer = Signer::new(key);
        let chain = Rpc::connect(&self.rpc_url)?;
        for _ in 1..self.rpc_url.len() {
            match self.set(&*chain.one_node(), &signer, wanted).await {
                // The next node is used from now on.
                Err(error) if error.downcast_ref().is_some_and(chain::Error::is_passing) => {}
                outcome => return outcome,
            }
        }
        self.set(&*chain.one_node(), &signer, wanted).await
    }

    async fn set(&self, chain: &dyn Chain, pauser: &Signer, wanted: bool) -> anyhow::Result<Paused> {
        let distributor = self.distributor_address;
        self.check(chain, pauser.address()).await?;
        let already =
            Paused { distributor, paused: wanted, changed: false, transaction_hash: None, block_number: None };
        if self.is_paused(chain).await? == wanted {
            tracing::info!(%distributor, paused = wanted, "it is so already, nothing is sent");
            return Ok(already);
        }
        let chain_id = chain.chain_id().await?;
        let mut sent = Vec::new();
        let mut offered: Option<Fees> = None;
        for _ in 0..TRIES {
            let (base_fee, tip) = chain.asked_fees().await?;
            let offer = Fees::offer(base_fee, tip, u64::MAX)?;
            let fees = offered.map_or(Ok(offer), |before| before.replaced_by(offer, u64::MAX))?;
            offered = Some(fees);
            let nonce = chain.nonce(pauser.address(), At::Latest).await?;
            let data = call(wanted);
            let signed =
                pauser.sign(Unsigned { chain_id, nonce, to: Some(distributor), data, gas_limit: GAS_LIMIT, fees })?;
            match chain.send(&signed.raw).await {
                Ok(()) => sent.push(signed.hash),
                Err(error) => match error.refusal() {
                    Some(Refusal::Known) => sent.push(signed.hash),
                    // It does not pay enough, perhaps to take the place of another: the next one pays more.
                    Some(Refusal::Underpriced | Refusal::ReplacementUnderpriced) => continue,
                    // Something was mined in this moment, perhaps what was sent before.
                    Some(Refusal::NonceTooLow) => {}
                    _ => return Err(error).context("the node did not take the transaction"),
                },
            }
            tracing::info!(transaction_hash = %signed.hash, nonce, "sent");
            match self.outcome(chain, &sent, wanted).await? {
                Some(Outcome::Mined(receipt)) => {
                    let Receipt { transaction_hash, block_number, .. } = receipt;
                    tracing::info!(%distributor, paused = wanted, %transaction_hash, block_number, "it is so now");
                    return Ok(Paused {
                        changed: true,
                        transaction_hash: Some(transaction_hash),
                        block_number: Some(block_number),
                        ..already
                    });
                }
                Some(Outcome::BySomebodyElse) => return Ok(already),
                None => {}
            }
        }
        bail!("not mined yet, run the same command again; sent from {}: {sent:?}", pauser.address())
    }

    /// Names what would keep the account from doing it.
    async fn check(&self, chain: &dyn Chain, account: Address) -> anyhow::Result<()> {
        let distributor = self.distributor_address;
        ensure!(
            !chain.code(distributor).await?.is_empty(),
            "DISTRIBUTOR_ADDRESS: there is no contract at {distributor} on the chain of RPC_URL"
        );
        // The token could be paused as well, and has a role of the same name.
        let token = chain.view(distributor, &GrantDistributor::tokenCall {}).await;
        token.context("DISTRIBUTOR_ADDRESS is not a GrantDistributor")?;
        let role = keccak256("PAUSER_ROLE");
        ensure!(
            chain.view(distributor, &GrantDistributor::hasRoleCall { role, account }).await?,
            "PAUSER_KEY: its account {account} does not hold PAUSER_ROLE at the distributor {distributor}; \
             an admin grants it with grantRole({role}, {account})"
        );
        Ok(())
    }

    async fn is_paused(&self, chain: &dyn Chain) -> chain::Result<bool> {
        chain.view(self.distributor_address, &GrantDistributor::pausedCall {}).await
    }

    /// Waits for what becomes of the transactions; nothing, perhaps.
    async fn outcome(&self, chain: &dyn Chain, sent: &[B256], wanted: bool) -> anyhow::Result<Option<Outcome>> {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < REPLACE_AFTER {
            for hash in sent {
                match chain.receipt(*hash).await? {
                    Some(receipt) if receipt.succeeded => return Ok(Some(Outcome::Mined(receipt))),
                    Some(_) if self.is_paused(chain).await? == wanted => return Ok(Some(Outcome::BySomebodyElse)),
                    Some(_) => bail!("transaction {hash} reverted"),
                    None => {}
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Ok((self.is_paused(chain).await? == wanted).then_some(Outcome::BySomebodyElse))
    }
}

enum Outcome {
    Mined(Receipt),
    BySomebodyElse,
}

fn call(paused: bool) -> Bytes {
    if paused {
        GrantDistributor::pauseCall {}.abi_encode().into()
    } else {
        GrantDistributor::unpauseCall {}.abi_encode().into()
    }
}
