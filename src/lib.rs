//! The admission gate for Rime's on-prem speech engine.

pub mod audio;
pub mod meter;
pub mod refusal;
