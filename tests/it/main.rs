//! The one integration binary: the gateway on real Redis, through its RPCs and below them.

mod build_logs;
mod cache;
mod cli;
mod commands;
mod connections;
mod content_tracker;
mod embedded;
mod harness;
mod invariants;
mod locks;
mod orchestrator;
mod pull_metrics;
mod redis_faults;
mod releases;
mod replay;
mod rpc_faults;
mod soak;
mod status;
mod user_events;
