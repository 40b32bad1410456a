//! All servers of an endpoint, side by side; each is asked until it does not answer.

use futures_util::future::join_all;

use super::facts::Facts;
use super::finding::{Finding, Report};
use super::lag::{self, Lag};
use super::rights::{self, For};
use super::server::Look;
use super::{elsewhere, needs, unreached};
use crate::config::{Config, Endpoint, EndpointName};
use crate::needs::Needs;
use crate::redis::{Error, Member, Part, Reply, Unreached, Visit, command, members};

/// What is asked about.
struct Exam<'a> {
    endpoint: &'static str,
    config: &'a Endpoint,
    needs: Vec<Needs>,
}

/// Looks at all servers of an endpoint.
pub(super) async fn endpoint(name: EndpointName, at: &Endpoint, config: &Config) -> Vec<Report> {
    let exam = Exam {
        endpoint: name.as_str(),
        config: at,
        needs: needs::on(name, at, config),
    };
    let members = match members(at).await {
        Ok(members) => members,
        Err(why) => return vec![exam.cannot(None, &why)],
    };
    let visits = join_all(members.iter().map(|member| Visit::open(member, at))).await;
    let all: Vec<_> = members.iter().zip(&visits).collect();
    let reports = all.iter().map(|(member, visit)| async {
        let mut report = exam.server(member, visit).await;
        let lag = exam.lag(&all, member, visit).await;
        if let (Ok(lag), Some(facts)) = (&lag, &mut report.facts) {
            facts.lag = lag.took;
        }
        report.take(lag.map(|lag| lag.finding));
        report
    });
    join_all(reports).await
}

impl Exam<'_> {
    fn report(&self, member: Option<&Member>) -> Report {
        Report {
            endpoint: self.endpoint,
            server: member.map(|member| member.server.clone()),
            part: member.map_or(Part::Primary, |member| member.part),
            facts: None,
            unreachable: None,
            findings: Vec::new(),
        }
    }

    fn cannot(&self, member: Option<&Member>, why: &Unreached) -> Report {
        let mut report = self.report(member);
        match unreached::judge(self.endpoint, self.config, why) {
            Ok(finding) => report.findings.push(finding),
            Err(why) => report.unreachable = Some(why),
        }
        report
    }

    async fn server(&self, member: &Member, redis: &Result<Visit, Unreached>) -> Report {
        let redis = match redis {
            Ok(redis) => redis,
            Err(why) => return self.cannot(Some(member), why),
        };
        let mut report = self.report(Some(member));
        let asked = self.ask(member, redis, &mut report).await;
        report.take(asked.map(|()| None));
        report
    }

    /// Whether a replica keeps up with its primary.
    async fn lag(
        &self,
        all: &[(&Member, &Result<Visit, Unreached>)],
        member: &Member,
        redis: &Result<Visit, Unreached>,
    ) -> Result<Lag, Error> {
        let of = |(other, _): &&(&Member, _)| other.part == Part::Primary && other.shard == member.shard;
        match (member.part, redis, all.iter().find(of)) {
            (Part::Replica, Ok(redis), Some((at, Ok(primary)))) => {
                lag::judge(self.endpoint, self.config, &at.server, primary, redis).await
            }
            _ => Ok(Lag::default()),
        }
    }

    async fn ask(&self, member: &Member, redis: &Visit, report: &mut Report) -> Result<(), Error> {
        let facts = &*report.facts.insert(Facts::ask(redis).await?);
        let look = Look {
            endpoint: self.endpoint,
            config: self.config,
            part: member.part,
            needs: &self.needs,
            facts,
        };
        report.findings.extend(look.judge());
        // A Sentinel knows nothing of what comes next.
        if facts.info("redis_mode") == Some("sentinel") {
            return Ok(());
        }
        if let Some(down) = self.cluster(redis).await? {
            report.findings.push(down);
            // It refuses each key, whoever asks, so nothing comes of trying.
            return Ok(());
        }
        let passed_over: &[&str] = if look.is_notified() { &["config|set"] } else { &[] };
        let tried = Visit::open(member, self.config).await.map_err(|_| Error::Unavailable)?;
        let rights = rights::judge(tried, self.config, &self.rights(member.part), passed_over).await?;
        let may_set = rights.allows("config|set");
        report.findings.extend(rights.findings);
        if member.part == Part::Primary {
            report.findings.extend(look.notifications(may_set));
            if self
                .needs
                .iter()
                .flat_map(|needs| &needs.rights)
                .any(|right| right.commands.contains("evalsha"))
            {
                report.findings.extend(scripts(redis).await?);
            }
            let databases = facts.databases();
            let found = elsewhere::judge(self.endpoint, member, self.config, redis, &databases, &self.needs);
            report.findings.extend(found.await?);
        }
        Ok(())
    }

    fn rights(&self, part: Part) -> Vec<For> {
        let own = needs::endpoint(self.config, part == Part::Replica);
        let mut rights: Vec<For> = own.into_iter().map(|right| ("the endpoint", right)).collect();
        for needs in &self.needs {
            let of = match part {
                Part::Primary => &needs.rights,
                Part::Replica => &needs.rights_on_replicas,
            };
            rights.extend(of.iter().map(|right| (needs.pattern, right.clone())));
        }
        rights
    }

    async fn cluster(&self, redis: &Visit) -> Result<Option<Finding>, Error> {
        if self.config.cluster.is_none() {
            return Ok(None);
        }
        let info = match redis.ask(command::cluster_info()).await {
            Ok(info) => info,
            Err(Error::Reply(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let state = info.get("cluster_state");
        Ok(state.filter(|state| *state != "ok").map(|state| {
            let fix = "redis-cli --cluster check says which slots nobody serves, redis-cli --cluster fix serves them";
            Finding::error("cluster", format!("says that the Cluster's state is {state}"), fix)
        }))
    }
}

/// Whether scripts are run. They do nothing.
async fn scripts(redis: &Visit) -> Result<Option<Finding>, Error> {
    let loaded = redis.ask(command::load_nothing()).await;
    let run = match loaded {
        Ok(_) => redis.ask(command::eval_nothing()).await.map(drop),
        Err(error) => Err(error),
    };
    match run {
        // Who may not was told so.
        Ok(()) | Err(Error::Reply(Reply::Denied(_))) => Ok(None),
        Err(Error::Reply(reply @ Reply::NotServing(_))) => Err(Error::Reply(reply)),
        Err(Error::Reply(reply)) => {
            let fix = "name a server that runs scripts: SCRIPT LOAD and EVALSHA";
            Ok(Some(Finding::error(
                "scripts",
                format!("runs no scripts: {reply}"),
                fix,
            )))
        }
        Err(error) => Err(error),
    }
}
