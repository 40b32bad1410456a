//! What health means in commands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::deadline::Deadline;
use crate::redis::{Endpoint, Error, Existing, command};

/// The contract's limit for each step.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The key that the reference's check leaves, without a TTL, on the build logs endpoint.
pub(super) const HEALTH_KEY: &str = "_health";

fn health_key() -> Bytes {
    Bytes::from_static(HEALTH_KEY.as_bytes())
}

/// `PING`, `SET _health <time>`, `GET _health` on a fresh connection, as the reference checks its build logs. The time is
/// written as Python writes it: seconds since 1970 as a float.
pub(super) async fn check_write(endpoint: &Endpoint) -> Result<(), Error> {
    let limit = Deadline::within(TIMEOUT);
    // Making it has heard the PONG.
    let connection = tokio::time::timeout_at(limit.instant(), endpoint.fresh())
        .await
        .unwrap_or(Err(Error::Timeout))?;
    // The clock cannot be before 1970 on a machine that checks certificates; if it is, the check still holds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // In whole microseconds, as Python's clock has it.
    let micros = Duration::new(now.as_secs(), now.subsec_micros() * 1_000);
    let time = Bytes::from(format!("{:?}", micros.as_secs_f64()));
    connection
        .run(
            command::set(health_key(), time, Existing::Replace, None),
            Deadline::within(TIMEOUT),
        )
        .await?;
    // Another check may have written in between: that it can be read is what counts.
    connection
        .run(command::get(health_key()), Deadline::within(TIMEOUT))
        .await?;
    Ok(())
}
