//! What keys of the cache should look like. Callers name them; these are the reference's.

use super::keys::{LEASE, LOAD};
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Life, Reads, Seen, Value, Wrong, fine, json_text};

/// The kinds of keys.
pub const FORMS: &[Form] = &[
    value("repo_blob__{…}", Life::AtMost(60), |key| {
        key.starts_with(b"repo_blob__")
    }),
    value("catalog_page__{…}", Life::AtMost(60), |key| {
        key.starts_with(b"catalog_page__")
    }),
    value("repo_active_tags__{…}", Life::AtMost(120), |key| {
        key.starts_with(b"repo_active_tags__")
    }),
    value("repo_active_tags_gen__{…}", Life::AtMost(240), |key| {
        key.starts_with(b"repo_active_tags_gen__")
    }),
    value("security_report__{…}", Life::AtMost(300), |key| {
        key.starts_with(b"security_report__")
    }),
    value("repository_lookup_{…}", Life::AtMost(120), |key| {
        key.starts_with(b"repository_lookup_")
    }),
    value("repository_manifest__{…}", Life::AtMost(300), |key| {
        key.starts_with(b"repository_manifest__")
    }),
    value("manifest_referrers__{…}", Life::AtMost(60), |key| {
        key.starts_with(b"manifest_referrers__")
    }),
    value("upstream_token__{…}", Life::Ends, |key| {
        key.starts_with(b"upstream_token__")
    }),
    own("redis-gateway:v1:cache:lease…{key}", Kind::Hash, |key| {
        key.starts_with(LEASE.as_bytes())
    }),
    own("redis-gateway:v1:cache:load_ms…{key}", Kind::String, |key| {
        key.starts_with(LOAD.as_bytes())
    }),
];

const fn value(name: &'static str, life: Life, is: fn(&[u8]) -> bool) -> Form {
    Form {
        name,
        home: EndpointName::Cache,
        is,
        kind: Kind::String,
        life,
        reads: Reads::Text,
        beside: None,
        check,
    }
}

const fn own(name: &'static str, kind: Kind, is: fn(&[u8]) -> bool) -> Form {
    Form {
        kind,
        reads: Reads::Nothing,
        check: fine,
        ..value(name, Life::Ends, is)
    }
}

fn check(seen: &Seen) -> Vec<Wrong> {
    match &seen.value {
        Value::Text(text) => json_text(text).into_iter().collect(),
        _ => Vec::new(),
    }
}
