//! Campaigns with budgets: made before the load, looked at as long as it goes on, and in the end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use super::{audit::Campaign, books::Budgets};
use crate::{client::CampaignClient, wait::until_some};

/// Time between two looks at all budgets.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a service may take to say what a campaign has spent in the end.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// What campaigns may pay, and what they were seen to have promised.
#[derive(Debug)]
pub(super) struct Treasury {
    budgets: Budgets,
    seen: Mutex<Seen>,
}

/// What was seen under way.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// How often a campaign was looked at.
    looks: usize,
    /// The most whole tokens that each had reserved and spent together.
    most: BTreeMap<String, u64>,
}

impl Treasury {
    /// Of campaigns with these budgets.
    pub(super) fn new(budgets: Budgets) -> Self {
        Self { budgets, seen: Mutex::default() }
    }

    /// Makes the campaigns that have a budget. The others are made by their first use.
    ///
    /// # Errors
    /// When the service does not make one.
    pub(super) async fn make_campaigns(&self, client: &CampaignClient) -> Result<()> {
        for (name, budget) in self.limited() {
            let settings = json!({ "name": name, "amount": 100, "budget": budget });
            let made = client.put(&format!("/campaigns/{name}"), &settings).await?;
            ensure!(made.status == 201, "{name} was not made: {} {}", made.status, made.body);
        }
        Ok(())
    }

    /// Looks at the budgets whenever the service answers; does not return.
    pub(super) async fn watch(&self, client: &CampaignClient) {
        loop {
            for (name, _) in self.limited() {
                if let Ok(Some(campaign)) = client.campaign(name).await {
                    self.see(name, campaign.reserved + campaign.spent);
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// How often a budget was looked at.
    pub(super) fn looks(&self) -> usize {
        self.seen().looks
    }

    /// What the campaigns have come to.
    ///
    /// # Errors
    /// When the service does not say.
    pub(super) async fn campaigns(&self, client: &CampaignClient) -> Result<Vec<Campaign>> {
        let mut campaigns = Vec::new();
        for (name, budget) in &self.budgets {
            let what = format!("an answer about {name}");
            let said = until_some(ASK_TIMEOUT, &what, || async { client.campaign(name).await.ok() }).await?;
            let (reserved, spent) = said.map_or((0, 0), |campaign| (campaign.reserved, campaign.spent));
            self.see(name, reserved + spent);
            let most = self.seen().most.get(name).copied().unwrap_or_default();
            campaigns.push(Campaign { name: name.clone(), budget: *budget, most, reserved, spent });
        }
        Ok(campaigns)
    }

    fn limited(&self) -> impl Iterator<Item = (&String, u64)> {
        self.budgets.iter().filter_map(|(name, budget)| Some((name, (*budget)?)))
    }

    fn see(&self, name: &str, promised: u64) {
        let mut seen = self.seen();
        seen.looks += 1;
        let most = seen.most.entry(name.to_owned()).or_default();
        *most = promised.max(*most);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
