//! Reads a JSON object that has nothing nested and nothing escaped in it, as engines write their sound and most callers
//! their text. Such a string is passed over at the speed of memory; everything else is left to a real parser.

use memchr::memchr2;

/// A member's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A string's bytes, without its quotes.
    String(&'a [u8]),
    /// A number, as it stands there.
    Number(&'a [u8]),
    /// `true` or `false`.
    Boolean,
}

/// The members that a flat object has under `names`; none where one is absent or `null`.
///
/// `None` where the object is not flat, is no JSON or has a name twice: then this says nothing about it. A control
/// character in a string, which JSON forbids (RFC 8259 section 7), is not noticed.
pub(super) fn members<'a, const N: usize>(
    text: &'a [u8],
    names: [&str; N],
) -> Option<[Option<Value<'a>>; N]> {
    let mut found = [None; N];
    let mut seen = [false; N];
    let mut rest = Rest(text);
    rest.take(b'{')?;
    loop {
        let name = rest.string()?;
        rest.take(b':')?;
        let value = rest.value()?;
        if let Some(index) = names.iter().position(|wanted| wanted.as_bytes() == name) {
            if std::mem::replace(&mut seen[index], true) {
                return None;
            }
            found[index] = value;
        }
        if rest.take(b',').is_none() {
            break;
        }
    }
    rest.take(b'}')?;
    rest.trim();
    rest.0.is_empty().then_some(found)
}

/// As [`members`], where each must be a string; `None` where one is not.
pub(super) fn strings<'a, const N: usize>(text: &'a [u8], names: [&str; N]) -> Option<[Option<&'a [u8]>; N]> {
    let mut strings = [None; N];
    for (string, member) in strings.iter_mut().zip(members(text, names)?) {
        *string = match member {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(_) | Value::Boolean) => return None,
        };
    }
    Some(strings)
}

const WORD_BYTES: usize = size_of::<u64>();

/// Where the first quote or backslash is among eight bytes, the first being the lowest.
fn end_in(word: u64) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    // Sets a byte's highest bit where it was zero, and nowhere below the first such byte.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let ends = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
    (ends != 0).then(|| ends.trailing_zeros() as usize / 8)
}

/// What was not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn trim(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.trim();
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let end = match self.0.first_chunk() {
            // Names are short: for them the search at the speed of memory would take longer to begin than this to end.
            Some(word) => match end_in(u64::from_le_bytes(*word)) {
                Some(end) => end,
                None => WORD_BYTES + memchr2(b'"', b'\\', &self.0[WORD_BYTES..])?,
            },
            None => memchr2(b'"', b'\\', self.0)?,
        };
        let (string, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        Some(string)
    }

    /// `Some(None)` for `null`.
    fn value(&mut self) -> Option<Option<Value<'a>>> {
        self.trim();
        if self.0.first() == Some(&b'"') {
            return self.string().map(|string| Some(Value::String(string)));
        }
        let end =
            self.0.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r'))?;
        let (literal, rest) = self.0.split_at(end);
        self.0 = rest;
        let number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        match literal {
            b"null" => Some(None),
            b"true" | b"false" => Some(Some(Value::Boolean)),
            [_, ..] if literal.iter().all(number) => Some(Some(Value::Number(literal))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json, json};

    const NAMES: [&str; 3] = ["type", "data", "contextId"];

    #[test]
    fn a_flat_object_tells_its_strings_wherever_they_stand() {
        let found = strings(
            b" {\"data\" : \"AAAA\",\n\"type\":\"chunk\",\"n\":-1.5e3,\"x\":true,\"contextId\":null} ",
            NAMES,
        );
        assert_eq!(found, Some([Some(&b"chunk"[..]), Some(b"AAAA"), None]));
        assert_eq!(strings(br#"{"a":""}"#, ["a"]), Some([Some(&b""[..])]));
    }

    #[test]
    fn the_end_of_a_string_is_found_at_every_place() {
        for length in 0..40 {
            for filler in ["a", "\u{e4}", "!", "#", "[", "]", "\u{0}", "\u{ff}"] {
                let string = filler.repeat(length);
                let text = format!("{{\"{string}\":\"{string}\"}}");
                let found = strings(text.as_bytes(), [&string]);
                assert_eq!(found, Some([Some(string.as_bytes())]), "{length} of {filler:?}");
            }
            let escaped = format!("{{\"{}\\\\\":1}}", "a".repeat(length));
            assert_eq!(strings(escaped.as_bytes(), ["a"]), None, "{escaped}");
        }
    }

    #[test]
    fn what_is_nested_escaped_twice_or_no_json_is_left_to_a_real_parser() {
        for text in [
            r#"{"type":{"a":1}}"#,
            r#"{"x":[1],"type":"chunk"}"#,
            r#"{"type":"chu\u006ek"}"#,
            r#"{"ty\u0070e":"chunk"}"#,
            r#"{"type":"a","type":"b"}"#,
            r#"{"type":1}"#,
            r#"{"type":"a"},"#,
            r#"{"type":"a",}"#,
            r#"{"type":"a" "data":"b"}"#,
            r#"{"type":nul}"#,
            r#"{"type":}"#,
            r#"{"type":"a"#,
            r#"["type"]"#,
            "{}",
            "",
        ] {
            assert_eq!(strings(text.as_bytes(), NAMES), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_it_tells_is_what_serde_tells(
            members in prop::collection::vec(
                (prop::sample::select(vec!["type", "data", "contextId", "other", "o\"dd"]), 0..6, "[a-z\"\\\\{}:, é]{0,6}"),
                1..5,
            ),
            spaced in any::<bool>(),
        ) {
            let value = |kind: i32, text: &str| match kind {
                0 => Json::Null,
                1 => json!(1.5),
                2 => json!({"type": text}),
                _ => json!(text),
            };
            let object: Map<String, Json> =
                members.iter().map(|(name, kind, text)| ((*name).to_owned(), value(*kind, text))).collect();
            let text = if spaced { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            if let Some(found) = strings(&text, NAMES) {
                for (name, found) in NAMES.into_iter().zip(found) {
                    let expected = object.get(name).and_then(Json::as_str).map(str::as_bytes);
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
