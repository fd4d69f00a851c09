//! `rime-gate status` and `rime-gate limit`: a running gate, asked over its admin address.

use std::io::{self, Write};
use std::time::Duration;

use http::Method;

use super::{DONE, LimitArguments, NO, StatusArguments};
use crate::admin::{InFlightStatus, StandingStatus, Status};
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
         {in_flight}\
         target   {target}\n\
         of late  TTFB p50 {ttfb_p50} p99 {ttfb_p99}, RTF p50 {rtf_p50} p99 {rtf_p99}\n\
         {verdict}",
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
        in_flight = in_flight(&status.in_flight, status.observing, &status.standings),
        verdict = verdict(status),
        target = status.target,
        ttfb_p50 = figure(window.ttfb_p50_seconds, " s"),
        ttfb_p99 = figure(window.ttfb_p99_seconds, " s"),
        rtf_p50 = figure(window.rtf_p50, ""),
        rtf_p99 = figure(window.rtf_p99, ""),
    )
}

/// What was in flight of late; where the gate observes, what that comes to as a limit, and where it comes to none.
fn in_flight(windows: &[InFlightStatus], observing: bool, standings: &[StandingStatus]) -> String {
    let mut lines = String::new();
    let mut warnings = String::new();
    for (index, window) in windows.iter().enumerate() {
        let InFlightStatus { window_seconds, peak, p99, mean, .. } = window;
        let last = span(*window_seconds as f64);
        let head = if index == 0 { "load     " } else { "         " };
        lines += &format!("{head}last {last}: peak {peak}, p99 of the time {p99}, mean {mean:.1} in flight");
        if observing && *peak > 0 {
            lines += &format!(": concurrency_max = {p99}");
        }
        lines.push('\n');
        let missed =
            standings.iter().filter(|of| of.window_seconds == *window_seconds && of.verdict == "missed");
        let missed: Vec<_> = missed.map(|of| of.clause.as_str()).collect();
        if !missed.is_empty() {
            let clauses = missed.join(", ");
            warnings +=
                &format!("         the last {last} missed the target ({clauses}): its load is no limit\n");
        }
    }
    if observing {
        lines += "         observing: everybody is let in, whatever the limit\n";
        lines += &warnings;
    }
    lines
}

/// What production says of the limit, and the clauses that it does not keep.
fn verdict(status: &Status) -> String {
    if status.proof.is_empty() {
        return String::new();
    }
    let mut lines = format!("limit    {}\nadvice   {}\n", status.proof, status.advice);
    for one in status.standings.iter().filter(|one| matches!(one.verdict.as_str(), "missed" | "unsure")) {
        let StandingStatus { clause, window_seconds, verdict, events, bad, burn_rate } = one;
        let last = span(*window_seconds as f64);
        let burns = burn_rate.map_or(String::new(), |rate| format!(", {rate:.1} times what it allows"));
        lines += &format!("         {clause}, last {last}: {verdict}, {bad} of {events} bad{burns}\n");
    }
    lines
}

fn span(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds)
        .map_or("-".to_owned(), |span| humantime::format_duration(span).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_is_no_limit_where_the_target_was_missed() {
        let load = |window_seconds, p99| InFlightStatus {
            window_seconds,
            peak: 40,
            p50: 20,
            p90: 30,
            p99,
            mean: 21.04,
            busy_seconds: 50.0,
        };
        let standing = |clause: &str, window_seconds, verdict: &str| StandingStatus {
            clause: clause.to_owned(),
            window_seconds,
            verdict: verdict.to_owned(),
            events: 100,
            bad: 2,
            burn_rate: Some(2.0),
        };
        let standings =
            [standing("ttfb", 60, "missed"), standing("rtf", 60, "missed"), standing("rtf", 300, "met")];
        let windows = [load(60, 38), load(300, 35)];
        assert_eq!(
            in_flight(&windows, true, &standings),
            "load     last 1m: peak 40, p99 of the time 38, mean 21.0 in flight: concurrency_max = 38\n         \
             last 5m: peak 40, p99 of the time 35, mean 21.0 in flight: concurrency_max = 35\n         \
             observing: everybody is let in, whatever the limit\n         \
             the last 1m missed the target (ttfb, rtf): its load is no limit\n"
        );
        let enforced = in_flight(&windows, false, &standings);
        assert!(!enforced.contains("concurrency_max") && !enforced.contains("missed"), "{enforced}");
    }
}
