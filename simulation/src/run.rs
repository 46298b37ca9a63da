//! Running worlds: one from a plan, each on a thread of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::affinity::Core;
use crate::bug::Bug;
use crate::check::{Rule, Violation, violation};
use crate::plan::Plan;
use crate::services::{File, create_databases};
use crate::world::{Count, Files, Stop, World};

/// What became of a world.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, line by line. The same plan gives the same log.
    pub log: Vec<String>,
    /// The rule that was broken.
    pub violation: Option<Violation>,
    /// What happened, counted.
    pub count: Count,
}

/// A place where worlds run, one after the other: a folder in memory, a runtime of one thread, and a core for both.
#[derive(Debug)]
pub struct Stage {
    runtime: Runtime,
    folder: TempDir,
    empty: [File; 2],
    _core: Option<Core>,
}

impl Stage {
    /// A new place.
    ///
    /// # Errors
    ///
    /// When there is no room for it.
    pub fn new() -> Result<Self> {
        // Before anything starts a thread.
        let core = Core::take();
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("simulate-").tempdir_in(parent)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        shared::random::seed(0);
        let empty = runtime.block_on(create_databases(folder.path())).context("cannot create the databases")?;
        Ok(Self { runtime, folder, empty, _core: core })
    }

    /// Runs a world to its end, or until a rule is broken.
    ///
    /// # Errors
    ///
    /// When the simulation itself cannot go on.
    pub fn run(&self, plan: &Plan, bug: Option<Bug>) -> Result<Outcome> {
        let files = Files::within(self.folder.path());
        files.remove();
        self.empty[0].copy_to(&files.campaign)?;
        self.empty[1].copy_to(&files.blockchain)?;
        let mut world = World::new(plan, bug, files);
        // A panic of the services is what a world may come to.
        let lived = catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(live(&mut world, plan))));
        self.runtime.block_on(world.end());
        let stop = lived.map_or_else(|panic| Some(panicked(&*panic)), Result::err);
        let violation = match stop {
            None => None,
            Some(Stop::Violation(violation)) => {
                world.note(format!("VIOLATION {violation}"));
                Some(violation)
            }
            Some(Stop::Failure(error)) => return Err(error.context(format!("seed {}", plan.seed))),
        };
        Ok(Outcome { log: world.log, violation, count: world.count })
    }
}

async fn live(world: &mut World, plan: &Plan) -> Result<(), Stop> {
    world.make_campaigns(plan.seed).await?;
    for action in &plan.actions {
        world.turn(*action).await?;
    }
    world.calm(plan.seed).await
}

fn panicked(panic: &(dyn Any + Send)) -> Stop {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    violation(Rule::Broken, format!("panicked: {}", text.unwrap_or_default())).into()
}
