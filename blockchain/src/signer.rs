//! The account that pays: the only module that holds a key.

use std::fmt;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy::network::TxSignerSync as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::signers::local::PrivateKeySigner;

use crate::fees::Fees;
use crate::store::LaneId;

/// The transaction could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("signing: {0}")]
pub struct Error(#[from] alloy::signers::Error);

/// A transaction, signed: it can be sent as often as we like and is mined at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Its hash.
    pub hash: B256,
    /// Its bytes (EIP-2718).
    pub raw: Bytes,
}

/// What a transaction says before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// Its place in the lane.
    pub nonce: u64,
    /// The contract; `None` creates one.
    pub to: Option<Address>,
    /// The call, or the creation code.
    pub data: Bytes,
    /// The most gas it may use.
    pub gas_limit: u64,
    /// What it offers for it.
    pub fees: Fees,
}

/// The gas of a transaction that does nothing: 21,000, and what a rollup adds for its data.
const CANCEL_GAS: u64 = 200_000;

impl Unsigned {
    /// A transaction that does nothing but use up a nonce: nothing, from the signer to itself.
    #[must_use]
    pub fn cancel(lane: LaneId, nonce: u64, fees: Fees) -> Self {
        let LaneId { chain_id, signer } = lane;
        Self { chain_id, nonce, to: Some(signer), data: Bytes::new(), gas_limit: CANCEL_GAS, fees }
    }

    /// What signed bytes say.
    ///
    /// # Errors
    ///
    /// When these are not the bytes of such a transaction.
    pub fn decode(raw: &[u8]) -> Result<Self, NotOurs> {
        let envelope = TxEnvelope::decode_2718_exact(raw).map_err(|_| NotOurs)?;
        let TxEnvelope::Eip1559(signed) = envelope else { return Err(NotOurs) };
        let transaction = signed.strip_signature();
        let fee = |wei: u128| u64::try_from(wei).map_err(|_| NotOurs);
        Ok(Self {
            chain_id: transaction.chain_id,
            nonce: transaction.nonce,
            to: transaction.to.into_to(),
            data: transaction.input,
            gas_limit: transaction.gas_limit,
            fees: Fees {
                max_fee_per_gas: fee(transaction.max_fee_per_gas)?,
                max_priority_fee_per_gas: fee(transaction.max_priority_fee_per_gas)?,
            },
        })
    }
}

/// Stored bytes are not those of a transaction that this service has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored bytes of a transaction cannot be read")]
pub struct NotOurs;

/// Whoever signs.
#[derive(Clone)]
pub struct Signer(PrivateKeySigner);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.address()).finish()
    }
}

impl Signer {
    /// The account of this key.
    #[must_use]
    pub fn new(key: PrivateKeySigner) -> Self {
        Self(key)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Signs a transaction (EIP-1559). The same transaction gives the same bytes (RFC 6979).
    ///
    /// # Errors
    ///
    /// When the key's holder refuses.
    pub fn sign(&self, unsigned: Unsigned) -> Result<Signed, Error> {
        let Unsigned { chain_id, nonce, to, data, gas_limit, fees } = unsigned;
        let mut transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fees.max_fee_per_gas.into(),
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas.into(),
            to: to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: alloy::eips::eip2930::AccessList::default(),
            input: data,
        };
        let signature = self.0.sign_transaction_sync(&mut transaction)?;
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() })
    }
}
