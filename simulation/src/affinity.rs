//! Keeps a stage on one core.
//!
//! A world does one thing at a time: SQLite's thread works while the world's waits for it, and the other way round. On two
//! cores they would spend more time on waking each other up than on working.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How many stages each core has.
static STAGES: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// A place on a core, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Core(usize);

impl Core {
    /// Keeps this thread, and those that it starts from now on, on the core with the fewest stages. `None` where the system
    /// refuses or has no such thing: then they run where they like.
    #[cfg(target_os = "linux")]
    pub(crate) fn take() -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let mut stages = stages();
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let core = cores.min_by_key(|core| stages.get(core).copied().unwrap_or(0))?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).ok()?;
        *stages.entry(core).or_default() += 1;
        Some(Self(core))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn take() -> Option<Self> {
        None
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(count) = stages().get_mut(&self.0) {
            *count -= 1;
        }
    }
}

fn stages() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    STAGES.lock().unwrap_or_else(PoisonError::into_inner)
}
