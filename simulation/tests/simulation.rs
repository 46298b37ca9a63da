//! Worlds that break no rule, the same world twice, and every mistake that was planted found: each layer of
//! `docs/ARCHITECTURE.md`'s table "How exactly-once is reached" has a module of its name here, whose tests take it away.

#![cfg(feature = "failpoints")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use simulation::bug::Bug;
use simulation::check::Rule;
use simulation::plan::Plan;
use simulation::run::Stage;

/// How many worlds may pass until a mistake is found.
const WORLDS: u64 = 1000;

/// The points that no world reaches, and why.
const BEYOND_REACH: &[(&str, &str)] = &[
    ("undeliverable:", "the simulated broker refuses no message for good"),
    ("audit_forget:", "it belongs to the command `blockchain audit`"),
    ("audit_step_back:", "no reorg here is deeper than the finality setting"),
];

/// The points outside the lists: where a service starts, and calls to the simulated outside.
fn is_outside(point: &str) -> bool {
    ["open:", "chain:", "bus:"].iter().any(|prefix| point.starts_with(prefix))
}

#[test]
fn two_hundred_worlds_break_no_rule_and_reach_every_fail_point() {
    let (next, reached) = (AtomicU64::new(0), Mutex::new(BTreeMap::<String, u64>::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                let stage = Stage::new().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= 200 {
                        return;
                    }
                    let outcome = stage.run(&Plan::small(seed), None).unwrap();
                    let told = outcome.log.join("\n");
                    assert!(outcome.violation.is_none(), "seed {seed}: {:?}\n{told}", outcome.violation);
                    let mut reached = reached.lock().unwrap();
                    outcome
                        .count
                        .points
                        .into_iter()
                        .for_each(|(point, times)| *reached.entry(point).or_default() += times);
                }
            });
        }
    });
    let reached: BTreeSet<_> = reached.into_inner().unwrap().into_keys().collect();
    let listed: BTreeSet<_> =
        campaign::FAIL_POINTS.iter().chain(blockchain::FAIL_POINTS).map(ToString::to_string).collect();
    let beyond = |point: &&String| BEYOND_REACH.iter().any(|(prefix, _)| point.starts_with(prefix));
    let missed: Vec<_> = listed.difference(&reached).filter(|point| !beyond(point)).collect();
    assert!(missed.is_empty(), "listed and never reached: {missed:?}");
    let unlisted: Vec<_> = reached.difference(&listed).filter(|point| !is_outside(point)).collect();
    assert!(unlisted.is_empty(), "reached and not listed: {unlisted:?}");
}

#[test]
fn a_world_that_is_run_twice_gives_the_same_log() {
    let stages = [Stage::new().unwrap(), Stage::new().unwrap()];
    for seed in 0..10 {
        let [one, other] = stages.each_ref().map(|stage| stage.run(&Plan::new(seed), None).unwrap().log);
        assert!(one == other, "seed {seed}");
        assert!(one.len() > 50, "something happens");
    }
}

/// The rule that the mistake breaks in the first world that shows it. The same world without the mistake breaks none.
fn found(bug: Bug) -> Rule {
    let stage = Stage::new().unwrap();
    for seed in 0..WORLDS {
        let plan = Plan::small(seed);
        if let Some(violation) = stage.run(&plan, Some(bug)).unwrap().violation {
            let without = stage.run(&plan, None).unwrap().violation;
            assert!(without.is_none(), "seed {seed} without {bug}: {without:?}");
            return violation.rule;
        }
    }
    panic!("{bug} is not found in {WORLDS} worlds");
}

mod client_to_campaign {
    use super::*;

    #[test]
    fn an_idempotency_key_that_is_forgotten_is_found() {
        assert_eq!(found(Bug::KeysForgotten), Rule::Answer);
    }
}

mod campaign_store {
    use super::*;

    #[test]
    fn a_grant_that_is_committed_without_its_message_is_found() {
        assert_eq!(found(Bug::GrantWithoutMessage), Rule::Announced);
    }
}

mod campaign_to_pubsub {
    use super::*;

    #[test]
    fn a_message_that_leaves_the_outbox_before_it_is_published_is_found() {
        assert_eq!(found(Bug::OutboxRemovedBeforePublish), Rule::Announced);
    }
}

mod pubsub_to_blockchain {
    use super::*;

    #[test]
    fn an_acknowledgement_before_the_commit_is_found() {
        assert_eq!(found(Bug::AckBeforeCommit), Rule::Acknowledged);
    }

    #[test]
    fn a_request_that_is_not_remembered_is_found() {
        assert!(matches!(found(Bug::PaymentsForgotten), Rule::OneNonce | Rule::Ledger));
    }
}

mod broker_amnesia {
    use super::*;

    #[test]
    fn requests_that_are_never_published_again_are_found() {
        assert_eq!(found(Bug::NoRepublishing), Rule::Stuck);
    }
}

mod blockchain_to_chain {
    use super::*;

    #[test]
    fn a_broadcast_before_the_commit_is_found() {
        assert_eq!(found(Bug::BroadcastBeforeCommit), Rule::Persisted);
    }

    #[test]
    fn a_new_nonce_after_an_error_is_found() {
        assert_eq!(found(Bug::NewNonceAfterError), Rule::OneNonce);
    }

    #[test]
    fn a_nonce_that_is_used_again_after_an_error_is_found() {
        assert_eq!(found(Bug::NonceReusedAfterError), Rule::OneNonce);
    }

    #[test]
    fn no_receipt_taken_for_not_mined_is_found() {
        assert_eq!(found(Bug::NoReceiptMeansNotMined), Rule::OneNonce);
    }

    #[test]
    fn a_receipt_whose_block_is_gone_is_found() {
        assert_eq!(found(Bug::ReceiptWithoutBlockHash), Rule::Final);
    }

    #[test]
    fn a_settlement_before_finality_is_found() {
        assert_eq!(found(Bug::SettledBeforeFinal), Rule::Final);
    }
}

mod on_chain {
    use super::*;

    #[test]
    fn a_distributor_that_forgets_what_it_paid_is_found() {
        assert_eq!(found(Bug::ForgetfulDistributor), Rule::PaidOnce);
    }
}

mod blockchain_to_campaign {
    use super::*;

    #[test]
    fn a_payment_that_ends_without_a_message_is_found() {
        assert_eq!(found(Bug::ResultWithoutMessage), Rule::Announced);
    }

    #[test]
    fn results_that_move_backwards_are_found() {
        assert!(matches!(found(Bug::ResultsMoveBackwards), Rule::Forward | Rule::Stuck));
    }
}

mod afterwards {
    use super::*;

    #[test]
    fn a_double_payment_that_nobody_notices_is_found() {
        assert_eq!(found(Bug::PaidTwiceAndNotAudited), Rule::Audited);
    }
}

#[test]
fn every_mistake_that_can_be_planted_has_a_test() {
    let source = include_str!("simulation.rs");
    for bug in Bug::ALL {
        assert!(source.contains(&format!("found(Bug::{bug})")), "{bug}");
    }
}
