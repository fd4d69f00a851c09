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

/// The beginning of a `SynthesizeStreaming` request.
#[derive(Clone, Debug)]
pub struct Opening {
    header: Scan,
    text: Scan,
    /// The header's bytes: a message of its own.
    asked: Vec<u8>,
    chunks: Vec<u8>,
    unread: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            header: Scan::new(HEADER),
            text: Scan::new(TEXT_CHUNK),
            asked: Vec::new(),
            chunks: Vec::new(),
            unread: false,
        }
    }
}

impl Opening {
    /// Takes the next bytes of the request.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.header.feed(bytes, |piece| self.asked.extend_from_slice(piece));
        self.text.feed(bytes, |piece| self.chunks.extend_from_slice(piece));
        self.unread |= self.header.compressed() || self.header.malformed();
    }

    /// Whether the engine has something to speak. What cannot be read may be text.
    #[must_use]
    pub fn speaks(&self) -> bool {
        if self.unread {
            return true;
        }
        let asked = self.asked();
        let chunks = String::from_utf8_lossy(&self.chunks);
        if !asked.text.chars().chain(chunks.chars()).any(char::is_alphanumeric) {
            return false;
        }
        asked.split != Some(ACCUMULATE_SENTENCE)
            || asked.text.chars().chain(chunks.chars()).any(|character| ENDS.contains(&character))
            || asked.text.chars().chain(chunks.chars()).count() > SENTENCE_CHARACTERS_MAX
    }

    /// What the header asks for; nothing while it is not complete.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked::decode(&self.asked[..]).unwrap_or_default()
    }
}

const _: () = assert!(PREFIX_BYTES == 5, "the scanners count the prefix by hand");

#[cfg(test)]
mod tests {
    use super::super::framed;
    use super::*;
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
}
