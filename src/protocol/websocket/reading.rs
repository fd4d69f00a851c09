//! Finds in an engine's message what metering needs, and no more: whose it is, what it is, and how long its sound
//! is. Decodes no sound, except a base64 one whose container must be seen to be timed.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, Deserializer, Visitor};

use crate::meter::Meter;

/// A chunk of sound, as its message carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sound<'a> {
    /// The bytes themselves.
    Plain(&'a [u8]),
    /// Base64 (RFC 4648), either alphabet, padded or not.
    Base64(Cow<'a, [u8]>),
}

impl Sound<'_> {
    /// Tells the meter. Returns the gap since the chunk before.
    pub(super) fn heard_by(&self, meter: &mut Meter, now: Instant) -> Option<Duration> {
        match self {
            Self::Plain(bytes) => meter.heard(now, bytes),
            Self::Base64(text) => {
                let length = decoded_length(text);
                meter.heard_as(now, length as u64, |clock| {
                    if !clock.pass(length as u64) {
                        decode(text, |bytes| clock.feed(bytes));
                    }
                })
            }
        }
    }
}

/// How many bytes a base64 text stands for.
fn decoded_length(text: &[u8]) -> usize {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.len() - padding;
    digits / 4 * 3 + (digits % 4) * 3 / 4
}

/// Base64 digits decoded at a time: a multiple of four.
const DIGITS: usize = 1024;
const _: () = assert!(DIGITS.is_multiple_of(4), "a group of digits must not be split");

/// Decodes piece by piece, so that nothing is allocated. Stops where the text is no base64.
fn decode(text: &[u8], mut take: impl FnMut(&[u8])) {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let web = text.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = if web { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let engine = GeneralPurpose::new(alphabet, config);
    let mut buffer = [0; DIGITS / 4 * 3];
    for piece in text.chunks(DIGITS) {
        let Ok(length) = engine.decode_slice(piece, &mut buffer) else { return };
        take(&buffer[..length]);
    }
}

/// A JSON string as bytes: borrowed where it has no escapes, empty where it is anything else. Unlike a `str` it is
/// not checked to be UTF-8 a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw<'a>(pub(super) Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;
        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Raw(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Raw(Cow::Owned(bytes.to_vec())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Raw::default())
            }
        }
        deserializer.deserialize_bytes(RawVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_base64_length_is_told_without_decoding_and_its_bytes_come_in_pieces(
            bytes in prop::collection::vec(any::<u8>(), 0..4_000),
        ) {
            for engine in [BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE] {
                let text = engine.encode(&bytes);
                prop_assert_eq!(decoded_length(text.as_bytes()), bytes.len());
                let mut decoded = Vec::new();
                decode(text.as_bytes(), |piece| decoded.extend_from_slice(piece));
                prop_assert_eq!(&decoded, &bytes);
            }
        }
    }
}
