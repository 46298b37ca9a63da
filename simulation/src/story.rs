//! The shortest story that breaks the same rule.
//!
//! Whole stretches of actions are left out, then single ones, then hazards, as long as what is left still breaks the rule.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bug::Bug;
use crate::chain::Weather;
use crate::network::Trouble;
use crate::plan::Plan;
use crate::run::{Outcome, Stage};

/// A world that breaks a rule, made as short as could be.
#[derive(Debug)]
pub struct Story {
    /// Its plan.
    pub plan: Plan,
    /// What becomes of it.
    pub outcome: Outcome,
    /// How many worlds were tried for it.
    pub tried: u64,
}

/// Shortens a plan whose outcome breaks a rule, for about so long.
///
/// # Errors
///
/// When the simulation itself cannot go on.
pub fn shorten(stage: &Stage, plan: &Plan, outcome: Outcome, bug: Option<Bug>, patience: Duration) -> Result<Story> {
    let Some(rule) = outcome.violation.as_ref().map(|violation| violation.rule) else {
        return Ok(Story { plan: plan.clone(), outcome, tried: 0 });
    };
    let deadline = Instant::now() + patience;
    let mut story = Story { plan: plan.clone(), outcome, tried: 0 };
    let attempt = |story: &mut Story, shorter: Plan| -> Result<bool> {
        if Instant::now() > deadline {
            return Ok(false);
        }
        story.tried += 1;
        let outcome = stage.run(&shorter, bug)?;
        let same = outcome.violation.as_ref().is_some_and(|violation| violation.rule == rule);
        if same {
            (story.plan, story.outcome) = (shorter, outcome);
        }
        Ok(same)
    };

    let mut closer = story.plan.clone();
    closer.look_every = 1;
    attempt(&mut story, closer)?;
    // Small worlds first: they run faster.
    for burst in [1, 3, 10] {
        let mut smaller = story.plan.clone();
        smaller.burst = burst;
        if attempt(&mut story, smaller)? {
            break;
        }
    }
    let mut stretch = story.plan.actions.len().div_ceil(2);
    while stretch > 0 {
        let mut start = 0;
        let mut shortened = false;
        while start < story.plan.actions.len() {
            let mut shorter = story.plan.clone();
            let end = (start + stretch).min(shorter.actions.len());
            shorter.actions.drain(start..end);
            if attempt(&mut story, shorter)? {
                shortened = true;
            } else {
                start += stretch;
            }
        }
        if stretch > 1 {
            stretch = stretch.div_ceil(2);
        } else if !shortened {
            break;
        }
    }
    for calmer in [
        |plan: &mut Plan| plan.hazards.weather = Weather::default(),
        |plan: &mut Plan| plan.hazards.trouble = Trouble::default(),
        |plan: &mut Plan| plan.hazards.death = 0,
        |plan: &mut Plan| plan.skew_seconds = [0, 0],
    ] {
        let mut shorter = story.plan.clone();
        calmer(&mut shorter);
        attempt(&mut story, shorter)?;
    }
    Ok(story)
}
