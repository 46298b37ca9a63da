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
}

impl Wish {
    /// The account that is to hold the tokens.
    #[must_use]
    pub fn recipient(&self) -> Address {
        self.wallet.unwrap_or_else(|| wallet_of(&self.user))
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
}

/// Requests that are sent at the same time.
#[derive(Debug)]
pub struct Burst {
    /// What each of them tries.
    pub attempts: Vec<Attempt>,
    /// The requests.
    pub requests: Vec<Request<Body>>,
}

/// The campaigns there are.
pub const CAMPAIGNS: [&str; 3] = ["spring", "summer", "autumn"];

impl Clients {
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
        self.wishes.iter().all(|wish| wish.request_id.is_some())
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
        let json = |method: &str, path: String, body: serde_json::Value| {
            Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json")
                .body(Body::from(body.to_string()))
                .expect("it is a request")
        };
        match dice.below(6) {
            0 => {
                // Engaged and released: what the service does in between, or when it dies there, is its business.
                let switch = |engaged: bool| json("PUT", "/kill-switch".to_owned(), json!({ "engaged": engaged }));
                vec![switch(true), switch(false)]
            }
            1 => {
                let campaign = CAMPAIGNS[dice.place(CAMPAIGNS.len())];
                let settings = json!({ "name": format!("{campaign} {}", dice.below(3)), "amount": 100 });
                vec![json("PUT", format!("/campaigns/{campaign}"), settings)]
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
        let open = (0..self.wishes.len()).filter(|place| self.wishes[*place].request_id.is_none());
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
        self.wishes.push(Wish {
            user: format!("user-{number}"),
            campaign: CAMPAIGNS[dice.place(CAMPAIGNS.len())].to_owned(),
            tokens: 1 + dice.below(1000),
            wallet,
            key: (dice.below(2) == 0).then(|| format!("key-{number}")),
            request_id: None,
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

    /// Takes the answers in. Returns how many are new grants.
    ///
    /// # Errors
    ///
    /// When one of them is not what it has to be.
    pub fn hear(&mut self, attempts: &[Attempt], answers: &[Answer]) -> Result<usize, Violation> {
        let mut new = 0;
        for (attempt, answer) in attempts.iter().zip(answers) {
            new += usize::from(self.hear_one(*attempt, answer)?);
        }
        Ok(new)
    }

    fn hear_one(&mut self, attempt: Attempt, answer: &Answer) -> Result<bool, Violation> {
        #[derive(Deserialize)]
        struct Grant {
            request_id: String,
        }
        let status = answer.status.as_u16();
        let wrong = |place: usize| {
            let body = String::from_utf8_lossy(&answer.body);
            violation(Rule::Answer, format!("{attempt:?} of user-{place} was answered with {status}: {body}"))
        };
        if status == 503 && String::from_utf8_lossy(&answer.body).contains("urn:problem-type:stopped") {
            return Ok(false);
        }
        let place = match attempt {
            Attempt::Wish(place) if matches!(status, 200 | 202) => place,
            Attempt::OtherUnderKey(_) if status == 422 => return Ok(false),
            Attempt::OtherAmount(_) if status == 409 => return Ok(false),
            Attempt::Wish(place) | Attempt::OtherUnderKey(place) | Attempt::OtherAmount(place) => {
                return Err(wrong(place));
            }
        };
        let grant: Grant = serde_json::from_slice(&answer.body).map_err(|_| wrong(place))?;
        match &self.wishes[place].request_id {
            Some(earlier) if *earlier != grant.request_id || status == 202 => Err(wrong(place)),
            Some(_) => Ok(false),
            None => {
                self.by_request.insert(grant.request_id.clone(), place);
                self.wishes[place].request_id = Some(grant.request_id);
                Ok(status == 202)
            }
        }
    }
}
