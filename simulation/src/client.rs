//! Studios' servers: what they have asked for, what they were answered, and what they ask again.

use std::collections::BTreeMap;

use alloy::primitives::Address;
use axum::body::Body;
use axum::http::Request;
use serde::Deserialize;
use serde_json::json;

use crate::chain::contracts::{REFUSED, wallet_of};
use crate::check::{Rule, Violation, violation};
use crate::dice::Dice;
use crate::services::Answer;

/// A grant that a client wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Who is to be paid.
    pub user: String,
    /// For which campaign.
    pub campaign: String,
    /// Whole tokens.
    pub tokens: u64,
    /// Where to, as the client writes it.
    pub wallet: Option<Address>,
    /// Its name for the request.
    key: Option<String>,
    /// The grant that it was answered with.
    pub request_id: Option<String>,
    /// Whether the budget did not allow it when it was asked for last.
    is_refused: bool,
}

impl Wish {
    /// The account that is to hold the tokens.
    #[must_use]
    pub fn recipient(&self) -> Address {
        self.wallet.unwrap_or_else(|| wallet_of(&self.user))
    }

    fn is_answered(&self) -> bool {
        self.request_id.is_some() || self.is_refused
    }
}

/// What a request tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// To get the wish of this number.
    Wish(usize),
    /// To get something else under the key of this one: refused with 422.
    OtherUnderKey(usize),
    /// To get another amount for the user and campaign of this one: refused with 409.
    OtherAmount(usize),
}

/// All clients together.
#[derive(Debug, Default)]
pub struct Clients {
    wishes: Vec<Wish>,
    by_request: BTreeMap<String, usize>,
    budgets: [Option<u64>; CAMPAIGNS.len()],
    /// Whether the grants of the last campaign are claimed.
    claims: bool,
}

/// Requests that are sent at the same time.
#[derive(Debug)]
pub struct Burst {
    /// What each of them tries.
    pub attempts: Vec<Attempt>,
    /// The requests.
    pub requests: Vec<Request<Body>>,
}

/// What the answers to a burst come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// New grants.
    pub granted: u64,
    /// Requests that a campaign's budget does not allow.
    pub refused: u64,
}

/// What one answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Granted,
    Refused,
    Nothing,
}

/// The campaigns there are.
pub const CAMPAIGNS: [&str; 3] = ["spring", "summer", "autumn"];

impl Clients {
    /// Those of campaigns with these budgets; the grants of the last one may be claimed.
    #[must_use]
    pub fn new(budgets: [Option<u64>; CAMPAIGNS.len()], claims: bool) -> Self {
        Self { budgets, claims, ..Self::default() }
    }

    /// Whether the grants of a campaign are claimed.
    fn is_claimed(&self, campaign: &str) -> bool {
        self.claims && CAMPAIGNS.last() == Some(&campaign)
    }

    /// The wishes whose grants are claimed.
    pub fn claims(&self) -> impl Iterator<Item = &Wish> {
        self.wishes.iter().filter(|wish| wish.request_id.is_some() && self.is_claimed(&wish.campaign))
    }

    /// Whole tokens that a campaign may pay; `None` for as many as you like.
    #[must_use]
    pub fn budget_of(&self, campaign: &str) -> Option<u64> {
        CAMPAIGNS.iter().zip(self.budgets).find_map(|(name, budget)| budget.filter(|_| *name == campaign))
    }

    /// The requests that make the campaigns which have a budget, or whose grants are claimed. The others are made by their
    /// first use.
    #[must_use]
    pub fn campaigns(&self) -> Vec<Request<Body>> {
        let is_made = |campaign: &&str| self.budget_of(campaign).is_some() || self.is_claimed(campaign);
        CAMPAIGNS.into_iter().filter(is_made).map(|campaign| self.settings(campaign, campaign)).collect()
    }

    /// Gives a campaign this name. What is not mentioned becomes what it is by itself.
    fn settings(&self, campaign: &str, name: &str) -> Request<Body> {
        let mode = if self.is_claimed(campaign) { "claim" } else { "mint" };
        let settings = json!({ "name": name, "amount": 100, "budget": self.budget_of(campaign), "mode": mode });
        put(format!("/campaigns/{campaign}"), &settings)
    }

    /// Everything that was ever wished for.
    #[must_use]
    pub fn wishes(&self) -> &[Wish] {
        &self.wishes
    }

    /// The wish that was answered with this grant.
    #[must_use]
    pub fn wish_of(&self, request_id: &str) -> Option<&Wish> {
        self.by_request.get(request_id).map(|place| &self.wishes[*place])
    }

    /// Whether every wish has an answer.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.wishes.iter().all(Wish::is_answered)
    }

    /// Up to so many requests, most of them for something new.
    pub fn ask(&mut self, dice: &mut Dice, at_most: u64) -> Burst {
        let count = 1 + dice.below(at_most);
        let mut burst = Burst { attempts: vec![], requests: vec![] };
        for _ in 0..count {
            let attempt = match dice.below(20) {
                0 | 1 if !self.wishes.is_empty() => Attempt::Wish(dice.place(self.wishes.len())),
                2 => match self.pick(dice, |wish| wish.request_id.is_some() && wish.key.is_some()) {
                    Some(place) => Attempt::OtherUnderKey(place),
                    None => continue,
                },
                3 => match self.pick(dice, |wish| wish.request_id.is_some()) {
                    Some(place) => Attempt::OtherAmount(place),
                    None => continue,
                },
                _ => Attempt::Wish(self.wish(dice)),
            };
            if let Attempt::Wish(place) = attempt {
                self.wishes[place].is_refused = false;
            }
            burst.requests.push(self.request(attempt, dice));
            burst.attempts.push(attempt);
        }
        burst
    }

    /// What somebody orders: requests that are sent one after the other.
    ///
    /// # Panics
    ///
    /// Never: paths and bodies are ours.
    pub fn order(&mut self, dice: &mut Dice) -> Vec<Request<Body>> {
        match dice.below(6) {
            0 => {
                // Engaged and released: what the service does in between, or when it dies there, is its business.
                let switch = |engaged: bool| put("/kill-switch".to_owned(), &json!({ "engaged": engaged }));
                vec![switch(true), switch(false)]
            }
            1 => {
                let campaign = CAMPAIGNS[dice.place(CAMPAIGNS.len())];
                vec![self.settings(campaign, &format!("{campaign} {}", dice.below(3)))]
            }
            2 => vec![self.upload(dice)],
            _ => {
                let cancel = |wish: &Wish| {
                    let path = format!("/grants/{}", wish.request_id.as_ref()?);
                    Request::delete(path).body(Body::empty()).ok()
                };
                let place = self.pick(dice, |wish| wish.request_id.is_some());
                place.and_then(|place| cancel(&self.wishes[place])).into_iter().collect()
            }
        }
    }

    /// New wishes, all in one upload: they are answered when they are asked for again.
    fn upload(&mut self, dice: &mut Dice) -> Request<Body> {
        let mut body = String::new();
        for _ in 0..=dice.below(40) {
            let place = self.wish(dice);
            let Wish { user, campaign, tokens, wallet, key, .. } = &self.wishes[place];
            let line = json!({
                "user_id": user, "campaign_id": campaign, "token_amount": tokens, "wallet_address": wallet,
                "idempotency_key": key,
            });
            body.push_str(&line.to_string());
            body.push('\n');
        }
        let request = Request::post("/token-requests/bulk").header("content-type", "application/x-ndjson");
        request.body(Body::from(body)).expect("it is a request")
    }

    /// The requests that were not answered, again.
    pub fn ask_again(&mut self, dice: &mut Dice) -> Burst {
        let open = (0..self.wishes.len()).filter(|place| !self.wishes[*place].is_answered());
        let attempts: Vec<_> = open.map(Attempt::Wish).collect();
        let requests = attempts.iter().map(|attempt| self.request(*attempt, dice)).collect();
        Burst { attempts, requests }
    }

    fn pick(&self, dice: &mut Dice, fits: impl Fn(&Wish) -> bool) -> Option<usize> {
        let start = dice.place(self.wishes.len());
        (start..self.wishes.len()).find(|place| fits(&self.wishes[*place]))
    }

    fn wish(&mut self, dice: &mut Dice) -> usize {
        let number = self.wishes.len();
        let wallet = match dice.below(8) {
            0 => {
                let mut wallet = [0; 20];
                wallet[12..].copy_from_slice(&dice.number().to_be_bytes());
                wallet[..8].copy_from_slice(&dice.number().to_be_bytes());
                Some(Address::from(wallet))
            }
            // Several users share a wallet.
            1 => Some(Address::repeat_byte(1 + u8::try_from(dice.below(5)).expect("it is small"))),
            2 if dice.below(4) == 0 => {
                let mut wallet = Address::repeat_byte(0x11);
                wallet.0[..2].copy_from_slice(&REFUSED);
                Some(wallet)
            }
            _ => None,
        };
        let campaign = CAMPAIGNS[dice.place(CAMPAIGNS.len())].to_owned();
        // A claim for a wallet that the token refuses would be refused for ever.
        let is_payable = |wallet: &Address| !self.is_claimed(&campaign) || wallet[..2] != REFUSED;
        let wallet = wallet.filter(is_payable);
        self.wishes.push(Wish {
            user: format!("user-{number}"),
            campaign,
            tokens: 1 + dice.below(1000),
            wallet,
            key: (dice.below(2) == 0).then(|| format!("key-{number}")),
            request_id: None,
            is_refused: false,
        });
        number
    }

    fn request(&self, attempt: Attempt, dice: &mut Dice) -> Request<Body> {
        let (Attempt::Wish(place) | Attempt::OtherUnderKey(place) | Attempt::OtherAmount(place)) = attempt;
        let mut wish = self.wishes[place].clone();
        match attempt {
            // By its key or by its nature, where it has been answered: then it is known by both.
            Attempt::Wish(_) if wish.request_id.is_some() && dice.below(2) == 0 => wish.key = None,
            Attempt::Wish(_) => {}
            Attempt::OtherUnderKey(_) => wish.user.push_str("-other"),
            Attempt::OtherAmount(_) => {
                wish.tokens += 1;
                wish.key = None;
            }
        }
        let Wish { user, campaign, tokens, wallet, key, .. } = wish;
        let mut request = Request::post("/token-request");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if dice.below(2) == 0 {
            let body =
                json!({"user_id": user, "campaign_id": campaign, "token_amount": tokens, "wallet_address": wallet});
            request.header("content-type", "application/json").body(Body::from(body.to_string()))
        } else {
            let wallet = wallet.map(|wallet| format!("&wallet_address={wallet}")).unwrap_or_default();
            let query = format!("?user_id={user}&campaign_id={campaign}&token_amount={tokens}{wallet}");
            request.uri(format!("/token-request{query}")).body(Body::empty())
        }
        .expect("it is a request")
    }

    /// Takes the answers in.
    ///
    /// # Errors
    ///
    /// When one of them is not what it has to be.
    pub fn hear(&mut self, attempts: &[Attempt], answers: &[Answer]) -> Result<Heard, Violation> {
        let mut heard = Heard::default();
        for (attempt, answer) in attempts.iter().zip(answers) {
            match self.hear_one(*attempt, answer)? {
                News::Granted => heard.granted += 1,
                News::Refused => heard.refused += 1,
                News::Nothing => {}
            }
        }
        Ok(heard)
    }

    fn hear_one(&mut self, attempt: Attempt, answer: &Answer) -> Result<News, Violation> {
        #[derive(Deserialize)]
        struct Grant {
            request_id: String,
        }
        let status = answer.status.as_u16();
        let body = String::from_utf8_lossy(&answer.body);
        let wrong = |place: usize| {
            violation(Rule::Answer, format!("{attempt:?} of user-{place} was answered with {status}: {body}"))
        };
        if status == 503 && body.contains("urn:problem-type:stopped") {
            return Ok(News::Nothing);
        }
        let place = match attempt {
            Attempt::Wish(place) if matches!(status, 200 | 202) => place,
            Attempt::Wish(place)
                if status == 409
                    && body.contains("urn:problem-type:budget-exhausted")
                    && self.wishes[place].request_id.is_none() =>
            {
                return self.hear_refusal(place);
            }
            Attempt::OtherUnderKey(_) if status == 422 => return Ok(News::Nothing),
            Attempt::OtherAmount(_) if status == 409 => return Ok(News::Nothing),
            Attempt::Wish(place) | Attempt::OtherUnderKey(place) | Attempt::OtherAmount(place) => {
                return Err(wrong(place));
            }
        };
        let grant: Grant = serde_json::from_slice(&answer.body).map_err(|_| wrong(place))?;
        match &self.wishes[place].request_id {
            Some(earlier) if *earlier != grant.request_id || status == 202 => Err(wrong(place)),
            Some(_) => Ok(News::Nothing),
            None => {
                self.by_request.insert(grant.request_id.clone(), place);
                self.wishes[place].request_id = Some(grant.request_id);
                Ok(if status == 202 { News::Granted } else { News::Nothing })
            }
        }
    }

    /// The budget does not allow a wish. All others of the campaign together must have been able to use it up: those that
    /// were granted, and those of which nobody knows.
    fn hear_refusal(&mut self, place: usize) -> Result<News, Violation> {
        let Wish { campaign, user, tokens, .. } = &self.wishes[place];
        let is_possible =
            |(other, wish): &(usize, &Wish)| *other != place && wish.campaign == *campaign && !wish.is_refused;
        let others: u64 = self.wishes.iter().enumerate().filter(is_possible).map(|(_, wish)| wish.tokens).sum();
        let budget = self.budget_of(campaign);
        if budget.is_none_or(|budget| others + tokens <= budget) {
            let what = format!("{tokens} tokens of {campaign} for {user} were refused, whose budget is {budget:?}");
            return Err(violation(Rule::Budget, format!("{what}, and {others} at most were promised to others")));
        }
        self.wishes[place].is_refused = true;
        Ok(News::Refused)
    }
}

fn put(path: String, body: &serde_json::Value) -> Request<Body> {
    let request = Request::put(path).header("content-type", "application/json");
    request.body(Body::from(body.to_string())).expect("it is a request")
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    /// Clients of a campaign with this budget, who want so many tokens each.
    fn clients(budget: u64, wishes: &[u64]) -> Clients {
        let mut clients = Clients::new([Some(budget), None, None], false);
        let mut dice = Dice::new(1);
        for tokens in wishes {
            let place = clients.wish(&mut dice);
            (clients.wishes[place].campaign, clients.wishes[place].tokens) = (CAMPAIGNS[0].to_owned(), *tokens);
        }
        clients
    }

    fn answer(
        clients: &mut Clients,
        place: usize,
        status: StatusCode,
        body: &serde_json::Value,
    ) -> Result<News, Violation> {
        clients.hear_one(Attempt::Wish(place), &Answer { status, body: body.to_string().into() })
    }

    fn refuse(clients: &mut Clients, place: usize) -> Result<News, Violation> {
        answer(clients, place, StatusCode::CONFLICT, &json!({ "type": "urn:problem-type:budget-exhausted" }))
    }

    #[test]
    fn a_refusal_is_right_only_if_the_budget_can_have_run_out() {
        assert!(refuse(&mut clients(100, &[60, 60]), 0).is_ok(), "nobody knows of the other one");
        assert_eq!(refuse(&mut clients(100, &[60, 40]), 0).unwrap_err().rule, Rule::Budget);
        let mut clients = clients(100, &[60, 60, 60]);
        refuse(&mut clients, 0).unwrap();
        refuse(&mut clients, 1).unwrap();
        assert_eq!(refuse(&mut clients, 2).unwrap_err().rule, Rule::Budget, "nobody had it");
    }

    #[test]
    fn what_was_granted_cannot_be_refused_any_more() {
        let mut clients = clients(100, &[60, 60]);
        answer(&mut clients, 0, StatusCode::ACCEPTED, &json!({ "request_id": "one" })).unwrap();
        assert_eq!(refuse(&mut clients, 0).unwrap_err().rule, Rule::Answer);
        assert!(!clients.all_answered());
        refuse(&mut clients, 1).unwrap();
        assert!(clients.all_answered());
    }
}
