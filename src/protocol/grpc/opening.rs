//! Decides when a streamed request has brought text that can be spoken: from there on the engine has work, and the call
//! needs a slot.

use prost::Message;

use super::{Asked, PREFIX_BYTES, Scan};

/// `SPLIT_STRATEGY_ACCUMULATE_SENTENCE`: the engine puts pieces of text together until a sentence is complete.
const ACCUMULATE_SENTENCE: i32 = 3;

/// Where the engine puts pieces together, no more characters than these are waited for.
const SENTENCE_CHARACTERS_MAX: usize = 200;

/// What ends a sentence, in the writing systems of Rime's languages and a few more.
const ENDS: [char; 13] = ['.', '!', '?', '…', ';', ':', '\n', '。', '！', '？', '।', '؟', '۔'];

/// The field that carries all parameters, in the first message.
const HEADER: u32 = 1;
/// The field of `rime.StreamingSynthesisRequest` that carries text.
pub const TEXT_CHUNK: u32 = 2;

/// The beginning of a `SynthesizeStreaming` request. Looks at every byte once, and keeps no text but the header's.
#[derive(Clone, Debug)]
pub struct Opening {
    header: Scan,
    text: Scan,
    /// The bytes of a header that is not complete: a message of its own.
    unfinished: Vec<u8>,
    asked: Asked,
    heard: Heard,
    unread: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            header: Scan::new(HEADER),
            text: Scan::new(TEXT_CHUNK),
            unfinished: Vec::new(),
            asked: Asked::default(),
            heard: Heard::default(),
            unread: false,
        }
    }
}

impl Opening {
    /// Takes the next bytes of the request.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.header.feed(bytes, |piece| self.unfinished.extend_from_slice(piece));
        self.text.feed(bytes, |piece| self.heard.bytes(piece));
        self.unread |= self.header.compressed() || self.header.malformed();
        if !self.unfinished.is_empty() && !self.header.is_in_field() {
            self.header_ended();
        }
    }

    fn header_ended(&mut self) {
        let header = std::mem::take(&mut self.unfinished);
        match Asked::decode(&header[..]) {
            Ok(asked) => self.heard.text(&asked.text),
            Err(_) => self.unread = true,
        }
        // A second header adds to the first. What of it cannot be read is noted.
        let _ = self.asked.merge(&header[..]);
    }

    /// Whether the engine has something to speak. What cannot be read may be text.
    #[must_use]
    pub fn speaks(&self) -> bool {
        let accumulates = self.asked.split == Some(ACCUMULATE_SENTENCE);
        self.unread || self.heard.words && (!accumulates || self.heard.is_sentence())
    }

    /// What the header asks for; nothing while it is not complete.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked.clone()
    }
}

/// What is known of the text so far.
#[derive(Clone, Debug, Default)]
struct Heard {
    words: bool,
    ends: bool,
    characters: usize,
    /// The beginning of a character whose rest is to come.
    cut: Vec<u8>,
}

impl Heard {
    fn text(&mut self, text: &str) {
        for character in text.chars() {
            self.words |= character.is_alphanumeric();
            self.ends |= ENDS.contains(&character);
            self.characters = self.characters.saturating_add(1);
        }
    }

    /// Text that may be cut within a character.
    fn bytes(&mut self, bytes: &[u8]) {
        let mut joined = std::mem::take(&mut self.cut);
        joined.extend_from_slice(bytes);
        let mut rest = &joined[..];
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.text(&String::from_utf8_lossy(valid));
            let Some(invalid) = error.error_len() else {
                return self.cut = after.to_vec();
            };
            self.text("\u{fffd}");
            rest = &after[invalid..];
        }
        self.text(&String::from_utf8_lossy(rest));
    }

    fn is_sentence(&self) -> bool {
        self.ends || self.characters > SENTENCE_CHARACTERS_MAX
    }
}

const _: () = assert!(PREFIX_BYTES == 5, "the scanners count the prefix by hand");

#[cfg(test)]
mod tests {
    use super::super::framed;
    use super::*;
    use proptest::prelude::*;
    use rimelabs_api::rime::streaming_synthesis_request::Payload;
    use rimelabs_api::rime::{StreamingSynthesisRequest, SynthesisRequest};

    fn header(text: &str, split: Option<i32>) -> Vec<u8> {
        let header =
            SynthesisRequest { text: text.into(), split_strategy: split, ..SynthesisRequest::default() };
        framed(&StreamingSynthesisRequest { payload: Some(Payload::Header(header)) })
    }

    fn chunk(text: &str) -> Vec<u8> {
        framed(&StreamingSynthesisRequest { payload: Some(Payload::TextChunk(text.into())) })
    }

    /// Whether it speaks, after each message; fed byte by byte.
    fn speaks(messages: &[Vec<u8>]) -> Vec<bool> {
        let mut opening = Opening::default();
        let after = messages.iter().map(|message| {
            message.chunks(1).for_each(|byte| opening.feed(byte));
            opening.speaks()
        });
        after.collect()
    }

    #[test]
    fn a_header_alone_needs_no_slot_and_the_first_words_do() {
        assert_eq!(speaks(&[header("", None), chunk(" "), chunk("Hello")]), [false, false, true]);
        assert_eq!(speaks(&[header("Hello.", None)]), [true]);
        assert_eq!(speaks(&[header("", Some(1)), chunk("…"), chunk("नमस्ते")]), [false, false, true]);
    }

    #[test]
    fn pieces_that_the_engine_puts_together_need_a_slot_when_a_sentence_is_complete() {
        let split = Some(ACCUMULATE_SENTENCE);
        assert_eq!(speaks(&[header("", split), chunk("Hello"), chunk(" there."),]), [false, false, true]);
        assert_eq!(speaks(&[header("", split), chunk("你好"), chunk("。")]), [false, false, true]);
        assert_eq!(speaks(&[header("", split), chunk(&"word ".repeat(41))]), [false, true]);
    }

    #[test]
    fn what_cannot_be_read_may_be_text() {
        assert_eq!(speaks(&[vec![1, 0, 0, 0, 2, 7, 7]]), [true]);
        assert_eq!(speaks(&[vec![0, 0, 0, 0, 2, 0xff, 0xff]]), [true]);
    }
    #[test]
    fn no_text_is_kept_so_that_none_is_looked_at_twice() {
        let mut opening = Opening::default();
        for message in
            std::iter::once(header("", Some(ACCUMULATE_SENTENCE))).chain((0..5_000).map(|_| chunk(" ")))
        {
            message.chunks(1).for_each(|byte| opening.feed(byte));
            assert_eq!((opening.unfinished.len(), opening.heard.cut.len()), (0, 0));
        }
        assert_eq!(opening.heard.characters, 5_000);
        "ह".as_bytes().iter().for_each(|byte| opening.heard.bytes(&[*byte]));
        assert!(opening.speaks(), "a letter in three pieces, and long enough");
    }

    proptest! {
        #[test]
        fn text_is_the_same_wherever_it_is_cut(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                "\\PC{0,40}".prop_map(String::into_bytes),
            ],
            size in 1_usize..6,
        ) {
            let mut heard = Heard::default();
            bytes.chunks(size).for_each(|piece| heard.bytes(piece));
            let mut whole = Heard::default();
            whole.bytes(&bytes);
            prop_assert_eq!(
                (heard.words, heard.ends, heard.characters, &heard.cut),
                (whole.words, whole.ends, whole.characters, &whole.cut)
            );
            let text = String::from_utf8_lossy(&bytes[..bytes.len() - whole.cut.len()]);
            prop_assert_eq!(whole.words, text.chars().any(char::is_alphanumeric));
            prop_assert_eq!(whole.characters, text.chars().count());
        }
    }

    #[test]
    fn a_second_header_adds_to_the_first() {
        let mut opening = Opening::default();
        opening.feed(&header("", Some(ACCUMULATE_SENTENCE)));
        opening.feed(&header("Hello", None));
        assert!(!opening.speaks(), "a sentence is put together");
        assert_eq!(
            (opening.asked().text.as_str(), opening.asked().split),
            ("Hello", Some(ACCUMULATE_SENTENCE))
        );
        opening.feed(&header(" there.", None));
        assert!(opening.speaks());
    }
}
