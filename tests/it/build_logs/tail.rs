//! Tail: what is told, when, and what it costs.

use std::time::Duration;

use bytes::Bytes;
use redis_gateway::proto::{
    DegradedReason, DeleteEntriesRequest, TailEntries, TailOpened, TailRequest, TailReset, TailResponse,
    tail_reset::Cause, tail_response::Event,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Streaming};

use super::{Stand, logs_key, status_key, texts};
use crate::harness::{eventually, heavy, patience};

fn from(start: i64) -> TailRequest {
    TailRequest {
        build_id: "b".into(),
        start,
        previous_entry: None,
    }
}

/// What comes next but heartbeats.
async fn next(stream: &mut Streaming<TailResponse>) -> Event {
    let next = async {
        loop {
            match stream
                .message()
                .await
                .expect("a stream that stands")
                .and_then(|item| item.event)
            {
                Some(Event::Heartbeat(_)) => {}
                Some(event) => return event,
                None => panic!("an empty item, or the end"),
            }
        }
    };
    timeout(patience(), next).await.expect("an event")
}

/// The next `count` entries, which follow each other from index `start` on.
async fn entries(stream: &mut Streaming<TailResponse>, start: i64, count: usize) -> Vec<Bytes> {
    let mut got = Vec::new();
    while got.len() < count {
        let Event::Entries(TailEntries { start: at, entries }) = next(stream).await else {
            panic!("something else after {} entries", got.len());
        };
        assert_eq!(at, start + i64::try_from(got.len()).unwrap());
        got.extend(entries);
    }
    assert_eq!(got.len(), count);
    got
}

impl Stand {
    async fn tail(&mut self, request: TailRequest, start: i64, length: i64) -> Streaming<TailResponse> {
        let mut stream = self.logs.tail(request).await.unwrap().into_inner();
        assert_eq!(next(&mut stream).await, Event::Opened(TailOpened { start, length }));
        stream
    }
}

fn reset(cause: Cause, length: i64, next_start: i64) -> Event {
    Event::Reset(TailReset {
        cause: cause.into(),
        length,
        next_start,
    })
}

#[tokio::test]
async fn a_log_is_followed_from_any_index() {
    let mut stand = Stand::new().await;
    let mut early = stand.tail(from(0), 0, 0).await;
    stand.append("b", &["0", "1", "2"]).await;
    assert_eq!(texts(&entries(&mut early, 0, 3).await), ["0", "1", "2"]);

    let mut last = stand.tail(from(-1), 2, 3).await;
    assert_eq!(texts(&entries(&mut last, 2, 1).await), ["2"]);
    let mut end = stand.tail(from(3), 3, 3).await;
    let resumed = TailRequest {
        previous_entry: Some("1".into()),
        ..from(2)
    };
    let mut resumed = stand.tail(resumed, 2, 3).await;
    assert_eq!(texts(&entries(&mut resumed, 2, 1).await), ["2"]);

    // Past the gateway: seen within the interval.
    stand.rpush("b", &["3"]).await;
    for stream in [&mut early, &mut last, &mut end, &mut resumed] {
        assert_eq!(texts(&entries(stream, 3, 1).await), ["3"]);
    }
    drop((early, last, end, resumed));
    stand.stop().await;
}

#[tokio::test]
async fn what_is_appended_here_arrives_at_once() {
    // Nothing else would make the feed look.
    let mut stand = Stand::with(|config| config.build_logs.poll_interval = Duration::from_hours(1)).await;
    let mut stream = stand.tail(from(0), 0, 0).await;
    for n in 0..20 {
        assert_eq!(stand.append("b", &["1"]).await, n + 1);
        entries(&mut stream, n, 1).await;
    }
    let build_id = "b".to_owned();
    stand
        .logs
        .delete_entries(DeleteEntriesRequest { build_id })
        .await
        .unwrap();
    assert_eq!(next(&mut stream).await, reset(Cause::Deleted, 0, 0));
    drop(stream);
    stand.stop().await;
}

#[tokio::test]
async fn a_long_log_is_caught_up_with() {
    let mut stand = Stand::new().await;
    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    stand.append("b", &numbers).await;
    let mut stream = stand.tail(from(0), 0, 10_000).await;
    // Grows meanwhile.
    stand.append("b", &numbers).await;
    let got = entries(&mut stream, 0, 20_000).await;
    assert_eq!(texts(&got), [numbers.as_slice(), &numbers].concat());
    drop(stream);
    stand.stop().await;
}

#[tokio::test]
async fn a_list_that_is_another_one_is_told_as_a_reset() {
    let mut stand = Stand::new().await;
    let key = logs_key("b");
    stand.append("b", &["0", "1", "2", "3"]).await;
    let mut stream = stand.tail(from(0), 0, 4).await;
    entries(&mut stream, 0, 4).await;

    stand.server.run::<()>(&["LTRIM", &key, "0", "1"]).await;
    assert_eq!(next(&mut stream).await, reset(Cause::Shortened, 2, 2));
    stand.rpush("b", &["two", "three"]).await;
    assert_eq!(texts(&entries(&mut stream, 2, 2).await), ["two", "three"]);

    // Replaced and grown past the reader.
    let script = "redis.call('DEL', KEYS[1]) return redis.call('RPUSH', KEYS[1], 5, 6, 7, 8, 9)";
    stand.server.run::<i64>(&["EVAL", script, "1", &key]).await;
    assert_eq!(next(&mut stream).await, reset(Cause::Replaced, 5, 0));
    assert_eq!(texts(&entries(&mut stream, 0, 5).await), ["5", "6", "7", "8", "9"]);

    stand.server.run::<()>(&["DEL", &key]).await;
    assert_eq!(next(&mut stream).await, reset(Cause::Deleted, 0, 0));
    stand.rpush("b", &["10"]).await;
    assert_eq!(texts(&entries(&mut stream, 0, 1).await), ["10"]);

    stand
        .server
        .run::<()>(&["SET", &status_key("b"), "{}", "EX", "86400"])
        .await;
    stand.server.run::<()>(&["DEL", &key]).await;
    assert_eq!(next(&mut stream).await, reset(Cause::Archived, 0, 0));

    let (_, metrics) = stand.gateway.admin("/metrics").await;
    for cause in ["shortened", "replaced", "deleted", "archived"] {
        let told = format!("redis_gateway_build_logs_resets_total{{cause=\"{cause}\"}} 1\n");
        assert!(metrics.contains(&told), "{cause}: {metrics}");
    }
    for open in ["tails 1", "followed 1"] {
        assert!(
            metrics.contains(&format!("redis_gateway_build_logs_{open}\n")),
            "{metrics}"
        );
    }
    assert!(
        !metrics.contains("redis_gateway_build_logs_look_seconds_count 0\n"),
        "{metrics}"
    );
    drop(stream);
    stand.stop().await;
}

#[tokio::test]
async fn a_stream_that_cannot_begin_where_it_should_begins_with_a_reset() {
    let mut stand = Stand::new().await;
    stand.append("b", &["0", "1"]).await;
    let mut past = stand.tail(from(7), 7, 2).await;
    assert_eq!(next(&mut past).await, reset(Cause::Replaced, 2, 0));
    assert_eq!(texts(&entries(&mut past, 0, 2).await), ["0", "1"]);
    let other = TailRequest {
        previous_entry: Some("7".into()),
        ..from(2)
    };
    let mut other = stand.tail(other, 2, 2).await;
    assert_eq!(next(&mut other).await, reset(Cause::Replaced, 2, 0));
    assert_eq!(texts(&entries(&mut other, 0, 2).await), ["0", "1"]);
    drop((past, other));

    stand.server.run::<()>(&["DEL", &logs_key("b")]).await;
    stand
        .server
        .run::<()>(&["SET", &status_key("b"), "{}", "EX", "60"])
        .await;
    let mut gone = stand.tail(from(0), 0, 0).await;
    assert_eq!(next(&mut gone).await, reset(Cause::Archived, 0, 0));
    drop(gone);
    stand.stop().await;
}

#[tokio::test]
async fn a_silent_log_beats_and_says_when_it_cannot_be_read() {
    let mut stand = Stand::with(|config| {
        config.build_logs.heartbeat = Duration::from_millis(100);
        config.endpoints.build_logs.as_mut().unwrap().command_timeout = Duration::from_millis(200);
    })
    .await;
    let mut stream = stand.tail(from(0), 0, 0).await;
    let mut beats = async |degraded: bool| {
        let beat = async {
            loop {
                match stream.message().await.unwrap().unwrap().event.unwrap() {
                    Event::Heartbeat(beat) if (beat.degraded() != DegradedReason::Unspecified) == degraded => return,
                    Event::Heartbeat(_) => {}
                    event => panic!("{event:?}"),
                }
            }
        };
        timeout(patience(), beat).await.expect("a heartbeat");
    };
    beats(false).await;
    stand.server.pause();
    beats(true).await;
    stand.server.resume();
    beats(false).await;
    stand.append("b", &["0"]).await;
    entries(&mut stream, 0, 1).await;

    // Restarted without its data.
    stand.server.kill();
    stand.server.restart().await;
    assert_eq!(next(&mut stream).await, reset(Cause::Deleted, 0, 0));
    stand.rpush("b", &["1"]).await;
    assert_eq!(texts(&entries(&mut stream, 0, 1).await), ["1"]);
    drop(stream);
    stand.stop().await;
}

#[tokio::test]
async fn a_stream_does_not_open_without_redis() {
    let mut stand = Stand::new().await;
    stand.append("b", &["0"]).await;
    stand.server.kill();
    eventually("the call fails", async || {
        let opened = stand.logs.tail(from(0)).await;
        opened.is_err_and(|status| status.code() == Code::Unavailable)
    })
    .await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tails_of_one_log_cost_one_poll_between_them() {
    let _one = heavy().await;
    let mut stand = Stand::new().await;
    stand.append("b", &["0"]).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        stand.logs = stand.gateway.build_logs().await;
        for _ in 0..100 {
            streams.push(stand.tail(from(0), 0, 1).await);
        }
    }
    for stream in &mut streams {
        entries(stream, 0, 1).await;
    }

    let (began, before) = (Instant::now(), stand.scripts_run().await);
    sleep(Duration::from_secs(2)).await;
    stand.rpush("b", &["1", "2"]).await;
    for stream in &mut streams {
        assert_eq!(texts(&entries(stream, 1, 2).await), ["1", "2"]);
    }
    let runs = stand.scripts_run().await - before;
    // One each 250 ms.
    let polls = u64::try_from(began.elapsed().as_millis()).unwrap() / 250;
    println!("{runs} scripts in {:?} for {} tails", began.elapsed(), streams.len());
    assert!((3..=polls + 2).contains(&runs), "{runs} scripts, {polls} polls");

    // The last one that goes away ends the polling.
    drop(streams);
    eventually("nobody looks any more", async || {
        let before = stand.scripts_run().await;
        sleep(Duration::from_secs(1)).await;
        stand.scripts_run().await == before
    })
    .await;
    stand.stop().await;
}
