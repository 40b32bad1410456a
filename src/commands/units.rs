//! Numbers as people read them.

use std::time::Duration;

/// A length of time, to two or three digits.
pub(super) fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The same; none is no end.
pub(super) fn left(left: Option<Duration>) -> String {
    left.map_or_else(|| "no end".to_owned(), span)
}

/// A number of bytes, to whole kibibytes or mebibytes.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let seconds = |seconds| span(Duration::from_secs(seconds));
        let spans = [1, 119, 120, 7_199, 7_200, 86_400, 604_800].map(seconds);
        assert_eq!(spans, ["1 s", "119 s", "2 min", "119 min", "2 h", "24 h", "7 d"]);
        assert_eq!(
            (span(Duration::from_millis(9)).as_str(), left(None).as_str()),
            ("9 ms", "no end")
        );
        assert_eq!([10, 10_240, 20 << 20].map(bytes), ["10 B", "10 KiB", "20 MiB"]);
    }
}
