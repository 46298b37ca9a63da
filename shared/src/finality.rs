//! When a block is final: a setting, since chains and risks differ.

use std::fmt;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// From when on a block counts as final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub enum Finality {
    /// When so many blocks hold it or follow it: 1 is the block itself. For chains without finality of their own.
    Blocks(u64),
    /// When the chain calls it safe: it takes an attack by a large part of the validators to reorganise it.
    Safe,
    /// When the chain calls it finalized.
    Finalized,
}

/// The text is no finality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of blocks from 1 to {MAX_BLOCKS}, `safe` or `finalized`")]
pub struct InvalidFinality;

const MAX_BLOCKS: u64 = 10_000;

impl FromStr for Finality {
    type Err = InvalidFinality;

    fn from_str(text: &str) -> Result<Self, InvalidFinality> {
        match text {
            "safe" => Ok(Self::Safe),
            "finalized" => Ok(Self::Finalized),
            number => match number.parse() {
                Ok(blocks @ 1..=MAX_BLOCKS) => Ok(Self::Blocks(blocks)),
                _ => Err(InvalidFinality),
            },
        }
    }
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(blocks) => blocks.fmt(f),
            Self::Safe => f.write_str("safe"),
            Self::Finalized => f.write_str("finalized"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finality_is_a_number_of_blocks_or_the_chains_own() {
        for (text, finality) in
            [("1", Finality::Blocks(1)), ("safe", Finality::Safe), ("finalized", Finality::Finalized)]
        {
            assert_eq!(text.parse(), Ok(finality));
            assert_eq!(finality.to_string(), text);
        }
        for wrong in ["0", "10001", "", "Safe", "-1"] {
            assert_eq!(wrong.parse::<Finality>(), Err(InvalidFinality), "{wrong}");
        }
    }
}
