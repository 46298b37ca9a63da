//! Messages that a broker should not deliver, and does: again, late, out of order, malformed, hostile.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus, seq::SliceRandom as _};
use serde_json::{Value, json};

use crate::pubsub::{Message, Pubsub};

/// The two topics.
pub(super) const TOPICS: [&str; 2] = ["token-grant-requests", "token-grant-results"];

/// Messages of a topic that are remembered.
const REMEMBERED: usize = 500;

/// Reads along, so that messages can be published again.
#[derive(Debug, Default)]
pub(super) struct Observer {
    seen: Mutex<[Vec<Message>; 2]>,
}

impl Observer {
    /// Sees everything published from now on, unless it does so already.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) async fn subscribe(&self, pubsub: &Pubsub) -> Result<()> {
        for topic in TOPICS {
            let subscription = subscription(topic);
            if let Some(about) = pubsub.describe("subscriptions", &subscription).await?
                && about["topic"] == "_deleted-topic_"
            {
                pubsub.delete("subscriptions", &subscription).await?;
            }
            pubsub.create_subscription(topic, &subscription).await?;
        }
        Ok(())
    }

    /// Reads what has been published since the last time.
    async fn catch_up(&self, pubsub: &Pubsub) -> Result<()> {
        for (at, topic) in TOPICS.into_iter().enumerate() {
            let subscription = subscription(topic);
            for _ in 0..5 {
                let messages = pubsub.pull(&subscription, 500).await?;
                if messages.is_empty() {
                    break;
                }
                pubsub.acknowledge(&subscription, &messages).await?;
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen[at].extend(messages);
                let surplus = seen[at].len().saturating_sub(REMEMBERED);
                seen[at].drain(..surplus);
            }
        }
        Ok(())
    }

    /// Messages that were seen on a topic, in any order.
    fn some(&self, topic: usize, most: usize, random: &mut Xoshiro256PlusPlus) -> Vec<Message> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut some = seen[topic].clone();
        some.shuffle(random);
        some.truncate(most);
        some
    }

    /// Publishes up to `most` messages of each topic again, every other one with its times so many hours late. Returns
    /// how many.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) async fn repeat(&self, pubsub: &Pubsub, most: usize, hours_late: u32) -> Result<u32> {
        self.subscribe(pubsub).await?;
        self.catch_up(pubsub).await?;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(most as u64);
        let mut repeated = 0;
        for (at, topic) in TOPICS.into_iter().enumerate() {
            for (n, message) in self.some(at, most, &mut random).into_iter().enumerate() {
                let data = if n % 2 == 0 { message.data.clone() } else { late(&message, hours_late)? };
                publish(pubsub, topic, &data, &message).await?;
                repeated += 1;
            }
        }
        Ok(repeated)
    }

    /// Publishes so many messages that no honest program would; returns how many.
    ///
    /// Some are forged: requests that were made already, with another amount, recipient or id, and results that name
    /// somebody else's grant. `is_final` says of which requests the end is known, since only those can be forged without
    /// being first.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) async fn publish_hostile(
        &self,
        pubsub: &Pubsub,
        most: usize,
        salt: u64,
        is_final: impl AsyncFn(&str) -> bool,
    ) -> Result<u32> {
        self.subscribe(pubsub).await?;
        self.catch_up(pubsub).await?;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(salt);
        let mut published = 0;
        for n in 0..most {
            let topic = random.random_range(0..TOPICS.len());
            let (data, attributes) = if n % 3 == 2 {
                let Some(forged) = self.forged(topic, &mut random, &is_final).await? else { continue };
                forged
            } else {
                (malformed(topic, &mut random), Message::default())
            };
            publish(pubsub, TOPICS[topic], &data, &attributes).await?;
            published += 1;
        }
        Ok(published)
    }

    /// A message that contradicts one that was seen.
    async fn forged(
        &self,
        topic: usize,
        random: &mut Xoshiro256PlusPlus,
        is_final: &impl AsyncFn(&str) -> bool,
    ) -> Result<Option<(Vec<u8>, Message)>> {
        for message in self.some(topic, 20, random) {
            let mut body = message.json()?;
            let Some(request_id) = body["request_id"].as_str().map(str::to_owned) else { continue };
            if topic == 0 {
                if !is_final(&request_id).await {
                    continue;
                }
                match random.random_range(0..3) {
                    0 => body["token_amount"] = json!(999_999_999),
                    1 => body["wallet_address"] = json!("0x00000000000000000000000000000000DeaDBeef"),
                    // The number on chain of a grant that is there already, under another name.
                    _ => body["request_id"] = json!(format!("forged-{request_id}")),
                }
            } else {
                match random.random_range(0..3) {
                    0 => body["user_id"] = json!("mallory"),
                    1 => body["campaign_id"] = json!("mallory's"),
                    _ => body["request_id"] = json!(format!("nobody-{request_id}")),
                }
            }
            return Ok(Some((serde_json::to_vec(&body)?, message)));
        }
        Ok(None)
    }
}

fn subscription(topic: &str) -> String {
    format!("{topic}-chaos")
}

async fn publish(pubsub: &Pubsub, topic: &str, data: &[u8], like: &Message) -> Result<()> {
    let attributes: Vec<_> = like.attributes.iter().map(|(key, value)| (&**key, &**value)).collect();
    pubsub.publish(topic, data, &attributes).await.map(drop)
}

/// The message with its times so many hours earlier: as if it had been under way all that time.
fn late(message: &Message, hours: u32) -> Result<Vec<u8>> {
    let mut body = message.json()?;
    for field in ["timestamp", "processed_at"] {
        if let Some(text) = body[field].as_str() {
            let time: DateTime<Utc> = text.parse().context("messages have RFC 3339 times")?;
            body[field] = json!(time - TimeDelta::hours(i64::from(hours)));
        }
    }
    Ok(serde_json::to_vec(&body)?)
}

/// A message that cannot be what its topic is for.
fn malformed(topic: usize, random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let kind = random.random_range(0..14);
    let event_type = if topic == 0 { "token.grant.requested" } else { "token.grant.completed" };
    let mut body = json!({
        "event_type": event_type, "user_id": "mallory", "campaign_id": "summer", "token_amount": 1,
        "token_type": "ERC20", "request_id": format!("hostile-{}", random.random::<u64>()),
        "timestamp": "2026-01-01T00:00:00Z", "retry_count": 0, "processed_at": "2026-01-01T00:00:00Z",
        "transaction_hash": format!("0x{}", "0".repeat(64)),
    });
    let with = |body: &mut Value, field: &str, value: Value| body[field] = value;
    match kind {
        0 => return b"{".to_vec(),
        1 => return vec![0xff, 0xfe, 0x00, 0xc3, 0x28],
        2 => return "[".repeat(100_000).into_bytes(),
        3 => return vec![b'x'; 5 << 20],
        4 => return b"null".to_vec(),
        5 => with(&mut body, "token_amount", json!(-1)),
        6 => with(&mut body, "token_amount", json!(1e300)),
        7 => with(&mut body, "token_amount", json!(u64::MAX)),
        8 => with(&mut body, "user_id", json!("u".repeat(1 << 20))),
        9 => with(&mut body, "request_id", json!("\u{0}'; drop table payment; --")),
        10 => with(&mut body, "event_type", json!("token.grant.stolen")),
        11 => with(&mut body, "timestamp", json!("yesterday")),
        12 => with(&mut body, "user_id", json!({"$ne": null})),
        _ => with(&mut body, "campaign_id", json!("")),
    }
    if topic == 1 && matches!(kind, 5..=7) {
        // Amounts mean nothing in results: this is well-formed, and about a grant that does not exist.
        with(&mut body, "transaction_hash", json!("0x12"));
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use shared::event::{RequestEvent, ResultEvent};

    use super::*;

    #[test]
    fn no_malformed_message_can_be_read_by_a_service() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..500 {
            let (request, result) = (malformed(0, &mut random), malformed(1, &mut random));
            assert!(serde_json::from_slice::<RequestEvent>(&request).is_err());
            assert!(serde_json::from_slice::<ResultEvent>(&result).is_err());
        }
    }

    #[test]
    fn a_late_message_is_the_same_but_for_its_times() {
        let body = json!({"request_id": "r", "timestamp": "2026-01-02T05:00:00Z"});
        let message = Message { data: body.to_string().into_bytes(), ..Message::default() };
        let late: Value = serde_json::from_slice(&late(&message, 5).unwrap()).unwrap();
        assert_eq!(late, json!({"request_id": "r", "timestamp": "2026-01-02T00:00:00Z"}));
    }
}
