//! Clients that watch at a gateway and acknowledge what expires; unruly ones go away before they have, and come back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng as _, rngs::StdRng};
use redis_gateway::proto::{
    OrchestratorExpired, OrchestratorWatchAcknowledge, OrchestratorWatchOpen, OrchestratorWatchRequest,
    OrchestratorWatchResponse, orchestrator_client::OrchestratorClient, orchestrator_watch_open::Expiries,
    orchestrator_watch_request::Message, orchestrator_watch_response::Event,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::PREFIX;
use crate::soak::measure::{At, nanos, now};

/// Before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// An expiry that a client was told.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub key: String,
    pub value: String,
    pub at: At,
    pub fate: Fate,
}

/// What became of an expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Acknowledged,
    /// Its client went away so soon that the acknowledgement may not have come to the gateway.
    InDoubt,
    /// Its client went away instead.
    LeftToOthers,
}

/// By when an acknowledgement has come to the gateway.
const ARRIVES: Duration = Duration::from_millis(500);

pub(super) struct Watcher {
    pub client: OrchestratorClient<Channel>,
    pub name: String,
    /// Whether it goes away now and then, before it acknowledges.
    pub unruly: bool,
    pub random: StdRng,
}

/// All who watch by gateways; they end when this is dropped.
#[derive(Default)]
pub(super) struct Watchers {
    told: Arc<Mutex<Vec<Delivery>>>,
    opened: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Watchers {
    pub(super) fn start(&mut self, watcher: Watcher) {
        let (told, opened) = (self.told.clone(), self.opened.clone());
        self.tasks.spawn(async move { watcher.watch(&told, &opened).await });
    }

    /// How many streams were confirmed so far.
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Relaxed)
    }

    /// What they were told so far.
    pub(super) fn told(&self) -> Vec<Delivery> {
        self.told.lock().unwrap().clone()
    }
}

impl Watcher {
    async fn watch(mut self, told: &Mutex<Vec<Delivery>>, opened: &AtomicUsize) {
        loop {
            // However it ended: it comes back.
            drop(self.watch_once(told, opened).await);
            let away = if self.unruly {
                self.random.random_range(PAUSE..10 * PAUSE)
            } else {
                PAUSE
            };
            sleep(away).await;
        }
    }

    async fn watch_once(&mut self, told: &Mutex<Vec<Delivery>>, opened: &AtomicUsize) -> Result<(), Status> {
        let (asks, mut stream) = open(&mut self.client, PREFIX, Expiries::One, &self.name).await?;
        // Those that came on this stream.
        let mut own = Vec::new();
        while let Some(answer) = stream.message().await? {
            match answer.event {
                Some(Event::Confirmed(_)) => drop(opened.fetch_add(1, Relaxed)),
                Some(Event::Expire(OrchestratorExpired { key, value, ack_id })) => {
                    let goes = self.unruly && self.random.random_bool(0.05);
                    let value = String::from_utf8(value.into()).unwrap();
                    note(&mut told.lock().unwrap(), &mut own, (key, value), goes);
                    if goes {
                        return Ok(());
                    }
                    let acknowledge = Message::Acknowledge(OrchestratorWatchAcknowledge { ack_id });
                    // Whoever reads them has ended: so will the stream.
                    drop(asks.send(asking(acknowledge)).await);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Notes what came on a stream, whose earlier ones are `own`; when its client goes away, what that leaves in doubt.
fn note(told: &mut Vec<Delivery>, own: &mut Vec<usize>, (key, value): (String, String), goes: bool) {
    let at = now();
    if goes {
        for before in own.iter() {
            if at - told[*before].at < nanos(ARRIVES) {
                told[*before].fate = Fate::InDoubt;
            }
        }
    }
    own.push(told.len());
    let fate = if goes { Fate::LeftToOthers } else { Fate::Acknowledged };
    told.push(Delivery { key, value, at, fate });
}

/// A stream, and what goes to it.
pub(super) async fn open(
    client: &mut OrchestratorClient<Channel>,
    prefix: &str,
    expiries: Expiries,
    name: &str,
) -> Result<
    (
        mpsc::Sender<OrchestratorWatchRequest>,
        Streaming<OrchestratorWatchResponse>,
    ),
    Status,
> {
    let (asks, asked) = mpsc::channel(64);
    let open = OrchestratorWatchOpen {
        prefix: prefix.into(),
        snapshot: true,
        expiries: expiries.into(),
        client_id: name.into(),
    };
    asks.send(asking(Message::Open(open)))
        .await
        .expect("room for the first");
    let stream = client.watch(ReceiverStream::new(asked)).await?.into_inner();
    Ok((asks, stream))
}

pub(super) fn asking(message: Message) -> OrchestratorWatchRequest {
    OrchestratorWatchRequest { message: Some(message) }
}
