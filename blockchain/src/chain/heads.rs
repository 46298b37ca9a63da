//! News of blocks: a node tells of each over a WebSocket as soon as it has it.
//!
//! Nothing depends on it. Whoever waits for a block looks for one now and then all the same, which is what is left where
//! no node tells, or the connection is lost.

use std::sync::Arc;

use alloy::providers::{Provider, ProviderBuilder, WsConnect};
use alloy::transports::{RpcError, TransportErrorKind};
use shared::worker::backoff;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Notifies all of them of each new block, until `shutdown`.
pub async fn watch(url: Url, woken: Vec<Arc<Notify>>, shutdown: CancellationToken) {
    let host = url.host_str().unwrap_or_default().to_owned();
    let mut pauses = backoff();
    loop {
        let ended = tokio::select! {
            ended = follow(&url, &woken) => ended,
            () = shutdown.cancelled() => return,
        };
        metrics::gauge!("block_subscription").set(0);
        let reason = match ended {
            Ok(()) => {
                pauses = backoff();
                "the connection was lost"
            }
            Err(error) => without_url(&error),
        };
        tracing::warn!(host, reason, "not told of new blocks for now, they are looked for instead");
        tokio::select! {
            () = tokio::time::sleep(pauses.next().unwrap_or_default()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Notifies until the connection is lost.
async fn follow(url: &Url, woken: &[Arc<Notify>]) -> Result<(), RpcError<TransportErrorKind>> {
    // Each connection is made here, so that what happened to the last one is known.
    let connection = WsConnect::new(url.as_str()).with_max_retries(0);
    let node = ProviderBuilder::new().disable_recommended_fillers().connect_ws(connection).await?;
    let mut heads = node.subscribe_blocks().await?;
    tracing::info!(host = url.host_str(), "told of new blocks");
    metrics::gauge!("block_subscription").set(1);
    while heads.recv().await.is_ok() {
        for woken in woken {
            woken.notify_one();
        }
    }
    Ok(())
}

/// In words without the URL, into which most providers put the key.
fn without_url(error: &RpcError<TransportErrorKind>) -> &'static str {
    match error {
        RpcError::ErrorResp(_) => "the node does not tell of blocks",
        _ => "no connection",
    }
}
