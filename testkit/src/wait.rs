//! Waiting for a condition: the only way time passes in tests. Nothing here sleeps for a guessed while; a condition is
//! polled until it holds or its timeout is over, and the error names what was waited for.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Time between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(50);

/// Polls `condition` until it is true.
///
/// # Errors
/// When it is not true within `timeout`; the message names `what`.
pub async fn until<F, C>(timeout: Duration, what: &str, mut condition: C) -> Result<()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    until_some(timeout, what, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await
}

/// Polls `look` until it sees something, and returns that.
///
/// # Errors
/// When it sees nothing within `timeout`; the message names `what`.
pub async fn until_some<T, F, L>(timeout: Duration, what: &str, mut look: L) -> Result<T>
where
    L: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + timeout;
    loop {
        if let Ok(Some(seen)) = timeout_at(deadline, look()).await {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            bail!("timed out after {timeout:?} waiting for {what}");
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_condition_is_awaited_until_it_holds() {
        let looks = Cell::new(0);
        until(Duration::from_secs(5), "three looks", || {
            looks.set(looks.get() + 1);
            let enough = looks.get() == 3;
            async move { enough }
        })
        .await
        .unwrap();
        assert_eq!(looks.get(), 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_answers_times_out_by_name() {
        let error = until(Duration::from_millis(60), "the end of days", std::future::pending).await.unwrap_err();
        assert!(error.to_string().contains("the end of days"), "{error}");
    }
}
