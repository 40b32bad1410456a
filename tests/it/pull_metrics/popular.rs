//! A tag that everybody pulls.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Stand, tag_key, tag_pull};
use crate::harness::{heavy, soak};

/// Pulls a second, and for how many seconds.
const RATE: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pulls_a_second_of_one_tag_cost_few_calls_and_are_answered_when_they_stand() {
    let _one = heavy().await;
    let stand = Stand::new().await;
    let mut direct = stand.server.client_of(1).await;
    let seconds = if soak() { 60 } else { 3 };
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(stand.gateway.pull_metrics().await);
    }
    let before = stand.server.calls("evalsha").await;

    let mut calls = JoinSet::new();
    // Late ticks come at once: the rate holds on average.
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    let (mut answered, mut looked) = (0_u64, 0);
    for ms in 0..seconds * 1_000 {
        tick.tick().await;
        for n in 0..RATE / 1_000 {
            let mut pulls = clients[usize::try_from((ms + n) % 8).unwrap()].clone();
            calls.spawn(async move {
                pulls
                    .track_tag_pull(tag_pull("latest", None))
                    .await
                    .unwrap()
                    .into_inner()
                    .pull_count
            });
        }
        let mut highest = 0;
        while let Some(count) = calls.try_join_next() {
            answered += 1;
            highest = highest.max(count.unwrap());
        }
        // What was answered stands.
        if ms % 10 == 0 && highest > 0 {
            let key = tag_key("latest");
            let stands: i64 = redis::cmd("HGET")
                .arg(key)
                .arg("pull_count")
                .query_async(&mut direct)
                .await
                .unwrap();
            assert!(stands >= highest, "answered {highest}, and {stands} stood");
            looked += 1;
        }
    }
    answered += calls.join_all().await.len() as u64;
    let elapsed = began.elapsed();
    assert_eq!(
        (answered, stand.count(&tag_key("latest")).await),
        (RATE * seconds, RATE * seconds)
    );
    let calls = stand.server.calls("evalsha").await - before;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (ratio, rate) = (calls as f64 / answered as f64, answered as f64 / elapsed.as_secs_f64());
    println!(
        "{answered} pulls of one tag at {rate:.0}/s: {calls} redis calls, {ratio:.4} a pull; looked {looked} times"
    );
    assert!(ratio <= 0.05, "{ratio}");
    assert!(looked > 10 * seconds, "looked too rarely");
    stand.stop().await;
}
