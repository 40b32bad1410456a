//! Parts of key names that come from callers.

/// Why a key part was refused. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has no bytes.
    #[error("must not be empty")]
    Empty,
    /// It holds a NUL byte.
    #[error("must not contain a nul byte")]
    Nul,
    /// It is longer than the bound.
    #[error("must be at most {max} bytes, not {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
}

/// Checks a part of a key name: not empty, no NUL, at most `max` bytes.
pub fn check(part: impl AsRef<[u8]>, max: usize) -> Result<(), Error> {
    let part = part.as_ref();
    if part.is_empty() {
        return Err(Error::Empty);
    }
    if part.len() > max {
        return Err(Error::TooLong { len: part.len(), max });
    }
    if part.contains(&0) {
        return Err(Error::Nul);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_key_should_have() {
        assert_eq!(check("", 4), Err(Error::Empty));
        assert_eq!(check("a\0b", 4), Err(Error::Nul));
        assert_eq!(check("abcde", 4), Err(Error::TooLong { len: 5, max: 4 }));
        assert_eq!(check("abcd", 4), Ok(()));
        assert_eq!(check("é/*", 4), Ok(()));
        assert_eq!(
            check("abcde", 4).unwrap_err().to_string(),
            "must be at most 4 bytes, not 5"
        );
    }
}
