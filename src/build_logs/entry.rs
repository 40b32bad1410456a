//! What is written, in the one form that all writers leave.

use bytes::Bytes;

use crate::json;

/// The longest JSON text that is stored, in the form in which it is stored: an answer that holds it stays below the 4 MiB that
/// gRPC clients take unless told otherwise.
pub(super) const MAX_BYTES: usize = (4 << 20) - (4 << 10);

/// Why a text was refused. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// It is no JSON text.
    #[error("{0}")]
    Json(#[from] json::Error),
    /// It is longer than [`MAX_BYTES`].
    #[error("must be at most {MAX_BYTES} bytes in the form of python's json.dumps, not {0}")]
    TooLong(usize),
}

/// A JSON text in the form of Python's `json.dumps`, of at most [`MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Json(Bytes);

impl Json {
    /// Any JSON text.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        Json::checked(json::normalize(text)?)
    }

    /// A message as builders write it: `{"message", "type", "data"}`, `type` only if it is not empty, `data` only if it is there
    /// and not an empty value.
    pub(super) fn message(message: &str, kind: &str, data: &[u8]) -> Result<Self, Error> {
        let mut out = Vec::with_capacity(message.len() + kind.len() + data.len() + 64);
        out.extend_from_slice(b"{\"message\": ");
        json::push_string(&mut out, message);
        if !kind.is_empty() {
            out.extend_from_slice(b", \"type\": ");
            json::push_string(&mut out, kind);
        }
        if !data.is_empty() {
            let before = out.len();
            out.extend_from_slice(b", \"data\": ");
            let value = out.len();
            json::normalize_into(data, &mut out)?;
            if json::is_empty_value(&out[value..]) {
                out.truncate(before);
            }
        }
        out.push(b'}');
        Json::checked(out)
    }

    /// The text.
    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }

    fn checked(text: Vec<u8>) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong(text.len()));
        }
        Ok(Json(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(message: &str, kind: &str, data: &str) -> String {
        let json = Json::message(message, kind, data.as_bytes()).unwrap();
        String::from_utf8(json.into_bytes().into()).unwrap()
    }

    /// The first four are of the recording.
    #[test]
    fn messages_stand_as_the_reference_writes_them() {
        let data = r#"{"datetime":"2026-01-02 03:04:05","n":1,"f":1.5,"ok":true,"none":null}"#;
        let cases = [
            (
                ("Step 1/3 : FROM scratch", "", ""),
                r#"{"message": "Step 1/3 : FROM scratch"}"#,
            ),
            (
                ("building", "phase", data),
                r#"{"message": "building", "type": "phase", "data": {"datetime": "2026-01-02 03:04:05", "n": 1, "f": 1.5, "ok": true, "none": null}}"#,
            ),
            (
                (" ---> 8f2c\n\u{1b}[0mdone", "command", ""),
                r#"{"message": " ---> 8f2c\n\u001b[0mdone", "type": "command"}"#,
            ),
            (("no data", "", "{}"), r#"{"message": "no data"}"#),
            (("", "error", " 0.0 "), r#"{"message": "", "type": "error"}"#),
            (("a", "", "[ 0 ]"), r#"{"message": "a", "data": [0]}"#),
        ];
        for ((text, kind, data), expected) in cases {
            assert_eq!(message(text, kind, data), expected);
        }
    }

    #[test]
    fn the_stored_form_is_bounded() {
        let json = |len: usize| format!("\"{}\"", "a".repeat(len - 2));
        assert!(Json::parse(json(MAX_BYTES).as_bytes()).is_ok());
        assert_eq!(
            Json::parse(json(MAX_BYTES + 1).as_bytes()),
            Err(Error::TooLong(MAX_BYTES + 1))
        );
        assert!(Json::message(&"é".repeat(MAX_BYTES / 4), "", b"").is_err());
    }
}
