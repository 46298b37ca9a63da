//! What clients know: what they have asked for, what they were answered, and what follows from that for certain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::load::Wanted;
use crate::client::Answer;

/// Whole tokens that each campaign may pay; `None` for as many as are asked for.
pub(super) type Budgets = BTreeMap<String, Option<u64>>;

/// The books of all clients.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

/// The contents of a ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    budgets: Budgets,
    /// By request id, each grant that was answered with 200 or 202.
    pub accepted: BTreeMap<String, Wanted>,
    /// The same ids, in the order of the answers.
    order: Vec<String>,
    /// The ids of those that somebody does not want any more.
    pub unwanted: BTreeSet<String>,
    /// Requests that were not answered yet, by user and campaign.
    pub unanswered: BTreeMap<String, Wanted>,
    /// Requests whose campaign's budget did not allow a grant, by user and campaign.
    pub refused: BTreeMap<String, Refused>,
    /// Answers that contradict each other, or refuse what cannot be refused.
    pub contradictions: Vec<String>,
    /// Attempts that got no answer, or 503.
    pub retries: usize,
    /// Uploads that were answered.
    pub uploads: usize,
}

/// A request that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// What was wanted.
    pub wanted: Wanted,
    /// Whether every attempt was answered: one that was not may have been decided after the refusal.
    is_sure: bool,
}

impl Ledger {
    /// Books about campaigns with these budgets.
    pub(super) fn new(budgets: Budgets) -> Self {
        Self(Mutex::new(Books { budgets, ..Books::default() }))
    }

    /// What was answered so far.
    pub(super) fn books(&self) -> Books {
        self.lock().clone()
    }

    /// How many grants were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.lock().accepted.len()
    }

    /// The ids of those that were accepted after the first `known`.
    pub(super) fn accepted_since(&self, known: usize) -> Vec<String> {
        self.lock().order[known..].to_vec()
    }

    /// The requests that were refused and of which somebody may have been granted one all the same.
    pub(super) fn unsure(&self) -> Vec<Wanted> {
        self.lock().refused.values().filter(|refused| !refused.is_sure).map(|refused| refused.wanted.clone()).collect()
    }

    /// Notes that this is about to be asked.
    pub(super) fn ask(&self, wanted: &Wanted) {
        let mut books = self.lock();
        books.refused.remove(&asked(wanted));
        books.unanswered.insert(asked(wanted), wanted.clone());
    }

    /// Notes what was answered; returns the grant's id, if there is one. `is_sure` says whether every attempt was answered.
    pub(super) fn hear(&self, wanted: &Wanted, answers: &[Answer], is_sure: bool) -> Option<String> {
        let (mut books, request) = (self.lock(), &wanted.request);
        let mut granted = None;
        for answer in answers {
            match answer.request_id() {
                Ok(id) => {
                    let other = granted.replace(id.clone()).filter(|other| *other != id);
                    books.contradictions.extend(other.map(|other| format!("{request:?} is {other}, and {id}")));
                }
                Err(_) if is_refusal(answer) => books.hear_refusal(wanted),
                Err(error) => books.contradictions.push(format!("{request:?} was never granted and is {error:#}")),
            }
        }
        books.unanswered.remove(&asked(wanted));
        match &granted {
            None => drop(books.refused.insert(asked(wanted), Refused { wanted: wanted.clone(), is_sure })),
            Some(id) => match books.accepted.insert(id.clone(), wanted.clone()) {
                None => books.order.push(id.clone()),
                Some(known) => books.contradictions.push(format!("{id} is both {:?} and {request:?}", known.request)),
            },
        }
        granted
    }

    /// Notes that nothing was granted since the budget does not allow it.
    pub(super) fn hear_refusal(&self, wanted: &Wanted) {
        self.lock().hear_refusal(wanted);
    }

    /// Notes that a grant is not wanted any more, before anybody is asked to cancel it.
    pub(super) fn cancel(&self, request_id: &str) {
        self.lock().unwanted.insert(request_id.to_owned());
    }

    /// Notes answers that contradict each other.
    pub(super) fn contradiction(&self, what: String) {
        self.lock().contradictions.push(what);
    }

    /// Notes an attempt without an answer.
    pub(super) fn retried(&self) {
        self.lock().retries += 1;
    }

    /// Notes an upload that was answered.
    pub(super) fn uploaded(&self) {
        self.lock().uploads += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// A refusal is wrong if all that anybody can have been granted leaves room for what was refused. What was cancelled
    /// counts as granted, since nobody knows when its tokens came back.
    fn hear_refusal(&mut self, wanted: &Wanted) {
        let campaign = &wanted.request.campaign_id;
        let unsure = self.refused.values().filter(|refused| !refused.is_sure).map(|refused| &refused.wanted);
        let possible = self.accepted.values().chain(self.unanswered.values()).chain(unsure);
        // With what was refused: it is not answered yet.
        let at_most: u64 = possible.filter(|one| one.request.campaign_id == *campaign).map(|one| one.amount).sum();
        let budget = self.budgets.get(campaign).copied().flatten();
        if budget.is_none_or(|budget| at_most <= budget) {
            let budget = budget.map_or_else(|| "no limit".to_owned(), |budget| budget.to_string());
            let request = &wanted.request;
            self.contradictions.push(format!(
                "{request:?} was refused: the budget is {budget}, and with it {at_most} at most are promised"
            ));
        }
    }
}

/// What identifies a request: a campaign pays a user once.
fn asked(wanted: &Wanted) -> String {
    format!("{} of {}", wanted.request.campaign_id, wanted.request.user_id)
}

fn is_refusal(answer: &Answer) -> bool {
    answer.status == 409 && answer.body["type"] == "urn:problem-type:budget-exhausted"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        Answer { status, content_type: String::new(), body }
    }

    fn granted(id: &str) -> Answer {
        answer(202, json!({ "request_id": id }))
    }

    fn refusal() -> Answer {
        answer(409, json!({ "type": "urn:problem-type:budget-exhausted" }))
    }

    /// Three requests for the same campaign, and books in which its budget allows all of them, or a token less.
    fn case(short: bool) -> (Ledger, [Wanted; 3]) {
        let wanted = [1, 5, 9].map(|n| Wanted::new(7, n));
        let campaign = wanted[0].request.campaign_id.clone();
        assert!(wanted.iter().all(|one| one.request.campaign_id == campaign));
        let budget = wanted.iter().map(|one| one.amount).sum::<u64>() - u64::from(short);
        let ledger = Ledger::new([(campaign, Some(budget))].into());
        for one in &wanted {
            ledger.ask(one);
        }
        (ledger, wanted)
    }

    fn contradictions(ledger: &Ledger) -> usize {
        ledger.books().contradictions.len()
    }

    #[test]
    fn a_refusal_is_wrong_only_if_all_that_is_possible_leaves_room() {
        for (short, wrong) in [(false, 1), (true, 0)] {
            let (ledger, [first, second, third]) = case(short);
            assert_eq!(ledger.hear(&first, &[granted("first")], true), Some("first".to_owned()));
            assert_eq!(ledger.hear(&second, &[refusal()], true), None);
            assert_eq!((contradictions(&ledger), ledger.books().refused.len()), (wrong, 1));
            // Nobody has what was refused: now there is room for the last one, whatever the first one has.
            ledger.hear(&third, &[refusal()], true);
            assert_eq!(contradictions(&ledger), wrong + 1);
        }
    }

    #[test]
    fn what_may_have_been_granted_counts_as_promised_until_it_is_sure() {
        for (is_sure, wrong) in [(true, 1), (false, 0)] {
            let (ledger, [first, second, _]) = case(true);
            ledger.hear(&first, &[refusal()], is_sure);
            ledger.hear(&second, &[refusal()], true);
            assert_eq!((contradictions(&ledger), ledger.unsure().len()), (wrong, 1 - wrong));
        }
        let (ledger, [first, second, third]) = case(true);
        ledger.hear(&first, &[refusal()], false);
        ledger.ask(&first);
        assert!(ledger.unsure().is_empty(), "it is asked again");
        ledger.hear(&first, &[granted("first")], true);
        ledger.hear(&second, &[granted("second")], true);
        ledger.hear(&third, &[refusal()], true);
        assert_eq!((contradictions(&ledger), ledger.accepted(), ledger.books().refused.len()), (0, 2, 1));
    }

    #[test]
    fn a_campaign_without_a_limit_refuses_nobody() {
        let ledger = Ledger::new(Budgets::new());
        let wanted = Wanted::new(7, 0);
        ledger.ask(&wanted);
        ledger.hear_refusal(&wanted);
        assert_eq!(contradictions(&ledger), 1);
    }

    #[test]
    fn a_grant_is_one_and_a_refusal_beside_it_may_have_come_first() {
        let (ledger, [first, second, _]) = case(true);
        assert_eq!(ledger.hear(&first, &[refusal(), granted("first")], true), Some("first".to_owned()));
        assert_eq!((contradictions(&ledger), ledger.accepted()), (0, 1));
        ledger.hear(&second, &[granted("second"), granted("third")], true);
        assert_eq!(contradictions(&ledger), 1);
        ledger.hear(&second, &[granted("first")], true);
        assert_eq!(contradictions(&ledger), 2);
        ledger.hear(&second, &[answer(400, Value::Null)], true);
        assert_eq!(contradictions(&ledger), 3);
    }
}
