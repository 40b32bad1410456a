//! redis-gateway: one gRPC service in front of every Redis pattern of a container registry.
//!
//! The modules in reading order: what a call is, what runs around it, what the patterns mean, what reaches Redis.

// A call's futures are nested from the RPC to the reply of Redis; laying them out takes more steps than the default of 128.
#![recursion_limit = "256"]

/// The generated types of package `redisgateway.v1`.
pub mod proto {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("redisgateway.v1");

    /// The compiled descriptors of all files in `proto/`, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

pub mod admin;
pub mod build_logs;
pub mod cache;
pub mod commands;
pub mod config;
pub mod connections;
pub mod content_tracker;
pub mod deadline;
pub mod embedded;
pub mod forms;
pub mod gateway;
pub mod health;
pub mod json;
pub mod key;
pub mod layer;
pub mod locks;
pub mod needs;
pub mod orchestrator;
pub mod pull_metrics;
pub mod redis;
pub mod status;
pub mod telemetry;
pub mod user_events;
