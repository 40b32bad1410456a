//! What managers tell each other of a key, as Python's `json.dumps` writes it: `{"event": 1, "key": …, "value": …}`.

use bytes::Bytes;
use serde_json::Value;

use super::Key;
use crate::json;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It was not there before.
    Create = 1,
    /// It was there.
    Set = 2,
    /// It is there no more. The value is the one that it had.
    Delete = 3,
}

/// What was told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub kind: Kind,
    pub key: Key,
    pub value: Bytes,
}

/// The text that tells of a key.
pub(super) fn dump(kind: Kind, key: &Key, value: &str) -> Bytes {
    let mut out = format!("{{\"event\": {}, \"key\": ", kind as u8).into_bytes();
    json::push_string(&mut out, key.as_str());
    out.extend_from_slice(b", \"value\": ");
    json::push_string(&mut out, value);
    out.push(b'}');
    out.into()
}

/// Reads what was told. None: nothing that a manager tells, or of no key of this pattern.
pub(super) fn load(text: &[u8]) -> Option<Event> {
    let event: Value = serde_json::from_slice(text).ok()?;
    Some(Event {
        kind: match event.get("event")?.as_u64()? {
            1 => Kind::Create,
            2 => Kind::Set,
            3 => Kind::Delete,
            _ => return None,
        },
        key: Key::parse(event.get("key")?.as_str()?).ok()?,
        value: event.get("value")?.as_str()?.to_owned().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_recording_and_are_read_again() {
        let key = Key::parse("building/1f2e").unwrap();
        let cases = [
            (
                Kind::Create,
                "{\"a\": 1}",
                r#"{"event": 1, "key": "building/1f2e", "value": "{\"a\": 1}"}"#,
            ),
            (
                Kind::Set,
                "é",
                r#"{"event": 2, "key": "building/1f2e", "value": "\u00e9"}"#,
            ),
            (Kind::Delete, "", r#"{"event": 3, "key": "building/1f2e", "value": ""}"#),
        ];
        for (kind, value, text) in cases {
            assert_eq!(dump(kind, &key, value), text);
            let event = Event {
                kind,
                key: key.clone(),
                value: value.to_owned().into(),
            };
            assert_eq!(load(text.as_bytes()), Some(event));
        }
    }

    #[test]
    fn what_no_manager_tells_is_no_event() {
        for text in [
            "",
            "[]",
            r#"{"event": 4, "key": "a", "value": "b"}"#,
            r#"{"event": 1, "key": "", "value": "b"}"#,
            r#"{"event": 1, "key": "a"}"#,
            r#"{"event": "1", "key": "a", "value": "b"}"#,
            r#"{"event": 1, "key": "a", "value": null}"#,
        ] {
            assert_eq!(load(text.as_bytes()), None, "{text}");
        }
    }
}
