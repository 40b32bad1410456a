//! Checks of what callers name: parts of keys, and how many of them.

use tonic::Status;

use crate::status;

/// Checks a key or a part of one: not empty, no NUL, at most `max` bytes. `field` is its name in the proto.
pub fn check(field: &str, key: &str, max: usize) -> Result<(), Status> {
    if key.is_empty() {
        return Err(status::invalid(field, "must not be empty"));
    }
    if key.len() > max {
        return Err(status::invalid(
            field,
            format!("must have at most {max} bytes, has {}", key.len()),
        ));
    }
    // Redis takes it, much of what else meets a key does not.
    if key.as_bytes().contains(&0) {
        return Err(status::invalid(field, "must not contain a NUL"));
    }
    Ok(())
}

/// Checks how many items a call carries: from 1 to `max`.
pub fn check_count(field: &str, count: usize, max: usize) -> Result<(), Status> {
    match count {
        0 => Err(status::invalid(field, "must not be empty")),
        _ if count > max => Err(status::invalid(
            field,
            format!("must have at most {max} items, has {count}"),
        )),
        _ => Ok(()),
    }
}
