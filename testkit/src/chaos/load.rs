//! Requests for grants, as game servers send them: a steady stream that does not wait for answers, clients that lose
//! patience and ask again, clients that ask twice, clients that change their mind, and uploads of many requests.
//!
//! A request is asked again until it is answered, whatever that takes: only then does anybody know what became of it.
//! What was answered is kept in [`books`](super::books), and is all that the audit believes.

use std::{ops::Range, time::Duration};

use alloy::primitives::{Address, keccak256};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{LocalBoxFuture, join_all},
    stream::FuturesUnordered,
};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::books::{Budgets, Ledger};
use crate::client::{Answer, CampaignClient, GrantRequest};

/// Campaigns that pay each user.
const CAMPAIGNS: u64 = BUDGETS.len() as u64;

/// What part of the tokens that are wanted of a campaign its budget allows, in percent; without one, there is no limit. One
/// runs out in the middle, one towards the end.
const BUDGETS: [Option<Range<u64>>; 4] = [None, Some(30..60), None, Some(75..95)];

/// Requests in an upload, and every how many of as many requests are one.
const UPLOAD: u64 = 40;
const UPLOAD_EVERY: u64 = 10;

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
    /// Does not want its grant any more once it has it.
    Cancel,
}

fn campaign_name(campaign: u64) -> String {
    format!("campaign-{campaign}")
}

impl Wanted {
    /// The request number `n` of a seed.
    pub(super) fn new(seed: u64, n: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n));
        let (user, campaign) = (format!("player-{}", n / CAMPAIGNS), n % CAMPAIGNS);
        let amount = campaign * 250 + random.random_range(1..=250);
        let wallet = (n / CAMPAIGNS).is_multiple_of(2).then(|| {
            let hash = keccak256(format!("{seed} {user}"));
            Address::from_word(hash)
        });
        let mut request = GrantRequest::new(user, campaign_name(campaign)).amount(amount);
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
            13..18 => Manner::Cancel,
            _ => Manner::Plain,
        };
        Self { request, wallet, amount, manner }
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
    /// How many requests there are in all.
    fn requests(self) -> u64 {
        u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX) * u64::from(self.rate) / 1000
    }

    /// What each campaign may pay.
    pub(super) fn budgets(self) -> Budgets {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let mut wanted = BUDGETS.map(|_| 0);
        for n in 0..self.requests() {
            wanted[usize::try_from(n % CAMPAIGNS).unwrap_or_default()] += Wanted::new(self.seed, n).amount;
        }
        let percent = BUDGETS.map(|range| Some(random.random_range(range?)));
        let budget = |(wanted, percent): (u64, Option<u64>)| Some(wanted * percent? / 100);
        (0..CAMPAIGNS).map(campaign_name).zip(wanted.into_iter().zip(percent).map(budget)).collect()
    }

    /// Sends all requests and notes the answers; ends when each is answered, or the deadline is over.
    pub(super) async fn run(self, client: CampaignClient, ledger: &Ledger) {
        let clients = Clients { patient: client.clone().waiting(PATIENCE), impatient: client.waiting(IMPATIENCE) };
        let began = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = FuturesUnordered::new();
        let (mut sent, all) = (0, self.requests());
        while sent < all {
            tokio::select! {
                _ = tick.tick() => {
                    let elapsed = Load { length: began.elapsed(), ..self };
                    while let Some(next) = next(sent, elapsed.requests().min(all), all) {
                        sent = next.end;
                        requests.push(self.send(&clients, ledger, next));
                    }
                }
                Some(()) = requests.next() => {}
            }
        }
        let rest = async {
            while requests.next().await.is_some() {}
            // Who was refused after an attempt that nobody answered cannot know whether that one was decided later.
            join_all(ledger.unsure().into_iter().map(|wanted| grant(&clients, ledger, wanted, Before::Nothing))).await;
        };
        let _ = timeout(self.deadline, rest).await;
    }

    /// Sends these requests: one alone, or several as an upload.
    fn send<'a>(self, clients: &'a Clients, ledger: &'a Ledger, numbers: Range<u64>) -> LocalBoxFuture<'a, ()> {
        let mut wanted: Vec<_> = numbers.map(|n| Wanted::new(self.seed, n)).collect();
        match wanted.pop() {
            Some(only) if wanted.is_empty() => grant(clients, ledger, only, Before::Nothing).boxed_local(),
            last => upload(clients, ledger, wanted.into_iter().chain(last).collect()).boxed_local(),
        }
    }
}

/// The numbers of the requests that are sent next, now that all below `due` of `all` are due.
fn next(sent: u64, due: u64, all: u64) -> Option<Range<u64>> {
    let bundle = sent / UPLOAD;
    let is_upload = bundle % UPLOAD_EVERY == UPLOAD_EVERY / 2;
    let end = if is_upload { ((bundle + 1) * UPLOAD).min(all) } else { sent + 1 };
    (sent < end && end <= due).then_some(sent..end)
}

struct Clients {
    patient: CampaignClient,
    impatient: CampaignClient,
}

/// How far a request has come before it is sent alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// It was not sent.
    Nothing,
    /// An upload had it, and was told that nothing is granted.
    Rejected,
    /// An upload had it, and was told that it is granted.
    Granted,
}

/// Gets one grant accepted, in the client's manner, or refused.
async fn grant(clients: &Clients, ledger: &Ledger, wanted: Wanted, before: Before) {
    let request = &wanted.request;
    ledger.ask(&wanted);
    let mut is_sure = before == Before::Nothing;
    if wanted.manner == Manner::Impatient {
        is_sure &= clients.impatient.request(request).await.is_ok();
    }
    let mut answers = vec![ask(clients, ledger, request)];
    if wanted.manner == Manner::Twice {
        answers.push(ask(clients, ledger, request));
    }
    let asked = join_all(answers).await;
    is_sure &= asked.iter().all(|asked| asked.is_sure);
    let answers: Vec<_> = asked.into_iter().map(|asked| asked.answer).collect();
    if before == Before::Granted && answers.iter().any(|answer| answer.status != 200) {
        let told = &answers[0];
        ledger.contradiction(format!("{request:?} was granted in an upload, and is {}: {}", told.status, told.body));
    }
    let Some(request_id) = ledger.hear(&wanted, &answers, is_sure) else {
        // Somebody else's tokens may have come back.
        if wanted.manner == Manner::Again {
            let later = Wanted { manner: Manner::Plain, ..wanted };
            Box::pin(grant(clients, ledger, later, Before::Nothing)).await;
        }
        return;
    };
    match wanted.manner {
        Manner::Again => {
            let Answer { status, body, .. } = ask(clients, ledger, request).await.answer;
            if body["request_id"] != request_id.as_str() || status != 200 {
                ledger.contradiction(format!("{request:?} is {request_id}, and then {status}: {body}"));
            }
        }
        Manner::Different => {
            let different = request.clone().amount(wanted.amount + 1);
            let Answer { status, .. } = ask(clients, ledger, &different).await.answer;
            if !matches!(status, 409 | 422) {
                ledger.contradiction(format!("{different:?} after {request_id} was answered {status}"));
            }
        }
        Manner::Cancel => {
            ledger.cancel(&request_id);
            let path = format!("/grants/{request_id}");
            let Answer { status, body, .. } = insist(ledger, async || clients.patient.delete(&path).await).await.answer;
            if !matches!(status, 200 | 202) && body["type"] != "urn:problem-type:too-late-to-cancel" {
                ledger.contradiction(format!("the cancellation of {request_id} was answered {status}: {body}"));
            }
        }
        Manner::Plain | Manner::Impatient | Manner::Twice => {}
    }
}

/// Gets many grants accepted, or refused, in one upload. It breaks off and is sent again; then each line is asked for alone,
/// which says what its grant is.
async fn upload(clients: &Clients, ledger: &Ledger, wanted: Vec<Wanted>) {
    for wanted in &wanted {
        ledger.ask(wanted);
    }
    let lines: Vec<_> = wanted.iter().map(|wanted| wanted.request.clone()).collect();
    let _ = clients.impatient.upload(&lines).await;
    let Answer { status, body: job, .. } = insist(ledger, async || clients.patient.upload(&lines).await).await.answer;
    let told = |count: &str| job[count].as_u64().unwrap_or_default();
    let decided = told("accepted") + told("repeated") + told("rejected");
    if status != 202 || [told("lines"), decided] != [lines.len() as u64; 2] {
        ledger.contradiction(format!("an upload of {} lines was answered {status}: {job}", lines.len()));
    }
    let rejections = job["rejections"].as_array().map(Vec::as_slice).unwrap_or_default();
    ledger.uploaded();
    let lines = (1_u64..).zip(wanted).map(|(number, wanted)| {
        let rejection = rejections.iter().find(|rejection| rejection["line"] == number);
        match rejection.map(|rejection| rejection["type"].as_str().unwrap_or_default()) {
            None => return grant(clients, ledger, wanted, Before::Granted),
            Some("urn:problem-type:budget-exhausted") => ledger.hear_refusal(&wanted),
            Some("urn:problem-type:stopped") => {}
            Some(kind) => ledger.contradiction(format!("an upload's line was rejected with {kind}: {wanted:?}")),
        }
        grant(clients, ledger, wanted, Before::Rejected)
    });
    join_all(lines).await;
}

/// What a request was answered in the end.
struct Asked {
    answer: Answer,
    /// Whether every attempt was answered.
    is_sure: bool,
}

/// Asks for a grant until there is an answer that says what became of the request.
async fn ask(clients: &Clients, ledger: &Ledger, request: &GrantRequest) -> Asked {
    insist(ledger, async || clients.patient.request(request).await).await
}

/// Sends something until there is an answer that says what became of it.
async fn insist(ledger: &Ledger, send: impl AsyncFn() -> anyhow::Result<Answer>) -> Asked {
    let mut pause = Duration::from_millis(100);
    let mut is_sure = true;
    loop {
        match send().await {
            // A time-out of the service is no decision either.
            Ok(answer) if answer.status < 500 && answer.status != 408 => return Asked { answer, is_sure },
            _ => is_sure = false,
        }
        ledger.retried();
        sleep(pause.mul_f64(rand::rng().random_range(0.5..1.5))).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

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

    fn load(seed: u64) -> Load {
        Load { seed, rate: 240, length: Duration::from_secs(12), deadline: Duration::ZERO }
    }

    #[test]
    fn budgets_follow_from_the_seed_and_some_allow_less_than_is_wanted() {
        for seed in 0..20 {
            let budgets = load(seed).budgets();
            assert_eq!(budgets, load(seed).budgets());
            let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
            for one in (0..load(seed).requests()).map(|n| Wanted::new(seed, n)) {
                *wanted.entry(one.request.campaign_id).or_default() += one.amount;
            }
            let limited: Vec<_> = budgets.iter().filter_map(|(name, budget)| Some((name, (*budget)?))).collect();
            assert_eq!((budgets.len(), limited.len()), (4, 2));
            assert!(limited.iter().all(|(name, budget)| wanted[*name] / 4 < *budget && *budget < wanted[*name]));
        }
    }

    #[test]
    fn every_request_is_sent_once_and_some_in_uploads() {
        let (mut sent, mut uploads) = (0, 0);
        for due in 0..=1_000 {
            while let Some(numbers) = next(sent, due, 1_000) {
                assert!(numbers.start == sent && numbers.end <= due);
                uploads += u64::from(numbers.end > numbers.start + 1);
                sent = numbers.end;
            }
        }
        assert_eq!((sent, uploads), (1_000, 2));
        assert_eq!(
            next(UPLOAD * 5, UPLOAD * 5 + 7, UPLOAD * 5 + 7),
            Some(UPLOAD * 5..UPLOAD * 5 + 7),
            "the last is short"
        );
    }
}
