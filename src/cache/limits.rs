//! How large a value may be, and how many of those asked for one answer holds.

use bytes::Bytes;

use super::leases::Cache;
use super::values::{Read, Wish};
use crate::config;
use crate::deadline::Deadline;
use crate::redis::Error;

/// Keys read at once. What a call holds in memory is at most their values and an answer, and Redis serves others in between.
const AT_ONCE: usize = 64;

/// What an answer of 1,000 items holds beside their values, at most: two tags and two lengths each.
const AROUND: usize = 16 << 10;

/// The bounds of values, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// One that is to be stored.
    value: usize,
    /// Those in one answer, together.
    answer: usize,
}

/// What was read of a key, as far as an answer holds it.
#[derive(Debug)]
pub(super) enum Held {
    /// A value, or none.
    Read(Read),
    /// A value that no answer holds: a direct client may have stored any.
    TooLarge,
    /// The answer was full.
    LeftOut,
}

impl Limits {
    pub(super) fn new(limits: &config::Limits) -> Self {
        let answer = limits.max_answer_bytes.saturating_sub(AROUND);
        Limits {
            // What is stored can be read.
            value: limits.max_value_bytes.min(answer),
            answer,
        }
    }

    /// Checks a value that is to be stored.
    pub(super) fn check(&self, value: &[u8]) -> Result<(), String> {
        if value.len() <= self.value {
            return Ok(());
        }
        Err(format!("must be at most {} bytes, not {}", self.value, value.len()))
    }

    /// Whether an answer holds a value.
    pub(super) fn holds(&self, value: &[u8]) -> bool {
        value.len() <= self.answer
    }

    /// Gets as many of the values as one answer holds, a few at once. With the first error.
    pub(super) async fn get_many(
        &self,
        cache: &Cache,
        keys: &[Bytes],
        wish: Wish,
        by: Deadline,
    ) -> (Vec<Held>, Option<Error>) {
        let mut all = Vec::with_capacity(keys.len());
        let (mut room, mut full, mut failed) = (self.answer, false, None);
        for some in keys.chunks(AT_ONCE) {
            if full {
                break;
            }
            let (reads, error) = cache.get_many(some, wish, by).await;
            failed = failed.or(error);
            for read in reads {
                let len = read.value.as_ref().map_or(0, Bytes::len);
                all.push(if len <= room {
                    room -= len;
                    Held::Read(read)
                } else if len <= self.answer {
                    full = true;
                    Held::LeftOut
                } else {
                    Held::TooLarge
                });
            }
        }
        all.resize_with(keys.len(), || Held::LeftOut);
        (all, failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_stored_can_be_read() {
        let limits = |value, answer| {
            Limits::new(&config::Limits {
                max_calls: 1,
                max_streams: 1,
                max_request_bytes: 4 << 20,
                max_value_bytes: value,
                max_answer_bytes: answer,
            })
        };
        for (value, answer) in [(3 << 20, 4 << 20), (8 << 20, 1 << 20)] {
            let limits = limits(value, answer);
            let largest = Bytes::from(vec![0; limits.value]);
            assert_eq!(limits.check(&largest), Ok(()));
            assert!(limits.holds(&largest));
        }
        let limits = limits(1_024, 64 << 10);
        assert_eq!(limits.check(&[0; 1_024]), Ok(()));
        assert_eq!(
            limits.check(&[0; 1_025]),
            Err("must be at most 1024 bytes, not 1025".into())
        );
        assert!(limits.holds(&vec![0; 48 << 10]));
        assert!(!limits.holds(&vec![0; (48 << 10) + 1]));
    }
}
