//! Decides which of the text that came in pieces can be spoken. Knows no protocol.

use rimelabs_api::{SplitStrategy, SynthesisRequest};

/// Text of one synthesis that comes in pieces.
#[derive(Debug)]
pub(super) struct Input {
    /// Words wait here until their sentence is complete; nothing waits if every piece is spoken as it comes.
    accumulate: bool,
    buffer: String,
    open: bool,
}

impl Input {
    /// By default a piece is a sentence already.
    pub(super) fn new(request: &SynthesisRequest) -> Self {
        let accumulate = request.split_strategy == Some(SplitStrategy::AccumulateSentence.into());
        Self { accumulate, buffer: String::new(), open: true }
    }

    /// What can be spoken now that `text` has come; `None` if no text is expected any more.
    pub(super) fn hear(&mut self, text: &str) -> Option<Option<String>> {
        if !self.open {
            return None;
        }
        self.buffer.push_str(text);
        Some(if self.accumulate { take_sentences(&mut self.buffer) } else { take_all(&mut self.buffer) })
    }

    /// No more text comes: the rest.
    pub(super) fn end(&mut self) -> Option<String> {
        self.open = false;
        take_all(&mut self.buffer)
    }
}

/// All of the text, unless it is blank.
pub(super) fn take_all(buffer: &mut String) -> Option<String> {
    let text = std::mem::take(buffer);
    (!text.trim().is_empty()).then_some(text)
}

/// The sentences that are complete. What follows the last of them stays.
pub(super) fn take_sentences(buffer: &mut String) -> Option<String> {
    let mut end = 0;
    for (at, mark) in buffer.match_indices(['.', '?', '!']) {
        let after = at + mark.len();
        // A mark within a word is none: 3.14, rime.ai
        if buffer[after..].chars().next().is_none_or(|next| !next.is_alphanumeric()) {
            end = after;
        }
    }
    let rest = buffer.split_off(end);
    let mut sentences = std::mem::replace(buffer, rest);
    take_all(&mut sentences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> (Option<String>, String) {
        let mut buffer = text.to_owned();
        (take_sentences(&mut buffer), buffer)
    }

    #[test]
    fn what_follows_the_last_sentence_stays() {
        assert_eq!(sentences("No end in sight"), (None, "No end in sight".to_owned()));
        assert_eq!(sentences("One. Two! And"), (Some("One. Two!".to_owned()), " And".to_owned()));
        assert_eq!(sentences("It is 3.14 of"), (None, "It is 3.14 of".to_owned()));
        assert_eq!(sentences("Is it?"), (Some("Is it?".to_owned()), String::new()));
        assert_eq!(sentences(" "), (None, " ".to_owned()));
    }

    #[test]
    fn only_words_that_are_to_be_accumulated_wait_for_the_end_of_their_sentence() {
        let mut pieces = Input::new(&SynthesisRequest::default());
        assert_eq!(pieces.hear("And"), Some(Some("And".to_owned())));
        let strategy = Some(SplitStrategy::AccumulateSentence.into());
        let request = SynthesisRequest { split_strategy: strategy, ..SynthesisRequest::default() };
        let mut words = Input::new(&request);
        assert_eq!(words.hear("And"), Some(None));
        assert_eq!(words.hear(" so."), Some(Some("And so.".to_owned())));
        assert_eq!(words.hear(" On"), Some(None));
        assert_eq!(words.end(), Some(" On".to_owned()));
        assert_eq!(words.hear("more"), None);
    }
}
