use crate::config::{
    Cluster, Password, Tls,
    tests::{Case, tcp},
};

#[test]
fn all_five_in_their_present_form() {
    let quay = "\
SERVER_HOSTNAME: quay.example
BUILDLOGS_REDIS: {host: b, port: '6380', password: secret, db: 2, username: u, socket_timeout: 3}
USER_EVENTS_REDIS:
  host: e
  ssl: yes
  ssl_ca_certs: DIR/pem
  ssl_certfile: DIR/pem
  ssl_keyfile: DIR/pem
  ssl_cert_reqs: null
PULL_METRICS_REDIS: {host: p, db: 7}
DATA_MODEL_CACHE_CONFIG:
  engine: redis
  redis_config: {primary: {host: c, password: '0123'}, replica: {host: r, port: 6381, password: '0123'}}
BUILD_MANAGER:
- ephemeral
- ORCHESTRATOR:
    REDIS_HOST: o
    REDIS_PORT: 6382
    REDIS_PASSWORD: secret
    REDIS_DB: 1
    REDIS_SSL: true
    REDIS_CERT_AND_KEY: [DIR/pem, DIR/pem]
    REDIS_CA_CERT: DIR/pem
    REDIS_SKIP_KEYSPACE_EVENT_SETUP: true
  ORCHESTRATOR_PREFIX: buildman/production/
  EXECUTORS: [{EXECUTOR: kubernetes}]
";
    let case = Case::new();
    let pem = case.write("pem", "");
    let case = case.quay(quay);
    let config = case.config();
    let watched = config.orchestrator;
    assert!(watched.skip_keyspace_event_setup);
    assert_eq!(watched.channel_prefix, "buildman/production/");
    let endpoints = config.endpoints;
    let logs = endpoints.build_logs.unwrap();
    assert_eq!(
        (logs.server, logs.db, logs.username.as_deref()),
        (tcp("b", 6380), 2, Some("u"))
    );
    assert_eq!(
        (logs.password, logs.tls),
        (Some(Password::Inline("secret".into())), None)
    );
    let all_files = |insecure| Tls {
        ca_file: Some(pem.clone()),
        cert_file: Some(pem.clone()),
        key_file: Some(pem.clone()),
        insecure,
    };
    let events = endpoints.user_events.unwrap();
    assert_eq!((events.server, events.tls), (tcp("e", 6379), Some(all_files(true))));
    assert!(endpoints.locks.is_none());
    let metrics = endpoints.pull_metrics.unwrap();
    assert_eq!((metrics.server, metrics.db), (tcp("p", 6379), 7));
    let cache = endpoints.cache.unwrap();
    assert_eq!((cache.server, cache.replicas), (tcp("c", 6379), vec![tcp("r", 6381)]));
    assert_eq!(cache.password, Some(Password::Inline("0123".into())));
    let orchestrator = endpoints.orchestrator.unwrap();
    assert_eq!((orchestrator.server, orchestrator.db), (tcp("o", 6382), 1));
    assert_eq!(orchestrator.tls, Some(all_files(false)));
    assert_eq!(
        case.warnings(),
        [
            "quay config.yaml:2:96: BUILDLOGS_REDIS.socket_timeout: is a connection argument that the gateway does not \
             need: ignored",
            "quay config.yaml:9:18: USER_EVENTS_REDIS.ssl_cert_reqs: the server's certificate is not checked: anyone on \
             the way can read and change what is sent",
        ]
    );
    let report = case.plain(&case.load().unwrap());
    assert!(
        report.contains("quay config.yaml:2:25\n") && !report.contains("secret"),
        "{report}"
    );
}

#[test]
fn older_names() {
    let case = Case::new().quay(
        "BUILDLOGS_REDIS_HOSTNAME: b\nBUILDLOGS_REDIS: {}\nUSER_EVENTS_REDIS_HOSTNAME: x\nUSER_EVENTS_REDIS: {host: e}\n\
         PULL_METRICS_REDIS_HOSTNAME: p\n",
    );
    let endpoints = case.config().endpoints;
    assert_eq!(endpoints.build_logs.unwrap().server, tcp("b", 6379));
    assert_eq!(endpoints.user_events.unwrap().server, tcp("e", 6379));
    let metrics = endpoints.pull_metrics.unwrap();
    assert_eq!((metrics.server, metrics.db), (tcp("p", 6379), 1));
    let db = "quay config.yaml:5:30: PULL_METRICS_REDIS_HOSTNAME: has no db: Quay writes db 0 and flushes db 1, the \
              gateway uses db 1 for both";
    assert_eq!(case.warnings(), [db]);
}

#[test]
fn anchors_merges_and_the_last_of_two_as_for_python() {
    let quay =
        "x: &redis {host: h, ssl: true}\nBUILDLOGS_REDIS: {host: old}\nBUILDLOGS_REDIS:\n  <<: *redis\n  db: 3\n";
    let logs = Case::new().quay(quay).config().endpoints.build_logs.unwrap();
    assert_eq!(
        (logs.server, logs.db, logs.tls),
        (tcp("h", 6379), 3, Some(Tls::default()))
    );
}

#[test]
fn engines_without_redis() {
    for engine in ["noop", "inmemory", "memcached"] {
        let quay = format!("BUILDLOGS_REDIS: {{host: b}}\nDATA_MODEL_CACHE_CONFIG: {{engine: {engine}}}\n");
        assert!(Case::new().quay(&quay).config().endpoints.cache.is_none());
    }
    let nothing = Case::new().quay("DATA_MODEL_CACHE_CONFIG: {engine: noop}\n").problems();
    assert_eq!(
        nothing,
        ["flag --quay-config: names no Redis; leave it out for the embedded server"]
    );
}

#[test]
fn a_cluster_is_found_by_its_startup_nodes() {
    let quay = "\
DATA_MODEL_CACHE_CONFIG:
  engine: rediscluster
  redis_config:
    startup_nodes: [{host: a, port: 7000}, {host: '::1'}]
    read_from_replicas: true
    password: secret
    ssl: true
    skip_full_coverage_check: true
";
    let case = Case::new().quay(quay);
    let cache = case.config().endpoints.cache.unwrap();
    let cluster = Cluster {
        servers: vec![tcp("a", 7000), tcp("::1", 6379)],
        read_from_replicas: true,
    };
    assert_eq!((cache.server, cache.cluster), (tcp("a", 7000), Some(cluster)));
    assert_eq!(
        (cache.password, cache.tls),
        (Some(Password::Inline("secret".into())), Some(Tls::default()))
    );
    assert_eq!(
        case.warnings(),
        [
            "quay config.yaml:8:31: DATA_MODEL_CACHE_CONFIG.redis_config.skip_full_coverage_check: is a connection argument \
          that the gateway does not need: ignored"
        ]
    );
    let report = case.plain(&case.load().unwrap());
    assert!(
        report.contains("a:7000,[::1]:6379") && !report.contains("secret"),
        "{report}"
    );
    // A higher layer's single server takes its place.
    let single = case.arg("--endpoints-cache-host=h").config().endpoints.cache.unwrap();
    assert_eq!((single.server, single.cluster), (tcp("h", 6379), None));

    let older = "DATA_MODEL_CACHE_CONFIG: {engine: rediscluster, redis_config: {startup_nodes: [{host: a, port: 1}], \
                 readonly_mode: true}}\n";
    let cache = Case::new().quay(older).config().endpoints.cache.unwrap();
    assert!(cache.cluster.unwrap().read_from_replicas);
    for (config, problem) in [
        (
            "{password: x}",
            "redis_config: names no servers: write startup_nodes, a list of mappings of host and port",
        ),
        (
            "{startup_nodes: a}",
            "startup_nodes: names no server: write a list of mappings of host and port",
        ),
        (
            "{startup_nodes: [{port: 1}]}",
            "startup_nodes: is no server: write a mapping of host and port",
        ),
    ] {
        let quay = format!("DATA_MODEL_CACHE_CONFIG: {{engine: rediscluster, redis_config: {config}}}\n");
        let problems = Case::new().quay(&quay).problems();
        assert!(problems[0].ends_with(problem), "{problems:?}");
    }
}

#[test]
fn problems_in_the_redis_parts() {
    let quay = "\
BUILDLOGS_REDIS: {host: [b], port: many, ssl: 'true', ssl_keyfile: /k, password: 0123}
USER_EVENTS_REDIS: redis.example
PULL_METRICS_REDIS: {host: p, db: 1, ssl: true, ssl_cert_reqs: maybe, ssl_check_hostname: false, ssl_certfile: DIR/x}
DATA_MODEL_CACHE_CONFIG:
  engine: redis
  redis_config: {primary: {host: c, password: a}, replica: {host: r, password: b}}
BUILD_MANAGER: [ephemeral, {ORCHESTRATOR: {REDIS_HOST: o, REDIS_SSL: true, REDIS_CERT_AND_KEY: cert.pem}}]
";
    assert_eq!(
        Case::new().quay(quay).problems(),
        [
            "quay config.yaml:1:47: BUILDLOGS_REDIS.ssl: is no boolean: write true or false, without quotes",
            "quay config.yaml:1:25: BUILDLOGS_REDIS.host: is a list: write one value",
            "quay config.yaml:1:82: BUILDLOGS_REDIS.password: may be read as something else than text by Quay: write it \
             in quotes",
            "quay config.yaml:2:20: USER_EVENTS_REDIS: is a single value: write a mapping of host, port, password, …",
            "quay config.yaml:3:64: PULL_METRICS_REDIS.ssl_cert_reqs: is not known: write none, optional or required",
            "quay config.yaml:6:80: DATA_MODEL_CACHE_CONFIG.redis_config.replica.password: differs from the primary's: \
             the gateway reaches both in the same way, except for host and port",
            "quay config.yaml:7:96: BUILD_MANAGER.ORCHESTRATOR.REDIS_CERT_AND_KEY: is no pair: write [certificate file, \
             key file]",
            "quay config.yaml:1:36: BUILDLOGS_REDIS.port: \"many\" is no whole number: 1 to 65535",
            "quay config.yaml:3:112: PULL_METRICS_REDIS.ssl_certfile: \"x\" cannot be read: No such file or directory \
             (os error 2)",
            "quay config.yaml:1:36: endpoints.build_logs names no server: set endpoints.build_logs.host or .socket",
            "quay config.yaml:3:112: PULL_METRICS_REDIS.ssl_certfile: needs tls.key_file beside it",
        ]
    );
    let engine = Case::new()
        .quay("DATA_MODEL_CACHE_CONFIG: {engine: rediss}\n")
        .problems();
    assert!(
        engine[0].ends_with("\"rediss\" is no engine; did you mean \"redis\"?"),
        "{engine:?}"
    );
}
