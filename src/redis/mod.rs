//! Redis, by endpoint: the only place that names the client library.

mod error;

pub use error::{Error, Reply};
