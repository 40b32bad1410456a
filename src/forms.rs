//! Kinds of keys: what each of them should look like in Redis. Each pattern names its own beside its store; who looks at what stands
//! in a Redis judges it by them.

use std::time::Duration;

use bytes::Bytes;

use crate::config::EndpointName;
use crate::json;

/// One kind of key.
pub struct Form {
    /// What its keys are called, with what differs in braces.
    pub name: &'static str,
    /// The endpoint that it belongs on.
    pub home: EndpointName,
    /// Whether a key is of this kind, by its name alone. Of a pattern's forms the first counts.
    pub is: fn(&[u8]) -> bool,
    /// The type of its values.
    pub kind: Kind,
    /// How long its keys live.
    pub life: Life,
    /// What of a value [`Form::check`] has to see.
    pub reads: Reads,
    /// The key whose time to live [`Form::check`] has to see too.
    pub beside: Option<fn(&[u8]) -> Bytes>,
    /// What else may be wrong with a key of the right type.
    pub check: fn(&Seen) -> Vec<Wrong>,
}

/// A type of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `string`
    String,
    /// `list`
    List,
    /// `hash`
    Hash,
}

impl Kind {
    /// As `TYPE` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Hash => "hash",
        }
    }
}

/// How long keys of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until somebody deletes them.
    Endless,
    /// For so many seconds at most.
    AtMost(u64),
    /// For any time that ends.
    Ends,
    /// With a time to live or without: what is right is left to [`Form::check`].
    Any,
}

/// What of a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Nothing.
    Nothing,
    /// All of a string.
    Text,
    /// The length of a list, its first entry and its last.
    Ends,
    /// All fields of a hash.
    Fields,
}

/// What was read of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is not wanted, or too large.
    Unread,
    /// The string.
    Text(Bytes),
    /// The length of the list, and its ends.
    Ends(i64, Vec<Bytes>),
    /// Fields and values in turn.
    Fields(Vec<Bytes>),
}

impl Value {
    /// The value of a hash's field.
    pub fn field(&self, name: &str) -> Option<&Bytes> {
        let Value::Fields(fields) = self else { return None };
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| (pair[0] == name).then_some(&pair[1]))
    }
}

/// The time to live of a key that may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// There is no such key.
    Gone,
    /// It has none.
    Endless,
    /// So much.
    For(Duration),
}

impl Left {
    /// Reads the answer to `PTTL`.
    pub fn read(pttl: i64) -> Self {
        match u64::try_from(pttl) {
            Ok(millis) => Left::For(Duration::from_millis(millis)),
            Err(_) if pttl == -1 => Left::Endless,
            Err(_) => Left::Gone,
        }
    }
}

/// A key as it was seen.
pub struct Seen<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// Its time to live.
    pub left: Left,
    /// What was read of its value.
    pub value: Value,
    /// The time to live of the key beside it; gone if none was asked for.
    pub beside: Left,
    /// The server's clock, milliseconds since 1970.
    pub now: u64,
    /// Age from which on a claimed key that nobody works on is an orphan.
    pub orphan_age: Duration,
}

/// What is wrong with a key, without anything of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is.
    pub what: String,
    /// What would be right.
    pub right: String,
}

/// What is wrong, and what would be right.
pub fn wrong(what: impl Into<String>, right: impl Into<String>) -> Wrong {
    Wrong {
        what: what.into(),
        right: right.into(),
    }
}

/// Nothing is wrong.
pub fn fine(_: &Seen) -> Vec<Wrong> {
    Vec::new()
}

impl Form {
    /// All that is wrong with a key of this form and of type `kind`.
    pub fn judge(&self, kind: &str, seen: &Seen) -> Vec<Wrong> {
        let mut found = Vec::from_iter(self.life.judge(seen.left));
        if kind == self.kind.as_str() {
            found.extend((self.check)(seen));
        } else {
            found.insert(0, wrong(format!("is a {kind}"), format!("a {}", self.kind.as_str())));
        }
        found
    }
}

impl Life {
    fn judge(self, left: Left) -> Option<Wrong> {
        let right = match self {
            Life::Endless => "no time to live".to_owned(),
            Life::AtMost(most) => format!("a time to live of at most {most} s"),
            Life::Ends => "a time to live".to_owned(),
            Life::Any => return None,
        };
        match (self, left) {
            (Life::AtMost(_) | Life::Ends, Left::Endless) => Some(wrong("has no time to live", right)),
            (Life::Endless, Left::For(left)) => Some(wrong(lives(left), right)),
            (Life::AtMost(most), Left::For(left)) if left > Duration::from_secs(most) => {
                Some(wrong(lives(left), right))
            }
            _ => None,
        }
    }
}

fn lives(left: Duration) -> String {
    format!("lives for {} s", left.as_millis().div_ceil(1_000))
}

/// Whether a name is one between `before` and `after`, which is not empty.
pub fn between(key: &[u8], before: &str, after: &str) -> bool {
    let rest = key.strip_prefix(before.as_bytes());
    rest.and_then(|rest| rest.strip_suffix(after.as_bytes()))
        .is_some_and(|rest| !rest.is_empty())
}

/// What is wrong with a text that is to be JSON as `json.dumps` writes it.
pub fn json_text(text: &[u8]) -> Option<Wrong> {
    match json::normalize(text) {
        Ok(normal) if normal == text => None,
        Ok(_) => Some(wrong(
            "is JSON in another form than the reference's",
            "the form of json.dumps",
        )),
        Err(error) => Some(wrong(error.to_string(), "JSON, in the form of json.dumps")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(life: Life) -> Form {
        Form {
            name: "{any}",
            home: EndpointName::Cache,
            is: |_| true,
            kind: Kind::String,
            life,
            reads: Reads::Nothing,
            beside: None,
            check: fine,
        }
    }

    fn seen(left: Left) -> Seen<'static> {
        Seen {
            key: b"key",
            left,
            value: Value::Unread,
            beside: Left::Gone,
            now: 0,
            orphan_age: Duration::ZERO,
        }
    }

    #[test]
    fn lives_and_types_are_judged() {
        let left = |millis| Left::For(Duration::from_millis(millis));
        let cases = [
            (Life::Endless, Left::Endless, true),
            (Life::Endless, left(1), false),
            (Life::AtMost(1), left(1_000), true),
            (Life::AtMost(1), left(1_001), false),
            (Life::AtMost(1), Left::Endless, false),
            (Life::Ends, left(u64::MAX), true),
            (Life::Ends, Left::Endless, false),
            (Life::Any, Left::Endless, true),
        ];
        for (life, left, right) in cases {
            let found = form(life).judge("string", &seen(left));
            assert_eq!(found.is_empty(), right, "{life:?} {left:?} {found:?}");
        }
        let found = form(Life::AtMost(1)).judge("list", &seen(left(1_001)));
        assert_eq!(
            found,
            [
                wrong("is a list", "a string"),
                wrong("lives for 2 s", "a time to live of at most 1 s")
            ]
        );
    }

    #[test]
    fn names_have_something_between() {
        assert!(between(b"builds/7/logs", "builds/", "/logs"));
        assert!(!between(b"builds//logs", "builds/", "/logs") && !between(b"builds/logs", "builds/", "/logs"));
    }

    #[test]
    fn json_is_told_from_its_forms() {
        assert_eq!(json_text(br#"{"a": [1, 2]}"#), None);
        assert!(json_text(br#"{"a":[1,2]}"#).unwrap().what.contains("another form"));
        assert!(json_text(b"secret").unwrap().what.starts_with("not json"));
    }
}
