//! Marks whose keys lie in different slots of a Cluster, where no script can have them all: what the scripts do in one step, in
//! several.

use bytes::Bytes;
use futures_util::future::try_join;

use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Existing, Reply, command};

/// `TIME` of the primary that has `clock`, then a `SET` for each mark: times of one repository are all of one clock. The time.
///
/// If only some of the marks may stand, that is said as [`Error::Unknown`].
pub(super) async fn mark(
    endpoint: &Endpoint,
    clock: &Bytes,
    keys: Vec<Bytes>,
    ttl: u64,
    by: Deadline,
) -> Result<Bytes, Error> {
    let (seconds, micros) = endpoint.time(clock, by).await?;
    let time = written(&seconds, &micros).ok_or(Error::Protocol("TIME"))?;
    let set = |key| command::set(key, time.clone(), Existing::Replace, Some(ttl));
    let marked = endpoint.batch(keys.into_iter().map(set).collect(), by).await;
    let some = marked.iter().any(Result::is_ok);
    let failed: Vec<Error> = marked.into_iter().filter_map(Result::err).collect();
    match failed.iter().find(|error| **error == Error::Unknown).or(failed.first()) {
        None => Ok(time),
        Some(_) if some => Err(Error::Unknown),
        Some(error) => Err(error.clone()),
    }
}

/// `GET` of both marks, side by side. Whether both are there and the modification is later. Each is from the time of the call: if the
/// answer is no, so it was at one moment of it.
pub(super) async fn is_blocked(
    endpoint: &Endpoint,
    revoked: Bytes,
    modified: Bytes,
    by: Deadline,
) -> Result<bool, Error> {
    let get = |key| endpoint.primary(command::get(key), by);
    let (revoked, modified) = Box::pin(try_join(get(revoked), get(modified))).await?;
    let (revoked, modified) = (time(revoked)?, time(modified)?);
    Ok(matches!((revoked, modified), (Some(revoked), Some(modified)) if modified > revoked))
}

/// As the scripts write it, and Python: without zeros at the end, but for one.
fn written(seconds: &[u8], micros: &[u8]) -> Option<Bytes> {
    let micros: u32 = std::str::from_utf8(micros).ok()?.parse().ok()?;
    let text = format!("{}.{micros:06}", std::str::from_utf8(seconds).ok()?);
    let end = text.trim_end_matches('0');
    let end = if end.ends_with('.') { end.len() + 1 } else { end.len() };
    Some(Bytes::copy_from_slice(&text.as_bytes()[..end]))
}

/// The time that a mark holds, as the script reads it; the error NOTIME if it is none.
fn time(mark: Option<Bytes>) -> Result<Option<f64>, Error> {
    let Some(mark) = mark else { return Ok(None) };
    let text = std::str::from_utf8(&mark).ok();
    let number = text.filter(|text| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
    });
    let time = number.and_then(|text| text.parse().ok());
    time.map(Some)
        .ok_or_else(|| Error::Reply(Reply::Other("NOTIME".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_by_the_scripts_and_read_as_by_them() {
        let cases = [
            ("0", "5.0"),
            ("166022", "5.166022"),
            ("100", "5.0001"),
            ("120000", "5.12"),
        ];
        for (micros, text) in cases {
            assert_eq!(written(b"5", micros.as_bytes()).unwrap(), text);
        }
        assert_eq!(written(b"5", b"x"), None);
        assert_eq!(time(None), Ok(None));
        assert_eq!(time(Some("1795455143.166022".into())), Ok(Some(1_795_455_143.166_022)));
        assert_eq!(time(Some("1e3".into())), Ok(Some(1_000.0)));
        for bad in ["", "nan", "inf", "0x10", "1 "] {
            assert!(time(Some(bad.into())).is_err(), "{bad}");
        }
    }
}
