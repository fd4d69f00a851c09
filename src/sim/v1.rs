//! WebSocket v1 (`rime.v1.binary`, `rime.v1.json`): contexts that are spoken side by side on one socket. Decides
//! what each message means; knows no frames and no GPU.

mod context;

use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use prost::Message as _;
use rimelabs_api::web_socket_request::Payload as Request;
use rimelabs_api::web_socket_response::Payload as Response;
use rimelabs_api::{
    SynthesisRequest, WebSocketCancelled, WebSocketConfig, WebSocketError, WebSocketReady, WebSocketRequest,
    WebSocketResponse, WebSocketStarted,
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use self::context::{Context, Spoken};
use super::choices::OnDuplicateStart;
use super::socket::{Outbox, Session};
use super::surface::Surface;

/// Longest name of a context.
const CONTEXT_ID_BYTES_MAX: usize = 128;
/// How long a caller without an `Authorization` header has to send one in its first message.
const AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Languages that the engine says it speaks.
pub(super) const LANGUAGES: [&str; 4] = ["en", "es", "fr", "de"];

/// How messages to the caller are written. Those from the caller tell by their frame's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Protobuf.
    Binary,
    /// Protobuf's JSON mapping.
    Json,
}

impl Encoding {
    /// The first offer that the engine knows, and the encoding that it fixes. Without one, JSON.
    pub(super) fn choose(headers: &HeaderMap) -> (Self, Option<&'static str>) {
        let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let chosen = offers.flat_map(|offers| offers.split(',')).find_map(|offer| match offer.trim() {
            "rime.v1.binary" => Some((Self::Binary, Some("rime.v1.binary"))),
            "rime.v1.json" => Some((Self::Json, Some("rime.v1.json"))),
            _ => None,
        });
        chosen.unwrap_or((Self::Json, None))
    }

    fn write(self, response: &WebSocketResponse) -> Message {
        match self {
            Self::Binary => Message::binary(response.encode_to_vec()),
            // Strings, numbers and bytes: what cannot be written as JSON does not occur.
            Self::Json => Message::text(serde_json::to_string(response).unwrap_or_default()),
        }
    }
}

/// One socket.
#[derive(Debug)]
pub(super) struct V1 {
    surface: Arc<Surface>,
    encoding: Encoding,
    greeted: bool,
    authorization: Authorization,
    /// Whether the `config` message has come, or a `start`, after which none may.
    configured: bool,
    defaults: SynthesisRequest,
    contexts: Vec<Context>,
    /// The context that speaks next.
    turn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authorization {
    /// By the header of the upgrade.
    Header,
    /// The header was wrong.
    Wrong,
    /// By the first message.
    Message,
    /// Still to come.
    Until(Instant),
}

impl V1 {
    pub(super) fn new(surface: Arc<Surface>, encoding: Encoding, headers: &HeaderMap) -> Self {
        let authorization = match headers.get(AUTHORIZATION) {
            None => Authorization::Until(Instant::now() + AUTHORIZATION_TIMEOUT),
            Some(_) if surface.authenticate(headers.get(AUTHORIZATION)).is_ok() => Authorization::Header,
            Some(_) => Authorization::Wrong,
        };
        Self {
            surface,
            encoding,
            greeted: false,
            authorization,
            configured: false,
            defaults: SynthesisRequest::default(),
            contexts: Vec::new(),
            turn: 0,
        }
    }

    fn say(&self, out: &mut Outbox, context_id: &str, payload: Response) {
        let response = WebSocketResponse { context_id: context_id.to_owned(), payload: Some(payload) };
        out.say(self.encoding.write(&response));
    }

    fn complain(&self, out: &mut Outbox, context_id: &str, kind: &str, message: &str) {
        self.fail(out, context_id, kind, message, None);
    }

    fn fail(
        &self,
        out: &mut Outbox,
        context_id: &str,
        kind: &str,
        message: &str,
        request_id: Option<String>,
    ) {
        let (kind, message) = (kind.to_owned(), message.to_owned());
        self.say(out, context_id, Response::Error(WebSocketError { kind, message, request_id }));
    }

    fn turn_away(&self, out: &mut Outbox, message: &str) {
        self.complain(out, "", "unauthenticated", message);
        out.close(CloseCode::Policy, message);
    }

    fn read(message: &Message) -> Result<WebSocketRequest, String> {
        match message {
            Message::Text(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Message::Binary(bytes) => {
                WebSocketRequest::decode(bytes.clone()).map_err(|error| error.to_string())
            }
            _ => Err("no data".to_owned()),
        }
    }

    fn configure(&mut self, config: WebSocketConfig, out: &mut Outbox) {
        if self.configured {
            return self.complain(
                out,
                "",
                "invalid_input",
                "config must be the first message, and the only one",
            );
        }
        self.configured = true;
        match (self.authorization, &config.authorization) {
            (Authorization::Header, Some(_)) => {
                return self.complain(out, "", "invalid_input", "authorization was given at the upgrade");
            }
            (Authorization::Until(_), Some(key)) => {
                if let Err(complaint) = self.surface.check_key(key) {
                    return self.turn_away(out, complaint);
                }
                self.authorization = Authorization::Message;
            }
            (Authorization::Until(_), None) => return self.turn_away(out, "missing authorization"),
            _ => {}
        }
        self.defaults = config.defaults.unwrap_or_default();
        self.defaults.text.clear();
    }

    fn start(&mut self, id: &str, mut request: SynthesisRequest, out: &mut Outbox) {
        self.configured = true;
        if self.contexts.iter().any(|context| context.id == id) {
            match self.surface.on_duplicate_start {
                OnDuplicateStart::Ignore => return,
                OnDuplicateStart::Reject => {
                    return self.complain(out, "", "invalid_input", "the context is open already");
                }
                OnDuplicateStart::Fail => {
                    return self.end_with_error(id, "the context is open already", out);
                }
                OnDuplicateStart::Replace => self.cancel(id),
            }
        }
        merge(&mut request, &self.defaults);
        if let Some(status) = self.surface.refuse {
            return self.complain(out, id, super::refusal_kind(status), "no capacity");
        }
        match Context::start(&self.surface, id.to_owned(), &request) {
            Ok(context) => {
                let started = WebSocketStarted { request_id: context.request_id.clone() };
                self.say(out, id, Response::Started(started));
                self.contexts.push(context);
            }
            Err(complaint) => self.complain(out, id, "invalid_input", &complaint.to_string()),
        }
    }

    fn text(&mut self, id: &str, text: &str, out: &mut Outbox) {
        let heard = self.find(id).map(|context| context.hear(text));
        if heard != Some(true) {
            self.end_with_error(id, "the context is not open for text", out);
        }
    }

    /// An error that names a context is its end.
    fn end_with_error(&mut self, id: &str, message: &str, out: &mut Outbox) {
        self.cancel(id);
        self.complain(out, id, "invalid_input", message);
    }

    fn cancel(&mut self, id: &str) {
        if let Some(index) = self.contexts.iter().position(|context| context.id == id) {
            self.contexts.remove(index).cancel();
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Context> {
        self.contexts.iter_mut().find(|context| context.id == id)
    }
}

impl Session for V1 {
    fn hear(&mut self, message: Message, out: &mut Outbox) {
        let request = match Self::read(&message) {
            Ok(request) => request,
            Err(error) => {
                self.complain(out, "", "invalid_input", &format!("cannot decode the message: {error}"));
                return out.close(CloseCode::Invalid, "cannot decode the message");
            }
        };
        let Some(payload) = request.payload else {
            return self.complain(out, "", "invalid_input", "the message has no payload");
        };
        if let Request::Config(config) = payload {
            return self.configure(config, out);
        }
        if matches!(self.authorization, Authorization::Until(_)) {
            return self.turn_away(out, "missing authorization");
        }
        if request.context_id.len() > CONTEXT_ID_BYTES_MAX {
            return self.complain(out, "", "invalid_input", "contextId must be at most 128 bytes");
        }
        let id = match request.context_id {
            id if id.is_empty() => "default".to_owned(),
            id => id,
        };
        match payload {
            Request::Start(request) => self.start(&id, request, out),
            Request::Text(text) => self.text(&id, &text, out),
            // A context that was done before it hears that no more text comes has no use for it.
            Request::End(_) => self.find(&id).into_iter().for_each(Context::end),
            Request::Cancel(_) => {
                self.cancel(&id);
                self.say(out, &id, Response::Cancelled(WebSocketCancelled {}));
            }
            Request::Config(_) => {}
        }
    }

    fn poll_speak(&mut self, task: &mut Task<'_>, out: &mut Outbox) -> Poll<()> {
        if !self.greeted {
            self.greeted = true;
            let languages = LANGUAGES.map(str::to_owned).to_vec();
            let default_language = languages.first().cloned();
            let ready = WebSocketReady { protocol: 1, languages, default_language };
            self.say(out, "", Response::Ready(ready));
            // `ready` does not mean authenticated.
            if self.authorization == Authorization::Wrong {
                self.turn_away(out, "invalid api key");
            }
            return Poll::Ready(());
        }
        for step in 0..self.contexts.len() {
            let index = (self.turn + step) % self.contexts.len();
            let context = &mut self.contexts[index];
            let Poll::Ready(spoken) = context.poll_speak(task) else { continue };
            self.turn = index + 1;
            let id = context.id.clone();
            match spoken {
                Spoken::Audio(bytes) => self.say(out, &id, Response::Audio(bytes.into())),
                Spoken::Done(done, times) => {
                    self.contexts.remove(index);
                    for _ in 0..times {
                        self.say(out, &id, Response::Done(done.clone()));
                    }
                }
                Spoken::Failed => {
                    let request_id = self.contexts.remove(index).request_id;
                    self.fail(out, &id, "internal", "inference failed", Some(request_id));
                }
                Spoken::Cut => out.break_off(),
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn is_idle(&self) -> bool {
        self.contexts.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        match self.authorization {
            Authorization::Until(deadline) => Some(deadline),
            _ => None,
        }
    }

    fn late(&mut self, out: &mut Outbox) {
        self.authorization = Authorization::Wrong;
        self.turn_away(out, "no authorization came");
    }
}

/// Fills what `request` leaves open with `defaults`, field by field, none of them looked into.
fn merge(request: &mut SynthesisRequest, defaults: &SynthesisRequest) {
    fn fill<T: Clone>(field: &mut Option<T>, default: &Option<T>) {
        if field.is_none() {
            field.clone_from(default);
        }
    }
    fill(&mut request.language, &defaults.language);
    fill(&mut request.speaker, &defaults.speaker);
    fill(&mut request.audio_parameters, &defaults.audio_parameters);
    fill(&mut request.split_strategy, &defaults.split_strategy);
    fill(&mut request.coda_parameters, &defaults.coda_parameters);
    fill(&mut request.mist_parameters, &defaults.mist_parameters);
    fill(&mut request.timestamps, &defaults.timestamps);
    if request.custom_lexicon.is_empty() {
        request.custom_lexicon.clone_from(&defaults.custom_lexicon);
    }
}
