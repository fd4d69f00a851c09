//! Audio in gRPC: the `audio` field of every `rime.SynthesisResponseStream`. The rest of the messages is passed over.

use super::{Sound, Unknown};
use crate::protocol::grpc::Scan;

/// The field's number in Rime's proto.
const AUDIO: u32 = 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Grpc {
    scan: Scan,
    pub(super) sound: Sound,
}

impl Grpc {
    pub(super) const fn new(sound: Sound) -> Self {
        Self { scan: Scan::new(AUDIO), sound }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let Self { scan, sound } = self;
        scan.feed(bytes, |audio| sound.feed(audio));
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if self.scan.compressed() {
            return Some(Unknown::ContentEncoding);
        }
        if self.scan.malformed() {
            return Some(Unknown::Malformed);
        }
        self.sound.unknown()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rimelabs_api::rime::synthesis_response_stream::Payload;
    use rimelabs_api::rime::{SynthesisResponseStream, SynthesisResponseTrailer};

    use super::super::{AudioClock, Format, Hint};
    use super::*;
    use crate::protocol::grpc::framed;

    fn stream(chunks: usize) -> Vec<u8> {
        let message = |payload| framed(&SynthesisResponseStream { payload: Some(payload) });
        let mut stream: Vec<u8> = (0..chunks).flat_map(|_| message(Payload::Audio(vec![0; 4_800]))).collect();
        stream.extend(message(Payload::Trailer(SynthesisResponseTrailer::default())));
        stream
    }

    fn heard(content_type: Option<&str>, hint: Hint, stream: &[u8], size: usize) -> AudioClock {
        let mut clock = AudioClock::for_grpc(content_type, hint);
        stream.chunks(size).for_each(|bytes| clock.feed(bytes));
        clock
    }

    #[test]
    fn audio_time_is_that_of_the_audio_fields_wherever_the_messages_are_cut() {
        for size in [1, 4, 7, 1_000, 1 << 20] {
            let clock = heard(Some("audio/L16;rate=24000"), Hint::default(), &stream(10), size);
            assert_eq!(
                (clock.audio(), clock.format(), clock.unknown()),
                (Duration::from_secs(1), Format::Pcm, None)
            );
        }
    }

    #[test]
    fn the_request_tells_what_the_answers_metadata_does_not() {
        let hint = Hint::for_request(None, Some("audio/PCMU"), Some(8_000), None);
        assert_eq!(heard(None, hint, &stream(10), 100).audio(), Duration::from_secs(6));
        assert_eq!(heard(None, Hint::default(), &stream(1), 100).unknown(), Some(Unknown::ContentType));
        assert!(heard(None, Hint::default(), &stream(1), 100).started());
    }

    #[test]
    fn compressed_messages_have_no_audio_time() {
        let mut stream = stream(1);
        stream[0] = 1;
        let clock = heard(Some("audio/pcm"), Hint::default(), &stream, 100);
        assert_eq!(clock.unknown(), Some(Unknown::ContentEncoding));
    }
}
