//! `rime-gate status` and `rime-gate limit`: a running gate, asked over its admin address.

use std::io::{self, Write};
use std::time::Duration;

use http::Method;

use super::{DONE, LimitArguments, NO, StatusArguments};
use crate::admin::Status;
use crate::callers::ask;

/// Prints the gate's state.
pub(super) async fn show(arguments: &StatusArguments) -> io::Result<u8> {
    let answer = match ask(arguments.admin.admin_address, Method::GET, "/status", String::new()).await {
        Ok(answer) => answer,
        Err(why) => return no(&why),
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        out.write_all(&answer)?;
        return Ok(DONE);
    }
    match serde_json::from_slice(&answer) {
        Ok(status) => out.write_all(text(&status).as_bytes()).map(|()| DONE),
        Err(error) => no(&format!("the answer is no status: {error}")),
    }
}

/// Prints or changes the limit.
pub(super) async fn limit(arguments: &LimitArguments) -> io::Result<u8> {
    let address = arguments.admin.admin_address;
    let answer = match arguments.limit {
        Some(limit) => ask(address, Method::PUT, "/limit", limit.to_string()).await,
        None => ask(address, Method::GET, "/limit", String::new()).await,
    };
    let answer: serde_json::Value = match answer.as_deref().map(serde_json::from_slice) {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return no(&format!("the answer is no limit: {error}")),
        Err(why) => return no(why),
    };
    let mut out = io::stdout().lock();
    match answer.get("before") {
        Some(before) => writeln!(out, "limit {} (was {before})", answer["limit"])?,
        None => writeln!(out, "limit {}", answer["limit"])?,
    }
    Ok(DONE)
}

fn no(why: &str) -> io::Result<u8> {
    writeln!(io::stderr().lock(), "error: {why}").map(|()| NO)
}

/// The state in lines that can be read at 3 a.m.
fn text(status: &Status) -> String {
    let state = match (status.draining, status.engine.up) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready: the engine is down",
    };
    let configured = if status.limit == status.limit_configured {
        String::new()
    } else {
        format!(" (configured {})", status.limit_configured)
    };
    let utilization = status
        .engine
        .reported_utilization
        .map(|reported| format!(", reports {:.0} % busy", reported * 100.0));
    let figure =
        |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |value| format!("{value:.3}{unit}"));
    let window = &status.window;
    format!(
        "{state} (rime-gate {version}, up {uptime})\n\
         running  {running} of {limit}{configured}, oldest {oldest}\n\
         waiting  {waiting} of {queue_max}, for at most {wait}\n\
         callers  {connections} connections, {turned_away} turned away\n\
         engine   {name} {url}, {up}{utilization}\n\
         target   {target}\n\
         of late  TTFB p50 {ttfb_p50} p99 {ttfb_p99}, RTF p50 {rtf_p50} p99 {rtf_p99}\n",
        version = status.version,
        uptime = span(status.uptime_seconds.floor()),
        running = status.running,
        limit = status.limit,
        oldest = span(status.oldest_synthesis_age_seconds),
        waiting = status.waiting,
        queue_max = status.queue_max,
        wait = span(status.queue_wait_max_seconds),
        connections = status.connections,
        turned_away = status.connections_turned_away,
        name = status.engine.name,
        url = status.engine.url,
        up = if status.engine.up { "up" } else { "down" },
        utilization = utilization.unwrap_or_default(),
        target = status.target,
        ttfb_p50 = figure(window.ttfb_p50_seconds, " s"),
        ttfb_p99 = figure(window.ttfb_p99_seconds, " s"),
        rtf_p50 = figure(window.rtf_p50, ""),
        rtf_p99 = figure(window.rtf_p99, ""),
    )
}

fn span(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds)
        .map_or("-".to_owned(), |span| humantime::format_duration(span).to_string())
}
