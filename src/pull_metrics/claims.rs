//! Who holds which key for a flush.
//!
//! A claim goes through the keyspace in steps of one script each, which write what they claim into the claim's record, and ends
//! with the seal, which reads what the record names. So a step whose answer is lost costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::seq::SliceRandom as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::claim_store::{ClaimId, ClaimStore, Row};
use super::metrics::{ClaimEvent, Metrics};
use super::rows::{self, ClaimedKey, DroppedKey, ManifestPulls, TagPulls};
use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error};

/// How long after Redis was away it is asked again for what stands in a claim.
const RETRY: Duration = Duration::from_millis(50);

/// Keys that were claimed together.
#[derive(Debug)]
pub(super) struct Claim {
    pub id: ClaimId,
    pub manifests: Vec<ManifestPulls>,
    pub tags: Vec<TagPulls>,
    pub keys: Vec<ClaimedKey>,
    pub dropped: Vec<DroppedKey>,
}

/// What there was to claim.
#[derive(Debug)]
pub(super) struct Claimed {
    /// None: nothing.
    pub claim: Option<Claim>,
    /// Whether there may be more.
    pub more: bool,
}

/// What a commit came to.
#[derive(Debug)]
pub(super) struct Committed {
    pub deleted: i64,
    pub lost: Vec<String>,
}

/// What an extension came to.
#[derive(Debug)]
pub(super) struct Extended {
    pub held: i64,
    pub lost: Vec<String>,
}

/// The claims on one endpoint.
pub(super) struct Claims {
    store: ClaimStore,
    /// Where the next claim begins to look, so that keys at the end have their turn however many come in at the beginning.
    cursor: AtomicU64,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

/// How far the steps of a claim have come.
#[derive(Default)]
struct Steps {
    /// Whether keys may stand in the claim's record.
    begun: bool,
    /// Whether there may be more to claim.
    more: bool,
    /// What ended them early.
    error: Option<Error>,
}

/// Where a claim is told.
type Tell = oneshot::Sender<Result<(Claimed, Receipt), Error>>;

/// The other end hears whether a claim reached its caller.
type Receipt = oneshot::Sender<()>;

impl Claims {
    pub(super) fn new(endpoint: Arc<Endpoint>, orphan_age: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Claims {
            store: ClaimStore::new(endpoint, orphan_age),
            cursor: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            metrics,
        })
    }

    /// Claims at most `most` keys. If the caller goes away meanwhile, they are given back.
    pub(super) async fn claim(self: &Arc<Self>, most: usize, lease: Duration, by: Deadline) -> Result<Claimed, Error> {
        let (tell, told) = oneshot::channel();
        let work = self.clone().work(most, lease, by, tell);
        self.tasks.spawn(work.instrument(tracing::Span::current()));
        // The task tells before it ends; should it have panicked, nobody knows what it did before.
        let (claimed, receipt) = told.await.unwrap_or(Err(Error::Unknown))?;
        // The task waits for it.
        let _ = receipt.send(());
        Ok(claimed)
    }

    /// Deletes the claim's keys. None: no such claim.
    pub(super) async fn commit(&self, id: &ClaimId, by: Deadline) -> Result<Option<Committed>, Error> {
        let committed = self.store.commit(id, by).await?;
        self.metrics.open.end(id);
        self.count(ClaimEvent::Committed, committed.is_some());
        Ok(committed.map(|(deleted, lost)| Committed {
            deleted,
            lost: self.lost(&lost),
        }))
    }

    /// Frees the claim's keys, and tells how many. None: no such claim.
    pub(super) async fn give_back(&self, id: &ClaimId, by: Deadline) -> Result<Option<i64>, Error> {
        let given_back = self.store.give_back(id, by).await?;
        self.metrics.open.end(id);
        self.count(ClaimEvent::GivenBack, given_back.is_some());
        Ok(given_back)
    }

    /// Gives the claim a new lease. None: no such claim.
    pub(super) async fn extend(&self, id: &ClaimId, lease: Duration, by: Deadline) -> Result<Option<Extended>, Error> {
        let extended = self.store.extend(id, lease, by).await?;
        match extended {
            Some(_) => self.metrics.open.keep(id, lease),
            None => self.metrics.open.end(id),
        }
        self.count(ClaimEvent::Extended, extended.is_some());
        Ok(extended.map(|(held, lost)| Extended {
            held,
            lost: self.lost(&lost),
        }))
    }

    /// Waits until every claim has reached its caller, or was given back. For the end of the gateway, when no more come in.
    pub(super) async fn settled(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Makes a claim, tells it, and gives it back if nobody takes it.
    async fn work(self: Arc<Self>, most: usize, lease: Duration, by: Deadline, tell: Tell) {
        let id = ClaimId::random();
        let steps = self.steps(&id, most, lease, by, &tell).await;
        let claimed = match steps.error {
            // What was claimed before is worth an answer.
            _ if steps.begun => self.seal(&id, steps.more, lease, by).await,
            Some(error) => Err(error),
            None => Ok(Claimed {
                claim: None,
                more: steps.more,
            }),
        };
        let (receipt, received) = oneshot::channel();
        // A caller that is gone gives no receipt, nor does one that hears of an error.
        let _ = tell.send(claimed.map(|claimed| (claimed, receipt)));
        if steps.begun && received.await.is_err() {
            let given_back = self.give_back(&id, Deadline::within(self.store.timeout())).await;
            if let Err(error) = given_back {
                tracing::warn!(%error, "keys of a claim that nobody took come up again when its lease runs out");
            }
        }
    }

    /// Goes through the keyspace until the claim has `most` keys, half of the time is gone, all was seen once, or the caller is
    /// gone.
    async fn steps(&self, id: &ClaimId, most: usize, lease: Duration, by: Deadline, tell: &Tell) -> Steps {
        let half = Instant::now() + by.instant().saturating_duration_since(Instant::now()) / 2;
        let began = self.cursor.load(Ordering::Relaxed);
        let (mut cursor, mut wrapped) = (began, false);
        let mut steps = Steps {
            more: true,
            ..Steps::default()
        };
        while Instant::now() < half && !tell.is_closed() {
            let (next, names) = match self.store.scan(cursor, by).await {
                Ok(page) => page,
                Err(error) => {
                    steps.error = Some(error);
                    break;
                }
            };
            match self.step(id, names, most, lease, by).await {
                Ok(held) => {
                    steps.begun |= held > 0;
                    if held >= most {
                        // The page may have more: the next claim begins with it.
                        break;
                    }
                }
                Err(error) => {
                    // A script that is denied halfway has taken what came before.
                    steps.begun |= matches!(error, Error::Unknown | Error::Reply(_));
                    steps.error = Some(error);
                    break;
                }
            }
            cursor = next;
            // Cursors count from their highest bit, whatever becomes of the table's size meanwhile.
            let seen = wrapped && (next == 0 || next.reverse_bits() >= began.reverse_bits());
            if seen || (next == 0 && began == 0) {
                steps.more = false;
                break;
            }
            wrapped |= next == 0;
        }
        self.cursor.store(cursor, Ordering::Relaxed);
        steps
    }

    /// Claims some of `names`. How many keys the claim has then.
    async fn step(
        &self,
        id: &ClaimId,
        mut names: Vec<Bytes>,
        most: usize,
        lease: Duration,
        by: Deadline,
    ) -> Result<usize, Error> {
        if names.is_empty() {
            return Ok(0);
        }
        // So that of those for which there is no room none is always the last.
        names.shuffle(&mut rand::rng());
        self.store.claim(id, names, most, lease, by).await
    }

    /// Ends the steps of a claim, and reads what it has.
    async fn seal(&self, id: &ClaimId, more: bool, lease: Duration, by: Deadline) -> Result<Claimed, Error> {
        let sealed = loop {
            match self.store.seal(id, lease, by).await {
                // Nothing was executed. The connection that took the last step's answer with it is soon replaced.
                Err(Error::Unavailable) if Instant::now() + RETRY < by.instant() => sleep(RETRY).await,
                sealed => break sealed?,
            }
        };
        if sealed.is_empty() {
            return Ok(Claimed { claim: None, more });
        }
        let (mut keys, mut dropped) = (Vec::with_capacity(sealed.len()), Vec::new());
        for Row { name, orphan, fields } in sealed {
            let kind = if orphan {
                &self.metrics.orphan_keys
            } else {
                &self.metrics.fresh_keys
            };
            kind.inc();
            match rows::parse(&name, orphan, &fields) {
                Ok(key) => keys.push(key),
                Err(key) => {
                    self.metrics.dropped(key.reason.as_str());
                    dropped.push(key);
                }
            }
        }
        self.metrics.open.keep(id, lease);
        self.metrics.claim(ClaimEvent::Claimed);
        let (manifests, tags) = rows::sum(&keys);
        let claim = Some(Claim {
            id: id.clone(),
            manifests,
            tags,
            keys,
            dropped,
        });
        Ok(Claimed { claim, more })
    }

    fn count(&self, event: ClaimEvent, found: bool) {
        self.metrics.claim(if found { event } else { ClaimEvent::NotFound });
    }

    fn lost(&self, names: &[Bytes]) -> Vec<String> {
        self.metrics.lost_keys.inc_by(names.len() as u64);
        names.iter().map(rows::text).collect()
    }
}
