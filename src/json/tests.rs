use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn python(text: &str) -> Result<String, Error> {
    normalize(text.as_bytes()).map(|out| String::from_utf8(out).unwrap())
}

fn float(float: f64) -> String {
    let mut out = Vec::new();
    push_float(&mut out, float);
    String::from_utf8(out).unwrap()
}

/// The file is made by `tests/fixtures/make_json.py`.
#[test]
fn equals_cpython() {
    let cases: Vec<(String, Option<String>)> =
        serde_json::from_str(include_str!("../../tests/fixtures/json.json")).unwrap();
    assert!(cases.len() > 5_000);
    for (text, expected) in cases {
        assert_eq!(python(&text).ok(), expected, "{text:?}");
    }
}

#[test]
fn any_spelling_becomes_the_one_of_python() {
    let cases = [
        (
            r#" { "b":1 , "a" : [ 1,2 ], "b":{ } } "#,
            r#"{"b": 1, "a": [1, 2], "b": {}}"#,
        ),
        ("\t[\r\n]\n", "[]"),
        ("\"\u{7f}~ é\u{1F600}\"", r#""\u007f~ \u00e9\ud83d\ude00""#),
        (
            r#""\/ \" \\ \u0041\u000A\u001F\uD800\u2028""#,
            r#""/ \" \\ A\n\u001f\ud800\u2028""#,
        ),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        (
            "[1E2, 1e16, 0.00001, 12345678901234567.0]",
            "[100.0, 1e+16, 1e-05, 1.2345678901234568e+16]",
        ),
        ("[true,false,null]", "[true, false, null]"),
    ];
    for (text, expected) in cases {
        assert_eq!(python(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn refuses_with_the_place_and_without_the_text() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "not json: expected a value at byte 0"),
        (b"secret", "not json: expected a value at byte 0"),
        (b"NaN", "not json: expected a value at byte 0"),
        (b"[1,]", "not json: expected a value at byte 3"),
        (b"[1 2]", "not json: expected `,` or `]` at byte 3"),
        (b"{\"a\":1 \"b\"}", "not json: expected `,` or `}` at byte 7"),
        (b"{a:1}", "not json: expected a member's name in quotes at byte 1"),
        (b"{\"a\" 1}", "not json: expected `:` at byte 5"),
        (b"{} {}", "not json: expected the end of the text at byte 3"),
        (b"01", "not json: expected the end of the text at byte 1"),
        (b"-", "not json: expected a digit at byte 1"),
        (b"1.e5", "not json: expected a digit at byte 2"),
        (
            b"[1e400]",
            "not json: expected a number within the range of a double at byte 1",
        ),
        (b"\"abc", "not json: expected the end of a string at byte 4"),
        (
            b"\"a\nb\"",
            "not json: expected control characters in strings to be escaped, found one at byte 2",
        ),
        (b"\"\\x\"", "not json: expected an escape of json at byte 1"),
        (
            b"\"\\u12\"",
            "not json: expected four hexadecimal digits in an escape at byte 1",
        ),
        (b"\"\xc3\xa9\xff\"", "not json: expected utf-8 at byte 3"),
        (b"\"\xed\xa0\x80\"", "not json: expected utf-8 at byte 1"),
        (b"\xef\xbb\xbf1", "not json: expected a value at byte 0"),
    ];
    for (text, message) in cases {
        let error = normalize(text).unwrap_err();
        assert_eq!(error.to_string(), *message, "{}", text.escape_ascii());
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(python(&nested(MAX_DEPTH)), Ok(nested(MAX_DEPTH)));
    assert_eq!(python(&nested(MAX_DEPTH + 1)).unwrap_err().offset, MAX_DEPTH);
    assert!(python(&"[{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn knows_what_python_takes_for_false() {
    for text in ["{ }", "[\n]", "\"\"", "0", "-0", "0.0", "-0.0", "0e7", "false", "null"] {
        assert!(is_empty_value(&normalize(text.as_bytes()).unwrap()), "{text}");
    }
    for text in ["[0]", "\" \"", "\"0\"", "1e-9", "true", "{\"\": null}"] {
        assert!(!is_empty_value(&normalize(text.as_bytes()).unwrap()), "{text}");
    }
}

#[test]
fn floats_are_written_as_repr_does() {
    let cases = [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (1e-4, "0.0001"),
        (1.25e-5, "1.25e-05"),
        (1e-7, "1e-07"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (1e23, "1e+23"),
        (123_456.789, "123456.789"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
    ];
    for (number, expected) in cases {
        assert_eq!(float(number), expected);
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn keeps_the_value_and_settles(value in values()) {
        let pretty = normalize(serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap();
        let compact = normalize(value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&pretty, &compact);
        prop_assert!(compact.iter().all(|byte| matches!(byte, b' '..=b'~')));
        prop_assert_eq!(&normalize(&compact).unwrap(), &compact);
        prop_assert_eq!(plain(serde_json::from_slice(&compact).unwrap()), plain(value));
    }

    #[test]
    fn reads_what_another_reader_reads_and_no_more(text in "[ \\[\\]{}:,\"\\\\a0-9eEu.+-]{0,24}") {
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text);
        match normalize(text.as_bytes()) {
            Ok(_) => prop_assert!(theirs.is_ok()),
            Err(error) => prop_assert!(theirs.is_err() || error.problem.contains("range of a double")),
        }
    }

    #[test]
    fn no_bytes_are_too_odd(text: Vec<u8>) {
        if let Err(error) = normalize(&text) {
            prop_assert!(error.offset <= text.len());
        }
    }

    #[test]
    fn strings_are_escaped_as_the_transcoder_does(text: String) {
        let mut out = Vec::new();
        push_string(&mut out, &text);
        prop_assert_eq!(out, normalize(serde_json::to_string(&text).unwrap().as_bytes()).unwrap());
    }

    #[test]
    fn floats_read_back_as_themselves(bits: u64) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        prop_assert_eq!(float(number).parse::<f64>().unwrap().to_bits(), bits);
    }
}

/// The value with its numbers as doubles, whatever their digits.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) if !number.to_string().contains(['.', 'e']) => Value::from(number.to_string()),
        Value::Number(number) => Value::from(number.to_string().parse::<f64>().unwrap().to_bits().to_string()),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(members) => Value::Object(members.into_iter().map(|(name, item)| (name, plain(item))).collect()),
        other => other,
    }
}
