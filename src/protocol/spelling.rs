//! How a caller spelled the names of its fields. Case tells nothing (RFC 9110 section 5.1), yet what a proxy respells is
//! sooner or later missed by somebody who looked for it. Checks nothing: whoever parsed the head has.

use http::HeaderName;
use memchr::memchr;

/// A head as it came, from its request line to the empty line.
#[derive(Clone, Debug)]
pub struct Spelling(Vec<u8>);

impl Spelling {
    /// That of `head`.
    #[must_use]
    pub const fn new(head: Vec<u8>) -> Self {
        Self(head)
    }

    /// The names, to be asked for one by one.
    #[must_use]
    pub fn names(&self) -> Names<'_> {
        Names { lines: after_line(&self.0), passed: Vec::new() }
    }
}

fn after_line(bytes: &[u8]) -> &[u8] {
    memchr(b'\n', bytes).map_or(&[], |end| &bytes[end + 1..])
}

/// Whether `spelled` is a spelling of `name`, which has no capitals.
fn is_spelled(spelled: &[u8], name: &[u8]) -> bool {
    let same = |(spelled, small): (&u8, &u8)| spelled.to_ascii_lowercase() == *small;
    spelled.len() == name.len() && spelled.iter().zip(name).all(same)
}

/// Names that were not asked for yet.
#[derive(Debug)]
pub struct Names<'a> {
    /// The lines that were not looked at: fields mostly leave in the order in which they came.
    lines: &'a [u8],
    /// Looked at on the way to others.
    passed: Vec<&'a [u8]>,
}

impl<'a> Names<'a> {
    /// The spelling of the next field of that name; `None` where the caller sent no more of them.
    pub fn of(&mut self, name: &HeaderName) -> Option<&'a [u8]> {
        let name = name.as_str().as_bytes();
        if let Some(at) = self.passed.iter().position(|passed| is_spelled(passed, name)) {
            return Some(self.passed.remove(at));
        }
        while !self.lines.is_empty() {
            let lines = self.lines;
            self.lines = after_line(lines);
            if let Some((spelled, [b':', ..])) = lines.split_at_checked(name.len())
                && is_spelled(spelled, name)
            {
                return Some(spelled);
            }
            let line = &lines[..lines.len() - self.lines.len()];
            self.passed.extend(memchr(b':', line).map(|colon| &line[..colon]));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(head: &str, names: &[&'static str]) -> Vec<Option<String>> {
        let spelling = Spelling::new(head.as_bytes().to_vec());
        let mut left = spelling.names();
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        names.iter().map(|name| left.of(&HeaderName::from_static(name)).map(text)).collect()
    }

    fn some(names: &[&str]) -> Vec<Option<String>> {
        names.iter().map(|name| Some((*name).to_owned())).collect()
    }

    #[test]
    fn each_name_is_found_as_it_was_written() {
        let head = "POST / HTTP/1.1\r\nhOST: a:80\r\nX-Empty:\r\nACCEPT: a:b\r\n\r\n";
        assert_eq!(spelled(head, &["host", "x-empty", "accept"]), some(&["hOST", "X-Empty", "ACCEPT"]));
    }

    #[test]
    fn fields_of_one_name_keep_each_its_own_spelling() {
        let head = "GET / HTTP/1.1\r\nX-A: 1\r\nX-B: 2\r\nx-A: 3\r\n\r\n";
        let found = spelled(head, &["x-a", "x-a", "x-b"]);
        assert_eq!(found, some(&["X-A", "x-A", "X-B"]));
    }

    #[test]
    fn a_field_that_the_caller_did_not_send_has_no_spelling() {
        let head = "GET / HTTP/1.1\r\nConnection: close\r\nVia: 1.1 x\r\n\r\n";
        assert_eq!(spelled(head, &["via", "via", "x-forwarded-for"]), [Some("Via".to_owned()), None, None]);
    }

    #[test]
    fn a_colon_in_the_target_or_a_bare_line_feed_misleads_nobody() {
        let head = "GET http://a:80/?b:c HTTP/1.1\nHOST: x\nx:y:z\n\n";
        assert_eq!(spelled(head, &["host", "x"]), some(&["HOST", "x"]));
    }
}
