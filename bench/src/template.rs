//! The request for a grant, prepared once. What differs from grant to grant has a fixed width and is written over.

use crate::connection;

/// The campaign that pays all grants of a benchmark.
pub(crate) const CAMPAIGN: &str = "bench";

/// What a user's id begins with; 16 hexadecimal digits follow.
const USER: &str = "player-";

/// Placeholders, of the width of what takes their place.
const NUMBER: &str = "################";
const WALLET: &str = "########################################";

/// A request whose bytes can be those of any grant.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    wallets: u64,
    key: usize,
    user: usize,
    wallet: usize,
}

impl Template {
    /// As a game server would ask: a JSON body, a key of its own, one of so many wallets.
    pub(crate) fn new(wallets: u64) -> Self {
        let bytes =
            connection::post("/token-request", &format!("idempotency-key: {NUMBER}\r\n"), &line(NUMBER, WALLET));
        let mut holes = bytes.windows(2).enumerate().filter(|(_, pair)| pair[0] != b'#' && pair[1] == b'#');
        let mut next = || holes.next().expect("the placeholders are in it").0 + 1;
        let (key, user, wallet) = (next(), next(), next());
        Self { bytes, wallets, key, user, wallet }
    }

    /// The bytes of grant `number`.
    pub(crate) fn of(&mut self, number: u64) -> &[u8] {
        let (digits, wallet) = (hex(number), wallet(number % self.wallets));
        self.bytes[self.key..][..16].copy_from_slice(&digits);
        self.bytes[self.user..][..16].copy_from_slice(&digits);
        self.bytes[self.wallet..][..40].copy_from_slice(&wallet);
        &self.bytes
    }
}

/// The fields of a grant as JSON; also a line of an upload. `holder` says whose wallet it is.
pub(crate) fn line_of(number: u64, holder: u64) -> String {
    let (digits, wallet) = (hex(number), wallet(holder));
    line(&String::from_utf8_lossy(&digits), &String::from_utf8_lossy(&wallet))
}

/// The number of the grant that this user asked for.
pub(crate) fn number_of(user_id: &str) -> Option<u64> {
    u64::from_str_radix(user_id.strip_prefix(USER)?, 16).ok()
}

fn line(number: &str, wallet: &str) -> String {
    // One token each, so that the tokens spent are the grants completed.
    format!(
        r#"{{"user_id":"{USER}{number}","campaign_id":"{CAMPAIGN}","wallet_address":"0x{wallet}","token_amount":1}}"#
    )
}

/// An address that nobody else has: mixed digits, and the number itself.
fn wallet(number: u64) -> [u8; 40] {
    let mut digits = [0; 40];
    let mixed = mix(number);
    digits[..16].copy_from_slice(&hex(mixed));
    digits[16..24].copy_from_slice(&hex(mix(mixed))[..8]);
    digits[24..].copy_from_slice(&hex(number));
    digits
}

/// `SplitMix64`'s output function (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        let value = u8::try_from(number >> (60 - 4 * place) & 0xf).expect("four bits");
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_becomes_the_request_of_any_grant() {
        let wallets = 0x2000_0000_0000_0000;
        let mut template = Template::new(wallets);
        for number in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
            let text = String::from_utf8(template.of(number).to_vec()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(!text.contains('#'), "{text}");
            assert!(head.contains(&format!("idempotency-key: {number:016x}\r\n")), "{head}");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(number_of(body["user_id"].as_str().unwrap()), Some(number));
            assert_eq!(body["wallet_address"].as_str().unwrap().len(), 42);
            assert_eq!(
                body.to_string(),
                serde_json::from_str::<serde_json::Value>(&line_of(number, number % wallets)).unwrap().to_string()
            );
        }
    }

    #[test]
    fn only_our_users_have_a_number() {
        assert_eq!(number_of("alice"), None);
        assert_eq!(number_of("player-x"), None);
    }
}
