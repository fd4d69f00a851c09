//! Finds one field of every gRPC message that passes and hands its content on in pieces. Copies nothing, keeps a few
//! numbers, and is indifferent to where the bytes are cut.

use prost::encoding::WireType;

/// A scanner for one `bytes` or `string` field at the top of every message of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    wanted: u32,
    part: Part,
    /// Bytes of the message that are still to come.
    message: u32,
    /// The varint that is being read, and the bits of it that came.
    varint: u64,
    bits: u8,
    compressed: bool,
    malformed: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The prefix, of which so many bytes have come; the first is the flag.
    Prefix {
        count: u8,
        compressed: bool,
    },
    Key,
    /// A number that nobody wants.
    Number,
    /// The length of a field's content.
    Length {
        wanted: bool,
    },
    /// A field's content, of which so many bytes are to come.
    Content {
        wanted: bool,
        left: u32,
    },
}

/// Where a message begins.
const PREFIX: Part = Part::Prefix { count: 0, compressed: false };

impl Scan {
    /// A scanner for the field with this number.
    #[must_use]
    pub const fn new(wanted: u32) -> Self {
        Self { wanted, part: PREFIX, message: 0, varint: 0, bits: 0, compressed: false, malformed: false }
    }

    /// Whether a compressed message came: what is in it cannot be seen.
    #[must_use]
    pub const fn compressed(&self) -> bool {
        self.compressed
    }

    /// Whether a message came that is no protobuf.
    #[must_use]
    pub const fn malformed(&self) -> bool {
        self.malformed
    }

    /// Whether more of a wanted field's content is to come.
    #[must_use]
    pub const fn is_in_field(&self) -> bool {
        matches!(self.part, Part::Content { wanted: true, .. })
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(&[u8])) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.part {
                Part::Prefix { count, compressed } => {
                    self.prefix(count, compressed, byte);
                    bytes = rest;
                }
                Part::Content { wanted, left } => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (piece, rest) = bytes.split_at(length);
                    if wanted {
                        found(piece);
                    }
                    // At most `left`, which is 32 bits.
                    let length = u32::try_from(length).unwrap_or(left);
                    self.message -= length;
                    self.part = Part::Content { wanted, left: left - length };
                    self.field_may_end();
                    bytes = rest;
                }
                Part::Key | Part::Number | Part::Length { .. } => {
                    self.message -= 1;
                    self.varint(byte);
                    bytes = rest;
                }
            }
        }
    }

    fn prefix(&mut self, count: u8, compressed: bool, byte: u8) {
        if count == 0 {
            self.message = 0;
            self.part = Part::Prefix { count: 1, compressed: byte & 1 == 1 };
            return;
        }
        self.message = self.message << 8 | u32::from(byte);
        if count < 4 {
            self.part = Part::Prefix { count: count + 1, compressed };
            return;
        }
        self.compressed |= compressed;
        self.part = if compressed { Part::Content { wanted: false, left: self.message } } else { Part::Key };
        self.field_may_end();
    }

    fn varint(&mut self, byte: u8) {
        self.varint |= u64::from(byte & 0x7f).checked_shl(u32::from(self.bits)).unwrap_or(0);
        self.bits = self.bits.saturating_add(7);
        if byte & 0x80 != 0 {
            if self.bits > 63 || self.message == 0 {
                self.skip_message();
            }
            return;
        }
        let value = std::mem::take(&mut self.varint);
        self.bits = 0;
        match self.part {
            Part::Key => self.key(value),
            Part::Length { wanted } => match u32::try_from(value) {
                Ok(left) if left <= self.message => self.part = Part::Content { wanted, left },
                _ => self.skip_message(),
            },
            _ => self.part = Part::Key,
        }
        self.field_may_end();
    }

    fn key(&mut self, key: u64) {
        let wanted = key >> 3 == u64::from(self.wanted);
        let content = |left| Part::Content { wanted: false, left };
        self.part = match WireType::try_from(key & 7) {
            Ok(WireType::Varint) => Part::Number,
            Ok(WireType::SixtyFourBit) => content(8),
            Ok(WireType::LengthDelimited) => Part::Length { wanted },
            Ok(WireType::ThirtyTwoBit) => content(4),
            _ => return self.skip_message(),
        };
        let cut = match self.part {
            Part::Content { left, .. } => left > self.message,
            _ => self.message == 0,
        };
        if cut {
            self.skip_message();
        }
    }

    /// What follows in this message cannot be told apart; the next one begins where the prefix says.
    fn skip_message(&mut self) {
        self.malformed = true;
        (self.varint, self.bits) = (0, 0);
        self.part = Part::Content { wanted: false, left: self.message };
        self.field_may_end();
    }

    fn field_may_end(&mut self) {
        if let Part::Content { left: 0, .. } = self.part {
            self.part = Part::Key;
        }
        if self.part == Part::Key && self.message == 0 {
            self.part = PREFIX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::framed;
    use super::*;
    use proptest::prelude::*;
    use rimelabs_api::rime::synthesis_response_stream::Payload;
    use rimelabs_api::rime::{SynthesisResponseStream, SynthesisResponseTrailer};

    /// What is found when `stream` arrives cut into pieces of these sizes, over and over.
    fn found(scan: &mut Scan, stream: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut found = Vec::new();
        let mut rest = stream;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            scan.feed(piece, |bytes| found.extend_from_slice(bytes));
            rest = after;
        }
        found
    }

    fn message(audio: Option<&[u8]>) -> Vec<u8> {
        let payload = match audio {
            Some(audio) => Payload::Audio(audio.to_vec()),
            None => Payload::Trailer(SynthesisResponseTrailer::default()),
        };
        framed(&SynthesisResponseStream { payload: Some(payload) })
    }

    proptest! {
        #[test]
        fn all_audio_and_nothing_else_is_found_wherever_the_stream_is_cut(
            chunks in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..400)), 0..12),
            sizes in prop::collection::vec(1_usize..200, 1..8),
        ) {
            let stream: Vec<u8> = chunks.iter().flat_map(|chunk| message(chunk.as_deref())).collect();
            let mut scan = Scan::new(1);
            let expected: Vec<u8> = chunks.iter().flatten().flatten().copied().collect();
            prop_assert_eq!(found(&mut scan, &stream, &sizes), expected);
            prop_assert!(!scan.malformed() && !scan.compressed());
        }

        #[test]
        fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            let mut scan = Scan::new(1);
            prop_assert!(found(&mut scan, &bytes, &[size]).len() <= bytes.len());
        }

        #[test]
        fn a_message_that_is_none_does_not_hide_the_next(
            garbage in prop::collection::vec(any::<u8>(), 0..60), size in 1_usize..20,
        ) {
            let mut stream = vec![0, 0, 0, 0, u8::try_from(garbage.len()).unwrap()];
            stream.extend_from_slice(&garbage);
            stream.extend_from_slice(&message(Some(b"the next")));
            prop_assert!(found(&mut Scan::new(1), &stream, &[size]).ends_with(b"the next"));
        }
    }

    #[test]
    fn other_fields_of_every_type_are_passed_over() {
        // Fields 3 (number), 4 (64 bits), 5 (32 bits), 7 (text), then the audio.
        let mut fields =
            vec![0x18, 0x96, 0x01, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4, 0x3a, 2, b'h', b'i'];
        fields.extend_from_slice(&[0x0a, 3, 7, 8, 9]);
        let mut stream = vec![0, 0, 0, 0, u8::try_from(fields.len()).unwrap()];
        stream.extend_from_slice(&fields);
        for size in 1..stream.len() {
            let mut scan = Scan::new(1);
            assert_eq!(found(&mut scan, &stream, &[size]), [7, 8, 9]);
            assert!(!scan.malformed());
        }
    }

    #[test]
    fn what_is_compressed_is_not_looked_into() {
        let mut stream = message(Some(b"secret"));
        stream[0] = 1;
        stream.extend_from_slice(&message(Some(b"plain")));
        for size in 1..stream.len() {
            let mut scan = Scan::new(1);
            assert_eq!(found(&mut scan, &stream, &[size]), b"plain");
            assert!(scan.compressed() && !scan.malformed());
        }
    }
}
