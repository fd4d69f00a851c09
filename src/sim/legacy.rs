//! The legacy WebSockets, JSON (`/ws3`, `/ws2`) and binary: one voice for the whole socket, one run at a time.
//! Decides which text becomes a run and when a run is over; knows no frames and no GPU.

mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

pub(super) use self::wire::Wire;
use self::wire::{Operation, Said};
use super::choices::OnClear;
use super::counts::{Protocol, Socket};
use super::request::{BadRequest, Voice};
use super::socket::{Outbox, Session};
use super::speech::{Speech, Struck};
use super::surface::Surface;
use super::text::{take_all, take_sentences};
use super::timestamps::Words;

/// Flushes that may wait for the run before them.
const QUEUE_MAX: usize = 256;

/// When text is spoken (`segment`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    /// At `flush` and `eos`.
    Never,
    /// Sentence by sentence.
    BySentence,
    /// As it comes.
    Immediate,
}

/// One socket.
#[derive(Debug)]
pub(super) struct Legacy {
    surface: Arc<Surface>,
    wire: Wire,
    /// The parameters of the query, or what is wrong with them.
    parameters: Result<(Voice, Segment), String>,
    /// Text that is not spoken yet.
    buffer: String,
    /// The last `contextId`, which stays until another one comes.
    label: Option<String>,
    run: Option<Run>,
    /// Texts that wait for the end of the run.
    queue: VecDeque<(String, Option<String>)>,
    /// `eos` has come.
    ending: bool,
}

/// One stretch of speech, up to its `done`.
#[derive(Debug)]
struct Run {
    speech: Speech,
    /// The labels of its texts, and where in the sound each begins.
    labels: Vec<(Duration, Option<String>)>,
    length: Duration,
    words: Words,
}

impl Run {
    fn say(&mut self, text: &str, label: Option<&str>) -> bool {
        let Some(length) = self.speech.say(text) else { return false };
        self.labels.push((self.length, label.map(str::to_owned)));
        self.words.push(text, length);
        self.length += length;
        true
    }

    /// Whose sound is being sent.
    fn label(&self) -> Option<&str> {
        let produced = self.speech.produced();
        let begun = self.labels.iter().take_while(|(begins, _)| *begins < produced).last();
        begun.or(self.labels.first()).and_then(|(_, label)| label.as_deref())
    }

    fn last_label(&self) -> Option<&str> {
        self.labels.last().and_then(|(_, label)| label.as_deref())
    }
}

impl Legacy {
    pub(super) fn new(surface: Arc<Surface>, wire: Wire, query: &str) -> Self {
        let parameters = parameters(query).map_err(|complaint| complaint.to_string());
        Self {
            surface,
            wire,
            parameters,
            buffer: String::new(),
            label: None,
            run: None,
            queue: VecDeque::new(),
            ending: false,
        }
    }

    fn write(&mut self, text: &str, label: Option<String>, segment: Segment) {
        if label.is_some() {
            self.label = label;
        }
        self.buffer.push_str(text);
        let ready = match segment {
            Segment::Never => None,
            Segment::BySentence => take_sentences(&mut self.buffer),
            Segment::Immediate => take_all(&mut self.buffer),
        };
        if let Some(ready) = ready {
            self.queue.push_back((ready, self.label.clone()));
        }
    }

    fn flush(&mut self) {
        // With nothing to say there is no run, and so no `done`: a second one would end somebody's next turn.
        if let Some(rest) = take_all(&mut self.buffer) {
            self.queue.push_back((rest, self.label.clone()));
        }
    }

    fn clear(&mut self, out: &mut Outbox) {
        self.buffer.clear();
        self.queue.clear();
        if self.surface.on_clear == OnClear::PlayOn {
            return;
        }
        if let Some(run) = self.run.take() {
            if self.surface.on_clear == OnClear::StopDone {
                self.wire.done(run.last_label(), out);
            }
            run.speech.cancel();
        }
    }

    /// Lets the text that is ready join the run, or begin one.
    fn speak(&mut self, voice: Voice, segment: Segment, out: &mut Outbox) {
        while let Some((text, label)) = self.queue.pop_front() {
            let Some(run) = &mut self.run else {
                self.begin(voice, &text, label.as_deref(), out);
                continue;
            };
            // In `never` every flush is a run of its own. A run that has just ended takes no more text either.
            if segment == Segment::Never || !run.say(&text, label.as_deref()) {
                self.queue.push_front((text, label));
                break;
            }
        }
        let open = segment != Segment::Never && !self.buffer.trim().is_empty();
        if let Some(run) = &mut self.run {
            run.speech.hold(open);
        }
    }

    fn begin(&mut self, voice: Voice, text: &str, label: Option<&str>, out: &mut Outbox) {
        if let Some(status) = self.surface.refuse {
            return self.wire.error(status.as_u16(), "no capacity", out);
        }
        let speech = self.surface.open(voice, self.wire.protocol());
        let mut run = Run { speech, labels: Vec::new(), length: Duration::ZERO, words: Words::default() };
        run.say(text, label);
        self.run = Some(run);
    }

    fn act(&mut self, said: Said, segment: Segment, out: &mut Outbox) {
        match said {
            Said::Text { text, label } => self.write(&text, label, segment),
            Said::Operation(Operation::Flush) => self.flush(),
            Said::Operation(Operation::Clear) => self.clear(out),
            Said::Operation(Operation::Eos) => {
                self.flush();
                self.ending = true;
            }
            Said::Nonsense(complaint) => self.wire.complain(&complaint, out),
        }
    }

    fn end_if_over(&mut self, out: &mut Outbox) {
        if self.ending && self.run.is_none() && self.queue.is_empty() {
            out.close(CloseCode::Normal, "");
        }
    }
}

impl Session for Legacy {
    fn hear(&mut self, message: Message, out: &mut Outbox) {
        let Ok((voice, segment)) = self.parameters else { return };
        for said in self.wire.read(&message) {
            // Nothing counts any more after `eos`.
            if !self.ending {
                self.act(said, segment, out);
                if self.queue.len() > QUEUE_MAX {
                    return out.close(CloseCode::Error, "429: too much text waits");
                }
            }
        }
        self.speak(voice, segment, out);
        self.end_if_over(out);
    }

    fn poll_speak(&mut self, context: &mut Context<'_>, out: &mut Outbox) -> Poll<()> {
        let (voice, segment) = match &self.parameters {
            Ok(parameters) => *parameters,
            Err(complaint) => {
                out.close(CloseCode::Error, &format!("400: {complaint}"));
                return Poll::Ready(());
            }
        };
        let Some(run) = &mut self.run else { return Poll::Pending };
        let Poll::Ready(piece) = run.speech.poll_bytes(context) else { return Poll::Pending };
        match piece {
            Some(Ok(bytes)) => {
                if let Some(words) = run.words.take_json() {
                    self.wire.timestamps(&words, run.label(), out);
                }
                self.wire.chunk(bytes, run.label(), out);
            }
            Some(Err(Struck::Cut)) => out.break_off(),
            over @ (Some(Err(Struck::Error)) | None) => {
                if let Some(run) = self.run.take() {
                    let failed = over.is_some();
                    if failed {
                        self.wire.error(500, "inference failed", out);
                    }
                    if !failed || self.surface.done_after_error {
                        self.wire.done(run.last_label(), out);
                    }
                    if !failed && run.speech.ends_twice() {
                        self.wire.done(run.last_label(), out);
                    }
                }
                self.speak(voice, segment, out);
                self.end_if_over(out);
            }
        }
        Poll::Ready(())
    }

    fn is_idle(&self) -> bool {
        self.run.is_none()
    }
}

fn parameters(query: &str) -> Result<(Voice, Segment), BadRequest> {
    let parameter = |name: &str| {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value));
        found.next_back()
    };
    let segment = match parameter("segment").as_deref() {
        None | Some("" | "bySentence") => Segment::BySentence,
        Some("never") => Segment::Never,
        Some("immediate") => Segment::Immediate,
        Some(other) => return Err(BadRequest::Segment(other.to_owned())),
    };
    let immediate = parameter("immediate").is_some_and(|value| value == "true");
    let segment = if immediate { Segment::Immediate } else { segment };
    Ok((Voice::from_query(parameter)?, segment))
}

/// Undoes percent encoding. What is none stays as it is.
fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = value.get(at + 1..at + 3).filter(|_| byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                decoded.push(code);
                at += 3;
            }
            None => {
                decoded.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::audio::Format;
    use super::*;

    #[test]
    fn the_query_says_how_a_socket_speaks() {
        let (voice, segment) = parameters("speaker=luna&audioFormat=%70cm&samplingRate=16000").unwrap();
        assert_eq!((voice.format, voice.rate, segment), (Format::Pcm, 16_000, Segment::BySentence));
        assert_eq!(parameters("segment=never").unwrap().1, Segment::Never);
        assert_eq!(parameters("immediate=true").unwrap().1, Segment::Immediate);
        for wrong in ["segment=often", "audioFormat=flac", "samplingRate=fast", "modelId=tacotron"] {
            assert!(parameters(wrong).is_err(), "{wrong}");
        }
    }
}
