//! `health`: asks a running gateway how it is, as a probe does.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Uri;
use serde_json::json;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::screen::{BAD, Cell, GOOD, Screen, Table};
use super::{Exit, Failure, Outcome};
use crate::config::{self, Loaded};
use crate::layer::METHODS;

pub(super) fn grammar() -> Command {
    super::looking(
        "health",
        "Ask a running gateway whether it serves; fit for probes of containers",
    )
    .args([
        Arg::new("address")
            .long("address")
            .value_name("ADDRESS")
            .value_parser(address)
            .help("The gateway, as host:port or unix:/path [default: grpc.listen of the configuration]"),
        Arg::new("service")
            .long("service")
            .value_name("NAME")
            .action(ArgAction::Append)
            .help("A service such as redisgateway.v1.Locks, or readiness; can be given again [default: the process]"),
        Arg::new("all")
            .long("all")
            .action(ArgAction::SetTrue)
            .conflicts_with("service")
            .help("The process, readiness and each service"),
        Arg::new("timeout")
            .long("timeout")
            .value_name("DURATION")
            .default_value("2s")
            .value_parser(config::duration)
            .help("For all answers together"),
    ])
}

/// Reads `--address`.
fn address(text: &str) -> Result<String, String> {
    let tcp = || {
        text.parse::<Uri>()
            .is_ok_and(|uri| uri.port().is_some() && uri.authority().is_some_and(|all| all.as_str() == text))
    };
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(text.to_owned()),
        None if tcp() => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is no address: write one such as 127.0.0.1:50051 or unix:/path"
        )),
    }
}

/// What is asked about.
fn services(args: &ArgMatches) -> Vec<String> {
    if args.get_flag("all") {
        let mut all = vec![String::new(), "readiness".to_owned()];
        for service in METHODS.iter().filter_map(|method| method.path.split('/').nth(1)) {
            if !all.iter().any(|name| name == service) {
                all.push(service.to_owned());
            }
        }
        return all;
    }
    let named = args.get_many::<String>("service");
    named.map_or_else(|| vec![String::new()], |named| named.cloned().collect())
}

/// One service and what is said of it.
struct Row {
    service: String,
    status: &'static str,
}

pub(super) async fn run(
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Failure>,
    screen: &mut Screen,
) -> Outcome {
    let address = match args.get_one::<String>("address") {
        Some(address) => address.clone(),
        None => load()?.config.grpc.listen.called(),
    };
    let limit = args.get_one::<Duration>("timeout").copied().unwrap_or_default();
    let asked = tokio::time::timeout(limit, ask(&address, services(args))).await;
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
    let rows = asked.map_err(|why| Failure::Unreachable(format!("no gateway answers at {address}: {why}")))?;
    let json = || {
        let one = |row: &Row| json!({"service": row.service, "status": row.status});
        json!({"address": address, "services": rows.iter().map(one).collect::<Vec<_>>()})
    };
    let mut table = Table::new(["SERVICE", "STATUS"]);
    for row in &rows {
        let name = if row.service.is_empty() {
            "(process)"
        } else {
            &row.service
        };
        let style = if row.status == SERVING { GOOD } else { BAD };
        table.row([name.into(), Cell::new(row.status).style(style)]);
    }
    screen.show(json, table)?;
    let serves = rows.iter().all(|row| row.status == SERVING);
    Ok(if serves { Exit::Fine } else { Exit::Found })
}

const SERVING: &str = "SERVING";

/// The answers about each service, or why there are none.
async fn ask(address: &str, services: Vec<String>) -> Result<Vec<Row>, String> {
    let mut client = HealthClient::new(connect(address).await?);
    let mut rows = Vec::new();
    for service in services {
        let request = HealthCheckRequest {
            service: service.clone(),
        };
        let status = match client.check(request).await {
            Ok(answer) => match answer.into_inner().status() {
                ServingStatus::Serving => SERVING,
                ServingStatus::NotServing => "NOT_SERVING",
                ServingStatus::Unknown | ServingStatus::ServiceUnknown => "UNKNOWN",
            },
            Err(status) if status.code() == Code::NotFound => "SERVICE_UNKNOWN",
            Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
        };
        rows.push(Row { service, status });
    }
    Ok(rows)
}

async fn connect(address: &str) -> Result<Channel, String> {
    let uri = if address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    endpoint.connect().await.map_err(|error| {
        // The outermost says no more than that there is none.
        let mut why: &dyn std::error::Error = &error;
        while let Some(source) = why.source() {
            why = source;
        }
        why.to_string()
    })
}
