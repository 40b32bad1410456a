//! The forms of what is somewhere: files, sockets, hosts, servers.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{
    Listen, Server,
    form::{Form, Text, Whole},
};

/// The longest path that a Unix socket can have, in bytes.
pub(super) const SOCKET_PATH_MAX: usize = 107;

/// A path to something that need not be there yet.
pub(super) struct AnyPath;

impl Form for AnyPath {
    type Value = PathBuf;

    fn name(&self) -> &'static str {
        "PATH"
    }

    fn want(&self) -> String {
        "path".into()
    }

    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        Text.parse(text).map(PathBuf::from)
    }
}

/// A path to a Unix socket, which need not be there yet.
pub(super) struct Socket;

impl Form for Socket {
    type Value = PathBuf;

    fn name(&self) -> &'static str {
        "PATH"
    }

    fn want(&self) -> String {
        format!("path of at most {SOCKET_PATH_MAX} bytes")
    }

    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        if text.len() > SOCKET_PATH_MAX {
            return Err(format!(
                "{} bytes are too long for a socket's path: at most {SOCKET_PATH_MAX}",
                text.len()
            ));
        }
        AnyPath.parse(text)
    }
}

/// The mode of a file that its owner can read and write.
pub(super) struct FileMode;

impl Form for FileMode {
    type Value = u32;

    fn name(&self) -> &'static str {
        "MODE"
    }

    fn want(&self) -> String {
        "0600 to 0777, octal".into()
    }

    fn parse(&self, text: &str) -> Result<u32, String> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| octal && (0o600..=0o777).contains(mode))
            .ok_or_else(|| format!("{text:?} is no mode of a socket: {}, such as 0660", self.want()))
    }
}

/// A path to a file that can be read now.
pub(super) struct ReadableFile;

impl Form for ReadableFile {
    type Value = PathBuf;

    fn name(&self) -> &'static str {
        "FILE"
    }

    fn want(&self) -> String {
        "readable file".into()
    }

    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        let path = AnyPath.parse(text)?;
        match fs::File::open(&path).and_then(|file| file.metadata()) {
            Err(e) => Err(format!("{text:?} cannot be read: {e}")),
            Ok(meta) if meta.is_dir() => Err(format!("{text:?} is a folder: name a file")),
            Ok(_) => Ok(path),
        }
    }
}

/// A host's name or address, without a port.
pub(super) struct Host;

impl Form for Host {
    type Value = String;

    fn name(&self) -> &'static str {
        "HOST"
    }

    fn want(&self) -> String {
        "host name or address".into()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(name)) {
            return Ok(text.to_owned());
        }
        let advice = if text.contains("://") {
            "write the name alone, without a scheme"
        } else if text.contains(':') {
            "write the name alone, the port goes into `port`"
        } else {
            "write a name such as redis.example or an address"
        };
        Err(format!("{text:?} is no host: {advice}"))
    }
}

/// A Redis server: `host`, `host:port`, `[address]:port` or `unix:/path`.
pub(super) struct ServerAddress;

/// As it is written in the configuration, with its port.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Server::Tcp { host, port } => write!(f, "{host}:{port}"),
            Server::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Form for ServerAddress {
    type Value = Server;

    fn name(&self) -> &'static str {
        "HOST:PORT"
    }

    fn want(&self) -> String {
        "host:port or unix:/path, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Server, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Socket.parse(path).map(Server::Unix);
        }
        let wrong = || format!("{text:?} is no server: write host:port, [address]:port or unix:/path");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
            None if text.parse::<IpAddr>().is_ok() => (text, "6379"),
            None => text.split_once(':').unwrap_or((text, "6379")),
        };
        Ok(Server::Tcp {
            host: Host.parse(host).map_err(|_| wrong())?,
            port: Whole(1..=u16::MAX).parse(port).map_err(|_| wrong())?,
        })
    }
}

/// A server of a Cluster: `host`, `host:port` or `[address]:port`.
pub(super) struct NodeAddress;

impl Form for NodeAddress {
    type Value = Server;

    fn name(&self) -> &'static str {
        "HOST:PORT"
    }

    fn want(&self) -> String {
        "host:port, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Server, String> {
        let wrong = || format!("{text:?} is no server of a Cluster: write host:port or [address]:port");
        match ServerAddress.parse(text) {
            Ok(server @ Server::Tcp { .. }) => Ok(server),
            Ok(Server::Unix(_)) | Err(_) => Err(wrong()),
        }
    }
}

/// An address and port to listen on.
pub(super) struct TcpAddress;

impl Form for TcpAddress {
    type Value = SocketAddr;

    fn name(&self) -> &'static str {
        "ADDRESS:PORT"
    }

    fn want(&self) -> String {
        "address:port".into()
    }

    fn parse(&self, text: &str) -> Result<SocketAddr, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is no address to listen on: write one such as 127.0.0.1:9102 or [::]:9102"))
    }
}

/// An address and port, or a Unix socket, to listen on.
pub(super) struct ListenAddress;

impl Form for ListenAddress {
    type Value = Listen;

    fn name(&self) -> &'static str {
        "ADDRESS"
    }

    fn want(&self) -> String {
        "address:port or unix:/path".into()
    }

    fn parse(&self, text: &str) -> Result<Listen, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Socket.parse(path).map(Listen::Unix);
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            format!("{text:?} is no address to listen on: write one such as 127.0.0.1:50051, [::]:50051 or unix:/path")
        })
    }
}

impl Listen {
    /// Where it is called from the same machine: an address that means all of them is none to call.
    pub fn called(&self) -> String {
        match self {
            Listen::Tcp(at) => {
                let ip = match at.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                SocketAddr::new(ip, at.port()).to_string()
            }
            Listen::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// The URL of a service, without a password in it, since it is logged.
pub(super) struct Url;

impl Form for Url {
    type Value = String;

    fn name(&self) -> &'static str {
        "URL"
    }

    fn want(&self) -> String {
        "http://host:port or https://host:port".into()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        if text.contains('@') {
            return Err("holds a user or a password: write http://host:port alone".into());
        }
        match text.parse::<http::Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(text.to_owned()),
            _ => Err(format!("{text:?} is no URL: write one such as http://localhost:4317")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_means_all_is_called_by_the_machines_own() {
        for (listen, called) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.0:1", "10.0.0.0:1"),
            ("unix:/run/gateway.sock", "unix:/run/gateway.sock"),
        ] {
            assert_eq!(ListenAddress.parse(listen).unwrap().called(), called);
        }
    }
}
