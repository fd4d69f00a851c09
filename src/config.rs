//! Turns the text of `proxy.toml` and the operator's overrides into a [`Config`] that cannot be wrong, or into
//! every error at once, each with its place. Knows no file system, no environment and no clock.

mod sections;
mod values;

pub use sections::{
    Admin, Admission, Config, Engine, Forwarding, Limits, Listener, Log, Metrics, Runtime, TargetSection,
};
pub use values::{
    EngineUrl, ForwardedHeaders, FullStatus, LogFilter, LogFormat, QueueWaitMax, Surface, Threads, WhenFull,
};
