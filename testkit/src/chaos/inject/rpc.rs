//! Faults of what the node tells the blockchain service.

use std::time::Duration;

use super::{World, all_told, hold, ms};
use crate::rpc_proxy::{Liar, Lie};

impl World {
    pub(super) async fn lie(&self, lie: Lie, times: u32, time: Duration, liar: Liar) -> u32 {
        let armed = self.rpc.arm(lie, times, liar);
        all_told(time, || self.rpc.told(armed) == times).await;
        let told = self.rpc.disarm(armed);
        if let Lie::Withheld { milliseconds } = lie
            && told > 0
        {
            // The last of them is not over before its answer could have come.
            hold(ms(milliseconds)).await;
        }
        told
    }
}
