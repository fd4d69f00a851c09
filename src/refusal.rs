//! Turns a reason for not serving a request into every wire's answer, and into its metric label.
//! Knows no caller, no queue and no clock: the one table below is the whole policy of *how* to say no.

use std::time::Duration;

use http::HeaderName;

/// Carries the label of a refusal's reason, in HTTP and in gRPC's trailers.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-rime-gate-reason");

/// Why a request was not served. A closed set: it is the `reason` label of `rime_gate_refusals_total`
/// and the value of the `x-rime-gate-reason` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Every slot is taken and `when_full = "reject"`.
    LimitReached,
    /// Every slot and every place in the queue is taken.
    QueueFull,
    /// The caller waited as long as the queue allows and no slot came free.
    QueueTimeout,
    /// By the measured release rate and the place in the queue, the wait would have been too long.
    Deadline,
    /// The gate is shutting down.
    Draining,
    /// The engine cannot be reached, or closed the connection before it answered.
    EngineUnavailable,
    /// The engine took the request and did not begin to answer in time.
    EngineTimeout,
    /// The gate carries as many connections as it may.
    TooManyConnections,
    /// The gate carries as many WebSockets as it may.
    TooManySockets,
    /// The request is malformed, or its framing is ambiguous.
    BadRequest,
    /// The request has more header fields than the gate lets through.
    HeadTooLarge,
    /// The request's body is longer than the gate lets through.
    BodyTooLarge,
    /// The request's body did not arrive in time.
    BodyTimeout,
}

/// How a [`Reason`] looks on each wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code (RFC 9110 section 15).
    pub http: u16,
    /// gRPC status code (`google.rpc.Code`).
    pub grpc: u8,
    /// `kind` of a WebSocket v1 `error`.
    pub v1: &'static str,
    /// Value of the `reason` label and of `x-rime-gate-reason`.
    pub label: &'static str,
    /// One plain line for a person, as short as Rime's own.
    pub text: &'static str,
}

/// Kinds of a v1 `error` that its clients know.
const EXHAUSTED: &str = "resource_exhausted";
const UNAVAILABLE: &str = "unavailable";
const INVALID: &str = "invalid_input";

impl Reason {
    /// Every reason, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::LimitReached,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Deadline,
        Self::Draining,
        Self::EngineUnavailable,
        Self::EngineTimeout,
        Self::TooManyConnections,
        Self::TooManySockets,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::BodyTimeout,
    ];

    /// The table.
    #[must_use]
    pub const fn answer(self) -> Answer {
        let (http, grpc, v1, label, text) = match self {
            Self::LimitReached => (429, 8, EXHAUSTED, "limit_reached", "Currently at synthesis limit"),
            Self::QueueFull => (429, 8, EXHAUSTED, "queue_full", "Currently at synthesis limit, queue full"),
            Self::QueueTimeout => (429, 8, EXHAUSTED, "queue_timeout", "No synthesis slot came free in time"),
            Self::Deadline => (429, 8, EXHAUSTED, "deadline", "No synthesis slot would come free in time"),
            Self::Draining => (503, 14, UNAVAILABLE, "draining", "Shutting down"),
            Self::EngineUnavailable => (502, 14, UNAVAILABLE, "engine_unavailable", "Engine unavailable"),
            Self::EngineTimeout => (504, 14, "timeout", "engine_timeout", "Engine did not answer in time"),
            Self::TooManyConnections => (503, 8, EXHAUSTED, "too_many_connections", "Too many connections"),
            Self::TooManySockets => (503, 8, EXHAUSTED, "too_many_sockets", "Currently at websocket limit"),
            Self::BadRequest => (400, 3, INVALID, "bad_request", "Bad request"),
            Self::HeadTooLarge => (431, 8, INVALID, "head_too_large", "Request has too many header fields"),
            Self::BodyTooLarge => (413, 8, INVALID, "body_too_large", "Request body too large"),
            Self::BodyTimeout => (408, 4, "timeout", "body_timeout", "Request body did not arrive in time"),
        };
        Answer { http, grpc, v1, label, text }
    }

    /// Whether capacity exists but is taken: the caller may come again soon.
    #[must_use]
    pub const fn is_full(self) -> bool {
        matches!(self, Self::LimitReached | Self::QueueFull | Self::QueueTimeout | Self::Deadline)
    }

    /// Whether the door itself said no, so that the synthesis was never let in.
    #[must_use]
    pub const fn is_of_the_door(self) -> bool {
        self.is_full() || matches!(self, Self::Draining)
    }
}

/// An explicit no, with its reason and when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// When a slot is expected, by the measured release rate. Sent as `Retry-After`, in whole seconds,
    /// rounded up, at least 1 (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that says nothing about when to come again.
    #[must_use]
    pub const fn new(reason: Reason) -> Self {
        Self { reason, retry_after: None }
    }

    /// The whole seconds that `Retry-After` carries.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        let rounded = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(rounded.max(1))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.answer().text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|r| r.answer().label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn a_taken_capacity_is_429_and_a_missing_one_is_5xx() {
        for reason in Reason::ALL {
            let answer = reason.answer();
            assert_eq!(reason.is_full(), answer.http == 429, "{reason:?}");
            assert!(!reason.is_full() || (answer.grpc, answer.v1) == (8, EXHAUSTED), "{reason:?}");
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up_and_never_zero() {
        let seconds =
            |wait| Refusal { reason: Reason::QueueFull, retry_after: Some(wait) }.retry_after_seconds();
        assert_eq!(seconds(Duration::ZERO), Some(1));
        assert_eq!(seconds(Duration::from_millis(1001)), Some(2));
        assert_eq!(seconds(Duration::from_secs(3)), Some(3));
        assert_eq!(Refusal::new(Reason::Draining).retry_after_seconds(), None);
    }
}
