//! `blockchain pause` and `blockchain unpause`: so when they return, or a reason why not.

use blockchain::pause::{Paused, Pausing};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;

fn pausing(stage: &Stage, account: Account) -> Pausing {
    Pausing {
        rpc_url: vec![stage.anvil.url().parse().unwrap()],
        distributor_address: stage.deployed.distributor,
        pauser_key: account.key.into(),
    }
}

#[tokio::test]
async fn a_pause_is_so_when_the_command_returns_and_a_repeat_sends_nothing() {
    let stage = Stage::set().await;
    let payments = [stage.payment("summer", Id::Dense(7, 0), 5)];
    let batch = stage.pack(&payments);
    let sent_before = stage.admin.mined_nonce().await;
    let admin = pausing(&stage, ADMIN);
    // The first node is away.
    let away = format!("http://127.0.0.1:{}", ports::free().unwrap()).parse().unwrap();
    let two_nodes = Pausing { rpc_url: vec![away, admin.rpc_url[0].clone()], ..admin.clone() };

    let paused = two_nodes.run(true).await.unwrap();
    assert!(paused.paused && paused.changed && paused.block_number.is_some(), "{paused:?}");
    let revert = stage.revert(&stage.submitter, call(&batch), Some(batch.gas_limit)).await;
    assert_eq!(revert, BatchRevert::Wait("the distributor is paused".into()));
    let again = admin.run(true).await.unwrap();
    let expected = Paused { changed: false, transaction_hash: None, block_number: None, ..paused };
    assert_eq!(again, expected);

    let unpaused = admin.run(false).await.unwrap();
    assert!(!unpaused.paused && unpaused.changed, "{unpaused:?}");
    assert_ne!(unpaused.transaction_hash, paused.transaction_hash);
    assert_eq!(admin.run(false).await.unwrap(), Paused { paused: false, ..expected });
    assert_eq!(stage.admin.mined_nonce().await - sent_before, 2, "one transaction each");
    let receipt = stage.pay(&payments).await;
    assert_eq!(stage.outcomes(&receipt, &payments), [Outcome::Paid]);
}

#[tokio::test]
async fn who_cannot_pause_is_told_why_and_sends_nothing() {
    let stage = Stage::set().await;
    let (distributor, empty) = (stage.deployed.distributor, Address::repeat_byte(0xee));
    let admin = pausing(&stage, ADMIN);
    let stranger = pausing(&stage, STRANGER);
    let no_role =
        format!("its account {} does not hold PAUSER_ROLE at the distributor {distributor}", STRANGER.address);
    for (pausing, expected) in [
        (stranger.clone(), no_role.as_str()),
        (Pausing { pauser_key: "hunter2".into(), ..admin.clone() }, "PAUSER_KEY must be a private key"),
        (Pausing { distributor_address: empty, ..admin.clone() }, "DISTRIBUTOR_ADDRESS: there is no contract at"),
        (
            Pausing { distributor_address: stage.deployed.token, ..admin.clone() },
            "DISTRIBUTOR_ADDRESS is not a GrantDistributor",
        ),
    ] {
        let error = format!("{:#}", pausing.run(true).await.unwrap_err());
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        assert!(!error.contains("hunter2") && !format!("{pausing:?}").contains(pausing_key(&pausing)), "{error}");
    }
    assert_eq!(connect(&stage.anvil, STRANGER).mined_nonce().await, 0);
    assert!(admin.run(true).await.unwrap().changed, "nobody has paused it before");

    // Once it holds the role, it may.
    let role = keccak256("PAUSER_ROLE");
    let grant = GrantDistributor::grantRoleCall { role, account: STRANGER.address.parse().unwrap() };
    stage.administrate(distributor, &grant).await;
    assert!(stranger.run(false).await.unwrap().changed);
}

fn pausing_key(pausing: &Pausing) -> &str {
    pausing.pauser_key.expose_secret()
}

#[tokio::test]
async fn a_pause_takes_the_place_of_what_waits_to_be_mined() {
    let stage = Stage::set().await;
    stage.witness.rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    // It waits, and so would whatever came after it.
    let waits = sign(&stage.admin, stage.admin.signer.address(), Bytes::new(), 21_000).await;
    stage.admin.chain.send(&waits.raw).await.unwrap();

    let replaced = async {
        let gone =
            || async { stage.witness.rpc("eth_getTransactionByHash", json!([waits.hash])).await.unwrap().is_null() };
        testkit::until(SOON, "another transaction in its place", gone).await.unwrap();
        stage.witness.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    };
    let admin = pausing(&stage, ADMIN);
    let (paused, ()) = tokio::join!(admin.run(true), replaced);
    assert!(paused.unwrap().changed);
    assert_eq!(stage.admin.chain.receipt(waits.hash).await.unwrap(), None);
}
