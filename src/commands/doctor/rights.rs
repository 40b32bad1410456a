//! What the user may do, against what the patterns need.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use crate::config::Endpoint;
use crate::needs::{On, Right};
use crate::redis::{Error, Reply, Subject, Tried, Visit};

/// For whom a right is needed.
pub(super) type For = (&'static str, Right);

/// What came of it.
pub(super) struct Rights {
    pub(super) findings: Vec<Finding>,
    /// Commands that are allowed on something; none if nothing could be tried.
    allowed: BTreeSet<&'static str>,
}

impl Rights {
    pub(super) fn allows(&self, command: &str) -> bool {
        self.allowed.contains(command)
    }

    fn untried(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Rights {
            findings: vec![Finding::unseen("rights", what, fix)],
            allowed: BTreeSet::new(),
        }
    }
}

/// What lacks, for one pattern and with one consequence, in the order in which it is asked for.
#[derive(Default)]
struct Lacking {
    rules: Vec<String>,
    unknown: Vec<&'static str>,
}

/// Tries all of `rights` on a connection of their own; `passed_over` are commands that are not needed as things stand.
pub(super) async fn judge(
    redis: Visit,
    config: &Endpoint,
    rights: &[For],
    passed_over: &[&str],
) -> Result<Rights, Error> {
    let mut attempts = Vec::new();
    let mut of = Vec::new();
    for (pattern, right) in rights {
        let subject = match &right.on {
            On::Server => Subject::Server,
            On::Keys(pattern) => Subject::Key(pattern),
            On::Channels(pattern) => Subject::Channel(pattern),
        };
        for command in right.commands.split(' ').filter(|name| !passed_over.contains(name)) {
            attempts.push((command, subject));
            of.push((*pattern, right, command));
        }
    }
    let user = config.user();
    let tried = match redis.attempt(&attempts).await {
        Ok(tried) => tried,
        Err(Error::Reply(Reply::Denied(_))) => {
            let fix = format!("ACL SETUSER {user} +multi, and ask again");
            let what = "what its user may do cannot be tried: MULTI is denied";
            return Ok(Rights::untried(what, fix));
        }
        Err(error @ (Error::Reply(_) | Error::Protocol(_))) => {
            let what = format!("what its user may do cannot be tried: {error}");
            let fix = "name the server itself, not what stands before it";
            return Ok(Rights::untried(what, fix));
        }
        Err(error) => return Err(error),
    };
    // Where every command is denied, nothing was said of what it is on.
    let mut open = BTreeSet::new();
    let mut allowed = BTreeSet::new();
    for ((_, right, command), _) in of.iter().zip(&tried).filter(|(_, tried)| **tried == Tried::Allowed) {
        open.insert(&right.on);
        allowed.insert(*command);
    }
    let mut lacking: BTreeMap<(&str, Option<&str>), Lacking> = BTreeMap::new();
    for ((pattern, right, command), tried) in of.into_iter().zip(tried) {
        if tried == Tried::Allowed {
            continue;
        }
        let lacking = lacking.entry((pattern, right.without)).or_default();
        let on = match &right.on {
            On::Server => None,
            On::Keys(keys) => Some(format!("~{keys}")),
            On::Channels(channels) => Some(format!("&{channels}")),
        };
        let rules = match tried {
            Tried::DeniedKey | Tried::DeniedChannel => [None, on],
            Tried::Unknown => {
                lacking.unknown.push(command);
                continue;
            }
            _ => [Some(format!("+{command}")), on.filter(|_| !open.contains(&right.on))],
        };
        for rule in rules.into_iter().flatten() {
            if !lacking.rules.contains(&rule) {
                lacking.rules.push(rule);
            }
        }
    }
    let mut found = Vec::new();
    for ((pattern, without), lacking) in lacking {
        let mut add = |what: String, fix: String| {
            found.push(match without {
                Some(without) => Finding::warning("rights", format!("{pattern}: {what}; without, {without}"), fix),
                None => Finding::error("rights", format!("{pattern}: {what}"), fix),
            });
        };
        if !lacking.rules.is_empty() {
            let count = match lacking.rules.len() {
                1 => "a right".to_owned(),
                count => format!("{count} rights"),
            };
            add(
                format!("its user {user} lacks {count}"),
                format!("ACL SETUSER {user} {}", lacking.rules.join(" ")),
            );
        }
        if !lacking.unknown.is_empty() {
            let names = lacking.unknown.join(" ");
            let fix = "take rename-command for it out of redis.conf, or name a server that has it";
            add(format!("the server has no command {names}"), fix.to_owned());
        }
    }
    Ok(Rights {
        findings: found,
        allowed,
    })
}
