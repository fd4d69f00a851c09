//! The admission gate for Rime's on-prem speech engine.

pub mod check;
pub mod config;
pub mod refusal;
pub mod target;
