//! When requests are due: a schedule that is fixed beforehand and waits for nobody's answers.
//!
//! The same phases and the same seed give the same schedule.

use std::time::Duration;

use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// How requests are spread over a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// One as long after another.
    Constant,
    /// As from many clients who know nothing of each other.
    #[default]
    Poisson,
}

/// A time with one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Phase {
    /// Requests a second.
    pub(crate) rate: f64,
    /// How long.
    pub(crate) seconds: f64,
}

impl Phase {
    pub(crate) fn new(rate: f64, seconds: f64) -> Self {
        Self { rate, seconds }
    }
}

/// The times at which requests are due, since the start.
#[derive(Debug)]
pub(crate) struct Schedule {
    phases: std::vec::IntoIter<Phase>,
    arrivals: Arrivals,
    random: StdRng,
    phase: Option<Phase>,
    /// When the present phase began, and how much of it is over.
    began: f64,
    within: f64,
    /// How many requests of the present phase there were.
    count: u32,
}

impl Schedule {
    pub(crate) fn new(phases: Vec<Phase>, arrivals: Arrivals, seed: u64) -> Self {
        let mut phases = phases.into_iter();
        let phase = phases.next();
        Self { phases, arrivals, random: StdRng::seed_from_u64(seed), phase, began: 0.0, within: 0.0, count: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let phase = self.phase?;
            self.count += 1;
            // Not summed up gap by gap, so that a constant rate does not drift.
            self.within = match self.arrivals {
                Arrivals::Constant => f64::from(self.count - 1) / phase.rate,
                Arrivals::Poisson => self.within - (1.0 - self.random.random::<f64>()).ln() / phase.rate,
            };
            if self.within < phase.seconds {
                return Some(Duration::from_secs_f64(self.began + self.within));
            }
            self.began += phase.seconds;
            (self.within, self.count) = (0.0, 0);
            self.phase = self.phases.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread::float;

    fn times(arrivals: Arrivals, phases: &[Phase], seed: u64) -> Vec<f64> {
        Schedule::new(phases.to_vec(), arrivals, seed).map(|due| due.as_secs_f64()).collect()
    }

    #[test]
    fn a_constant_rate_neither_drifts_nor_bunches() {
        let times = times(Arrivals::Constant, &[Phase::new(300.0, 100.0)], 1);
        assert_eq!(times.len(), 30_000);
        assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 1.0 / 300.0).abs() < 1e-6));
        assert!((times[29_999] - (100.0 - 1.0 / 300.0)).abs() < 1e-6);
    }

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_poisson() {
        let times = times(Arrivals::Poisson, &[Phase::new(1000.0, 100.0)], 7);
        assert!((float(times.len()) - 100_000.0).abs() < 1_500.0, "{}", times.len());
        let mut counts = vec![0.0];
        for time in &times {
            // A count for each tenth of a second.
            while *time * 10.0 >= float(counts.len()) {
                counts.push(0.0);
            }
            *counts.last_mut().unwrap() += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1000.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 1000.0;
        assert!((variance / mean - 1.0).abs() < 0.15, "{}", variance / mean);
    }

    #[test]
    fn each_phase_has_its_rate_and_follows_the_one_before() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let phases = [Phase::new(100.0, 10.0), Phase::new(1000.0, 5.0), Phase::new(100.0, 10.0)];
            let times = times(arrivals, &phases, 3);
            assert!(times.is_sorted());
            let within = |from: f64, to: f64| float(times.iter().filter(|time| (from..to).contains(*time)).count());
            for (from, to, expected) in [(0.0, 10.0, 1000.0), (10.0, 15.0, 5000.0), (15.0, 25.0, 1000.0)] {
                let count = within(from, to);
                assert!((count - expected).abs() < expected * 0.15, "{arrivals:?}: {count} instead of {expected}");
            }
            assert!(times.iter().all(|time| *time < 25.0));
        }
    }

    #[test]
    fn a_seed_names_a_schedule() {
        let phases = [Phase::new(50.0, 2.0)];
        assert_eq!(times(Arrivals::Poisson, &phases, 5), times(Arrivals::Poisson, &phases, 5));
        assert_ne!(times(Arrivals::Poisson, &phases, 5), times(Arrivals::Poisson, &phases, 6));
    }
}
