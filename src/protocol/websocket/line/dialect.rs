//! Reads what a legacy socket's address says: how text becomes syntheses, and what its audio is.

use crate::audio::Hint;
use crate::protocol::percent_decoded;

/// What starts a synthesis. In doubt the later one counts: it holds more for a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// `flush` and `eos` do.
    Never,
    /// The end of a sentence does as well. Rime's default.
    BySentence,
    /// Any text does.
    Immediate,
}

/// What a legacy socket's address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// `segment`, `immediate`.
    pub segment: Segment,
    /// `done` messages say `"done": true` as well, as on `/ws2`.
    pub done_flag: bool,
    /// `modelId`, `audioFormat`, `samplingRate`.
    pub hint: Hint,
    /// `modelId`.
    pub model: Option<String>,
}

impl Dialect {
    /// The dialect of a socket at this path with this query.
    #[must_use]
    pub fn of(path: &str, query: Option<&str>) -> Self {
        let (mut segment, mut model, mut format, mut rate) = (None, None, None, None);
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value.as_bytes());
            match percent_decoded(name.as_bytes()).as_str() {
                "segment" => segment = segment.max(Some(self::segment(&value))),
                "immediate" if !matches!(value.as_str(), "false" | "0") => segment = Some(Segment::Immediate),
                "modelId" => model = Some(value),
                "audioFormat" => format = Some(value),
                "samplingRate" => rate = value.parse().ok(),
                _ => {}
            }
        }
        Self {
            segment: segment.unwrap_or(Segment::BySentence),
            done_flag: path.trim_end_matches('/').ends_with("/ws2"),
            hint: Hint::for_request(model.as_deref(), format.as_deref(), rate, None),
            model,
        }
    }
}

fn segment(value: &str) -> Segment {
    match value {
        "never" => Segment::Never,
        "bySentence" | "" => Segment::BySentence,
        _ => Segment::Immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Format;

    #[test]
    fn an_address_tells_segment_and_audio() {
        let query = "speaker=luna&modelId=mistv2&audioFormat=pcm&samplingRate=16000&segment=never&lang=eng";
        let dialect = Dialect::of("/ws3", Some(query));
        let hint = Hint { rate: Some(16_000), format: Some(Format::Pcm), mist_v2: true };
        let model = Some("mistv2".to_owned());
        assert_eq!(dialect, Dialect { segment: Segment::Never, done_flag: false, hint, model });
        let silent = Dialect::of("/ws2", None);
        assert_eq!((silent.segment, silent.done_flag), (Segment::BySentence, true));
    }

    #[test]
    fn an_address_in_doubt_holds_more_for_a_start() {
        for query in [
            "segment=never&segment=immediate",
            "segment=x",
            "segment=%69mmediate",
            "immediate=true&segment=never",
        ] {
            assert_eq!(Dialect::of("/", Some(query)).segment, Segment::Immediate, "{query}");
        }
        assert_eq!(Dialect::of("/", Some("segment=n%65ver&immediate=false")).segment, Segment::Never);
    }
}
