//! Reads every section of a [`Config`] from the document and the overrides: which key is read as what.

use std::time::Duration;

use super::bounds::{
    BODY_BYTES_MAX, CONNECTIONS_MAX, CONTEXTS_MAX, HEAD_BYTES_MAX, HEAD_BYTES_MIN, HEADERS_MAX,
    HELD_BYTES_MAX, MESSAGE_BYTES_MAX, POOL_IDLE_MAX, QUEUE_MAX,
};
use super::parse::{self, POSITIVE, address, boolean, choice, duration, list_of, name, path, whole};
use super::read::Section;
use super::sections::{
    Admin, Admission, Config, Engine, Forwarding, Limits, Listener, Log, Metrics, Runtime, TargetSection,
    Tuned, WebSocket,
};
use super::values::{ForwardedHeaders, LogFormat, Surface, WhenFull};

pub(super) fn config(document: &mut Section<'_, '_>, one_listener: bool) -> Config {
    let listeners = document.tables("listener", one_listener, listener);
    let engines = document.tables("engine", false, engine);
    Config {
        runtime: document.table("runtime", runtime),
        listeners,
        // `tables` gives one at least; more than one is a problem that `rules` reports.
        engine: engines.into_iter().next().unwrap_or_default(),
        admission: document.table("admission", admission),
        limits: document.table("limits", limits),
        websocket: document.table("websocket", websocket),
        forwarding: document.table("forwarding", forwarding),
        target: document.table("target", target),
        metrics: document.table("metrics", metrics),
        admin: document.table("admin", admin),
        log: document.table("log", log),
    }
}

fn runtime(table: &mut Section<'_, '_>) -> Runtime {
    let default = Runtime::default();
    Runtime { threads: table.get("threads", default.threads, parse::threads) }
}

fn listener(table: &mut Section<'_, '_>) -> Listener {
    let default = Listener::default();
    Listener {
        address: table.get("address", default.address, address),
        surface: table.get("surface", default.surface, choice(Surface::CHOICES)),
        synthesis_paths: table.get("synthesis_paths", default.synthesis_paths, list_of(1, path)),
    }
}

fn engine(table: &mut Section<'_, '_>) -> Engine {
    let default = Engine::default();
    let positive = duration(POSITIVE);
    Engine {
        name: table.get("name", default.name, name),
        http: table.get("http", default.http, parse::engine_url),
        grpc: table.get("grpc", default.grpc, parse::engine_url),
        ws_json: table.get("ws_json", default.ws_json, parse::engine_url),
        ws_binary: table.get("ws_binary", default.ws_binary, parse::engine_url),
        concurrency_max: table.get("concurrency_max", default.concurrency_max, parse::concurrency_max),
        connect_timeout: table.get("connect_timeout", default.connect_timeout, &positive),
        first_byte_timeout: table.get("first_byte_timeout", default.first_byte_timeout, &positive),
        stall_timeout: table.get("stall_timeout", default.stall_timeout, &positive),
        pool_idle_timeout: table.get("pool_idle_timeout", default.pool_idle_timeout, &positive),
        pool_idle_max: table.get("pool_idle_max", default.pool_idle_max, whole(0..=POOL_IDLE_MAX)),
        health_path: table.get("health_path", default.health_path, path),
        health_interval: table.get("health_interval", default.health_interval, &positive),
        health_timeout: table.get("health_timeout", default.health_timeout, &positive),
        cancel_linger: table.get("cancel_linger", default.cancel_linger, duration(Duration::ZERO)),
        tuned: table.table("tuned", tuned),
    }
}

fn tuned(table: &mut Section<'_, '_>) -> Tuned {
    Tuned {
        level: table.find_value("level", parse::concurrency_max),
        target: table.find_value("target", parse::target),
        model: table.find_value("model", name),
        image: table.find_value("image", name),
        gpu: table.find_value("gpu", name),
        variables: table.find_value("variables", list_of(0, name)).unwrap_or_default(),
        ttfb: table.find_value("ttfb", duration(Duration::ZERO)),
        rtf: table.find_value("rtf", parse::factor(0.0..=1000.0)),
        samples: table.find_value("samples", whole(0..=u64::from(u32::MAX))),
        confidence: table.find_value("confidence", parse::factor(0.0..=1.0)),
        date: table.find_value("date", name),
        tool_version: table.find_value("tool_version", name),
    }
}

fn admission(table: &mut Section<'_, '_>) -> Admission {
    let default = Admission::default();
    Admission {
        when_full: table.get("when_full", default.when_full, choice(WhenFull::CHOICES)),
        queue_max: table.get("queue_max", default.queue_max, whole(0..=QUEUE_MAX)),
        queue_wait_max: table.get("queue_wait_max", default.queue_wait_max, parse::queue_wait_max),
        status_when_full: table.get("status_when_full", default.status_when_full, parse::full_status),
    }
}

fn limits(table: &mut Section<'_, '_>) -> Limits {
    let default = Limits::default();
    let positive = duration(POSITIVE);
    let head_bytes = whole(HEAD_BYTES_MIN..=HEAD_BYTES_MAX);
    Limits {
        connections_max: table.get("connections_max", default.connections_max, whole(1..=CONNECTIONS_MAX)),
        head_bytes_max: table.get("head_bytes_max", default.head_bytes_max, head_bytes),
        headers_max: table.get("headers_max", default.headers_max, whole(1..=HEADERS_MAX)),
        header_timeout: table.get("header_timeout", default.header_timeout, &positive),
        body_bytes_max: table.get("body_bytes_max", default.body_bytes_max, whole(1..=BODY_BYTES_MAX)),
        body_timeout: table.get("body_timeout", default.body_timeout, &positive),
        idle_timeout: table.get("idle_timeout", default.idle_timeout, &positive),
        caller_stall_timeout: table.get("caller_stall_timeout", default.caller_stall_timeout, &positive),
        drain_timeout: table.get("drain_timeout", default.drain_timeout, &positive),
    }
}

fn websocket(table: &mut Section<'_, '_>) -> WebSocket {
    let default = WebSocket::default();
    let positive = duration(POSITIVE);
    WebSocket {
        sockets_max: table.get("sockets_max", default.sockets_max, whole(1..=CONNECTIONS_MAX)),
        message_bytes_max: table.get(
            "message_bytes_max",
            default.message_bytes_max,
            whole(1..=MESSAGE_BYTES_MAX),
        ),
        contexts_max: table.get("contexts_max", default.contexts_max, whole(1..=CONTEXTS_MAX)),
        held_bytes_max: table.get("held_bytes_max", default.held_bytes_max, whole(1..=HELD_BYTES_MAX)),
        ping_interval: table.get("ping_interval", default.ping_interval, &positive),
        pong_timeout: table.get("pong_timeout", default.pong_timeout, &positive),
        clear_release: table.get("clear_release", default.clear_release, duration(Duration::ZERO)),
        binary_quiet: table.get("binary_quiet", default.binary_quiet, &positive),
    }
}

fn forwarding(table: &mut Section<'_, '_>) -> Forwarding {
    let default = Forwarding::default();
    let headers = choice(ForwardedHeaders::CHOICES);
    Forwarding {
        forwarded_headers: table.get("forwarded_headers", default.forwarded_headers, headers),
        trust_incoming: table.get("trust_incoming", default.trust_incoming, boolean),
        via: table.get("via", default.via, parse::via),
        request_id_header: table.get(
            "request_id_header",
            default.request_id_header,
            parse::request_id_header,
        ),
    }
}

fn target(table: &mut Section<'_, '_>) -> TargetSection {
    let default = TargetSection::default();
    TargetSection {
        slo: table.get("slo", default.slo, parse::target),
        client_buffer: table.get("client_buffer", default.client_buffer, duration(Duration::ZERO)),
    }
}

fn metrics(table: &mut Section<'_, '_>) -> Metrics {
    let default = Metrics::default();
    Metrics {
        address: table.get("address", default.address, address),
        models: table.get("models", default.models, list_of(0, name)),
    }
}

fn admin(table: &mut Section<'_, '_>) -> Admin {
    let default = Admin::default();
    Admin { address: table.get("address", default.address, address) }
}

fn log(table: &mut Section<'_, '_>) -> Log {
    let default = Log::default();
    Log {
        level: table.get("level", default.level, parse::log_filter),
        format: table.get("format", default.format, choice(LogFormat::CHOICES)),
    }
}
