//! Requests that go to one replica after the other, each until one of them answers; and what must have come of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use alloy::primitives::{Address, keccak256};
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde_json::{Value, json};
use testkit::{
    Answer, CampaignClient, GrantRequest, Service, Stack, Which, base_units,
    chaos::audit::{Campaign, Claims, End, OnChain, Promised, Verdict},
    until,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Whole tokens that a grant pays.
const AMOUNT: u64 = 10;

/// Each has many grants, which nothing but their keys tells apart.
const USERS: u64 = 40;

/// A campaign without a limit, and one whose budget is enough for half of what is asked of it: every fourth request.
const OPEN: &str = "open";
const LIMITED: &str = "limited";
const LIMITED_EVERY: u64 = 4;

/// Every how many requests one is sent to two replicas at once.
const TWICE_EVERY: u64 = 10;

/// How long a request may remain without an answer, and grants without an end, on a machine that is busy with other tests.
const AT_LAST: Duration = Duration::from_mins(2);

/// How long a client waits for an answer before it asks another replica.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits before that: twice as long each time, up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// Requests, by numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    per_second: u32,
    all: u64,
}

/// What was answered: the numbers of the requests that were granted, by the grant's id, and of those that were refused.
#[derive(Debug)]
pub(super) struct Answers {
    granted: BTreeMap<String, u64>,
    refused: Vec<u64>,
    retries: usize,
}

impl Load {
    pub(super) fn new(per_second: u32, length: Duration) -> Self {
        Self { per_second, all: u64::from(per_second) * length.as_secs() }
    }

    /// The campaigns that must be made before, by name.
    pub(super) fn campaigns(self) -> [(&'static str, Value); 2] {
        let settings = |budget: Option<u64>| json!({ "name": "Replicas", "amount": AMOUNT, "budget": budget, "max_grants_per_user": null });
        [(OPEN, settings(None)), (LIMITED, settings(Some(self.budget())))]
    }

    fn budget(self) -> u64 {
        self.all / LIMITED_EVERY / 2 * AMOUNT
    }

    /// Sends all requests, each when it is due, and waits for their answers.
    pub(super) async fn run(self, stack: &Stack) -> Result<Answers> {
        let clients: Vec<_> = stack
            .replicas(Which::Campaign)
            .map(|replica| CampaignClient::new(replica.url()).waiting(PATIENCE))
            .collect();
        let (clients, retries) = (&clients, &AtomicUsize::new(0));
        let began = Instant::now();
        let answered = try_join_all((0..self.all).map(|n| async move {
            sleep_until(began + Duration::from_secs(n) / self.per_second).await;
            let asked = timeout(AT_LAST, grant(clients, n, retries)).await;
            anyhow::Ok((n, asked.with_context(|| format!("nobody answered request {n}"))??))
        }))
        .await?;
        let mut answers =
            Answers { granted: BTreeMap::new(), refused: Vec::new(), retries: retries.load(Ordering::Relaxed) };
        for (n, id) in answered {
            match id {
                None => answers.refused.push(n),
                Some(id) => {
                    let other = answers.granted.insert(id.clone(), n);
                    ensure!(other.is_none(), "{id} is the answer to {n} and {other:?}");
                }
            }
        }
        Ok(answers)
    }

    /// Waits until no campaign has grants under way.
    pub(super) async fn until_quiet(self, stack: &Stack) -> Result<()> {
        let client = stack.campaign_client();
        for (name, _) in self.campaigns() {
            until(AT_LAST, &format!("the grants of {name} to end"), async || {
                client.campaign(name).await.ok().flatten().is_some_and(|campaign| campaign.reserved == 0)
            })
            .await?;
        }
        Ok(())
    }

    /// One replica of the campaign service says of each grant that was accepted that it is completed, and knows no other;
    /// each was paid once, and the campaigns have spent what was paid.
    pub(super) async fn assert_paid_exactly_once(
        self,
        stack: &Stack,
        replica: &Service,
        answers: &Answers,
    ) -> Result<()> {
        let client = &CampaignClient::new(replica.url());
        let users = stream::iter(0..USERS).map(|user| async move { client.grants_of(&user_name(user)).await });
        let grants: Vec<_> = users.buffer_unordered(4).try_concat().await?;
        let mut grants: BTreeMap<_, _> = grants.into_iter().map(|grant| (grant.request_id.clone(), grant)).collect();
        let mut promised: Vec<_> =
            answers.granted.iter().map(|(id, n)| promise(id, *n, End::of(grants.remove(id)))).collect();
        promised.extend(answers.refused.iter().map(|n| promise("refused", *n, End::Refused)));
        assert_eq!(grants.into_keys().collect::<Vec<_>>(), [""; 0], "nobody was told of these");

        let mut campaigns = Vec::new();
        for (name, settings) in self.campaigns() {
            let told = client.campaign(name).await?.with_context(|| format!("{name} is gone"))?;
            let (budget, most) = (settings["budget"].as_u64(), told.reserved + told.spent);
            campaigns.push(Campaign {
                name: name.to_owned(),
                budget,
                most,
                reserved: told.reserved,
                spent: told.spent,
            });
        }
        let (payments, supply) = tokio::try_join!(stack.chain.payments(), stack.chain.total_supply())?;
        let claims = Claims { promised, campaigns, restored: false };
        let verdict = Verdict::of(&claims, &OnChain { payments, supply, balances: BTreeMap::new() });
        assert!(verdict.is_good() && verdict.failed.is_empty(), "{}: {verdict:#?}", replica.url());
        assert_eq!(verdict.completed, answers.granted.len());
        // As many as the budget allows: none is lost on the way, and none is given away twice.
        let refused = self.all / LIMITED_EVERY - self.budget() / AMOUNT;
        assert_eq!(verdict.refused as u64, refused);
        Ok(())
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { granted, refused, retries } = self;
        write!(f, "{} granted, {} refused, asked again {retries} times", granted.len(), refused.len())
    }
}

fn user_name(user: u64) -> String {
    format!("player-{user}")
}

fn campaign_of(n: u64) -> &'static str {
    if n.is_multiple_of(LIMITED_EVERY) { LIMITED } else { OPEN }
}

/// Nobody else is paid there, so that each payment belongs to one request.
fn wallet_of(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

fn promise(request_id: &str, n: u64, end: End) -> Promised {
    Promised {
        request_id: request_id.to_owned(),
        campaign: campaign_of(n).to_owned(),
        is_unwanted: false,
        recipient: wallet_of(n),
        amount: base_units(AMOUNT),
        end,
    }
}

/// Asks for a grant; returns its id, or none if the budget does not allow it.
async fn grant(clients: &[CampaignClient], n: u64, retries: &AtomicUsize) -> Result<Option<String>> {
    let request =
        GrantRequest::new(user_name(n % USERS), campaign_of(n)).key(format!("order-{n}")).to(wallet_of(n).to_string());
    let turn = usize::try_from(n)?;
    let answer = ask(clients, &request, turn, retries);
    if !n.is_multiple_of(TWICE_EVERY) {
        return decision(&answer.await);
    }
    let (one, other) = tokio::join!(answer, ask(clients, &request, turn + 1, retries));
    let (one, other) = (decision(&one)?, decision(&other)?);
    ensure!(one == other, "{request:?} is {one:?}, and {other:?}");
    Ok(one)
}

/// Asks one replica after the other until one says what became of the request.
async fn ask(clients: &[CampaignClient], request: &GrantRequest, turn: usize, retries: &AtomicUsize) -> Answer {
    let mut replicas = clients.iter().cycle().skip(turn % clients.len());
    let [mut pause, longest] = PAUSES;
    loop {
        let client = replicas.next().expect("there is always another one");
        match client.request(request).await {
            // A time-out of the service is no decision either.
            Ok(answer) if answer.status < 500 && answer.status != 408 => return answer,
            _ => retries.fetch_add(1, Ordering::Relaxed),
        };
        sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(longest);
    }
}

fn decision(answer: &Answer) -> Result<Option<String>> {
    let is_refusal = answer.status == 409 && answer.body["type"] == "urn:problem-type:budget-exhausted";
    if is_refusal { Ok(None) } else { answer.request_id().map(Some) }
}
