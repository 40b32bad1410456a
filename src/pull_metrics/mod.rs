//! Pull metrics and their flush (contract, sections 3 and 4): a hash for each tag and manifest that is pulled, on the
//! `pull_metrics` endpoint.
//!
//! A pull is parsed by `service`, waits in the `window` for others of its key, and is written by `store`; one that is buffered
//! waits in the `buffer` until Redis takes it. A flush is the matter of `claims`, which says who holds which key, as `claim_store` keeps it
//! in Redis; `rows` says what claimed keys add up to.

mod buffer;
mod claim_store;
mod claims;
mod forms;
mod metrics;
mod needs;
mod open;
mod pulls;
mod rows;
mod service;
mod store;
mod window;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

pub use forms::FORMS;
pub use needs::needs;
pub use pulls::Pulls;
pub use service::Service;

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// Above 0.
    repository: i64,
    /// None: a manifest, by its digest.
    tag: Option<String>,
    /// In the form of a digest.
    digest: String,
}

/// A pull.
#[derive(Debug, Clone)]
struct Pull {
    target: Target,
    timestamp: Timestamp,
}

/// When a pull was, as text: seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Timestamp(Bytes);

impl Timestamp {
    /// Now, by this machine's clock.
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp(since.map_or(1, |since| since.as_secs()).to_string().into())
    }

    /// Whether it is a whole number above 0, so that Redis takes it and a flush does not drop it.
    fn is_whole(&self) -> bool {
        let digits = std::str::from_utf8(&self.0)
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .is_some_and(|n: i64| n > 0)
    }
}

/// Whether `text` has the form of a digest: the only one that a flush does not drop.
fn is_digest(text: &[u8]) -> bool {
    let Some(colon) = text.iter().position(|b| *b == b':') else {
        return false;
    };
    let (algorithm, hex) = (&text[..colon], &text[colon + 1..]);
    let named = |b: &u8| b.is_ascii_alphanumeric() || b"_+.-".contains(b);
    !algorithm.is_empty() && !hex.is_empty() && algorithm.iter().all(named) && hex.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_an_algorithm_and_hexadecimal_digits() {
        for good in ["sha256:0aF", "a+b.c_d-e:0F", "x:0"] {
            assert!(is_digest(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "sha256",
            "sha256:",
            ":ab",
            "sha256:zz",
            "sha256:ab cd",
            "sha256:ab\n",
            "sha 256:ab",
            "a:b:c",
            "é:ab",
        ] {
            assert!(!is_digest(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn whole_seconds_are_told_from_what_else_redis_takes() {
        let whole = |text: &'static str| Timestamp(Bytes::from_static(text.as_bytes())).is_whole();
        assert!(whole("1700000000") && whole("1") && whole("007"));
        for text in ["0", "", "-1", "+1", "1.5", "1e3", "0x10", " 1", "99999999999999999999"] {
            assert!(!whole(text), "{text:?}");
        }
        assert!(Timestamp::now().is_whole());
    }
}
