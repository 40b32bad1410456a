//! The command line, from the table of settings.

use clap::{Arg, Command, value_parser};

use super::table::table;

/// The command line's grammar, as far as it is about the configuration; `commands` adds to it what else can be asked.
pub fn command() -> Command {
    let files = [
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("YAML file with any of the settings below [env: REDIS_GATEWAY_CONFIG]"),
        Arg::new("quay-config")
            .long("quay-config")
            .value_name("FILE")
            .help("Quay's own config.yaml, to take the endpoints from [env: REDIS_GATEWAY_QUAY_CONFIG]"),
    ];
    let settings = table().iter().filter_map(|setting| {
        let flag = setting.flag()?;
        let default = setting
            .default
            .map(|default| format!(" [default: {default}]"))
            .unwrap_or_default();
        let endpoint = setting.path.starts_with("endpoints.");
        Some(
            Arg::new(setting.path.clone())
                .long(flag.trim_start_matches('-').to_owned())
                .value_name(setting.form)
                .help(format!("{}{default}", sentence(setting.help)))
                .help_heading(heading(&setting.path))
                // Six times the same, too much for a first look.
                .hide_short_help(endpoint),
        )
    });
    Command::new("redis-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A gRPC service in front of every Redis pattern of a container registry")
        .after_help(
            "Without any endpoint a private redis-server is started, for a first try, for development, for one small \
             machine. Each flag is also a variable: --drain-timeout is REDIS_GATEWAY_DRAIN_TIMEOUT. Passwords are only \
             in the file or in variables. A flag goes before a variable, a variable before the file, the file before \
             Quay's. -h is short, --help lists the endpoints' flags too.",
        )
        .args(
            files
                .into_iter()
                .chain(settings)
                .map(|arg| arg.global(true).value_parser(value_parser!(String))),
        )
        .subcommand(Command::new("serve").about("Serve calls; what happens without a command, too"))
}

/// The settings of one concern stand together.
pub(super) fn heading(path: &str) -> String {
    let mut parts = path.split('.');
    match (parts.next(), parts.next()) {
        (Some("endpoints"), Some(name)) => format!("Endpoint {name}"),
        (Some("grpc" | "admin" | "readiness"), _) => "Listening".into(),
        (Some("limits"), _) => "Limits".into(),
        (Some("build_logs"), _) => "Build logs".into(),
        (Some("cache"), _) => "Cache".into(),
        (Some("pull_metrics"), _) => "Pull metrics".into(),
        (Some("user_events"), _) => "User events".into(),
        (Some("orchestrator"), _) => "Orchestrator".into(),
        (Some("drain"), _) => "Drain".into(),
        (Some("telemetry"), _) => "Logs and traces".into(),
        _ => "Embedded server".into(),
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
