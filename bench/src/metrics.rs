//! What a service's `/metrics` say: histograms and counters of Prometheus' text format, and what was added to them.

use std::collections::BTreeMap;

use serde::Serialize;

/// Samples by series: name and labels as they stand there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

/// What a histogram says of the values that were added to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Added {
    pub(crate) count: f64,
    pub(crate) mean: f64,
    /// Within the bucket that holds it, as if its values were spread evenly; `None` in the last, which has no end.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(samples.filter_map(sample).collect())
    }

    /// What was added since then, for everything that only grows.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let added = |(series, value): (&String, &f64)| (series.clone(), value - before.0.get(series).unwrap_or(&0.0));
        Self(self.0.iter().map(added).collect())
    }

    /// Adds another replica's.
    pub(crate) fn add(&mut self, other: &Self) {
        for (series, value) in &other.0 {
            *self.0.entry(series.clone()).or_default() += value;
        }
    }

    /// All histograms that something was added to, by name and labels.
    pub(crate) fn histograms(&self) -> BTreeMap<String, Added> {
        let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, count) in &self.0 {
            if let Some((name, bound)) = bucket(series) {
                all.entry(name).or_default().push((bound, *count));
            }
        }
        all.into_iter()
            .filter_map(|(name, mut buckets)| {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let count = buckets.last()?.1;
                let (bare, labels) = name
                    .split_once('{')
                    .map_or((&*name, String::new()), |(bare, labels)| (bare, format!("{{{labels}")));
                let sum = *self.0.get(&format!("{bare}_sum{labels}"))?;
                (count > 0.0).then(|| {
                    let added =
                        Added { count, mean: sum / count, p50: quantile(&buckets, 0.5), p99: quantile(&buckets, 0.99) };
                    (name.clone(), added)
                })
            })
            .collect()
    }
}

/// The histogram (name and its other labels) and the bound of a bucket's series.
fn bucket(series: &str) -> Option<(String, f64)> {
    let (name, labels) = series.strip_suffix('}')?.split_once("_bucket{")?;
    let (mut bound, mut others) = (None, Vec::new());
    for label in labels.split(',') {
        match label.strip_prefix("le=\"") {
            Some(value) => bound = value.strip_suffix('"')?.parse().ok(),
            None => others.push(label),
        }
    }
    let name = if others.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", others.join(",")) };
    Some((name, bound?))
}

fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let rank = buckets.last()?.1 * quantile;
    let at = buckets.partition_point(|bucket| bucket.1 < rank);
    let (bound, count) = *buckets.get(at)?;
    let (from, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    bound.is_finite().then(|| from + (bound - from) * (rank - before) / (count - before).max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE wait_seconds histogram\nwait_seconds_bucket{le=\"0.1\"} 5\nwait_seconds_bucket{le=\"1\"} 5\n\
        wait_seconds_bucket{le=\"+Inf\"} 5\nwait_seconds_sum 0.1\nwait_seconds_count 5\n\
        requests_total{status=\"202\"} 7\nrequests_total{status=\"503\"} 1\n";
    const AFTER: &str = "wait_seconds_bucket{le=\"0.1\"} 5\nwait_seconds_bucket{le=\"1\"} 15\n\
        wait_seconds_bucket{le=\"+Inf\"} 15\nwait_seconds_sum 6.1\nwait_seconds_count 15\n\
        requests_total{status=\"202\"} 17\nrequests_total{status=\"503\"} 1\n\
        reply_seconds_bucket{route=\"/a\",le=\"1\"} 2\nreply_seconds_bucket{route=\"/a\",le=\"+Inf\"} 4\n\
        reply_seconds_sum{route=\"/a\"} 8\nreply_seconds_count{route=\"/a\"} 4\n";

    #[test]
    fn only_what_was_added_counts() {
        let added = Metrics::parse(AFTER).since(&Metrics::parse(BEFORE));
        let histograms = added.histograms();
        let wait = &histograms["wait_seconds"];
        assert!((wait.count - 10.0).abs() < 1e-9 && (wait.mean - 0.6).abs() < 1e-9, "{wait:?}");
        assert!((wait.p50.unwrap() - 0.55).abs() < 1e-9, "{wait:?}");
        let reply = &histograms["reply_seconds{route=\"/a\"}"];
        assert!((reply.mean - 2.0).abs() < 1e-9, "{reply:?}");
        assert_eq!((reply.p50, reply.p99), (Some(1.0), None));
    }

    #[test]
    fn replicas_are_added_up() {
        let mut sum = Metrics::parse(BEFORE);
        sum.add(&Metrics::parse(AFTER));
        assert!((sum.histograms()["wait_seconds"].count - 20.0).abs() < 1e-9, "{sum:?}");
    }
}
