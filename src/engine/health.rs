//! Whether the engine is up, by asking it from time to time and by connections that fail; and how busy it says it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{EngineClient, EngineError, Outbound, SendBody, orca};
use crate::config;
use crate::protocol::headers::Settled;

/// What is read of a health answer's body.
const PROBE_BODY_BYTES_MAX: usize = 65_536;

/// How long a report of the engine's load stands for the present.
const REPORT_AGE_MAX_MILLISECONDS: u64 = 10_000;

/// The engine's state, as last seen. Shared by every worker.
#[derive(Debug)]
pub struct Health {
    up: AtomicBool,
    /// Bits of the utilization; NaN until the engine reports one.
    utilization: AtomicU64,
    /// Milliseconds from `origin` to that report.
    utilization_at: AtomicU64,
    origin: Instant,
}

impl Default for Health {
    /// Down until seen.
    fn default() -> Self {
        Self {
            up: AtomicBool::new(false),
            utilization: AtomicU64::new(f64::NAN.to_bits()),
            utilization_at: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }
}

impl Health {
    /// Whether the engine would serve a synthesis.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// What the engine reported of its own load (ORCA), 1.0 being full. It comes with answers: where none came of late,
    /// nothing is known.
    #[must_use]
    pub fn reported_utilization(&self) -> Option<f64> {
        let age = self.milliseconds().saturating_sub(self.utilization_at.load(Relaxed));
        let utilization = f64::from_bits(self.utilization.load(Relaxed));
        (age <= REPORT_AGE_MAX_MILLISECONDS && !utilization.is_nan()).then_some(utilization)
    }

    /// What an attempt to send a request tells of the engine.
    pub(super) fn learn<B>(&self, result: Result<&Response<B>, &EngineError>) {
        match result {
            Ok(response) => self.answered(response.headers()),
            Err(EngineError::Connect(_) | EngineError::ConnectTimeout) => self.set(false),
            Err(_) => {}
        }
    }

    fn answered(&self, headers: &HeaderMap) {
        if let Some(utilization) = orca::utilization(headers) {
            self.utilization.store(utilization.to_bits(), Relaxed);
            self.utilization_at.store(self.milliseconds(), Relaxed);
        }
    }

    fn milliseconds(&self) -> u64 {
        self.origin.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    fn set(&self, up: bool) {
        if self.up.load(Relaxed) == up || self.up.swap(up, Relaxed) == up {
            return;
        }
        if up {
            info!("the engine is up");
        } else {
            warn!("the engine is down");
        }
    }

    /// Asks the engine for its health every `health_interval`, for ever: any answer below 500 means up.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the asking; the last state stays.
    pub async fn watch(self: Arc<Self>, settings: config::Engine) {
        // A client of its own: a probe must not take a connection from a synthesis.
        let client = EngineClient::new(&settings.http, &settings, Arc::clone(&self));
        let mut ticks = interval(settings.health_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = false;
        loop {
            ticks.tick().await;
            client.close_idle();
            let request = Request::get(settings.health_path.as_str())
                .header(header::HOST, settings.http.authority().as_str())
                .body(SendBody::Whole(None));
            let Ok(request) = request else { return };
            let (head, body) = request.into_parts();
            let request = client.outbound(&head, None, &Settled::default(), body);
            let status = timeout(settings.health_timeout, ask(&client, request)).await.ok().flatten();
            self.set(status.is_some_and(|status| status < StatusCode::INTERNAL_SERVER_ERROR));
            if !std::mem::replace(&mut asked, true) && !self.is_up() {
                // It was down before anybody had asked, so that nothing has changed.
                warn!(engine = %settings.http, ?status, "the engine is down");
            }
        }
    }
}

/// The status of the engine's answer, its body read so that the connection can be used again.
async fn ask(client: &EngineClient, request: Outbound) -> Option<StatusCode> {
    let response = client.send(request).await.ok()?;
    let status = response.status();
    let _ = Limited::new(response.into_body(), PROBE_BODY_BYTES_MAX).collect().await;
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_report_of_load_is_forgotten_when_answers_stop_coming() {
        let health = Health::default();
        assert_eq!(health.reported_utilization(), None);
        let mut headers = HeaderMap::new();
        headers.insert(orca::LOAD_METRICS, "TEXT application_utilization=0.94".parse().unwrap());
        health.answered(&headers);
        assert_eq!(health.reported_utilization(), Some(0.94));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(health.reported_utilization(), None);
    }
}
