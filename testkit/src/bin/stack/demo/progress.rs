//! A progress bar.

use std::io::{IsTerminal as _, stderr};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::print::say;

/// A bar on a terminal, a line at each tenth elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    /// A bar for so many.
    pub(super) fn of(total: usize) -> Result<Self> {
        let bar = ProgressBar::new(total as u64);
        bar.set_style(ProgressStyle::with_template("minting {wide_bar} {pos}/{len} {elapsed}")?);
        Ok(Self { bar, plain: !stderr().is_terminal() })
    }

    /// One of them is done.
    pub(super) fn one_more(&self) {
        self.bar.inc(1);
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(1).max(1));
        if self.plain && done * 10 / total > (done - 1) * 10 / total {
            say!("  minted {done} of {total}");
        }
    }

    /// No more of them will be done.
    pub(super) fn finish(&self) {
        self.bar.finish();
    }
}
