//! The admission gate for Rime's on-prem speech engine.

pub mod audio;
pub mod check;
pub mod config;
pub mod engine;
pub mod listener;
pub mod meter;
pub mod protocol;
pub mod refusal;
pub mod sim;
pub mod target;
