//! A stream of numbered batches: what its callers fill is answered one batch after the other, each when it is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use tokio::time::sleep;
use tonic::{Request, Status, Streaming};

use super::metrics::MethodCounters;
use super::{Call, Draining};
use crate::deadline::{Deadline, jittered};
use crate::proto::DegradedReason;
use crate::status;

/// Silence on a stream after which its last number is told again.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a caller sends on such a stream.
pub trait Batch {
    /// What answers it.
    type Answer;

    /// Its number, as the caller gave it.
    fn number(&self) -> u64;

    /// An answer that tells this last number, and of no batch.
    fn last(number: u64) -> Self::Answer;

    /// By what an answer is degraded, if it is: what failed of the batch, or waits.
    fn degraded(answer: &Self::Answer) -> DegradedReason;
}

/// The answers of the stream that `request` opens: first one that confirms it, with the number 0, then what `work` makes of each
/// batch, within `timeout`; each is counted as a call. An error of its ends the stream. At a drain the batch at work is answered,
/// and none after it is taken.
///
/// Pulled by the transport as the caller takes what is answered: who takes nothing sends nothing more.
///
/// # Panics
/// If the method's callers do not stream, or the request did not come through the layers.
pub fn answers<B: Batch, F>(
    request: Request<Streaming<B>>,
    timeout: Duration,
    work: impl Fn(B, Deadline) -> F,
) -> impl Stream<Item = Result<B::Answer, Status>>
where
    F: Future<Output = Result<B::Answer, Status>>,
{
    let batches = Batches {
        call: Call::of(&request),
        draining: Draining::of(&request),
        // The outermost layer puts it into each request whose callers stream.
        counters: request.extensions().get().map(Arc::clone).expect("a client's stream"),
        requests: request.into_inner(),
        timeout,
        work,
        number: None,
    };
    stream::unfold(Some(batches), |batches| async {
        let mut batches = batches?;
        match batches.next().await {
            Ok(Some(answer)) => Some((Ok(answer), Some(batches))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
}

struct Batches<B, W> {
    call: Call,
    draining: Draining,
    counters: Arc<MethodCounters>,
    requests: Streaming<B>,
    timeout: Duration,
    work: W,
    /// That of the last batch answered, 0 before the first; none before the stream is confirmed.
    number: Option<u64>,
}

impl<B: Batch, W, F> Batches<B, W>
where
    W: Fn(B, Deadline) -> F,
    F: Future<Output = Result<B::Answer, Status>>,
{
    /// The next answer; none when the caller has closed its side and all is answered.
    async fn next(&mut self) -> Result<Option<B::Answer>, Status> {
        let Some(last) = self.number else {
            self.number = Some(0);
            return Ok(Some(B::last(0)));
        };
        tokio::select! {
            biased;
            () = self.draining.begun() => Err(status::draining(self.call.method)),
            batch = self.requests.message() => match batch? {
                Some(batch) => self.take(batch, last).await.map(Some),
                None => Ok(None),
            },
            () = sleep(jittered(HEARTBEAT)) => Ok(Some(B::last(last))),
        }
    }

    async fn take(&mut self, batch: B, last: u64) -> Result<B::Answer, Status> {
        let (number, since) = (batch.number(), Instant::now());
        if number <= last {
            let expected = format!("must be above {last}, the last one");
            return Err(status::invalid("number", expected));
        }
        let by = self.call.deadline.map_or_else(
            || Deadline::within(self.timeout),
            |deadline| deadline.capped(self.timeout),
        );
        let answer = (self.work)(batch, by).await?;
        self.number = Some(number);
        self.counters.batch(since, B::degraded(&answer));
        Ok(answer)
    }
}
