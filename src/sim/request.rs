//! Decides what a request asks for: which format, at which rate, how much sound. Knows no GPU and no
//! connection. Lenient as Rime is: unknown fields are welcome.

use std::time::Duration;

use rimelabs_api::{AudioParameters, SynthesisRequest};
use serde::Deserialize;
use thiserror::Error;

use super::audio::{Format, Inner, RATE_MAX, RATE_MIN};

/// Characters that become one second of speech.
const CHARACTERS_PER_SECOND: f64 = 14.0;
/// Longest text of every model but Arcana.
const TEXT_CHARACTERS_MAX: usize = 1_000;
/// The shortest sound: even a full stop takes time.
const AUDIO_MIN: Duration = Duration::from_millis(200);
/// How far `timeScaleFactor` and `speedAlpha` stretch or squeeze.
const STRETCH: std::ops::RangeInclusive<f64> = 0.25..=4.0;

/// How text is spoken and how its sound is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Voice {
    /// How the sound travels.
    pub format: Format,
    /// Samples a second.
    pub rate: u32,
    /// How many times slower than usual it speaks.
    pub stretch: f64,
}

/// What is to be spoken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order {
    /// How.
    pub voice: Voice,
    /// Length of the sound.
    pub audio: Duration,
}

/// Why a request is answered with 400. `Display` is the plain-text body.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// No JSON, or a field of the wrong kind.
    #[error("invalid JSON body: {0}")]
    Json(#[from] serde_json::Error),
    /// Nothing to say.
    #[error("text is required")]
    NoText,
    /// Too much to say.
    #[error("text must be at most {TEXT_CHARACTERS_MAX} characters, got {0}")]
    TextTooLong(usize),
    /// A rate that no format carries.
    #[error("samplingRate must be between {RATE_MIN} and {RATE_MAX}, got {0}")]
    Rate(f64),
    /// A stretch that no voice follows.
    #[error("{0} must be between 0.25 and 4")]
    Stretch(&'static str),
    /// A model that is not served.
    #[error("unknown modelId {0:?}")]
    Model(String),
    /// A format that no decoder plays.
    #[error("unknown audio format {0:?}")]
    Format(String),
    /// A way to split text that is none.
    #[error("unknown segment {0:?}")]
    Segment(String),
    /// A number that is none.
    #[error("{0} must be a number")]
    Number(&'static str),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    text: Option<String>,
    model_id: Option<String>,
    audio_format: Option<String>,
    sampling_rate: Option<f64>,
    time_scale_factor: Option<f64>,
    speed_alpha: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    Arcana,
    Coda,
    MistV2,
    MistV3,
}

/// What the engine's settings add to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// WAV with true sizes in its header, where Rime streams it with 0xFFFFFFFF.
    pub exact_wav: bool,
    /// The JSON envelope as the on-prem page shows it, with `model_output`.
    pub nested_json: bool,
}

impl Order {
    /// Reads a request from its JSON body and its `Accept` header.
    ///
    /// # Errors
    /// What the engine would answer with 400.
    pub fn read(body: &[u8], accept: &str, style: Style) -> Result<Self, BadRequest> {
        let body: Body = serde_json::from_slice(body)?;
        let model = Model::read(body.model_id.as_deref())?;
        let text = body.text.as_deref().unwrap_or("").trim();
        let characters = text.chars().count();
        if characters == 0 {
            return Err(BadRequest::NoText);
        }
        if characters > TEXT_CHARACTERS_MAX && model != Model::Arcana {
            return Err(BadRequest::TextTooLong(characters));
        }
        let format = format(accept, model, body.audio_format.as_deref(), style);
        let rate = match body.sampling_rate {
            Some(rate) => whole_rate(rate)?,
            None => default_rate(model, format),
        };
        let stretch =
            stretch("timeScaleFactor", body.time_scale_factor)? * stretch("speedAlpha", body.speed_alpha)?;
        Ok(Self { voice: Voice { format, rate, stretch }, audio: length(characters, stretch) })
    }
}

impl Voice {
    /// The voice of a legacy WebSocket, from the parameters of its query.
    ///
    /// # Errors
    /// What the engine would close the socket for.
    pub fn from_query(parameter: impl Fn(&str) -> Option<String>) -> Result<Self, BadRequest> {
        let model = Model::read(parameter("modelId").as_deref())?;
        let format = match parameter("audioFormat").as_deref() {
            None | Some("mp3") => Format::Mp3,
            Some("mulaw") => Format::Mulaw,
            Some("pcm") => Format::Pcm,
            Some("wav") => Format::Wav { exact: false },
            Some("ogg") => Format::OggOpus,
            Some(other) => return Err(BadRequest::Format(other.to_owned())),
        };
        let number = |name: &'static str| {
            let value = parameter(name).filter(|value| !value.is_empty());
            value.map(|value| value.parse().map_err(|_| BadRequest::Number(name))).transpose()
        };
        let rate = match number("samplingRate")? {
            Some(rate) => whole_rate(rate)?,
            None => default_rate(model, format),
        };
        let slower = stretch("timeScaleFactor", number("timeScaleFactor")?)?;
        Ok(Self { format, rate, stretch: slower * stretch("speedAlpha", number("speedAlpha")?)? })
    }

    /// The voice that a protobuf request asks for.
    ///
    /// # Errors
    /// What the engine calls an invalid input.
    pub fn from_proto(request: &SynthesisRequest) -> Result<Self, BadRequest> {
        let default = AudioParameters::default();
        let parameters = request.audio_parameters.as_ref().unwrap_or(&default);
        let format = match parameters.audio_format.as_deref().filter(|name| !name.is_empty()) {
            None => Format::Wav { exact: false },
            Some(name) => media(name, false).ok_or_else(|| BadRequest::Format(name.to_owned()))?,
        };
        let rate = match parameters.sampling_rate {
            Some(rate) => whole_rate(f64::from(rate))?,
            None => default_rate(Model::Coda, format),
        };
        let stretch = stretch("time_scale_factor", parameters.time_scale_factor.map(f64::from))?;
        Ok(Self { format, rate, stretch })
    }

    /// How long a text sounds.
    #[must_use]
    pub fn length(&self, text: &str) -> Duration {
        length(text.trim().chars().count(), self.stretch)
    }
}

/// How long a text of `characters` sounds, `stretch` times slower than usual.
#[must_use]
pub fn length(characters: usize, stretch: f64) -> Duration {
    let characters = u32::try_from(characters).map_or(f64::MAX, f64::from);
    let milliseconds = characters / CHARACTERS_PER_SECOND * stretch * 1_000.0;
    Duration::try_from_secs_f64(milliseconds.round() / 1_000.0).unwrap_or(Duration::MAX).max(AUDIO_MIN)
}

impl Model {
    fn read(name: Option<&str>) -> Result<Self, BadRequest> {
        match name.unwrap_or("arcana") {
            "mist" | "mistv2" => Ok(Self::MistV2),
            "mistv3" => Ok(Self::MistV3),
            "coda" => Ok(Self::Coda),
            name if name.starts_with("arcana") => Ok(Self::Arcana),
            name => Err(BadRequest::Model(name.to_owned())),
        }
    }
}

/// The first media type that the engine speaks, in the order they are listed; weights are ignored.
fn format(accept: &str, model: Model, audio_format: Option<&str>, style: Style) -> Format {
    let json = Format::Json { inner: inner(audio_format), nested: style.nested_json };
    let named = accept.split(',').find_map(|range| match essence(range).as_str() {
        "text/event-stream" | "text/eventstream" => Some(Format::Events),
        "application/json" => Some(json),
        name => media(name, style.exact_wav),
    });
    named.unwrap_or(match model {
        Model::MistV2 => json,
        Model::MistV3 => Format::Pcm,
        Model::Arcana | Model::Coda => Format::Wav { exact: style.exact_wav },
    })
}

/// The audio format that a media type names.
fn media(name: &str, exact: bool) -> Option<Format> {
    match essence(name).as_str() {
        "audio/wav" | "audio/x-wav" | "audio/wave" => Some(Format::Wav { exact }),
        "audio/l16" | "audio/pcm" => Some(Format::Pcm),
        "audio/pcmu" | "audio/x-mulaw" | "audio/mulaw" => Some(Format::Mulaw),
        "audio/mpeg" | "audio/mp3" => Some(Format::Mp3),
        "audio/ogg" | "audio/opus" => Some(Format::OggOpus),
        "audio/webm" => Some(Format::WebmOpus),
        _ => None,
    }
}

/// A media type without its parameters.
fn essence(name: &str) -> String {
    name.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

fn inner(audio_format: Option<&str>) -> Inner {
    match audio_format.unwrap_or("") {
        "mp3" => Inner::Mp3,
        "mulaw" => Inner::Mulaw,
        "pcm" => Inner::Pcm,
        "ogg" => Inner::Ogg,
        _ => Inner::Wav,
    }
}

fn default_rate(model: Model, format: Format) -> u32 {
    if model != Model::MistV2 {
        return 24_000;
    }
    match format {
        Format::Pcm | Format::Json { inner: Inner::Pcm, .. } => 16_000,
        Format::Mulaw | Format::Json { inner: Inner::Mulaw, .. } => 8_000,
        _ => 22_050,
    }
}

fn whole_rate(rate: f64) -> Result<u32, BadRequest> {
    if !(f64::from(RATE_MIN)..=f64::from(RATE_MAX)).contains(&rate) || rate.fract() != 0.0 {
        return Err(BadRequest::Rate(rate));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within the range")]
    let rate = rate as u32;
    Ok(rate)
}

fn stretch(name: &'static str, factor: Option<f64>) -> Result<f64, BadRequest> {
    let factor = factor.unwrap_or(1.0);
    if STRETCH.contains(&factor) { Ok(factor) } else { Err(BadRequest::Stretch(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, accept: &str) -> Order {
        Order::read(body.as_bytes(), accept, Style::default()).unwrap()
    }

    #[test]
    fn the_length_follows_the_text_and_its_stretch() {
        let text = "a".repeat(177);
        let plain = read(&format!(r#"{{"text":"{text}"}}"#), "");
        assert_eq!(plain.audio, Duration::from_millis(12_643));
        let slow = read(&format!(r#"{{"text":"{text}","timeScaleFactor":1.5,"speedAlpha":2}}"#), "");
        assert_eq!(slow.audio, Duration::from_millis(37_929));
        assert_eq!(read(r#"{"text":"."}"#, "").audio, AUDIO_MIN);
    }

    #[test]
    fn what_armchair_sends_is_read() {
        let body = r#"{"type":"HttpBody","text":"Hello.","speaker":null,"modelId":"arcana","odd":[1]}"#;
        let order = read(body, "audio/wav");
        assert_eq!((order.voice.format, order.voice.rate), (Format::Wav { exact: false }, 24_000));
    }

    #[test]
    fn without_an_audio_type_each_model_has_its_own_answer() {
        let order = |model: &str| read(&format!(r#"{{"text":"Hello.","modelId":"{model}"}}"#), "*/*");
        let json = Format::Json { inner: Inner::Wav, nested: false };
        assert_eq!((order("mistv2").voice.format, order("mistv2").voice.rate), (json, 22_050));
        assert_eq!((order("mistv3").voice.format, order("mistv3").voice.rate), (Format::Pcm, 24_000));
        assert_eq!(order("coda").voice.format, Format::Wav { exact: false });
    }

    #[test]
    fn default_rates_are_those_of_the_model_and_format() {
        let mist = r#"{"text":"Hello.","modelId":"mistv2"}"#;
        let rates =
            [("audio/mp3", 22_050), ("audio/L16", 16_000), ("audio/PCMU", 8_000), ("audio/wav", 22_050)];
        for (accept, rate) in rates {
            assert_eq!(read(mist, accept).voice.rate, rate, "{accept}");
        }
        assert_eq!(read(r#"{"text":"Hello.","modelId":"coda"}"#, "audio/x-mulaw").voice.rate, 24_000);
        assert_eq!(read(r#"{"text":"Hello.","samplingRate":44100}"#, "audio/wav").voice.rate, 44_100);
    }

    #[test]
    fn what_cannot_be_spoken_is_a_plain_complaint() {
        let long = format!(r#"{{"text":"{}","modelId":"coda"}}"#, "a".repeat(1_001));
        let cases = [
            ("{", "invalid JSON"),
            (r#"{"speaker":"luna"}"#, "text is required"),
            (r#"{"text":"  "}"#, "text is required"),
            (long.as_str(), "at most 1000 characters, got 1001"),
            (r#"{"text":"a","samplingRate":1}"#, "samplingRate"),
            (r#"{"text":"a","speedAlpha":0}"#, "speedAlpha"),
            (r#"{"text":"a","modelId":"tacotron"}"#, "tacotron"),
        ];
        for (body, complaint) in cases {
            let error = Order::read(body.as_bytes(), "", Style::default()).unwrap_err().to_string();
            assert!(error.contains(complaint), "{body}: {error}");
        }
    }

    #[test]
    fn arcana_speaks_texts_of_any_length() {
        assert_eq!(read(&format!(r#"{{"text":"{}"}}"#, "a".repeat(14_000)), "").audio.as_secs(), 1_000);
    }
}
