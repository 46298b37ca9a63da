//! `demo`: grants tokens to everybody in a file, and holds the ledger against the chain.

mod progress;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use alloy::primitives::Address;
use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use testkit::{Grant, GrantRequest, Stack, paths::workspace};
use tokio::time::interval;

use self::{progress::Progress, report::Report};
use crate::{interrupt::Interrupt, print::say, run::seconds};

/// Requests under way at once.
const CONCURRENT: usize = 32;

/// Time between two looks at the grants that are not final.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// When nothing has become final for so long, the rest is lost.
const PATIENCE: Duration = Duration::from_mins(1);

const CAMPAIGN: &str = "demo";

/// One line of the file.
#[derive(Clone, Debug, Deserialize)]
struct Participant {
    user_id: String,
    wallet_address: Option<String>,
    token_amount: u64,
}

impl Participant {
    fn request(&self) -> GrantRequest {
        let request = GrantRequest::new(&self.user_id, CAMPAIGN).amount(self.token_amount);
        match &self.wallet_address {
            Some(wallet) => request.to(wallet),
            None => request,
        }
    }
}

/// Runs the demonstration; Ctrl-C ends it, and everything it has started.
pub(crate) async fn demo(participants: &Path, block_time: f64) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    let participants = read(participants)?;
    tokio::select! {
        done = demonstrate(&participants, block_time) => done,
        () = interrupt.next() => bail!("interrupted: everything is stopped"),
    }
}

async fn demonstrate(participants: &[Participant], block_time: f64) -> Result<ExitCode> {
    let began = Instant::now();
    say!("starting everything, with a block each {block_time} s");
    let stack = Stack::builder()
        .emulator_or_one_process()
        .block_time(seconds(block_time)?)
        .progress(|step| say!("  {step}"))
        .start()
        .await?;
    let start_seconds = began.elapsed().as_secs_f64();

    let granted = tokio::select! {
        granted = grant_all(&stack, participants) => granted?,
        died = stack.first_unexpected_end() => return Err(died),
    };
    let report = Report::of(&granted, &stack).await?;
    stack.stop().await?;
    let report = report.timed(block_time, start_seconds, began.elapsed().as_secs_f64());

    let file = report.write()?;
    report.show();
    say!("written to {}", file.display());
    if report.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    for problem in granted.problems {
        eprintln!("{problem}");
    }
    bail!("ledger and chain differ, or something was lost, duplicated or refused: see the table");
}

/// What has become of the requests.
struct Granted {
    requested: usize,
    repeated: usize,
    refused: usize,
    /// Each grant once: as it was seen last, if it ever was, and who is to be paid.
    grants: Vec<(Option<Grant>, Address)>,
    problems: Vec<String>,
    took: Duration,
}

/// Sends all requests, and waits until each accepted grant is final.
async fn grant_all(stack: &Stack, participants: &[Participant]) -> Result<Granted> {
    let began = Instant::now();
    let client = stack.campaign_client();
    let (client, chain) = (&client, &stack.chain);
    let answers: Vec<_> = stream::iter(participants)
        .map(|participant| async move { (participant, client.request(&participant.request()).await) })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;

    let mut repeated = 0;
    let mut problems = Vec::new();
    let mut recipients = BTreeMap::new();
    for (participant, answer) in answers {
        match answer.and_then(|answer| Ok((answer.request_id()?, answer.status))) {
            Ok((request_id, status)) => {
                repeated += usize::from(status == 200);
                let wallet = participant.wallet_address.as_deref();
                let recipient = chain.recipient(&participant.user_id, wallet).await?;
                recipients.insert(request_id, recipient);
            }
            Err(error) => problems.push(format!("{}: {error:#}", participant.user_id)),
        }
    }
    let refused = problems.len();
    let grants = wait_for_all(stack, recipients.keys().cloned().collect()).await?;
    let took = began.elapsed();

    let grants: Vec<_> = recipients
        .into_iter()
        .map(|(request_id, recipient)| {
            let grant = grants.get(&request_id).cloned();
            match &grant {
                Some(grant) if grant.is_completed() => {}
                Some(grant) => problems.push(format!("{}: grant {request_id} is {}", grant.user_id, grant.state)),
                None => problems.push(format!("grant {request_id} was accepted and is unknown")),
            }
            (grant, recipient)
        })
        .collect();
    Ok(Granted { requested: participants.len(), repeated, refused, grants, problems, took })
}

/// Looks at the grants until all are final or nothing has moved for too long; returns each as it was seen last.
async fn wait_for_all(stack: &Stack, mut open: BTreeSet<String>) -> Result<BTreeMap<String, Grant>> {
    let client = stack.campaign_client();
    let progress = Progress::of(open.len())?;
    let mut seen = BTreeMap::new();
    let mut moved = Instant::now();
    let mut look = interval(LOOK_EVERY);
    while !open.is_empty() && moved.elapsed() < PATIENCE {
        look.tick().await;
        let grants: Vec<Option<Grant>> = stream::iter(open.clone())
            .map(|request_id| {
                let client = client.clone();
                async move { client.grant(&request_id).await }
            })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        for grant in grants.into_iter().flatten() {
            if grant.is_final() && open.remove(&grant.request_id) {
                moved = Instant::now();
                progress.one_more();
            }
            seen.insert(grant.request_id.clone(), grant);
        }
    }
    progress.finish();
    Ok(seen)
}

fn read(file: &Path) -> Result<Vec<Participant>> {
    let file = if file.exists() { file.to_path_buf() } else { workspace().join(file) };
    let mut reader = csv::Reader::from_path(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let participants: Vec<Participant> = reader
        .deserialize()
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} has a malformed line", file.display()))?;
    if participants.is_empty() {
        bail!("{} names nobody", file.display());
    }
    Ok(participants)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_committed_file_has_a_hundred_lines_of_which_two_repeat() {
        let participants = read(Path::new("testkit/participants.csv")).unwrap();
        let users: HashSet<&str> = participants.iter().map(|participant| &*participant.user_id).collect();
        assert_eq!((participants.len(), users.len()), (100, 98));
        let with_wallet = participants.iter().filter(|participant| participant.wallet_address.is_some());
        assert!((20..80).contains(&with_wallet.count()));
    }
}
