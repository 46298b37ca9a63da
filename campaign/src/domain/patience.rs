//! How long a result is waited for, and what becomes of a grant without one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Grant;

/// How long to wait for a result, and how often to ask again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The first wait; each of the next is twice as long, up to an hour or to this, if it is longer.
    pub first_wait: Duration,
    /// How often a request is published again until its grant needs attention, at least 1.
    pub limit: u32,
}

impl Patience {
    /// How long to wait when the request was published again so often in this round.
    fn wait(self, retries: u32) -> TimeDelta {
        const HOUR: TimeDelta = TimeDelta::hours(1);
        let first_wait = TimeDelta::from_std(self.first_wait).unwrap_or(HOUR);
        (first_wait * 2_i32.pow(retries.min(12))).min(HOUR.max(first_wait))
    }
}

impl Grant {
    /// The result is overdue. Returns when it will be again, if the request is to be published again; otherwise the
    /// grant needs attention.
    pub fn overdue(&mut self, patience: Patience, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let retries = self.retry_count - self.round_began;
        if retries >= patience.limit {
            self.needs_attention_since = Some(now);
            return None;
        }
        self.retry_count += 1;
        Some(now + patience.wait(retries + 1))
    }

    /// Begins a new round with a grant that needs attention: its request is to be published again now. Returns when the
    /// result is overdue.
    pub fn set_going(&mut self, patience: Patience, now: DateTime<Utc>) -> DateTime<Utc> {
        self.retry_count += 1;
        self.round_began = self.retry_count;
        self.needs_attention_since = None;
        now + patience.wait(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use shared::clock::from_micros;
    use shared::telemetry::TraceParent;

    use super::*;
    use crate::domain::GrantRequest;

    #[test]
    fn the_default_patience_spans_a_day() {
        let patience = crate::Config::parse_from(["campaign"]).patience();
        let request = GrantRequest {
            user_id: "alice".parse().unwrap(),
            campaign_id: "summer".parse().unwrap(),
            wallet_address: None,
            token_amount: 100.try_into().unwrap(),
        };
        let mut grant = Grant::new(request, 0, TraceParent::new(), from_micros(0));
        let mut due = grant.requested_at + patience.first_wait;
        while let Some(again) = grant.overdue(patience, due) {
            due = again;
        }
        assert_eq!(grant.needs_attention_since, Some(due));
        assert_eq!((due - grant.requested_at).num_hours(), 24);
        assert_eq!(grant.retry_count, patience.limit);

        // A new round is as long as the first.
        let mut due = grant.set_going(patience, due);
        assert_eq!((grant.needs_attention_since, grant.retry_count), (None, patience.limit + 1));
        while let Some(again) = grant.overdue(patience, due) {
            due = again;
        }
        assert_eq!(grant.retry_count, 2 * patience.limit + 1);
    }
}
