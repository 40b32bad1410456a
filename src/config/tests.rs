mod cache;

use std::{collections::BTreeSet, ffi::OsString, fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::{Config, EndpointName, Listen, Loaded, LogFormat, Password, Server, command, load, table};

/// A folder, and what has been loaded from files in it; messages do not show where the folder is.
pub(super) struct Case {
    pub dir: TempDir,
    pub args: Vec<String>,
    pub env: Vec<(OsString, OsString)>,
}

impl Case {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            args: vec!["redis-gateway".into()],
            env: vec![("HOME".into(), "/srv/x".into())],
        }
    }

    pub(super) fn file(self, text: &str) -> Self {
        let path = self.write("gateway.yaml", text);
        self.arg("--config").arg(path.to_str().unwrap())
    }

    pub(super) fn quay(self, text: &str) -> Self {
        let path = self.write("config.yaml", text);
        self.arg("--quay-config").arg(path.to_str().unwrap())
    }

    pub(super) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text.replace("DIR", self.dir.path().to_str().unwrap())).unwrap();
        path
    }

    pub(super) fn load(&self) -> Result<Loaded, Vec<String>> {
        let matches = command().try_get_matches_from(&self.args).unwrap();
        load(&matches, self.env.clone()).map_err(|problems| problems.0.iter().map(|p| self.plain(p)).collect())
    }

    pub(super) fn plain(&self, text: &impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }

    pub(super) fn config(&self) -> Config {
        self.load().unwrap().config
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.load().unwrap_err()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.load().unwrap().warnings.iter().map(|w| self.plain(w)).collect()
    }
}

pub(super) fn tcp(host: &str, port: u16) -> Server {
    let host = host.into();
    Server::Tcp { host, port }
}

#[test]
fn each_setting_has_a_flag_and_a_variable_of_its_own() {
    let timeout = table()
        .iter()
        .find(|s| s.path == "endpoints.build_logs.command_timeout")
        .unwrap();
    assert_eq!(timeout.flag().unwrap(), "--endpoints-build-logs-command-timeout");
    assert_eq!(timeout.env(), "REDIS_GATEWAY_ENDPOINTS_BUILD_LOGS_COMMAND_TIMEOUT");
    let secrets: Vec<_> = table().iter().filter(|s| s.flag().is_none()).collect();
    assert_eq!(secrets.len(), 6);
    assert!(secrets.iter().all(|s| s.path.ends_with(".password") && s.secret));
    assert_eq!(
        table()
            .iter()
            .filter_map(super::Setting::flag)
            .collect::<BTreeSet<_>>()
            .len(),
        table().len() - 6
    );
    assert_eq!(
        table().iter().map(super::Setting::env).collect::<BTreeSet<_>>().len(),
        table().len()
    );
    command().debug_assert();
}

#[test]
fn nothing_given_is_the_defaults_on_an_embedded_server() {
    let config = Case::new().config();
    assert_eq!(config.grpc.listen, Listen::Tcp("127.0.0.1:50051".parse().unwrap()));
    assert_eq!(config.admin.listen, "127.0.0.1:9102".parse().unwrap());
    assert_eq!(
        (config.limits.max_calls, config.limits.max_request_bytes),
        (10_000, 4 << 20)
    );
    assert_eq!(config.telemetry.log_format, LogFormat::Text);
    assert!(config.readiness.is_empty());
    let embedded = config.embedded.as_ref().unwrap();
    assert_eq!(embedded.data_dir, PathBuf::from("/srv/x/.local/share/redis-gateway"));
    for name in EndpointName::ALL {
        let endpoint = config.endpoints.get(name);
        assert_eq!(endpoint.is_none(), name == EndpointName::Locks);
        if let Some(endpoint) = endpoint {
            assert_eq!(endpoint.server, Server::Unix(embedded.socket()));
            assert_eq!(endpoint.db, u8::from(name == EndpointName::PullMetrics));
        }
    }
    let config = Case::new().env("XDG_DATA_HOME", "/data").config();
    assert_eq!(config.embedded.unwrap().data_dir, PathBuf::from("/data/redis-gateway"));
}

#[test]
fn the_embedded_server_needs_a_place() {
    let mut case = Case::new();
    case.env.clear();
    let problems = case.problems();
    assert!(
        problems[0].starts_with("default: embedded.data_dir: no endpoint is configured, and neither"),
        "{problems:?}"
    );
    let long = format!("/{}", "x".repeat(120));
    let problems = Case::new().arg("--embedded-data-dir").arg(&long).problems();
    assert!(
        problems[0].starts_with("flag --embedded-data-dir: embedded.data_dir: /xxx"),
        "{problems:?}"
    );
    assert!(problems[0].ends_with("at most 107 bytes of UTF-8"), "{problems:?}");
    let warnings = Case::new()
        .arg("--embedded-data-dir=/x")
        .arg("--endpoints-cache-host=h")
        .warnings();
    assert_eq!(
        warnings,
        ["flag --embedded-data-dir: is not used, since endpoints are configured"]
    );
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_quay() {
    let quay = "BUILDLOGS_REDIS: {host: quay, port: 1, db: 1, username: u, password: q}\n";
    let file = "endpoints: {build_logs: {host: file, port: 2, db: 2}}\n";
    let case = Case::new().quay(quay).file(file);
    let case = case.env("REDIS_GATEWAY_ENDPOINTS_BUILD_LOGS_HOST", "env");
    let case = case.env("REDIS_GATEWAY_ENDPOINTS_BUILD_LOGS_PORT", "3");
    let case = case.env("REDIS_GATEWAY_ENDPOINTS_BUILD_LOGS_COMMAND_TIMEOUT", "");
    let endpoint = case
        .arg("--endpoints-build-logs-host=flag")
        .config()
        .endpoints
        .build_logs
        .unwrap();
    assert_eq!((endpoint.server, endpoint.db), (tcp("flag", 3), 2));
    assert_eq!(
        (endpoint.username.as_deref(), endpoint.password),
        (Some("u"), Some(Password::Inline("q".into())))
    );
    assert_eq!(
        (endpoint.connect_timeout, endpoint.command_timeout),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
}

#[test]
fn of_two_that_exclude_each_other_the_higher_layers_counts() {
    let case = Case::new().quay("BUILDLOGS_REDIS: {host: quay, port: 1, password: q}\n");
    let secret = case.write("secret", "x");
    let file = "endpoints: {build_logs: {socket: /run/redis.sock, password_file: DIR/secret}}\n";
    let endpoint = case.file(file).config().endpoints.build_logs.unwrap();
    assert_eq!(endpoint.server, Server::Unix("/run/redis.sock".into()));
    assert!(matches!(endpoint.password, Some(Password::File(file)) if file.file_name() == secret.file_name()));
    let case = Case::new()
        .file("endpoints: {cache: {socket: /run/redis.sock}}\n")
        .arg("--endpoints-cache-host=h");
    assert_eq!(case.config().endpoints.cache.unwrap().server, tcp("h", 6379));
}

#[test]
fn the_file_gives_every_form() {
    let config = Config::from_yaml(
        "grpc: {listen: 'unix:/run/gateway.sock'}\nadmin: {listen: '[::1]:0'}\nreadiness: [cache, user_events]\n\
         limits: {max_request_bytes: 512KiB}\nbuild_logs: {ttl_from_first_append: true, heartbeat: 2m}\n\
         telemetry: {sample_ratio: 1, otlp_endpoint: 'http://localhost:4317', log_format: json}\n\
         endpoints:\n  user_events: {host: h, password: 0123}\n  cache:\n    host: ::1\n    tls: {enabled: true, verify: none}\n    \
         replicas: [a, 'b:1', '[::1]:2', '::1', 'unix:/run/r']\n  locks:\n",
    )
    .unwrap();
    assert_eq!(config.grpc.listen, Listen::Unix("/run/gateway.sock".into()));
    assert_eq!(config.readiness, [EndpointName::Cache, EndpointName::UserEvents]);
    assert_eq!(config.limits.max_request_bytes, 512 << 10);
    assert!(config.build_logs.ttl_from_first_append);
    assert_eq!(config.build_logs.heartbeat, Duration::from_mins(2));
    assert!(config.endpoints.locks.is_none() && config.embedded.is_none());
    assert_eq!(
        config.endpoints.user_events.unwrap().password,
        Some(Password::Inline("0123".into()))
    );
    let cache = config.endpoints.cache.unwrap();
    assert!(cache.tls.unwrap().insecure);
    let replicas = [
        tcp("a", 6379),
        tcp("b", 1),
        tcp("::1", 2),
        tcp("::1", 6379),
        Server::Unix("/run/r".into()),
    ];
    assert_eq!(cache.replicas, replicas);
    let config = Config::from_yaml("readiness: all\nendpoints: {cache: {host: h}, locks: {host: h}}\n").unwrap();
    assert_eq!(config.readiness, [EndpointName::Cache, EndpointName::Locks]);
}

#[test]
fn check_shows_all_but_secrets() {
    let case = Case::new().file(
        "endpoints:\n  cache:\n    host: h\n    username: u\n    password: hunter2\n    tls: {enabled: true, verify: none}\n",
    );
    let case = case
        .arg("--grpc-listen=0.0.0.0:1")
        .env("REDIS_GATEWAY_ENDPOINTS_CACHE_DB", "3");
    let loaded = case.load().unwrap();
    let report = case.plain(&loaded);
    let line = |start: &str| {
        report
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{report}"))
    };
    let words = |start: &str| line(start).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words("grpc.listen"), "grpc.listen 0.0.0.0:1 flag --grpc-listen");
    assert_eq!(
        words("endpoints.cache.host"),
        "endpoints.cache.host h gateway.yaml:3:11"
    );
    assert_eq!(
        words("endpoints.cache.db"),
        "endpoints.cache.db 3 env REDIS_GATEWAY_ENDPOINTS_CACHE_DB"
    );
    assert_eq!(words("endpoints.cache.port"), "endpoints.cache.port 6379 default");
    assert_eq!(
        words("endpoints.cache.password"),
        "endpoints.cache.password *** gateway.yaml:5:15"
    );
    assert!(!report.contains("hunter2") && !format!("{loaded:?}").contains("hunter2"));
    assert_eq!(
        line("endpoints.locks"),
        "endpoints.locks is not configured: its calls are answered NOT_CONFIGURED"
    );
    assert!(
        report.contains("warning: flag --grpc-listen: grpc.listen: 0.0.0.0:1 takes calls from whoever"),
        "{report}"
    );
    assert!(report.contains("warning: gateway.yaml:6:34: endpoints.cache.tls.verify: the server's certificate is not"));
    assert!(
        report.ends_with("the configuration is valid, with 2 warnings\n"),
        "{report}"
    );
    let case = Case::new()
        .arg("--endpoints-user-events-host=h")
        .arg("--endpoints-user-events-username=u");
    let nopass = "flag --endpoints-user-events-username: is used without a password: right only for a user with nopass";
    assert_eq!(case.warnings(), [nopass]);
    assert!(
        case.load()
            .unwrap()
            .to_string()
            .contains("endpoints.locks is not configured: locks are on user_events\n")
    );
}

#[test]
fn locks_apart_from_user_events_are_warned_of() {
    let apart = "flag --endpoints-locks-host: holders without the gateway keep their locks on the \
                 server of user events: until the last of them has moved, locks here exclude none of them";
    let case = Case::new().arg("--endpoints-locks-host=h");
    assert_eq!(case.warnings(), [apart]);
    let case = case.arg("--endpoints-user-events-host=other");
    assert_eq!(case.warnings(), [apart]);
    let same = Case::new()
        .arg("--endpoints-locks-host=h")
        .arg("--endpoints-user-events-host=h");
    assert_eq!(same.warnings(), [] as [&str; 0]);
    assert_eq!(same.arg("--endpoints-locks-db=3").warnings(), [apart]);
}
