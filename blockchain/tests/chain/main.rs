//! Our contracts on a real chain, through this service's own eyes: deployed once, verified at start, paid through in
//! batches whose gas suffices, and every refusal understood.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod first_distributor;
mod pausing;

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use blockchain::chain::{At, Call, Chain, Error, LogEntry, Receipt, Rpc};
use blockchain::contract::{
    Batch, BatchRevert, GrantDistributor, GrantToken, MAX_TRANSACTION_GAS, WalletFactory, batch_revert, gas_per_grant,
    outcomes, payments_between, payouts,
};
use blockchain::deploy::{Deploy, Deployed};
use blockchain::deployment::{self, Addresses, Deployment};
use blockchain::domain::{Failure, GrantId, Outcome, Payment};
use blockchain::fees::Fees;
use blockchain::signer::{Signed, Signer, Unsigned};
use shared::event::{GrantRequested, Terms, TokenType};
use shared::id::Issuer;
use testkit::anvil::{ADMIN, Account, CHAIN_ID, STRANGER, SUBMITTER};
use testkit::rpc_proxy::Liar;
use testkit::{Anvil, Contracts, Lie, RpcProxy, RunDir, base_units, ports, until_some};

const SOON: Duration = Duration::from_secs(30);

/// A chain of the test's own with our contracts on it.
struct Stage {
    anvil: Anvil,
    deployed: Deployed,
    deployment: Deployment,
    submitter: Party,
    admin: Party,
    /// The same chain through testkit, which shares no code with us.
    witness: testkit::Chain,
    _folder: RunDir,
}

impl Stage {
    async fn set() -> Self {
        let (anvil, folder) = start_anvil().await;
        let deployed = deploy(&anvil, ADMIN).run().await.unwrap();
        let [submitter, admin] = [SUBMITTER, ADMIN].map(|account| connect(&anvil, account));
        let (deployment, chain_id) = submitter.verify(addresses(&deployed)).await.unwrap();
        assert_eq!(chain_id, CHAIN_ID);
        let Deployed { token, distributor, wallet_factory } = deployed;
        let contracts = Contracts { token, distributor, wallet_factory };
        let witness = testkit::Chain::new(&anvil.url(), contracts).unwrap();
        Self { anvil, deployed, deployment, submitter, admin, witness, _folder: folder }
    }

    /// A payment in the campaign, to a recipient of its own.
    fn payment(&self, campaign: &str, id: Id, tokens: i64) -> Payment {
        let (name, issuer, grant_index) = match id {
            Id::Dense(issuer, index) => (format!("{issuer}-{index}"), Some(Issuer::new(issuer)), Some(index)),
            Id::Sparse(number) => (format!("foreign-{number}"), None, None),
        };
        let request = GrantRequested {
            user_id: format!("user of {campaign} {name}").parse().unwrap(),
            campaign_id: campaign.parse().unwrap(),
            token_amount: tokens.try_into().unwrap(),
            token_type: TokenType::Erc20,
            request_id: name.parse().unwrap(),
            timestamp: shared::clock::from_micros(0),
            retry_count: 0,
            wallet_address: None,
            issuer,
            grant_index,
            terms: Terms::default(),
        };
        Payment::new(&request, None, &self.deployment.wallets).unwrap()
    }

    fn pack(&self, payments: &[Payment]) -> Batch {
        Batch::pack(payments, self.deployment.decimals, self.gas_per_grant())
    }

    /// The default of `GAS_PER_GRANT`.
    fn gas_per_grant(&self) -> u64 {
        gas_per_grant(self.deployment.mints_batches)
    }

    /// Pays them all in one transaction, after trying it out as the submitter does.
    async fn pay(&self, payments: &[Payment]) -> Receipt {
        let batch = self.pack(payments);
        let call = call(&batch);
        self.submitter.simulate(self.deployed.distributor, call.clone(), Some(batch.gas_limit)).await.unwrap();
        let receipt = transact(&self.submitter, self.deployed.distributor, call, batch.gas_limit).await;
        assert!(receipt.gas_used < batch.gas_limit, "{} of {}", receipt.gas_used, batch.gas_limit);
        receipt
    }

    /// What the receipt says of each payment, in their order.
    fn outcomes(&self, receipt: &Receipt, payments: &[Payment]) -> Vec<Outcome> {
        let mut outcomes = outcomes(&receipt.logs, self.deployed.distributor);
        let told = payments.iter().map(|payment| outcomes.remove(&payment.grant_id).unwrap()).collect();
        assert!(outcomes.is_empty(), "events of other grants: {outcomes:?}");
        told
    }

    async fn administrate(&self, contract: Address, call: &impl SolCall) {
        transact(&self.admin, contract, call.abi_encode().into(), 200_000).await;
    }

    /// Why the batch would revert.
    async fn revert(&self, party: &Party, data: Bytes, gas_limit: Option<u64>) -> BatchRevert {
        match party.simulate(self.deployed.distributor, data, gas_limit).await {
            Err(Error::Reverted(data)) => batch_revert(&data),
            other => panic!("{other:?}"),
        }
    }

    async fn balances(&self, payments: &[Payment]) -> Vec<U256> {
        let mut balances = Vec::new();
        for payment in payments {
            balances.push(self.witness.balance_of(payment.recipient.address()).await.unwrap());
        }
        balances
    }
}

/// Somebody with a key, at the chain.
struct Party {
    chain: Arc<dyn Chain>,
    signer: Signer,
}

impl Party {
    async fn verify(&self, addresses: Addresses) -> Result<(Deployment, u64), deployment::Error> {
        Deployment::verify(&*self.chain, &[self.signer.address()], addresses).await
    }

    async fn mined_nonce(&self) -> u64 {
        self.chain.nonce(self.signer.address(), At::Latest).await.unwrap()
    }

    async fn hash_of(&self, block: u64) -> Option<B256> {
        self.chain.block(At::Number(block)).await.unwrap().map(|block| block.hash)
    }

    /// The events that tell of a payment under this id.
    async fn payments_of(&self, distributor: Address, id: GrantId) -> Vec<LogEntry> {
        let mut logs = self.chain.logs(&payments_between(distributor, 0, u64::MAX >> 1)).await.unwrap();
        logs.retain(|entry| payouts(&entry.log).unwrap().iter().any(|payout| payout.id == id));
        logs
    }

    async fn sees_code_at(&self, address: Address) -> bool {
        !self.chain.code(address).await.unwrap().is_empty()
    }

    /// Runs a call on the newest block, as the submitter does.
    async fn simulate(&self, to: Address, data: Bytes, gas_limit: Option<u64>) -> Result<Bytes, Error> {
        self.chain.call(Call { from: self.signer.address(), to, data, gas_limit }).await
    }
}

/// How a grant is numbered.
#[derive(Clone, Copy)]
enum Id {
    /// By an issuer.
    Dense(u64, u64),
    /// By nobody: a foreign publisher's.
    Sparse(u64),
}

async fn start_anvil() -> (Anvil, RunDir) {
    let folder = RunDir::temporary().unwrap();
    let anvil = Anvil::start(folder.log("anvil"), ports::free().unwrap(), Duration::from_millis(100)).await.unwrap();
    (anvil, folder)
}

fn deploy(anvil: &Anvil, deployer: Account) -> Deploy {
    Deploy {
        rpc_url: anvil.url().parse().unwrap(),
        deployer_key: deployer.key.into(),
        admin: ADMIN.address.parse().unwrap(),
        submitter: SUBMITTER.address.parse().unwrap(),
        token_name: "Campaign Reward".into(),
        token_symbol: "REWARD".into(),
    }
}

fn connect(anvil: &Anvil, account: Account) -> Party {
    let key: PrivateKeySigner = account.key.parse().unwrap();
    Party { chain: Arc::new(Rpc::connect(&[anvil.url().parse().unwrap()]).unwrap()), signer: Signer::new(key) }
}

fn addresses(deployed: &Deployed) -> Addresses {
    Addresses {
        distributor: deployed.distributor,
        wallet_factory: deployed.wallet_factory,
        distributor_block: 0,
        chain_id: Some(CHAIN_ID),
    }
}

fn call(batch: &Batch) -> Bytes {
    GrantDistributor::payCall { batch: batch.packed.clone() }.abi_encode().into()
}

async fn sign(party: &Party, to: Address, data: Bytes, gas_limit: u64) -> Signed {
    let (base_fee, tip) = party.chain.asked_fees().await.unwrap();
    let fees = Fees::offer(base_fee, tip, u64::MAX).unwrap();
    let nonce = party.mined_nonce().await;
    party.signer.sign(Unsigned { chain_id: CHAIN_ID, nonce, to: Some(to), data, gas_limit, fees }).unwrap()
}

async fn mined(party: &Party, signed: &Signed) -> Receipt {
    let receipt =
        until_some(SOON, "the receipt", || async { party.chain.receipt(signed.hash).await.unwrap() }).await.unwrap();
    assert!(receipt.succeeded, "{} reverted", signed.hash);
    receipt
}

async fn transact(party: &Party, to: Address, data: Bytes, gas_limit: u64) -> Receipt {
    let signed = sign(party, to, data, gas_limit).await;
    party.chain.send(&signed.raw).await.unwrap();
    mined(party, &signed).await
}

/// The problems that the configuration has.
async fn problems(party: &Party, addresses: Addresses) -> Vec<String> {
    match party.verify(addresses).await {
        Err(deployment::Error::Misconfigured(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_names(problems: &[String], expected: &[&str]) {
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{expected:?} is not in {problem:?}");
    }
}

#[tokio::test]
async fn deploying_again_changes_nothing() {
    let (anvil, _folder) = start_anvil().await;
    let deploy = deploy(&anvil, ADMIN);
    let first = deploy.run().await.unwrap();
    let second = deploy.run().await.unwrap();
    let where_they_are = |deployed: Deployed| [deployed.token, deployed.distributor, deployed.wallet_factory];
    assert_eq!(where_they_are(first), where_they_are(second));
    let deployer = connect(&anvil, ADMIN);
    assert_eq!(deployer.mined_nonce().await, 3, "three transactions in all");
    for address in where_they_are(first) {
        assert!(deployer.sees_code_at(address).await);
    }
}

#[tokio::test]
async fn an_account_with_a_past_cannot_deploy() {
    let (anvil, _folder) = start_anvil().await;
    let stranger = connect(&anvil, STRANGER);
    transact(&stranger, Address::repeat_byte(1), Bytes::new(), 21_000).await;
    let error = deploy(&anvil, STRANGER).run().await.unwrap_err().to_string();
    assert!(error.contains("use the key of a fresh account"), "{error}");
    assert_eq!(stranger.mined_nonce().await, 1, "nothing was sent");
}

#[tokio::test]
async fn what_was_deployed_is_what_is_verified() {
    let stage = Stage::set().await;
    let Deployment { distributor, token, decimals, mints_batches, wallets, block } = stage.deployment;
    assert_eq!(
        (distributor, token, wallets.factory),
        (stage.deployed.distributor, stage.deployed.token, stage.deployed.wallet_factory)
    );
    assert_eq!((decimals, mints_batches, block), (18, true, 0));
    let any_chain = Addresses { chain_id: None, distributor_block: 7, ..addresses(&stage.deployed) };
    assert_eq!(stage.submitter.verify(any_chain).await.unwrap().0.block, 7);
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let stage = Stage::set().await;
    let good = addresses(&stage.deployed);
    let stranger = connect(&stage.anvil, STRANGER);
    let empty = Address::repeat_byte(0xee);

    let found = problems(&stranger, Addresses { chain_id: Some(1), wallet_factory: empty, ..good }).await;
    let signer = format!("SIGNER_KEY: the account {} does not hold SUBMITTER_ROLE", STRANGER.address);
    let no_factory = format!("WALLET_FACTORY_ADDRESS: there is no contract at {empty}");
    assert_names(&found, &["CHAIN_ID is 1, the node at RPC_URL serves chain 31337", &signer, &no_factory]);

    let found = problems(&stranger, Addresses { distributor: empty, wallet_factory: empty, ..good }).await;
    assert_names(&found, &[&format!("DISTRIBUTOR_ADDRESS: there is no contract at {empty}"), &no_factory]);

    // The right contracts in the wrong places.
    let swapped =
        Addresses { distributor: stage.deployed.wallet_factory, wallet_factory: stage.deployed.distributor, ..good };
    assert_names(
        &problems(&stage.submitter, swapped).await,
        &[
            "SIGNER_KEY",
            "DISTRIBUTOR_ADDRESS is not a GrantDistributor",
            "WALLET_FACTORY_ADDRESS is not a WalletFactory",
        ],
    );

    let revoke = GrantToken::revokeRoleCall { role: keccak256("MINTER_ROLE"), account: stage.deployed.distributor };
    stage.administrate(stage.deployed.token, &revoke).await;
    assert_names(&problems(&stage.submitter, good).await, &["does not hold MINTER_ROLE"]);
}

#[tokio::test]
async fn a_chain_that_is_away_is_not_called_misconfigured() {
    let stage = Stage::set().await;
    stage.anvil.stop().await.unwrap();
    match stage.submitter.verify(addresses(&stage.deployed)).await {
        Err(deployment::Error::Chain(error)) => assert!(error.is_unreachable(), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_is_busy_is_not_called_misconfigured() {
    let stage = Stage::set().await;
    let proxy = RpcProxy::start(&stage.anvil.url(), 1).await.unwrap();
    let chain = Rpc::connect(&[proxy.urls()[0].parse().unwrap()]).unwrap();
    let _ = proxy.arm(Lie::RateLimited, 1, Liar::All);
    let signer = stage.submitter.signer.address();
    match Deployment::verify(&chain, &[signer], addresses(&stage.deployed)).await {
        Err(deployment::Error::Chain(error)) => assert!(error.is_passing() && !error.is_unreachable(), "{error}"),
        other => panic!("{other:?}"),
    }
    Deployment::verify(&chain, &[signer], addresses(&stage.deployed)).await.unwrap();
}

#[tokio::test]
async fn a_wallet_is_where_the_factory_puts_it() {
    let stage = Stage::set().await;
    for user in ["alice", "bob", "プレイヤー 7", &"x".repeat(128)] {
        let computed = stage.deployment.wallets.of(&user.parse().unwrap());
        assert_eq!(computed, stage.witness.wallet_of(user).await.unwrap(), "{user}");
    }
    let alice = stage.deployment.wallets.of(&"alice".parse().unwrap());
    assert!(!stage.admin.sees_code_at(alice).await);
    let call = WalletFactory::deployCall { userKey: keccak256("alice"), owner: STRANGER.address.parse().unwrap() };
    transact(&stage.admin, stage.deployed.wallet_factory, call.abi_encode().into(), 1_000_000).await;
    assert!(stage.admin.sees_code_at(alice).await);
}

#[tokio::test]
async fn a_batch_pays_each_grant_as_it_says() {
    let stage = Stage::set().await;
    // Two campaigns, two issuers, foreign ids, both ends of an id's range, the least and the most tokens.
    let mut payments = vec![
        stage.payment("winter", Id::Dense(7, 0), 1),
        stage.payment("summer", Id::Dense(7, 1), 20),
        stage.payment("winter", Id::Dense(7, 300), 300),
        stage.payment("summer", Id::Dense(u64::MAX, u64::MAX), 4_000),
        stage.payment("summer", Id::Sparse(1), 1_000_000_000),
        stage.payment("winter", Id::Sparse(2), 60_000),
    ];
    payments[2].recipient = STRANGER.address.parse().unwrap();
    let receipt = stage.pay(&payments).await;
    assert_eq!(stage.outcomes(&receipt, &payments), vec![Outcome::Paid; 6]);

    let units: Vec<_> = payments.iter().map(|payment| base_units(payment.token_amount.whole_tokens())).collect();
    assert_eq!(stage.balances(&payments).await, units);
    assert_eq!(stage.witness.total_supply().await.unwrap(), units.iter().copied().sum::<U256>());
    let mut told: Vec<_> = stage.witness.payments().await.unwrap();
    told.sort_by_key(|payment| payment.id);
    let mut expected: Vec<_> = payments.iter().zip(units).collect();
    expected.sort_by_key(|(payment, _)| payment.grant_id);
    for (told, (payment, units)) in told.iter().zip(expected) {
        assert_eq!((told.id, told.to, told.amount), (payment.grant_id.0, payment.recipient.address(), units));
        assert_eq!(told.transaction_hash, receipt.transaction_hash);
    }
    for (campaign, tokens) in [("winter", 60_301), ("summer", 1_000_004_020)] {
        let paid = GrantDistributor::campaignPaidCall { campaign: keccak256(campaign) };
        assert_eq!(stage.submitter.chain.view(stage.deployed.distributor, &paid).await.unwrap(), base_units(tokens));
    }
}

#[tokio::test]
async fn a_grant_that_was_paid_is_skipped_and_found() {
    let stage = Stage::set().await;
    let (dense, sparse) = (stage.payment("summer", Id::Dense(7, 0), 5), stage.payment("summer", Id::Sparse(1), 5));
    let new = stage.payment("summer", Id::Dense(7, 1), 5);
    let first = stage.pay(&[dense.clone(), sparse.clone()]).await;

    // With another amount and in another campaign too: the id alone decides.
    let changed =
        Payment { token_amount: 999.try_into().unwrap(), campaign_id: "winter".parse().unwrap(), ..sparse.clone() };
    let batch = [dense.clone(), changed, new.clone()];
    let second = stage.pay(&batch).await;
    assert_eq!(stage.outcomes(&second, &batch), [Outcome::Skipped, Outcome::Skipped, Outcome::Paid]);
    assert_eq!(stage.witness.total_supply().await.unwrap(), base_units(15));
    assert_eq!(stage.witness.ids_paid_twice().await.unwrap(), 0);

    for (id, receipt) in [(dense.grant_id, &first), (sparse.grant_id, &first), (new.grant_id, &second)] {
        let log = stage.submitter.payments_of(stage.deployed.distributor, id).await.pop().unwrap();
        assert_eq!((log.transaction_hash, log.block_number), (receipt.transaction_hash, receipt.block_number));
    }
    let unpaid = GrantId(new.grant_id.0 + U256::ONE);
    assert!(stage.submitter.payments_of(stage.deployed.distributor, unpaid).await.is_empty());
}

#[tokio::test]
async fn a_campaign_at_its_cap_rejects_its_own_grants_alone() {
    let stage = Stage::set().await;
    let cap = |tokens| GrantDistributor::setCampaignCapCall { campaign: keccak256("capped"), cap: base_units(tokens) };
    stage.administrate(stage.deployed.distributor, &cap(150)).await;
    let payments = [
        stage.payment("capped", Id::Dense(7, 0), 100),
        stage.payment("capped", Id::Dense(7, 1), 100),
        stage.payment("capped", Id::Dense(7, 2), 50),
        stage.payment("free", Id::Dense(7, 3), 100),
    ];
    let receipt = stage.pay(&payments).await;
    let rejected = Failure::new("campaign_cap_exceeded", "the campaign's cap on chain is reached");
    let expected = [Outcome::Paid, Outcome::Rejected(rejected), Outcome::Paid, Outcome::Paid];
    assert_eq!(stage.outcomes(&receipt, &payments), expected);
    assert_eq!(stage.balances(&payments).await, [100, 0, 50, 100].map(base_units));

    stage.administrate(stage.deployed.distributor, &cap(0)).await;
    let receipt = stage.pay(&payments[1..2]).await;
    assert_eq!(stage.outcomes(&receipt, &payments[1..2]), [Outcome::Paid], "what was rejected was not used up");
}

#[tokio::test]
async fn a_paused_token_postpones_every_grant() {
    let stage = Stage::set().await;
    stage.administrate(stage.deployed.token, &GrantToken::pauseCall {}).await;
    let payments = [stage.payment("summer", Id::Dense(7, 0), 5), stage.payment("winter", Id::Sparse(1), 5)];
    let receipt = stage.pay(&payments).await;
    let postponed = Outcome::Postponed("the token is paused".into());
    assert_eq!(stage.outcomes(&receipt, &payments), [postponed.clone(), postponed]);

    stage.administrate(stage.deployed.token, &GrantToken::unpauseCall {}).await;
    let receipt = stage.pay(&payments).await;
    assert_eq!(stage.outcomes(&receipt, &payments), [Outcome::Paid, Outcome::Paid]);
}

#[tokio::test]
async fn a_batch_that_would_revert_says_why_before_it_is_sent() {
    let stage = Stage::set().await;
    let payments: Vec<_> = (0..30).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    let batch = stage.pack(&payments);
    let wait = |reason: &str| BatchRevert::Wait(reason.into());
    let split = |reason: &str| BatchRevert::Split(reason.into());
    let distributor = stage.deployed.distributor;

    let stranger = connect(&stage.anvil, STRANGER);
    let revert = stage.revert(&stranger, call(&batch), Some(batch.gas_limit)).await;
    assert_eq!(revert, wait("the signer does not hold SUBMITTER_ROLE"));

    let revert = stage.revert(&stage.submitter, call(&batch), Some(400_000)).await;
    assert_eq!(revert, split("its mints cost more gas than GAS_PER_GRANT allows for"));

    let cut_off = Batch { packed: batch.packed.slice(..batch.packed.len() - 1), ..batch.clone() };
    let revert = stage.revert(&stage.submitter, call(&cut_off), None).await;
    assert!(matches!(revert, BatchRevert::Split(_)), "{revert:?}");

    stage.administrate(distributor, &GrantDistributor::setDailyCapCall { cap: base_units(149) }).await;
    let revert = stage.revert(&stage.submitter, call(&batch), Some(batch.gas_limit)).await;
    assert_eq!(revert, split("the distributor's daily cap is reached"));
    stage.administrate(distributor, &GrantDistributor::setDailyCapCall { cap: base_units(150) }).await;

    stage.administrate(distributor, &GrantDistributor::pauseCall {}).await;
    let revert = stage.revert(&stage.submitter, call(&batch), Some(batch.gas_limit)).await;
    assert_eq!(revert, wait("the distributor is paused"));
    stage.administrate(distributor, &GrantDistributor::unpauseCall {}).await;

    let receipt = stage.pay(&payments).await;
    assert_eq!(stage.outcomes(&receipt, &payments), vec![Outcome::Paid; 30], "nothing was left behind");
}

/// As many of the payments as fit a transaction are paid with the gas that was computed for them; how many.
async fn pay_as_many_as_fit(stage: &Stage, payments: &[Payment]) -> usize {
    let (count, batch) = Batch::fill(payments, stage.deployment.decimals, stage.gas_per_grant());
    assert!(batch.gas_limit <= MAX_TRANSACTION_GAS);
    let payments = &payments[..count];
    assert_eq!(batch, stage.pack(payments));
    let receipt = stage.pay(payments).await;
    assert_eq!(stage.outcomes(&receipt, payments), vec![Outcome::Paid; count]);
    count
}

#[tokio::test]
async fn the_gas_suffices_for_five_hundred_fresh_recipients() {
    let stage = Stage::set().await;
    // Not at the beginning of a word of the bitmap, so that one more word is written.
    let payments: Vec<_> = (200..700).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    assert_eq!(pay_as_many_as_fit(&stage, &payments).await, 500);
    assert_eq!(stage.witness.total_supply().await.unwrap(), base_units(2_500));
}

#[tokio::test]
async fn the_gas_suffices_for_six_hundred_fresh_recipients() {
    let stage = Stage::set().await;
    let payments: Vec<_> = (200..800).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    assert_eq!(pay_as_many_as_fit(&stage, &payments).await, 600);
}

/// The token's cap is the fault of a grant that no rule of ours finds before: those that it was to be minted with are
/// minted in vain, and then one by one.
#[tokio::test]
async fn the_gas_suffices_where_one_of_five_hundred_cannot_be_paid() {
    let stage = Stage::set().await;
    let mut payments: Vec<_> = (0..500).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    let most = i64::try_from(shared::id::TokenAmount::MAX).unwrap();
    payments[440].token_amount = most.try_into().unwrap();
    let cap = stage.submitter.chain.view(stage.deployed.token, &GrantToken::capCall {}).await.unwrap();
    let minter = GrantToken::grantRoleCall { role: keccak256("MINTER_ROLE"), account: ADMIN.address.parse().unwrap() };
    stage.administrate(stage.deployed.token, &minter).await;
    let to = Address::repeat_byte(0x77);
    let nearly_all = GrantToken::mintCall { to, amount: cap - base_units(5 * 500) };
    stage.administrate(stage.deployed.token, &nearly_all).await;
    let receipt = stage.pay(&payments).await;
    let outcomes = stage.outcomes(&receipt, &payments);
    let refused: Vec<_> = (0..500).filter(|index| outcomes[*index] != Outcome::Paid).collect();
    assert_eq!(refused, [440]);
    let Outcome::Rejected(failure) = &outcomes[440] else { panic!("{:?}", outcomes[440]) };
    assert_eq!(failure.code, "token_cap_exceeded");
}

#[tokio::test]
async fn the_gas_suffices_for_ids_without_any_order() {
    let stage = Stage::set().await;
    let sparse: Vec<_> = (0..500).map(|number| stage.payment("summer", Id::Sparse(number), 5)).collect();
    let count = pay_as_many_as_fit(&stage, &sparse).await;
    assert!((150..500).contains(&count), "{count} foreign grants fit a transaction");
}

#[tokio::test]
async fn the_gas_suffices_when_every_grant_is_of_another_campaign_or_alone() {
    let stage = Stage::set().await;
    let scattered: Vec<_> =
        (0..500).map(|index| stage.payment(&format!("campaign {index}"), Id::Dense(7, index * 256), 5)).collect();
    let count = pay_as_many_as_fit(&stage, &scattered).await;
    assert!((150..500).contains(&count), "{count} campaigns fit a transaction");
    assert_eq!(pay_as_many_as_fit(&stage, &[stage.payment("one", Id::Sparse(0), 5)]).await, 1);
}

#[tokio::test]
async fn the_same_bytes_sent_again_are_mined_once() {
    let stage = Stage::set().await;
    let payments = [stage.payment("summer", Id::Dense(7, 0), 5)];
    let batch = stage.pack(&payments);
    let signed = sign(&stage.submitter, stage.deployed.distributor, call(&batch), batch.gas_limit).await;
    let send_again = async || {
        if let Err(error) = stage.submitter.chain.send(&signed.raw).await {
            assert!(matches!(error, Error::Node { .. }), "the node's answer, not its absence: {error}");
        }
    };
    stage.submitter.chain.send(&signed.raw).await.unwrap();
    send_again().await;
    let receipt = mined(&stage.submitter, &signed).await;
    send_again().await;

    assert_eq!(receipt.transaction_hash, signed.hash, "the hash was known before");
    let block = receipt.block_number;
    assert_eq!(stage.submitter.hash_of(block).await, Some(receipt.block_hash));
    assert_eq!(stage.submitter.hash_of(block + 1_000_000).await, None);
    assert_eq!(stage.submitter.mined_nonce().await, 1);
    assert_eq!(stage.witness.total_supply().await.unwrap(), base_units(5));
}
