//! The contracts that this service pays through: found, checked, and read once at start.

use alloy::primitives::{Address, keccak256};
use shared::id::UserId;

use crate::chain::{self, Chain};
use crate::contract::{GrantDistributor, GrantToken, WalletFactory, max_decimals};
use crate::domain::Wallets;

/// Contracts that are what we take them for.
#[derive(Debug, Clone, Copy)]
pub struct Deployment {
    /// The distributor, which pays.
    pub distributor: Address,
    /// The token that it pays in.
    pub token: Address,
    /// The token's decimals.
    pub decimals: u8,
    /// Whether the distributor has many grants minted together: the token can do that, and the distributor is not one of an
    /// earlier version.
    pub mints_batches: bool,
    /// Where users without a wallet are paid.
    pub wallets: Wallets,
    /// The block from which on the distributor's events are looked for.
    pub block: u64,
}

/// Where the contracts are said to be.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// `DISTRIBUTOR_ADDRESS`.
    pub distributor: Address,
    /// `WALLET_FACTORY_ADDRESS`.
    pub wallet_factory: Address,
    /// `DISTRIBUTOR_BLOCK`.
    pub distributor_block: u64,
    /// `CHAIN_ID`, where given.
    pub chain_id: Option<u64>,
}

/// Why the contracts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// Each of these must be mended.
    #[error("the chain is not as configured:\n  - {}", .0.join("\n  - "))]
    Misconfigured(Vec<String>),
}

impl Deployment {
    /// Checks everything that can be wrong with the configuration of the chain, and names all of it at once. `signers` are
    /// to send the payments. Returns the chain's id too.
    ///
    /// # Errors
    ///
    /// [`Error::Misconfigured`] with every problem, or the chain's error when it does not answer.
    pub async fn verify(chain: &dyn Chain, signers: &[Address], addresses: Addresses) -> Result<(Self, u64), Error> {
        Self::check(chain, signers, addresses).await
    }

    /// The same for one who only looks, and pays nothing: who holds which role does not matter.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub async fn verify_without_signer(chain: &dyn Chain, addresses: Addresses) -> Result<(Self, u64), Error> {
        Self::check(chain, &[], addresses).await
    }

    async fn check(chain: &dyn Chain, signers: &[Address], addresses: Addresses) -> Result<(Self, u64), Error> {
        let Addresses { distributor, wallet_factory, distributor_block, chain_id: expected } = addresses;
        let mut problems = Vec::new();
        let chain_id = chain.chain_id().await?;
        if let Some(expected) = expected.filter(|expected| *expected != chain_id) {
            problems.push(format!("CHAIN_ID is {expected}, the node at RPC_URL serves chain {chain_id}"));
        }
        let mut read = Read { chain, signers, problems };
        let mut deployment = None;
        if read.is_contract("DISTRIBUTOR_ADDRESS", distributor).await? {
            deployment = read.distributor(distributor).await?;
        }
        let mut wallets = None;
        if read.is_contract("WALLET_FACTORY_ADDRESS", wallet_factory).await? {
            wallets = read.wallets(wallet_factory).await?;
        }
        match (deployment, wallets) {
            (Some((token, decimals)), Some(wallets)) if read.problems.is_empty() => {
                let mints_batches = read.mints_batches(distributor).await?;
                let block = distributor_block;
                Ok((Self { distributor, token, decimals, mints_batches, wallets, block }, chain_id))
            }
            _ => Err(Error::Misconfigured(read.problems)),
        }
    }
}

/// Reads contracts, keeping what is wrong with them.
struct Read<'a> {
    chain: &'a dyn Chain,
    /// Who is to send payments; nobody where roles do not matter.
    signers: &'a [Address],
    problems: Vec<String>,
}

impl Read<'_> {
    async fn is_contract(&mut self, variable: &str, address: Address) -> chain::Result<bool> {
        let is_contract = !self.chain.code(address).await?.is_empty();
        if !is_contract {
            self.problems
                .push(format!("{variable}: there is no contract at {address}; deploy with `blockchain deploy`"));
        }
        Ok(is_contract)
    }

    /// What the node or the contract answers with an error is a problem of the configuration; no answer for now is
    /// not.
    fn answered<T>(&mut self, what: &str, answer: chain::Result<T>) -> chain::Result<Option<T>> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_passing() => Err(error),
            Err(error) => {
                self.problems.push(format!("{what}: {error}"));
                Ok(None)
            }
        }
    }

    async fn distributor(&mut self, distributor: Address) -> chain::Result<Option<(Address, u8)>> {
        for &signer in self.signers {
            let role = keccak256("SUBMITTER_ROLE");
            let call = GrantDistributor::hasRoleCall { role, account: signer };
            let is_submitter = self.chain.view(distributor, &call).await;
            if self.answered("DISTRIBUTOR_ADDRESS is not a GrantDistributor", is_submitter)? == Some(false) {
                self.problems.push(format!(
                    "SIGNER_KEY: the account {signer} does not hold SUBMITTER_ROLE at the distributor {distributor}; \
                     an admin grants it with grantRole({role}, {signer})"
                ));
            }
        }
        let token = self.chain.view(distributor, &GrantDistributor::tokenCall {}).await;
        let Some(token) = self.answered("DISTRIBUTOR_ADDRESS is not a GrantDistributor", token)? else {
            return Ok(None);
        };
        let decimals = self.chain.view(token, &GrantToken::decimalsCall {}).await;
        let Some(decimals) = self.answered("the distributor's token has no decimals()", decimals)? else {
            return Ok(None);
        };
        if decimals > max_decimals() {
            self.problems.push(format!(
                "the token {token} has {decimals} decimals; amounts fit the distributor's format up to {}",
                max_decimals()
            ));
        }
        if self.signers.is_empty() {
            return Ok(Some((token, decimals)));
        }
        // A token of another make may name its roles otherwise; a mint that it refuses is reported grant by grant.
        let call = GrantToken::hasRoleCall { role: keccak256("MINTER_ROLE"), account: distributor };
        match self.chain.view(token, &call).await {
            Ok(false) => self.problems.push(format!(
                "the distributor {distributor} does not hold MINTER_ROLE at the token {token}; an admin grants it"
            )),
            Err(error) if error.is_passing() => return Err(error),
            Ok(true) | Err(_) => {}
        }
        Ok(Some((token, decimals)))
    }

    /// A distributor of an earlier version does not know the question.
    async fn mints_batches(&self, distributor: Address) -> chain::Result<bool> {
        match self.chain.view(distributor, &GrantDistributor::mintsBatchesCall {}).await {
            Err(error) if error.is_passing() => Err(error),
            answer => Ok(answer.unwrap_or(false)),
        }
    }

    async fn wallets(&mut self, factory: Address) -> chain::Result<Option<Wallets>> {
        const NOT_A_FACTORY: &str = "WALLET_FACTORY_ADDRESS is not a WalletFactory";
        let code_hash = self.chain.view(factory, &WalletFactory::WALLET_CODE_HASHCall {}).await;
        let Some(code_hash) = self.answered(NOT_A_FACTORY, code_hash)? else { return Ok(None) };
        let wallets = Wallets { factory, code_hash };
        // The address is computed here from now on: once, the factory is asked whether it agrees.
        let probe: UserId = "probe".parse().expect("it is a user id");
        let call = WalletFactory::walletOfCall { userKey: keccak256(probe.as_str()) };
        let theirs = self.chain.view(factory, &call).await;
        let Some(theirs) = self.answered(NOT_A_FACTORY, theirs)? else { return Ok(None) };
        if theirs != wallets.of(&probe) {
            self.problems.push(format!("WALLET_FACTORY_ADDRESS: the factory {factory} derives wallets otherwise"));
        }
        Ok(Some(wallets))
    }
}
