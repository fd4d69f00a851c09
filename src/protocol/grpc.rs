//! Decides what a gRPC call is, when its caller gives up, what its messages tell of the sound, and what its status
//! means. Reads messages in passing; never re-encodes one.

mod opening;
mod scan;
mod status;

use std::time::Duration;

use http::HeaderMap;
use prost::Message;

pub use opening::{Opening, TEXT_CHUNK};
pub use scan::Scan;
pub use status::{Status, code_of, http_code};

/// Bytes before every message: a flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message").
pub const PREFIX_BYTES: usize = 5;

/// Says what the audio is, in the answer's initial metadata. Rime's SDK insists on it.
pub const AUDIO_CONTENT_TYPE: &str = "x-rime-audio-content-type";

/// What a call is to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `Synthesize`: one request message, a stream of answers.
    Synthesize,
    /// `SynthesizeStreaming`: text arrives while audio leaves.
    SynthesizeStreaming,
    /// `grpc.health.v1.Health/Check`, answered for the gate.
    HealthCheck,
    /// `grpc.health.v1.Health/Watch`, answered for the gate.
    HealthWatch,
    /// Everything else: never queued, never counted.
    PassThrough,
}

/// Tells what a call is by its path. However the path is spelled, and whatever the method or content type: an engine may
/// not mind them.
#[must_use]
pub fn call(path: &str) -> Call {
    match path {
        "/rime.TextToSpeech/Synthesize" => Call::Synthesize,
        "/rime.TextToSpeech/SynthesizeStreaming" => Call::SynthesizeStreaming,
        "/grpc.health.v1.Health/Check" => Call::HealthCheck,
        "/grpc.health.v1.Health/Watch" => Call::HealthWatch,
        _ if super::is_plain(path) => Call::PassThrough,
        _ => {
            let normal = super::normalised(path);
            if normal == path { Call::PassThrough } else { call(&normal) }
        }
    }
}

/// The time that the caller gives the whole call: `grpc-timeout`, one to eight digits and a unit. `None` where it names
/// none, or nothing that can be read.
#[must_use]
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The fields of `rime.SynthesisRequest` that the gate reads; the numbers are Rime's.
#[derive(Clone, PartialEq, Message)]
pub struct Asked {
    /// Text to speak; in a streamed request the first sentence, or empty.
    #[prost(string, tag = "4")]
    pub text: String,
    /// How the sound is to be packed.
    #[prost(message, optional, tag = "5")]
    pub audio: Option<AskedAudio>,
    /// `SplitStrategy`.
    #[prost(int32, optional, tag = "6")]
    pub split: Option<i32>,
}

/// The fields of `rime.AudioParameters` that the gate reads.
#[derive(Clone, PartialEq, Message)]
pub struct AskedAudio {
    /// A content type, as `audio/wav`.
    #[prost(string, optional, tag = "1")]
    pub format: Option<String>,
    /// In Hz.
    #[prost(int32, optional, tag = "2")]
    pub rate: Option<i32>,
}

impl Asked {
    /// Reads the first message of a body. What is no message tells nothing: the engine, not the gate, judges it.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Self {
        messages(body).next().and_then(|message| Self::decode(message).ok()).unwrap_or_default()
    }

    /// The content type that was asked for.
    #[must_use]
    pub fn format(&self) -> Option<&str> {
        self.audio.as_ref()?.format.as_deref()
    }

    /// The rate that was asked for.
    #[must_use]
    pub fn rate(&self) -> Option<u32> {
        self.audio.as_ref()?.rate.and_then(|rate| u32::try_from(rate).ok())
    }
}

/// The whole messages that stand one after another in `body`, without their prefixes; none after a compressed one.
pub fn messages(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ([flag, a, b, c, d], rest) = body.split_first_chunk::<PREFIX_BYTES>()?;
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
        let (message, after) = rest.split_at_checked(length)?;
        body = after;
        (*flag == 0).then_some(message)
    })
}

/// A message with its prefix.
#[must_use]
pub fn framed(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message.encode_to_vec());
    framed
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthRequest {
    /// Whose health: empty for the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

impl HealthRequest {
    /// Reads the request's body; `None` where it is no such message.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        Self::decode(messages(body).next()?).ok()
    }

    /// Whether it is a service that the gate stands for.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self.service.as_str(), "" | "rime.TextToSpeech")
    }
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HealthAnswer {
    /// A `ServingStatus`.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl HealthAnswer {
    /// Would a synthesis be admitted?
    #[must_use]
    pub const fn of(ready: bool) -> Self {
        Self { status: if ready { 1 } else { 2 } }
    }

    /// Of a service that nobody knows; only `Watch` answers so.
    pub const SERVICE_UNKNOWN: Self = Self { status: 3 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rimelabs_api::rime::{AudioParameters, SynthesisRequest};

    #[test]
    fn the_two_syntheses_are_known_however_they_are_spelled_and_nothing_else_is() {
        for (path, is) in [
            ("/rime.TextToSpeech/Synthesize", Call::Synthesize),
            ("/rime.TextToSpeech/SynthesizeStreaming", Call::SynthesizeStreaming),
            ("/rime.TextToSpeech/%53ynthesize", Call::Synthesize),
            ("//rime.TextToSpeech/Synthesize/", Call::Synthesize),
            ("/rime.TextToSpeech/NormalizeText", Call::PassThrough),
            ("/rime.TextToSpeech/GetSupportedSpeakers", Call::PassThrough),
            ("/rime.TextToSpeech/synthesize", Call::PassThrough),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Call::PassThrough),
            ("/grpc.health.v1.Health/Check", Call::HealthCheck),
            ("/grpc.health.v1.Health/Watch", Call::HealthWatch),
            ("", Call::PassThrough),
            ("/%", Call::PassThrough),
        ] {
            assert_eq!(call(path), is, "{path}");
        }
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("100n"), Some(Duration::from_nanos(100)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        for bad in ["", "S", "2", "2s", "-2S", "+2S", "100000000S", "2 S", "1.5S", "2SS"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn rimes_own_message_tells_its_format_and_rate() {
        let request = SynthesisRequest {
            text: "Hi.".into(),
            speaker: Some("luna".into()),
            audio_parameters: Some(AudioParameters {
                audio_format: Some("audio/PCMU".into()),
                sampling_rate: Some(8_000),
                time_scale_factor: Some(1.0),
            }),
            ..SynthesisRequest::default()
        };
        let asked = Asked::from_body(&framed(&request));
        assert_eq!(
            (asked.text.as_str(), asked.format(), asked.rate()),
            ("Hi.", Some("audio/PCMU"), Some(8_000))
        );
        for garbage in [&b""[..], b"\0", b"\x01\0\0\0\x01x", b"\0\0\0\0\x09x", b"\0\0\0\0\x01\xff"] {
            assert_eq!(Asked::from_body(garbage), Asked::default());
        }
    }

    #[test]
    fn the_health_of_the_server_and_of_speech_is_known_and_of_nothing_else() {
        let known = |service: &str| HealthRequest { service: service.into() }.is_known();
        assert!(known("") && known("rime.TextToSpeech") && !known("rime.SpeechToText"));
        assert_eq!(
            HealthRequest::from_body(&framed(&HealthRequest::default())),
            Some(HealthRequest::default())
        );
        assert_eq!(HealthRequest::from_body(b""), None);
    }
}
