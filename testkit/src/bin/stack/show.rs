//! `status`, `logs` and `monitor`: what runs, and how it is.

use std::{
    env,
    io::{IsTerminal as _, stdout},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use testkit::{Answer, BlockchainClient, CampaignClient, Pubsub, chain};
use tokio::time::{interval, timeout};

use crate::{
    interrupt::Interrupt,
    print::{raw, say},
    run::seconds,
    state::{self, Phase, State},
};

/// Whoever does not answer within this time is away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where to look: at the stack that runs, else at the ports of the specification.
struct Targets {
    campaign: String,
    blockchain: String,
    pubsub: String,
    project: String,
    rpc: String,
}

impl Targets {
    fn now(running: Option<&State>) -> Self {
        let or = |variable: &str, default: &str| env::var(variable).unwrap_or_else(|_| default.to_owned());
        match running.and_then(|state| state.places.clone()) {
            Some(places) => Self {
                campaign: places.campaign_url,
                blockchain: places.blockchain_url,
                pubsub: places.pubsub_emulator_host,
                project: places.project,
                rpc: places.rpc_url,
            },
            None => Self {
                campaign: or("CAMPAIGN_URL", "http://localhost:8080"),
                blockchain: or("BLOCKCHAIN_URL", "http://localhost:8081"),
                pubsub: or("PUBSUB_EMULATOR_HOST", "localhost:8681"),
                project: or("GCP_PROJECT_ID", "test-project"),
                rpc: or("RPC_URL", "http://localhost:8545"),
            },
        }
    }
}

/// Says what runs, how it is, and what it has done.
pub(crate) async fn status() -> Result<ExitCode> {
    let running = state::running()?;
    match (&running, State::read()) {
        (Some(state), _) => say!("stack        `{}`, process {}", state.mode, state.pid),
        (None, Some(State { phase: Phase::Failed(why), .. })) => say!("stack        has ended: {why}"),
        (None, _) => say!("stack        not started by `make up` or `make dev`"),
    }
    let targets = Targets::now(running.as_ref());
    let campaign = CampaignClient::new(&targets.campaign);
    let blockchain = BlockchainClient::new(&targets.blockchain);
    let pubsub = Pubsub::new(&targets.pubsub, &targets.project);
    let (campaign, blockchain, health, stats, topics, subscriptions, block) = tokio::join!(
        within(campaign.get("/readyz")),
        within(blockchain.get("/readyz")),
        within(blockchain.health()),
        within(blockchain.stats()),
        within(pubsub.topics()),
        within(pubsub.subscriptions()),
        within(chain::rpc(&targets.rpc, "eth_blockNumber", serde_json::json!([]))),
    );
    say!("campaign     {} {}", targets.campaign, readiness(campaign.as_ref()));
    say!("blockchain   {} {}", targets.blockchain, readiness(blockchain.as_ref()));
    match topics {
        Some(topics) => {
            say!("Pub/Sub      {} project {}", targets.pubsub, targets.project);
            say!("  topics         {}", topics.join(" "));
            say!("  subscriptions  {}", subscriptions.unwrap_or_default().join(" "));
        }
        None => say!("Pub/Sub      {} does not answer", targets.pubsub),
    }
    match block {
        Some(number) => say!("chain        {} block {}", targets.rpc, decimal(&number)),
        None => say!("chain        {} does not answer", targets.rpc),
    }
    if let Some(health) = health {
        say!("health");
        list(&health.body);
    }
    if let Some(stats) = stats {
        say!("stats");
        list(&stats);
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes a `tail` of the services' logs.
pub(crate) fn logs() -> Result<ExitCode> {
    let logs = state::folder().join("logs");
    let files: Vec<_> = ["campaign", "blockchain"]
        .iter()
        .map(|name| logs.join(format!("{name}.log")))
        .filter(|file| file.exists())
        .collect();
    if files.is_empty() {
        bail!("no logs in {}: `make up` starts the services", logs.display());
    }
    Err(Command::new("tail").args(["-n", "50", "-F"]).args(files).exec()).context("cannot run tail")
}

/// Shows queue and counters again and again: a screen on a terminal, one line each time elsewhere.
pub(crate) async fn monitor(every: f64, count: Option<u64>) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    let running = state::running()?;
    let targets = Targets::now(running.as_ref());
    let blockchain = BlockchainClient::new(&targets.blockchain);
    let mut ticks = interval(seconds(every)?);
    let mut looks = 0;
    while count.is_none_or(|count| looks < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = interrupt.next() => break,
        }
        looks += 1;
        let stats = within(blockchain.stats()).await;
        let now = chrono::Local::now().format("%H:%M:%S");
        if stdout().is_terminal() {
            raw("\x1b[2J\x1b[H");
            say!("{now}  {}  (Ctrl-C ends)\n", targets.blockchain);
            match stats {
                Some(stats) => list(&stats),
                None => say!("does not answer"),
            }
        } else {
            let line = stats.map_or_else(|| "does not answer".to_owned(), |stats| one_line(&stats));
            say!("{now} {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Option<T> {
    timeout(PATIENCE, answer).await.ok()?.ok()
}

fn readiness(answer: Option<&Answer>) -> String {
    match answer {
        Some(answer) if answer.status == 200 => "ready".to_owned(),
        Some(answer) => format!("not ready: {}", answer.body),
        None => "does not answer".to_owned(),
    }
}

fn decimal(quantity: &Value) -> String {
    let hex = quantity.as_str().unwrap_or_default().trim_start_matches("0x");
    u64::from_str_radix(hex, 16).map_or_else(|_| quantity.to_string(), |number| number.to_string())
}

fn list(value: &Value) {
    for (name, value) in flat(value) {
        say!("  {name:<36} {value}");
    }
}

/// What changes while grants are under way, in one line; everything, should none of it be there.
fn one_line(value: &Value) -> String {
    const SHOWN: [&str; 9] = [
        "queue.grants",
        "queue.oldest_seconds",
        "in_flight.grants",
        "in_flight.transactions",
        "minted.grants",
        "failed.grants",
        "seconds_to_final.p50",
        "seconds_to_final.p99",
        "chain.block_number",
    ];
    let all = flat(value);
    let shown: Vec<_> = all.iter().filter(|(name, _)| SHOWN.contains(&name.as_str())).cloned().collect();
    pairs(if shown.is_empty() { all } else { shown })
}

fn pairs(values: Vec<(String, String)>) -> String {
    let pairs: Vec<String> = values.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

/// Each scalar under its dotted name, in the order of the document.
fn flat(value: &Value) -> Vec<(String, String)> {
    fn walk(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
        let child = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| walk(&child(key), value, into)),
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    walk(&child(&index.to_string()), value, into);
                }
            }
            Value::String(text) => into.push((name.to_owned(), text.clone())),
            scalar => into.push((name.to_owned(), scalar.to_string())),
        }
    }
    let mut all = Vec::new();
    walk("", value, &mut all);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_listed_by_dotted_names() {
        let document = json!({"a": {"b": 1, "c": "x"}, "d": [true]});
        assert_eq!(pairs(flat(&document)), "a.b=1 a.c=x d.0=true");
    }
}
