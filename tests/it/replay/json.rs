//! JSON as the reference writes it, by other code than the gateway's.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::Value;

/// A JSON text as a caller may give it: compact, with characters outside ASCII as they are.
pub(crate) fn given(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap().into()
}

/// A JSON text that stands in Redis: in the reference's form, to the byte.
pub(super) fn stored(text: &[u8]) -> Value {
    let value = serde_json::from_slice(text).unwrap();
    assert_eq!(std::str::from_utf8(text).unwrap(), dumps(&value));
    value
}

/// Python's `json.dumps` of a value whose numbers are in Python's form already.
pub(crate) fn dumps(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(dumps).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{}: {}", quoted(name), dumps(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for unit in text.encode_utf16() {
        match (unit, u8::try_from(unit)) {
            (0x08, _) => quoted.push_str("\\b"),
            (0x0c, _) => quoted.push_str("\\f"),
            (_, Ok(b'\n')) => quoted.push_str("\\n"),
            (_, Ok(b'\r')) => quoted.push_str("\\r"),
            (_, Ok(b'\t')) => quoted.push_str("\\t"),
            (_, Ok(byte @ (b'"' | b'\\'))) => quoted.extend(['\\', char::from(byte)]),
            (_, Ok(byte @ b' '..=b'~')) => quoted.push(char::from(byte)),
            _ => write!(quoted, "\\u{unit:04x}").expect("a String takes all"),
        }
    }
    quoted + "\""
}
