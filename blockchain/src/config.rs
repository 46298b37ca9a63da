//! The blockchain service's settings: each from an argument or its environment variable, all problems named at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use chrono::TimeDelta;
use clap::{Parser, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use shared::id::WalletAddress;
use shared::pubsub;
use shared::telemetry::LogFormat;
use url::Url;

use crate::audit::command::Audit;
use crate::confirmer::Rules;
use crate::contract::gas_per_grant;
use crate::deploy::Deploy;
use crate::deployment::Addresses;
use crate::finality::Finality;
use crate::pause::Pausing;
use crate::submitter::Limits;
use crate::transaction::Patience;

/// Mints granted tokens on an EVM chain in batches and publishes the results.
#[derive(Debug, Parser)]
#[command(name = "blockchain", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than to run the service.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How the service runs.
    #[command(flatten)]
    pub config: Config,
}

/// What the program can do besides running the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy the contracts and print their addresses.
    Deploy(Deploy),
    /// Pause the distributor: nothing is paid on chain, whoever sends it, until it is unpaused.
    Pause(Pausing),
    /// Unpause the distributor: what waits is paid.
    Unpause(Pausing),
    /// Compare ledger and chain, and name each difference.
    Audit(Box<Audit>),
}

/// How the service runs. Fields that only [`Config::validate`] understands are text here.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Address and port to serve HTTP on.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0:8081")]
    pub listen_address: SocketAddr,

    /// This service's own database: `sqlite://path` (the file is created where missing) or
    /// `postgres://user:password@host/database`.
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://data/blockchain.db", hide_env_values = true)]
    pub database_url: SecretString,

    /// Which Pub/Sub.
    #[command(flatten)]
    pub pubsub: pubsub::Config,

    /// JSON-RPC endpoint of a node; several, separated by commas, where others stand in for one that does not answer.
    #[arg(long, env = "RPC_URL", default_value = "http://localhost:8545", hide_env_values = true)]
    pub rpc_url: String,

    /// WebSocket endpoint of a node, such as `ws://localhost:8546`, which tells of new blocks as they come. Unset or empty:
    /// they are looked for five times a second.
    #[arg(long, env = "WS_URL", hide_env_values = true)]
    pub ws_url: Option<String>,

    /// The chain's id (EIP-155); the service refuses to start on another. Unset: whichever chain the node serves.
    #[arg(long, env = "CHAIN_ID")]
    pub chain_id: Option<String>,

    /// Private key that signs transactions, 0x and 64 hexadecimal digits; several, separated by commas, for as many lines
    /// of transactions beside each other. Each account holds `SUBMITTER_ROLE` at the distributor and pays its gas, and
    /// nobody else may send transactions from it.
    #[arg(long, env = "SIGNER_KEY", hide_env_values = true)]
    pub signer_key: Option<SecretString>,

    /// The `GrantDistributor`.
    #[arg(long, env = "DISTRIBUTOR_ADDRESS")]
    pub distributor_address: Option<String>,

    /// The `WalletFactory`.
    #[arg(long, env = "WALLET_FACTORY_ADDRESS")]
    pub wallet_factory_address: Option<String>,

    /// Block in which the distributor was deployed: its events are looked for from there on.
    #[arg(long, env = "DISTRIBUTOR_BLOCK", default_value_t = 0)]
    pub distributor_block: u64,

    /// When a payment is final: a number of blocks, of which 1 is the block that holds it, or `safe` or `finalized` where
    /// the chain knows these words.
    #[arg(long, env = "CONFIRMATIONS", default_value = "1")]
    pub confirmations: Finality,

    /// The most grants in a transaction.
    #[arg(long, env = "BATCH_MAX_GRANTS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub batch_max_grants: u16,

    /// Milliseconds that a grant waits for others to share a transaction with.
    #[arg(long, env = "BATCH_LINGER_MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub batch_linger_ms: u64,

    /// The most transactions of a signer whose fate is open.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_in_flight: u16,

    /// About the most gas of a block that transactions of all signers together take: what waits for a block has no more.
    /// 0 for whatever the transactions in flight take.
    #[arg(long, env = "MAX_BLOCK_GAS", default_value_t = 0, value_parser = max_block_gas)]
    pub max_block_gas: u64,

    /// The most gas that one mint of the token costs, the distributor's part included. Unset: 26000 where the token mints
    /// many grants together, as `GrantToken` does, and 30000 where it does not.
    #[arg(long, env = "GAS_PER_GRANT", value_parser = clap::value_parser!(u64).range(10_000..=1_000_000))]
    pub gas_per_grant: Option<u64>,

    /// The most to pay for a unit of gas, in gwei. While the chain asks for more, grants wait.
    #[arg(long, env = "MAX_FEE_GWEI", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub max_fee_gwei: u64,

    /// Seconds without a receipt after which the same bytes are sent again.
    #[arg(long, env = "RESEND_AFTER_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub resend_after_seconds: u64,

    /// Seconds without a receipt after which a transaction is replaced by one that pays an eighth more for gas, up to
    /// `MAX_FEE_GWEI`.
    #[arg(long, env = "REPLACE_AFTER_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub replace_after_seconds: u64,

    /// Seconds without a receipt after which a transaction is cancelled, by one that does nothing at the same nonce, and
    /// its grants go to another.
    #[arg(long, env = "CANCEL_AFTER_SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub cancel_after_seconds: u64,

    /// Seconds for which one of several processes with this signer and database may send; another takes over that long
    /// after it was killed. Their clocks must agree better than that.
    #[arg(long, env = "LANE_LEASE_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub lane_lease_seconds: u64,

    /// Seconds that a grant waits which was refused for a reason that will pass, such as a pause of the token.
    #[arg(long, env = "POSTPONE_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub postpone_seconds: u64,

    /// Where the campaign service answers, such as `http://localhost:8080`: audits compare its ledger too. Unset or empty:
    /// they compare this service's ledger alone.
    #[arg(long, env = "CAMPAIGN_URL", hide_env_values = true)]
    pub campaign_url: Option<String>,

    /// Seconds between two audits of the service by itself.
    #[arg(long, env = "AUDIT_EVERY_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub audit_every_seconds: u64,

    /// Seconds that the result of a payment may be on its way; after that it is a difference.
    #[arg(long, env = "AUDIT_GRACE_SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(0..=604_800))]
    pub audit_grace_seconds: u32,

    /// The most blocks whose events an audit asks a node for at once. It asks for fewer where the node refuses so many.
    #[arg(long, env = "AUDIT_MAX_BLOCKS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub audit_max_blocks: u64,

    /// Seconds that work under way has to finish after SIGTERM.
    #[arg(long, env = "SHUTDOWN_DEADLINE_SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub shutdown_deadline_seconds: u64,

    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

/// What [`Config`] says of the outside, understood.
#[derive(Debug, Clone)]
pub struct ChainSettings {
    /// The nodes' endpoints, at least one.
    pub rpc_urls: Vec<Url>,
    /// A node that tells of new blocks, where one is known.
    pub ws_url: Option<Url>,
    /// Where the contracts are.
    pub addresses: Addresses,
    /// Where the campaign service is, if that is known.
    pub campaign_url: Option<Url>,
}

/// Everything that is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid:\n  - {}", .0.join("\n  - "))]
pub struct Invalid(pub Vec<String>);

impl Config {
    /// Understands the settings of the service: those of the chain, and who signs.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with every problem, each naming its variable.
    pub fn validate(&self) -> Result<(ChainSettings, Vec<PrivateKeySigner>), Invalid> {
        let mut problems = Problems::default();
        let settings = self.chain_settings(&mut problems);
        let signers = problems.signers(self.signer_key.as_ref().map(ExposeSecret::expose_secret));
        settings.zip(signers).filter(|_| problems.0.is_empty()).ok_or(Invalid(problems.0))
    }

    /// Understands the settings of one who only looks, and needs no key.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with every problem, each naming its variable.
    pub fn validate_without_signer(&self) -> Result<ChainSettings, Invalid> {
        let mut problems = Problems::default();
        let settings = self.chain_settings(&mut problems);
        settings.filter(|_| problems.0.is_empty()).ok_or(Invalid(problems.0))
    }

    fn chain_settings(&self, problems: &mut Problems) -> Option<ChainSettings> {
        let rpc_url = |url: &str| problems.url("RPC_URL", "http://localhost:8545", ["http", "https"], url.trim());
        let rpc_urls: Vec<_> = self.rpc_url.split(',').filter_map(rpc_url).collect();
        let chain_id = match &self.chain_id {
            None => None,
            text => problems.parse("CHAIN_ID", "must be a number", text.as_deref()),
        };
        let ws_url = self
            .ws_url
            .as_deref()
            .filter(|url| !url.is_empty())
            .and_then(|url| problems.url("WS_URL", "ws://localhost:8546", ["ws", "wss"], url));
        let campaign_url = self.campaign_url.as_deref().filter(|url| !url.is_empty());
        let campaign_url =
            campaign_url.and_then(|url| problems.url("CAMPAIGN_URL", "http://localhost:8080", ["http", "https"], url));
        let distributor = problems.address("DISTRIBUTOR_ADDRESS", self.distributor_address.as_deref());
        let wallet_factory = problems.address("WALLET_FACTORY_ADDRESS", self.wallet_factory_address.as_deref());
        let distributor_block = self.distributor_block;
        let addresses =
            Addresses { distributor: distributor?, wallet_factory: wallet_factory?, distributor_block, chain_id };
        Some(ChainSettings { rpc_urls, ws_url, addresses, campaign_url })
    }

    /// How transactions are made for a token that mints many grants together, or one by one.
    #[must_use]
    pub fn limits(&self, mints_batches: bool) -> Limits {
        Limits {
            batch_grants: self.batch_max_grants.into(),
            in_flight: self.max_in_flight.into(),
            block_gas: (self.max_block_gas > 0).then_some(self.max_block_gas),
            linger: Duration::from_millis(self.batch_linger_ms),
            gas_per_grant: self.gas_per_grant.unwrap_or_else(|| gas_per_grant(mints_batches)),
            max_fee_per_gas: self.max_fee_per_gas(),
            postpone: Duration::from_secs(self.postpone_seconds),
        }
    }

    /// How transactions are followed.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            finality: self.confirmations,
            patience: Patience {
                resend_after: seconds(self.resend_after_seconds),
                replace_after: seconds(self.replace_after_seconds),
                cancel_after: seconds(self.cancel_after_seconds),
            },
            max_fee_per_gas: self.max_fee_per_gas(),
            postpone: seconds(self.postpone_seconds),
        }
    }

    /// For how long a lane is taken.
    #[must_use]
    pub fn lane_lease(&self) -> TimeDelta {
        seconds(self.lane_lease_seconds)
    }

    /// The most to pay for a unit of gas, in wei.
    #[must_use]
    pub fn max_fee_per_gas(&self) -> u64 {
        self.max_fee_gwei * 1_000_000_000
    }

    /// How often the service audits itself.
    #[must_use]
    pub fn audit_every(&self) -> Duration {
        Duration::from_secs(self.audit_every_seconds)
    }

    /// How long shutting down may take.
    #[must_use]
    pub fn shutdown_deadline(&self) -> Duration {
        Duration::from_secs(self.shutdown_deadline_seconds)
    }
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(seconds.try_into().unwrap_or(i64::MAX / 1000))
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) -> bool {
        if !holds {
            self.0.push(problem());
        }
        holds
    }

    /// The value's text is not repeated: it may be a secret.
    fn parse<T: FromStr>(&mut self, variable: &str, rule: &str, text: Option<&str>) -> Option<T> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            self.0.push(format!("{variable} is not set; it {rule}"));
            return None;
        };
        let value = text.parse().ok();
        self.check(value.is_some(), || format!("{variable} {rule}"));
        value
    }

    /// One signer for each key, none twice: two lines of nonces of one account would take each other's.
    fn signers(&mut self, text: Option<&str>) -> Option<Vec<PrivateKeySigner>> {
        let (variable, rule) = ("SIGNER_KEY", "must be a private key: 0x and 64 hexadecimal digits");
        let signers: Vec<_> = text
            .unwrap_or_default()
            .split(',')
            .map(|key| self.parse::<PrivateKeySigner>(variable, rule, Some(key.trim())))
            .collect::<Option<_>>()?;
        let addresses: BTreeSet<_> = signers.iter().map(PrivateKeySigner::address).collect();
        self.check(addresses.len() == signers.len(), || format!("{variable} names a key twice")).then_some(signers)
    }

    fn url(&mut self, variable: &str, example: &str, schemes: [&str; 2], text: &str) -> Option<Url> {
        let url = self.parse::<Url>(variable, &format!("must be a URL such as {example}"), Some(text))?;
        let [plain, secure] = schemes;
        self.check(schemes.contains(&url.scheme()), || {
            format!("{variable} must begin with {plain}:// or {secure}://, not {}:", url.scheme())
        })
        .then_some(url)
    }

    fn address(&mut self, variable: &str, text: Option<&str>) -> Option<Address> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            self.0.push(format!("{variable} is not set; `blockchain deploy` prints it"));
            return None;
        };
        match text.parse::<WalletAddress>() {
            Ok(wallet) => Some(wallet.address()),
            Err(error) => {
                self.0.push(format!("{variable} {error}"));
                None
            }
        }
    }
}

/// Reads `MAX_BLOCK_GAS`.
fn max_block_gas(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(gas @ (0 | LEAST_BLOCK_GAS..)) => Ok(gas),
        _ => Err(format!("must be 0, for no limit, or at least {LEAST_BLOCK_GAS}, which a few grants need")),
    }
}

/// A transaction of one costly grant has room in it.
const LEAST_BLOCK_GAS: u64 = 2_000_000;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_problem_is_named_and_no_secret_is_shown() {
        let cli = Cli::parse_from([
            "blockchain",
            "--rpc-url=ftp://node",
            "--ws-url=http://node",
            "--chain-id=one",
            "--signer-key=hunter2",
            "--campaign-url=localhost:8080",
            "--distributor-address=0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD",
        ]);
        let problems = cli.config.validate().unwrap_err().to_string();
        for variable in [
            "RPC_URL",
            "WS_URL",
            "CHAIN_ID",
            "SIGNER_KEY",
            "CAMPAIGN_URL",
            "DISTRIBUTOR_ADDRESS",
            "WALLET_FACTORY_ADDRESS",
        ] {
            assert!(problems.contains(variable), "{variable} is not in {problems}");
        }
        assert!(!problems.contains("hunter2"));
        let mut twice = cli.config.clone();
        let key = format!("0x{}", "01".repeat(32));
        twice.signer_key = Some(format!("{key}, {key}").into());
        assert!(twice.validate().unwrap_err().to_string().contains("SIGNER_KEY names a key twice"));
        let without_signer = cli.config.validate_without_signer().unwrap_err().to_string();
        assert!(!without_signer.contains("SIGNER_KEY") && without_signer.contains("RPC_URL"), "{without_signer}");
        assert!(!format!("{:?}", cli.config).contains("hunter2"));
    }
}
