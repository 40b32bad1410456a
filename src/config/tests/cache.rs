use super::super::{Cluster, Server};
use super::{Case, tcp};

#[test]
fn the_cache_alone_can_be_on_a_cluster() {
    let text = "endpoints: {cache: {cluster: [a, 'b:1', '[::1]:2'], read_from_replicas: true}}\n";
    let case = Case::new().file(text);
    let cache = case.config().endpoints.cache.unwrap();
    let servers = vec![tcp("a", 6379), tcp("b", 1), tcp("::1", 2)];
    assert_eq!(cache.server, servers[0]);
    let cluster = Cluster {
        servers,
        read_from_replicas: true,
    };
    assert_eq!(cache.cluster, Some(cluster));
    let report = case.plain(&case.load().unwrap());
    assert!(
        report.contains("a,b:1,[::1]:2") && !report.contains("cache.port"),
        "{report}"
    );

    let problems = Case::new().file(
        "endpoints:\n  build_logs: {cluster: [a]}\n  user_events: {cluster: [a]}\n  locks: {cluster: [a]}\n  \
         pull_metrics: {cluster: [a]}\n  orchestrator: {cluster: [a]}\n",
    );
    let refused = |line: u8, name: &str, why: &str| {
        let column = 15 + name.len();
        format!("gateway.yaml:{line}:{column}: endpoints.{name}.cluster: {name} cannot be on a Cluster: {why}")
    };
    let mut expected = vec![
        refused(2, "build_logs", "its health is checked on one server"),
        refused(3, "user_events", "a lock and its signal lie in different slots"),
        refused(5, "pull_metrics", "a flush looks through the keys of one server"),
        refused(6, "orchestrator", "its scripts and notifications need one server"),
        refused(4, "locks", "a lock and its signal lie in different slots"),
    ];
    let mut found = problems.problems();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);

    let beside = [
        (
            "{cluster: [a], host: h}",
            "host is set too (gateway.yaml:1:41): keep one",
        ),
        (
            "{cluster: [a], port: 1}",
            "a Cluster's servers have their ports with them: leave it out",
        ),
        (
            "{cluster: [a], replicas: [r]}",
            "a Cluster tells of its replicas by itself: set read_from_replicas instead",
        ),
        ("{cluster: [a], db: 1}", "a Cluster has no other database than 0"),
        (
            "{cluster: ['unix:/x']}",
            "is no server of a Cluster: write host:port or [address]:port",
        ),
        (
            "{host: h, read_from_replicas: true}",
            "does nothing without cluster: a single server's replicas are named in replicas",
        ),
        (
            "{username: u}",
            "names no server: set endpoints.cache.host or .socket or .cluster",
        ),
    ];
    for (cache, problem) in beside {
        let problems = Case::new().file(&format!("endpoints: {{cache: {cache}}}\n")).problems();
        assert!(problems[0].ends_with(problem), "{cache}: {problems:?}");
    }
    // Of two sources the higher one's counts.
    let single = Case::new().file("endpoints: {cache: {host: h, port: 1, replicas: [r], db: 3}}\n");
    let cache = single
        .arg("--endpoints-cache-cluster=a,b")
        .config()
        .endpoints
        .cache
        .unwrap();
    assert_eq!(
        (cache.server, cache.replicas, cache.db),
        (tcp("a", 6379), Vec::new(), 0)
    );
    let cache = case
        .arg("--endpoints-cache-socket=/run/redis")
        .config()
        .endpoints
        .cache
        .unwrap();
    assert_eq!((cache.server, cache.cluster), (Server::Unix("/run/redis".into()), None));
}

#[test]
fn prefixes_that_have_keys_in_common_are_refused_by_name() {
    let problems = |text: &str| Case::new().file(text).problems();
    assert_eq!(
        problems("cache: {near: {prefixes: [a_, b, a_c]}}"),
        ["gateway.yaml:1:34: cache.near.prefixes: \"a_\" and \"a_c\" have keys in common: leave the longer one out"]
    );
    assert_eq!(
        problems("cache: {near: {prefixes: [a, '']}}"),
        ["gateway.yaml:1:30: cache.near.prefixes: \"a\" and \"\" have keys in common: leave the longer one out"]
    );
    assert_eq!(
        problems("endpoints: {cache: {cluster: ['redis:7000']}}\ncache: {near: {prefixes: [a]}}"),
        [
            "gateway.yaml:2:26: cache.near.prefixes: values are not kept in memory on a Cluster, whose servers tell of their own keys \
             alone: leave it out"
        ]
    );
    let twice = Case::new().arg("--cache-near-prefixes=b,b").problems();
    assert_eq!(
        twice,
        ["flag --cache-near-prefixes: \"b\" and \"b\" have keys in common: leave the longer one out"]
    );
    let all = Case::new().file("cache: {near: {prefixes: ['']}}");
    assert_eq!(all.config().cache.near_prefixes, [""]);
    // An empty flag is an empty list, and takes the place of the file's.
    let none = all.arg("--cache-near-prefixes=").config();
    assert!(none.cache.near_prefixes.is_empty());
}
