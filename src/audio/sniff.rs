//! Recognises a sound by its first four bytes, where nobody said what it is. Reads no further.

use super::mp3::Mp3;
use super::ogg::Ogg;
use super::wav::Wav;
use super::webm::Webm;
use super::{Sound, Unknown};

/// Every container's mark is this long; MP3's shorter ones fit.
const HEAD_BYTES: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sniff {
    head: [u8; HEAD_BYTES],
    filled: u8,
}

impl Sniff {
    /// Takes bytes off the front of `bytes` until the sound is known; then returns its parser, and the bytes
    /// that it has to be fed first.
    pub(super) fn feed(&mut self, bytes: &mut &[u8]) -> Option<(Sound, [u8; HEAD_BYTES])> {
        while usize::from(self.filled) < HEAD_BYTES {
            let (&byte, rest) = bytes.split_first()?;
            self.head[usize::from(self.filled)] = byte;
            self.filled += 1;
            *bytes = rest;
        }
        Some((self.sound(), self.head))
    }

    fn sound(self) -> Sound {
        match self.head {
            [b'R', b'I', b'F', b'F'] | [b'R', b'F', b'6', b'4'] => Sound::Wav(Wav::new()),
            [b'O', b'g', b'g', b'S'] => Sound::Ogg(Ogg::new()),
            [0x1A, 0x45, 0xDF, 0xA3] => Sound::Webm(Webm::new()),
            [b'I', b'D', b'3', _] => Sound::Mp3(Mp3::new()),
            [0xFF, kind, ..] if kind & 0xE0 == 0xE0 => Sound::Mp3(Mp3::new()),
            _ => Sound::Unread(Unknown::ContentType, false),
        }
    }
}
