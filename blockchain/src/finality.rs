//! Which block is the last final one. What a deeper reorg takes away is noticed by the gap in the nonces that it leaves
//! ([`crate::gaps`]), or by the auditor.

pub use shared::finality::Finality;

use crate::chain::{At, Block, Chain, Result};

/// The number of the last final block, where there is one.
///
/// # Errors
///
/// When the node does not answer, or does not know the words `safe` and `finalized`.
pub async fn last_block(finality: Finality, chain: &dyn Chain, head: Block) -> Result<Option<u64>> {
    let at = match finality {
        Finality::Blocks(blocks) => return Ok((head.number + 1).checked_sub(blocks)),
        Finality::Safe => At::Safe,
        Finality::Finalized => At::Finalized,
    };
    Ok(chain.block(at).await?.map(|block| block.number))
}
