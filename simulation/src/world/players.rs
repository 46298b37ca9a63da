//! Players: they claim what they can.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, U256};
use axum::body::Body;
use axum::http::Request;
use serde_json::Value;
use shared::worker::Worker as _;

use super::{Stop, World, word};
use crate::chain::contracts::{self, Item};
use crate::check::{Rule, violation};
use crate::client::{CAMPAIGNS, Wish};
use crate::dice::Dice;
use crate::plan::Kind;
use crate::services::Answer;

impl World {
    /// A block is mined, and now and then players claim.
    pub(super) async fn mine(&mut self, dice: &mut Dice) -> Result<(), Stop> {
        self.nature(Kind::Mine, dice);
        if dice.below(3) == 0 { self.claim(dice).await } else { Ok(()) }
    }

    /// Trees are made, and players claim what they can, some of them twice and at the same time.
    pub(crate) async fn claim(&mut self, dice: &mut Dice) -> Result<(), Stop> {
        let paid: BTreeSet<_> = self.chain.state().payments().into_iter().map(|paid| paid.id).collect();
        let wallets: BTreeSet<_> = self.clients.claims().map(Wish::recipient).collect();
        if wallets.is_empty() {
            return Ok(());
        }
        let campaign = CAMPAIGNS[CAMPAIGNS.len() - 1];
        let mut answers = Vec::new();
        self.campaign_step("claims", dice, async |service| {
            let path = |wallet: &Address| format!("/claims/{campaign}/{wallet}?limit=500");
            let request = |wallet| Request::get(path(wallet)).body(Body::empty()).expect("it is a request");
            let trees = word(service.root_maker.run_once().await);
            answers = service.serve(wallets.iter().map(request).collect()).await;
            format!("trees {trees}, {} of {} wallets answered", answers.len(), wallets.len())
        })
        .await?;
        let mut claims = 0;
        for answer in &answers {
            for claim in claims_of(answer).ok_or_else(|| violation(Rule::Answer, format!("claims: {answer:?}")))? {
                let (item, proof) = claim;
                if !paid.contains(&item.id) || dice.below(10) == 0 {
                    claims += 1;
                    self.chain.state().claim(contracts::claim(&item, &proof));
                }
            }
        }
        self.count.claims += claims;
        self.note(format!("players send {claims} claims"));
        Ok(())
    }
}

/// The claims that an answer has proofs for; `None` where it is no answer.
fn claims_of(answer: &Answer) -> Option<Vec<(Item, Vec<B256>)>> {
    let shown: Value = serde_json::from_slice(&answer.body).ok()?;
    let campaign = shown["campaign"].as_str()?.parse().ok()?;
    let to = shown["to"].as_str()?.parse().ok()?;
    let mut claims = Vec::new();
    for grant in shown["grants"].as_array()?.iter().filter(|grant| grant["proof"].is_array()) {
        let id = grant["id"].as_str()?.parse().ok()?;
        let amount = U256::from_str_radix(grant["amount"].as_str()?, 10).ok()?;
        claims.push((Item { campaign, id, to, amount }, serde_json::from_value(grant["proof"].clone()).ok()?));
    }
    Some(claims)
}
