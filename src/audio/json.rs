//! Reads the audio in a JSON envelope: `{"audioContent":"…"}`, and the on-prem page's
//! `{"audioContent":{"model_output":"…"}}`. Decodes its base64 in passing, into the parser of what is inside.

use super::scan::{Found, Scan};
use super::{Sound, Unknown};

/// Decoded bytes handed on at a time. On the stack.
const DECODED_BYTES_MAX: usize = 512;

#[derive(Clone, Debug)]
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
