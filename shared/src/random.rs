//! Randomness, from one source that a simulation can seed.
//!
//! The source is a cryptographically secure generator, seeded by the operating system. Under the feature `failpoints` a
//! thread may draw from a sequence of its own instead (`seed`), so that a run can be repeated.

use std::sync::{LazyLock, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

struct Source {
    generator: StdRng,
    /// The latest of [`ascending_uuid`].
    latest: u128,
}

impl Source {
    fn new(generator: StdRng) -> Self {
        Self { generator, latest: 0 }
    }
}

static SYSTEM: LazyLock<Mutex<Source>> =
    LazyLock::new(|| Mutex::new(Source::new(StdRng::from_seed(rand::rng().random()))));

#[cfg(feature = "failpoints")]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<Source>> = const { std::cell::RefCell::new(None) };
}

/// From now on this thread draws from the sequence of `seed`, until it is seeded again.
#[cfg(feature = "failpoints")]
pub fn seed(seed: u64) {
    SEEDED.set(Some(Source::new(StdRng::seed_from_u64(seed))));
}

fn draw<T>(from: impl FnOnce(&mut Source) -> T) -> T {
    #[cfg(feature = "failpoints")]
    if SEEDED.with_borrow(Option::is_some) {
        return SEEDED.with_borrow_mut(|source| from(source.as_mut().expect("it is seeded, as was just seen")));
    }
    from(&mut SYSTEM.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A number of 64 random bits.
#[must_use]
pub fn number() -> u64 {
    draw(|source| source.generator.random())
}

/// A `UUIDv7` (RFC 9562) of this time, larger than every one that this source has made: twelve bits hold the part of a
/// millisecond (method 3), and where that does not make it larger, it is the latest one plus a random step (method 2).
#[must_use]
pub fn ascending_uuid(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    let fraction = u16::try_from(u64::from(at.timestamp_subsec_micros() % 1000) * 4096 / 1000).unwrap_or(0);
    draw(|source| {
        let mut rest = [0; 10];
        source.generator.fill(&mut rest[2..]);
        rest[..2].copy_from_slice(&fraction.to_be_bytes());
        // Room for half a billion steps before they would reach the variant's bits.
        rest[2] &= 0x1f;
        let fresh = uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid().as_u128();
        if fresh <= source.latest {
            source.latest += u128::from(source.generator.random_range(1..=u32::MAX));
        } else {
            source.latest = fresh;
        }
        Uuid::from_u128(source.latest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_ids_ascend_even_when_the_clock_goes_back() {
        let at = |micros: i64| crate::clock::from_micros(1_700_000_000_000_000 + micros);
        let ids: Vec<_> = (0..3000).map(|n| ascending_uuid(at(if n < 2000 { n / 10 } else { -n }))).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }
}
