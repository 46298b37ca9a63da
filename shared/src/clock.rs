//! Time, as a value that is handed in.
//!
//! Every decision that depends on time takes a [`Clock`], so that a test can move it. `chrono::Utc::now` is banned
//! everywhere else (see `clippy.toml`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// A source of the current time, in whole microseconds: the resolution that the stores keep.
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is [advanced](Clock::advance); clones share it.
    #[must_use]
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.timestamp_micros()))))
    }

    /// The current time, UTC, truncated to microseconds.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let micros = match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
            Source::System => Utc::now().timestamp_micros() + offset_micros(),
            Source::Manual(micros) => micros.load(Ordering::SeqCst),
        };
        from_micros(micros)
    }

    /// Moves a manual clock on by `delta`. The machine's clock is not moved.
    pub fn advance(&self, delta: TimeDelta) {
        if let Source::Manual(micros) = &self.0 {
            micros.fetch_add(delta.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// How far the machine's clock is to be taken for wrong: nothing, but under the feature `failpoints`, where a test may
/// say so by the variable `CLOCK_OFFSET_SECONDS`.
fn offset_micros() -> i64 {
    #[cfg(feature = "failpoints")]
    {
        static OFFSET: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| {
            let seconds = std::env::var("CLOCK_OFFSET_SECONDS").ok().and_then(|text| text.parse::<i64>().ok());
            seconds.unwrap_or(0) * 1_000_000
        });
        *OFFSET
    }
    #[cfg(not(feature = "failpoints"))]
    0
}

/// The time that is `micros` microseconds after the Unix epoch, as the stores keep it.
#[must_use]
pub fn from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}
