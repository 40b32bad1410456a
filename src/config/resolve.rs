//! What values mean together: the draft becomes a configuration, or it is said what contradicts what.

use std::{
    ffi::OsString,
    path::{Path, PathBuf, absolute},
};

use super::{
    Config, Embedded, Endpoint, EndpointName, Listen, Server,
    address::SOCKET_PATH_MAX,
    draft::{Draft, Ready},
    endpoint::{Checks, configured},
    load::{Chosen, Row},
    problem::{Place, Problem},
    source,
    table::{setting, table},
};

/// Turns the draft into a configuration and the rows that explain it. With problems the configuration is of no use.
pub(super) fn resolve(
    mut draft: Draft,
    mut chosen: Chosen,
    env: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> (Config, Vec<Row>) {
    let embedded = if EndpointName::ALL.into_iter().any(|name| configured(&chosen, name)) {
        for key in ["embedded.data_dir", "embedded.server"] {
            if let Some((_, given)) = chosen.get(key) {
                warnings.push(given.problem(&given.place, "is not used, since endpoints are configured"));
            }
        }
        None
    } else {
        embedded(&mut draft, &mut chosen, env, problems)
    };
    let mut config = draft.config;
    config.embedded = embedded;
    for (name, draft) in draft.endpoints {
        if configured(&chosen, name) {
            let checks = Checks {
                name,
                chosen: &mut chosen,
                problems,
                warnings,
            };
            *config.endpoints.slot(name) = checks.build(draft);
        }
    }
    locks(&config, &chosen, warnings);
    prefixes(&config, &chosen, problems);
    config.readiness = ready(&draft.readiness, &chosen, problems);
    listening(&config, &chosen, problems, warnings);
    let rows = rows(&config, &chosen);
    (config, rows)
}

/// The private server, and the endpoints on its socket: all but locks, which live on that of user events.
fn embedded(
    draft: &mut Draft,
    chosen: &mut Chosen,
    env: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Option<Embedded> {
    let place = chosen
        .get("embedded.data_dir")
        .map_or(Place::Default, |(_, given)| given.place.clone());
    let mut problem = |what: String| {
        problems.push(Problem::new(&place, format!("embedded.data_dir: {what}")));
        None
    };
    let Some(data_dir) = draft.data_dir.take().or_else(|| default_data_dir(env)) else {
        return problem(
            "no endpoint is configured, and neither HOME nor XDG_DATA_HOME tells where to keep the embedded server's \
             data: set this, or configure endpoints"
                .into(),
        );
    };
    let data_dir = match absolute(&data_dir) {
        Ok(data_dir) => data_dir,
        Err(e) => return problem(format!("{}: {e}", data_dir.display())),
    };
    let embedded = Embedded {
        data_dir,
        server: draft.server.take(),
    };
    let socket = embedded.socket();
    let Some(text) = socket.to_str().filter(|text| text.len() <= SOCKET_PATH_MAX) else {
        let what = format!(
            "{} is no path for a socket: at most {SOCKET_PATH_MAX} bytes of UTF-8",
            socket.display()
        );
        return problem(what);
    };
    for name in EndpointName::ALL
        .into_iter()
        .filter(|name| *name != EndpointName::Locks)
    {
        draft.endpoint(name).socket = Some(socket.clone());
        if let Some(setting) = setting(&format!("endpoints.{}.socket", name.as_str())) {
            chosen.insert(&setting.path, (setting, source::text(Place::Embedded, None, text)));
        }
    }
    Some(embedded)
}

/// Locks on another server than user events exclude nobody who has not moved.
fn locks(config: &Config, chosen: &Chosen, warnings: &mut Vec<Problem>) {
    let (Some(locks), user_events) = (&config.endpoints.locks, &config.endpoints.user_events) else {
        return;
    };
    let same = |at: &Endpoint| (&at.server, at.db) == (&locks.server, locks.db);
    if user_events.as_ref().is_some_and(same) {
        return;
    }
    let first = ["endpoints.locks.host", "endpoints.locks.socket"];
    if let Some((_, given)) = first.into_iter().find_map(|path| chosen.get(path)) {
        let what = "holders without the gateway keep their locks on the server of user events: until the last of them has \
                    moved, locks here exclude none of them";
        warnings.push(given.problem(&given.place, what));
    }
}

/// Redis refuses to tell of the same key by two prefixes, and one server of a Cluster tells of its own keys alone.
fn prefixes(config: &Config, chosen: &Chosen, problems: &mut Vec<Problem>) {
    let prefixes = &config.cache.near_prefixes;
    let on_cluster = config.endpoints.cache.as_ref().is_some_and(|at| at.cluster.is_some());
    if on_cluster
        && !prefixes.is_empty()
        && let Some((_, given)) = chosen.get("cache.near.prefixes")
    {
        let what =
            "values are not kept in memory on a Cluster, whose servers tell of their own keys alone: leave it out";
        problems.push(given.problem(&given.place, what));
    }
    for (n, second) in prefixes.iter().enumerate() {
        let overlaps = |first: &&String| first.starts_with(second.as_str()) || second.starts_with(first.as_str());
        let Some(first) = prefixes[..n].iter().find(overlaps) else {
            continue;
        };
        if let Some((_, given)) = chosen.get("cache.near.prefixes") {
            let place = given.item(n);
            problems.push(given.problem(
                place,
                &format!("{first:?} and {second:?} have keys in common: leave the longer one out"),
            ));
        }
    }
}

/// By the XDG base directory specification, where a relative path counts as none.
fn default_data_dir(env: &[(OsString, OsString)]) -> Option<PathBuf> {
    let folder = |wanted: &str| {
        let (_, value) = env.iter().find(|(name, _)| name == wanted)?;
        Some(Path::new(value)).filter(|path| path.is_absolute())
    };
    let data = folder("XDG_DATA_HOME").map(Path::to_owned);
    let data = data.or_else(|| folder("HOME").map(|home| home.join(".local/share")))?;
    Some(data.join("redis-gateway"))
}

fn ready(readiness: &[Ready], chosen: &Chosen, problems: &mut Vec<Problem>) -> Vec<EndpointName> {
    let there = |name: &EndpointName| configured(chosen, *name);
    let mut names = Vec::new();
    for (index, ready) in readiness.iter().enumerate() {
        let mut problem = |what: String| {
            if let Some((_, given)) = chosen.get("readiness") {
                problems.push(given.problem(given.item(index), &what));
            }
        };
        match ready {
            Ready::All | Ready::None if readiness.len() > 1 => {
                problem("all and none stand alone: write one of them, or names".into());
            }
            Ready::None => {}
            Ready::All => names.extend(EndpointName::ALL.into_iter().filter(there)),
            Ready::Endpoint(name) if there(name) => names.push(*name),
            Ready::Endpoint(EndpointName::Locks) => {
                problem("locks have no endpoint of their own: name user_events, or configure endpoints.locks".into());
            }
            Ready::Endpoint(name) => {
                let name = name.as_str();
                problem(format!(
                    "{name} is not configured: configure endpoints.{name}, or leave it out"
                ));
            }
        }
    }
    names
}

fn listening(config: &Config, chosen: &Chosen, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let place = |key| chosen.get(key).map_or(Place::Default, |(_, given)| given.place.clone());
    let Listen::Tcp(grpc) = &config.grpc.listen else {
        return;
    };
    if *grpc == config.admin.listen && grpc.port() != 0 {
        let key = if chosen.contains_key("admin.listen") {
            "admin.listen"
        } else {
            "grpc.listen"
        };
        let what = format!("{key}: grpc.listen and admin.listen are both {grpc}: give them different ports");
        problems.push(Problem::new(&place(key), what));
    }
    if !grpc.ip().is_loopback() {
        let what =
            format!("grpc.listen: {grpc} takes calls from whoever can reach it, unencrypted and without identity");
        warnings.push(Problem::new(&place("grpc.listen"), what));
    }
}

/// Each setting that has a value, but not those of endpoints that are not configured.
fn rows(config: &Config, chosen: &Chosen) -> Vec<Row> {
    let mut rows = Vec::new();
    for setting in table() {
        let path = setting.path.as_str();
        let endpoint = setting.endpoint();
        if endpoint.is_some_and(|name| !configured(chosen, name)) {
            continue;
        }
        let endpoint = endpoint.and_then(|name| config.endpoints.get(name));
        let (server, cluster) = (
            endpoint.map(|at| &at.server),
            endpoint.is_some_and(|at| at.cluster.is_some()),
        );
        let leaf = path.rsplit('.').next();
        let of_hosts = [".port", ".tls.enabled", ".tls.verify"]
            .iter()
            .any(|leaf| path.ends_with(leaf));
        let pointless = (of_hosts && matches!(server, Some(Server::Unix(_))))
            || (leaf == Some("port") && cluster)
            || (leaf == Some("read_from_replicas") && !cluster);
        if pointless && !chosen.contains_key(path) {
            continue;
        }
        let (value, place) = if let Some((setting, given)) = chosen.get(path) {
            (setting.shown(&given.raw), given.place.clone())
        } else if let Some(default) = setting.default {
            (default.to_owned(), Place::Default)
        } else if let ("embedded.data_dir", Some(embedded)) = (path, &config.embedded) {
            (embedded.data_dir.display().to_string(), Place::Default)
        } else {
            continue;
        };
        rows.push(Row {
            path: path.to_owned(),
            value,
            place,
        });
    }
    rows
}
