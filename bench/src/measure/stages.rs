//! Where a grant's time goes: the steps of its history, one after the other.

use anyhow::Result;
use serde::Serialize;

use super::Seen;
use crate::{
    load::Epoch,
    records::History,
    spread::{Spread, float},
    world::World,
};

/// A step on a grant's way, in seconds since the step before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// The moment with which it ends.
    pub(crate) until: &'static str,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Names and ends of the stages, in order.
const STAGES: [(&str, &str); 8] = [
    ("accept", "TokenGrantRequested in the ledger; its clock is read before the commit"),
    ("publish", "Published in the ledger: the broker has acknowledged the message"),
    ("receive", "Started, by the blockchain service's clock: it has committed the payment"),
    ("submit", "BlockchainTxSubmitted, by its clock: the payment's transaction is committed"),
    ("mine", "the block is seen"),
    ("confirm", "Completed, by its clock: the outcome is committed"),
    ("result", "Completed in the campaign service's ledger"),
    ("show", "GET /campaigns shows it"),
];

impl World {
    /// Reads the histories of some of the grants, evenly spread over those that were completed after the warm-up.
    pub(super) async fn stages(&self, epoch: Epoch, grants: &[Seen], warm_up: f64) -> Result<Vec<Stage>> {
        let counted = grants.iter().filter(|grant| grant.shown.is_some() && grant.due >= warm_up);
        let records = self.records();
        let mut durations: [Vec<f64>; STAGES.len()] = Default::default();
        for grant in counted {
            let Some(request_id) = &grant.request_id else { continue };
            let history = records.history(request_id).await?;
            let mut before = grant.due;
            for (stage, moment) in durations.iter_mut().zip(moments(epoch, grant, &history)) {
                let Some(moment) = moment else { continue };
                stage.push(moment - before);
                before = moment;
            }
        }
        let stage = |((name, until), durations): ((&'static str, &'static str), Vec<f64>)| {
            // The mean is exact and may be negative: the message may arrive before its publication is in the ledger.
            let mean = durations.iter().sum::<f64>() / float(durations.len());
            let spread = Spread::of_seconds(durations)?;
            Some(Stage { name, until, mean, p50: spread.p50, p99: spread.p99 })
        };
        Ok(STAGES.into_iter().zip(durations).filter_map(stage).collect())
    }
}

/// The ends of a grant's stages, in seconds since the epoch, as far as they are known.
fn moments(epoch: Epoch, grant: &Seen, history: &History) -> [Option<f64>; STAGES.len()] {
    let entered = |kind: &str| history.events.get(kind).map(|step| epoch.seconds_at(step.at));
    let processed = |kind: &str| Some(epoch.seconds_at(history.events.get(kind)?.processed_at?));
    [
        entered("TokenGrantRequested"),
        entered("Published"),
        processed("Started"),
        processed("BlockchainTxSubmitted"),
        grant.mined,
        processed("Completed"),
        entered("Completed"),
        grant.shown,
    ]
}
