//! The one integration binary.

mod invariants;
