//! The rules: each a function from a file's text to what it found there.

use super::source::{code_of, crate_modules, never, without_tests};

const PATTERNS: &[&str] = &[
    "build_logs",
    "cache",
    "content_tracker",
    "health",
    "locks",
    "orchestrator",
    "pull_metrics",
    "user_events",
];

/// Beginnings and ends of key and channel names.
const KEY_PARTS: &[&str] = &[
    "builds/",
    "user/",
    "pull_events:",
    "lock:",
    "lock-signal:",
    "quay:",
    "redis-gateway:",
    "/expiring",
    "/expired",
    "_events\"",
    "\"_health",
];

/// Commands that change no data, so that a function in `command.rs` may call them `Repeatable`.
const READS: &[&str] = &[
    "ASKING", "CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "ECHO", "EXISTS", "GET", "HGETALL", "INFO", "LINDEX", "LLEN",
    "LRANGE", "MEMORY", "MGET", "MULTI", "PING", "PTTL", "READONLY", "ROLE", "SCAN", "SCRIPT", "TIME", "TTL", "TYPE",
];

const MAX_LINES: usize = 400;
const MAX_README_LINES: usize = 150;

/// All rules for one file. Each finding is `:line: what is wrong and what would be right`.
pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    let mut found = sizes(path, text);
    found.extend(speaks_of_itself_alone(text));
    let kind = path.rsplit('.').next().unwrap_or_default();
    if path == "Cargo.lock" {
        found.extend(foreign_sources(text));
    }
    if kind == "lua" {
        found.extend(lua(path, text));
    }
    if kind == "rs" {
        found.extend(never(
            &code_of(text),
            &[concat!("#[ig", "nore")],
            "a test runs or is deleted",
        ));
    }
    if path.starts_with("src/") && kind == "rs" {
        let code = code_of(text);
        let code = without_tests(path, &code);
        found.extend(layers_of_the_house(path, code));
        found.extend(unproven_expects(text, code));
        let crash = "return an error that names the thing and what would be right";
        found.extend(never(
            code,
            &[".unwrap()", "panic!", "todo!", "unimplemented!", "dbg!"],
            crash,
        ));
        found.extend(never(code, &["\"KEYS\""], "KEYS stops Redis for all: SCAN"));
        if path == "src/redis/command.rs" {
            found.extend(commands(code));
        }
    }
    found
}

/// Which file may use what.
fn layers_of_the_house(path: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let room = path
        .strip_prefix("src/")
        .and_then(|p| p.split('/').next())
        .unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let pattern = PATTERNS.contains(&room) && path.matches('/').count() > 1;
    let mut foreign: Vec<&str> = Vec::new();

    if room != "redis" {
        found.extend(never(
            code,
            &["fred"],
            "only src/redis names fred: ask a redis::Endpoint",
        ));
    }
    if path != "src/status.rs" {
        let built = "only src/status.rs builds a gRPC status: add a function there";
        found.extend(never(code, STATUS_MAKERS, built));
    }
    if pattern && (file == "service.rs" || path.contains("/service/")) {
        let why = "service.rs turns messages into the pattern's own types and back: this belongs into store.rs";
        found.extend(never(code, KEY_PARTS, why));
        let means = [
            "redis::command",
            "command::",
            "Script",
            ".eval(",
            ".primary(",
            ".read(",
            "serde_json",
        ];
        found.extend(never(code, &means, why));
        found.extend(never(
            code,
            &["prometheus", "metrics"],
            "layers and stores count, handlers do not",
        ));
    } else if pattern && file != "mod.rs" {
        let why = "generated types and tonic end in service.rs";
        // Those of metrics are none of an RPC.
        let code = code.replace("prometheus::proto::", "prometheus::");
        found.extend(never(&code, &["tonic", "proto::", "prost"], why));
        foreign.push("proto");
    }
    if room == "redis" {
        found.extend(never(code, &["tonic", "proto::", "prost"], "src/redis knows no RPC"));
        foreign.extend(["proto", "status", "layer"]);
    }
    if room == "layer" {
        foreign.push("redis");
    }
    if pattern || room == "redis" || room == "layer" {
        foreign.extend(PATTERNS.iter().filter(|other| !pattern || **other != room));
    }
    for (line, module) in crate_modules(code) {
        if foreign.contains(&module.as_str()) {
            found.push(format!(
                ":{line}: names crate::{module}: calls go one way, and no pattern knows another"
            ));
        }
    }
    found
}

const STATUS_MAKERS: &[&str] = &[
    "Status::new(",
    "Status::ok(",
    "Status::cancelled(",
    "Status::unknown(",
    "Status::invalid_argument(",
    "Status::deadline_exceeded(",
    "Status::not_found(",
    "Status::already_exists(",
    "Status::permission_denied(",
    "Status::resource_exhausted(",
    "Status::failed_precondition(",
    "Status::aborted(",
    "Status::out_of_range(",
    "Status::unimplemented(",
    "Status::internal(",
    "Status::unavailable(",
    "Status::data_loss(",
    "Status::unauthenticated(",
    "Status::with_details(",
    "Status::with_metadata(",
    "Status::with_error_details(",
    "Status::from_error(",
    "ErrorDetails",
];

/// An `expect` stands on a proof, in a comment at most a dozen lines above it.
fn unproven_expects(text: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let proven = |at: usize| {
        lines[at.saturating_sub(12)..=at]
            .iter()
            .any(|line| line.contains("// "))
    };
    (1..)
        .zip(code.lines())
        .filter(|(n, line)| line.contains(".expect(") && !proven(n - 1))
        .map(|(n, _)| format!(":{n}: expect without its proof in a comment above it"))
        .collect()
}

/// Each command says by type whether it may be sent twice, and only what changes nothing says that it may.
fn commands(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut repeatable = false;
    for (n, line) in (1..).zip(code.lines()) {
        if let Some((_, kind)) = line.split_once("-> Command<") {
            repeatable = kind.starts_with("Repeatable,");
            if !repeatable && !kind.starts_with("Once,") && !kind.starts_with("R,") {
                found.push(format!(":{n}: Command<{kind}: say Repeatable or Once"));
            }
        }
        if let Some(name) = line
            .split("Command::new(\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            && repeatable
            && !READS.contains(&name)
        {
            found.push(format!(":{n}: {name} is called Repeatable, but changes data"));
        }
    }
    found
}

/// A script's header names KEYS, ARGV, what it returns and its source; its file's name ends in its number of keys.
fn lua(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let header: String = text
        .lines()
        .take_while(|line| line.starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n");
    for word in ["KEYS", "ARGV", "Returns", "Source"] {
        if !header.contains(&format!("-- {word}")) {
            found.push(format!(":1: the header has no line that begins with `-- {word}`"));
        }
    }
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n");
    let keys = (1..=9)
        .rev()
        .find(|n| code.contains(&format!("KEYS[{n}]")))
        // A script that goes over all keys has one at least.
        .unwrap_or(usize::from(code.contains("ipairs(KEYS)")));
    if !path.ends_with(&format!("-{keys}.lua")) {
        found.push(format!(":1: uses {keys} keys, so its name should end in -{keys}.lua"));
    }
    if code.contains("call('KEYS'") || code.contains("call(\"KEYS\"") {
        found.push(":1: KEYS stops Redis for all: SCAN".to_owned());
    }
    found
}

fn sizes(path: &str, text: &str) -> Vec<String> {
    let most = match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("rs" | "py" | "go" | "lua" | "proto") => MAX_LINES,
        Some("md") if path == "README.md" => MAX_README_LINES,
        _ => return Vec::new(),
    };
    let lines = text.lines().count();
    let over = format!(": {lines} lines, at most {most}: a noun is hiding in it");
    if lines > most { vec![over] } else { Vec::new() }
}

/// The project speaks of itself: not of the machines it was written on, nor of what tickets said.
fn speaks_of_itself_alone(text: &str) -> Vec<String> {
    // In two parts each, so that this file keeps its own rule.
    let words = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/tm", "p/"),
        concat!("issue", " #"),
        concat!("/iss", "ues/"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    never(
        text,
        &words,
        "files speak of the project alone, and nothing is left for later in them",
    )
}

fn foreign_sources(lock: &str) -> Vec<String> {
    (1..)
        .zip(lock.lines())
        .filter(|(_, line)| line.starts_with("source = ") && !line.contains("github.com/rust-lang/crates.io-index"))
        .map(|(n, line)| format!(":{n}: {line}: crates come from crates.io"))
        .collect()
}

/// The code map of ARCHITECTURE.md names each module.
pub(super) fn unmapped_modules(modules: &[String], map: &str) -> Vec<String> {
    let unmapped = |name: &&String| !map.contains(&format!("`src/{name}"));
    modules
        .iter()
        .filter(unmapped)
        .map(|name| format!("ARCHITECTURE.md: its code map lacks `src/{name}`"))
        .collect()
}
