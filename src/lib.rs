//! The admission gate for Rime's on-prem speech engine.

pub mod refusal;
pub mod sim;
