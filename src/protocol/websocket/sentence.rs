//! Decides whether a piece of text may hold the end of a sentence, so that an engine could begin to speak.
//!
//! Rime names `.`, `?` and `!`. Their kin in other scripts count as well, and so does a point inside `3.14` or
//! `e.g.`: an engine may or may not split there. Taking too much for a sentence costs a slot for a while; taking
//! too little would let a synthesis in without one.

/// Ends of sentences: Latin, CJK (full and half width), Arabic, Devanagari, Armenian, Ethiopic, Khmer, Burmese.
const ENDS: &[char] = &[
    '.', '?', '!', '…', '‥', '‼', '⁇', '⁈', '⁉', '‽', '。', '．', '？', '！', '｡', '؟', '۔', '।', '॥', '։',
    '።', '፧', '፨', '។', '၊', '။',
];
/// What may stand between the end of a sentence and the end of its text.
const CLOSERS: &[char] =
    &['"', '\'', '”', '’', '»', '›', ')', ']', '}', '」', '』', '）', '】', '》', '〉', '*', '_', '`'];

/// What a piece of text is to whoever waits for the end of a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Nothing in it can be spoken.
    pub(super) blank: bool,
    /// A sentence may end in it.
    pub(super) completes: bool,
    /// Nothing is left after the end of a sentence.
    pub(super) ends: bool,
    /// Characters, for an estimate of how long it sounds.
    pub(super) chars: u32,
}

impl Piece {
    pub(super) fn of(text: &str) -> Self {
        let trimmed = text.trim();
        let tail = trimmed.trim_end_matches(|c: char| CLOSERS.contains(&c) || c.is_whitespace());
        Self {
            blank: trimmed.is_empty(),
            completes: trimmed.contains(ENDS),
            ends: tail.ends_with(ENDS),
            chars: u32::try_from(trimmed.chars().count()).unwrap_or(u32::MAX),
        }
    }

    /// Text that cannot be read, and so might be anything.
    pub(super) const UNREAD: Self = Self { blank: false, completes: true, ends: true, chars: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_in_many_scripts_and_behind_closing_quotes() {
        for text in [
            "Hello.",
            "Hello there! ",
            "\"Is it?\"",
            "(Yes.)",
            "“So it is.”\n",
            "こんにちは。",
            "「本当？」",
            "مرحبا؟",
            "नमस्ते।",
            "Well…",
        ] {
            let piece = Piece::of(text);
            assert!(piece.completes && piece.ends && !piece.blank, "{text}");
        }
    }

    #[test]
    fn a_sentence_that_has_not_ended_completes_nothing() {
        for text in ["Hello", "Hello, there", "", "  \n", "one; two: three"] {
            let piece = Piece::of(text);
            assert!(!piece.completes && !piece.ends, "{text}");
        }
    }

    #[test]
    fn whatever_an_engine_might_split_at_counts_as_an_end_with_a_rest() {
        for text in ["It is 3.14 or so", "See e.g. this", "Hello. How are"] {
            let piece = Piece::of(text);
            assert!(piece.completes && !piece.ends, "{text}");
        }
    }
}
