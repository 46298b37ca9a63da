//! Works the figures out from all that was seen.

use std::{collections::BTreeMap, time::Duration};

use super::{Generator, Measured, Memory, OnChain, Plan, Second, Seen, Snapshot, stages::Stage};
use crate::{
    load::{Request, Sent},
    metrics::Added,
    processes::Usage,
    spread::{Spread, float},
    watch::Curve,
};

/// The share of the requests that must have been completed, while the load was on, for completions to have kept up.
const SUSTAINED: f64 = 0.97;

/// Everything that a measurement is worked out from.
pub(super) struct Reading<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sent: &'a Sent,
    pub(super) grants: &'a [Seen],
    pub(super) completed: &'a Curve,
    pub(super) before: &'a Snapshot,
    pub(super) after: &'a Snapshot,
}

impl Reading<'_> {
    pub(super) fn measured(&self, stages: Vec<Stage>, chain: OnChain, resident_mb: Memory) -> Measured {
        let (warm_up, end) = (self.plan.warm_up, self.plan.seconds());
        let accepted = self.sent.accepted().count();
        let completed = self.grants.iter().filter(|grant| grant.shown.is_some()).count();
        let counted = || self.grants.iter().filter(|grant| grant.due >= warm_up);
        let since_due = |seen: fn(&Seen) -> Option<f64>| {
            Spread::of_seconds(counted().filter_map(|grant| Some(seen(grant)? - grant.due)))
        };
        let answers = self.sent.accepted().filter(|request| request.due.as_secs_f64() >= warm_up);
        // A grant takes a second or two, so completions of the first requests that count come that much later.
        let rate = self.completed.rate(Duration::from_secs_f64(warm_up), Duration::from_secs_f64(end));
        let (offered, kept) = (float(self.sent.requests.len()) / end, rate.unwrap_or(0.0));
        let (errors, lost) = (self.sent.errors(), accepted.saturating_sub(completed));
        let micros = self.sent.cpu.as_secs_f64() * 1e6;
        Measured {
            rate_per_second: self.plan.phases.first().map_or(0.0, |phase| phase.rate),
            offered_per_second: offered,
            requests: self.sent.requests.len(),
            accepted,
            is_sustained: errors.is_empty() && lost == 0 && kept >= SUSTAINED * offered,
            errors,
            completed,
            lost,
            completed_per_second: kept,
            to_answer: Spread::of(answers.map(Request::latency)),
            to_block: since_due(|grant| grant.mined),
            to_completed: since_due(|grant| grant.shown),
            to_completed_at: since_due(|grant| grant.completed_at),
            stages,
            cpu_ms_per_grant: self.cpu_ms_per_grant(completed),
            memory: self.after.usages.clone(),
            chain,
            histograms: self.histograms(),
            generator: Generator {
                cpu_us_per_request: micros / float(self.sent.requests.len()).max(1.0),
                longest_queue: self.sent.longest_queue,
            },
            seconds: self.seconds(),
            resident_mb,
        }
    }

    fn cpu_ms_per_grant(&self, completed: usize) -> BTreeMap<String, f64> {
        let used = |(name, after): (&String, &Usage)| {
            let before = self.before.usages.get(name).map(|usage| usage.cpu).unwrap_or_default();
            let milliseconds = after.cpu.saturating_sub(before).as_secs_f64() * 1e3;
            (name.clone(), milliseconds / float(completed).max(1.0))
        };
        self.after.usages.iter().map(used).collect()
    }

    fn histograms(&self) -> BTreeMap<String, BTreeMap<String, Added>> {
        let campaign = self.after.campaign.since(&self.before.campaign).histograms();
        let blockchain = self.after.blockchain.since(&self.before.blockchain).histograms();
        BTreeMap::from([("campaign".to_owned(), campaign), ("blockchain".to_owned(), blockchain)])
    }

    fn seconds(&self) -> Vec<Second> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a benchmark")]
        let second_of = |seconds: f64| seconds.max(0.0) as usize;
        let last_seen = self.grants.iter().filter_map(|grant| grant.shown).fold(self.plan.seconds(), f64::max);
        let mut seconds = vec![(Second::default(), Vec::new()); second_of(last_seen) + 1];
        for request in &self.sent.requests {
            let Some((second, _)) = seconds.get_mut(second_of(request.due.as_secs_f64())) else { continue };
            second.requests += 1;
            second.accepted += usize::from(request.is_accepted());
        }
        for grant in self.grants {
            let Some(seen) = grant.shown else { continue };
            seconds[second_of(seen)].0.completed += 1;
            seconds[second_of(grant.due)].1.push(seen - grant.due);
        }
        let told = seconds.into_iter().enumerate().map(|(number, (second, times))| {
            let spread = Spread::of_seconds(times);
            let (p50, p99) = (spread.as_ref().map(|spread| spread.p50), spread.as_ref().map(|spread| spread.p99));
            Second { at: number, to_completed_p50: p50, to_completed_p99: p99, ..second }
        });
        told.collect()
    }
}
