//! Decides which parser reads an answer, from its headers and from what the request asked for.
//! Sees no byte of the answer's body.

use super::grpc::Grpc;
use super::json::Json;
use super::mp3::Mp3;
use super::ogg::Ogg;
use super::pcm::Pcm;
use super::sniff::Sniff;
use super::sse::Sse;
use super::wav::Wav;
use super::webm::Webm;
use super::{AudioClock, Format, Parser, Sound, Unknown};

/// What WAV and Opus players expect at most; Rime sends one.
const CHANNELS_MAX: u32 = 8;

/// What the request asked for: it fills what the answer's headers leave open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// `samplingRate`, in samples per second.
    pub rate: Option<u32>,
    /// `audioFormat`, or the audio that `Accept` names. Rules only where the content type is silent, and
    /// inside a JSON envelope.
    pub format: Option<Format>,
    /// Whether the model is Mist v1 or v2, whose default rates are their own.
    pub mist_v2: bool,
}

impl Hint {
    /// The hint in a request's fields: JSON `modelId`, `audioFormat` and `samplingRate`, header `Accept`.
    ///
    /// Without a named format, Mist v3 answers headerless PCM and Mist v2 a JSON envelope (Rime's docs).
    #[must_use]
    pub fn for_request(
        model: Option<&str>,
        audio_format: Option<&str>,
        rate: Option<u32>,
        accept: Option<&str>,
    ) -> Self {
        let named = |value: &str| Some(media(value).0).filter(|format| *format != Format::Unknown);
        let format = audio_format
            .and_then(|value| named(value.trim()))
            .or_else(|| accept.and_then(|list| items(list, b',').find_map(named)))
            .or_else(|| model.filter(|model| is_mist_v3(model)).map(|_| Format::Pcm));
        Self { rate: rate.filter(|rate| *rate > 0), format, mist_v2: model.is_some_and(is_mist_v2) }
    }

    /// The rate of headerless samples in `format`: the requested one, else the model's default.
    fn rate(self, format: Format) -> Option<u32> {
        let default = match format {
            _ if !self.mist_v2 => 24_000,
            Format::Mulaw => 8_000,
            Format::Pcm => 16_000,
            _ => 22_050,
        };
        Some(self.rate.unwrap_or(default))
    }
}

fn is_mist_v2(model: &str) -> bool {
    model.eq_ignore_ascii_case("mist") || model.eq_ignore_ascii_case("mistv2")
}

fn is_mist_v3(model: &str) -> bool {
    model.eq_ignore_ascii_case("mistv3")
}

pub(super) fn clock(content_type: Option<&str>, content_encoding: Option<&str>, hint: Hint) -> AudioClock {
    if content_encoding.is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        return unread(Unknown::ContentEncoding);
    }
    let (named, parameters) = content_type.map_or((None, ""), |value| {
        let (format, parameters) = media(value);
        (Some(format).filter(|format| *format != Format::Unknown || !says_nothing(value)), parameters)
    });
    let Some(format) = named.or(hint.format) else { return unread(Unknown::ContentType) };
    let rate = number(parameters, "rate");
    let channels = number(parameters, "channels").unwrap_or(1).clamp(1, CHANNELS_MAX);
    let parser = match format {
        Format::Unknown => return unread(Unknown::ContentType),
        Format::Sse => Parser::Sse(Sse::new(rate.or(hint.rate(format)))),
        // The envelope's content is what the request asked for, and says what it is unless it is headerless.
        Format::Json => Parser::Json(Json::new(match hint.format {
            Some(inner @ (Format::Pcm | Format::Mulaw)) => sound(inner, hint.rate(inner), 1),
            _ => Sound::Sniff(Sniff::default()),
        })),
        _ => Parser::Sound(sound(format, rate.or(hint.rate(format)), channels)),
    };
    AudioClock { format, parser }
}

pub(super) fn clock_in_messages(content_type: Option<&str>, hint: Hint) -> AudioClock {
    let AudioClock { format, parser } = clock(content_type, None, hint);
    match parser {
        Parser::Sound(sound) => AudioClock { format, parser: Parser::Grpc(Grpc::new(sound)) },
        // Events and envelopes are HTTP's.
        _ => AudioClock {
            format: Format::Unknown,
            parser: Parser::Grpc(Grpc::new(Sound::Unread(Unknown::ContentType, false))),
        },
    }
}

fn sound(format: Format, rate: Option<u32>, channels: u32) -> Sound {
    match format {
        Format::Wav => Sound::Wav(Wav::new()),
        Format::Pcm => Sound::Pcm(Pcm::new(rate, 2 * channels)),
        Format::Mulaw => Sound::Pcm(Pcm::new(rate, channels)),
        Format::Mp3 => Sound::Mp3(Mp3::new()),
        Format::OggOpus => Sound::Ogg(Ogg::new()),
        Format::WebmOpus => Sound::Webm(Webm::new()),
        Format::Sse | Format::Json | Format::Unknown => Sound::Unread(Unknown::ContentType, false),
    }
}

fn unread(why: Unknown) -> AudioClock {
    AudioClock { format: Format::Unknown, parser: Parser::Sound(Sound::Unread(why, false)) }
}

/// Content types that mean "bytes": what the request asked for says more.
fn says_nothing(content_type: &str) -> bool {
    let essence = cut(content_type, b';').0.trim_ascii();
    essence.is_empty() || essence.eq_ignore_ascii_case("application/octet-stream")
}

/// The content types of sound. Those of `audio` have short names too, as in Rime's `audioFormat`.
const MEDIA: [(&str, Format); 19] = [
    ("audio/wav", Format::Wav),
    ("audio/pcm", Format::Pcm),
    ("audio/l16", Format::Pcm),
    ("audio/mpeg", Format::Mp3),
    ("audio/mp3", Format::Mp3),
    ("text/event-stream", Format::Sse),
    ("application/json", Format::Json),
    ("audio/ogg", Format::OggOpus),
    ("audio/webm", Format::WebmOpus),
    ("audio/pcmu", Format::Mulaw),
    ("audio/x-wav", Format::Wav),
    ("audio/wave", Format::Wav),
    ("audio/vnd.wave", Format::Wav),
    ("audio/x-pcm", Format::Pcm),
    ("audio/x-mulaw", Format::Mulaw),
    ("audio/mulaw", Format::Mulaw),
    ("audio/mpeg3", Format::Mp3),
    ("audio/opus", Format::OggOpus),
    ("application/ogg", Format::OggOpus),
];

/// The format that a content type (`audio/L16;rate=16000`) or a Rime `audioFormat` (`mp3`) names, and its
/// parameters.
fn media(value: &str) -> (Format, &str) {
    // Mostly letter for letter.
    if let Some((_, format)) = MEDIA.iter().find(|(name, _)| *name == value) {
        return (*format, "");
    }
    let (essence, parameters) = cut(value, b';');
    let essence = essence.trim_ascii();
    let is = |name: &str| {
        let short = name.strip_prefix("audio/").filter(|_| !essence.contains('/'));
        essence.eq_ignore_ascii_case(short.unwrap_or(name))
    };
    let known = MEDIA.iter().find(|(name, _)| is(name));
    (known.map_or(Format::Unknown, |(_, format)| *format), parameters)
}

/// A positive integer parameter such as `rate=16000` or `rate="16000"`.
fn number(parameters: &str, wanted: &str) -> Option<u32> {
    items(parameters, b';').find_map(|parameter| {
        let (name, value) = cut(parameter, b'=');
        let found = name.trim_ascii().eq_ignore_ascii_case(wanted);
        found.then(|| value.trim_ascii().trim_matches('"').parse().ok())?.filter(|number| *number > 0)
    })
}

/// What stands before the first `separator`, and what after it. By bytes: headers are short and read for every answer.
fn cut(text: &str, separator: u8) -> (&str, &str) {
    match text.bytes().position(|byte| byte == separator) {
        Some(index) => (&text[..index], &text[index + 1..]),
        None => (text, ""),
    }
}

/// The items of a list; an empty list has none.
fn items(mut list: &str, separator: u8) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (item, rest) = cut(list, separator);
        let found = !list.is_empty();
        list = rest;
        found.then_some(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn clock_of(content_type: &str, hint: Hint) -> AudioClock {
        clock(Some(content_type), None, hint)
    }

    #[test]
    fn every_name_that_rime_and_its_callers_use_is_known() {
        for (format, names) in [
            (Format::Wav, &["audio/wav", "audio/x-wav", "audio/wave", "Audio/WAV; codecs=1"][..]),
            (Format::Pcm, &["audio/L16;rate=16000;channels=1", "audio/pcm", "audio/l16"]),
            (Format::Mulaw, &["audio/PCMU", "audio/x-mulaw", "audio/pcmu;rate=8000"]),
            (Format::Mp3, &["audio/mpeg", "audio/mp3"]),
            (Format::OggOpus, &["audio/ogg", "audio/ogg;codecs=opus", "audio/opus", "application/ogg"]),
            (Format::WebmOpus, &["audio/webm", "audio/webm;codecs=opus"]),
            (Format::Sse, &["text/event-stream", "text/event-stream; charset=utf-8"]),
            (Format::Json, &["application/json", "application/json; charset=utf-8"]),
            (Format::Unknown, &["text/plain", "audio/midi", "video/webm", "wav/audio", "/", ";"]),
        ] {
            for name in names {
                assert_eq!(clock_of(name, Hint::default()).format(), format, "{name}");
            }
        }
    }

    #[test]
    fn the_answers_own_rate_rules_then_the_request_then_the_model() {
        let second = |content_type, hint| {
            let mut clock = clock_of(content_type, hint);
            clock.feed(&[0; 2 * 48_000]);
            clock.audio()
        };
        let asked = Hint { rate: Some(48_000), ..Hint::default() };
        let mist = Hint { mist_v2: true, ..Hint::default() };
        assert_eq!(second("audio/L16; rate=\"96000\"", asked), Duration::from_millis(500));
        assert_eq!(second("audio/L16;rate=48000;channels=2", asked), Duration::from_millis(500));
        assert_eq!(second("audio/L16", asked), Duration::from_secs(1));
        assert_eq!(second("audio/L16", Hint::default()), Duration::from_secs(2));
        assert_eq!(second("audio/L16", mist), Duration::from_secs(3));
        assert_eq!(second("audio/PCMU", Hint::default()), Duration::from_secs(4));
        assert_eq!(second("audio/PCMU", mist), Duration::from_secs(12));
    }

    #[test]
    fn a_rate_that_cannot_be_is_unknown() {
        let hint = Hint { rate: Some(1), ..Hint::default() };
        assert_eq!(clock_of("audio/pcm", hint).unknown(), Some(Unknown::Rate));
    }

    #[test]
    fn a_compressed_answer_is_unknown_and_identity_is_not_compression() {
        let clock = |coding| clock(Some("audio/wav"), Some(coding), Hint::default());
        assert_eq!(clock("gzip").unknown(), Some(Unknown::ContentEncoding));
        assert_eq!(clock("identity").format(), Format::Wav);
    }

    #[test]
    fn the_request_tells_what_the_answer_does_not() {
        let hint = Hint::for_request(Some("mistv3"), None, Some(16_000), Some("*/*"));
        assert_eq!(hint, Hint { rate: Some(16_000), format: Some(Format::Pcm), mist_v2: false });
        assert_eq!(clock(None, None, hint).format(), Format::Pcm);
        assert_eq!(clock_of("application/octet-stream", hint).format(), Format::Pcm);
        assert_eq!(clock(None, None, Hint::default()).unknown(), Some(Unknown::ContentType));
    }

    #[test]
    fn a_hint_is_read_from_audio_format_then_accept() {
        let format =
            |audio_format, accept| Hint::for_request(Some("mistv2"), audio_format, None, accept).format;
        assert_eq!(format(Some("mulaw"), Some("audio/mp3")), Some(Format::Mulaw));
        assert_eq!(format(None, Some("text/html, audio/L16;rate=8000;q=0.9, */*")), Some(Format::Pcm));
        assert_eq!(format(None, Some("*/*")), None);
        assert!(Hint::for_request(Some("MistV2"), None, None, None).mist_v2);
    }

    #[test]
    fn a_sound_in_json_is_what_was_asked_for() {
        for (format, millis) in [(Some(Format::Pcm), 1), (Some(Format::Mulaw), 3)] {
            let hint = Hint { rate: Some(1_000), format, mist_v2: false };
            let mut clock = clock_of("application/json", hint);
            clock.feed(br#"{"audioContent":"AAAA"}"#);
            assert_eq!(clock.audio(), Duration::from_millis(millis));
        }
    }
}
