//! What the layers know about a call, handed to its handler in the request's extensions.

use super::Method;
use crate::deadline::Deadline;

/// Who calls. Anonymous until callers are told apart by their certificates or tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
}

/// A call on its way.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The method called.
    pub method: &'static Method,
    /// By when the gateway answers: a margin before the caller's own deadline. None for a stream without one.
    pub deadline: Option<Deadline>,
    /// Who calls.
    pub caller: Caller,
}
