//! Waking the workers of other processes: PostgreSQL tells them when a transaction with news is committed.
//!
//! A wake-up may be lost with a connection, so whoever waits for one looks by itself now and then all the same.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Database, Dialect, Result, Tx};
use crate::worker::backoff;

impl Database {
    /// Wakes who [listens](listen) to this channel in any process, once the transaction is committed. SQLite has one
    /// process, whose workers the caller wakes itself.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub async fn wake(&self, tx: &mut Tx, channel: &'static str) -> Result<()> {
        if self.dialect == Dialect::Postgres {
            sqlx::query("-- db::wake\n select pg_notify($1, '')").bind(channel).execute(&mut **tx).await?;
        }
        Ok(())
    }
}

/// Notifies `woken` whenever a process that shares the database wakes this channel, until `shutdown`.
pub async fn listen(url: SecretString, channel: &'static str, woken: Arc<Notify>, shutdown: CancellationToken) {
    if !url.expose_secret().starts_with("postgres") {
        return shutdown.cancelled().await;
    }
    let mut pauses = backoff();
    loop {
        let error = tokio::select! {
            error = hear(&url, channel, &woken) => error,
            () = shutdown.cancelled() => return,
        };
        tracing::debug!(channel, %error, "not told of other processes' news for now");
        tokio::select! {
            () = tokio::time::sleep(pauses.next().unwrap_or_default()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Listens until the connection breaks.
async fn hear(url: &SecretString, channel: &str, woken: &Notify) -> sqlx::Error {
    let listening = async {
        let mut listener = PgListener::connect(url.expose_secret()).await?;
        listener.listen(channel).await?;
        loop {
            // Also when it was reconnected meanwhile (`None`): something may have been missed.
            listener.try_recv().await?;
            woken.notify_one();
        }
    };
    let never: Result<std::convert::Infallible, sqlx::Error> = listening.await;
    match never {
        Err(error) => error,
        Ok(never) => match never {},
    }
}
