//! What claimed keys add up to (contract, section 4): pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::is_digest;

/// A claimed key and what it adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClaimedKey {
    /// Its name while it is claimed.
    pub name: String,
    pub repository: i64,
    /// None: it adds to its manifest only.
    pub tag: Option<String>,
    pub digest: String,
    pub count: i64,
    /// None: no pull has a time.
    pub last: Option<i64>,
    /// Whether it was claimed before and not seen through.
    pub orphan: bool,
}

/// A claimed key that adds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DroppedKey {
    pub name: String,
    pub reason: Reason,
    /// The hash's field that is wrong.
    pub field: &'static str,
    pub orphan: bool,
}

/// Why a claimed key adds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Missing,
    NotWhole,
    OutOfRange,
    NotADigest,
    NoPulls,
}

impl Reason {
    /// Its name, as a label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::NotWhole => "not_whole",
            Reason::OutOfRange => "out_of_range",
            Reason::NotADigest => "not_a_digest",
            Reason::NoPulls => "no_pulls",
        }
    }
}

/// What keys add to one manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestPulls {
    pub repository: i64,
    pub digest: String,
    pub count: i64,
    pub last: Option<i64>,
}

/// What keys add to one tag; the digest is that of the latest pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagPulls {
    pub repository: i64,
    pub tag: String,
    pub digest: String,
    pub count: i64,
    pub last: Option<i64>,
}

/// The fields that say what a key adds, in the order of [`parse`].
pub(super) const FIELDS: [&str; 6] = [
    "repository_id",
    "tag_name",
    "manifest_digest",
    "pull_count",
    "last_pull_timestamp",
    "pull_method",
];

/// What a key adds, by its hash's [`FIELDS`].
pub(super) fn parse(name: &Bytes, orphan: bool, fields: &[Option<Bytes>]) -> Result<ClaimedKey, DroppedKey> {
    let field = |at: usize| fields.get(at).and_then(Option::as_ref);
    read(name, orphan, field).map_err(|(reason, field)| DroppedKey {
        name: text(name),
        reason,
        field,
        orphan,
    })
}

/// The reason and the field, if the key adds nothing.
fn read<'a>(
    name: &Bytes,
    orphan: bool,
    field: impl Fn(usize) -> Option<&'a Bytes>,
) -> Result<ClaimedKey, (Reason, &'static str)> {
    let given = |at, name| field(at).ok_or((Reason::Missing, name));
    let whole = |at, name, least: i64| {
        let n = std::str::from_utf8(given(at, name)?).ok().and_then(|n| n.parse().ok());
        match n {
            None => Err((Reason::NotWhole, name)),
            Some(n) if n < least => Err((Reason::OutOfRange, name)),
            Some(n) => Ok(n),
        }
    };
    let repository = whole(0, "repository_id", 1)?;
    let digest = given(2, "manifest_digest")?;
    if !is_digest(digest) {
        return Err((Reason::NotADigest, "manifest_digest"));
    }
    let count = whole(3, "pull_count", 0)?;
    let last = whole(4, "last_pull_timestamp", 0)?;
    if count == 0 {
        return Err((Reason::NoPulls, "pull_count"));
    }
    let by_tag = field(5).is_some_and(|method| method == "tag");
    let tag = field(1).filter(|tag| by_tag && !tag.is_empty());
    Ok(ClaimedKey {
        name: text(name),
        repository,
        tag: tag.map(text),
        digest: text(digest),
        count,
        last: (last > 0).then_some(last),
        orphan,
    })
}

/// What `keys` add up to, in the order of repositories, digests and tags: who writes rows in one order meets no deadlock.
pub(super) fn sum(keys: &[ClaimedKey]) -> (Vec<ManifestPulls>, Vec<TagPulls>) {
    let mut manifests: BTreeMap<_, ManifestPulls> = BTreeMap::new();
    let mut tags: BTreeMap<_, TagPulls> = BTreeMap::new();
    for key in keys {
        let manifest = manifests.entry((key.repository, &key.digest));
        manifest
            .and_modify(|row| {
                row.count = row.count.saturating_add(key.count);
                row.last = row.last.max(key.last);
            })
            .or_insert_with(|| ManifestPulls {
                repository: key.repository,
                digest: key.digest.clone(),
                count: key.count,
                last: key.last,
            });
        let Some(tag) = &key.tag else { continue };
        tags.entry((key.repository, tag))
            .and_modify(|row| {
                row.count = row.count.saturating_add(key.count);
                if key.last > row.last {
                    row.last = key.last;
                    row.digest.clone_from(&key.digest);
                }
            })
            .or_insert_with(|| TagPulls {
                repository: key.repository,
                tag: tag.clone(),
                digest: key.digest.clone(),
                count: key.count,
                last: key.last,
            });
    }
    (manifests.into_values().collect(), tags.into_values().collect())
}

/// What a caller is told of a name or a value. Both are text, unless somebody else wrote them: then they are escaped, so that two
/// names never look the same.
pub(super) fn text(bytes: &Bytes) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hash in the order of its fields, `-` for one that is missing.
    fn parsed(fields: [&str; 6]) -> Result<ClaimedKey, (Reason, &'static str)> {
        let fields = fields.map(|field| (field != "-").then(|| Bytes::copy_from_slice(field.as_bytes())));
        parse(&Bytes::from_static(b"name"), false, &fields).map_err(|key| (key.reason, key.field))
    }

    #[test]
    fn names_that_are_no_text_stay_apart() {
        let names = [&b"t\xff"[..], b"t\xfe", "té".as_bytes()].map(|name| text(&Bytes::copy_from_slice(name)));
        assert_eq!(names, ["t\\xff", "t\\xfe", "té"]);
    }

    #[test]
    fn odd_hashes_add_nothing_and_name_their_field() {
        use Reason::{Missing, NoPulls, NotADigest, NotWhole, OutOfRange};
        let good = ["1", "t", "sha256:ab", "1", "1", "tag"];
        assert!(parsed(good).is_ok());
        let odd = [
            (0, "-", Missing, "repository_id"),
            (0, "", NotWhole, "repository_id"),
            (0, "x", NotWhole, "repository_id"),
            (0, "1.0", NotWhole, "repository_id"),
            (0, " 1", NotWhole, "repository_id"),
            (0, "9223372036854775808", NotWhole, "repository_id"),
            (0, "0", OutOfRange, "repository_id"),
            (0, "-1", OutOfRange, "repository_id"),
            (2, "-", Missing, "manifest_digest"),
            (2, "", NotADigest, "manifest_digest"),
            (2, "sha256:zz", NotADigest, "manifest_digest"),
            (3, "-", Missing, "pull_count"),
            (3, "x", NotWhole, "pull_count"),
            (3, "-1", OutOfRange, "pull_count"),
            (3, "0", NoPulls, "pull_count"),
            (4, "-", Missing, "last_pull_timestamp"),
            (4, "1.5", NotWhole, "last_pull_timestamp"),
            (4, "-1", OutOfRange, "last_pull_timestamp"),
        ];
        for (at, value, reason, field) in odd {
            let mut fields = good;
            fields[at] = value;
            assert_eq!(parsed(fields), Err((reason, field)), "{field} {value:?}");
        }
    }

    #[test]
    fn only_pulls_of_a_tag_add_to_a_tag() {
        let tag = |tag, method| parsed(["1", tag, "sha256:ab", "2", "0", method]).unwrap().tag;
        assert_eq!(tag("t", "tag").as_deref(), Some("t"));
        assert_eq!(
            [tag("t", "digest"), tag("t", "-"), tag("", "tag"), tag("-", "tag")],
            [const { None }; 4]
        );
    }

    #[test]
    fn no_time_is_never_the_latest_and_counts_do_not_overflow() {
        let key = |digest: &str, count: &str, last| parsed(["1", "t", digest, count, last, "tag"]).unwrap();
        let keys = [
            key("a:1", "1", "0"),
            key("b:2", "9223372036854775807", "5"),
            key("c:3", "1", "0"),
        ];
        let (manifests, tags) = sum(&keys);
        let lasts: Vec<_> = manifests.iter().map(|row| (row.digest.as_str(), row.last)).collect();
        assert_eq!(lasts, [("a:1", None), ("b:2", Some(5)), ("c:3", None)]);
        let row = &tags[0];
        assert_eq!((row.digest.as_str(), row.count, row.last), ("b:2", i64::MAX, Some(5)));
    }

    /// Keys of few repositories, tags and digests, so that they meet.
    fn key() -> impl Strategy<Value = ClaimedKey> {
        (1..3i64, 0..3u8, 0..3u8, 1..100i64, 0..5i64).prop_map(|(repository, tag, digest, count, last)| ClaimedKey {
            name: String::new(),
            repository,
            tag: (tag > 0).then(|| tag.to_string()),
            digest: format!("sha256:{digest}"),
            count,
            last: (last > 0).then_some(last),
            orphan: false,
        })
    }

    /// Rows as keys, to be summed up again.
    fn manifests_as_keys(rows: Vec<ManifestPulls>) -> impl Iterator<Item = ClaimedKey> {
        rows.into_iter().map(|row| ClaimedKey {
            name: String::new(),
            repository: row.repository,
            tag: None,
            digest: row.digest,
            count: row.count,
            last: row.last,
            orphan: false,
        })
    }

    fn tags_as_keys(rows: Vec<TagPulls>) -> impl Iterator<Item = ClaimedKey> {
        rows.into_iter().map(|row| ClaimedKey {
            name: String::new(),
            repository: row.repository,
            tag: Some(row.tag),
            digest: row.digest,
            count: row.count,
            last: row.last,
            orphan: false,
        })
    }

    proptest! {
        #[test]
        fn sums_of_a_whole_are_the_sums_of_its_parts(keys in prop::collection::vec(key(), 0..30), cut in 0..30usize) {
            let (manifests, tags) = sum(&keys);
            let (one, two) = keys.split_at(cut.min(keys.len()));
            let ((m1, t1), (m2, t2)) = (sum(one), sum(two));
            let again: Vec<_> = manifests_as_keys(m1).chain(manifests_as_keys(m2)).collect();
            prop_assert_eq!(&sum(&again).0, &manifests);
            let again: Vec<_> = tags_as_keys(t1).chain(tags_as_keys(t2)).collect();
            prop_assert_eq!(&sum(&again).1, &tags);

            let counted = |keys: &mut dyn Iterator<Item = &ClaimedKey>| keys.map(|key| key.count).sum::<i64>();
            prop_assert_eq!(manifests.iter().map(|row| row.count).sum::<i64>(), counted(&mut keys.iter()));
            let of_tags = counted(&mut keys.iter().filter(|key| key.tag.is_some()));
            prop_assert_eq!(tags.iter().map(|row| row.count).sum::<i64>(), of_tags);
            for row in &tags {
                let latest = keys.iter().any(|key| {
                    let same = (key.repository, key.tag.as_ref()) == (row.repository, Some(&row.tag));
                    same && (&key.digest, key.last) == (&row.digest, row.last)
                });
                prop_assert!(latest, "no pull of {row:?}");
            }
        }
    }
}
