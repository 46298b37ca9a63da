//! Watches, while a load runs, what anybody could see from outside: how many grants are completed, and which block is the
//! newest. Each value has the time at which its answer had arrived, so what is seen is never seen too early.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    connection::{self, Connection},
    load::Epoch,
    spread::{float, slope},
    template::CAMPAIGN,
};

/// How far apart the points are through which a line is laid.
const STEP: Duration = Duration::from_millis(50);

/// A growing number, and when it was first seen to be so large.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    points: Vec<(Duration, u64)>,
}

impl Curve {
    fn see(&mut self, at: Duration, value: u64) {
        if self.points.last().is_none_or(|last| value > last.1) {
            self.points.push((at, value));
        }
    }

    /// When it was first seen to be at least this.
    pub(crate) fn reached(&self, value: u64) -> Option<Duration> {
        let at = self.points.partition_point(|point| point.1 < value);
        self.points.get(at).map(|point| point.0)
    }

    /// Its last value.
    pub(crate) fn last(&self) -> u64 {
        self.points.last().map_or(0, |point| point.1)
    }

    /// Its value at a time.
    pub(crate) fn at(&self, time: Duration) -> u64 {
        let after = self.points.partition_point(|point| point.0 <= time);
        if after == 0 { self.points.first().map_or(0, |point| point.1) } else { self.points[after - 1].1 }
    }

    /// How much it grew each second between two times: the slope of the line that fits it best. It grows by a block at a
    /// time, so a difference of two values would say as much about where the ends fall between two blocks.
    pub(crate) fn rate(&self, from: Duration, to: Duration) -> Option<f64> {
        let times = (0..).map(|step| from + STEP * step).take_while(|time| *time <= to);
        let points: Vec<_> = times.map(|time| (time.as_secs_f64(), float(self.at(time)))).collect();
        slope(&points)
    }
}

/// A curve that is being drawn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    curve: Arc<Mutex<Curve>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// The completed grants of the benchmark's campaign: its tokens spent, since each grant is one token.
    pub(crate) fn completed(campaign: SocketAddr, every: Duration, epoch: Epoch) -> Self {
        #[derive(Deserialize)]
        struct Campaign {
            spent: u64,
        }
        let request = connection::get(&format!("/campaigns/{CAMPAIGN}"));
        Self::start(campaign, request, every, epoch, |body| Some(serde_json::from_slice::<Campaign>(body).ok()?.spent))
    }

    /// The number of the chain's newest block.
    pub(crate) fn blocks(node: SocketAddr, every: Duration, epoch: Epoch) -> Self {
        #[derive(Deserialize)]
        struct Told<'a> {
            result: &'a str,
        }
        let request = connection::post("/", "", r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#);
        Self::start(node, request, every, epoch, |body| {
            let told: Told<'_> = serde_json::from_slice(body).ok()?;
            u64::from_str_radix(told.result.strip_prefix("0x")?, 16).ok()
        })
    }

    fn start(
        target: SocketAddr,
        request: Vec<u8>,
        every: Duration,
        epoch: Epoch,
        read: impl Fn(&[u8]) -> Option<u64> + Send + 'static,
    ) -> Self {
        let curve = Arc::new(Mutex::new(Curve::default()));
        let drawn = Arc::clone(&curve);
        let task = tokio::spawn(async move {
            let mut connection: io::Result<Connection> = Connection::open(target).await;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let value = match &mut connection {
                    Ok(open) => open.exchange(&request).await.map(|answer| read(answer.body)),
                    Err(_) => Err(io::ErrorKind::NotConnected.into()),
                };
                match value {
                    Ok(Some(value)) => lock(&drawn).see(epoch.elapsed(), value),
                    Ok(None) => {}
                    Err(_) => connection = Connection::open(target).await,
                }
            }
        });
        Self { curve, task }
    }

    pub(crate) fn last(&self) -> u64 {
        lock(&self.curve).last()
    }

    /// What was seen so far.
    pub(crate) fn curve(&self) -> Curve {
        lock(&self.curve).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(curve: &Mutex<Curve>) -> std::sync::MutexGuard<'_, Curve> {
    curve.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u64, u64)]) -> Curve {
        let mut curve = Curve::default();
        for (at, value) in points {
            curve.see(Duration::from_secs(*at), *value);
        }
        curve
    }

    #[test]
    fn a_value_is_seen_when_the_curve_first_reaches_it() {
        let curve = curve(&[(1, 10), (2, 10), (3, 20), (4, 15), (5, 40)]);
        let seconds = |value| curve.reached(value).map(|at| at.as_secs());
        assert_eq!(
            [seconds(1), seconds(10), seconds(11), seconds(40), seconds(41)],
            [Some(1), Some(1), Some(3), Some(5), None]
        );
        assert_eq!((curve.last(), curve.at(Duration::from_secs(4)), curve.at(Duration::ZERO)), (40, 20, 10));
    }

    #[test]
    fn a_rate_does_not_depend_on_where_it_begins_within_a_step() {
        let curve = curve(&(0..70).map(|second| (second, second * 1000)).collect::<Vec<_>>());
        for from in [5000, 5050, 5500, 5950] {
            let rate = curve.rate(Duration::from_millis(from), Duration::from_millis(65_200)).unwrap();
            assert!((rate - 1000.0).abs() < 2.0, "{rate} from {from} ms on");
        }
    }
}
