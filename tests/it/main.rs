//! The gateway on real Redis, through its RPCs and below them.

mod harness;
mod redis_faults;
//! The one integration binary.

mod invariants;
