//! A gate's configuration for a test: all of its addresses on loopback, at ports that the system chooses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use rime_gate::config::{Config, EngineUrl};

/// In front of `engine`.
pub(crate) fn config(engine: SocketAddr) -> Config {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.listeners[0].address = anywhere;
    config.admin.address = anywhere;
    config.metrics.address = anywhere;
    config.engine.http = EngineUrl::parse(&format!("http://{engine}")).unwrap();
    config
}
