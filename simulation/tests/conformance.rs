//! What the simulated chain and a real node (anvil) have in common: each test runs on both, through the same trait, so that
//! the simulation is held to what is real. Nodes differ in words, so refusals are compared as what they mean.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, Log, U256, keccak256};
use alloy::rpc::types::Filter;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use blockchain::chain::{At, Call, Chain, Error, Refusal, Rpc};
use blockchain::contract::{
    Batch, BatchRevert, GrantDistributor, GrantToken, batch_revert, gas_per_grant, outcomes, payments_between, payouts,
};
use blockchain::deploy::Deploy;
use blockchain::deployment::{Addresses, Deployment};
use blockchain::domain::{GrantId, Outcome, Payment};
use blockchain::fees::Fees;
use blockchain::signer::{Signed, Signer, Unsigned};
use campaign::merkle::{Leaf, Tree};
use serde_json::json;
use shared::event::{GrantRequested, Terms, TokenType};
use shared::id::Issuer;
use simulation::chain::contracts::{self, DISTRIBUTOR, FACTORY, Item};
use simulation::chain::{CHAIN_ID, Node, Simulated};
use simulation::fuse::Fuse;
use testkit::anvil::{ADMIN, SUBMITTER};
use testkit::{Anvil, Contracts, RunDir, ports};

/// Wei in a gwei.
const GWEI: u64 = 1_000_000_000;

/// A chain, and the power to move it.
struct Ground {
    chain: Arc<dyn Chain>,
    deployment: Deployment,
    signer: Signer,
    power: Power,
}

enum Power {
    Simulated(Simulated),
    Anvil(Box<Real>),
}

/// A node that mines when it is told to.
struct Real {
    witness: testkit::Chain,
    admin: Signer,
    _anvil: Anvil,
    _folder: RunDir,
}

impl Ground {
    fn signer() -> Signer {
        Signer::new(SUBMITTER.key.parse().unwrap())
    }

    async fn simulated() -> Self {
        let signer = Self::signer();
        let chain = Simulated::new(64, signer.address());
        let node: Arc<dyn Chain> = Arc::new(Node::new(chain.clone(), Fuse::default()));
        let deployment = verify(&*node, DISTRIBUTOR, FACTORY).await;
        Self { chain: node, deployment, signer, power: Power::Simulated(chain) }
    }

    async fn anvil() -> Self {
        let folder = RunDir::temporary().unwrap();
        let port = ports::free().unwrap();
        let anvil = Anvil::start(folder.log("anvil"), port, Duration::from_millis(100)).await.unwrap();
        let deploy = Deploy {
            rpc_url: anvil.url().parse().unwrap(),
            deployer_key: ADMIN.key.into(),
            admin: ADMIN.address.parse().unwrap(),
            submitter: SUBMITTER.address.parse().unwrap(),
            token_name: "Campaign Reward".into(),
            token_symbol: "REWARD".into(),
        };
        let deployed = deploy.run().await.unwrap();
        let contracts = Contracts {
            token: deployed.token,
            distributor: deployed.distributor,
            wallet_factory: deployed.wallet_factory,
        };
        let witness = testkit::Chain::new(&anvil.url(), contracts).unwrap();
        witness.mine_every(0).await.unwrap();
        let chain: Arc<dyn Chain> = Arc::new(Rpc::connect(&[anvil.url().parse().unwrap()]).unwrap());
        let deployment = verify(&*chain, deployed.distributor, deployed.wallet_factory).await;
        let admin = Signer::new(ADMIN.key.parse::<PrivateKeySigner>().unwrap());
        let power = Power::Anvil(Box::new(Real { witness, admin, _anvil: anvil, _folder: folder }));
        Self { chain, deployment, signer: Self::signer(), power }
    }

    async fn mine(&self) {
        match &self.power {
            Power::Simulated(chain) => drop(chain.state().mine(|| true)),
            Power::Anvil(real) => real.witness.mine(1).await.unwrap(),
        }
    }

    /// The newest blocks give way to empty ones.
    async fn reorg(&self, depth: u64) {
        match &self.power {
            Power::Simulated(chain) => drop(chain.state().reorg(depth, || false, || false)),
            Power::Anvil(real) => real.witness.reorg(depth).await.unwrap(),
        }
    }

    async fn drop_pool(&self) {
        match &self.power {
            Power::Simulated(chain) => drop(chain.state().drop_pool(|| false)),
            Power::Anvil(real) => real.witness.drop_pending().await.unwrap(),
        }
    }

    async fn drain(&self) {
        match &self.power {
            Power::Simulated(chain) => chain.state().drain(self.address()),
            Power::Anvil(real) => {
                drop(real.witness.rpc("anvil_setBalance", json!([self.address(), "0x3e8"])).await.unwrap());
            }
        }
    }

    /// An admin calls a contract, which the simulation has its own words for.
    async fn administrate(&self, contract: Address, call: &impl SolCall, simulated: impl FnOnce(&Simulated)) {
        match &self.power {
            Power::Simulated(chain) => simulated(chain),
            Power::Anvil(real) => {
                let admin = &real.admin;
                let nonce = self.chain.nonce(admin.address(), At::Pending).await.unwrap();
                let signed = sign(admin, nonce, contract, call.abi_encode().into(), 200_000, 10, 1);
                self.chain.send(&signed.raw).await.unwrap();
                self.mine().await;
                assert!(self.chain.receipt(signed.hash).await.unwrap().unwrap().succeeded);
            }
        }
    }

    fn address(&self) -> Address {
        self.signer.address()
    }

    async fn nonce(&self, at: At) -> u64 {
        self.chain.nonce(self.address(), at).await.unwrap()
    }

    async fn head(&self) -> u64 {
        self.chain.head().await.unwrap().number
    }

    /// A transaction that does nothing, of the nonce so far behind the mined ones, with these fees in gwei.
    async fn nothing(&self, behind: u64, max_fee: u64, tip: u64) -> Signed {
        let nonce = self.nonce(At::Latest).await + behind;
        sign(&self.signer, nonce, self.address(), Bytes::new(), 21_000, max_fee, tip)
    }

    async fn refusal(&self, signed: &Signed) -> Option<Refusal> {
        self.chain.send(&signed.raw).await.unwrap_err().refusal()
    }

    async fn is_mined(&self, signed: &Signed) -> bool {
        self.chain.receipt(signed.hash).await.unwrap().is_some()
    }

    fn payment(&self, campaign: &str, index: u64, tokens: i64) -> Payment {
        let request = GrantRequested {
            user_id: format!("user {index}").parse().unwrap(),
            campaign_id: campaign.parse().unwrap(),
            token_amount: tokens.try_into().unwrap(),
            token_type: TokenType::Erc20,
            request_id: format!("request-{index}").parse().unwrap(),
            timestamp: shared::clock::from_micros(0),
            retry_count: 0,
            wallet_address: None,
            issuer: Some(Issuer::new(7)),
            grant_index: Some(index),
            terms: Terms::default(),
        };
        Payment::new(&request, None, &self.deployment.wallets).unwrap()
    }

    fn pay_call(&self, payments: &[Payment]) -> (Bytes, u64) {
        let batch = Batch::pack(payments, self.deployment.decimals, gas_per_grant(self.deployment.mints_batches));
        (GrantDistributor::payCall { batch: batch.packed }.abi_encode().into(), batch.gas_limit)
    }

    /// Pays them, and returns what the distributor told.
    async fn pay(&self, payments: &[Payment]) -> Vec<Log> {
        let (call, gas_limit) = self.pay_call(payments);
        let nonce = self.nonce(At::Latest).await;
        let signed = sign(&self.signer, nonce, self.deployment.distributor, call, gas_limit, 10, 1);
        self.chain.send(&signed.raw).await.unwrap();
        self.mine().await;
        let receipt = self.chain.receipt(signed.hash).await.unwrap().unwrap();
        assert!(receipt.succeeded && receipt.gas_used < gas_limit);
        receipt.logs
    }

    /// Calls the distributor from the signer's account; whether it took it.
    async fn calls(&self, data: Bytes) -> bool {
        let nonce = self.nonce(At::Latest).await;
        let signed = sign(&self.signer, nonce, self.deployment.distributor, data, 400_000, 10, 1);
        self.chain.send(&signed.raw).await.unwrap();
        self.mine().await;
        self.chain.receipt(signed.hash).await.unwrap().unwrap().succeeded
    }

    /// The error with which the distributor refuses a call.
    async fn refused(&self, data: Bytes) -> [u8; 4] {
        let call = Call { from: self.address(), to: self.deployment.distributor, data, gas_limit: Some(400_000) };
        match self.chain.call(call).await {
            Err(Error::Reverted(data)) => data[..4].try_into().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn revert(&self, data: Bytes, gas_limit: u64) -> BatchRevert {
        let call = Call { from: self.address(), to: self.deployment.distributor, data, gas_limit: Some(gas_limit) };
        match self.chain.call(call).await {
            Err(Error::Reverted(data)) => batch_revert(&data),
            other => panic!("{other:?}"),
        }
    }
}

async fn verify(chain: &dyn Chain, distributor: Address, wallet_factory: Address) -> Deployment {
    let addresses = Addresses { distributor, wallet_factory, distributor_block: 0, chain_id: Some(CHAIN_ID) };
    Deployment::verify(chain, &[SUBMITTER.address.parse().unwrap()], addresses).await.unwrap().0
}

fn sign(signer: &Signer, nonce: u64, to: Address, data: Bytes, gas_limit: u64, max_fee: u64, tip: u64) -> Signed {
    let fees = Fees { max_fee_per_gas: max_fee * GWEI, max_priority_fee_per_gas: tip * GWEI };
    signer.sign(Unsigned { chain_id: CHAIN_ID, nonce, to: Some(to), data, gas_limit, fees }).unwrap()
}

/// Each of these runs on the simulated chain and on anvil.
macro_rules! on_both_chains {
    ($($test:ident,)*) => {
        mod simulated {
            $(#[tokio::test] async fn $test() { super::$test(super::Ground::simulated().await).await; })*
        }
        mod anvil {
            $(#[tokio::test] async fn $test() { super::$test(super::Ground::anvil().await).await; })*
        }
    };
}

on_both_chains! {
    a_transaction_waits_then_is_mined,
    blocks_follow_one_another_and_end_at_the_head,
    the_same_bytes_are_known,
    a_nonce_that_is_mined_is_too_low,
    a_replacement_must_offer_more,
    a_gap_holds_up_what_stands_behind_it,
    a_dropped_transaction_can_be_sent_again,
    an_account_without_funds_is_refused,
    bytes_that_are_no_transaction_are_invalid,
    a_reorg_takes_blocks_receipts_and_nonces_back,
    a_nonce_is_known_at_every_block,
    a_batch_is_paid_then_skipped,
    a_long_batch_is_told_in_the_order_of_its_outcomes,
    a_batch_wants_the_gas_of_all_that_are_minted_together,
    a_caps_refusal_is_told_grant_by_grant,
    a_paused_token_rejects_and_a_paused_distributor_reverts,
    calls_that_revert_say_why,
    logs_are_found_by_block,
    a_claim_is_paid_once_by_either_of_the_newest_two_roots,
}

async fn a_transaction_waits_then_is_mined(ground: Ground) {
    let before = ground.nonce(At::Latest).await;
    let signed = ground.nothing(0, 10, 1).await;
    ground.chain.send(&signed.raw).await.unwrap();
    assert_eq!((ground.nonce(At::Latest).await, ground.nonce(At::Pending).await), (before, before + 1));
    assert!(!ground.is_mined(&signed).await);

    ground.mine().await;
    assert_eq!((ground.nonce(At::Latest).await, ground.nonce(At::Pending).await), (before + 1, before + 1));
    let receipt = ground.chain.receipt(signed.hash).await.unwrap().unwrap();
    let head = ground.chain.head().await.unwrap();
    assert_eq!((receipt.block_number, receipt.block_hash), (head.number, head.hash));
    assert_eq!((receipt.transaction_hash, receipt.succeeded, receipt.gas_used), (signed.hash, true, 21_000));
    assert!(receipt.logs.is_empty());
    assert!(ground.chain.receipt(B256::repeat_byte(9)).await.unwrap().is_none());
}

async fn blocks_follow_one_another_and_end_at_the_head(ground: Ground) {
    let before = ground.chain.head().await.unwrap();
    ground.mine().await;
    let after = ground.chain.head().await.unwrap();
    assert_eq!(after.number, before.number + 1);
    assert_ne!(after.hash, before.hash);
    assert!(after.base_fee_per_gas > 0);
    assert_eq!(ground.chain.block(At::Number(before.number)).await.unwrap(), Some(before));
    assert_eq!(ground.chain.block(At::Number(after.number + 1)).await.unwrap(), None);
    for at in [At::Safe, At::Finalized] {
        let number = ground.chain.block(at).await.unwrap().map_or(0, |block| block.number);
        assert!(number <= after.number, "{at}");
    }
    assert!(ground.chain.priority_fee().await.unwrap() > 0);
    assert_eq!(ground.chain.chain_id().await.unwrap(), CHAIN_ID);
}

async fn the_same_bytes_are_known(ground: Ground) {
    let signed = ground.nothing(0, 10, 1).await;
    ground.chain.send(&signed.raw).await.unwrap();
    assert_eq!(ground.refusal(&signed).await, Some(Refusal::Known));
}

async fn a_nonce_that_is_mined_is_too_low(ground: Ground) {
    let (signed, other) = (ground.nothing(0, 10, 1).await, ground.nothing(0, 20, 2).await);
    ground.chain.send(&signed.raw).await.unwrap();
    ground.mine().await;
    assert_eq!(ground.refusal(&signed).await, Some(Refusal::NonceTooLow));
    assert_eq!(ground.refusal(&other).await, Some(Refusal::NonceTooLow));
}

async fn a_replacement_must_offer_more(ground: Ground) {
    let first = ground.nothing(0, 100, 10).await;
    ground.chain.send(&first.raw).await.unwrap();
    let nonce = ground.nonce(At::Latest).await;
    let no_dearer = sign(&ground.signer, nonce, ground.address(), Bytes::new(), 30_000, 100, 10);
    assert_eq!(ground.refusal(&no_dearer).await, Some(Refusal::ReplacementUnderpriced));
    // What the service offers: an eighth more of both.
    let dear = ground.nothing(0, 113, 12).await;
    ground.chain.send(&dear.raw).await.unwrap();
    ground.mine().await;
    assert!(ground.is_mined(&dear).await);
    assert!(!ground.is_mined(&first).await && !ground.is_mined(&no_dearer).await);
}

/// The rule of geth; anvil takes whatever is dearer.
#[tokio::test]
async fn the_simulated_chain_asks_for_a_tenth_more_of_both_fees() {
    let ground = Ground::simulated().await;
    ground.chain.send(&ground.nothing(0, 100, 10).await.raw).await.unwrap();
    for (max_fee, tip) in [(109, 11), (110, 10), (200, 10)] {
        let cheap = ground.nothing(0, max_fee, tip).await;
        assert_eq!(ground.refusal(&cheap).await, Some(Refusal::ReplacementUnderpriced), "{max_fee} {tip}");
    }
    ground.chain.send(&ground.nothing(0, 110, 11).await.raw).await.unwrap();
}

async fn a_gap_holds_up_what_stands_behind_it(ground: Ground) {
    let before = ground.nonce(At::Latest).await;
    let behind = ground.nothing(1, 10, 1).await;
    ground.chain.send(&behind.raw).await.unwrap();
    assert_eq!(ground.nonce(At::Pending).await, before);
    ground.mine().await;
    assert!(!ground.is_mined(&behind).await);

    let missing = ground.nothing(0, 10, 1).await;
    ground.chain.send(&missing.raw).await.unwrap();
    assert_eq!(ground.nonce(At::Pending).await, before + 2);
    ground.mine().await;
    assert!(ground.is_mined(&missing).await && ground.is_mined(&behind).await);
}

async fn a_dropped_transaction_can_be_sent_again(ground: Ground) {
    let before = ground.nonce(At::Pending).await;
    let signed = ground.nothing(0, 10, 1).await;
    ground.chain.send(&signed.raw).await.unwrap();
    ground.drop_pool().await;
    assert_eq!(ground.nonce(At::Pending).await, before);
    ground.mine().await;
    assert!(!ground.is_mined(&signed).await);

    ground.chain.send(&signed.raw).await.unwrap();
    ground.mine().await;
    assert!(ground.is_mined(&signed).await);
}

async fn an_account_without_funds_is_refused(ground: Ground) {
    let signed = ground.nothing(0, 10, 1).await;
    ground.drain().await;
    assert_eq!(ground.chain.balance(ground.address()).await.unwrap(), U256::from(1000));
    assert_eq!(ground.refusal(&signed).await, Some(Refusal::InsufficientFunds));
}

async fn bytes_that_are_no_transaction_are_invalid(ground: Ground) {
    let error = ground.chain.send(&[2, 0xc0]).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::Invalid), "{error}");
}

async fn a_reorg_takes_blocks_receipts_and_nonces_back(ground: Ground) {
    ground.mine().await;
    let before = ground.nonce(At::Latest).await;
    let signed = ground.nothing(0, 10, 1).await;
    ground.chain.send(&signed.raw).await.unwrap();
    ground.mine().await;
    let receipt = ground.chain.receipt(signed.hash).await.unwrap().unwrap();

    ground.reorg(1).await;
    ground.drop_pool().await;
    let block = ground.chain.block(At::Number(receipt.block_number)).await.unwrap().unwrap();
    assert_ne!(block.hash, receipt.block_hash);
    assert_eq!(ground.nonce(At::Latest).await, before);
    // A node may go on showing a receipt, but only of a block that is gone.
    let shown = ground.chain.receipt(signed.hash).await.unwrap();
    assert!(shown.is_none_or(|shown| shown.block_hash == receipt.block_hash));

    ground.chain.send(&signed.raw).await.unwrap();
    ground.mine().await;
    let again = ground.chain.receipt(signed.hash).await.unwrap().unwrap();
    assert_ne!(again.block_hash, receipt.block_hash);
}

async fn a_nonce_is_known_at_every_block(ground: Ground) {
    let (before, head) = (ground.nonce(At::Latest).await, ground.head().await);
    let signed = ground.nothing(0, 10, 1).await;
    ground.chain.send(&signed.raw).await.unwrap();
    ground.mine().await;
    assert_eq!(ground.nonce(At::Number(head)).await, before);
    assert_eq!(ground.nonce(At::Number(head + 1)).await, before + 1);
}

/// What was told of each grant, by its id.
fn told(ground: &Ground, logs: &[Log]) -> HashMap<GrantId, Outcome> {
    outcomes(logs, ground.deployment.distributor)
}

/// What the distributor told, by the letter.
fn of_distributor(ground: &Ground, logs: &[Log]) -> Vec<(Vec<B256>, Bytes)> {
    let ours = logs.iter().filter(|log| log.address == ground.deployment.distributor);
    ours.map(|log| (log.topics().to_vec(), log.data.data.clone())).collect()
}

async fn a_batch_is_paid_then_skipped(ground: Ground) {
    assert!(ground.deployment.mints_batches);
    let payments = [ground.payment("summer", 1, 10), ground.payment("autumn", 2, 20), ground.payment("autumn", 3, 30)];
    let logs = ground.pay(&payments).await;
    let mut expected = vec![paid(&payments[0]), paid_together("autumn", &payments[1..])];
    expected.sort();
    let mut paid = of_distributor(&ground, &logs);
    paid.sort();
    assert_eq!(paid, expected);
    let of_token: Vec<_> = logs.iter().filter(|log| log.address == ground.deployment.token).collect();
    assert_eq!(of_token.len(), 3);
    assert!(of_token.iter().all(|log| log.topics()[0] == keccak256("Transfer(address,address,uint256)")));

    let logs = ground.pay(&payments).await;
    assert!(told(&ground, &logs).values().all(|outcome| *outcome == Outcome::Skipped));
    assert_eq!(logs.len(), 3);
    for payment in &payments {
        let call = GrantDistributor::isPaidCall { id: payment.grant_id.0 };
        assert!(ground.chain.view(ground.deployment.distributor, &call).await.unwrap());
    }
    let call = GrantDistributor::isPaidCall { id: ground.payment("summer", 4, 1).grant_id.0 };
    assert!(!ground.chain.view(ground.deployment.distributor, &call).await.unwrap());
}

fn paid(payment: &Payment) -> (Vec<B256>, Bytes) {
    let amount = U256::from(payment.token_amount.whole_tokens()) * U256::from(10).pow(U256::from(18));
    let topics = vec![
        keccak256("GrantPaid(uint256,address,uint256)"),
        payment.grant_id.0.into(),
        payment.recipient.address().into_word(),
    ];
    (topics, B256::from(amount).to_vec().into())
}

/// One event with three topics, and the items as the batch has them.
fn paid_together(campaign: &str, payments: &[Payment]) -> (Vec<B256>, Bytes) {
    let prefix = B256::from(payments[0].grant_id.0 >> 64);
    let topics = vec![keccak256("GrantsPaid(bytes32,uint192,bytes)"), keccak256(campaign), prefix];
    let mut data = [U256::from(0x20), U256::from(payments.len() * 40)].map(B256::from).concat();
    for payment in payments {
        let amount = U256::from(payment.token_amount.whole_tokens()) * U256::from(10).pow(U256::from(18));
        data.extend(&payment.grant_id.0.to_be_bytes::<32>()[24..]);
        data.extend(payment.recipient.address());
        data.extend(&amount.to_be_bytes::<32>()[20..]);
    }
    data.resize(data.len().next_multiple_of(32), 0);
    (topics, data.into())
}

/// More than are minted together, of two words, some paid before, a campaign that reaches its cap: the same events in the
/// same order.
async fn a_long_batch_is_told_in_the_order_of_its_outcomes(ground: Ground) {
    let cap = U256::from(1_705) * U256::from(10).pow(U256::from(18));
    let call = GrantDistributor::setCampaignCapCall { campaign: keccak256("summer"), cap };
    ground.administrate(ground.deployment.distributor, &call, |chain| chain.state().cap_campaign("summer", cap)).await;
    let payments: Vec<_> = (180..360).map(|index| ground.payment("summer", index, 10)).collect();
    ground.pay(&payments[100..103]).await;
    let logs = ground.pay(&payments).await;
    let mut transfers = 0;
    let order: Vec<_> = logs
        .iter()
        .filter_map(|log| {
            let ours = log.address == ground.deployment.distributor;
            transfers += u32::from(!ours);
            ours.then(|| (transfers, log.topics()[0]))
        })
        .collect();
    let skipped = keccak256("GrantSkipped(uint256)");
    let rejected = keccak256("GrantRejected(uint256,address,uint256,bytes)");
    let together = keccak256("GrantsPaid(bytes32,uint192,bytes)");
    let mut expected = vec![(100, skipped); 3];
    expected.extend([(167, rejected); 10]);
    expected.push((167, together));
    assert_eq!(order, expected);
    let of_both = [&payments[..100], &payments[103..170]].concat();
    assert_eq!(of_distributor(&ground, &logs).pop().unwrap(), paid_together("summer", &of_both));
}

/// The gas that is wanted before many are minted together, to within what the two chains differ in what is used before.
async fn a_batch_wants_the_gas_of_all_that_are_minted_together(ground: Ground) {
    let payments: Vec<_> = (0..64).map(|index| ground.payment("summer", index, 10)).collect();
    let (call, _) = ground.pay_call(&payments);
    let wanted = (100_000 + 26_000 * 64) * 64 / 63 + 5_000 + 21_000;
    let revert = async |gas: u64| {
        let (from, to) = (ground.address(), ground.deployment.distributor);
        match ground.chain.call(Call { from, to, data: call.clone(), gas_limit: Some(gas) }).await {
            Err(Error::Reverted(data)) => Some(data),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    };
    assert_eq!(revert(wanted).await.unwrap()[..4], keccak256("NotEnoughGas()")[..4]);
    assert_eq!(revert(wanted + 250_000).await, None);
}

async fn a_caps_refusal_is_told_grant_by_grant(ground: Ground) {
    let cap = U256::from(15) * U256::from(10).pow(U256::from(18));
    let call = GrantDistributor::setCampaignCapCall { campaign: keccak256("summer"), cap };
    ground.administrate(ground.deployment.distributor, &call, |chain| chain.state().cap_campaign("summer", cap)).await;
    let payments = [ground.payment("summer", 1, 10), ground.payment("summer", 2, 10), ground.payment("winter", 3, 10)];
    let logs = ground.pay(&payments).await;
    let told = told(&ground, &logs);
    assert_eq!(told[&payments[0].grant_id], Outcome::Paid);
    assert!(
        matches!(&told[&payments[1].grant_id], Outcome::Rejected(failure) if failure.code == "campaign_cap_exceeded")
    );
    assert_eq!(told[&payments[2].grant_id], Outcome::Paid);

    let call = GrantDistributor::setDailyCapCall { cap: U256::ONE };
    ground.administrate(ground.deployment.distributor, &call, |chain| chain.state().cap_days(U256::ONE)).await;
    let (call, gas_limit) = ground.pay_call(&[ground.payment("winter", 4, 10)]);
    assert!(matches!(ground.revert(call, gas_limit).await, BatchRevert::Split(reason) if reason.contains("daily cap")));
}

async fn a_paused_token_rejects_and_a_paused_distributor_reverts(ground: Ground) {
    let pause = GrantToken::pauseCall {};
    ground.administrate(ground.deployment.token, &pause, |chain| chain.state().pause_token(true)).await;
    let payment = ground.payment("summer", 1, 10);
    let logs = ground.pay(std::slice::from_ref(&payment)).await;
    assert!(matches!(&told(&ground, &logs)[&payment.grant_id], Outcome::Postponed(_)));

    let pause = GrantDistributor::pauseCall {};
    ground.administrate(ground.deployment.distributor, &pause, |chain| chain.state().pause(true)).await;
    let (call, gas_limit) = ground.pay_call(std::slice::from_ref(&payment));
    assert!(matches!(ground.revert(call, gas_limit).await, BatchRevert::Wait(_)));
}

async fn calls_that_revert_say_why(ground: Ground) {
    let (call, gas_limit) = ground.pay_call(&[ground.payment("summer", 1, 10)]);
    let reverted = async |from: Address, data: &Bytes, gas_limit: u64| {
        let call = Call { from, to: ground.deployment.distributor, data: data.clone(), gas_limit: Some(gas_limit) };
        match ground.chain.call(call).await {
            Err(Error::Reverted(data)) => data,
            other => panic!("{other:?}"),
        }
    };
    let malformed = GrantDistributor::payCall { batch: vec![0; 57].into() }.abi_encode().into();
    assert_eq!(reverted(ground.address(), &malformed, gas_limit).await[..], keccak256("MalformedBatch()")[..4]);
    assert_eq!(reverted(ground.address(), &call, 150_000).await[..], keccak256("NotEnoughGas()")[..4]);
    let stranger = reverted(Address::repeat_byte(0x77), &call, gas_limit).await;
    let mut expected = keccak256("AccessControlUnauthorizedAccount(address,bytes32)")[..4].to_vec();
    expected.extend(Address::repeat_byte(0x77).into_word());
    expected.extend(keccak256("SUBMITTER_ROLE"));
    assert_eq!(stranger[..], expected[..]);
}

async fn logs_are_found_by_block(ground: Ground) {
    let payments = [1, 2, 3].map(|index| ground.payment("summer", index, 10));
    ground.pay(&payments[..1]).await;
    ground.pay(&payments[1..]).await;
    let head = ground.head().await;
    let distributor = ground.deployment.distributor;
    let expected = [paid(&payments[0]), paid_together("summer", &payments[1..])];
    for (expected, block) in expected.into_iter().zip([head - 1, head]) {
        let found = ground.chain.logs(&payments_between(distributor, block, block)).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].block_number, block);
        let hash = ground.chain.block(At::Number(block)).await.unwrap().unwrap().hash;
        assert_eq!(found[0].block_hash, hash);
        assert_eq!((found[0].log.topics().to_vec(), found[0].log.data.data.clone()), expected);
    }
    let found = ground.chain.logs(&payments_between(distributor, head - 1, head)).await.unwrap();
    let ids: Vec<_> = found.iter().flat_map(|entry| payouts(&entry.log).unwrap()).map(|payout| payout.id).collect();
    assert_eq!(ids, payments.map(|payment| payment.grant_id));
    assert_eq!(found[1].log_index, 2, "behind the token's own events");

    let paid = vec![keccak256("GrantPaid(uint256,address,uint256)"), keccak256("GrantsPaid(bytes32,uint192,bytes)")];
    let of = async |filter: Filter| {
        ground.chain.logs(&filter.address(distributor).event_signature(paid.clone())).await.unwrap().len()
    };
    assert_eq!(of(Filter::new().from_block(head - 1).to_block(head)).await, 2);
    assert_eq!(of(Filter::new().from_block(head).to_block(head)).await, 1);
    assert_eq!(of(Filter::new().from_block(0).to_block(head - 2)).await, 0);
}

async fn a_claim_is_paid_once_by_either_of_the_newest_two_roots(ground: Ground) {
    let campaign = keccak256("airdrop");
    let leaves: Vec<_> = (1..=9_u8)
        .map(|number| {
            let amount = U256::from(number) * U256::from(10).pow(U256::from(18));
            Leaf { id: GrantId::dense(Issuer::new(7), number.into()).0, to: Address::repeat_byte(number), amount }
        })
        .collect();
    let tree = |count: usize| Tree::of(leaves[..count].iter().map(Leaf::hash).collect()).unwrap();
    let publish = async |root: B256| {
        assert!(ground.calls(GrantDistributor::setClaimRootCall { campaign, root }.abi_encode().into()).await);
    };
    let claim = |tree: &Tree, place: usize| -> Bytes {
        let Leaf { id, to, amount } = leaves[place];
        let proof = tree.proof(leaves[place].hash()).unwrap();
        let call: Bytes =
            GrantDistributor::claimCall { campaign, id, to, amount, proof: proof.clone() }.abi_encode().into();
        assert_eq!(call, contracts::claim(&Item { campaign, id, to, amount }, &proof), "written a second time");
        call
    };
    let selector = |error: &str| -> [u8; 4] { keccak256(error)[..4].try_into().unwrap() };
    let [few, more, most] = [3, 7, 9].map(tree);
    assert_eq!(ground.refused(claim(&few, 0)).await, selector("ClaimsClosed(bytes32)"));
    publish(few.root()).await;
    assert!(ground.calls(claim(&few, 0)).await);
    assert_eq!(ground.refused(claim(&few, 0)).await, selector("GrantAlreadyPaid(uint256)"));
    publish(more.root()).await;
    publish(more.root()).await;
    assert!(ground.calls(claim(&few, 1)).await && ground.calls(claim(&more, 6)).await);
    publish(most.root()).await;
    assert_eq!(ground.refused(claim(&few, 2)).await, selector("InvalidClaimProof()"));
    assert!(!ground.calls(claim(&few, 2)).await);
    assert!(ground.calls(claim(&more, 2)).await && ground.calls(claim(&most, 8)).await);
    publish(B256::ZERO).await;
    assert_eq!(ground.refused(claim(&most, 7)).await, selector("ClaimsClosed(bytes32)"));
    publish(most.root()).await;
    assert_eq!(ground.refused(claim(&more, 5)).await, selector("InvalidClaimProof()"));

    // What was claimed is skipped in a batch.
    let payment = Payment { grant_id: GrantId(leaves[0].id), ..ground.payment("summer", 1, 10) };
    let logs = ground.pay(std::slice::from_ref(&payment)).await;
    assert_eq!(told(&ground, &logs), HashMap::from([(payment.grant_id, Outcome::Skipped)]));
    let (distributor, head) = (ground.deployment.distributor, ground.head().await);
    let paid = ground.chain.logs(&payments_between(distributor, 0, head)).await.unwrap();
    assert_eq!(
        paid.iter().filter(|entry| U256::from_be_bytes(entry.log.topics()[1].0) == payment.grant_id.0).count(),
        1
    );
}
