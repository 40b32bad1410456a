//! Callers that count pulls in each of the ways that there are, and what they were told.

use std::{ops::AddAssign, time::Duration};

use rand::{Rng as _, rngs::StdRng};
use redis_gateway::proto::{
    BatchTrackPullsRequest, DegradedReason, Pull, PullFailure, StreamPullsRequest, TrackManifestPullRequest,
    TrackTagPullRequest, pull_metrics_client::PullMetricsClient,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::harness::{Told, reason, told};

/// Repositories from 1 on, and tags of each: a key for each tag, and one for its manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub(super) repositories: i64,
    pub(super) tags: i64,
}

/// Calls of one caller in flight.
const IN_FLIGHT: usize = 64;
/// Pulls of a batch.
const BATCH: u64 = 100;
/// What a caller waits before it goes on after a failure.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of pulls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) not_executed: u64,
}

impl Tally {
    /// How many may stand.
    pub(super) fn sent(&self) -> u64 {
        self.acknowledged + self.unknown
    }

    fn note(&mut self, told: Told, pulls: u64) {
        match told {
            Told::Done => self.acknowledged += pulls,
            Told::Unknown => self.unknown += pulls,
            Told::NotExecuted => self.not_executed += pulls,
        }
    }

    /// Notes a batch with its failures.
    fn batch(&mut self, pulls: u64, failures: &[PullFailure]) {
        let unknown = failures
            .iter()
            .filter(|failure| failure.reason() == DegradedReason::OutcomeUnknown)
            .count() as u64;
        let failed = failures.len() as u64;
        self.note(Told::Done, pulls - failed);
        self.note(Told::Unknown, unknown);
        self.note(Told::NotExecuted, failed - unknown);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.not_executed += other.not_executed;
    }
}

/// A pull of one of the keys, which are those of `tests/peers/produce_pulls.py`.
fn pull(keys: Keys, random: &mut StdRng) -> Pull {
    let (repository_id, tag) = (
        random.random_range(1..=keys.repositories),
        random.random_range(0..keys.tags),
    );
    let by_tag = random.random_bool(0.75);
    Pull {
        repository_id,
        tag: if by_tag { format!("t{tag}") } else { String::new() },
        digest: format!("sha256:{repository_id:032x}{tag:032x}"),
        timestamp: None,
    }
}

/// Counts pulls until `wanted` may stand: one by one, in batches, or over a stream, by `kind`.
pub(super) async fn count(
    pulls: PullMetricsClient<Channel>,
    kind: usize,
    keys: Keys,
    wanted: u64,
    random: StdRng,
) -> Tally {
    match kind % 3 {
        0 => one_by_one(pulls, keys, wanted, random).await,
        1 => in_batches(pulls, keys, wanted, random).await,
        _ => over_streams(pulls, keys, wanted, random).await,
    }
}

async fn one_by_one(pulls: PullMetricsClient<Channel>, keys: Keys, wanted: u64, mut random: StdRng) -> Tally {
    let mut tally = Tally::default();
    let mut calls = JoinSet::new();
    while tally.sent() < wanted {
        while calls.len() < IN_FLIGHT && tally.sent() + (calls.len() as u64) < wanted {
            calls.spawn(one(pulls.clone(), pull(keys, &mut random)));
        }
        let told = calls.join_next().await.expect("a call in flight").unwrap();
        tally.note(told, 1);
        if told != Told::Done {
            sleep(PAUSE).await;
        }
    }
    tally
}

async fn one(mut pulls: PullMetricsClient<Channel>, pull: Pull) -> Told {
    let Pull {
        repository_id,
        tag,
        digest,
        timestamp,
    } = pull;
    if tag.is_empty() {
        let request = TrackManifestPullRequest {
            repository_id,
            digest,
            timestamp,
            buffered: false,
        };
        return told(&pulls.track_manifest_pull(request).await);
    }
    let request = TrackTagPullRequest {
        repository_id,
        tag,
        digest,
        timestamp,
        buffered: false,
    };
    told(&pulls.track_tag_pull(request).await)
}

fn batch(keys: Keys, tally: Tally, wanted: u64, random: &mut StdRng) -> Vec<Pull> {
    (0..BATCH.min(wanted - tally.sent()))
        .map(|_| pull(keys, random))
        .collect()
}

async fn in_batches(mut pulls: PullMetricsClient<Channel>, keys: Keys, wanted: u64, mut random: StdRng) -> Tally {
    let mut tally = Tally::default();
    while tally.sent() < wanted {
        let batch = batch(keys, tally, wanted, &mut random);
        let size = batch.len() as u64;
        let request = BatchTrackPullsRequest {
            pulls: batch,
            buffered: false,
        };
        let result = pulls.batch_track_pulls(request).await;
        let failed = if let Ok(answer) = &result {
            tally.batch(size, &answer.get_ref().failures);
            !answer.get_ref().failures.is_empty()
        } else {
            tally.note(told(&result), size);
            true
        };
        if failed {
            sleep(PAUSE).await;
        }
    }
    tally
}

async fn over_streams(mut pulls: PullMetricsClient<Channel>, keys: Keys, wanted: u64, mut random: StdRng) -> Tally {
    let mut tally = Tally::default();
    while tally.sent() < wanted {
        let (batches, taken) = mpsc::channel(1);
        let Ok(answers) = pulls.stream_pulls(ReceiverStream::new(taken)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut answers = answers.into_inner();
        let (mut number, mut size) = (0, 0);
        // The confirmation comes first.
        loop {
            let answer = match answers.message().await {
                Ok(Some(answer)) if answer.number < number => continue,
                Ok(Some(answer)) => answer,
                // What a drain does not answer, it does not count.
                Err(status) if reason(&status).as_deref() == Some("DRAINING") => {
                    tally.note(Told::NotExecuted, size);
                    size = 0;
                    break;
                }
                Ok(None) | Err(_) => break,
            };
            tally.batch(size, &answer.failures);
            size = 0;
            if !answer.failures.is_empty() {
                sleep(PAUSE).await;
            }
            if tally.sent() >= wanted {
                break;
            }
            let pulls = batch(keys, tally, wanted, &mut random);
            (number, size) = (number + 1, pulls.len() as u64);
            let request = StreamPullsRequest {
                number,
                pulls,
                buffered: false,
            };
            if batches.send(request).await.is_err() {
                break;
            }
        }
        // Sent and not answered.
        tally.note(Told::Unknown, size);
    }
    tally
}
