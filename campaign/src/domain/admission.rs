//! What a request comes to: a new grant, a grant that is known, or a refusal.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use shared::id::{CampaignId, IdempotencyKey, RequestId, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;

use super::campaign::{Campaign, Participant, Refusal};
use super::{Grant, GrantRequest};

/// A user of a campaign: what identifies the grant of who may have one.
pub type Nature = (CampaignId, UserId);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who is to be paid.
    pub user_id: UserId,
    /// For which campaign.
    pub campaign_id: CampaignId,
    /// Where to; `None` for the wallet that belongs to the user.
    pub wallet_address: Option<WalletAddress>,
    /// How much; `None` for what the campaign pays.
    pub token_amount: Option<TokenAmount>,
    /// Not after this.
    pub expires_at: Option<DateTime<Utc>>,
    /// The caller's name for the request.
    pub key: Option<IdempotencyKey>,
    /// The trace of the HTTP request.
    pub trace: TraceParent,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A grant that did not exist.
    New(Grant),
    /// The very grant that was asked for before, by key or by nature.
    Repeat(Grant),
    /// The idempotency key belongs to a request that asked for something else.
    KeyReused {
        /// The grant of the earlier request.
        earlier: RequestId,
    },
    /// The user has a grant of this campaign already, with another amount or wallet, and may have no second one.
    AlreadyGranted {
        /// That grant.
        earlier: RequestId,
    },
    /// Nothing is granted.
    Refused(Refusal),
}

/// What is known that a batch of arrivals depends on, but for campaigns.
#[derive(Debug, Default)]
pub struct Known {
    /// Grants by idempotency key.
    pub by_key: HashMap<IdempotencyKey, Grant>,
    /// Users that have grants, by campaign and user.
    pub participants: HashMap<Nature, Participant>,
    /// Users that a campaign's list names.
    pub listed: HashSet<Nature>,
    /// Whether the kill switch is engaged.
    pub stopped: bool,
}

/// What is to be done about an arrival.
#[derive(Debug)]
pub enum Answer {
    /// A new grant is to be made of this request.
    Grant(GrantRequest, u64),
    /// It is decided.
    Decided(Box<Decision>),
}

impl Arrival {
    fn nature(&self) -> Nature {
        (self.campaign_id.clone(), self.user_id.clone())
    }

    /// What is asked for, of a campaign that pays this amount where none is named.
    fn request(&self, amount: TokenAmount) -> GrantRequest {
        GrantRequest {
            user_id: self.user_id.clone(),
            campaign_id: self.campaign_id.clone(),
            wallet_address: self.wallet_address,
            token_amount: self.token_amount.unwrap_or(amount),
        }
    }

    /// Whether this grant is what is asked for.
    fn asks_for(&self, grant: &Grant) -> bool {
        grant.request == self.request(grant.request.token_amount)
    }
}

impl Known {
    /// Decides one arrival; `campaign` is the one that it names, if there is one or its first use makes it.
    ///
    /// What was granted before is answered again, whatever has become of the campaign since.
    #[must_use]
    pub fn decide(&self, arrival: &Arrival, campaign: Option<&Campaign>, now: DateTime<Utc>) -> Answer {
        let decided = |decision| Answer::Decided(Box::new(decision));
        if let Some(earlier) = arrival.key.as_ref().and_then(|key| self.by_key.get(key)) {
            return decided(if arrival.asks_for(earlier) {
                Decision::Repeat(earlier.clone())
            } else {
                Decision::KeyReused { earlier: earlier.request_id.clone() }
            });
        }
        let refused = |refusal| decided(Decision::Refused(refusal));
        let Some(campaign) = campaign else { return refused(Refusal::UnknownCampaign) };
        let nature = arrival.nature();
        let nobody = Participant::default();
        let participant = self.participants.get(&nature).unwrap_or(&nobody);
        // Who names no key asks for the user's one grant, whatever became of it; a new key may ask for another, once nothing
        // will be paid for the last one.
        let is_meant = |_: &&Grant| participant.standing > 0 || arrival.key.is_none();
        let only_one = campaign.spec.max_grants_per_user == Some(1);
        if let Some(earlier) = participant.latest.as_ref().filter(|_| only_one).filter(is_meant) {
            return decided(if arrival.asks_for(earlier) {
                Decision::Repeat(earlier.clone())
            } else {
                Decision::AlreadyGranted { earlier: earlier.request_id.clone() }
            });
        }
        if self.stopped {
            return refused(Refusal::Stopped);
        }
        let request = arrival.request(campaign.spec.amount);
        match campaign.admit(&request, arrival.expires_at, participant, self.listed.contains(&nature), now) {
            Ok(()) => Answer::Grant(request, participant.grants + 1),
            Err(refusal) => refused(refusal),
        }
    }

    /// Remembers a decision for those behind it in the batch. Returns whether the arrival's key is new and names the
    /// grant from now on.
    pub fn remember(&mut self, arrival: &Arrival, decision: &Decision) -> bool {
        let (Decision::New(grant) | Decision::Repeat(grant)) = decision else { return false };
        if matches!(decision, Decision::New(_)) {
            let participant = self.participants.entry(arrival.nature()).or_default();
            participant.grants += 1;
            participant.standing += 1;
            participant.latest = Some(grant.clone());
        }
        let Some(key) = &arrival.key else { return false };
        self.by_key.insert(key.clone(), grant.clone()).is_none()
    }
}
