//! The program as a shell sees it.

use std::{
    env,
    process::{Command, Output},
};

/// The program, without what the environment of the tests would tell it.
pub(crate) fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-gateway"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("REDIS_GATEWAY_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = gateway().args(args).output().unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn exit_codes_and_where_they_are_explained() {
    let (code, out, _) = run(&["--version"]);
    assert_eq!(
        (code, out),
        (Some(0), format!("redis-gateway {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (code, short, _) = run(&["-h"]);
    assert!(
        code == Some(0) && short.contains("--drain-timeout") && !short.contains("--endpoints-cache-host"),
        "{short}"
    );
    let (code, long, _) = run(&["check", "--help"]);
    assert!(
        code == Some(0) && long.contains("Endpoint cache:") && long.contains("--endpoints-cache-host"),
        "{long}"
    );
    assert!(!long.contains("--endpoints-cache-password "), "{long}");

    let (code, out, err) = run(&["--drain-timeot", "1s"]);
    assert!(
        code == Some(64) && out.is_empty() && err.contains("'--drain-timeout'"),
        "{code:?} {err}"
    );
    let (code, out, err) = run(&["serve", "--drain-timeout", "1", "--endpoints-cache-port", "0"]);
    assert_eq!((code, out.as_str()), (Some(64), ""));
    assert_eq!(err.lines().count(), 4, "{err}");
    assert!(err.ends_with("\n3 problems in the configuration\n"), "{err}");

    let (code, out, err) = run(&["check", "--endpoints-cache-host", "h", "--grpc-listen=0.0.0.0:1"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.ends_with("the configuration is valid, with 1 warning\n"), "{out}");
}

#[test]
fn check_says_the_same_to_scripts() {
    let json = |args: &[&str]| {
        let (code, out, err) = run(&[&["check", "--json"], args].concat());
        assert_eq!(err, "");
        (code, serde_json::from_str::<serde_json::Value>(&out).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, "endpoints: {cache: {host: h, password: hidden}}\n").unwrap();
    let config = format!("--config={}", file.display());
    let (code, answer) = json(&[&config, "--grpc-listen=0.0.0.0:1"]);
    assert_eq!(
        (code, &answer["valid"], &answer["problems"]),
        (Some(0), &true.into(), &serde_json::json!([]))
    );
    let setting = |path: &str| {
        let all = answer["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["path"] == path).unwrap().clone()
    };
    let password = setting("endpoints.cache.password");
    assert_eq!(password["value"], "***");
    assert_eq!(password["place"], format!("{}:1:40", file.display()));
    assert_eq!(setting("grpc.listen")["place"], "flag --grpc-listen");
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1);
    assert!(!answer.to_string().contains("hidden"));

    let (code, answer) = json(&[&config, "--drain-timeout=1", "--endpoints-cache-port=0"]);
    assert_eq!((code, &answer["valid"]), (Some(64), &false.into()));
    let problems = answer["problems"].as_array().unwrap();
    assert_eq!(
        (problems.len(), &problems[0]["place"]),
        (2, &"flag --drain-timeout".into())
    );
    assert!(
        problems[0]["what"].as_str().unwrap().contains("is no duration"),
        "{answer}"
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let (code, _, err) = run(&["--endpoints-cache-host=127.0.0.1", &format!("--grpc-listen={addr}")]);
    assert!(
        code == Some(1) && err.contains(&format!("redis-gateway: {addr}: Address already in use")),
        "{code:?} {err}"
    );
}
