//! How long a result is waited for, and what becomes of a grant without one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::event::{Attention, GrantEvent, Retried};
use super::{Grant, State};

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

/// How long to wait until a grant that can be claimed is asked about again, having been asked about so often: a day, then
/// twice as long each time, up to 32 days. A player may take any time; this only mends a lost message.
pub(super) fn of_claimable(retries: u32) -> TimeDelta {
    TimeDelta::days(1 << retries.min(5))
}

impl Grant {
    /// What happens when the result is overdue: the request is published again, or the grant needs attention.
    #[must_use]
    pub fn overdue(&self, patience: Patience, now: DateTime<Utc>) -> GrantEvent {
        let retries = self.retry_count - self.round_began;
        if self.state == State::Claimable {
            let publish_again_at = Some(now + of_claimable(retries + 1));
            return GrantEvent::Retried(Retried { retry_count: self.retry_count + 1, publish_again_at });
        }
        if retries >= patience.limit {
            return GrantEvent::NeedsAttention(Attention { retry_count: self.retry_count });
        }
        let publish_again_at = Some(now + patience.wait(retries + 1));
        GrantEvent::Retried(Retried { retry_count: self.retry_count + 1, publish_again_at })
    }

    /// Begins a new round with a grant that needs attention: its request is to be published again now.
    #[must_use]
    pub fn set_going(&self, patience: Patience, now: DateTime<Utc>) -> GrantEvent {
        let publish_again_at = Some(now + patience.wait(0));
        GrantEvent::Redriven(Retried { retry_count: self.retry_count + 1, publish_again_at })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use shared::clock::from_micros;

    use super::*;
    use crate::domain::tests::grant;

    /// Lets the result be overdue until the grant needs attention; returns when it does.
    fn wait_in_vain(grant: &mut Grant, patience: Patience) -> DateTime<Utc> {
        loop {
            let due = grant.publish_again_at.unwrap();
            grant.apply(&grant.clone().overdue(patience, due), due);
            if grant.needs_attention_since.is_some() {
                return due;
            }
        }
    }

    #[test]
    fn a_grant_that_can_be_claimed_is_asked_about_ever_less_often_and_needs_no_attention() {
        let patience = crate::Cli::parse_from(["campaign"]).config.patience();
        let mut grant = Grant { state: State::Claimable, publish_again_at: Some(from_micros(0)), ..grant() };
        let days: Vec<_> = (0..40)
            .map(|_| {
                let due = grant.publish_again_at.unwrap();
                grant.apply(&grant.clone().overdue(patience, due), due);
                (grant.publish_again_at.unwrap() - due).num_days()
            })
            .collect();
        assert_eq!(days[..6], [2, 4, 8, 16, 32, 32]);
        assert_eq!(grant.needs_attention_since, None);
    }

    #[test]
    fn the_default_patience_spans_a_day() {
        let patience = crate::Cli::parse_from(["campaign"]).config.patience();
        let mut grant = grant();
        grant.publish_again_at = Some(from_micros(0) + patience.first_wait);
        let due = wait_in_vain(&mut grant, patience);
        assert_eq!((due - grant.requested_at).num_hours(), 24);
        assert_eq!((grant.needs_attention_since, grant.retry_count), (Some(due), patience.limit));

        // A new round is as long as the first.
        grant.apply(&grant.clone().set_going(patience, due), due);
        assert_eq!((grant.needs_attention_since, grant.retry_count), (None, patience.limit + 1));
        wait_in_vain(&mut grant, patience);
        assert_eq!(grant.retry_count, 2 * patience.limit + 1);
    }
}
