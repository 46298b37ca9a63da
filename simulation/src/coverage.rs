//! Which fail points of the services were reached: a point that no world reaches is a crash that nobody has tried, and one
//! that is reached and not listed is one that the fault campaign does not know.

use std::collections::BTreeMap;

/// The points that no world reaches, and why.
const BEYOND_REACH: [(&str, &str); 4] = [
    ("undeliverable:", "the simulated broker refuses no message for good"),
    ("postpone_root:", "only a distributor that is older than claims takes no root"),
    ("audit_seals:", "the campaign service's ledger is read over HTTP, which there is none of here"),
    ("audit_requeue:", "it takes a reorg below finality at the right moment: one world in ten thousand"),
];

/// The points outside the lists: where a service starts, and calls to the simulated outside.
const OUTSIDE: [&str; 3] = ["open:", "chain:", "bus:"];

fn begins(point: &str, mut prefixes: impl Iterator<Item = &'static str>) -> bool {
    prefixes.any(|prefix| point.starts_with(prefix))
}

/// The listed points that are not among those that were reached, though they could be.
#[must_use]
pub fn missed(reached: &BTreeMap<String, u64>) -> Vec<&'static str> {
    let listed = campaign::FAIL_POINTS.iter().chain(blockchain::FAIL_POINTS).copied();
    let beyond = |point: &str| begins(point, BEYOND_REACH.iter().map(|(prefix, _)| *prefix));
    let mut missed: Vec<_> = listed.filter(|point| !reached.contains_key(*point) && !beyond(point)).collect();
    missed.sort_unstable();
    missed.dedup();
    missed
}

/// The points that were reached and that neither service lists.
#[must_use]
pub fn unlisted(reached: &BTreeMap<String, u64>) -> Vec<&String> {
    let listed = |point: &str| campaign::FAIL_POINTS.contains(&point) || blockchain::FAIL_POINTS.contains(&point);
    reached.keys().filter(|point| !listed(point) && !begins(point, OUTSIDE.into_iter())).collect()
}
