//! Names from elsewhere as a terminal can show them.

/// The longest part of a name that is shown, in characters.
const SHOWN: usize = 160;

/// A name as a terminal can show it.
pub(super) fn printable(key: &[u8]) -> String {
    let all = match std::str::from_utf8(key) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => key.escape_ascii().to_string(),
    };
    match all.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}… ({} bytes)", &all[..at], key.len()),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_bounded() {
        assert_eq!(printable("builds/é/logs".as_bytes()), "builds/é/logs");
        assert_eq!(printable(b"a\x1b[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(printable(b"\xff\0"), "\\xff\\x00");
        let long = printable(&[b'x'; 1_000]);
        assert!(long.ends_with("x… (1000 bytes)") && long.len() < 200, "{long}");
    }
}
