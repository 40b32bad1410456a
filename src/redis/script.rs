//! Lua scripts, pinned.

use std::marker::PhantomData;

/// A script as a file of this project, pinned to its SHA-1 and run by `EVALSHA`; a server that does not know it (new,
/// restarted, failed over, flushed) is given it and asked again, which is safe since nothing was executed.
///
/// `R` says whether it may be sent twice; see [`super::Command`].
#[derive(Debug)]
pub struct Script<R> {
    /// The file's name, with its number of keys at the end: `compare_and_append-1`.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// SHA-1 of the text, in lower-case hexadecimal.
    pub sha1: &'static str,
    repeat: PhantomData<fn() -> R>,
}

impl<R> Script<R> {
    /// Pins `source` to `sha1`.
    pub const fn new(name: &'static str, source: &'static str, sha1: &'static str) -> Self {
        Script {
            name,
            source,
            sha1,
            repeat: PhantomData,
        }
    }
}

/// Pins a file that stands beside the one that names it: `script!(MARK, Once, "mark-1", "its SHA-1");`
macro_rules! script {
    ($static:ident, $repeat:ty, $name:literal, $sha1:literal) => {
        static $static: $crate::redis::Script<$repeat> =
            $crate::redis::Script::new($name, include_str!(concat!($name, ".lua")), $sha1);
    };
}
pub(crate) use script;

#[cfg(test)]
impl<R> Script<R> {
    /// For the tests of each pattern: computes the SHA-1 again, and says what it should be.
    pub(crate) fn assert_pinned(&self) {
        let text = self.source.as_bytes();
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text);
        let hex = digest
            .as_ref()
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(self.sha1, hex, "{}", self.name);
    }
}
