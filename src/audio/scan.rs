//! Finds one string in a passing JSON text and hands its content on in pieces. Keeps nothing of it, and
//! checks of JSON only what it needs to stay in step.

/// Nesting that is followed. Rime's answers are two deep.
const DEPTH_MAX: u8 = 32;
/// Both `audioContent` and `model_output` are this long; longer keys are none of ours.
const KEY_BYTES_MAX: usize = 12;

/// A scanner for the string at `{"<outer>": "…"}`, and at `{"<outer>": {"<inner>": "…"}}` where there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    outer: &'static [u8],
    inner: Option<&'static [u8]>,
    /// Bit n: whether the container at depth n + 1 is an object.
    objects: u32,
    depth: u8,
    /// Whether the outer key was the last one at depth 1.
    in_outer: bool,
    /// Whether a string here would be a key.
    key_next: bool,
    /// Whether the last key was the wanted one.
    wanted: bool,
    key: Word<KEY_BYTES_MAX>,
    /// The code unit of a `\u` escape.
    unit: u16,
    part: Part,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Between,
    String(Kind),
    Escape(Kind),
    /// After `\u`, and how many digits came.
    Unicode(Kind, u8),
    /// Nested too deep, or brackets that do not match.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Key,
    Wanted,
    Other,
}

/// What the scanner has to tell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// The next piece of the wanted string's content.
    Piece(&'a [u8]),
    /// The wanted string is over.
    End,
}

impl Scan {
    pub(super) fn new(outer: &'static str, inner: Option<&'static str>) -> Self {
        Self {
            outer: outer.as_bytes(),
            inner: inner.map(str::as_bytes),
            objects: 0,
            depth: 0,
            in_outer: false,
            key_next: false,
            wanted: false,
            key: Word::default(),
            unit: 0,
            part: Part::Between,
        }
    }

    /// Back to the beginning of a text.
    pub(super) fn restart(&mut self) {
        *self = Self { outer: self.outer, inner: self.inner, ..Self::new("", None) };
    }

    /// Whether the text is nothing that the scanner can follow.
    pub(super) fn is_lost(&self) -> bool {
        self.part == Part::Lost
    }

    /// Takes the next bytes of the text.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found<'_>)) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::String(Kind::Key) => self.key_byte(bytes),
                Part::String(kind) => self.string(bytes, kind, &mut found),
                Part::Escape(kind) => {
                    self.escape(bytes[0], kind, &mut found);
                    &bytes[1..]
                }
                Part::Unicode(kind, digits) => {
                    self.unicode(bytes[0], kind, digits, &mut found);
                    &bytes[1..]
                }
                Part::Between => {
                    self.between(bytes[0]);
                    &bytes[1..]
                }
                Part::Lost => return,
            };
        }
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' if self.depth == DEPTH_MAX => self.part = Part::Lost,
            b'{' | b'[' => {
                let object = byte == b'{';
                self.objects = self.objects & !(1 << self.depth) | u32::from(object) << self.depth;
                self.depth += 1;
                (self.key_next, self.wanted) = (object, false);
            }
            b'}' | b']' if self.depth == 0 => self.part = Part::Lost,
            b'}' | b']' => {
                self.depth -= 1;
                (self.key_next, self.wanted) = (false, false);
            }
            b',' => {
                self.key_next = self.depth > 0 && self.objects >> (self.depth - 1) & 1 == 1;
                self.wanted = false;
            }
            b'"' => {
                self.key.clear();
                self.part = Part::String(match (self.key_next, self.wanted) {
                    (true, _) => Kind::Key,
                    (_, true) => Kind::Wanted,
                    _ => Kind::Other,
                });
            }
            _ => {}
        }
    }

    fn key_byte<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes[0] {
            b'"' => self.key_end(),
            b'\\' => self.part = Part::Escape(Kind::Key),
            byte => self.key.push(byte),
        }
        &bytes[1..]
    }

    fn key_end(&mut self) {
        let key = self.key.get();
        let is_outer = key == Some(self.outer);
        self.wanted = match self.depth {
            1 => is_outer,
            2 => self.in_outer && self.inner.is_some() && key == self.inner,
            _ => false,
        };
        if self.depth == 1 {
            self.in_outer = is_outer;
        }
        self.key_next = false;
        self.part = Part::Between;
    }

    fn string<'a>(&mut self, bytes: &'a [u8], kind: Kind, found: &mut impl FnMut(Found<'_>)) -> &'a [u8] {
        let wanted = kind == Kind::Wanted;
        let end = position(bytes, |byte| byte == b'"' || byte == b'\\').unwrap_or(bytes.len());
        let (piece, rest) = bytes.split_at(end);
        if wanted && !piece.is_empty() {
            found(Found::Piece(piece));
        }
        let Some((&byte, rest)) = rest.split_first() else { return rest };
        if byte == b'\\' {
            self.part = Part::Escape(kind);
        } else {
            self.part = Part::Between;
            if wanted {
                found(Found::End);
            }
        }
        rest
    }

    fn escape(&mut self, byte: u8, kind: Kind, found: &mut impl FnMut(Found<'_>)) {
        self.part = Part::String(kind);
        match byte {
            b'u' => {
                self.unit = 0;
                self.part = Part::Unicode(kind, 0);
            }
            // Some writers escape the slash, which is base64. The other short escapes are not.
            b'/' => self.escaped(b'/', kind, found),
            _ => self.escaped(b' ', kind, found),
        }
    }

    fn unicode(&mut self, byte: u8, kind: Kind, digits: u8, found: &mut impl FnMut(Found<'_>)) {
        let digit = char::from(byte).to_digit(16).unwrap_or(0);
        self.unit = self.unit << 4 | u16::try_from(digit).unwrap_or(0);
        if digits < 3 {
            self.part = Part::Unicode(kind, digits + 1);
            return;
        }
        self.part = Part::String(kind);
        let byte = u8::try_from(self.unit).ok().filter(u8::is_ascii).unwrap_or(b' ');
        self.escaped(byte, kind, found);
    }

    fn escaped(&mut self, byte: u8, kind: Kind, found: &mut impl FnMut(Found<'_>)) {
        match kind {
            Kind::Key => self.key.push(byte),
            Kind::Wanted => found(Found::Piece(&[byte])),
            Kind::Other => {}
        }
    }
}

/// A short word in passing: compared with words of at most N bytes, so only the beginning of longer ones is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<const N: usize> {
    bytes: [u8; N],
    /// One past N stands for every longer word.
    len: u8,
}

impl<const N: usize> Default for Word<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Word<N> {
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.len)) {
            *place = byte;
        }
        self.len += u8::from(usize::from(self.len) <= N);
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The word, or `None` if it is longer than N.
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::from(self.len))
    }
}

/// The first byte that `is` one. Looks at blocks first, which the compiler turns into vector code.
pub(super) fn position(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    const BLOCK: usize = 64;
    let clean =
        bytes.chunks_exact(BLOCK).take_while(|block| !block.iter().fold(false, |any, byte| any | is(*byte)));
    let start = clean.count() * BLOCK;
    bytes[start..].iter().position(|byte| is(*byte)).map(|at| start + at)
}
