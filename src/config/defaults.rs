//! What holds for a key of which nothing is said.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;
use http::uri::Authority;

use super::sections::{
    Admin, Admission, Config, Engine, Forwarding, Limits, Listener, Log, Metrics, Runtime, TargetSection,
    Tuned, WebSocket,
};
use super::values::{EngineUrl, ForwardedHeaders, FullStatus, QueueWaitMax, Surface, Threads, WhenFull};

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: Runtime::default(),
            listeners: vec![Listener::default()],
            engine: Engine::default(),
            admission: Admission::default(),
            limits: Limits::default(),
            websocket: WebSocket::default(),
            forwarding: Forwarding::default(),
            target: TargetSection::default(),
            metrics: Metrics::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self { threads: Threads::Auto }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8800)),
            surface: Surface::Http,
            synthesis_paths: ["/", "/invocations", "/v1/rime-tts"].map(String::from).to_vec(),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            name: "engine".to_owned(),
            http: EngineUrl::of(Authority::from_static("127.0.0.1:8080")),
            grpc: EngineUrl::of(Authority::from_static("127.0.0.1:7463")),
            ws_json: EngineUrl::of(Authority::from_static("127.0.0.1:8003")),
            ws_binary: EngineUrl::of(Authority::from_static("127.0.0.1:8002")),
            concurrency_max: const { NonZeroU32::new(32).unwrap() },
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(30),
            pool_idle_max: 64,
            health_path: "/readyz".to_owned(),
            health_interval: Duration::from_secs(2),
            health_timeout: Duration::from_secs(1),
            cancel_linger: Duration::from_millis(100),
            tuned: Tuned::default(),
        }
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            when_full: WhenFull::Queue,
            queue_max: 64,
            queue_wait_max: QueueWaitMax::Auto,
            status_when_full: FullStatus::TooManyRequests,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            head_bytes_max: 65_536,
            headers_max: 100,
            header_timeout: Duration::from_secs(10),
            body_bytes_max: 1_048_576,
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(330),
            caller_stall_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            sockets_max: 16_384,
            message_bytes_max: 1_048_576,
            contexts_max: 64,
            held_bytes_max: 65_536,
            ping_interval: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(10),
            clear_release: Duration::from_millis(500),
            binary_quiet: Duration::from_secs(2),
        }
    }
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            forwarded_headers: ForwardedHeaders::XForwarded,
            trust_incoming: false,
            via: Some("rime-gate".to_owned()),
            request_id_header: HeaderName::from_static("x-request-id"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9464)),
            models: ["arcana", "coda", "mist", "mistv2", "mistv3"].map(String::from).to_vec(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)) }
    }
}
