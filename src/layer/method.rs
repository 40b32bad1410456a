//! The methods of the API, as their options in the proto describe them.

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
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));
