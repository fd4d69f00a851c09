//! When each word is spoken: a text's length spread over its words by their letters. Knows no audio.

use std::time::Duration;

use rimelabs_api::google::rpc::Status;
use rimelabs_api::{SpanTimestamp, SynthesisRequest, Timestamps};

/// Words with the time from the start of the sound at which they begin and end.
#[derive(Debug, Default)]
pub(super) struct Words {
    length: Duration,
    spans: Vec<(String, Duration, Duration)>,
}

/// Whether a request asks for timestamps.
pub(super) fn wanted(request: &SynthesisRequest) -> bool {
    request.timestamps.is_some_and(|options| options.enable)
}

impl Words {
    /// More text, spoken in `length`.
    pub(super) fn push(&mut self, text: &str, length: Duration) {
        let letters = |word: &str| u32::try_from(word.chars().count()).unwrap_or(u32::MAX);
        let total = text.split_whitespace().map(letters).fold(0, u32::saturating_add).max(1);
        let mut before = 0;
        for word in text.split_whitespace() {
            let begins = self.length + length.mul_f64(f64::from(before) / f64::from(total));
            before += letters(word);
            let ends = self.length + length.mul_f64(f64::from(before) / f64::from(total));
            self.spans.push((word.to_owned(), begins, ends));
        }
        self.length += length;
    }

    /// Takes what was not taken before, as the legacy JSON socket writes it.
    pub(super) fn take_json(&mut self) -> Option<serde_json::Value> {
        let spans = std::mem::take(&mut self.spans);
        if spans.is_empty() {
            return None;
        }
        let words: Vec<_> = spans.iter().map(|(word, ..)| word).collect();
        let start: Vec<_> = spans.iter().map(|(_, start, _)| start.as_secs_f64()).collect();
        let end: Vec<_> = spans.iter().map(|(.., end)| end.as_secs_f64()).collect();
        Some(serde_json::json!({ "words": words, "start": start, "end": end }))
    }

    /// As protobuf has it.
    pub(super) fn into_timestamps(self) -> Timestamps {
        let spans = self.spans.into_iter().map(|(text, begins, ends)| {
            let mut span = SpanTimestamp { text, ..SpanTimestamp::default() };
            for (field, time) in [(&mut span.start, begins), (&mut span.end, ends)] {
                let field = field.get_or_insert_default();
                field.seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
                field.nanos = i32::try_from(time.subsec_nanos()).unwrap_or(0);
            }
            span
        });
        Timestamps { status: Some(Status::default()), spans: spans.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_each_other_without_a_gap_to_the_end() {
        let mut words = Words::default();
        words.push("One two.", Duration::from_secs(1));
        words.push("Three", Duration::from_secs(2));
        let spans = words.into_timestamps().spans;
        let ends: Vec<_> = spans.iter().map(|span| span.end.unwrap()).collect();
        assert_eq!(spans[1].start, spans[0].end);
        assert_eq!((ends[1].seconds, ends[2].seconds), (1, 3));
        assert_eq!(spans[2].text, "Three");
    }
}
