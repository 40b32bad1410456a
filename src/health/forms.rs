//! What the key of the health check should look like.

use super::store::HEALTH_KEY;
use crate::config::EndpointName;
use crate::forms::{Form, Kind, Life, Reads, fine};

/// The kinds of keys.
pub const FORMS: &[Form] = &[Form {
    name: HEALTH_KEY,
    home: EndpointName::BuildLogs,
    is: |key| key == HEALTH_KEY.as_bytes(),
    kind: Kind::String,
    life: Life::Endless,
    reads: Reads::Nothing,
    beside: None,
    check: fine,
}];
