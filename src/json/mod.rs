//! JSON texts from anywhere, brought into the form that Python's `json.dumps` leaves by default (contract, "JSON").
//!
//! One pass and one copy: nothing is parsed into values, since a value in between would lose what must stay (the order of
//! members, members named twice, integers of any size, lone surrogates).

mod number;
mod text;

use std::ops::ControlFlow;

pub use number::push_float;
pub use text::push_string;

/// How deep arrays and objects may lie in each other. Python's own reader gives up a little below 1,000, so what is accepted
/// here can be read there.
pub const MAX_DEPTH: usize = 512;

/// Why a text was refused, and where. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not json: {problem} at byte {offset}")]
pub struct Error {
    /// What is wrong, or what was expected.
    pub problem: &'static str,
    /// Offset of the byte where it shows.
    pub offset: usize,
}

/// The form of `json.dumps` for `text`.
///
/// Takes any JSON text (RFC 8259) in UTF-8 without a byte order mark, of at most [`MAX_DEPTH`] levels, whose fractions fit a
/// double. Integers keep all their digits; `-0` becomes `0`, as Python's integers have it.
pub fn normalize(text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    normalize_into(text, &mut out)?;
    Ok(out)
}

/// Like [`normalize`], at the end of `out`. After an error `out` holds part of the text.
pub fn normalize_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    // Room for the separators of a compact text; what is mostly beyond ASCII grows more.
    out.reserve(text.len() + text.len() / 8);
    Transcoder { text, at: 0, out }.document()
}

/// Whether a normalized text is a value that Python takes for false: `{}`, `[]`, `""`, `null`, `false` or zero.
pub fn is_empty_value(normalized: &[u8]) -> bool {
    matches!(
        normalized,
        b"{}" | b"[]" | b"\"\"" | b"null" | b"false" | b"0" | b"0.0" | b"-0.0"
    )
}

/// What is open around the place of reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Array,
    Object,
}

struct Transcoder<'a> {
    text: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
}

impl Transcoder<'_> {
    fn document(&mut self) -> Result<(), Error> {
        // Its length is the depth, so that no input can exhaust the stack.
        let mut open = Vec::new();
        loop {
            // An opened container goes on with its first value.
            if self.value(&mut open)?.is_continue() {
                continue;
            }
            if self.after_value(&mut open)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Reads a value, or opens a container: then a value comes next.
    fn value(&mut self, open: &mut Vec<Open>) -> Result<ControlFlow<()>, Error> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => return self.open(Open::Object, open),
            Some(b'[') => return self.open(Open::Array, open),
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return self.fail("expected a value"),
        }
        Ok(ControlFlow::Break(()))
    }

    fn open(&mut self, container: Open, open: &mut Vec<Open>) -> Result<ControlFlow<()>, Error> {
        let (start, end) = match container {
            Open::Array => (b'[', b']'),
            Open::Object => (b'{', b'}'),
        };
        if open.len() == MAX_DEPTH {
            return self.fail("expected at most 512 levels, one more");
        }
        self.put(start);
        self.skip_space();
        if self.peek() == Some(end) {
            self.put(end);
            return Ok(ControlFlow::Break(()));
        }
        open.push(container);
        if container == Open::Object {
            self.name()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// After a value: closes all that ends here. Breaks at the end of the text; otherwise a value comes next.
    fn after_value(&mut self, open: &mut Vec<Open>) -> Result<ControlFlow<()>, Error> {
        loop {
            self.skip_space();
            match (open.last(), self.peek()) {
                (None, None) => return Ok(ControlFlow::Break(())),
                (None, Some(_)) => return self.fail("expected the end of the text"),
                (Some(Open::Array), Some(b']')) | (Some(Open::Object), Some(b'}')) => {
                    self.put(self.text[self.at]);
                    open.pop();
                }
                (Some(container), Some(b',')) => {
                    self.at += 1;
                    self.out.extend_from_slice(b", ");
                    if *container == Open::Object {
                        self.skip_space();
                        self.name()?;
                    }
                    return Ok(ControlFlow::Continue(()));
                }
                (Some(Open::Array), _) => return self.fail("expected `,` or `]`"),
                (Some(Open::Object), _) => return self.fail("expected `,` or `}`"),
            }
        }
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<(), Error> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a member's name in quotes");
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.fail("expected `:`");
        }
        self.at += 1;
        self.out.extend_from_slice(b": ");
        Ok(())
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<(), Error> {
        if !self.text[self.at..].starts_with(literal) {
            return self.fail("expected a value");
        }
        self.at += literal.len();
        self.out.extend_from_slice(literal);
        Ok(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes the next byte over as it is; it has been peeked at.
    fn put(&mut self, byte: u8) {
        self.at += 1;
        self.out.push(byte);
    }

    fn fail<T>(&self, problem: &'static str) -> Result<T, Error> {
        Err(Error {
            problem,
            offset: self.at,
        })
    }
}

#[cfg(test)]
mod tests;
