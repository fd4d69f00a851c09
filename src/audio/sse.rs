//! Reads the audio in Mist v2's server-sent events: `event: chunk` with `data: {"data":"…"}`, base64 of PCM.
//! The length of the base64 is the length of the sound, so nothing is decoded. Other events are ignored.

use super::Unknown;
use super::pcm::Pcm;
use super::scan::{Found, Scan, Word, position};
use std::time::Duration;

/// `event` and `chunk` are this long; what is longer is neither them nor `data`.
const WORD_BYTES_MAX: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sse {
    pcm: Pcm,
    scan: Scan,
    /// Base64 characters of the present string.
    characters: u64,
    /// The field's name, then the event's.
    word: Word<WORD_BYTES_MAX>,
    /// Whether this event may be one of audio: it is called `chunk`, or not called anything yet.
    chunk: bool,
    part: Part,
}

/// What the next byte belongs to (WHATWG HTML, section 9.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Event,
    Data,
    Other,
    /// A line may end with CR, LF or both.
    AfterReturn,
}

impl Sse {
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self {
            pcm: Pcm::new(rate, 2),
            scan: Scan::new("data", None),
            characters: 0,
            word: Word::default(),
            chunk: true,
            part: Part::Name,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Name => self.name(bytes),
                Part::AfterReturn => {
                    self.part = Part::Name;
                    bytes.strip_prefix(b"\n").unwrap_or(bytes)
                }
                Part::Event | Part::Data | Part::Other => self.value(bytes),
            };
        }
    }

    /// A byte of a field's name, or the end of a line without one.
    fn name<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes[0] {
            end @ (b'\n' | b'\r') => {
                if self.word.is_empty() {
                    self.event_end();
                }
                self.line_end(end);
            }
            b':' => {
                self.part = match self.word.get() {
                    Some(b"event") => Part::Event,
                    Some(b"data") if self.chunk => Part::Data,
                    _ => Part::Other,
                };
                self.word.clear();
            }
            byte => self.word.push(byte),
        }
        &bytes[1..]
    }

    fn value<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = position(bytes, |byte| byte == b'\n' || byte == b'\r').unwrap_or(bytes.len());
        let (value, rest) = bytes.split_at(end);
        match self.part {
            Part::Event => value.iter().filter(|byte| **byte != b' ').for_each(|byte| self.word.push(*byte)),
            Part::Data => self.data(value),
            _ => {}
        }
        let Some((&end, rest)) = rest.split_first() else { return rest };
        if self.part == Part::Event {
            self.chunk = self.word.get() == Some(b"chunk");
        }
        self.line_end(end);
        rest
    }

    fn data(&mut self, value: &[u8]) {
        let Self { pcm, scan, characters, .. } = self;
        scan.feed(value, |found| match found {
            Found::Piece(text) => {
                let before = decoded(*characters);
                *characters += text.iter().filter(|byte| **byte != b'=').count() as u64;
                pcm.feed(decoded(*characters) - before);
            }
            Found::End => *characters = 0,
        });
    }

    fn line_end(&mut self, end: u8) {
        self.word.clear();
        self.part = if end == b'\r' { Part::AfterReturn } else { Part::Name };
    }

    fn event_end(&mut self) {
        self.scan.restart();
        self.characters = 0;
        self.chunk = true;
    }

    pub(super) fn audio(&self) -> Duration {
        self.pcm.audio()
    }

    pub(super) fn started(&self) -> bool {
        self.pcm.started()
    }

    pub(super) fn unknown(&self) -> Option<Unknown> {
        self.pcm.unknown()
    }
}

/// Bytes in so many characters of base64, padding not among them.
fn decoded(characters: u64) -> u64 {
    characters / 4 * 3 + characters % 4 * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(stream: &str) -> u64 {
        let mut sse = Sse::new(Some(1_000));
        sse.feed(stream.as_bytes());
        u64::try_from(sse.audio().as_millis()).unwrap() * 2
    }

    #[test]
    fn only_chunk_events_are_audio() {
        assert_eq!(bytes("event: chunk\ndata: {\"data\":\"AAAAAAAA\"}\n\n"), 6);
        assert_eq!(bytes("data:{\"data\":\"AAAAAAAA\"}\n\n"), 6);
        assert_eq!(bytes("event: timestamps\ndata: {\"data\":\"AAAAAAAA\"}\n\n"), 0);
        assert_eq!(bytes("event: error\r\ndata: {\"data\":\"AAAAAAAA\"}\r\n\r\n"), 0);
        assert_eq!(bytes(": {\"data\":\"AAAAAAAA\"}\nid: {\"data\":\"AAAAAAAA\"}\n"), 0);
    }

    #[test]
    fn lines_may_end_in_any_of_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let event = format!("event: chunk{end}data: {{\"data\": \"AAAA\"}}{end}{end}");
            assert_eq!(bytes(&event.repeat(4)), 12);
        }
    }

    #[test]
    fn padding_is_not_sound() {
        assert_eq!(
            bytes("data: {\"data\":\"AAA=\"}\n\ndata: {\"data\":\"AA==\"}\n\ndata: {\"data\":\"AA==\"}\n\n"),
            4
        );
    }

    #[test]
    fn a_broken_event_does_not_spoil_the_next() {
        assert_eq!(
            bytes("data: {\"data\":\"AA\n\nevent: chunk\ndata: {\"data\":\"AAAAAAAA\"}\n\n"),
            1 + 6 - 1
        );
    }
}
