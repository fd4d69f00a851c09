//! What a gRPC status says: a refusal as trailers, and an engine's status as the HTTP code that the figures know.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

use crate::refusal::{REASON_HEADER, Refusal};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// `DEADLINE_EXCEEDED`.
const DEADLINE_EXCEEDED: u8 = 4;

/// When to come again, where the door has not seen enough releases to know better.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);

/// Whose reasons they are, in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "rime-gate";

/// How a call ends: a code, a line, and whatever details there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    code: u8,
    message: &'static str,
    refusal: Option<Refusal>,
}

impl Status {
    /// All is well.
    pub const OK: Self = Self { code: 0, message: "", refusal: None };
    /// `Check` of a service that the gate does not stand for.
    pub const NOT_FOUND: Self = Self { code: 5, message: "unknown service", refusal: None };
    /// A message that is none.
    pub const INVALID: Self = Self { code: 3, message: "not a health check", refusal: None };

    /// A refusal. `out_of_time` says that it was the caller's own deadline that ended the wait.
    #[must_use]
    pub const fn refused(refusal: Refusal, out_of_time: bool) -> Self {
        let answer = refusal.reason.answer();
        let code = if out_of_time { DEADLINE_EXCEEDED } else { answer.grpc };
        Self { code, message: answer.text, refusal: Some(refusal) }
    }

    /// The trailers that end a call so; in a trailers-only answer they are its head.
    #[must_use]
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.code)));
        if !self.message.is_empty() {
            trailers.insert(GRPC_MESSAGE, percent_encoded(self.message));
        }
        if let Some(refusal) = &self.refusal {
            trailers.insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.answer().label));
            let details = BASE64_STANDARD_NO_PAD.encode(self.details(refusal).encode_to_vec());
            if let Ok(details) = HeaderValue::try_from(details) {
                trailers.insert(GRPC_DETAILS, details);
            }
        }
        trailers
    }

    fn details(&self, refusal: &Refusal) -> Rpc {
        let mut details =
            Rpc { code: i32::from(self.code), message: self.message.to_owned(), details: Vec::new() };
        let reason = refusal.reason.answer().label.to_ascii_uppercase();
        details.details.push(any("google.rpc.ErrorInfo", &ErrorInfo { reason, domain: DOMAIN.to_owned() }));
        let again = refusal.retry_after.or(refusal.reason.is_of_the_door().then_some(RETRY_UNKNOWN));
        if let Some(again) = again {
            let delay = Delay {
                seconds: i64::try_from(again.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(again.subsec_nanos()).unwrap_or(0),
            };
            details.details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay: Some(delay) }));
        }
        details
    }
}

/// `google.rpc.ErrorInfo`, without its metadata.
#[derive(Clone, PartialEq, Eq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Eq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Rpc {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// Percent-encoded as `grpc-message` is (gRPC over HTTP/2, "Percent-Encoded"): all but printable ASCII, and the sign
/// itself.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    // Provable: only printable ASCII is left.
    HeaderValue::try_from(encoded).expect("printable ASCII is a header's value")
}

/// The `grpc-status` of trailers, or of the head of a trailers-only answer.
#[must_use]
pub fn code_of(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The HTTP code that a gRPC code comes to, as `google.rpc.Code` documents it: the figures know one kind of code.
#[must_use]
pub const fn http_code(grpc: u16) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;

    fn decoded(trailers: &HeaderMap) -> Rpc {
        let details = BASE64_STANDARD_NO_PAD.decode(&trailers["grpc-status-details-bin"]).unwrap();
        Rpc::decode(&details[..]).unwrap()
    }

    #[test]
    fn a_refusal_says_why_in_words_in_a_label_and_in_details() {
        let retry_after = Some(Duration::from_millis(1_200));
        let status = Status::refused(Refusal { reason: Reason::QueueFull, retry_after }, false);
        let trailers = status.trailers();
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!(trailers["grpc-message"], "Currently at synthesis limit, queue full");
        assert_eq!(trailers["x-rime-gate-reason"], "queue_full");
        let details = decoded(&trailers);
        assert_eq!((details.code, details.message.as_str()), (8, "Currently at synthesis limit, queue full"));
        let info = ErrorInfo::decode(&details.details[0].value[..]).unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("QUEUE_FULL", "rime-gate"));
        assert_eq!(details.details[1].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let retry = RetryInfo::decode(&details.details[1].value[..]).unwrap().retry_delay.unwrap();
        assert_eq!((retry.seconds, retry.nanos), (1, 200_000_000));
    }

    #[test]
    fn every_reason_has_its_code_and_only_the_door_says_when_to_come_again() {
        for reason in Reason::ALL {
            let trailers = Status::refused(Refusal::new(reason), false).trailers();
            assert_eq!(code_of(&trailers), Some(u16::from(reason.answer().grpc)), "{reason:?}");
            assert_eq!(decoded(&trailers).details.len() == 2, reason.is_of_the_door(), "{reason:?}");
        }
        let late = Status::refused(Refusal::new(Reason::QueueTimeout), true).trailers();
        assert_eq!(late["grpc-status"], "4");
    }

    #[test]
    fn an_end_that_is_well_says_nothing_more() {
        let trailers = Status::OK.trailers();
        assert_eq!((trailers.len(), code_of(&trailers)), (1, Some(0)));
        assert_eq!(code_of(&HeaderMap::new()), None);
    }

    #[test]
    fn only_status_zero_is_a_success() {
        assert!((0..20).all(|code| (http_code(code) < 400) == (code == 0)));
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(percent_encoded("a%\n é~"), "a%25%0A %C3%A9~");
    }
}
