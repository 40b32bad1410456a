//! How far a replica is behind its primary, by what both say of themselves.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::finding::Finding;
use crate::config::{Endpoint, Server};
use crate::redis::{Error, Visit, command};

/// Between two looks at a replica.
const AGAIN: Duration = Duration::from_millis(20);

/// What came of waiting for a replica.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// How long it took to get what its primary had. None: nobody knows, or it did not get it in time.
    pub(super) took: Option<Duration>,
    pub(super) finding: Option<Finding>,
}

impl From<Finding> for Lag {
    fn from(finding: Finding) -> Self {
        Lag {
            took: None,
            finding: Some(finding),
        }
    }
}

/// Waits for the replica to get what its primary has by now, for the endpoint's command timeout.
pub(super) async fn judge(
    endpoint: &str,
    config: &Endpoint,
    at: &Server,
    primary: &Visit,
    replica: &Visit,
) -> Result<Lag, Error> {
    // A primary that does not answer now has been told of, and so was who may not ask.
    let Ok(Some(ahead)) = Place::ask(primary).await else {
        return Ok(Lag::default());
    };
    let Some(mut behind) = Place::ask(replica).await? else {
        return Ok(Lag::default());
    };
    let setting = format!("endpoints.{endpoint}");
    let follow = match at {
        Server::Tcp { host, port } => format!("there: REPLICAOF {host} {port}"),
        Server::Unix(_) => "there: REPLICAOF".to_owned(),
    };
    if !behind.follows {
        return Ok(Lag::default());
    }
    if !behind.linked {
        let what = "has lost its primary: what it has is as old as that";
        let fix = "see its log: whether it reaches its primary, and masteruser and masterauth there";
        return Ok(Finding::error("replication", what, fix).into());
    }
    if ahead.id != behind.id {
        let what = format!("follows another primary than {at}: nothing is read from it");
        let fix = format!("{follow}; or take it out of {setting}.replicas");
        return Ok(Finding::error("replication", what, fix).into());
    }
    let began = Instant::now();
    while behind.offset < ahead.offset && began.elapsed() < config.command_timeout {
        sleep(AGAIN).await;
        match Place::ask(replica).await? {
            Some(place) => behind = place,
            None => return Ok(Lag::default()),
        }
    }
    let lag = began.elapsed();
    let bytes = ahead.offset.saturating_sub(behind.offset);
    let fix = format!("see what slows it: its disk, its network, large writes; or raise {setting}.max_staleness");
    if bytes > 0 {
        let what = format!("is behind its primary: {bytes} bytes are missing after {lag:.1?}");
        return Ok(Finding::warning("replication", what, fix).into());
    }
    let most = config.max_staleness;
    let late = || {
        let what = format!("is {lag:.1?} behind its primary, more than {setting}.max_staleness, {most:?}");
        Finding::warning("replication", what, fix)
    };
    Ok(Lag {
        took: Some(lag),
        finding: (lag > most).then(late),
    })
}

/// How far a server is.
struct Place {
    id: String,
    offset: u64,
    follows: bool,
    linked: bool,
}

impl Place {
    async fn ask(redis: &Visit) -> Result<Option<Self>, Error> {
        let info = match redis.ask(command::info("replication")).await {
            Ok(info) => info,
            Err(Error::Reply(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let follows = info.get("role") == Some("slave");
        // What a replica has taken in, and not what it has promised to.
        let offset = if follows {
            "slave_repl_offset"
        } else {
            "master_repl_offset"
        };
        let place = || {
            Some(Place {
                id: info.get("master_replid")?.to_owned(),
                offset: info.get(offset)?.parse().ok()?,
                follows,
                linked: info.get("master_link_status") == Some("up"),
            })
        };
        Ok(place())
    }
}
