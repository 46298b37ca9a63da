//! The store of grants against a model that fits on a page: any interleaving of requests, repeats, reused keys, results in
//! any order, results of others, and crashes.
//!
//! What must hold at every moment: a user has one grant of a campaign; what a caller was told stays true; a grant's state
//! never moves backwards, and completed is for ever; what is open waits for a result, and what is final does not.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[expect(dead_code, reason = "it serves other tests too")]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use campaign::domain::{Decision, State};
use campaign::store::Store;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use shared::clock::from_micros;
use shared::event::{GrantCompleted, GrantFailed, GrantsSubmitted, ResultEvent};
use shared::id::RequestId;
use support::{arrival, open, request};
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
    Result { grant: usize, kind: State, transaction: u8 },
    /// A result that names the grant and another user.
    Forged { grant: usize },
    /// The process is killed and starts again.
    Crash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    user: u8,
    campaign: u8,
    tokens: i64,
    key: Option<u8>,
}

impl Asked {
    fn is_the_same_as(&self, other: &Self) -> bool {
        (self.user, self.campaign, self.tokens) == (other.user, other.campaign, other.tokens)
    }
}

/// What was asked for, and where it stands.
#[derive(Debug, Clone)]
struct ModelGrant {
    asked: Asked,
    state: State,
    transaction: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    New,
    Repeat(usize),
    KeyReused(usize),
    AlreadyGranted(usize),
}

/// The whole model: grants in the order of their acceptance, keys, and the last answer.
#[derive(Debug, Clone, Default)]
struct Model {
    grants: Vec<ModelGrant>,
    keys: BTreeMap<u8, usize>,
    answer: Option<Answer>,
}

impl Model {
    fn ask(&mut self, asked: &Asked) -> Answer {
        if let Some(&earlier) = asked.key.and_then(|key| self.keys.get(&key)) {
            let same = self.grants[earlier].asked.is_the_same_as(asked);
            return if same { Answer::Repeat(earlier) } else { Answer::KeyReused(earlier) };
        }
        let of_the_user = |grant: &ModelGrant| (grant.asked.user, grant.asked.campaign) == (asked.user, asked.campaign);
        let (at, answer) = match self.grants.iter().position(of_the_user) {
            Some(earlier) if self.grants[earlier].asked.is_the_same_as(asked) => (earlier, Answer::Repeat(earlier)),
            Some(earlier) => return Answer::AlreadyGranted(earlier),
            None => {
                self.grants.push(ModelGrant { asked: asked.clone(), state: State::Requested, transaction: None });
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
    fn result(&mut self, kind: State, transaction: u8) {
        match (self.state, kind) {
            (State::Completed, _) | (State::Failed, State::Submitted | State::Failed) => {}
            (_, State::Failed) => self.state = State::Failed,
            (_, kind) => (self.state, self.transaction) = (kind, Some(transaction)),
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
        let asked = (0..4_u8, 0..2_u8, 1..3_i64, prop::option::of(0..4_u8))
            .prop_map(|(user, campaign, tokens, key)| Asked { user, campaign, tokens, key });
        let kind = prop::sample::select(vec![State::Submitted, State::Completed, State::Failed]);
        prop_oneof![
            5 => asked.prop_map(Event::Ask),
            8 => (0..8_usize, kind, 0..3_u8)
                .prop_map(|(grant, kind, transaction)| Event::Result { grant, kind, transaction }),
            1 => (0..8_usize).prop_map(|grant| Event::Forged { grant }),
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
            Event::Forged { .. } | Event::Crash => {}
        }
        model
    }
}

/// The real store, and the names that it gave to the model's grants.
struct Ledger {
    runtime: Runtime,
    place: Place,
    store: Store,
    request_ids: Vec<RequestId>,
    seconds: i64,
}

impl StateMachineTest for Ledger {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime = Runtime::new().unwrap();
        let place = runtime.block_on(Place::new(Database::Sqlite)).unwrap();
        let store = runtime.block_on(open(&place));
        Self { runtime, place, store, request_ids: vec![], seconds: 0 }
    }

    fn apply(mut ledger: Self, model: &Model, event: Event) -> Self {
        ledger.seconds += 1;
        match event {
            Event::Ask(asked) => assert_eq!(Some(ledger.ask(&asked)), model.answer),
            Event::Result { grant, kind, transaction } => {
                if let Some(request_id) = ledger.request_ids.get(grant) {
                    let asked = &model.grants[grant].asked;
                    ledger.apply_result(&result(request_id, asked.user, asked.campaign, kind, transaction));
                }
            }
            Event::Forged { grant } => {
                if let Some(request_id) = ledger.request_ids.get(grant) {
                    let asked = &model.grants[grant].asked;
                    ledger.apply_result(&result(request_id, asked.user + 1, asked.campaign, State::Completed, 9));
                }
            }
            Event::Crash => ledger.store = ledger.runtime.block_on(open(&ledger.place)),
        }
        ledger
    }

    fn check_invariants(ledger: &Self, model: &Model) {
        assert_eq!(ledger.request_ids.len(), model.grants.len());
        for (at, (request_id, expected)) in ledger.request_ids.iter().zip(&model.grants).enumerate() {
            let grant = ledger.runtime.block_on(ledger.store.grant(request_id)).unwrap().unwrap();
            let transaction = expected.transaction.map(|number| B256(number).to_string());
            assert_eq!((grant.state, grant.transaction_hash), (expected.state, transaction), "grant {at}");
            assert_eq!(grant.completed_at.is_some(), expected.state.is_final());
            assert_eq!(grant.grant_index, at as u64, "numbers have no gaps");
        }
        let open = model.grants.iter().filter(|grant| !grant.state.is_final()).count();
        assert_eq!(ledger.runtime.block_on(ledger.store.open_grants()).unwrap().grants, open as u64);
    }
}

/// A transaction's hash, made of one byte.
struct B256(u8);

impl std::fmt::Display for B256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{}", format!("{:02x}", self.0).repeat(32))
    }
}

impl Ledger {
    fn ask(&mut self, asked: &Asked) -> Answer {
        let Asked { user, campaign, tokens, key } = asked;
        let request = request(&format!("user {user}"), &format!("campaign {campaign}"), *tokens);
        let key = key.map(|key| format!("key {key}"));
        let arrivals = [arrival(request, key.as_deref())];
        let now = from_micros(self.seconds * 1_000_000);
        let accepted = self.store.accept(&arrivals, now, Duration::from_mins(1));
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
        }
    }

    fn apply_result(&self, event: &ResultEvent) {
        let now = from_micros(self.seconds * 1_000_000);
        self.runtime.block_on(self.store.apply(&[event], now)).unwrap();
    }
}

fn result(request_id: &RequestId, user: u8, campaign: u8, kind: State, transaction: u8) -> ResultEvent {
    let (user_id, campaign_id) =
        (format!("user {user}").parse().unwrap(), format!("campaign {campaign}").parse().unwrap());
    let (request_id, transaction_hash) = (request_id.clone(), B256(transaction).to_string());
    let (timestamp, processed_at) = (from_micros(0), from_micros(1));
    match kind {
        State::Submitted => {
            ResultEvent::Submitted(GrantsSubmitted { request_ids: vec![request_id], transaction_hash, processed_at })
        }
        State::Completed => ResultEvent::Completed(GrantCompleted {
            user_id,
            campaign_id,
            request_id,
            transaction_hash,
            timestamp,
            processed_at,
            wallet_address: None,
            block_number: Some(1),
            gas_used: None,
        }),
        State::Requested | State::Failed => ResultEvent::Failed(GrantFailed {
            user_id,
            campaign_id,
            request_id,
            error_message: "no".into(),
            timestamp,
            processed_at,
            error_code: None,
        }),
    }
}
