//! The admission gate for Rime's on-prem speech engine.

pub mod admin;
pub mod admission;
pub mod audio;
pub mod callers;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod engine;
pub mod gate;
pub mod listener;
pub mod meter;
pub mod metrics;
pub mod protocol;
pub mod refusal;
pub mod relay;
pub mod sim;
pub mod slo;
pub mod stream;
pub mod target;
