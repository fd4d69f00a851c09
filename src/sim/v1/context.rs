//! One context of a WebSocket v1: text in, speech out. Knows no messages.

use std::task::{Context as Task, Poll};

use bytes::Bytes;
use rimelabs_api::{SynthesisRequest, WebSocketDone};

use super::super::counts::Protocol;
use super::super::request::{BadRequest, Voice};
use super::super::speech::{Speech, Struck};
use super::super::surface::Surface;
use super::super::text::Input;
use super::super::timestamps::{Words, wanted};

/// A context that is open.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: String,
    pub(super) request_id: String,
    speech: Speech,
    input: Input,
    words: Option<Words>,
}

/// What a context has to say.
#[derive(Debug)]
pub(super) enum Spoken {
    Audio(Bytes),
    /// The end, and how often it is told.
    Done(WebSocketDone, usize),
    Failed,
    Cut,
}

impl Context {
    /// Opens a context. A text that comes with it is all of its text.
    pub(super) fn start(
        surface: &Surface,
        id: String,
        request: &SynthesisRequest,
    ) -> Result<Self, BadRequest> {
        let voice = Voice::from_proto(request)?;
        let input = Input::new(request);
        let mut context = Self {
            id,
            request_id: surface.next_request_id(),
            speech: surface.open(voice, Protocol::V1),
            input,
            words: wanted(request).then(Words::default),
        };
        if !request.text.trim().is_empty() {
            context.say(&request.text);
            context.end();
        }
        Ok(context)
    }

    /// More text. False if the context takes none.
    pub(super) fn hear(&mut self, text: &str) -> bool {
        let Some(ready) = self.input.hear(text) else { return false };
        if let Some(ready) = ready {
            self.say(&ready);
        }
        true
    }

    /// No more text comes.
    pub(super) fn end(&mut self) {
        if let Some(rest) = self.input.end() {
            self.say(&rest);
        }
        self.speech.hold(false);
    }

    /// Ends it without another word.
    pub(super) fn cancel(self) {
        self.speech.cancel();
    }

    pub(super) fn poll_speak(&mut self, task: &mut Task<'_>) -> Poll<Spoken> {
        self.speech.poll_bytes(task).map(|piece| match piece {
            Some(Ok(bytes)) => Spoken::Audio(bytes),
            Some(Err(Struck::Error)) => Spoken::Failed,
            Some(Err(Struck::Cut)) => Spoken::Cut,
            None => {
                let timestamps = self.words.take().map(Words::into_timestamps);
                Spoken::Done(WebSocketDone { timestamps }, if self.speech.ends_twice() { 2 } else { 1 })
            }
        })
    }

    fn say(&mut self, text: &str) {
        let length = self.speech.say(text);
        if let (Some(words), Some(length)) = (&mut self.words, length) {
            words.push(text, length);
        }
    }
}
