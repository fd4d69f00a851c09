//! The admission gate for Rime's on-prem speech engine.

pub mod protocol;
pub mod refusal;
