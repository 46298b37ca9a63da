//! An open-loop load: requests leave when they are due, whatever became of those before them.
//!
//! Latency counts from the moment a request was *due*. Where all connections are busy, requests wait in this process with
//! the clock running, so a service that stalls is seen to stall (no coordinated omission). The generator has a thread and
//! a runtime of its own, and does as little as it can: its CPU is part of the machine that is measured.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{arrivals::Schedule, connection::Connection, template::Template};

/// How long after a failure a connection is opened again.
const RECONNECT: Duration = Duration::from_millis(10);

/// The status of a request that was not answered.
pub(crate) const UNANSWERED: u16 = 0;

/// The moment from which all times of a run count, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    instant: Instant,
    system: SystemTime,
}

impl Epoch {
    /// A moment from now, so that everything can get ready.
    pub(crate) fn after(delay: Duration) -> Self {
        Self { instant: Instant::now() + delay, system: SystemTime::now() + delay }
    }

    /// The time since then; zero before.
    pub(crate) fn elapsed(self) -> Duration {
        self.instant.elapsed()
    }

    /// A time that a service tells, in seconds since the epoch; negative before it.
    pub(crate) fn seconds_at(self, time: chrono::DateTime<chrono::Utc>) -> f64 {
        (time - chrono::DateTime::<chrono::Utc>::from(self.system)).as_seconds_f64()
    }

    pub(crate) fn instant(self) -> tokio::time::Instant {
        self.instant.into()
    }
}

/// What became of a request. Times are since the epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Which grant.
    pub(crate) number: u64,
    /// When it was due.
    pub(crate) due: Duration,
    /// When its answer was read.
    pub(crate) answered: Duration,
    /// [`UNANSWERED`] where there was none.
    pub(crate) status: u16,
}

impl Request {
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.status, 200 | 202)
    }

    pub(crate) fn latency(&self) -> Duration {
        self.answered.saturating_sub(self.due)
    }
}

/// All that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// In the order in which they were answered.
    pub(crate) requests: Vec<Request>,
    /// What the generator's thread has used.
    pub(crate) cpu: Duration,
    /// The most requests that waited for a connection.
    pub(crate) longest_queue: usize,
}

impl Sent {
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.is_accepted())
    }

    /// How many requests were not accepted, by status.
    pub(crate) fn errors(&self) -> BTreeMap<u16, usize> {
        let mut errors = BTreeMap::new();
        for request in self.requests.iter().filter(|request| !request.is_accepted()) {
            *errors.entry(request.status).or_default() += 1;
        }
        errors
    }
}

/// When requests leave.
#[derive(Debug)]
pub(crate) enum Pace {
    /// When they are due.
    Scheduled(Box<Schedule>),
    /// On each connection as soon as the one before was answered, for so long. It finds a ceiling, and no latency.
    Saturated(Duration),
}

/// A load to be put on the services.
#[derive(Debug)]
pub(crate) struct Load {
    /// The replicas, each with its share of the connections.
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) connections: usize,
    /// The number of the first grant.
    pub(crate) first: u64,
    /// How many wallets have the grants, in turn.
    pub(crate) wallets: u64,
    pub(crate) epoch: Epoch,
    /// How long an answer may take after the last request was due; what has none by then is counted as unanswered.
    pub(crate) patience: Duration,
}

impl Load {
    /// Sends it all, and waits for the answers.
    pub(crate) async fn run(self, pace: Pace) -> Result<Sent> {
        let (told, sent) = oneshot::channel();
        thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let sent = runtime.context("no runtime").and_then(|runtime| runtime.block_on(self.send(pace)));
                let _ = told.send(sent);
            })
            .context("cannot start the load generator's thread")?;
        sent.await.map_err(|_| anyhow!("the load generator is gone"))?
    }

    async fn send(self, pace: Pace) -> Result<Sent> {
        let shared = Arc::new(Shared::default());
        let mut connections = JoinSet::new();
        for place in 0..self.connections {
            let target = self.targets[place % self.targets.len()];
            let (wallets, shared, epoch) = (self.wallets, Arc::clone(&shared), self.epoch);
            connections.spawn(async move { Sender { target, wallets, shared, epoch }.run().await });
        }
        sleep_until(self.epoch.instant()).await;
        let began = thread_cpu();
        match pace {
            Pace::Scheduled(schedule) => self.follow(schedule, &shared).await,
            Pace::Saturated(time) => self.saturate(time, &shared).await,
        }
        shared.lock().is_over = true;
        shared.work.notify_waiters();
        let all_answered = timeout(self.patience, async { while connections.join_next().await.is_some() {} }).await;
        if all_answered.is_err() {
            connections.shutdown().await;
        }
        let cpu = thread_cpu().saturating_sub(began);
        let answered = self.epoch.elapsed();
        let mut state = shared.lock();
        let left: Vec<_> = state.queue.drain(..).collect();
        let mut requests = std::mem::take(&mut state.requests);
        let open = std::mem::take(&mut state.open).into_iter();
        let unanswered = |(number, due)| Request { number, due, answered, status: UNANSWERED };
        requests.extend(left.into_iter().chain(open).map(unanswered));
        Ok(Sent { requests, cpu, longest_queue: state.longest_queue })
    }

    async fn follow(&self, schedule: Box<Schedule>, shared: &Shared) {
        let mut number = self.first;
        let mut schedule = schedule.peekable();
        while let Some(next) = schedule.peek() {
            sleep_until(self.epoch.instant() + *next).await;
            let now = self.epoch.elapsed();
            while let Some(due) = schedule.next_if(|due| *due <= now) {
                shared.put(number, due);
                number += 1;
            }
        }
    }

    async fn saturate(&self, time: Duration, shared: &Shared) {
        let mut number = self.first;
        while self.epoch.elapsed() < time {
            // Enough for a millisecond; who is first served is of no interest.
            while shared.lock().queue.len() < self.connections {
                shared.put(number, self.epoch.elapsed());
                number += 1;
            }
            sleep(Duration::from_millis(1)).await;
        }
        shared.lock().queue.clear();
    }
}

/// What generator and connections share, all on one thread.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that wait for a connection.
    queue: VecDeque<(u64, Duration)>,
    /// Requests under way.
    open: BTreeMap<u64, Duration>,
    requests: Vec<Request>,
    longest_queue: usize,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, number: u64, due: Duration) {
        let mut state = self.lock();
        state.queue.push_back((number, due));
        state.longest_queue = state.longest_queue.max(state.queue.len());
        self.work.notify_one();
    }

    /// The next request; none once there will be no more.
    async fn take(&self) -> Option<(u64, Duration)> {
        loop {
            let woken = self.work.notified();
            {
                let mut state = self.lock();
                if let Some((number, due)) = state.queue.pop_front() {
                    state.open.insert(number, due);
                    return Some((number, due));
                }
                if state.is_over {
                    return None;
                }
            }
            woken.await;
        }
    }

    fn answered(&self, request: Request) {
        let mut state = self.lock();
        state.open.remove(&request.number);
        state.requests.push(request);
    }
}

/// One connection.
struct Sender {
    target: SocketAddr,
    wallets: u64,
    shared: Arc<Shared>,
    epoch: Epoch,
}

impl Sender {
    async fn run(self) {
        let mut template = Template::new(self.wallets);
        let mut connection = Connection::open(self.target).await.ok();
        while let Some((number, due)) = self.shared.take().await {
            if connection.is_none() {
                connection = Connection::open(self.target).await.ok();
            }
            let status = match connection.as_mut() {
                Some(open) => open.exchange(template.of(number)).await.map(|answer| answer.status).ok(),
                None => None,
            };
            let answered = self.epoch.elapsed();
            self.shared.answered(Request { number, due, answered, status: status.unwrap_or(UNANSWERED) });
            if status.is_none() {
                connection = None;
                sleep(RECONNECT).await;
            }
        }
    }
}

/// What this thread has used.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::arrivals::{Arrivals, Phase};

    /// Answers each request after `pause`, one at a time over all connections; the first `refused` with 503.
    async fn server(pause: Duration, refused: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let turn = Arc::new(tokio::sync::Mutex::new(refused));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let turn = Arc::clone(&turn);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let mut refuse = turn.lock().await;
                        sleep(pause).await;
                        let status = if *refuse > 0 { "503 No" } else { "202 Accepted" };
                        *refuse = refuse.saturating_sub(1);
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    fn load(target: SocketAddr, connections: usize) -> Load {
        let epoch = Epoch::after(Duration::from_millis(20));
        Load {
            targets: vec![target],
            connections,
            first: 100,
            wallets: u64::MAX,
            epoch,
            patience: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn a_slow_service_is_charged_for_requests_that_could_not_leave() {
        // 100 requests a second to one that takes 20 ms for each: the last is due after 0.49 s and answered after 1 s.
        let target = server(Duration::from_millis(20), 0).await;
        let schedule = Schedule::new(vec![Phase::new(100.0, 0.5)], Arrivals::Constant, 1);
        let sent = load(target, 1).run(Pace::Scheduled(schedule.into())).await.unwrap();
        assert_eq!(sent.requests.len(), 50);
        assert_eq!(sent.errors(), BTreeMap::new());
        let slowest = sent.requests.iter().map(Request::latency).max().unwrap();
        assert!(slowest > Duration::from_millis(450), "{slowest:?}");
        assert!(sent.longest_queue > 10, "{}", sent.longest_queue);
        let numbers: Vec<_> = sent.requests.iter().map(|request| request.number).collect();
        assert_eq!(numbers, (100..150).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn errors_are_counted_by_status() {
        let target = server(Duration::ZERO, 3).await;
        let schedule = Schedule::new(vec![Phase::new(200.0, 0.1)], Arrivals::Constant, 1);
        let sent = load(target, 4).run(Pace::Scheduled(schedule.into())).await.unwrap();
        assert_eq!(sent.errors(), BTreeMap::from([(503, 3)]));
        assert_eq!(sent.accepted().count(), 17);

        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let schedule = Schedule::new(vec![Phase::new(200.0, 0.1)], Arrivals::Constant, 1);
        let sent = load(nobody, 2).run(Pace::Scheduled(schedule.into())).await.unwrap();
        assert_eq!(sent.errors(), BTreeMap::from([(UNANSWERED, 20)]));
    }

    #[tokio::test]
    async fn saturation_keeps_all_connections_busy() {
        let target = server(Duration::ZERO, 0).await;
        let sent = load(target, 8).run(Pace::Saturated(Duration::from_millis(200))).await.unwrap();
        assert!(sent.requests.len() > 20, "{}", sent.requests.len());
        assert!(sent.requests.iter().all(Request::is_accepted));
    }
}
