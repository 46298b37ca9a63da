//! What a running service tells: log lines, Prometheus metrics, and the trace a message belongs to.
//!
//! Logs go to standard error: for people on a terminal, one JSON object a line elsewhere. Neither secrets nor bodies of
//! requests are ever logged.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::random;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `text` on a terminal, `json` elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts logging at the level that `RUST_LOG` names (default `info`), and returns the handle that renders `/metrics`.
///
/// # Panics
///
/// If called twice in one process, or outside of a Tokio runtime.
pub fn start(format: LogFormat) -> PrometheusHandle {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(layer.json().flatten_event(true).with_current_span(true).with_span_list(false)).init();
    } else {
        registry.with(layer.with_ansi(terminal).with_target(false)).init();
    }
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_grants".into()), SIZES))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_messages".into()), SIZES))
        .expect("the bucket lists are not empty")
        .install_recorder()
        .expect("telemetry starts once a process");
    tokio::spawn(tidy(metrics.clone()));
    metrics
}

/// Sorts what was observed into its buckets, for each observation takes memory until then: whether or not anybody asks
/// for `/metrics`.
async fn tidy(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        metrics.run_upkeep();
    }
}

const TIDY_EVERY: Duration = Duration::from_secs(5);

/// Bucket bounds of every duration, in seconds: from a database commit to a stuck transaction.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Bucket bounds of every batch size, in grants or messages.
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// The name of the header and of the message attribute that carry a [`TraceParent`].
pub const TRACEPARENT: &str = "traceparent";

/// The attribute under which Google's own client libraries carry the same.
pub const GOOGLE_TRACEPARENT: &str = "googclient_traceparent";

/// The trace that a request or a message belongs to: version 00 of W3C Trace Context (`traceparent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// The text is not a `traceparent` of version 00.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The start of a new trace.
    #[must_use]
    pub fn new() -> Self {
        // Neither id may be zero.
        let [high, low, parent] = std::array::from_fn(|_| random::number().max(1));
        Self { trace_id: u128::from(high) << 64 | u128::from(low), parent_id: parent, flags: 1 }
    }

    /// The trace's id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl Default for TraceParent {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut field = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                .and_then(|part| u128::from_str_radix(part, 16).ok())
                .ok_or(InvalidTraceParent)
        };
        let (version, trace_id, parent_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        if version != 0 || trace_id == 0 || parent_id == 0 || parts.next().is_some() {
            return Err(InvalidTraceParent);
        }
        let narrow = |_| InvalidTraceParent;
        Ok(Self {
            trace_id,
            parent_id: parent_id.try_into().map_err(narrow)?,
            flags: u8::try_from(flags).map_err(|_| InvalidTraceParent)?,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written_back() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace: TraceParent = text.parse().unwrap();
        assert_eq!(trace.to_string(), text);
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let fresh = TraceParent::new();
        assert_eq!(fresh.to_string().parse(), Ok(fresh));
    }

    #[test]
    fn what_is_not_a_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text}");
        }
    }
}
