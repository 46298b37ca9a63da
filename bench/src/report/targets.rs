//! What is to be reached, on two cores that are shared with emulator, chain, database and load generator.

use super::number;

/// A figure and its bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Its path in the report.
    pub(super) figure: &'static str,
    pub(super) unit: &'static str,
    pub(super) bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    /// For information.
    None,
}

impl Target {
    /// The bound in words, and whether the value keeps it.
    pub(super) fn judge(&self, value: f64) -> (String, &'static str) {
        let (text, is_met) = match self.bound {
            Bound::AtLeast(bound) => (format!("≥ {}", number(bound)), value >= bound),
            Bound::AtMost(bound) => (format!("≤ {}", number(bound)), value <= bound),
            Bound::Below(bound) => (format!("< {}", number(bound)), value < bound),
            Bound::None => return (String::new(), ""),
        };
        (text, if is_met { "yes" } else { "NO" })
    }
}

const fn target(figure: &'static str, unit: &'static str, bound: Bound) -> Target {
    Target { figure, unit, bound }
}

pub(super) const TARGETS: &[Target] = &[
    target("accept.requests_per_second", "1/s", Bound::AtLeast(10_000.0)),
    target("accept.p99_ms", "ms", Bound::Below(50.0)),
    target("accept_postgres.requests_per_second", "1/s", Bound::AtLeast(10_000.0)),
    target("accept_postgres.p99_ms", "ms", Bound::Below(50.0)),
    target("end_to_end.grants_per_second", "1/s", Bound::AtLeast(2_000.0)),
    target("end_to_end.errors", "", Bound::AtMost(0.0)),
    target("latency_at_1000.mean_seconds", "s", Bound::Below(1.5)),
    target("latency_at_1000.p50_seconds", "s", Bound::None),
    target("latency_at_1000.p99_seconds", "s", Bound::Below(3.0)),
    target("cpu_ms_per_grant", "ms", Bound::Below(0.5)),
    target("latency_at_30.p50_seconds", "s", Bound::Below(0.6)),
    target("latency_at_30.p99_seconds", "s", Bound::Below(1.1)),
    target("spike.lost", "", Bound::AtMost(0.0)),
    target("spike.recovery_seconds", "s", Bound::AtMost(20.0)),
    target("memory_mb.campaign", "MB", Bound::Below(100.0)),
    target("memory_mb.blockchain", "MB", Bound::Below(100.0)),
    target("ready_seconds", "s", Bound::Below(1.0)),
    target("gas_per_grant.own_token", "gas", Bound::AtMost(25_500.0)),
    target("gas_per_grant.any_token", "gas", Bound::AtMost(27_500.0)),
    target("gas_ceiling_ratio", "", Bound::AtLeast(0.9)),
    target("history_ratio", "", Bound::AtLeast(0.9)),
];
