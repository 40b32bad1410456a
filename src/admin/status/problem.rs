//! What an operator should know first.

use std::time::Duration;

use serde::Serialize;

use super::format::{clock, percent};
use super::report::{Endpoint, Readiness, Report, Service};
use super::window::Window;
use crate::redis::State;
use crate::status::FAULTS;

/// The share of calls from which on failing ones are a problem, as for the alert `RedisGatewayCallsFail`.
const SHARE: f64 = 0.05;

/// For health to find out what a connection is worth.
const GRACE: Duration = Duration::from_secs(10);

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) text: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Callers get errors, or soon will.
    Critical,
    /// Callers go on, with less.
    Warning,
}

impl Severity {
    /// As the page's style calls it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

/// All that is wrong, the worst first.
pub(super) fn find(report: &Report) -> Vec<Problem> {
    let mut problems = Vec::new();
    match report.state {
        Readiness::Ready => {}
        Readiness::NotReady => {
            let text = format!("Not ready: waits for {}", report.not_ready.join(", "));
            problems.push(critical(text));
        }
        Readiness::Draining => problems.push(warning("Draining: it is about to end, callers go elsewhere".to_owned())),
    }
    for endpoint in &report.endpoints {
        problems.extend(servers(endpoint, report));
    }
    for service in &report.services {
        problems.extend(unhealthy(service, report));
        problems.extend(
            service
                .calls
                .first()
                .into_iter()
                .flat_map(|calls| failing(service.name, calls)),
        );
    }
    if report
        .open
        .cache
        .as_ref()
        .and_then(|cache| cache.near.as_ref())
        .is_some_and(|near| !near.tracking)
    {
        let text = "Nothing is answered from memory: the Redis of cache does not tell of changes";
        problems.push(warning(text.to_owned()));
    }
    problems.sort_by_key(|problem| problem.severity);
    problems
}

fn servers(endpoint: &Endpoint, report: &Report) -> Vec<Problem> {
    let name = endpoint.name;
    if endpoint.servers.is_empty() && endpoint.state == State::Down {
        return vec![critical(format!("The Cluster of {name} is not found"))];
    }
    let down = endpoint.servers.iter().filter(|server| server.state == State::Down);
    let problem = |server: &super::report::Server| {
        let since = clock(&server.since, &report.time);
        let text = format!(
            "Redis of {name} is down since {since}: {} at {}",
            server.name, server.address
        );
        // On a Cluster each shard has a primary.
        if server.name.ends_with("primary") {
            critical(text)
        } else {
            warning(text)
        }
    };
    down.map(problem).collect()
}

/// A service that does not serve though its Redis answers.
fn unhealthy(service: &Service, report: &Report) -> Option<Problem> {
    let endpoint = report
        .endpoints
        .iter()
        .find(|endpoint| Some(endpoint.name) == service.endpoint)?;
    let up = endpoint.servers.iter().filter(|server| server.state == State::Up);
    let long = up
        .max_by_key(|server| server.since)
        .and_then(|server| report.time.duration_since(server.since).ok());
    let odd = !service.serving && report.state != Readiness::Draining && long.is_some_and(|long| long > GRACE);
    let (name, odd) = (service.name, odd && endpoint.state == State::Up);
    odd.then(|| {
        critical(format!(
            "{name} does not serve: its Redis answers, and cannot be written to"
        ))
    })
}

fn failing(service: &str, calls: &Window) -> Vec<Problem> {
    let names = |counts: Vec<(&str, u64)>| {
        let names = counts.into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>().join(", ")
    };
    let mut problems = Vec::new();
    if calls.failed_share > SHARE {
        let mut faults = calls.failures();
        faults.retain(|(reason, _)| FAULTS.contains(reason));
        let why = names(faults);
        let share = percent(&calls.failed_share);
        problems.push(critical(format!(
            "{service}: {share} of the calls of the last minute failed ({why})"
        )));
    }
    if calls.degraded_share > SHARE {
        let why = names(calls.degraded());
        let share = percent(&calls.degraded_share);
        problems.push(warning(format!(
            "{service}: {share} of the answers of the last minute are degraded ({why})"
        )));
    }
    problems
}

fn critical(text: String) -> Problem {
    let severity = Severity::Critical;
    Problem { severity, text }
}

fn warning(text: String) -> Problem {
    let severity = Severity::Warning;
    Problem { severity, text }
}

#[cfg(test)]
mod tests {
    use super::super::history::{History, Sample, WAITING};
    use super::super::tally::Tally;
    use super::super::window::windows;
    use super::*;
    use crate::status::REASONS;

    fn told(failures: &[(&str, f64)], fine: f64, degraded: f64) -> Vec<(Severity, String)> {
        let mut tally = Tally::default();
        tally.count("OK", fine);
        for (reason, count) in failures {
            // Codes say nothing about whose doing it was.
            tally.count("FAILED_PRECONDITION", *count);
            tally.count_failure(reason, *count);
        }
        tally.count_degraded("REDIS_TIMEOUT", degraded);
        let calls = windows(&Sample::read(&[]), &History::default(), &FAULTS, |_| {
            Some(tally.clone())
        });
        let problems = failing("Cache", &calls[0]).into_iter();
        problems.map(|problem| (problem.severity, problem.text)).collect()
    }

    #[test]
    fn failures_are_a_problem_from_a_share_on() {
        assert_eq!(told(&[], 0.0, 0.0), []);
        assert_eq!(told(&[("REDIS_UNAVAILABLE", 5.0)], 95.0, 5.0), []);
        // What callers asked for wrongly is not the gateway's failure.
        assert_eq!(
            told(&[("INVALID_ARGUMENT", 50.0), ("TOO_MANY_KEYS", 49.0)], 1.0, 0.0),
            []
        );
        // Streams whose connection came to its age are opened again.
        assert_eq!(told(&[("DRAINING", 99.0)], 1.0, 0.0), []);
        let failures = [("OUTCOME_UNKNOWN", 5.0), ("REDIS_DENIED", 15.0), ("LOCK_LOST", 10.0)];
        let failed = "Cache: 20 % of the calls of the last minute failed (REDIS_DENIED, OUTCOME_UNKNOWN)";
        let degraded = "Cache: 30 % of the answers of the last minute are degraded (REDIS_TIMEOUT)";
        assert_eq!(
            told(&failures, 70.0, 30.0),
            [
                (Severity::Critical, failed.to_owned()),
                (Severity::Warning, degraded.to_owned())
            ]
        );
    }

    /// What an alert's expression matches a label against, in all of its parts.
    fn alternatives<'a>(alert: &str, matcher: &str) -> Vec<&'a str> {
        let rules = include_str!("../../../helm/redis-gateway/files/rules.yaml");
        let (_, rule) = rules.split_once(&format!("alert: {alert}\n")).unwrap();
        let (_, expression) = rule.split_once(matcher).unwrap();
        expression.split_once('"').unwrap().0.split('|').collect()
    }

    #[test]
    fn the_alert_counts_the_same_failures() {
        let alternatives = alternatives("RedisGatewayCallsFail", "reason=~\"");
        let matches = |reason: &&str| {
            let mut alternatives = alternatives.iter();
            alternatives.any(|one| {
                one.strip_suffix(".*")
                    .map_or(reason == one, |start| reason.starts_with(start))
            })
        };
        let mut counted: Vec<&str> = REASONS.into_iter().chain(["OTHER"]).filter(matches).collect();
        let mut faults = FAULTS;
        counted.sort_unstable();
        faults.sort_unstable();
        assert_eq!(counted, faults);
    }

    #[test]
    fn the_alert_passes_over_the_same_waits() {
        assert_eq!(alternatives("RedisGatewayCallsSlow", "method!~\""), WAITING);
    }
}
