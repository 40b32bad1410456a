//! `clients`: who talks to each Redis, and who of them does so without a gateway.

mod connection;
mod group;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use self::connection::{Class, Connection};
use self::group::Server;
use super::places::{self, Look, Missed, Place};
use super::screen::{self, BAD, GOOD, Screen};
use super::{Exit, Failure, Outcome};
use crate::config::{EndpointName, Loaded};
use crate::redis::command;

pub(super) fn grammar() -> Command {
    let help = "Exit code: 0 it was looked at, 1 --fail-on-direct, and somebody is left, 64 wrong arguments or configuration, 69 \
                something could not be looked at.";
    super::looking(
        "clients",
        "List who talks to each Redis, and who of them does so without a gateway",
    )
    .after_help(help)
    .args([
        super::endpoint_arg(),
        Arg::new("fail-on-direct")
            .long("fail-on-direct")
            .action(ArgAction::SetTrue)
            .help("End with 1 if anybody talks to a Redis without a gateway, whichever of its databases and endpoints that is for"),
    ])
}

pub(super) async fn run(
    args: &ArgMatches,
    load: impl FnOnce() -> Result<Loaded, Failure>,
    screen: &mut Screen,
) -> Outcome {
    let config = load()?.config;
    let wanted = super::endpoint(args, &config)?;
    let (places, mut missed) = places::find(&config, wanted, Look::Servers).await;
    let mut servers = Vec::new();
    for place in places {
        match list(&place).await {
            Ok(connections) => servers.push(Server::new(&place, connections)),
            Err(why) => missed.push(Missed {
                endpoint: place.endpoints.first().copied().unwrap_or(EndpointName::BuildLogs),
                server: Some(place.server),
                why,
            }),
        }
    }
    let direct: usize = servers.iter().map(|server| server.count(Class::Direct)).sum();
    let json = || {
        json!({
            "direct": direct,
            "servers": servers.iter().map(Server::json).collect::<Vec<Value>>(),
            "unreachable": missed.iter().map(Missed::json).collect::<Vec<Value>>(),
        })
    };
    let whole = missed.is_empty();
    let style = if direct == 0 && whole { GOOD } else { BAD };
    let of = if whole { "" } else { ", on the servers that answered" };
    let left = format!("{style}connections without a gateway: {direct}{of}{style:#}\n");
    let texts: Vec<String> = servers.iter().map(ToString::to_string).chain([left]).collect();
    screen.show(json, texts.join("\n"))?;
    for missed in &missed {
        screen::aside(missed);
    }
    Ok(if !missed.is_empty() {
        Exit::Unreachable
    } else if direct > 0 && args.get_flag("fail-on-direct") {
        Exit::Found
    } else {
        Exit::Fine
    })
}

/// All connections to a server, or why they are not known.
async fn list(place: &Place) -> Result<Vec<Connection>, String> {
    let lines = place
        .ask(command::client_list())
        .await
        .map_err(|error| error.to_string())?;
    let lines = String::from_utf8_lossy(&lines).into_owned();
    Ok(lines
        .lines()
        .filter_map(|line| Connection::read(line, &place.own))
        .collect())
}
