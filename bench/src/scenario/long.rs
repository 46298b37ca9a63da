//! What takes longer, and gives no figure of the table: soak, replicas, block times.

use anyhow::Result;
use serde_json::{Map, Value, json};
use testkit::Which;

use super::end_to_end::show;
use crate::{
    measure::{Measured, Plan},
    print::say,
    report::Outcome,
    settings::{Database, FEW_WALLETS, Settings},
    spread::slope,
    world::World,
};

const WARM_UP: f64 = 5.0;

/// Half an hour, unless told.
const SOAK_SECONDS: f64 = 1800.0;
const SOAK_PER_SECOND: f64 = 500.0;

/// The block times that are compared, in seconds.
const BLOCK_TIMES: [f64; 3] = [0.25, 1.0, 2.0];

/// The replicas of both services that are compared.
const REPLICAS: [usize; 2] = [1, 3];

/// Memory over a long time: how much it grows in an hour, once the first quarter is over.
pub(super) async fn soak(settings: &Settings) -> Result<Outcome> {
    let (rate, seconds) = (settings.rate_or(SOAK_PER_SECOND), settings.seconds_or(SOAK_SECONDS));
    let settings = Settings { wallets: FEW_WALLETS, ..settings.clone() };
    let mut world = World::start(&settings).await?;
    let measured = world.measure(&Plan::steady(rate, WARM_UP, seconds)).await?;
    world.stop().await?;
    show(&measured);
    let mut growth = Map::new();
    for name in ["campaign", "blockchain"] {
        let points: Vec<_> = measured
            .resident_mb
            .iter()
            .filter(|(at, _)| *at > WARM_UP + seconds / 4.0)
            .filter_map(|(at, resident)| Some((at / 3600.0, *resident.get(name)?)))
            .collect();
        let Some(per_hour) = slope(&points) else { continue };
        say!("  {name}: {per_hour:+.1} MB an hour");
        growth.insert(format!("{name}_mb_per_hour"), json!(per_hour));
    }
    Ok(Outcome {
        figures: json!({}),
        details: json!({ "growth": growth, "settings": settings.describe(), "runs": [measured] }),
    })
}

/// The same load on one and on three replicas of both services, which share a PostgreSQL server.
pub(super) async fn replicas(settings: &Settings) -> Result<Outcome> {
    let settings = Settings { database: Database::Postgres, ..settings.clone() };
    let mut runs = Map::new();
    for replicas in REPLICAS {
        let mut world = World::start(&settings).await?;
        for which in [Which::Campaign, Which::Blockchain] {
            world.add_replicas(which, replicas - 1).await?;
        }
        say!("  {replicas} of each");
        let measured = run(world, &settings, 2_000.0).await?;
        runs.insert(replicas.to_string(), json!(measured));
    }
    Ok(compared(&settings, "replicas", &runs))
}

/// The same load on chains that are faster and slower.
pub(super) async fn block_times(settings: &Settings) -> Result<Outcome> {
    let mut runs = Map::new();
    for block_time in BLOCK_TIMES {
        let settings = Settings { block_time, ..settings.clone() };
        let world = World::start(&settings).await?;
        say!("  a block each {block_time} s");
        let measured = run(world, &settings, 1_000.0).await?;
        runs.insert(block_time.to_string(), json!(measured));
    }
    Ok(compared(settings, "block_times", &runs))
}

async fn run(mut world: World, settings: &Settings, rate: f64) -> Result<Measured> {
    let plan = Plan::steady(settings.rate_or(rate), WARM_UP, settings.seconds_or(30.0));
    let measured = world.measure(&plan).await?;
    world.stop().await?;
    show(&measured);
    Ok(measured)
}

fn compared(settings: &Settings, by: &str, runs: &Map<String, Value>) -> Outcome {
    Outcome { figures: json!({}), details: json!({ "settings": settings.describe(), by: runs }) }
}
