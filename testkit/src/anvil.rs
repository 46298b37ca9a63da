//! anvil, the development chain: from the search path, else from the contracts' npm packages.
//!
//! It runs with a block interval, because mining at once stalls under concurrent senders, and with the transaction gas
//! limit of EIP-7825. Old logs and receipts stay; of old states it keeps enough for a reorg.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    chain,
    paths::{is_program, on_path, workspace},
    process::{Part, Program},
};

/// The chain id.
pub const CHAIN_ID: u64 = 31_337;

/// A development account: anvil creates ten with 10,000 ether each. Their keys are public; never use them elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its address, with EIP-55 checksum.
    pub address: &'static str,
    /// Its private key.
    pub key: &'static str,
}

/// Account 0: deploys the contracts and holds the admin roles.
pub const ADMIN: Account = Account {
    address: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    key: "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
};

/// Account 1: submits grants.
pub const SUBMITTER: Account = Account {
    address: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    key: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
};

/// Those who may sign further transactions beside it, where a stack has [several
/// signers](crate::stack::Builder::signers).
pub const FURTHER_SUBMITTERS: [Account; 3] = [
    Account {
        address: "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        key: "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    },
    Account {
        address: "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
        key: "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    },
    Account {
        address: "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        key: "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    },
];

/// Account 2: nobody in particular, with ether and without a role.
pub const STRANGER: Account = Account {
    address: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    key: "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
};

/// The gas of one block. High, so that the chain is not what a load test measures; one transaction has 16,777,216.
const BLOCK_GAS: u64 = 2_000_000_000;

/// States kept in memory. Without a number anvil keeps none and cannot reorg.
const STATES: u32 = 64;

/// The same of a chain that forgets: each state has all balances.
const FEW_STATES: u32 = 4;

/// Slots in an epoch: the newest block is so many above the one that is `safe`, and twice as many above the one that is
/// `finalized`.
pub const EPOCH_SLOTS: u64 = 3;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running chain.
#[derive(Debug)]
pub struct Anvil {
    part: Part,
    port: u16,
}

impl Anvil {
    /// Starts a chain on `port`, with a block each `block_time`, and waits until it answers. Its log goes to the file `log`.
    ///
    /// # Errors
    /// When anvil is not installed (the message says how to get it) or does not answer in time.
    pub async fn start(log: PathBuf, port: u16, block_time: Duration) -> Result<Self> {
        Self::start_keeping(log, port, block_time, None).await
    }

    /// The same with a chain that keeps the transactions of so many blocks alone, and the states of fewer: otherwise a
    /// hundred thousand grants take 5 GB of its memory. It keeps all transactions where no number is given.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_keeping(log: PathBuf, port: u16, block_time: Duration, blocks: Option<u32>) -> Result<Self> {
        let mut own = vec![format!("--block-time={}", block_time.as_secs_f64())];
        own.extend(blocks.map(|blocks| format!("--transaction-block-keeper={blocks}")));
        Self::start_with(log, port, if blocks.is_some() { FEW_STATES } else { STATES }, own).await
    }

    /// Starts a chain that makes no blocks by itself (see [`Miner`](crate::Miner)) and keeps its state in the file
    /// `state`: read at each start, if it is there, and written whenever the chain is [stopped](Self::stop). What is
    /// not mined by then is lost.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_from(log: PathBuf, port: u16, state: &Path) -> Result<Self> {
        Self::start_with(log, port, STATES, vec!["--no-mining".to_owned(), format!("--state={}", state.display())])
            .await
    }

    async fn start_with(log: PathBuf, port: u16, states: u32, own: Vec<String>) -> Result<Self> {
        let program = Program::new("anvil", program()?, log).args(own).args([
            "--host=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--chain-id={CHAIN_ID}"),
            format!("--gas-limit={BLOCK_GAS}"),
            "--enable-tx-gas-limit".to_owned(),
            format!("--prune-history={states}"),
            format!("--slots-in-an-epoch={EPOCH_SLOTS}"),
        ]);
        let anvil = Self { part: Part::new(program), port };
        anvil.launch().await?;
        Ok(anvil)
    }

    /// The URL of its JSON-RPC interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill9`](Self::kill9): as a new, empty chain, or from its state.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub async fn launch(&self) -> Result<()> {
        self.part.spawn()?;
        let url = self.url();
        let answers = async || chain::rpc(&url, "eth_chainId", serde_json::json!([])).await.is_ok();
        self.part.ready(START_TIMEOUT, answers).await
    }

    /// Freezes it: connections are accepted by the kernel, and nobody answers.
    pub fn pause(&self) {
        self.part.pause();
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.part.resume();
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&self) -> Result<()> {
        self.part.stop().await
    }

    /// Kills it as a power cut would; the chain is lost.
    ///
    /// # Errors
    /// When it does not die.
    pub async fn kill9(&self) -> Result<()> {
        self.part.kill9().await
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.part.id()
    }

    /// Why it is not running although nobody stopped it.
    #[must_use]
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        self.part.unexpected_end()
    }
}

fn program() -> Result<PathBuf> {
    let modules = workspace().join("contracts/node_modules");
    if let Some(found) = on_path("anvil").or_else(|| native(&modules)) {
        return Ok(found);
    }
    let script = modules.join(".bin/anvil");
    if !is_program(&script) {
        bail!("anvil is neither on the search path nor in contracts/node_modules: run `npm ci` in contracts/");
    }
    Ok(script)
}

/// The native program that npm's start script would run: without a Node.js process in between, signals meet the chain.
fn native(modules: &Path) -> Option<PathBuf> {
    fs::read_dir(modules.join("@foundry-rs"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/anvil")))
        .find(|file| is_program(file) && file.to_string_lossy().contains("anvil-"))
        .context("npm has installed no native anvil")
        .ok()
}
