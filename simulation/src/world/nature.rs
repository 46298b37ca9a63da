//! What neither service does: blocks, reorgs, fees, time, and a broker that forgets.

use alloy::primitives::U256;
use chrono::TimeDelta;

use super::World;
use crate::chain::GWEI;
use crate::chain::contracts::DECIMALS;
use crate::client::CAMPAIGNS;
use crate::dice::Dice;
use crate::plan::Kind;
use crate::services::signer;

impl World {
    /// What neither service does.
    pub(super) fn nature(&mut self, kind: Kind, dice: &mut Dice) {
        let chain = self.chain.clone();
        let mut state = chain.state();
        let line = match kind {
            Kind::Mine => {
                let full = dice.below(4) != 0;
                let held = state.mine(|| full || dice.below(2) == 0);
                format!("block {} with {held} transactions, {} wait", state.head().number, state.pool_size())
            }
            Kind::Reorg => {
                let (depth, back) = (dice.between(1, 6), dice.below(4));
                let mut again = dice.clone();
                let depth =
                    state.reorg(depth, || back < 2 || (back == 2 && dice.below(2) == 0), || again.below(3) != 0);
                self.count.reorged += depth;
                format!("reorg of {depth} blocks, the head is {} now, {} wait", state.head().number, state.pool_size())
            }
            Kind::DeepReorg => {
                let depth = state.deep_reorg(dice.between(2, 12));
                self.count.reorged += depth;
                self.witness.lose_finality();
                format!("{depth} blocks are gone, final or not, the head is {} now", state.head().number)
            }
            Kind::DropPool => {
                let all = dice.below(2) == 0;
                format!("{} transactions are forgotten", state.drop_pool(|| !all && dice.below(2) == 0))
            }
            Kind::Fee => {
                state.base_fee = [GWEI, GWEI, 3 * GWEI, 40 * GWEI, 600 * GWEI][dice.place(5)];
                format!("the base fee is {} gwei", state.base_fee / GWEI)
            }
            Kind::Funds if dice.below(2) == 0 => {
                state.drain(signer());
                "the signer's ether is gone".to_owned()
            }
            Kind::Funds => {
                state.fund(signer());
                "the signer gets ether".to_owned()
            }
            Kind::Pause => {
                let paused = dice.below(2) == 0;
                if dice.below(2) == 0 {
                    state.pause(paused);
                } else {
                    state.pause_token(paused);
                }
                format!("distributor or token: paused is {paused}")
            }
            Kind::Cap => {
                let tokens = [0, 500, 5000, 50_000][dice.place(4)];
                let cap = U256::from(tokens) * U256::from(10).pow(U256::from(DECIMALS));
                if dice.below(2) == 0 {
                    state.cap_days(cap);
                    format!("a day may pay {tokens} tokens")
                } else {
                    let campaign = CAMPAIGNS[dice.place(CAMPAIGNS.len())];
                    state.cap_campaign(campaign, cap);
                    format!("{campaign} may pay {tokens} tokens")
                }
            }
            Kind::Amnesia => {
                self.network.forget();
                "the broker forgets everything".to_owned()
            }
            Kind::Intruder => {
                let nonce = state.intrude(signer(), dice.below(4) == 0);
                format!("somebody else uses nonce {nonce} of the signer")
            }
            Kind::Jump => {
                let seconds = dice.below(7200).cast_signed() - 3600;
                self.clocks[dice.place(2)].advance(TimeDelta::seconds(seconds));
                format!("a clock jumps by {seconds} s")
            }
            _ => {
                drop(state);
                self.pass_time(dice.between(1000, 120_000));
                return self.note("time passes");
            }
        };
        drop(state);
        self.note(line);
    }
}
