//! What a campaign is: its settings, what it has spent, and whom it pays.

use std::collections::BTreeSet;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::event::{PaymentMode, Terms};
use shared::fail_point;
use shared::finality::Finality;
use shared::id::{CampaignId, Priority, TokenAmount, UserId, WalletAddress};
use utoipa::ToSchema;

use super::event::{CampaignEvent, GrantEvent};
use super::{Grant, GrantRequest, Standing, State};

/// A campaign's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Spec {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200, example = "Summer tournament")]
    pub name: String,
    /// Whole tokens that a grant pays where the request names no amount.
    #[schema(value_type = u64, minimum = 1, maximum = 1_000_000_000, example = 100)]
    pub amount: TokenAmount,
    /// Requests before this are refused, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// Requests from this on are refused, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// Whole tokens that all grants together may pay; null for no limit.
    pub budget: Option<u64>,
    /// How many grants a user may have, failed ones not counted; null for no limit.
    pub max_grants_per_user: Option<u32>,
    /// Whom it pays.
    #[serde(default)]
    pub eligibility: Eligibility,
    /// Whom the allow list or block list names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub listed_users: BTreeSet<UserId>,
    /// Whether it pays now.
    #[serde(default)]
    pub state: CampaignState,
    /// Whether its grants are minted, or claimed by the players: `mint`, where it is absent, or `claim`.
    #[serde(default, skip_serializing_if = "PaymentMode::is_mint")]
    #[schema(required = false)]
    pub mode: PaymentMode,
    /// When the block of a payment counts as final: a number of blocks, `safe` or `finalized`. Null for the blockchain
    /// service's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "finalized")]
    pub finality: Option<Finality>,
    /// Grants of a higher priority are paid first; 0 is ordinary.
    #[serde(default)]
    #[schema(value_type = u8, minimum = 0, maximum = 9, default = 0)]
    pub priority: Priority,
    /// The chain (EIP-155) on which it pays; null for whichever the blockchain service pays on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// The token that it pays; null for whichever the blockchain service pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$")]
    pub token: Option<WalletAddress>,
}

impl Spec {
    /// Whether it depends on `listed_users` who is paid.
    #[must_use]
    pub fn has_list(&self) -> bool {
        self.eligibility != Eligibility::Open
    }

    /// What a campaign is that nobody has made, where such may be used.
    #[must_use]
    pub fn of_first_use(campaign_id: &CampaignId) -> Self {
        Self {
            name: campaign_id.to_string(),
            amount: TokenAmount::DEFAULT,
            starts_at: None,
            ends_at: None,
            budget: None,
            max_grants_per_user: Some(1),
            eligibility: Eligibility::default(),
            listed_users: BTreeSet::new(),
            state: CampaignState::default(),
            mode: PaymentMode::default(),
            finality: None,
            priority: Priority::default(),
            chain_id: None,
            token: None,
        }
    }

    /// How its grants are to be paid.
    #[must_use]
    pub fn terms(&self, expires_at: Option<DateTime<Utc>>) -> Terms {
        let Self { mode, finality, priority, chain_id, token, .. } = self;
        Terms { mode: *mode, expires_at, priority: *priority, finality: *finality, chain_id: *chain_id, token: *token }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $rule:literal: $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The word that is stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($rule),
                }
            }
        }
    };
}

words! {
    /// Whom a campaign pays.
    Eligibility, "must be open, allow_list or block_list":
    /// Everybody.
    #[default]
    Open = "open",
    /// Those in `listed_users` only.
    AllowList = "allow_list",
    /// All but those in `listed_users`.
    BlockList = "block_list",
}

words! {
    /// Whether a campaign pays.
    CampaignState, "must be draft, active, paused or ended":
    /// Not yet.
    Draft = "draft",
    /// It does.
    #[default]
    Active = "active",
    /// Not for now.
    Paused = "paused",
    /// Never again.
    Ended = "ended",
}

/// A campaign and what has become of its grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// Its name for programs.
    pub campaign_id: CampaignId,
    /// Its settings. Those that a store keeps do not name the listed users.
    pub spec: Spec,
    /// What it has promised and paid.
    pub tally: Tally,
    /// When it was made, UTC.
    pub created_at: DateTime<Utc>,
    /// When its settings were last changed, UTC.
    pub updated_at: DateTime<Utc>,
}

/// What a campaign has promised and paid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Grants that were accepted.
    pub grants: u64,
    /// Grants that were paid.
    pub completed: u64,
    /// Grants that will not be paid: failed, expired, cancelled.
    pub failed: u64,
    /// Whole tokens of all grants.
    pub requested_tokens: u64,
    /// Whole tokens of grants under way: promised and not paid yet.
    pub reserved: u64,
    /// Whole tokens that were paid.
    pub spent: u64,
    /// Users that ever had a grant.
    pub users: u64,
    /// Gas that the payments took.
    pub gas_used: u64,
    /// What that gas cost, in wei.
    pub fee: u128,
    /// Microseconds from request to completion, of all completed grants together.
    pub mint_micros: u64,
    /// When anything last happened to one of its grants.
    pub last_activity: Option<DateTime<Utc>>,
    /// Grants that can be claimed, and were not yet.
    pub claimable: u64,
    /// The entry of the ledger that made a grant claimable last.
    pub newest_claimable: Option<u64>,
}

impl Campaign {
    /// A campaign that is made with these settings.
    #[must_use]
    pub fn new(campaign_id: CampaignId, spec: Spec, at: DateTime<Utc>) -> Self {
        Self { campaign_id, spec, tally: Tally::default(), created_at: at, updated_at: at }
    }

    /// Whole tokens that may still be promised; `None` for as many as you like.
    #[must_use]
    pub fn budget_left(&self) -> Option<u64> {
        Some(self.spec.budget?.saturating_sub(self.tally.reserved + self.tally.spent))
    }

    /// What an event does to the campaign.
    pub fn apply(&mut self, event: &CampaignEvent, at: DateTime<Utc>) {
        if let CampaignEvent::Created(specified) | CampaignEvent::Changed(specified) = event {
            self.spec = specified.spec.clone();
            self.updated_at = at;
        }
    }

    /// Whether this request may have a grant, which `user` says what is known of its user here.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn admit(
        &self,
        request: &GrantRequest,
        expires_at: Option<DateTime<Utc>>,
        user: &Participant,
        is_listed: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let Spec { state, starts_at, ends_at, eligibility, max_grants_per_user, mode, .. } = &self.spec;
        if *state != CampaignState::Active {
            return Err(Refusal::NotActive(*state));
        }
        if let Some(starts_at) = starts_at.filter(|starts_at| now < *starts_at) {
            return Err(Refusal::NotStarted { starts_at });
        }
        if let Some(ends_at) = ends_at.filter(|ends_at| now >= *ends_at) {
            return Err(Refusal::Over { ends_at });
        }
        let is_eligible = match eligibility {
            Eligibility::Open => true,
            Eligibility::AllowList => is_listed,
            Eligibility::BlockList => !is_listed,
        };
        if !is_eligible {
            return Err(Refusal::NotEligible);
        }
        if *mode == PaymentMode::Claim && expires_at.is_some() {
            return Err(Refusal::ClaimsDoNotExpire);
        }
        if let Some(limit) = max_grants_per_user.filter(|limit| user.standing >= u64::from(*limit)) {
            return Err(Refusal::UserLimit { limit });
        }
        match self.budget_left() {
            _ if fail_point::switched("budget_ignored") => Ok(()),
            Some(left) if left < request.token_amount.whole_tokens() => Err(Refusal::Budget { left }),
            _ => Ok(()),
        }
    }
}

/// What is known of a user in a campaign.
#[derive(Debug, Clone, Default)]
pub struct Participant {
    /// How many grants there are, failed ones too.
    pub grants: u64,
    /// How many of them are under way or paid.
    pub standing: u64,
    /// The newest of those, or the newest of all, where there is none.
    pub latest: Option<Grant>,
}

/// Why a campaign grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kill switch is engaged.
    #[error("all payments are stopped for now")]
    Stopped,
    /// There is no such campaign, and none is made by its first use.
    #[error("there is no such campaign; make it with PUT /campaigns/{{campaign_id}}")]
    UnknownCampaign,
    /// It does not pay now.
    #[error("the campaign is {}", .0.as_str())]
    NotActive(CampaignState),
    /// It is too early.
    #[error("the campaign starts at {}", rfc3339(starts_at))]
    NotStarted {
        /// When it will not be.
        starts_at: DateTime<Utc>,
    },
    /// It is too late.
    #[error("the campaign was over at {}", rfc3339(ends_at))]
    Over {
        /// Since when.
        ends_at: DateTime<Utc>,
    },
    /// The user is not on the allow list, or is on the block list.
    #[error("the campaign does not pay this user")]
    NotEligible,
    /// It is to expire, and what can be claimed cannot be taken back.
    #[error("the grants of this campaign are claimed by the players, and do not expire: leave expires_at out")]
    ClaimsDoNotExpire,
    /// The user has as many grants as anybody may have.
    #[error("the user has {limit} grants of this campaign, and may not have more")]
    UserLimit {
        /// How many that is.
        limit: u32,
    },
    /// What is left of the budget is less than the amount.
    #[error("{left} tokens are left of the campaign's budget")]
    Budget {
        /// Whole tokens.
        left: u64,
    },
}

fn rfc3339(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

impl Tally {
    /// What an event, the ledger's entry of this number, did to a grant: `before` is `None` where it made it.
    pub fn see(&mut self, before: Option<&Grant>, after: &Grant, event: &GrantEvent, at: DateTime<Utc>, sequence: u64) {
        let tokens = after.request.token_amount.whole_tokens();
        if before.is_none() {
            self.grants += 1;
            self.requested_tokens += tokens;
            self.users += u64::from(after.user_grant_number == 1);
        }
        let (left, entered) = (before.map(|grant| grant.state.standing()), after.state.standing());
        if left != Some(entered) {
            match left {
                Some(Standing::UnderWay) => take(&mut self.reserved, tokens),
                Some(Standing::Paid) => {
                    take(&mut self.spent, tokens);
                    take(&mut self.completed, 1);
                }
                Some(Standing::Unpaid) => take(&mut self.failed, 1),
                None => {}
            }
            match entered {
                Standing::UnderWay => self.reserved += tokens,
                Standing::Paid => {
                    self.spent += tokens;
                    self.completed += 1;
                    self.mint_micros += after.mint_micros().unwrap_or(0);
                }
                Standing::Unpaid => self.failed += 1,
            }
            if let (Standing::Paid, GrantEvent::Completed(completed)) = (entered, event) {
                let gas_used = completed.gas_used.unwrap_or(0);
                self.gas_used += gas_used;
                self.fee += u128::from(gas_used) * u128::from(completed.gas_price.unwrap_or(0));
            }
        }
        let is_claimable = |grant: &Grant| grant.state == State::Claimable;
        match (before.is_some_and(is_claimable), is_claimable(after)) {
            (false, true) => (self.claimable, self.newest_claimable) = (self.claimable + 1, Some(sequence)),
            (true, false) => take(&mut self.claimable, 1),
            _ => {}
        }
        self.last_activity = self.last_activity.max(Some(at));
    }
}

/// Takes from a count. It holds as much, unless somebody has changed the tables by hand: then it is wrong until they are
/// rebuilt, and that must not keep anybody's result from being recorded.
fn take(count: &mut u64, tokens: u64) {
    *count = count.saturating_sub(tokens);
}
