//! The store of grants against a model that fits on two pages: any interleaving of requests, repeats, reused keys, budgets
//! that run out, users who have all they may have, cancellations, results in any order, results of others, and crashes.
//!
//! What must hold at every moment: a user has no more grants of a campaign than allowed; what is reserved and what is spent
//! is within the budget, and is what the grants add up to; what a caller was told stays true; a grant's state never moves
//! backwards, and completed is for ever; what is open waits for a result, and what is final does not. In the end the
//! ledger tells of every moment as it was, and all tables can be worked out from it again.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[expect(dead_code, reason = "it serves other tests too")]
mod support;

use std::collections::BTreeMap;

use campaign::domain::admission::Decision;
use campaign::domain::campaign::{Refusal, Spec};
use campaign::domain::event::actor;
use campaign::domain::{Grant, Standing, State};
use campaign::store::{Cancellation, Page, Report, Store};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use shared::clock::from_micros;
use shared::event::{GrantCompleted, GrantFailed, GrantsConfirmed, GrantsReverted, GrantsSubmitted, ResultEvent};
use shared::id::{CampaignId, RequestId};
use shared::ledger::Cause;
use support::{POLICY, arrival, open, request};
use testkit::{Database, Place};
use tokio::runtime::Runtime;

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grants_are_what_the_model_says(sequential 1..60 => Ledger);
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A studio asks.
    Ask(Asked),
    /// A result arrives for the grant of this number, if there is one.
    Result { grant: usize, kind: Kind, transaction: u8 },
    /// A result that names the grant and another user.
    Forged { grant: usize },
    /// Somebody does not want the grant any more.
    Cancel { grant: usize },
    /// The process is killed and starts again.
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Submitted,
    Confirmed,
    Reverted,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    user: u8,
    campaign: usize,
    tokens: i64,
    key: Option<u8>,
}

impl Asked {
    fn is_the_same_as(&self, other: &Self) -> bool {
        (self.user, self.campaign, self.tokens) == (other.user, other.campaign, other.tokens)
    }
}

/// The campaigns there are: how many grants a user may have, and how many tokens all of them.
const CAMPAIGNS: [(Option<u32>, Option<u64>); 3] = [(Some(1), None), (Some(1), Some(5)), (Some(2), Some(7))];

/// What was asked for, and where it stands.
#[derive(Debug, Clone)]
struct ModelGrant {
    asked: Asked,
    state: State,
    transaction: Option<u8>,
    is_unwanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    New,
    Repeat(usize),
    KeyReused(usize),
    AlreadyGranted(usize),
    UserLimit,
    Budget { left: u64 },
}

/// The whole model: grants in the order of their acceptance, keys, and the last answer.
#[derive(Debug, Clone, Default)]
struct Model {
    grants: Vec<ModelGrant>,
    keys: BTreeMap<u8, usize>,
    answer: Option<Answer>,
    /// Whether the last cancellation was in time.
    cancelled: Option<bool>,
}

impl Model {
    /// Tokens of a campaign's grants that are on their way, and that were paid.
    fn tokens(&self, campaign: usize) -> (u64, u64) {
        let of = |standing| {
            let matches = |grant: &&ModelGrant| grant.asked.campaign == campaign && grant.state.standing() == standing;
            self.grants.iter().filter(matches).map(|grant| grant.asked.tokens.cast_unsigned()).sum()
        };
        (of(Standing::UnderWay), of(Standing::Paid))
    }

    fn ask(&mut self, asked: &Asked) -> Answer {
        if let Some(&earlier) = asked.key.and_then(|key| self.keys.get(&key)) {
            let same = self.grants[earlier].asked.is_the_same_as(asked);
            return if same { Answer::Repeat(earlier) } else { Answer::KeyReused(earlier) };
        }
        let (limit, budget) = CAMPAIGNS[asked.campaign];
        let of_the_user = |(_, grant): &(usize, &ModelGrant)| {
            (grant.asked.user, grant.asked.campaign) == (asked.user, asked.campaign)
        };
        let theirs: Vec<_> = self.grants.iter().enumerate().filter(of_the_user).collect();
        let stands = |(_, grant): &&(usize, &ModelGrant)| grant.state.standing() != Standing::Unpaid;
        let standing = theirs.iter().filter(stands).count();
        let latest = theirs.iter().rfind(stands).or(theirs.last()).map(|(at, _)| *at);
        let (at, answer) = match latest {
            Some(earlier) if limit == Some(1) && (standing > 0 || asked.key.is_none()) => {
                if !self.grants[earlier].asked.is_the_same_as(asked) {
                    return Answer::AlreadyGranted(earlier);
                }
                (earlier, Answer::Repeat(earlier))
            }
            _ => {
                if limit.is_some_and(|limit| standing >= limit as usize) {
                    return Answer::UserLimit;
                }
                let (reserved, spent) = self.tokens(asked.campaign);
                if let Some(left) = budget.map(|budget| budget.saturating_sub(reserved + spent))
                    && left < asked.tokens.cast_unsigned()
                {
                    return Answer::Budget { left };
                }
                let asked = asked.clone();
                self.grants.push(ModelGrant { asked, state: State::Requested, transaction: None, is_unwanted: false });
                (self.grants.len() - 1, Answer::New)
            }
        };
        if let Some(key) = asked.key {
            self.keys.insert(key, at);
        }
        answer
    }
}

impl ModelGrant {
    fn result(&mut self, kind: Kind, transaction: u8) {
        let (to, standing) = (kind.state(), self.state.standing());
        match kind {
            Kind::Completed if standing != Standing::Paid => {
                (self.state, self.transaction) = (to, Some(transaction));
            }
            Kind::Failed | Kind::Cancelled if standing == Standing::UnderWay => self.state = to,
            Kind::Submitted | Kind::Confirmed | Kind::Reverted if standing == Standing::UnderWay => {
                (self.state, self.transaction) = (to, Some(transaction));
            }
            _ => {}
        }
    }
}

impl Kind {
    fn state(self) -> State {
        match self {
            Self::Submitted | Self::Reverted => State::Submitted,
            Self::Confirmed => State::Confirmed,
            Self::Completed => State::Completed,
            Self::Failed => State::Failed,
            Self::Cancelled => State::Cancelled,
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Event> {
        let asked = (0..4_u8, 0..CAMPAIGNS.len(), 1..3_i64, prop::option::of(0..6_u8))
            .prop_map(|(user, campaign, tokens, key)| Asked { user, campaign, tokens, key });
        let kind = prop::sample::select(vec![
            Kind::Submitted,
            Kind::Confirmed,
            Kind::Reverted,
            Kind::Completed,
            Kind::Failed,
            Kind::Cancelled,
        ]);
        prop_oneof![
            6 => asked.prop_map(Event::Ask),
            8 => (0..8_usize, kind, 0..3_u8)
                .prop_map(|(grant, kind, transaction)| Event::Result { grant, kind, transaction }),
            1 => (0..8_usize).prop_map(|grant| Event::Forged { grant }),
            1 => (0..8_usize).prop_map(|grant| Event::Cancel { grant }),
            1 => Just(Event::Crash),
        ]
        .boxed()
    }

    fn apply(mut model: Self, event: &Event) -> Self {
        match event {
            Event::Ask(asked) => model.answer = Some(model.ask(asked)),
            Event::Result { grant, kind, transaction } => {
                if let Some(grant) = model.grants.get_mut(*grant) {
                    grant.result(*kind, *transaction);
                }
            }
            Event::Cancel { grant } => {
                model.cancelled = model.grants.get_mut(*grant).map(|grant| {
                    let is_under_way = grant.state.standing() == Standing::UnderWay;
                    let was_asked = grant.state == State::Cancelled || grant.is_unwanted && is_under_way;
                    grant.is_unwanted |= grant.state == State::Requested;
                    was_asked || grant.state == State::Requested
                });
            }
            Event::Forged { .. } | Event::Crash => {}
        }
        model
    }
}

/// The real store, the names that it gave to the model's grants, and what it said at each moment.
struct Ledger {
    runtime: Runtime,
    place: Place,
    store: Store,
    request_ids: Vec<RequestId>,
    seconds: i64,
    moments: Vec<(i64, Vec<Grant>)>,
}

impl StateMachineTest for Ledger {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime = Runtime::new().unwrap();
        let place = runtime.block_on(Place::new(Database::Sqlite)).unwrap();
        let store = runtime.block_on(open(&place));
        for (number, (max_grants_per_user, budget)) in CAMPAIGNS.into_iter().enumerate() {
            let campaign_id = campaign_id(number);
            let spec = Spec { max_grants_per_user, budget, ..Spec::of_first_use(&campaign_id) };
            let decide = |_: Option<&_>| Ok::<_, ()>(spec);
            let changed =
                store.change_campaign(&campaign_id, Cause::by(actor::operator()), None, from_micros(0), decide);
            runtime.block_on(changed).unwrap().unwrap();
        }
        Self { runtime, place, store, request_ids: vec![], seconds: 0, moments: vec![] }
    }

    fn apply(mut ledger: Self, model: &Model, event: Event) -> Self {
        ledger.seconds += 1;
        match event {
            Event::Ask(asked) => assert_eq!(Some(ledger.ask(&asked)), model.answer),
            Event::Result { grant, kind, transaction } => {
                if let Some(request_id) = ledger.request_ids.get(grant) {
                    let asked = &model.grants[grant].asked;
                    ledger.apply_result(&ledger.result(request_id, asked.user, asked.campaign, kind, transaction));
                }
            }
            Event::Forged { grant } => {
                if let Some(request_id) = ledger.request_ids.get(grant) {
                    let asked = &model.grants[grant].asked;
                    let forged = ledger.result(request_id, asked.user + 1, asked.campaign, Kind::Completed, 9);
                    ledger.apply_result(&forged);
                }
            }
            Event::Cancel { grant } => {
                if let Some(request_id) = ledger.request_ids.get(grant) {
                    let cause = Cause::by(actor::client());
                    let cancelled = ledger.store.cancel(request_id, None, &cause, from_micros(ledger.micros()));
                    let cancelled = ledger.runtime.block_on(cancelled).unwrap().unwrap();
                    assert_eq!(Some(matches!(cancelled, Cancellation::Asked(_))), model.cancelled);
                }
            }
            Event::Crash => ledger.store = ledger.runtime.block_on(open(&ledger.place)),
        }
        let grants = ledger.grants();
        ledger.moments.push((ledger.micros(), grants));
        ledger
    }

    fn check_invariants(ledger: &Self, model: &Model) {
        assert_eq!(ledger.request_ids.len(), model.grants.len());
        for (at, (grant, expected)) in ledger.grants().iter().zip(&model.grants).enumerate() {
            let transaction = expected.transaction.map(|number| B256(number).to_string());
            assert_eq!((grant.state, grant.transaction_hash.clone()), (expected.state, transaction), "grant {at}");
            assert_eq!(grant.completed_at.is_some(), expected.state.is_final());
            assert_eq!(grant.grant_index, at as u64, "numbers have no gaps");
        }
        let open = model.grants.iter().filter(|grant| !grant.state.is_final()).count();
        assert_eq!(ledger.runtime.block_on(ledger.store.open_grants()).unwrap().grants, open as u64);
        for (number, (_, budget)) in CAMPAIGNS.into_iter().enumerate() {
            let campaign = ledger.runtime.block_on(ledger.store.campaign(&campaign_id(number))).unwrap().unwrap();
            let (reserved, spent) = (campaign.tally.reserved, campaign.tally.spent);
            assert_eq!((reserved, spent), model.tokens(number), "campaign {number}");
            // What was refused and is paid all the same was spent, whatever the budget says.
            let was_revived = model.grants.iter().any(|grant| grant.state == State::Completed);
            assert!(budget.is_none_or(|budget| reserved + spent <= budget) || was_revived);
        }
    }

    fn teardown(ledger: Self, _: Model) {
        for (micros, expected) in &ledger.moments {
            let at = from_micros(*micros);
            let then: Vec<_> = ledger
                .request_ids
                .iter()
                .filter_map(|request_id| ledger.runtime.block_on(ledger.store.grant_at(request_id, at)).unwrap())
                .collect();
            assert_eq!(then, *expected, "at {at}");
        }
        if let Some((micros, expected)) = ledger.moments.get(ledger.moments.len() / 2) {
            for user in 0..4_u8 {
                let user = format!("user {user}").parse().unwrap();
                let page = Page { limit: 100, before: None };
                let status = ledger.store.status_at(&user, None, page, from_micros(*micros));
                let (mut grants, totals) = ledger.runtime.block_on(status).unwrap();
                grants.reverse();
                let expected: Vec<_> = expected.iter().filter(|grant| grant.request.user_id == user).cloned().collect();
                assert_eq!(totals.grants, expected.len() as u64);
                assert_eq!(grants, expected);
            }
        }
        let rebuilt = ledger.runtime.block_on(ledger.store.rebuild(false)).unwrap();
        assert_eq!((rebuilt.differences, rebuilt.broken_seal), (vec![], None));
    }
}

fn campaign_id(number: usize) -> CampaignId {
    format!("campaign {number}").parse().unwrap()
}

/// A transaction's hash, made of one byte.
struct B256(u8);

impl std::fmt::Display for B256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{}", format!("{:02x}", self.0).repeat(32))
    }
}

impl Ledger {
    fn micros(&self) -> i64 {
        self.seconds * 1_000_000
    }

    fn grants(&self) -> Vec<Grant> {
        let grant = |request_id| self.runtime.block_on(self.store.grant(request_id)).unwrap().unwrap();
        self.request_ids.iter().map(grant).collect()
    }

    fn ask(&mut self, asked: &Asked) -> Answer {
        let Asked { user, campaign, tokens, key } = asked;
        let request = request(&format!("user {user}"), campaign_id(*campaign).as_str(), *tokens);
        let key = key.map(|key| format!("key {key}"));
        let arrivals = [arrival(request, key.as_deref())];
        let accepted = self.store.accept(&arrivals, from_micros(self.micros()), POLICY);
        let decision = self.runtime.block_on(accepted).unwrap().remove(0);
        let number = |request_id: &RequestId| self.request_ids.iter().position(|known| known == request_id).unwrap();
        match decision {
            Decision::New(grant) => {
                self.request_ids.push(grant.request_id);
                Answer::New
            }
            Decision::Repeat(grant) => Answer::Repeat(number(&grant.request_id)),
            Decision::KeyReused { earlier } => Answer::KeyReused(number(&earlier)),
            Decision::AlreadyGranted { earlier } => Answer::AlreadyGranted(number(&earlier)),
            Decision::Refused(Refusal::UserLimit { .. }) => Answer::UserLimit,
            Decision::Refused(Refusal::Budget { left }) => Answer::Budget { left },
            Decision::Refused(refusal) => panic!("{refusal}"),
        }
    }

    fn apply_result(&self, event: &ResultEvent) {
        let report = Report { event, message_id: None, trace: None };
        self.runtime.block_on(self.store.apply(&[report], from_micros(self.micros()))).unwrap();
    }

    fn result(&self, request_id: &RequestId, user: u8, campaign: usize, kind: Kind, transaction: u8) -> ResultEvent {
        let (user_id, campaign_id) = (format!("user {user}").parse().unwrap(), campaign_id(campaign));
        let (request_id, transaction_hash) = (request_id.clone(), B256(transaction).to_string());
        let (timestamp, processed_at) = (from_micros(0), from_micros(self.micros()));
        let request_ids = vec![request_id.clone()];
        match kind {
            Kind::Submitted => ResultEvent::Submitted(GrantsSubmitted { request_ids, transaction_hash, processed_at }),
            Kind::Confirmed => ResultEvent::Confirmed(GrantsConfirmed {
                request_ids,
                transaction_hash,
                block_number: 1,
                block_hash: B256(1).to_string(),
                processed_at,
            }),
            Kind::Reverted => ResultEvent::Reverted(GrantsReverted { request_ids, transaction_hash, processed_at }),
            Kind::Completed => ResultEvent::Completed(GrantCompleted {
                user_id,
                campaign_id,
                request_id,
                transaction_hash,
                timestamp,
                processed_at,
                wallet_address: None,
                block_number: Some(1),
                gas_used: Some(26_000),
                gas_price: Some(u64::MAX / 100_000),
            }),
            Kind::Failed | Kind::Cancelled => ResultEvent::Failed(GrantFailed {
                user_id,
                campaign_id,
                request_id,
                error_message: "no".into(),
                timestamp,
                processed_at,
                error_code: (kind == Kind::Cancelled).then(|| "cancelled".to_owned()),
            }),
        }
    }
}
