//! The model cache (contract, sections 5 and 6): whole keys and values as callers give them.

mod service;
mod store;

pub use service::Service;
