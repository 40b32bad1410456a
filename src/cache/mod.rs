//! The model cache (contract, sections 5 and 6): whole keys and values as callers give them, and leases, so that of all who miss
//! a value one loads it.
//!
//! A call is parsed by `service`, and carried out by `store`, which knows the commands (and `keys` the names), or by `leases`, if it may wait. Who waits
//! stands in `lines`: one task asks Redis for all who wait for a key here. `refresh` has a value loaded again before it ends. `values`
//! reads what `near` keeps in memory, and writes past it.

mod forms;
mod keys;
mod leases;
mod limits;
mod lines;
mod metrics;
mod near;
mod needs;
mod refresh;
mod service;
mod store;
mod values;

use std::fmt;

pub use forms::FORMS;
pub use leases::Cache;
pub use needs::needs;
pub use service::Service;

/// What shows that a caller has the lease of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Token(u128);

impl Token {
    /// One that nobody else has.
    fn random() -> Self {
        Token(rand::random())
    }

    /// Reads a token as a gateway wrote it. None: no gateway wrote this.
    fn parse(text: &str) -> Option<Self> {
        let written = text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        written
            .then(|| u128::from_str_radix(text, 16).ok().map(Token))
            .flatten()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Whoever has it may fill.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        for token in [Token(0), Token(u128::MAX), Token::random()] {
            assert_eq!(Token::parse(&token.to_string()), Some(token));
        }
        for bad in [
            "",
            "x",
            &"0".repeat(31),
            &"0".repeat(33),
            &"A".repeat(32),
            &format!("+{}", "0".repeat(31)),
        ] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }
}
