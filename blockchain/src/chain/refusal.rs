//! What a node's refusal means, by its words: the JSON-RPC codes differ from node to node and say little. Pure.
//!
//! No refusal proves that a transaction is not on its way: another node may have it, or this one keeps what it refuses.
//! Words that nobody has seen from a node are not guessed at, and what a contract said as it reverted is no refusal.

use std::fmt;
use std::str::FromStr;

/// What a node's refusal of a transaction means (`eth_sendRawTransaction`). Of a node's answers to other calls only
/// [`Refusal::Busy`] says anything: asked for a receipt, Erigon has answered "nonce too low" (erigontech/erigon#15031).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node has these very bytes, or had them lately: as good as sent.
    Known,
    /// The nonce is mined: by these bytes, by another attempt, or by somebody else. Only receipts tell.
    NonceTooLow,
    /// The node misses transactions with lower nonces, and takes this one after them.
    NonceTooHigh,
    /// The node has another transaction with this nonce, and these bytes do not pay enough more to take its place.
    ReplacementUnderpriced,
    /// The fees are below what the node or the chain takes now.
    Underpriced,
    /// The signer cannot pay for it.
    InsufficientFunds,
    /// The node never takes these bytes: gas, size, type, chain, signature, or more fees than its operator allows.
    Invalid,
    /// The node has no room, no time or not the newest blocks. Later, or elsewhere, it may go well.
    Busy,
    /// Nothing can be concluded.
    Unknown,
}

impl Refusal {
    const ALL: [Self; 9] = [
        Self::Known,
        Self::NonceTooLow,
        Self::NonceTooHigh,
        Self::ReplacementUnderpriced,
        Self::Underpriced,
        Self::InsufficientFunds,
        Self::Invalid,
        Self::Busy,
        Self::Unknown,
    ];

    /// What a message of a node means.
    #[must_use]
    pub fn of(message: &str) -> Self {
        let message = message.to_lowercase();
        if message.contains("revert") {
            return Self::Unknown;
        }
        let meaning = MEANINGS.iter().find(|(_, words)| says(&message, words));
        meaning.map_or(Self::Unknown, |(refusal, _)| *refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Refusal {
    type Err = UnknownRefusal;

    fn from_str(text: &str) -> Result<Self, UnknownRefusal> {
        Self::ALL.into_iter().find(|refusal| refusal.to_string() == text).ok_or(UnknownRefusal)
    }
}

/// The text is the name of no refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal")]
pub struct UnknownRefusal;

/// Whether an answer to `eth_getLogs` asks for fewer blocks or logs at once. Some nodes say so in words that others use
/// for their rate limit; who asks for one block already should wait.
#[must_use]
pub fn is_range_refusal(message: &str) -> bool {
    let message = message.to_lowercase();
    message == "limit exceeded" || (!says(&message, RANGE_NOT_THERE) && says(&message, RANGE_TOO_WIDE))
}

/// Whether any of the words begins in the message where a word begins: an "unknown transaction" is none that is known.
fn says(message: &str, words: &[&str]) -> bool {
    words
        .iter()
        .any(|words| message.match_indices(words).any(|(at, _)| !message[..at].ends_with(char::is_alphanumeric)))
}

/// The first that matches decides: a replacement that is underpriced is underpriced too, and a wrapper's "internal
/// error" says less than what it wraps.
#[rustfmt::skip]
const MEANINGS: &[(Refusal, &[&str])] = &[
    (Refusal::Known, &[
        "already known", "alreadyknown", "already imported", "already_exists", "known transaction", "same hash",
    ]),
    (Refusal::NonceTooLow, &["nonce too low", "oldnonce"]),
    (Refusal::NonceTooHigh, &[
        "nonce too high", "noncegap", "nonce too far", "noncetoofar", "nonce is too distant", "gapped-nonce",
        "transaction with a lower nonce", "future transaction tries to replace pending",
    ]),
    (Refusal::ReplacementUnderpriced, &[
        "replacement transaction", "replacementnotallowed", "replace existing", "replaced by transaction",
    ]),
    (Refusal::InsufficientFunds, &[
        "insufficient funds", "insufficientfunds", "insufficient balance", "upfront cost exceeds account balance",
    ]),
    (Refusal::Underpriced, &[
        "underpriced", "fee too low", "feetoolow", "gas price below", "priority fee below", "less than block base fee",
        "below the minimum base fee",
    ]),
    (Refusal::Invalid, &[
        // Gas.
        "intrinsic gas", "intrinsicgas", "floor data gas", "gas uint64 overflow", "gasuintoverflow",
        "exceeds block gas limit", "greater than the block gas limit", "gas limit reached", "gaslimitexceeded",
        "gas limit too high", "gas limit is too high", "gas limit cap exceeded", "txgaslimitcapexceeded",
        "exceeds max transaction gas limit", "exceeds maximum per-transaction gas limit",
        // Fees.
        "exceeds the configured cap", "fee cap exceeded", "transaction cost overflow", "invalidmaxpriorityfeepergas",
        "max priority fee per gas higher than", "max priority fee per gas exceeds",
        // Chain, signature and signer.
        "invalid chain id", "invalidtxchainid", "wrong chainid", "chainid not supported", "signed for another chain",
        "replay-protected", "invalid sender", "invalid signature", "invalid transaction signature",
        "invalidtxsignature", "failed to recover sender", "failedtoresolvesender", "sender not an eoa",
        "sender is not an eoa", "senderiscontract", "nonce has max value", "nonce exceeds max nonce",
        // Size, type and form.
        "oversized data", "transaction too large", "maxtxsizeexceeded", "rlptoolong", "max initcode size exceeded",
        "initcode too large", "transaction type not supported", "unsupported transaction type",
        "invalid transaction type", "unknown transaction type", "typed transaction too short", "failed to decode",
        "transaction invalid",
    ]),
    (Refusal::Busy, &[
        // No room.
        "txpool is full", "pool is full", "pool full", "queue full", "account limit exceeded",
        "in-flight transaction limit", "address already reserved", "spammer",
        // Too many requests.
        "rate limit", "rate exceeded", "request limit reached", "rps limit", "credits limited", "too many requests",
        "compute units", "capacity", "limit exceeded",
        // No time, or nobody there.
        "timeout", "timed out", "deadline exceeded", "try again", "please retry", "temporarily not available",
        "not accepting transactions", "healthy to serve traffic", "no backends available", "backend offline",
        // Behind the others.
        "syncing", "initial sync", "not yet in sync", "indexing is in progress", "header not found",
        "block not found", "blockoutofrange", "beyond current head", "missing trie node", "world state unavailable",
        // Trouble of its own.
        "internal error", "internal_error", "unable to complete request", "cannot fulfill request",
    ]),
];

#[rustfmt::skip]
const RANGE_TOO_WIDE: &[&str] = &[
    "block range", "blocks range", "range too large", "range exceeds maximum", "ranges over", "exceeds limit of",
    "eth_getlogs is limited", "limit the query to", "requested too many blocks", "number of requested blocks",
    "query returned more than", "query exceeds max results", "too many logs requested", "response size",
    "response too large", "response is too big", "query timeout", "query timed out",
];

/// A range that ends above the node's head, or before it begins.
const RANGE_NOT_THERE: &[&str] = &["beyond current head", "invalid block range"];

#[cfg(test)]
mod tests;
