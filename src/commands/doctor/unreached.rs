//! Servers that cannot be asked: which of them are away, and which refuse.

use super::finding::Finding;
use crate::config::Endpoint;
use crate::redis::Unreached;

/// What is wrong with a server that answers but cannot be used; `Err` says why it does not even answer.
pub(super) fn judge(endpoint: &str, config: &Endpoint, why: &Unreached) -> Result<Finding, String> {
    let settings = format!("endpoints.{endpoint}");
    let user = config.user();
    let (check, fix) = match why {
        Unreached::Name(_) | Unreached::Connect(_) | Unreached::Silent(_) => return Err(why.to_string()),
        Unreached::PasswordFile(_) => (
            "login",
            format!("let {settings}.password_file name a file that the gateway may read"),
        ),
        Unreached::NoPassword => (
            "login",
            format!("set {settings}.password_file or .password to the password of user {user}"),
        ),
        Unreached::WrongPassword => (
            "login",
            format!(
                "set {settings}.password_file or .password to the password of user {user}, or there: ACL SETUSER {user} on \
                 >PASSWORD"
            ),
        ),
        Unreached::Tls(_) => (
            "tls",
            format!("set {settings}.tls as the server wants it: ca_file, cert_file and key_file, or enabled: false"),
        ),
        Unreached::Refused(text) => refused(text, &settings, config),
    };
    Ok(Finding::error(check, why.to_string(), fix))
}

fn refused(text: &str, settings: &str, config: &Endpoint) -> (&'static str, String) {
    if text.contains("DB index") {
        let fix = format!(
            "set {settings}.db below the server's own number of databases, or raise that: databases {} in its redis.conf",
            u16::from(config.db) + 1
        );
        ("db", fix)
    } else if text.contains("'select'") {
        let user = config.user();
        ("rights", format!("ACL SETUSER {user} +select"))
    } else if let Some((_, command)) = text.split_once("not permitted to run ") {
        let user = config.user();
        let rights = match command {
            "CLUSTER" => "+cluster|slots +cluster|info".to_owned(),
            other => format!("+{}", other.to_lowercase()),
        };
        ("rights", format!("ACL SETUSER {user} {rights}"))
    } else if text.contains("SELECT is not allowed") {
        (
            "cluster",
            format!("set {settings}.cluster in place of host and db, or name a single server"),
        )
    } else if config.cluster.is_some() && (text.contains("ERR") || text.contains("cluster support")) {
        (
            "cluster",
            format!("set {settings}.host in place of cluster, or name servers of a Cluster"),
        )
    } else if text.contains("without any password") {
        (
            "login",
            format!("leave out {settings}.password and .password_file, or there: CONFIG SET requirepass PASSWORD"),
        )
    } else if text.contains("LOADING") || text.contains("MASTERDOWN") || text.contains("BUSY") {
        ("serving", "wait until it serves, then ask again".to_owned())
    } else {
        let fix = format!("see the server's log; if it wants TLS, set {settings}.tls.enabled to true");
        ("connection", fix)
    }
}
