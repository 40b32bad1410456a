//! Keys that stand in another database than the one that is configured.

use super::finding::Finding;
use crate::config::Endpoint;
use crate::needs::{Needs, On};
use crate::redis::{Error, Member, Visit, command};

/// How much of a database is looked at: so many steps, of so many places each.
const STEPS: usize = 10;
const STEP: u64 = 1_000;

/// Looks for keys of the patterns in the other databases that hold some.
pub(super) async fn judge(
    endpoint: &str,
    member: &Member,
    config: &Endpoint,
    redis: &Visit,
    databases: &[u8],
    needs: &[Needs],
) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    let named: Vec<(&str, Vec<&str>)> = needs.iter().map(|needs| (needs.pattern, beginnings(needs))).collect();
    let others = databases.iter().filter(|db| **db != config.db);
    for db in others {
        let other = Endpoint {
            db: *db,
            ..config.clone()
        };
        // One that may not go there has nothing there.
        let Ok(there) = Visit::open(member, &other).await else {
            continue;
        };
        for (pattern, beginnings) in named.iter().filter(|(_, beginnings)| !beginnings.is_empty()) {
            if look(&there, beginnings).await? != Seen::Some {
                continue;
            }
            let what = format!("{pattern}: keys stand in database {db}");
            let fix = format!("set endpoints.{endpoint}.db to {db}");
            found.push(if look(redis, beginnings).await? == Seen::Nothing {
                let what = format!("{what}, and none in {}, which is configured", config.db);
                Finding::error("db", what, fix)
            } else {
                let what = format!("{what} too, beside {}, which is configured", config.db);
                let fix = format!("{fix}, or tell who writes there to use {}", config.db);
                Finding::warning("db", what, fix)
            });
        }
    }
    Ok(found)
}

/// What names of keys of a pattern alone begin with.
fn beginnings(needs: &Needs) -> Vec<&str> {
    let beginnings = needs.rights.iter().filter_map(|right| match &right.on {
        On::Keys(pattern) => pattern.strip_suffix('*').filter(|start| !start.is_empty()),
        On::Server | On::Channels(_) => None,
    });
    beginnings.collect()
}

/// What a look at a database came to.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Some,
    Nothing,
    /// Nothing in the part that was looked at.
    NotYet,
}

async fn look(redis: &Visit, beginnings: &[&str]) -> Result<Seen, Error> {
    let mut cursor = 0;
    for _ in 0..STEPS {
        let (next, keys) = match redis.ask(command::scan(cursor, "*", STEP)).await {
            Ok(step) => step,
            Err(Error::Reply(_)) => return Ok(Seen::NotYet),
            Err(error) => return Err(error),
        };
        if keys
            .iter()
            .any(|key| beginnings.iter().any(|start| key.starts_with(start.as_bytes())))
        {
            return Ok(Seen::Some);
        }
        cursor = std::str::from_utf8(&next)
            .ok()
            .and_then(|next| next.parse().ok())
            .unwrap_or(0);
        if cursor == 0 {
            return Ok(Seen::Nothing);
        }
    }
    Ok(Seen::NotYet)
}
