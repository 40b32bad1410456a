//! The only place that builds a gRPC status.
