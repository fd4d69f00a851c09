//! Reads the audio in a JSON envelope: `{"audioContent":"…"}`, and the on-prem page's
//! `{"audioContent":{"model_output":"…"}}`. Decodes its base64 in passing, into the parser of what is inside.

use super::scan::{Found, Scan};
use super::{Sound, Unknown};

/// Decoded bytes handed on at a time. On the stack.
const DECODED_BYTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug)]
pub(super) struct Json {
    scan: Scan,
    base64: Base64,
    pub(super) sound: Sound,
}

impl Json {
    pub(super) fn new(sound: Sound) -> Self {
        Self { scan: Scan::new("audioContent", Some("model_output")), base64: Base64::default(), sound }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let Self { scan, base64, sound } = self;
        scan.feed(bytes, |found| match found {
            Found::Piece(text) => base64.decode(text, |bytes| sound.feed(bytes)),
            Found::End => *base64 = Base64::default(),
        });
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        if self.scan.is_lost() { Some(Unknown::Malformed) } else { self.sound.unknown() }
    }
}

/// Base64 (RFC 4648, both alphabets) in pieces of any length. What is not of the alphabet is passed over.
///
/// The `base64` crate decodes a slice or fails as a whole, so that garbage would count differently with every
/// way of splitting it.
#[derive(Clone, Copy, Debug, Default)]
struct Base64 {
    bits: u32,
    held: u8,
}

impl Base64 {
    fn decode(&mut self, text: &[u8], mut decoded: impl FnMut(&[u8])) {
        let mut bytes = [0; DECODED_BYTES_MAX];
        // Four characters make three bytes; up to six bits were held.
        for text in text.chunks(DECODED_BYTES_MAX / 3 * 4 - 4) {
            let mut filled = 0;
            for character in text {
                let sextet = SEXTETS[usize::from(*character)];
                if sextet == NONE {
                    continue;
                }
                self.bits = self.bits << 6 | u32::from(sextet);
                self.held += 6;
                if self.held >= 8 {
                    self.held -= 8;
                    // The lowest byte above what is still held: the cut is meant.
                    bytes[filled] = (self.bits >> self.held & 0xFF) as u8;
                    filled += 1;
                }
            }
            decoded(&bytes[..filled]);
        }
    }
}

const NONE: u8 = 0xFF;

const SEXTETS: [u8; 256] = {
    let mut table = [NONE; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0_u8;
    while value < 64 {
        table[alphabet[value as usize] as usize] = value;
        value += 1;
    }
    table[b'-' as usize] = 62;
    table[b'_' as usize] = 63;
    table
};

#[cfg(test)]
mod tests {
    use super::super::{Format, pcm::Pcm, sniff::Sniff};
    use super::*;
    use base64::{Engine, engine::general_purpose};
    use proptest::prelude::*;
    use std::time::Duration;

    /// Audio bytes found in an envelope of headerless samples.
    fn heard(text: &str) -> u128 {
        let mut json = Json::new(Sound::Pcm(Pcm::new(Some(1_000), 1)));
        json.feed(text.as_bytes());
        json.sound.audio().as_millis()
    }

    #[test]
    fn both_of_rimes_shapes_are_read_and_nothing_else() {
        assert_eq!(heard(r#"{"audioContent":"AAAA"}"#), 3);
        assert_eq!(heard(r#"{"audioContent":{"model_output":"AAAA","other":"AAAA"}}"#), 3);
        assert_eq!(heard(r#"{"other":{"audioContent":"AAAA","model_output":"AAAA"}}"#), 0);
        assert_eq!(heard(r#"{"a":"audioContent","b":"AAAA","audioContents":"AAAA"}"#), 0);
        assert_eq!(heard(r#"{"a":"\"audioContent\":","audioContent" : "AAAA"}"#), 3);
        assert_eq!(heard(r#"{"audioContent":["AAAA"],"n":{"model_output":"AAAA"}}"#), 0);
        assert_eq!(heard(r#"["audioContent","AAAA"]"#), 0);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(heard(r#"{"audioContent":"\/\u002f\u002BA"}"#), 3);
        assert_eq!(heard(r#"{"\u0061udioContent":"AAAA"}"#), 3);
    }

    #[test]
    fn nesting_without_end_is_malformed() {
        let mut json = Json::new(Sound::Sniff(Sniff::default()));
        json.feed(&[b'['; 100]);
        assert_eq!(json.unknown(), Some(Unknown::Malformed));
    }

    #[test]
    fn an_unnamed_sound_is_recognised_by_its_beginning() {
        let inner = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0\xC0\x5D\0\0\x80\xBB\0\0\x02\0\x10\0data\0\0\0\0";
        let body = general_purpose::STANDARD.encode([&inner[..], &[0; 48_000]].concat());
        let mut clock =
            super::super::AudioClock::for_answer(Some("application/json"), None, Default::default());
        clock.feed(format!(r#"{{"audioContent":"{body}"}}"#).as_bytes());
        assert_eq!((clock.audio(), clock.format()), (Duration::from_secs(1), Format::Json));
    }

    proptest! {
        #[test]
        fn base64_is_decoded_as_by_the_crate(bytes in prop::collection::vec(any::<u8>(), 0..2_000), cut in 0_usize..3_000) {
            for engine in [general_purpose::STANDARD, general_purpose::URL_SAFE_NO_PAD] {
                let text = engine.encode(&bytes);
                let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
                let (mut base64, mut decoded) = (Base64::default(), Vec::<u8>::new());
                base64.decode(one, |piece| decoded.extend(piece));
                base64.decode(two, |piece| decoded.extend(piece));
                prop_assert_eq!(&decoded, &bytes);
            }
        }
    }
}
