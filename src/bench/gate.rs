//! What a gate counts while callers come through it: their wait and its refusals. Reads its admin address; decides
//! nothing about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Method;
use serde_json::Value;

use super::report::GateReport;
use crate::callers::ask;

/// The gate's counters at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    limit: u32,
    wait_seconds: f64,
    admitted: f64,
    /// How many waited for at most so long, in the order of the edges.
    buckets: Vec<(f64, f64)>,
    refusals: BTreeMap<String, f64>,
}

impl Counters {
    /// Reads them.
    ///
    /// # Errors
    /// One line that says why not.
    ///
    /// # Cancel safety
    /// Dropping it hangs up.
    pub async fn read(admin: SocketAddr) -> Result<Self, String> {
        let limit = status(admin).await?["limit"].as_u64().and_then(|limit| u32::try_from(limit).ok());
        let metrics = ask(admin, Method::GET, "/metrics", String::new()).await?;
        Ok(Self { limit: limit.unwrap_or_default(), ..Self::parse(&String::from_utf8_lossy(&metrics)) })
    }

    fn parse(metrics: &str) -> Self {
        let mut counters = Self::default();
        for line in metrics.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let admitted = name.contains("outcome=\"admitted\"");
            if name.starts_with("rime_gate_queue_wait_seconds_sum") && admitted {
                counters.wait_seconds = value;
            } else if name.starts_with("rime_gate_queue_wait_seconds_count") && admitted {
                counters.admitted = value;
            } else if name.starts_with("rime_gate_queue_wait_seconds_bucket") && admitted {
                let edge = label(name, "le").and_then(|edge| edge.parse().ok());
                counters.buckets.extend(edge.map(|edge: f64| (edge, value)));
            } else if name.starts_with("rime_gate_refusals_total")
                && let Some(reason) = label(name, "reason")
            {
                *counters.refusals.entry(reason.to_owned()).or_default() += value;
            }
        }
        counters
    }

    /// What has come to them since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> GateReport {
        let admitted = self.admitted - before.admitted;
        let wait = self.wait_seconds - before.wait_seconds;
        let grown =
            self.buckets.iter().zip(&before.buckets).map(|((edge, now), (_, then))| (*edge, now - then));
        let p99 = grown.filter(|(edge, _)| edge.is_finite()).find(|(_, count)| *count >= 0.99 * admitted);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
        let whole = |count: f64| count.max(0.0) as u64;
        let refusals = self.refusals.iter().map(|(reason, now)| {
            (reason.clone(), whole(now - before.refusals.get(reason).copied().unwrap_or_default()))
        });
        GateReport {
            limit: self.limit,
            admitted: whole(admitted),
            queue_wait_mean_seconds: (admitted > 0.0).then(|| wait / admitted),
            queue_wait_p99_at_most_seconds: p99.filter(|_| admitted > 0.0).map(|(edge, _)| edge),
            refusals: refusals.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// How many run in the gate, and how many wait.
///
/// # Errors
/// One line that says why that is not known.
///
/// # Cancel safety
/// Dropping it hangs up.
pub async fn load(admin: SocketAddr) -> Result<(u64, u64), String> {
    let status = status(admin).await?;
    let count = |name: &str| status[name].as_u64().unwrap_or_default();
    Ok((count("running"), count("waiting")))
}

async fn status(admin: SocketAddr) -> Result<Value, String> {
    let status = ask(admin, Method::GET, "/status", String::new()).await?;
    serde_json::from_slice(&status).map_err(|error| error.to_string())
}

/// The value of a label in `name{label="value",…}`.
fn label<'a>(name: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = name.split_once(&format!("{label}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(sum: f64, short: u64, all: u64, refused: u64) -> Counters {
        Counters::parse(&format!(
            "# HELP rime_gate_queue_wait_seconds Wait\n\
             rime_gate_queue_wait_seconds_bucket{{outcome=\"admitted\",le=\"0.1\"}} {short}\n\
             rime_gate_queue_wait_seconds_bucket{{outcome=\"admitted\",le=\"0.5\"}} {all}\n\
             rime_gate_queue_wait_seconds_bucket{{outcome=\"admitted\",le=\"+Inf\"}} {all}\n\
             rime_gate_queue_wait_seconds_bucket{{outcome=\"refused\",le=\"+Inf\"}} 900\n\
             rime_gate_queue_wait_seconds_sum{{outcome=\"admitted\"}} {sum}\n\
             rime_gate_queue_wait_seconds_count{{outcome=\"admitted\"}} {all}\n\
             rime_gate_refusals_total{{protocol=\"http\",reason=\"deadline\"}} {refused}\n\
             rime_gate_refusals_total{{protocol=\"grpc\",reason=\"deadline\"}} 2\n"
        ))
    }

    #[test]
    fn only_what_came_during_the_run_is_told() {
        let report = metrics(30.0, 150, 200, 7).since(&metrics(10.0, 100, 100, 4));
        let expected = GateReport {
            limit: 0,
            admitted: 100,
            queue_wait_mean_seconds: Some(0.2),
            queue_wait_p99_at_most_seconds: Some(0.5),
            refusals: BTreeMap::from([("deadline".to_owned(), 3)]),
        };
        assert_eq!(report, expected);
        let still = metrics(1.0, 1, 1, 1);
        assert_eq!(still.since(&still), GateReport::default());
    }
}
