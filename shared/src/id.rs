//! The identifiers and amounts that cross the boundary of a service.
//!
//! Each has private fields and one way in, its `FromStr` or `TryFrom`, which serde uses too: a value of one of these
//! types is valid. The errors name the rule and its limit; the caller adds the name of the field.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use alloy::primitives::{Address, U256, keccak256};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use crate::random;

/// The most bytes a textual identifier may have.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing, or nothing but white space.
    #[error("must not be blank")]
    Blank,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("must be at most {MAX_ID_BYTES} bytes, this has {0}")]
    TooLong(usize),
    /// A control character (Unicode category Cc), or white space at either end.
    #[error("must not hold control characters, nor begin or end with white space")]
    Unprintable,
}

fn parse_text(text: &str) -> Result<Arc<str>, InvalidId> {
    if text.trim().is_empty() {
        return Err(InvalidId::Blank);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) || text.trim().len() != text.len() {
        return Err(InvalidId::Unprintable);
    }
    Ok(text.into())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_text(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// A player, as the studio names them. 1 to 128 bytes, no control characters.
    UserId
}
text_id! {
    /// A campaign, as the studio names it. 1 to 128 bytes, no control characters.
    CampaignId
}
text_id! {
    /// One grant, for as long as it exists. Ours are `UUIDv7`; a foreign publisher's may be any text of 1 to 128 bytes.
    RequestId
}
text_id! {
    /// The caller's own name for one request (`Idempotency-Key`), 1 to 128 bytes. It never expires.
    IdempotencyKey
}
text_id! {
    /// Who made something happen, 1 to 128 bytes.
    Actor
}

impl RequestId {
    /// A new identifier, ordered by `at` (`UUIDv7`, RFC 9562).
    #[must_use]
    pub fn unique(at: DateTime<Utc>) -> Self {
        Self(random::ascending_uuid(at).to_string().into())
    }
}

/// Whole tokens to pay: 1 to [`TokenAmount::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u64")]
pub struct TokenAmount(u64);

/// Why a number is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number of tokens from 1 to {}", TokenAmount::MAX)]
pub struct InvalidAmount;

impl TokenAmount {
    /// One billion tokens: with 18 decimals it fits the 96 bits that the contract's packed calldata has for an amount.
    pub const MAX: u64 = 1_000_000_000;

    /// What a grant pays when nobody says otherwise.
    pub const DEFAULT: Self = Self(100);

    /// The number of whole tokens.
    #[must_use]
    pub fn whole_tokens(self) -> u64 {
        self.0
    }
}

impl TryFrom<i64> for TokenAmount {
    type Error = InvalidAmount;

    fn try_from(amount: i64) -> Result<Self, InvalidAmount> {
        match u64::try_from(amount) {
            Ok(amount @ 1..=Self::MAX) => Ok(Self(amount)),
            _ => Err(InvalidAmount),
        }
    }
}

impl FromStr for TokenAmount {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        text.parse::<i64>().map_err(|_| InvalidAmount)?.try_into()
    }
}

impl From<TokenAmount> for u64 {
    fn from(amount: TokenAmount) -> Self {
        amount.0
    }
}

/// How urgent a payment is: 0, which is ordinary, to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct Priority(u8);

/// Why a number is not a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 0 to 9")]
pub struct InvalidPriority;

impl Priority {
    /// Whether it is like that of most others.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        self.0 == 0
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = InvalidPriority;

    fn try_from(number: i64) -> Result<Self, InvalidPriority> {
        match u8::try_from(number) {
            Ok(number @ 0..=9) => Ok(Self(number)),
            _ => Err(InvalidPriority),
        }
    }
}

impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        text.parse::<i64>().map_err(|_| InvalidPriority)?.try_into()
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// An account on the chain, 20 bytes, never the zero address. Written with the checksum of EIP-55, and kept as it is written:
/// a checksum is a hash, and an accepted grant names its wallet in five places.
#[derive(Clone, Copy, PartialEq, Eq, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct WalletAddress([u8; 42]);

/// Why a text is not a wallet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWallet {
    /// Not `0x` and 40 hexadecimal digits.
    #[error("must be 0x and 40 hexadecimal digits")]
    Malformed,
    /// Mixed case that does not match the checksum of EIP-55: most likely a typing error.
    #[error("has a wrong EIP-55 checksum; did you mean {0}?")]
    Checksum(Address),
    /// Tokens sent to the zero address are lost, and ERC-20 forbids to mint there.
    #[error("must not be the zero address")]
    Zero,
}

impl WalletAddress {
    /// The account's 20 bytes.
    ///
    /// # Panics
    ///
    /// Never: it was made of them.
    #[must_use]
    pub fn address(self) -> Address {
        self.as_str().parse().expect("it was made from an address")
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl TryFrom<Address> for WalletAddress {
    type Error = InvalidWallet;

    fn try_from(address: Address) -> Result<Self, InvalidWallet> {
        if address.is_zero() {
            return Err(InvalidWallet::Zero);
        }
        let mut text = [0; 42];
        text.copy_from_slice(address.to_checksum_buffer(None).as_str().as_bytes());
        Ok(Self(text))
    }
}

impl FromStr for WalletAddress {
    type Err = InvalidWallet;

    /// Accepts the EIP-55 form, and all lower or all upper case, which carry no checksum.
    fn from_str(text: &str) -> Result<Self, InvalidWallet> {
        let digits = text.strip_prefix("0x").ok_or(InvalidWallet::Malformed)?;
        let address: Address = text.parse().map_err(|_| InvalidWallet::Malformed)?;
        let has = |test: fn(&u8) -> bool| digits.as_bytes().iter().any(test);
        let mixed_case = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
        let wallet = Self::try_from(address)?;
        if mixed_case && wallet.as_str() != text {
            return Err(InvalidWallet::Checksum(address));
        }
        Ok(wallet)
    }
}

impl fmt::Display for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WalletAddress").field(&self.address()).finish()
    }
}

/// The deployment whose store numbers its grants: a random number, drawn once per campaign store. On the wire it is 16
/// hexadecimal digits, since JSON numbers of that size lose digits in many readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct Issuer(u64);

impl Issuer {
    /// An issuer from its number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Why a text is not an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 hexadecimal digits")]
pub struct InvalidIssuer;

impl FromStr for Issuer {
    type Err = InvalidIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidIssuer> {
        if text.len() != 16 {
            return Err(InvalidIssuer);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidIssuer)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The id under which the distributor keeps a grant's paid bit. On the wire it is 0x and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId(pub U256);

impl GrantId {
    /// The id of an issuer's grant, `issuer << 64 | grant_index`.
    #[must_use]
    pub fn dense(issuer: Issuer, grant_index: u64) -> Self {
        Self(U256::from(issuer.number()) << 64 | U256::from(grant_index))
    }

    /// The id of a grant that nobody has numbered: a hash with its top bit set, which no dense id has.
    #[must_use]
    pub fn sparse(request_id: &RequestId) -> Self {
        let hash = U256::from_be_bytes(keccak256(request_id.as_str()).0);
        Self(hash | U256::ONE << 255)
    }

    /// Whose numbering a dense id belongs to, and its number; `None` for one without.
    #[must_use]
    pub fn number(self) -> Option<(Issuer, u64)> {
        let [index, issuer, 0, 0] = *self.0.as_limbs() else { return None };
        Some((Issuer::new(issuer), index))
    }
}

/// Why a text is not an id on chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits")]
pub struct InvalidGrantId;

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:064x}", self.0)
    }
}

impl FromStr for GrantId {
    type Err = InvalidGrantId;

    fn from_str(text: &str) -> Result<Self, InvalidGrantId> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() != 64 {
            return Err(InvalidGrantId);
        }
        U256::from_str_radix(digits, 16).map(Self).map_err(|_| InvalidGrantId)
    }
}

impl TryFrom<String> for GrantId {
    type Error = InvalidGrantId;

    fn try_from(text: String) -> Result<Self, InvalidGrantId> {
        text.parse()
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        format!("0x{id}")
    }
}

/// An amount as the token's contract counts it: whole tokens times 10 to the power of its decimals. In JSON it is a string
/// of decimal digits, since it has up to 96 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct BaseUnits(U256);

/// Why a text is not an amount in base units.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be decimal digits, at most 96 bits of them")]
pub struct InvalidBaseUnits;

impl BaseUnits {
    /// The number.
    #[must_use]
    pub fn number(self) -> U256 {
        self.0
    }
}

impl TryFrom<U256> for BaseUnits {
    type Error = InvalidBaseUnits;

    /// The distributor pays at most 96 bits.
    fn try_from(number: U256) -> Result<Self, InvalidBaseUnits> {
        if number.bit_len() <= 96 { Ok(Self(number)) } else { Err(InvalidBaseUnits) }
    }
}

impl FromStr for BaseUnits {
    type Err = InvalidBaseUnits;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUnits> {
        U256::from_str_radix(text, 10).map_err(|_| InvalidBaseUnits)?.try_into()
    }
}

impl fmt::Display for BaseUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_ids_refuse_what_cannot_be_read_back() {
        let parse = |text: &str| text.parse::<UserId>().map(|id| id.to_string());
        assert_eq!(parse("alice"), Ok("alice".into()));
        assert_eq!(parse("player 7 / ünïcode"), Ok("player 7 / ünïcode".into()));
        assert_eq!(parse(""), Err(InvalidId::Blank));
        assert_eq!(parse(" \t"), Err(InvalidId::Blank));
        assert_eq!(parse(&"x".repeat(129)), Err(InvalidId::TooLong(129)));
        assert_eq!(parse("a\0b"), Err(InvalidId::Unprintable));
        assert_eq!(parse("a\u{85}b"), Err(InvalidId::Unprintable));
        assert_eq!(parse(" a"), Err(InvalidId::Unprintable));
    }

    #[test]
    fn amounts_are_whole_positive_and_bounded() {
        for bad in ["0", "-1", "1.5", "", "1000000001", "99999999999999999999", "1e3"] {
            assert_eq!(bad.parse::<TokenAmount>(), Err(InvalidAmount), "{bad}");
        }
        assert_eq!("1000000000".parse::<TokenAmount>().map(u64::from), Ok(1_000_000_000));
    }

    #[test]
    fn the_index_is_the_low_word_of_a_dense_id() {
        assert_eq!(GrantId::dense(Issuer::new(7), 3).0.as_limbs(), &[3, 7, 0, 0]);
        assert_eq!(GrantId::dense(Issuer::new(7), 3).to_string().len(), 64);
    }

    #[test]
    fn wallets_follow_eip_55() {
        // The vectors of the EIP itself.
        for good in [
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "0xde709f2102306220921060314715629080e2fb77",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        ] {
            assert!(good.parse::<WalletAddress>().is_ok(), "{good}");
        }
        let wrong = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".parse::<WalletAddress>();
        assert!(matches!(wrong, Err(InvalidWallet::Checksum(_))));
        assert_eq!("0x0000000000000000000000000000000000000000".parse::<WalletAddress>(), Err(InvalidWallet::Zero));
        for bad in [
            "",
            "0x",
            "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0x5aAeb6",
            "0xzz",
            "0Xde709f2102306220921060314715629080e2fb77",
        ] {
            assert_eq!(bad.parse::<WalletAddress>(), Err(InvalidWallet::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_issuer_survives_the_wire(number: u64) {
            let issuer = Issuer::new(number);
            prop_assert_eq!(issuer.to_string().parse(), Ok(issuer));
        }

        #[test]
        fn dense_ids_differ_from_each_other_and_from_sparse_ones(a: (u64, u64), b: (u64, u64), request_id in "[a-z]{1,9}") {
            let dense = |(issuer, index)| GrantId::dense(Issuer::new(issuer), index);
            prop_assert_eq!(dense(a) == dense(b), a == b);
            prop_assert!(!dense(a).0.bit(255));
            prop_assert_eq!(dense(a).number(), Some((Issuer::new(a.0), a.1)));
            let sparse = GrantId::sparse(&request_id.parse().unwrap());
            prop_assert!(sparse.0.bit(255));
            prop_assert_eq!(sparse.number(), None);
            for id in [dense(a), sparse] {
                prop_assert_eq!(id.to_string().parse(), Ok(id));
                prop_assert_eq!(GrantId::try_from(String::from(id)), Ok(id));
            }
        }

        #[test]
        fn base_units_have_96_bits_at_most(low: u128) {
            let number = U256::from(low);
            let amount = number.to_string().parse::<BaseUnits>();
            prop_assert_eq!(amount.is_ok(), low >> 96 == 0);
            if let Ok(amount) = amount {
                prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            }
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = text.parse::<GrantId>();
            let _ = text.parse::<BaseUnits>();
            let _ = text.parse::<UserId>();
            let _ = text.parse::<WalletAddress>();
            let _ = text.parse::<TokenAmount>();
        }
    }
}
