//! Three processes of each service share the load and a database, while all of them are killed, frozen and asked to end
//! at random: each grant is paid once, every replica says so, and no lane is used by two.
//!
//! What is done to each process follows from a seed, as in the fault campaign. It is printed, and `CHAOS_SEED` repeats it.

mod load;
mod witness;

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use testkit::{
    Database, Service, Stack, Which,
    anvil::{Account, FURTHER_SUBMITTERS, SUBMITTER},
    chaos::{
        Plan, Schedule, Selection,
        fault::Fault,
        schedule::{Lane, Planned},
    },
    until, until_some,
};
use tokio::time::{Instant, sleep, sleep_until};

use self::{load::Load, witness::Witness};
use crate::{
    audit::audit,
    campaigns::{campaign, rebuild},
    harness::{SOON, builder, lanes_held},
};

/// Processes of each service.
const REPLICAS: usize = 3;

/// Lanes between the three. Each process has the keys of two: whoever takes all that it can leaves one to another, so that
/// two at least pay at the same time.
const SIGNERS: usize = 3;
const KEYS: usize = 2;

/// How long faults last, and requests, which go on for a while when all processes are well again.
const FAULTS: Duration = Duration::from_secs(16);
const REQUESTS: Duration = Duration::from_secs(20);

/// Requests a second.
const RATE: u32 = 100;

/// For how long a process takes a lane, here and in the fault campaign. Whatever is frozen is frozen for longer.
const LEASE: Duration = Duration::from_secs(3);
const USUAL_LEASE: Duration = Duration::from_secs(5);

/// How long a process may take to end when it is asked to; its own deadline is 10 s.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The signal that asks a process to end.
const SIGTERM: i32 = 15;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the machine for itself, and is a step of its own in `make test`"]
async fn replicas_that_are_killed_frozen_and_ended_at_random_pay_each_grant_once() -> Result<()> {
    let schedules = schedules()?;
    let (stack, witness) = start().await?;
    let load = Load::new(RATE, REQUESTS);
    for (name, settings) in load.campaigns() {
        campaign(&stack, name, &settings).await?;
    }

    let disturbances = async {
        disturb(&stack, &schedules).await?;
        kill_an_owner(&stack).await
    };
    let (answers, ()) = tokio::try_join!(load.run(&stack), disturbances)?;
    load.until_quiet(&stack).await?;

    for replica in stack.replicas(Which::Campaign) {
        load.assert_paid_exactly_once(&stack, replica, &answers).await?;
    }
    assert_eq!(stack.chain.skipped().await?, 0, "no grant was in two transactions that were mined");
    let moves = witness.assert_one_user_of_each_lane(&stack).await?;
    ensure!(moves > SIGNERS, "no lane ever moved");
    audit(&stack, &["--audit-grace-seconds", "0"]).await?.assert_equal();
    let (status, told) = rebuild(&stack, &[]).await?;
    assert_eq!((status, &told["differences"], &told["broken_seal"]), (0, &json!([]), &Value::Null), "{told}");
    eprintln!("{answers}, and lanes were taken {moves} times");
    if let Some(error) = stack.unexpected_end() {
        return Err(error);
    }
    stack.stop().await
}

/// What is done to the first, second and third process of each service, and when.
fn schedules() -> Result<Vec<Schedule>> {
    let first = match std::env::var("CHAOS_SEED") {
        Ok(seed) => seed.parse().context("CHAOS_SEED is a number")?,
        Err(_) => rand::random_range(0..1_000_000),
    };
    eprintln!("CHAOS_SEED={first} repeats it");
    let plan = Plan {
        selection: Selection::parse("kill,freeze,terminate")?,
        length: FAULTS,
        database: Some(Database::Postgres),
        campaign_points: &[],
        blockchain_points: &[],
    };
    let mut schedules: Vec<_> = (first..).take(REPLICAS).map(|seed| Schedule::of(seed, &plan)).collect();
    for schedule in &mut schedules {
        for Planned { fault, .. } in &mut schedule.faults {
            if let Fault::Freeze { milliseconds, .. } = fault {
                // There they are longer than a lease that is longer than here.
                *milliseconds = *milliseconds * LEASE.as_secs() / USUAL_LEASE.as_secs();
            }
        }
        eprintln!("{schedule}");
    }
    Ok(schedules)
}

/// Three processes of each service, and somebody who watches who uses which lane.
async fn start() -> Result<(Stack, Witness)> {
    let mut stack = builder(Database::Postgres)
        .signers(SIGNERS)
        .without_services()
        // Messages that a process has taken with it are soon there again.
        .campaign_env("REPUBLISH_AFTER_SECONDS", "6")
        .campaign_env("SHUTDOWN_DEADLINE_SECONDS", "10")
        .blockchain_env("SHUTDOWN_DEADLINE_SECONDS", "10")
        .blockchain_env("LANE_LEASE_SECONDS", LEASE.as_secs().to_string())
        // Many transactions, several of which are under way in each lane.
        .blockchain_env("BATCH_MAX_GRANTS", "50")
        .blockchain_env("CONFIRMATIONS", "3")
        .start()
        .await?;
    for which in [Which::Campaign, Which::Blockchain] {
        stack.add_replicas(which, REPLICAS - 1)?;
    }
    let keys: Vec<_> = signers().map(|account| account.key).collect();
    for (number, process) in stack.replicas(Which::Blockchain).enumerate() {
        let keys: Vec<_> = keys.iter().copied().cycle().skip(number).take(KEYS).collect();
        process.set("SIGNER_KEY", &keys.join(","));
    }
    let witness = Witness::of(&stack).await?;
    try_join_all(all(&stack).map(Service::start)).await?;
    Ok((stack, witness))
}

fn all(stack: &Stack) -> impl Iterator<Item = &Service> {
    [Which::Campaign, Which::Blockchain].into_iter().flat_map(|which| stack.replicas(which))
}

/// Does to each process what is planned for it; all of them are well in the end.
async fn disturb(stack: &Stack, schedules: &[Schedule]) -> Result<()> {
    let began = Instant::now();
    let process = async |service: &Service, schedule: &Schedule, lane: Lane| {
        for Planned { at, fault, .. } in schedule.faults.iter().filter(|planned| planned.lane == lane) {
            sleep_until(began + *at).await;
            carry_out(service, fault).await.with_context(|| format!("{fault}, after {at:?}"))?;
        }
        service.ready(SOON).await
    };
    let of =
        |which, lane| stack.replicas(which).zip(schedules).map(move |(service, schedule)| (service, schedule, lane));
    let both = of(Which::Campaign, Lane::Campaign).chain(of(Which::Blockchain, Lane::Blockchain));
    try_join_all(both.map(|(service, schedule, lane)| process(service, schedule, lane))).await?;
    Ok(())
}

async fn carry_out(service: &Service, fault: &Fault) -> Result<()> {
    if let Some(error) = service.unexpected_end() {
        return Err(error);
    }
    match fault {
        Fault::Kill { down, .. } => {
            service.kill9().await?;
            sleep(Duration::from_millis(*down)).await;
            service.spawn()
        }
        Fault::Freeze { milliseconds, .. } => {
            service.pause();
            sleep(Duration::from_millis(*milliseconds)).await;
            service.resume();
            Ok(())
        }
        Fault::Terminate { .. } => {
            let status = service.terminate(ENDS_WITHIN).await?;
            // The signal itself ends it as long as it has not begun to listen for it.
            ensure!(status.success() || status.signal() == Some(SIGTERM), "it ended with {status}");
            service.spawn()
        }
        other => unreachable!("{other} was not asked for"),
    }
}

/// Kills a process that holds lanes, under load: others have them as soon as their leases are over.
async fn kill_an_owner(stack: &Stack) -> Result<()> {
    let all: Vec<_> = stack.replicas(Which::Blockchain).collect();
    let held = async || join_all(all.iter().map(|process| lanes_held(process))).await;
    let (owner, lanes) = until_some(SOON, "a process that holds lanes", async || {
        let held = all.iter().zip(held().await).filter_map(|(process, lanes)| Some((*process, lanes?)));
        held.max_by_key(|(_, lanes)| lanes.len()).filter(|(_, lanes)| !lanes.is_empty())
    })
    .await?;
    owner.kill9().await?;
    until(LEASE * 2, &format!("{lanes:?} to be held by others than the process that was killed"), async || {
        let held: BTreeSet<_> = held().await.into_iter().flatten().flatten().collect();
        held.is_superset(&lanes)
    })
    .await?;
    owner.spawn()?;
    owner.ready(SOON).await
}

/// Those who sign, each in a lane of its own.
fn signers() -> impl Iterator<Item = Account> {
    [SUBMITTER].into_iter().chain(FURTHER_SUBMITTERS).take(SIGNERS)
}
