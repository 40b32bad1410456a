//! `inventory`: finds what is wrong among many keys, within its rate, and changes nothing.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use super::{
    Ran, all_at, logged_in, placed,
    planted::{PULLS, RIGHT, WRONG, keys, plant_right, plant_wrong},
    run, secret,
};
use crate::harness::{MachineLag, RedisServer, heavy, unused_port};

/// Keys of one step, as `SCAN` is asked for.
const PAGE: u64 = 500;

/// All findings: database, key, what is wrong.
fn findings(answer: &Value) -> Vec<(i64, String, String)> {
    let databases = answer["databases"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |database: &Value| {
        let db = database["db"].as_i64().unwrap();
        let found = database["findings"].as_array().unwrap().iter();
        found
            .map(|finding| (db, text(&finding["key"]), text(&finding["what"])))
            .collect::<Vec<_>>()
    };
    databases.flat_map(of).collect()
}

/// How often a command had run: before it was asked, after it, the count.
type Sample = (Instant, Instant, u64);

/// Runs a command on pipes, and notes again and again how often Redis has run `what`.
async fn watched(server: &RedisServer, words: &str, endpoints: &[String], what: &str) -> (Ran, Vec<Sample>) {
    let (mut samples, words) = (Vec::new(), [words]);
    let watch = async {
        let mut clock = interval(Duration::from_millis(50));
        loop {
            clock.tick().await;
            let before = Instant::now();
            let calls = server.calls(what).await;
            samples.push((before, Instant::now(), calls));
        }
    };
    let ran = tokio::select! {
        ran = run(&words, endpoints) => ran,
        never = watch => never,
    };
    (ran, samples)
}

/// In no span were there more than `rate` a second and `slack`, if each counts as `each`.
fn within(samples: &[Sample], each: u64, rate: u32, slack: u64) {
    for (n, (from, _, earlier)) in samples.iter().enumerate() {
        for (_, to, later) in &samples[n..] {
            let span = to.duration_since(*from);
            let most = (u64::from(rate) * u64::try_from(span.as_millis()).unwrap()).div_ceil(1_000) + slack;
            let taken = (later - earlier) * each;
            assert!(taken <= most, "{taken} in {span:?}");
        }
    }
}

#[tokio::test]
async fn each_planted_violation_is_found_among_100_000_keys_within_the_rate() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    plant_right(&server).await;
    let wrong = plant_wrong(&server).await;
    let before: String = server.run(&["DEBUG", "DIGEST"]).await;
    let rate: u32 = 20_000;
    let words = format!("inventory --json --max-findings 1000 --rate {rate}");
    let began = Instant::now();
    let (ran, samples) = watched(&server, &words, &all_at(server.addr()), "type").await;
    let took = began.elapsed();
    let answer = ran.json();
    assert_eq!(ran.code, Some(1), "{ran}");

    let found = findings(&answer);
    for (db, _, key, what) in WRONG {
        let named = |finding: &(i64, String, String)| finding.0 == *db && finding.1 == *key && finding.2.contains(what);
        assert!(found.iter().any(named), "{key}: no {what:?} in {found:?}");
    }
    let planted: BTreeSet<_> = WRONG.iter().map(|(db, _, key, _)| (*db, *key)).collect();
    let others: Vec<_> = found
        .iter()
        .filter(|(db, key, _)| !planted.contains(&(*db, key)))
        .collect();
    assert!(others.is_empty(), "found where nothing is wrong: {others:?}");

    let all = keys(&server).await;
    assert_eq!(
        all,
        RIGHT + wrong,
        "planted keys have expired: this machine is too slow"
    );
    let databases = answer["databases"].as_array().unwrap();
    let looked: u64 = databases
        .iter()
        .map(|database| database["keys"].as_u64().unwrap())
        .sum();
    assert_eq!(looked, all);
    assert!(
        databases
            .iter()
            .all(|database| database["role"] == "master" && database["ended"] == "whole")
    );
    let tokens = databases[0]["kinds"].as_array().unwrap();
    let tokens = tokens
        .iter()
        .find(|kind| kind["kind"] == "upstream_token__{…}")
        .unwrap();
    assert!(
        tokens["keys"] == 50_000 && tokens["bytes"].as_u64().unwrap() > 50_000 * 20,
        "{tokens}"
    );
    assert!(
        tokens["without_ttl"] == 0 && tokens["longest_ttl_s"].as_f64().unwrap() <= 86_400.0,
        "{tokens}"
    );

    assert_eq!(server.calls("keys").await, 0);
    assert!(server.calls("scan").await >= all / (2 * PAGE), "KEYS would be seen");
    assert_eq!(
        server.run::<String>(&["DEBUG", "DIGEST"]).await,
        before,
        "something was changed"
    );

    // A step is taken at once, and what is wrong is looked at twice.
    let slack = 3 * PAGE + u64::try_from(WRONG.len()).unwrap();
    within(&samples, 1, rate, slack);
    let least = Duration::from_secs(all) / rate;
    assert!(took >= least.mul_f64(0.95), "{took:?} for {all} keys");
    println!("{all} keys at {rate} a second took {took:?}, at least {least:?}");
}

#[tokio::test]
async fn a_low_rate_is_kept_and_made_use_of() {
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    server.run::<()>(&["DEBUG", "POPULATE", "6000", "key", "10"]).await;
    let lag = MachineLag::watch();
    let began = Instant::now();
    let ran = run(&["inventory --rate 2000"], &placed(&["cache"], server.addr())).await;
    let took = began.elapsed();
    assert!(ran.code == Some(0) && ran.out.contains("\n6000 keys\n"), "{ran}");
    assert!(ran.out.contains("of no known kind: key:"), "{ran}");
    // Each of a dozen steps may be late by what this machine is.
    let most = Duration::from_secs(4) + 16 * lag.worst();
    assert!(
        took >= Duration::from_millis(2_850) && took <= most,
        "{took:?}, at most {most:?}"
    );
}

#[tokio::test]
async fn large_values_and_ends_of_lists_are_read_within_the_rate_too() {
    const KIB: u64 = 200;
    let _one = heavy().await;
    let server = RedisServer::new().start().await;
    let value = format!("\"{}\"", "x".repeat(200 << 10));
    for n in 0..40 {
        let key = format!("upstream_token__{n}");
        server.run::<()>(&["SET", &key, &value, "EX", "600"]).await;
    }
    let (ran, samples) = watched(&server, "inventory --rate 2000", &all_at(server.addr()), "get").await;
    assert_eq!((ran.code, server.calls("get").await), (Some(0), 40), "{ran}");
    within(&samples, KIB, 2_000, 2 * KIB);

    // By its first entries they are small: that the last one is not is known when it has been read.
    server.run::<()>(&["FLUSHALL"]).await;
    let (small, large) = ("1".repeat(7_000), "1".repeat(4 << 20));
    let log = [&["RPUSH", "builds/1/logs"][..], &[small.as_str(); 20][..], &[&large]].concat();
    server.run::<()>(&log).await;
    server.run::<()>(&["EXPIRE", "builds/1/logs", "600"]).await;
    let began = Instant::now();
    let ran = run(&["inventory --rate 2000"], &placed(&["build_logs"], server.addr())).await;
    let took = began.elapsed();
    assert!(
        ran.code == Some(0) && took >= Duration::from_millis(1_900),
        "{took:?} {ran}"
    );
}

#[tokio::test]
async fn json_has_the_same_form_each_time_and_the_table_says_the_same() {
    let server = RedisServer::new().start().await;
    plant_wrong(&server).await;
    let endpoints = all_at(server.addr());
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut answer = run(&["inventory --json"], &endpoints).await.json();
        for database in answer["databases"].as_array_mut().unwrap() {
            for kind in database["kinds"].as_array_mut().unwrap() {
                // The only ones that time changes.
                assert!(kind["shortest_ttl_s"].take().as_f64() <= kind["longest_ttl_s"].take().as_f64());
            }
            for finding in database["findings"].as_array_mut().unwrap() {
                let what = finding["what"].take();
                finding["what"] = what.as_str().unwrap().split(|c: char| c.is_ascii_digit()).next().into();
            }
        }
        answers.push(answer);
    }
    assert_eq!(answers[0], answers[1]);

    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let first = &answers[0]["databases"][0];
    assert_eq!(names(&answers[0]), "databases unreachable");
    assert_eq!(
        names(first),
        "endpoints server db role keys keys_at_start keys_denied ended error kinds findings findings_left_out \
         unknown_keys notes"
    );
    assert_eq!(
        names(&first["kinds"][0]),
        "kind keys bytes without_ttl shortest_ttl_s longest_ttl_s wrong unread"
    );
    assert_eq!(names(&first["findings"][0]), "key kind what right");
    assert_eq!(
        first["endpoints"],
        json!(["build_logs", "user_events", "cache", "orchestrator"])
    );

    let ran = run(&["inventory --max-findings 3"], &endpoints).await;
    let of = |db: usize| answers[0]["databases"][db]["findings"].as_array().unwrap().len();
    for all in [of(0), of(1)] {
        let line = format!("\n{all} findings, {} of them not listed: --max-findings\n", all - 3);
        assert!(ran.code == Some(1) && ran.out.contains(&line), "{line} {ran}");
    }
}

#[tokio::test]
async fn the_rights_that_its_page_lists_are_enough() {
    let rights = "on >secret %R~* +ping +select +client|setname +client|id +scan +dbsize +type +pttl +memory|usage +time +info \
                  +get +llen +lindex +hgetall";
    let server = RedisServer::new().user("looks", rights).start().await;
    plant_wrong(&server).await;
    let file = secret();
    let names = ["build_logs", "cache", "user_events", "pull_metrics", "orchestrator"];
    let all = all_at(server.addr());
    let endpoints = [all.clone(), logged_in(&names, "looks", &file)].concat();
    let ran = run(&["inventory --json"], &endpoints).await;
    let answer = ran.json();
    let as_default = run(&["inventory --json"], &all).await.json();
    assert_eq!(
        (ran.code, findings(&answer).len()),
        (Some(1), findings(&as_default).len()),
        "{ran}"
    );
    assert!(
        answer["databases"]
            .as_array()
            .unwrap()
            .iter()
            .all(|database| database["notes"] == json!([])),
        "{ran}"
    );
}

#[tokio::test]
async fn keys_that_may_not_be_looked_at_are_counted_and_the_rest_is() {
    let server = RedisServer::new()
        .user("narrow", "on >secret ~builds/* +@all")
        .start()
        .await;
    server.run::<()>(&["RPUSH", "builds/1/logs", "{}", "{}"]).await;
    server.run::<()>(&["SET", "elsewhere", "1"]).await;
    let file = secret();
    let mut endpoints = placed(&["build_logs"], server.addr());
    endpoints.extend(logged_in(&["build_logs"], "narrow", &file));
    let ran = run(&["inventory"], &endpoints).await;
    assert_eq!(ran.code, Some(69), "{ran}");
    assert!(
        ran.out.contains("note: 1 keys were not looked at: not permitted"),
        "{ran}"
    );
    assert!(
        ran.out.contains("builds/1/logs") && !ran.out.contains("elsewhere"),
        "{ran}"
    );
}

#[tokio::test]
async fn endpoints_on_one_server_are_looked_at_by_the_users_of_all() {
    let server = RedisServer::new()
        .user("logs", "on >secret +@all ~builds/*")
        .user("caches", "on >secret +@all ~repo_*")
        .start()
        .await;
    server.run::<()>(&["RPUSH", "builds/1/logs", "{}"]).await;
    server.run::<()>(&["SET", "repo_blob__a", "{}", "EX", "50"]).await;
    server.run::<()>(&["EXPIRE", "builds/1/logs", "100"]).await;
    let file = secret();
    let endpoints = [
        placed(&["build_logs", "cache"], server.addr()),
        logged_in(&["build_logs"], "logs", &file),
        logged_in(&["cache"], "caches", &file),
    ]
    .concat();
    let ran = run(&["inventory --json"], &endpoints).await;
    let databases = &ran.json()["databases"];
    let counts = (&databases[0]["keys"], &databases[0]["keys_denied"]);
    assert_eq!(
        (ran.code, counts, &databases[1]),
        (Some(0), (&json!(2), &json!(0)), &Value::Null),
        "{ran}"
    );

    // The user of the endpoint that is asked for is asked first.
    server.run::<()>(&["DEL", "builds/1/logs"]).await;
    server.run::<()>(&["ACL", "LOG", "RESET"]).await;
    let ran = run(&["inventory --endpoint cache"], &endpoints).await;
    let denied: Vec<redis::Value> = server.run(&["ACL", "LOG"]).await;
    assert!(ran.code == Some(0) && denied.is_empty(), "{denied:?} {ran}");
}

#[tokio::test]
async fn pulls_in_the_first_database_are_found_though_nobody_is_configured_to_be_there() {
    let server = RedisServer::new().start().await;
    server
        .run_on::<()>(0, &["HSET", "pull_events:repo:1:digest:sha256:ab", "pull_count", "1"])
        .await;
    server.run_on::<()>(0, &["SET", "another", "1"]).await;
    let endpoints = placed(&["pull_metrics"], server.addr());
    let ran = run(&["inventory --json"], &endpoints).await;
    let right = format!("on pull_metrics: {}, db {PULLS}", server.addr());
    let found = &ran.json()["databases"][1]["findings"];
    assert!(
        ran.code == Some(1) && found[0]["right"] == right && found.as_array().unwrap().len() == 1,
        "{ran}"
    );

    // So they are where others are configured to be.
    let shared = placed(&["build_logs", "pull_metrics"], server.addr());
    let ran = run(&["inventory --json --endpoint pull_metrics"], &shared).await;
    let databases = &ran.json()["databases"];
    assert_eq!(databases[0]["endpoints"], json!(["pull_metrics"]), "{ran}");
    assert_eq!(databases[1]["endpoints"], json!(["build_logs"]), "{ran}");
    assert!(
        ran.code == Some(1) && databases[1]["findings"][0]["right"] == right,
        "{ran}"
    );

    let away = placed(&["pull_metrics"], ([127, 0, 0, 1], unused_port()).into());
    let ran = run(&["inventory"], &away).await;
    assert!(
        ran.code == Some(69) && ran.err.contains("pull_metrics 127.0.0.1:"),
        "{ran}"
    );
    assert!(
        ran.err.contains("it takes no connection") && ran.err.lines().count() == 1,
        "{ran}"
    );
}
