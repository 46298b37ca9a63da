//! `/campaigns`: made, changed and shown.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::clock::Clock;
use shared::event::PaymentMode;
use shared::finality::Finality;
use shared::http::fields::{Fields, Limit, Nullable, Remark, Time};
use shared::http::{Error, FieldError, Problem};
use shared::id::{Actor, CampaignId, InvalidId, Priority, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;
use utoipa::{IntoParams, ToSchema};

use super::Trace;
use crate::domain::campaign::{Campaign, CampaignState, Eligibility, Spec};
use crate::operator::{Operator, Order};
use crate::store::{Change, Statistics, Store};

/// The most bytes that the settings of a campaign may have.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The most users that a campaign's list names.
const MAX_LISTED: usize = 10_000;

/// A campaign as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shown {
    /// Its name for programs.
    #[schema(value_type = String, example = "summer")]
    campaign_id: CampaignId,
    #[serde(flatten)]
    spec: Spec,
    /// Whole tokens of grants under way.
    reserved: u64,
    /// Whole tokens that were paid.
    spent: u64,
    /// Whole tokens that may still be promised; null for no limit.
    budget_left: Option<u64>,
    /// When it was made, UTC.
    created_at: DateTime<Utc>,
    /// When its settings were last changed, UTC.
    updated_at: DateTime<Utc>,
}

impl From<Campaign> for Shown {
    fn from(campaign: Campaign) -> Self {
        let budget_left = campaign.budget_left();
        let Campaign { campaign_id, spec, tally, created_at, updated_at } = campaign;
        Self { campaign_id, spec, reserved: tally.reserved, spent: tally.spent, budget_left, created_at, updated_at }
    }
}

/// Settings as they are asked for: what is absent stays as it is, what is null becomes what it is by itself.
#[derive(Debug, Default, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Settings {
    /// What people call it, 1 to 200 bytes. Required to make a campaign.
    #[schema(example = "Summer tournament")]
    name: Option<String>,
    /// Whole tokens that a grant pays where the request names no amount. Required to make a campaign.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000, example = 100)]
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1_000_000_000, example = 100)]
    amount: Option<TokenAmount>,
    /// Requests before this are refused, UTC; null for no such time.
    #[schema(value_type = Option<DateTime<Utc>>)]
    #[param(value_type = Option<DateTime<Utc>>)]
    starts_at: Nullable<Time>,
    /// Requests from this on are refused, UTC; null for no such time.
    #[schema(value_type = Option<DateTime<Utc>>)]
    #[param(value_type = Option<DateTime<Utc>>)]
    ends_at: Nullable<Time>,
    /// Whole tokens that all grants together may pay; null for no limit.
    #[schema(value_type = Option<u64>, minimum = 0)]
    #[param(value_type = Option<u64>, minimum = 0)]
    budget: Nullable<Tokens>,
    /// How many grants a user may have, failed ones not counted; null for no limit. 1 where nothing is said.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[param(value_type = Option<u32>, minimum = 1)]
    max_grants_per_user: Nullable<GrantLimit>,
    /// Whom it pays: `open`, `allow_list` or `block_list`.
    #[schema(value_type = Option<String>, example = "open")]
    #[param(value_type = Option<String>, example = "open")]
    eligibility: Option<Eligibility>,
    /// Whom the list names, in place of those whom it named before: at most 10,000, in a body.
    #[schema(value_type = Option<Vec<String>>)]
    #[param(value_type = Option<Vec<String>>)]
    listed_users: Option<Vec<UserId>>,
    /// Whether it pays now: `draft`, `active`, `paused` or `ended`. An ended campaign stays so.
    #[schema(value_type = Option<String>, example = "active")]
    #[param(value_type = Option<String>, example = "active")]
    state: Option<CampaignState>,
    /// `mint`, or `claim`: its grants are not minted, and players claim them. What was granted before stays as it was.
    #[schema(value_type = Option<String>, example = "mint")]
    #[param(value_type = Option<String>, example = "mint")]
    mode: Option<PaymentMode>,
    /// When the block of a payment counts as final: a number of blocks, `safe` or `finalized`; null for the blockchain
    /// service's own setting.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    finality: Nullable<Finality>,
    /// Grants of a higher priority are paid first; 0 is ordinary.
    #[schema(value_type = Option<u8>, maximum = 9)]
    #[param(value_type = Option<u8>, maximum = 9)]
    priority: Option<Priority>,
    /// The chain (EIP-155) on which it pays; null for whichever the blockchain service pays on.
    #[schema(value_type = Option<u64>)]
    #[param(value_type = Option<u64>)]
    chain_id: Nullable<ChainId>,
    /// The token that it pays; null for whichever the blockchain service pays.
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$")]
    #[param(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$")]
    token: Nullable<WalletAddress>,
    /// Who changes it, for the ledger.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    changed_by: Option<Actor>,
    /// Why, for the ledger.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    reason: Option<Remark>,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($number:ty), $range:pat, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        struct $name($number);

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text.parse() {
                    Ok(number @ $range) => Ok(Self(number)),
                    _ => Err($rule),
                }
            }
        }
    };
}

number! {
    /// Whole tokens of a budget. Sums of several stay below 2^63.
    Tokens(u64), 0..=1_000_000_000_000_000, "must be a whole number of tokens from 0 to 1000000000000000, or null"
}
number! {
    /// How many grants a user may have.
    GrantLimit(u32), 1.., "must be a number from 1 on, or null"
}
number! {
    /// A chain's number.
    ChainId(u64), 1.., "must be a number from 1 on, or null"
}

/// What people call a campaign.
struct Name(String);

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.trim().is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned())).ok_or("must be 1 to 200 bytes without control characters")
    }
}

impl Settings {
    /// Reads all that is asked for.
    fn read(fields: &mut Fields) -> Self {
        Self {
            name: fields.optional::<Name>("name").map(|name| name.0),
            amount: fields.optional_number("amount"),
            starts_at: fields.nullable("starts_at"),
            ends_at: fields.nullable("ends_at"),
            budget: fields.nullable("budget"),
            max_grants_per_user: fields.nullable("max_grants_per_user"),
            eligibility: fields.optional("eligibility"),
            listed_users: fields.optional_list("listed_users"),
            state: fields.optional("state"),
            mode: fields.optional("mode"),
            finality: fields.nullable("finality"),
            priority: fields.optional_number("priority"),
            chain_id: fields.nullable("chain_id"),
            token: fields.nullable("token"),
            changed_by: fields.optional("changed_by"),
            reason: fields.optional("reason"),
        }
    }

    /// Who asks for them, and why.
    fn order(&self, trace: TraceParent) -> Order {
        Order { by: self.changed_by.clone(), reason: self.reason.clone().map(|Remark(reason)| reason), trace }
    }

    /// The settings that these make of others.
    ///
    /// # Errors
    ///
    /// The rules that they break together.
    fn on(self, base: Spec) -> Result<Spec, Problem> {
        let spec = Spec {
            name: self.name.unwrap_or(base.name),
            amount: self.amount.unwrap_or(base.amount),
            starts_at: self.starts_at.map(|Time(time)| time).over(base.starts_at),
            ends_at: self.ends_at.map(|Time(time)| time).over(base.ends_at),
            budget: self.budget.map(|Tokens(tokens)| tokens).over(base.budget),
            max_grants_per_user: self.max_grants_per_user.map(|GrantLimit(limit)| limit).over(base.max_grants_per_user),
            eligibility: self.eligibility.unwrap_or(base.eligibility),
            listed_users: self.listed_users.map_or(base.listed_users, |users| users.into_iter().collect()),
            state: self.state.unwrap_or(base.state),
            mode: self.mode.unwrap_or(base.mode),
            finality: self.finality.over(base.finality),
            priority: self.priority.unwrap_or(base.priority),
            chain_id: self.chain_id.map(|ChainId(chain_id)| chain_id).over(base.chain_id),
            token: self.token.over(base.token),
        };
        let mut errors = Vec::new();
        let mut wrong = |field: &'static str, rule: &str| {
            errors.push(FieldError { field: field.into(), rule: rule.to_owned() });
        };
        if spec.starts_at.zip(spec.ends_at).is_some_and(|(starts_at, ends_at)| starts_at >= ends_at) {
            wrong("ends_at", "must be later than starts_at");
        }
        if spec.listed_users.len() > MAX_LISTED {
            wrong("listed_users", "must be at most 10000");
        }
        if spec.eligibility == Eligibility::Open && !spec.listed_users.is_empty() {
            wrong("listed_users", "needs eligibility allow_list or block_list");
        }
        if errors.is_empty() { Ok(spec) } else { Err(Problem::invalid_request(errors)) }
    }
}

/// The settings that an existing campaign may not get.
fn check_change(campaign: &Campaign, spec: &Spec) -> Result<(), Problem> {
    let conflict = |kind, title, detail: String| Err(Problem::new(StatusCode::CONFLICT, kind, title).detail(detail));
    if campaign.spec.state == CampaignState::Ended && spec.state != CampaignState::Ended {
        return conflict(
            "urn:problem-type:campaign-ended",
            "The campaign has ended",
            "an ended campaign stays so; make another one".to_owned(),
        );
    }
    let promised = campaign.tally.reserved + campaign.tally.spent;
    if spec.budget.is_some_and(|budget| budget < promised) {
        return conflict(
            "urn:problem-type:budget-below-spending",
            "The budget is less than what the campaign has promised and paid",
            format!("{promised} tokens are reserved or spent"),
        );
    }
    Ok(())
}

/// Make a campaign, or give it these settings in place of all it had.
///
/// What is not mentioned becomes what it is by itself. The same settings again change nothing.
#[utoipa::path(
    put,
    path = "/campaigns/{campaign_id}",
    operation_id = "putCampaign",
    tag = "campaigns",
    params(("campaign_id" = String, Path, description = "Its name for programs, 1 to 128 bytes."), Settings),
    request_body(content = Settings, description = "The same fields as in the query string, in place of it."),
    responses(
        (status = 200, description = "The campaign has these settings.", body = Shown),
        (status = 201, description = "The campaign was made.", body = Shown),
        (status = 400, description = "A field breaks a rule.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The campaign has ended, or has promised more than the budget.", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over 1 MiB.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn put(
    State(operator): State<Operator>,
    Trace(trace): Trace,
    campaign_id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Error> {
    let campaign_id = parse_campaign_id(campaign_id)?;
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    fields.require("name");
    fields.require("amount");
    let settings = Settings::read(&mut fields);
    fields.finish()?;
    let order = settings.order(trace);
    let changed = operator.change_campaign(&campaign_id, order, |campaign| {
        let spec = settings.on(Spec::of_first_use(&campaign_id))?;
        campaign.map_or(Ok(()), |campaign| check_change(campaign, &spec))?;
        Ok::<_, Problem>(spec)
    });
    let (status, campaign) = match changed.await?? {
        Change::Created(campaign) => (StatusCode::CREATED, campaign),
        Change::Changed(campaign) | Change::Same(campaign) => (StatusCode::OK, campaign),
    };
    Ok((status, Json(Shown::from(campaign))).into_response())
}

/// Change some settings of a campaign.
///
/// What is not mentioned stays as it is; null takes a limit away.
#[utoipa::path(
    patch,
    path = "/campaigns/{campaign_id}",
    operation_id = "patchCampaign",
    tag = "campaigns",
    params(("campaign_id" = String, Path, description = "The campaign's name for programs."), Settings),
    request_body(content = Settings, description = "The same fields as in the query string, in place of it."),
    responses(
        (status = 200, description = "The campaign has these settings.", body = Shown),
        (status = 400, description = "A field breaks a rule.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign.", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "The campaign has ended, or has promised more than the budget.", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over 1 MiB.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn patch(
    State(operator): State<Operator>,
    Trace(trace): Trace,
    campaign_id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Shown>, Error> {
    let campaign_id = parse_campaign_id(campaign_id)?;
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    let settings = Settings::read(&mut fields);
    fields.finish()?;
    let order = settings.order(trace);
    let changed = operator.change_campaign(&campaign_id, order, |campaign| {
        let campaign = campaign.ok_or_else(not_found)?;
        let spec = settings.on(campaign.spec.clone())?;
        check_change(campaign, &spec)?;
        Ok::<_, Problem>(spec)
    });
    let (Change::Created(campaign) | Change::Changed(campaign) | Change::Same(campaign)) = changed.await??;
    Ok(Json(campaign.into()))
}

/// Show one campaign: its settings, and what it has promised and paid.
#[utoipa::path(
    get,
    path = "/campaigns/{campaign_id}",
    operation_id = "campaign",
    tag = "campaigns",
    params(("campaign_id" = String, Path, description = "The campaign's name for programs.")),
    responses(
        (status = 200, description = "The campaign.", body = Shown),
        (status = 400, description = "That can be no campaign's name.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(
    State(store): State<Store>,
    campaign_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Shown>, Error> {
    let campaign_id = parse_campaign_id(campaign_id)?;
    Ok(Json(store.campaign(&campaign_id).await?.ok_or_else(not_found)?.into()))
}

/// Show what has become of a campaign: grants, tokens, times and costs.
#[utoipa::path(
    get,
    path = "/campaigns/{campaign_id}/statistics",
    operation_id = "campaignStatistics",
    tag = "campaigns",
    params(("campaign_id" = String, Path, description = "The campaign's name for programs.")),
    responses(
        (status = 200, description = "The figures, as of now.", body = Statistics),
        (status = 400, description = "That can be no campaign's name.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn statistics(
    State(store): State<Store>,
    State(clock): State<Clock>,
    campaign_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Statistics>, Error> {
    let campaign_id = parse_campaign_id(campaign_id)?;
    let campaign = store.campaign(&campaign_id).await?.ok_or_else(not_found)?;
    Ok(Json(store.statistics(&campaign, clock.now()).await?))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
pub(super) struct Query {
    /// Only those that are `draft`, `active`, `paused` or `ended`.
    state: Option<CampaignState>,
    /// At most so many campaigns, in the order of their ids.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of campaigns.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Campaigns {
    /// In the order of their ids, without their listed users.
    campaigns: Vec<Shown>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List campaigns.
#[utoipa::path(
    get,
    path = "/campaigns",
    operation_id = "campaigns",
    tag = "campaigns",
    params(Query),
    responses(
        (status = 200, description = "The campaigns, in the order of their ids.", body = Campaigns),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(store): State<Store>, uri: Uri) -> Result<Json<Campaigns>, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let state = fields.optional("state");
    let limit = fields.optional_number("limit").unwrap_or(Limit(50)).0;
    let cursor = fields.optional::<CampaignId>("cursor");
    fields.finish()?;

    // One more than asked for tells whether there is another page.
    let mut campaigns = store.campaigns(cursor.as_ref(), state, limit + 1).await?;
    let more = campaigns.len() > usize::from(limit);
    campaigns.truncate(limit.into());
    let next_cursor = campaigns.last().filter(|_| more).map(|last| last.campaign_id.to_string());
    Ok(Json(Campaigns { campaigns: campaigns.into_iter().map(Shown::from).collect(), next_cursor }))
}

/// The campaign id in a path.
pub(super) fn parse_campaign_id(path: Result<Path<String>, PathRejection>) -> Result<CampaignId, Problem> {
    let invalid = |rule| Problem::invalid_request(vec![FieldError { field: "campaign_id".into(), rule }]);
    let Path(campaign_id) = path.map_err(|error| invalid(error.body_text()))?;
    campaign_id.parse().map_err(|error: InvalidId| invalid(error.to_string()))
}

pub(super) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "urn:problem-type:campaign-not-found", "There is no such campaign")
}
