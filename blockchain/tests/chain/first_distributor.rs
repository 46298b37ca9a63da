//! The distributor of the first version, which announces each payment by itself and mints one at a time. Deployments that
//! have it go on.

use alloy::primitives::{Address, Bytes, keccak256};
use alloy::sol_types::{SolConstructor as _, SolEvent as _};
use blockchain::contract::GrantDistributor::{self, GrantPaid};
use blockchain::contract::GrantToken;
use blockchain::deployment::Addresses;
use blockchain::domain::Outcome;
use blockchain::fees::Fees;
use blockchain::signer::Unsigned;
use testkit::anvil::{ADMIN, CHAIN_ID, SUBMITTER};
use testkit::{Contracts, base_units};

use super::{Id, Stage, addresses, mined, pay_as_many_as_fit};

impl Stage {
    /// The same with a distributor of the first version in front of the token.
    async fn with_first_distributor() -> Self {
        let stage = Self::set().await;
        let artifact: serde_json::Value = serde_json::from_str(include_str!("first_distributor.json")).unwrap();
        let code: Bytes = artifact["bytecode"]["object"].as_str().unwrap().parse().unwrap();
        let [admin, submitter] = [ADMIN, SUBMITTER].map(|account| account.address.parse().unwrap());
        let arguments = GrantDistributor::constructorCall { token_: stage.deployed.token, admin, submitter };
        let distributor = create(&stage, [code.as_ref(), &arguments.abi_encode()].concat().into()).await;
        let minter = GrantToken::grantRoleCall { role: keccak256("MINTER_ROLE"), account: distributor };
        stage.administrate(stage.deployed.token, &minter).await;

        let mut deployed = stage.deployed;
        deployed.distributor = distributor;
        let found = Addresses { distributor, ..addresses(&deployed) };
        let (deployment, _) = stage.submitter.verify(found).await.unwrap();
        let (token, wallet_factory) = (deployed.token, deployed.wallet_factory);
        let witness =
            testkit::Chain::new(&stage.anvil.url(), Contracts { token, distributor, wallet_factory }).unwrap();
        Self { deployed, deployment, witness, ..stage }
    }
}

async fn create(stage: &Stage, data: Bytes) -> Address {
    let (base_fee, tip) = stage.admin.chain.asked_fees().await.unwrap();
    let fees = Fees::offer(base_fee, tip, u64::MAX).unwrap();
    let nonce = stage.admin.mined_nonce().await;
    let unsigned = Unsigned { chain_id: CHAIN_ID, nonce, to: None, data, gas_limit: 5_000_000, fees };
    let signed = stage.admin.signer.sign(unsigned).unwrap();
    stage.admin.chain.send(&signed.raw).await.unwrap();
    mined(&stage.admin, &signed).await;
    stage.admin.signer.address().create(nonce)
}

#[tokio::test]
async fn it_is_known_paid_through_and_read() {
    let stage = Stage::with_first_distributor().await;
    assert!(!stage.deployment.mints_batches);
    let payments: Vec<_> = (0..3).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    let receipt = stage.pay(&payments[..2]).await;
    let signatures = receipt.logs.iter().filter(|log| log.address == stage.deployed.distributor);
    assert!(signatures.map(|log| log.topics()[0]).all(|signature| signature == GrantPaid::SIGNATURE_HASH));
    let receipt = stage.pay(&payments).await;
    assert_eq!(stage.outcomes(&receipt, &payments), [Outcome::Skipped, Outcome::Skipped, Outcome::Paid]);
    for payment in &payments {
        let log = stage.submitter.payments_of(stage.deployed.distributor, payment.grant_id).await;
        assert_eq!(log.len(), 1);
    }
    assert_eq!(stage.witness.payments().await.unwrap().len(), 3);
    assert_eq!(stage.witness.total_supply().await.unwrap(), base_units(15));
}

#[tokio::test]
async fn the_gas_suffices_for_five_hundred_fresh_recipients() {
    let stage = Stage::with_first_distributor().await;
    let payments: Vec<_> = (200..700).map(|index| stage.payment("summer", Id::Dense(7, index), 5)).collect();
    assert_eq!(pay_as_many_as_fit(&stage, &payments).await, 500);
}
