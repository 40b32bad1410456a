//! Strings: everything outside space…`~` escaped.

use super::{Error, Transcoder};

/// Adds `text` to `out` as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while !rest.is_empty() {
        let (plain, after) = rest.split_at(plain_len(rest.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        let mut chars = after.chars();
        if let Some(char) = chars.next() {
            push_char(out, char);
        }
        rest = chars.as_str();
    }
    out.push(b'"');
}

impl Transcoder<'_> {
    /// A string, from its opening to its closing quote.
    pub(super) fn string(&mut self) -> Result<(), Error> {
        self.put(b'"');
        loop {
            let plain = &self.text[self.at..][..plain_len(&self.text[self.at..])];
            self.out.extend_from_slice(plain);
            self.at += plain.len();
            match self.peek() {
                Some(b'"') => {
                    self.put(b'"');
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0x7f) => {
                    push_unit(self.out, 0x7f);
                    self.at += 1;
                }
                Some(0x80..) => self.beyond_ascii()?,
                Some(_) => return self.fail("expected control characters in strings to be escaped, found one"),
                None => return self.fail("expected the end of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Error> {
        let unit = match self.text.get(self.at + 1) {
            Some(b'u') => {
                let unit = self.text.get(self.at + 2..self.at + 6).and_then(hex);
                let Some(unit) = unit else {
                    return self.fail("expected four hexadecimal digits in an escape");
                };
                self.at += 4;
                unit
            }
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => u16::from(b'\n'),
            Some(b'r') => u16::from(b'\r'),
            Some(b't') => u16::from(b'\t'),
            Some(byte @ (b'"' | b'\\' | b'/')) => u16::from(*byte),
            _ => return self.fail("expected an escape of json"),
        };
        self.at += 2;
        // Unit by unit: of two surrogates Python makes one character and writes the two again, a lone one it keeps.
        push_unit(self.out, unit);
        Ok(())
    }

    fn beyond_ascii(&mut self) -> Result<(), Error> {
        let rest = &self.text[self.at..];
        // No character of UTF-8 goes on past an ASCII byte.
        let len = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
        match std::str::from_utf8(&rest[..len]) {
            Ok(text) => {
                self.out.reserve(len * 2);
                for char in text.chars() {
                    push_char(self.out, char);
                }
                self.at += len;
                Ok(())
            }
            Err(error) => {
                self.at += error.valid_up_to();
                self.fail("expected utf-8")
            }
        }
    }
}

/// How many bytes at the beginning of `text` stand for themselves in a JSON string of Python's.
fn plain_len(text: &[u8]) -> usize {
    text.iter()
        .position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))
        .unwrap_or(text.len())
}

fn push_char(out: &mut Vec<u8>, char: char) {
    for unit in char.encode_utf16(&mut [0; 2]) {
        push_unit(out, *unit);
    }
}

/// Adds one UTF-16 code unit as Python writes it.
fn push_unit(out: &mut Vec<u8>, unit: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let short = match unit {
        0x08 => b'b',
        0x0c => b'f',
        0x0a => b'n',
        0x0d => b'r',
        0x09 => b't',
        0x22 => b'"',
        0x5c => b'\\',
        0x20..=0x7e => return out.extend(u8::try_from(unit)),
        _ => {
            let digit = |shift: u16| DIGITS[usize::from(unit >> shift & 0xf)];
            return out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn hex(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |unit, digit| {
        let digit = u16::try_from(char::from(*digit).to_digit(16)?).ok()?;
        Some(unit << 4 | digit)
    })
}
