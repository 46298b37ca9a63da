//! From the start of the processes to `/readyz`: the first start, on empty databases and without topics, and restarts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use testkit::{Service, Which};
use tokio::time::sleep;

use crate::{
    connection::{self, Connection},
    print::say,
    report::Outcome,
    settings::Settings,
    spread::median,
    world::{Services, World, address},
};

const RESTARTS: usize = 4;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(2);

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let world = World::prepare(settings, Services::None).await?;
    let (campaign, blockchain) = (world.service(Which::Campaign), world.service(Which::Blockchain));
    let (mut campaigns, mut blockchains) = (Vec::new(), Vec::new());
    for _ in 0..=RESTARTS {
        // Both at once, as on a machine that boots.
        let (of_campaign, of_blockchain) = tokio::try_join!(ready(campaign), ready(blockchain))?;
        say!("  ready after {of_campaign:.3} s (campaign) and {of_blockchain:.3} s (blockchain)");
        campaigns.push(of_campaign);
        blockchains.push(of_blockchain);
        tokio::try_join!(campaign.stop(), blockchain.stop())?;
    }
    world.stop().await?;
    let worse: Vec<f64> =
        campaigns.iter().zip(&blockchains).map(|(campaign, blockchain)| campaign.max(*blockchain)).collect();
    let restarted = median(&worse[1..]).context("there are restarts")?;
    Ok(Outcome {
        figures: json!({ "ready_seconds": worse[0].max(restarted) }),
        details: json!({
            "meaning": "the slower of both services, started at the same time; the first start or the median of the \
                        restarts, whichever is longer",
            "campaign_seconds": campaigns,
            "blockchain_seconds": blockchains,
            "settings": settings.describe(),
        }),
    })
}

/// Starts a service; the seconds until it says that it is ready.
async fn ready(service: &Service) -> Result<f64> {
    let (address, request) = (address(&service.url())?, connection::get("/readyz"));
    let began = Instant::now();
    service.spawn()?;
    while began.elapsed() < PATIENCE {
        if let Ok(mut connection) = Connection::open(address).await
            && connection.exchange(&request).await.is_ok_and(|answer| answer.status == 200)
        {
            return Ok(began.elapsed().as_secs_f64());
        }
        sleep(LOOK).await;
    }
    match service.unexpected_end() {
        Some(error) => Err(error),
        None => bail!("{} is not ready after {PATIENCE:?}", service.name()),
    }
}
