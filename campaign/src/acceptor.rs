//! Accepts requests: concurrent ones share one transaction, and each is answered after the commit.
//!
//! The queue is bounded. When it is full the caller is refused at once rather than kept waiting, and nothing is stored; nor
//! is anything for a caller that has hung up by its turn.

use std::sync::Arc;
use std::time::Instant;

use shared::clock::Clock;
use shared::db;
use shared::pace::{PACE, Pace};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::domain::admission::{Arrival, Decision};
use crate::store::{Policy, Store};

/// The most requests that wait for a transaction.
const QUEUE: usize = 4096;

/// The most requests that share one transaction.
const BATCH: usize = 500;

/// So many requests do not wait for more to share their transaction.
const ENOUGH: usize = 64;

/// The request was not accepted, and may be sent again.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// As many requests are waiting as may wait.
    #[error("too many requests are waiting")]
    QueueFull,
    /// The transaction did not commit.
    #[error("the database did not take the request")]
    NotStored,
}

#[derive(Debug)]
struct Waiting {
    arrival: Arrival,
    answer: oneshot::Sender<Decision>,
    since: Instant,
}

/// Hands requests to the writer; clones share its queue.
#[derive(Debug, Clone)]
pub struct Acceptor {
    queue: mpsc::Sender<Waiting>,
}

impl Acceptor {
    /// Decides the request, durably: what is answered is committed.
    ///
    /// # Errors
    ///
    /// When nothing was stored.
    pub async fn accept(&self, arrival: Arrival) -> Result<Decision, Refused> {
        let (answer, decision) = oneshot::channel();
        self.queue.try_send(Waiting { arrival, answer, since: Instant::now() }).map_err(|error| match error {
            TrySendError::Full(_) => Refused::QueueFull,
            TrySendError::Closed(_) => Refused::NotStored,
        })?;
        decision.await.map_err(|_| Refused::NotStored)
    }
}

/// Commits what the [`Acceptor`]s queue, a batch at a time.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    clock: Clock,
    queue: mpsc::Receiver<Waiting>,
    outbox_ready: Arc<Notify>,
    policy: Policy,
}

/// An acceptor and its writer. `outbox_ready` is notified after each commit that has something to publish.
#[must_use]
pub fn new(store: Store, clock: Clock, outbox_ready: Arc<Notify>, policy: Policy) -> (Acceptor, Writer) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Acceptor { queue: sender }, Writer { store, clock, queue, outbox_ready, policy })
}

impl Writer {
    /// Commits what is queued until every [`Acceptor`] is gone, or the queue is empty and the server, which holds them,
    /// is `stopped`: a client that keeps its connection open keeps an acceptor too.
    pub async fn run(mut self, stopped: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut pace = Pace::new(PACE);
        loop {
            let received = tokio::select! {
                biased;
                received = self.queue.recv_many(&mut batch, BATCH) => received,
                () = stopped.cancelled() => 0,
            };
            if received == 0 {
                return;
            }
            // Clients that wait for their answers send no more meanwhile: enough of them do not wait for others.
            while batch.len() < ENOUGH {
                tokio::select! {
                    biased;
                    more = self.queue.recv_many(&mut batch, ENOUGH) => if more == 0 { break },
                    () = pace.due() => break,
                }
            }
            pace.begin();
            self.commit(std::mem::take(&mut batch)).await;
        }
    }

    async fn commit(&self, mut batch: Vec<Waiting>) {
        // Who has hung up asks again if it matters; to do the work of those too is what keeps a service that is behind from
        // ever catching up.
        let received = batch.len();
        batch.retain(|waiting| !waiting.answer.is_closed());
        metrics::counter!("grant_requests_total", "outcome" => "abandoned").increment((received - batch.len()) as u64);
        if batch.is_empty() {
            return;
        }
        let start = Instant::now();
        if let Some(first) = batch.first() {
            metrics::histogram!("accept_wait_seconds").record((start - first.since).as_secs_f64());
        }
        let (arrivals, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { arrival, answer, .. }| (arrival, answer)).unzip();
        let decided = self.store.accept(&arrivals, self.clock.now(), self.policy).await;
        metrics::histogram!("accept_commit_seconds").record(start.elapsed().as_secs_f64());
        metrics::histogram!("accept_batch_grants").record(f64::from(u32::try_from(arrivals.len()).unwrap_or(u32::MAX)));
        match decided {
            Ok(decisions) => {
                if decisions.iter().any(|decision| matches!(decision, Decision::New(_))) {
                    self.outbox_ready.notify_one();
                }
                for (decision, answer) in decisions.into_iter().zip(answers) {
                    observe(&decision);
                    // The caller may have hung up meanwhile; its grant is committed all the same.
                    let _ = answer.send(decision);
                }
            }
            // Dropping the answers refuses all of them.
            Err(error) => report(&error, arrivals.len()),
        }
    }
}

fn observe(decision: &Decision) {
    let outcome = match decision {
        Decision::New(grant) => {
            tracing::info!(
                request_id = %grant.request_id,
                user_id = %grant.request.user_id,
                campaign_id = %grant.request.campaign_id,
                token_amount = grant.request.token_amount.whole_tokens(),
                trace_id = grant.trace.map(shared::telemetry::TraceParent::trace_id),
                "grant accepted"
            );
            "accepted"
        }
        Decision::Repeat(_) => "repeated",
        Decision::KeyReused { .. } | Decision::AlreadyGranted { .. } | Decision::Refused(_) => "refused",
    };
    metrics::counter!("grant_requests_total", "outcome" => outcome).increment(1);
}

fn report(error: &db::Error, requests: usize) {
    tracing::error!(%error, requests, "requests were not stored");
    metrics::counter!("grant_requests_total", "outcome" => "not_stored").increment(requests as u64);
}
