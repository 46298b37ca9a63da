//! Whether the campaign service's ledger is still the one that was read before, and only longer.
//!
//! Its entries are sealed one by one, each seal over the one before. Whoever changes an entry, or takes one away, can seal
//! all that follow again; but this service remembers a seal that it has seen, and it is not theirs to change.

use serde::Serialize;
use shared::ledger::Entry;

use crate::store::SeenLedger;

/// What was read of the campaign service's ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// How many entries were read this time.
    pub entries: u64,
    /// The number of the last one.
    pub sequence: u64,
    /// Where it is not what it was, or was not sealed as it should be.
    pub broken: Option<Broken>,
}

/// Where a ledger is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The number of the entry.
    pub sequence: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Follows a page of entries: those behind the last one that was seen, and that one itself before them, if there is one.
///
/// # Errors
///
/// The first entry that is not as it has to be.
pub fn follow(mut seen: SeenLedger, page: &[Entry]) -> Result<SeenLedger, Broken> {
    let broken = |sequence, reason| Err(Broken { sequence, reason });
    let mut page = page.iter();
    if seen.sequence > 0 {
        match page.next() {
            Some(entry) if entry.sequence == seen.sequence && entry.seal == seen.seal => {}
            Some(entry) if entry.sequence == seen.sequence => {
                return broken(seen.sequence, "it has another seal than when it was read before");
            }
            _ => return broken(seen.sequence, "it was read before, and is gone"),
        }
    }
    for entry in page {
        if entry.sequence != seen.sequence + 1 {
            return broken(seen.sequence + 1, "it is missing");
        }
        if entry.seal_after(seen.seal) != entry.seal {
            return broken(entry.sequence, "its seal is not that of its contents and of the seal before it");
        }
        seen = SeenLedger { sequence: entry.sequence, seal: entry.seal };
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use shared::ledger::{Cause, Seal, Stream};

    use super::*;

    fn ledger(length: u64) -> Vec<Entry> {
        let mut previous = Seal::NONE;
        let entry = |sequence: u64| {
            let mut entry = Entry {
                sequence,
                at: shared::clock::from_micros(sequence.cast_signed()),
                stream: Stream::Grant,
                subject: format!("r-{sequence}"),
                kind: "Published".into(),
                schema_version: 2,
                cause: Cause::by("campaign".parse().unwrap()),
                data: RawValue::from_string("{\"retry_count\":0}".into()).unwrap(),
                seal: Seal::NONE,
            };
            entry.seal = entry.seal_after(previous);
            previous = entry.seal;
            entry
        };
        (1..=length).map(entry).collect()
    }

    fn seen(entries: &[Entry], sequence: usize) -> SeenLedger {
        entries[..sequence]
            .last()
            .map_or(SeenLedger::default(), |last| SeenLedger { sequence: last.sequence, seal: last.seal })
    }

    #[test]
    fn a_ledger_that_has_grown_is_followed() {
        let entries = ledger(9);
        assert_eq!(follow(SeenLedger::default(), &entries), Ok(seen(&entries, 9)));
        assert_eq!(follow(seen(&entries, 4), &entries[3..]), Ok(seen(&entries, 9)));
        assert_eq!(follow(seen(&entries, 9), &entries[8..]), Ok(seen(&entries, 9)));
        assert_eq!(follow(SeenLedger::default(), &[]), Ok(SeenLedger::default()));
    }

    #[test]
    fn a_ledger_that_was_changed_is_noticed() {
        let entries = ledger(9);
        let broken = |seen, page: &[Entry]| follow(seen, page).unwrap_err().sequence;
        let mut changed = entries.clone();
        changed[5].subject.push('x');
        assert_eq!(broken(SeenLedger::default(), &changed), 6);
        assert_eq!(broken(SeenLedger::default(), &[&entries[..3], &entries[4..]].concat()), 4, "one is gone");
        assert_eq!(broken(seen(&entries, 9), &[]), 9, "it was cut off");
        assert_eq!(broken(seen(&entries, 4), &entries[4..]), 4);

        // Somebody has changed an entry and sealed all that follow again.
        let mut previous = changed[4].seal;
        for entry in &mut changed[5..] {
            entry.seal = entry.seal_after(previous);
            previous = entry.seal;
        }
        assert_eq!(follow(SeenLedger::default(), &changed).unwrap().sequence, 9, "it is sound in itself");
        assert_eq!(broken(seen(&entries, 8), &changed[7..]), 8, "and it is not what was seen");
    }
}
