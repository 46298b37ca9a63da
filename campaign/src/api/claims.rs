//! `GET /claims/{campaign_id}/{wallet_address}`: what a player needs to claim the grants of a wallet.

use alloy::primitives::{B256, keccak256};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use shared::http::fields::{Fields, Limit};
use shared::http::{Error, FieldError, Problem};
use shared::id::{BaseUnits, CampaignId, GrantId, InvalidId, InvalidWallet, RequestId, TokenAmount, WalletAddress};
use utoipa::{IntoParams, ToSchema};

use super::campaigns::not_found;
use super::status::Cursor;
use crate::claims::{self, Trees};
use crate::domain;
use crate::merkle::Tree;
use crate::store::{Claim, ClaimRoot, Store};

/// The grants of a campaign that a wallet can claim, and the arguments with which it does:
/// `claim(bytes32 campaign, uint256 id, address to, uint256 amount, bytes32[] proof)`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Claims {
    /// The campaign.
    #[schema(value_type = String, example = "airdrop")]
    campaign_id: CampaignId,
    /// `campaign`: keccak256 of the campaign's name.
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    campaign: B256,
    /// `to`: who gets the tokens, whoever claims.
    #[schema(value_type = String, pattern = "^0x[0-9a-fA-F]{40}$")]
    to: WalletAddress,
    /// Where to claim; absent until the first root of the campaign is on chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Published, required = false)]
    published: Option<Published>,
    /// The grants, in the order in which they were made claimable; none for a wallet that nobody has seen.
    grants: Vec<Shown>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// The root on chain that the proofs lead to.
#[derive(Debug, Serialize, ToSchema)]
struct Published {
    /// The chain (EIP-155).
    chain_id: u64,
    /// The contract that pays.
    #[schema(value_type = String, pattern = "^0x[0-9a-fA-F]{40}$")]
    distributor: WalletAddress,
    /// The root.
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    root: B256,
}

impl From<ClaimRoot> for Published {
    fn from(ClaimRoot { chain_id, distributor, root, .. }: ClaimRoot) -> Self {
        Self { chain_id, distributor, root }
    }
}

/// A grant that can be claimed, or was.
#[derive(Debug, Serialize, ToSchema)]
struct Shown {
    /// The grant.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// `claimable`, or `completed` once the claim is in a final block.
    state: domain::State,
    /// Whole tokens.
    #[schema(value_type = u64)]
    token_amount: TokenAmount,
    /// `id`: the grant's id on chain.
    #[schema(value_type = String, pattern = "^0x[0-9a-f]{64}$")]
    id: GrantId,
    /// `amount`: base units of the token, in decimal digits.
    #[schema(value_type = String, example = "100000000000000000000")]
    amount: BaseUnits,
    /// `proof`: absent until a root with this grant is on chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    proof: Option<Vec<B256>>,
}

impl Shown {
    /// What is shown of a claim; the tree is that of the root on chain.
    fn new(claim: &Claim, tree: Option<&Tree>) -> Self {
        let Claim { grant, grant_id, amount, .. } = claim;
        Self {
            request_id: grant.request_id.clone(),
            state: grant.state,
            token_amount: grant.request.token_amount,
            id: *grant_id,
            amount: *amount,
            proof: tree.and_then(|tree| tree.proof(claim.leaf().hash())),
        }
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// At most so many grants.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Show what a wallet can claim of a campaign, with proofs.
///
/// For campaigns whose `mode` is `claim`: the distributor pays a grant when anybody calls its `claim` with these arguments
/// and bears the gas. Proofs lead to the root that was on chain last; ask again when a claim is refused with
/// `InvalidClaimProof`.
#[utoipa::path(
    get,
    path = "/claims/{campaign_id}/{wallet_address}",
    operation_id = "claims",
    tag = "claims",
    params(
        ("campaign_id" = String, Path, description = "The campaign's name for programs."),
        ("wallet_address" = String, Path, description = "The wallet: 0x and 40 hexadecimal digits."),
        Query,
    ),
    responses(
        (status = 200, description = "The grants that the wallet can claim, or has claimed.", body = Claims),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(
    State(store): State<Store>,
    State(trees): State<Trees>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Result<Json<Claims>, Error> {
    let (campaign_id, to) = parse_path(path)?;
    let mut fields = Fields::from_query(&uri)?;
    let limit = fields.optional_number("limit").unwrap_or(Limit(50)).0;
    let after = fields.optional::<Cursor>("cursor").map_or(0, |Cursor(after)| after);
    fields.finish()?;
    // The root before the leaves: a grant that is not in it has no proof yet.
    let published = store.published_root(&campaign_id).await?;
    // One more than asked for tells whether there is another page.
    let mut claims = store.claims_of(&campaign_id, to, after, limit + 1).await?;
    if claims.is_empty() && store.campaign(&campaign_id).await?.is_none() {
        return Err(not_found().into());
    }
    let more = claims.len() > usize::from(limit);
    claims.truncate(limit.into());
    let next_cursor = claims.last().filter(|_| more).map(|last| last.sequence.to_string());
    let tree = match &published {
        Some(published) if !claims.is_empty() => Some(trees.with_root(&campaign_id, published).await.map_err(failed)?),
        _ => None,
    };
    Ok(Json(Claims {
        campaign: keccak256(campaign_id.as_str()),
        campaign_id,
        to,
        published: published.map(Published::from),
        grants: claims.iter().map(|claim| Shown::new(claim, tree.as_deref())).collect(),
        next_cursor,
    }))
}

fn failed(error: claims::Error) -> Error {
    match error {
        claims::Error::Database(error) => error.into(),
        claims::Error::Changed { .. } => Problem::internal().into(),
    }
}

/// The campaign and the wallet in a path.
fn parse_path(path: Result<Path<(String, String)>, PathRejection>) -> Result<(CampaignId, WalletAddress), Problem> {
    let wrong = |field: &'static str, rule| FieldError { field: field.into(), rule };
    let Path((campaign_id, wallet)) =
        path.map_err(|error| Problem::invalid_request(vec![wrong("campaign_id", error.body_text())]))?;
    let campaign_id = campaign_id.parse().map_err(|error: InvalidId| wrong("campaign_id", error.to_string()));
    let wallet = wallet.parse().map_err(|error: InvalidWallet| wrong("wallet_address", error.to_string()));
    match (campaign_id, wallet) {
        (Ok(campaign_id), Ok(wallet)) => Ok((campaign_id, wallet)),
        (campaign_id, wallet) => {
            Err(Problem::invalid_request(campaign_id.err().into_iter().chain(wallet.err()).collect()))
        }
    }
}
