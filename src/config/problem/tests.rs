use crate::config::{command, load, tests::Case};

#[test]
fn every_problem_at_once_each_with_its_place_and_what_would_be_right() {
    let file = "\
grpc:
  listen: localhost:50051
admin: {listen: 9102}
redines: all
readiness: [cache, pull_metrics, locks, chache]
drain: {timeout: 5, delay: 11m}
limits:
  max_calls: many
  max_streams: 99999999999999999999
  max_request_bytes: 4MB
build_logs: [1]
telemetry:
  log_format: jsn
  log_level: 'a=b=c'
  otlp_endpoint: http://user:secret@h
  sample_ratio: 2
endpoints:
  cash: {host: h}
  build_logs: {hosts: h, db: 300, tls: {enabled: maybe}}
  user_events: {host: 'redis://h:6379', username: {a: b}, password: \"\"}
  cache:
    host: h
    socket: /run/redis.sock
    password: secret
    password_file: DIR/missing
    replicas: ['h:0', [h]]
    tls: {ca_file: DIR}
  orchestrator: {socket: /s, port: 1, tls: {enabled: true, cert_file: DIR/gateway.yaml}}
";
    let case = Case::new().file(file);
    let case = case.arg("--drain-timeout=-1s").env("REDIS_GATEWAY_DRAIN_DELLAY", "1s");
    let case = case
        .env("REDIS_GATEWAY_X", "1")
        .env("REDIS_GATEWAY_ADMIN_LISTEN", "here");
    let duration = "is no duration: write a whole number and a unit, such as 250ms, 2s or 5m";
    let listen = "is no address to listen on: write one such as";
    let expected = [
        "gateway.yaml:4:1: redines: unknown setting; did you mean \"readiness\"?".into(),
        "gateway.yaml:11:13: build_logs: is a list: write a mapping of heartbeat, poll_interval, ttl_from_first_append".into(),
        "gateway.yaml:18:3: endpoints.cash: unknown setting; did you mean \"cache\"?".into(),
        "gateway.yaml:19:16: endpoints.build_logs.hosts: unknown setting; did you mean \"host\"?".into(),
        "gateway.yaml:20:51: endpoints.user_events.username: is a mapping: write one value (text)".into(),
        "gateway.yaml:26:23: endpoints.cache.replicas: is a list: write one value (host:port or unix:/path, separated by commas)".into(),
        "env REDIS_GATEWAY_DRAIN_DELLAY: unknown setting; did you mean \"REDIS_GATEWAY_DRAIN_DELAY\"?".into(),
        "env REDIS_GATEWAY_X: unknown setting; `redis-gateway --help` lists the settings".into(),
        format!("gateway.yaml:2:11: grpc.listen: \"localhost:50051\" {listen} 127.0.0.1:50051, [::]:50051 or unix:/path"),
        format!("gateway.yaml:3:17: admin.listen: \"9102\" {listen} 127.0.0.1:9102 or [::]:9102"),
        "gateway.yaml:5:41: readiness: \"chache\" is not known here; did you mean \"cache\"?".into(),
        format!("gateway.yaml:6:18: drain.timeout: \"5\" {duration}"),
        "gateway.yaml:6:28: drain.delay: 11m is out of range: 0s to 10m".into(),
        "gateway.yaml:8:14: limits.max_calls: \"many\" is no whole number: 1 to 10000000".into(),
        "gateway.yaml:9:16: limits.max_streams: 99999999999999999999 is out of range: 1 to 10000000".into(),
        "gateway.yaml:10:22: limits.max_request_bytes: \"4MB\" is no size: write a whole number and a unit, such as 512KiB or 4MiB".into(),
        "gateway.yaml:13:15: telemetry.log_format: \"jsn\" is not known here; did you mean \"json\"?".into(),
        "gateway.yaml:14:14: telemetry.log_level: \"a=b=c\" is no filter; expected off, error, warn, info, debug, trace, or target=level such as redis_gateway=debug".into(),
        "gateway.yaml:15:18: telemetry.otlp_endpoint: holds a user or a password: write http://host:port alone".into(),
        "gateway.yaml:16:17: telemetry.sample_ratio: 2 is out of range: 0 to 1".into(),
        "gateway.yaml:19:30: endpoints.build_logs.db: 300 is out of range: 0 to 255".into(),
        "gateway.yaml:19:50: endpoints.build_logs.tls.enabled: \"maybe\" is neither true nor false".into(),
        "gateway.yaml:20:23: endpoints.user_events.host: \"redis://h:6379\" is no host: write the name alone, without a scheme".into(),
        "gateway.yaml:20:69: endpoints.user_events.password: is empty: leave it out, or give it a value".into(),
        "gateway.yaml:25:20: endpoints.cache.password_file: \"missing\" cannot be read: No such file or directory (os error 2)".into(),
        format!("gateway.yaml:27:20: endpoints.cache.tls.ca_file: \"{}\" is a folder: name a file", case.dir.path().display()),
        format!("env REDIS_GATEWAY_ADMIN_LISTEN: \"here\" {listen} 127.0.0.1:9102 or [::]:9102"),
        format!("flag --drain-timeout: \"-1s\" {duration}"),
        "gateway.yaml:19:30: endpoints.build_logs names no server: set endpoints.build_logs.host or .socket".into(),
        "gateway.yaml:23:13: endpoints.cache.socket: host is set too (gateway.yaml:22:11): keep one".into(),
        "gateway.yaml:25:20: endpoints.cache.password_file: password is set too (gateway.yaml:24:15): keep one".into(),
        "gateway.yaml:27:20: endpoints.cache.tls.ca_file: does nothing without TLS: set tls.enabled to true, or to false if that is meant".into(),
        "gateway.yaml:28:36: endpoints.orchestrator.port: a socket has no port: leave it out, or set host instead of socket".into(),
        "gateway.yaml:28:54: endpoints.orchestrator.tls.enabled: a socket has no TLS: set host instead of socket, or tls.enabled to false".into(),
        "gateway.yaml:28:71: endpoints.orchestrator.tls.cert_file: needs tls.key_file beside it".into(),
    ];
    assert_eq!(case.problems(), expected);
    let text = load(&command().try_get_matches_from(&case.args).unwrap(), case.env.clone())
        .unwrap_err()
        .to_string();
    assert!(text.ends_with(&format!("\n{} problems in the configuration", expected.len())) && !text.contains("secret"));
}

#[test]
fn readiness_names_what_is_configured() {
    let endpoints = "endpoints: {user_events: {host: h}}\n";
    let case = Case::new().file(&format!("{endpoints}readiness: [user_events, cache, locks]\n"));
    assert_eq!(
        case.problems(),
        [
            "gateway.yaml:2:26: readiness: cache is not configured: configure endpoints.cache, or leave it out",
            "gateway.yaml:2:33: readiness: locks have no endpoint of their own: name user_events, or configure \
             endpoints.locks",
        ]
    );
    let case = Case::new()
        .file(endpoints)
        .env("REDIS_GATEWAY_READINESS", "all, user_events");
    let alone = "env REDIS_GATEWAY_READINESS: all and none stand alone: write one of them, or names";
    assert_eq!(case.problems(), [alone]);
}

#[test]
fn files_that_cannot_be_read() {
    let case = Case::new()
        .arg("--config=/missing.yaml")
        .env("REDIS_GATEWAY_QUAY_CONFIG", "/missing");
    assert_eq!(
        case.problems(),
        [
            "env REDIS_GATEWAY_QUAY_CONFIG: \"/missing\" cannot be read: No such file or directory (os error 2)",
            "flag --config: \"/missing.yaml\" cannot be read: No such file or directory (os error 2)",
        ]
    );
    let problems = Case::new().file("grpc: [\n").problems();
    assert!(problems[0].starts_with("gateway.yaml:2:1: "), "{problems:?}");
    let twice = Case::new().file("drain:\n  delay: 1s\n  delay: 2s\n").problems();
    assert_eq!(
        twice,
        ["gateway.yaml:3:3: \"delay\" is here a second time, the first is in line 2: keep one"]
    );
    assert_eq!(Case::new().file("hello\n").problems().len(), 1);
}

#[test]
fn both_listeners_on_one_port() {
    let case = Case::new().arg("--admin-listen=127.0.0.1:50051");
    let what = "flag --admin-listen: admin.listen: grpc.listen and admin.listen are both 127.0.0.1:50051: give them \
                different ports";
    assert_eq!(case.problems(), [what]);
    Case::new()
        .arg("--admin-listen=127.0.0.1:0")
        .arg("--grpc-listen=127.0.0.1:0")
        .config();
}

#[test]
fn addresses_of_kubernetes_services_are_no_settings() {
    let case = Case::new()
        .env("REDIS_GATEWAY_SERVICE_HOST", "10.0.0.1")
        .env("REDIS_GATEWAY_SERVICE_PORT", "50051");
    let case = case
        .env("REDIS_GATEWAY_SERVICE_PORT_GRPC", "50051")
        .env("REDIS_GATEWAY_PORT", "tcp://10.0.0.1:50051");
    let case = case.env("REDIS_GATEWAY_PORT_50051_TCP", "tcp://10.0.0.1:50051");
    let case = case.env("REDIS_GATEWAY_ADMIN_PORT_9102_TCP_ADDR", "10.0.0.1");
    case.config();
    let case = case
        .env("REDIS_GATEWAY_PORT_X_TCP", "1")
        .env("REDIS_GATEWAY_CACHE_PORT", "6379");
    assert_eq!(case.problems().len(), 2);
}
