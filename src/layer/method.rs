//! The methods of the API, as their options in the proto describe them, and what else is served beside them.

/// One RPC method. The table is made from `proto/` at build time.
#[derive(Debug)]
pub struct Method {
    /// The HTTP/2 path, `/redisgateway.v1.Cache/Get`.
    pub path: &'static str,
    /// The service's short name, `Cache`.
    pub service: &'static str,
    /// The method's short name, `Get`.
    pub name: &'static str,
    /// The pattern it belongs to, `cache`: the name of its proto file.
    pub pattern: &'static str,
    /// Whether a caller may repeat it after any failure: `idempotency_level` in the proto says so.
    pub retry_safe: bool,
    /// Whether either side streams.
    pub streaming: bool,
    /// Whether its callers stream.
    pub client_streaming: bool,
}

impl Method {
    /// Whether it is one of [`METHODS`], and not served for operators and tools.
    pub fn is_api(&self) -> bool {
        self.path.starts_with("/redisgateway.")
    }
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Health and reflection, which other crates serve.
pub(super) static OTHERS: &[Method] = &[
    health("/grpc.health.v1.Health/Check", "Check", false),
    health("/grpc.health.v1.Health/List", "List", false),
    health("/grpc.health.v1.Health/Watch", "Watch", true),
    reflection("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    reflection("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
];

/// Whatever else is called: names that callers make up must not become labels.
pub(super) static UNKNOWN: Method = Method {
    path: "/unknown/unknown",
    service: "unknown",
    name: "unknown",
    pattern: "unknown",
    retry_safe: true,
    streaming: false,
    client_streaming: false,
};

const fn health(path: &'static str, name: &'static str, streaming: bool) -> Method {
    Method {
        path,
        service: "grpc.health.v1",
        name,
        pattern: "health",
        retry_safe: true,
        streaming,
        client_streaming: false,
    }
}

const fn reflection(path: &'static str) -> Method {
    Method {
        path,
        service: "grpc.reflection",
        name: "ServerReflectionInfo",
        pattern: "reflection",
        retry_safe: true,
        streaming: true,
        // Others serve it: it ends like a stream of answers.
        client_streaming: false,
    }
}
