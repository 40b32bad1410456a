//! Keys that stand in another database than the one that is configured.

use super::facts::{Told, Untold, told};
use super::finding::Finding;
use crate::config::Endpoint;
use crate::needs::{Needs, On};
use crate::redis::{Error, Member, Unreached, Visit, command};

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
    let named = needs.iter().map(|needs| (needs.pattern, beginnings(needs)));
    let named: Vec<(&str, Vec<&str>)> = named.filter(|(_, beginnings)| !beginnings.is_empty()).collect();
    if named.is_empty() {
        return Ok(found);
    }
    let others: Vec<u8> = databases.iter().copied().filter(|db| *db != config.db).collect();
    for (n, db) in others.iter().enumerate() {
        // Who may not look into one may look into none.
        let unseen = |why: Untold, command, rules| {
            let left: Vec<String> = others[n..].iter().map(u8::to_string).collect();
            let what = format!(
                "whether keys stand in other databases that hold some ({})",
                left.join(", ")
            );
            why.finding("db", &what, command, config, rules)
        };
        let other = Endpoint {
            db: *db,
            ..config.clone()
        };
        let there = match Visit::open(member, &other).await {
            Ok(there) => there,
            Err(Unreached::Refused(text)) if text.contains("'select'") => {
                found.push(unseen(Untold::Denied, "SELECT", "+select +scan"));
                break;
            }
            Err(_) => return Err(Error::Unavailable),
        };
        for (pattern, beginnings) in &named {
            match look(&there, beginnings).await? {
                Ok(Seen::Some) => {}
                Ok(Seen::Nothing | Seen::NotYet) => continue,
                Err(why) => {
                    found.push(unseen(why, "SCAN", "+scan"));
                    return Ok(found);
                }
            }
            let what = format!("{pattern}: keys stand in database {db}");
            let fix = format!("set endpoints.{endpoint}.db to {db}");
            found.push(if look(redis, beginnings).await? == Ok(Seen::Nothing) {
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

async fn look(redis: &Visit, beginnings: &[&str]) -> Result<Told<Seen>, Error> {
    let mut cursor = 0;
    for _ in 0..STEPS {
        let (next, keys) = match told(redis.ask(command::scan(cursor, "*", STEP)).await)? {
            Ok(step) => step,
            Err(why) => return Ok(Err(why)),
        };
        if keys
            .iter()
            .any(|key| beginnings.iter().any(|start| key.starts_with(start.as_bytes())))
        {
            return Ok(Ok(Seen::Some));
        }
        cursor = std::str::from_utf8(&next)
            .ok()
            .and_then(|next| next.parse().ok())
            .unwrap_or(0);
        if cursor == 0 {
            return Ok(Ok(Seen::Nothing));
        }
    }
    Ok(Ok(Seen::NotYet))
}
