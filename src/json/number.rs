//! Numbers: integers keep their digits, everything else is a double in Python's `repr`.

use std::fmt::Write as _;

use super::{Error, Transcoder};

/// Adds a finite double to `out` as Python's `repr` writes it: the fewest digits that read back as the same double, `.0`
/// where it is whole, an exponent of at least two digits below 1e-4 and from 1e16 on.
pub fn push_float(out: &mut Vec<u8>, float: f64) {
    debug_assert!(float.is_finite(), "json has no other numbers");
    let text = Scientific::shortest(float);
    let (mantissa, exponent) = text.parts();
    let (sign, mantissa) = mantissa.split_at(usize::from(mantissa.starts_with('-')));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    out.extend_from_slice(sign.as_bytes());
    match exponent {
        // "0.00ddd": the point comes before all digits.
        -4..=-1 => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', usize::from(exponent.unsigned_abs()) - 1));
            out.extend_from_slice(whole.as_bytes());
            out.extend_from_slice(fraction.as_bytes());
        }
        // "d.dd", "ddd.d", "ddd00.0": the point comes `exponent` digits further on.
        0..=15 => {
            let exponent = usize::from(exponent.unsigned_abs());
            out.extend_from_slice(whole.as_bytes());
            let (before, after) = fraction.split_at(exponent.min(fraction.len()));
            out.extend_from_slice(before.as_bytes());
            out.extend(std::iter::repeat_n(b'0', exponent - before.len()));
            out.push(b'.');
            out.extend_from_slice(if after.is_empty() { b"0" } else { after.as_bytes() });
        }
        _ => {
            out.extend_from_slice(mantissa.as_bytes());
            let sign = if exponent < 0 { "e-" } else { "e+" };
            out.extend_from_slice(sign.as_bytes());
            let digits = exponent.unsigned_abs();
            if digits < 10 {
                out.push(b'0');
            }
            out.extend_from_slice(digits.to_string().as_bytes());
        }
    }
}

impl Transcoder<'_> {
    pub(super) fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let integer = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        if self.at == integer {
            // Python's integers know no negative zero.
            let number = if number == b"-0" { b"0" } else { number };
            self.out.extend_from_slice(number);
            return Ok(());
        }
        let float = std::str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse::<f64>().ok());
        match float {
            Some(float) if float.is_finite() => {
                push_float(self.out, float);
                Ok(())
            }
            _ => {
                self.at = start;
                self.fail("expected a number within the range of a double")
            }
        }
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Error> {
        let rest = &self.text[self.at..];
        let len = rest
            .iter()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(rest.len());
        self.at += len;
        if len == 0 {
            return self.fail("expected a digit");
        }
        Ok(())
    }
}

/// A double as Rust's `{:e}` writes it, on the stack.
#[derive(Default)]
struct Scientific {
    bytes: [u8; 32],
    len: usize,
}

impl Scientific {
    /// The fewest digits that read back as `float`; of two such numbers the nearer one, and of two as near the even one.
    fn shortest(float: f64) -> Self {
        // Any of these takes 32 bytes: a sign, 17 digits, a point, `e`, and an exponent of four characters at most.
        let mut shortest = Scientific::default();
        let _ = write!(shortest, "{float:e}");
        // Rust does not promise the last of the three. Fewer digits than 16 leave no room for two numbers.
        let digits = shortest.parts().0.bytes().filter(u8::is_ascii_digit).count();
        if digits < 16 {
            return shortest;
        }
        let mut rounded = Scientific::default();
        let _ = write!(rounded, "{float:.*e}", digits - 1);
        if rounded.float() == Some(float) {
            rounded
        } else {
            shortest
        }
    }

    fn float(&self) -> Option<f64> {
        std::str::from_utf8(&self.bytes[..self.len]).ok()?.parse().ok()
    }

    /// What is before `e`, and the exponent.
    fn parts(&self) -> (&str, i16) {
        std::str::from_utf8(&self.bytes[..self.len])
            .ok()
            .and_then(|text| text.split_once('e'))
            .and_then(|(mantissa, exponent)| Some((mantissa, exponent.parse().ok()?)))
            // Every finite double has both parts.
            .unwrap_or(("0", 0))
    }
}

impl std::fmt::Write for Scientific {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
