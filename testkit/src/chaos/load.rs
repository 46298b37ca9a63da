//! Requests for grants, as game servers send them: a steady stream that does not wait for answers, clients that lose
//! patience and ask again, clients that ask twice, clients that change their mind.
//!
//! A request is asked again until it is answered, whatever that takes: only then does anybody know what became of it.
//! What was answered is kept, and is all that the audit believes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{Address, keccak256};
use futures::{StreamExt as _, stream::FuturesUnordered};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::client::{Answer, CampaignClient, GrantRequest};

/// Campaigns that pay each user.
const CAMPAIGNS: u64 = 4;

/// Time between two bundles of requests.
const TICK: Duration = Duration::from_millis(20);

/// How long a client waits for an answer, and the impatient ones.
const PATIENCE: Duration = Duration::from_secs(10);
const IMPATIENCE: Duration = Duration::from_millis(30);

/// A grant that somebody wants, and who is to get what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What is asked.
    pub request: GrantRequest,
    /// Where to, if the request names it.
    pub wallet: Option<Address>,
    /// Whole tokens. No user is owed the same amount twice.
    pub amount: u64,
    /// How this client behaves.
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Asks once, and again when no answer comes.
    Plain,
    /// Hangs up soon, and asks again.
    Impatient,
    /// Asks twice at the same time.
    Twice,
    /// Asks again when it has its answer.
    Again,
    /// Asks for another amount when it has its answer.
    Different,
}

impl Wanted {
    /// The request number `n` of a seed.
    fn new(seed: u64, n: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n));
        let (user, campaign) = (format!("player-{}", n / CAMPAIGNS), n % CAMPAIGNS);
        let amount = campaign * 250 + random.random_range(1..=250);
        let wallet = (n / CAMPAIGNS).is_multiple_of(2).then(|| {
            let hash = keccak256(format!("{seed} {user}"));
            Address::from_word(hash)
        });
        let mut request = GrantRequest::new(user, format!("campaign-{campaign}")).amount(amount);
        if let Some(wallet) = wallet {
            request = request.to(wallet.to_string());
        }
        if random.random() {
            request = request.key(format!("key-{n}"));
        }
        let manner = match random.random_range(0..100) {
            0..5 => Manner::Impatient,
            5..8 => Manner::Twice,
            8..11 => Manner::Again,
            11..13 => Manner::Different,
            _ => Manner::Plain,
        };
        Self { request, wallet, amount, manner }
    }
}

/// What clients were answered.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

/// The contents of a ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    /// By request id, each grant that was answered with 200 or 202.
    pub accepted: BTreeMap<String, Wanted>,
    /// The same ids, in the order of the answers.
    order: Vec<String>,
    /// Requests that were not answered yet, by user and campaign.
    pub unanswered: BTreeMap<String, Wanted>,
    /// Answers that contradict each other.
    pub contradictions: Vec<String>,
    /// Attempts that got no answer, or 503.
    pub retries: usize,
}

impl Ledger {
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

    /// Notes a grant; returns what the id was answered to before, if it was.
    fn note(&self, request_id: &str, wanted: &Wanted) -> Option<Wanted> {
        let mut books = self.lock();
        let known = books.accepted.insert(request_id.to_owned(), wanted.clone());
        if known.is_none() {
            books.order.push(request_id.to_owned());
        }
        known
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contradiction(&self, what: String) {
        self.lock().contradictions.push(what);
    }
}

/// A steady stream of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) seed: u64,
    /// Requests a second.
    pub(super) rate: u32,
    /// For how long.
    pub(super) length: Duration,
    /// How long after that a request may remain without an answer.
    pub(super) deadline: Duration,
}

impl Load {
    /// Sends all requests and notes the answers; ends when each is answered, or the deadline is over.
    pub(super) async fn run(self, client: CampaignClient, ledger: &Ledger) {
        let clients = Clients { patient: client.clone().waiting(PATIENCE), impatient: client.waiting(IMPATIENCE) };
        let began = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = FuturesUnordered::new();
        let mut sent = 0;
        let all = self.length.as_millis() * u128::from(self.rate) / 1000;
        while u128::from(sent) < all {
            tokio::select! {
                _ = tick.tick() => {
                    let due = began.elapsed().as_millis() * u128::from(self.rate) / 1000;
                    while u128::from(sent) < due.min(all) {
                        requests.push(grant(&clients, ledger, Wanted::new(self.seed, sent)));
                        sent += 1;
                    }
                }
                Some(()) = requests.next() => {}
            }
        }
        let rest = async { while requests.next().await.is_some() {} };
        let _ = timeout(self.deadline, rest).await;
    }
}

struct Clients {
    patient: CampaignClient,
    impatient: CampaignClient,
}

/// Gets one grant accepted, in the client's manner.
async fn grant(clients: &Clients, ledger: &Ledger, wanted: Wanted) {
    let request = &wanted.request;
    let asked = format!("{} of {}", request.campaign_id, request.user_id);
    ledger.lock().unanswered.insert(asked.clone(), wanted.clone());
    let first = async {
        if wanted.manner == Manner::Impatient {
            let _ = clients.impatient.request(request).await;
        }
        ask(clients, ledger, request).await
    };
    let (answer, other) = match wanted.manner {
        Manner::Twice => {
            let (one, other) = tokio::join!(first, ask(clients, ledger, request));
            (one, Some(other))
        }
        _ => (first.await, None),
    };
    ledger.lock().unanswered.remove(&asked);
    let request_id = match answer.request_id() {
        Ok(request_id) => request_id,
        Err(error) => return ledger.contradiction(format!("{request:?} was never granted and is {error:#}")),
    };
    if let Some(known) = ledger.note(&request_id, &wanted) {
        ledger.contradiction(format!("{request_id} is both {:?} and {request:?}", known.request));
    }
    let repeat = match wanted.manner {
        Manner::Again => Some(ask(clients, ledger, request).await),
        Manner::Different => {
            let different = request.clone().amount(wanted.amount + 1);
            let answer = ask(clients, ledger, &different).await;
            if !matches!(answer.status, 409 | 422) {
                ledger.contradiction(format!("{different:?} after {request_id} was answered {}", answer.status));
            }
            None
        }
        _ => other,
    };
    if let Some(repeat) = repeat
        && repeat.request_id().ok().as_ref() != Some(&request_id)
    {
        ledger.contradiction(format!("{request:?} is {request_id}, and then {}: {}", repeat.status, repeat.body));
    }
}

/// Asks until there is an answer that says what became of the request.
async fn ask(clients: &Clients, ledger: &Ledger, request: &GrantRequest) -> Answer {
    let mut pause = Duration::from_millis(100);
    loop {
        match clients.patient.request(request).await {
            Ok(answer) if answer.status < 500 => return answer,
            _ => {}
        }
        ledger.lock().retries += 1;
        sleep(pause.mul_f64(rand::rng().random_range(0.5..1.5))).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_always_has_the_same_requests() {
        for n in 0..100 {
            assert_eq!(Wanted::new(7, n), Wanted::new(7, n));
        }
        assert_ne!(Wanted::new(7, 0), Wanted::new(8, 0));
    }

    #[test]
    fn no_user_wants_the_same_amount_twice() {
        let wanted: Vec<Wanted> = (0..2_000).map(|n| Wanted::new(1, n)).collect();
        let owed: BTreeSet<_> = wanted.iter().map(|one| (&one.request.user_id, one.amount)).collect();
        assert_eq!(owed.len(), wanted.len());
        let wallets: BTreeSet<_> = wanted.iter().filter_map(|one| one.wallet).collect();
        assert_eq!(wallets.len(), 250);
    }
}
