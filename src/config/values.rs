//! The values a key can take that are more than a number, a text or a duration.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::uri::{Authority, Scheme, Uri};

/// How many worker threads the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// As many as there are cores, at most [`Threads::AUTO_MAX`].
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

impl Threads {
    /// More are of no use to one engine's traffic, and cost it cache.
    pub const AUTO_MAX: usize = 4;

    /// The number of threads on a machine with `cores` cores; at least 1.
    #[must_use]
    pub fn count(self, cores: usize) -> usize {
        match self {
            Self::Auto => cores.clamp(1, Self::AUTO_MAX),
            Self::Count(count) => count.get(),
        }
    }
}

/// One of the engine's doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// HTTP/1.1 and HTTP/2: one request is one synthesis.
    Http,
}

/// What happens to a synthesis when every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits, for a bounded time, in a queue of bounded length.
    Queue,
    /// It is refused at once.
    Reject,
}

/// How long a synthesis may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueWaitMax {
    /// As long as the target's TTFB leaves, less what the engine itself has needed of late.
    Auto,
    /// So long.
    Fixed(Duration),
}

/// HTTP status of a refusal for want of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullStatus {
    /// 429.
    TooManyRequests,
    /// 503.
    ServiceUnavailable,
}

impl FullStatus {
    /// The status code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::TooManyRequests => 429,
            Self::ServiceUnavailable => 503,
        }
    }
}

/// Which headers tell the engine who the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeaders {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Both.
    Both,
    /// Neither is added; what the caller sent is not touched.
    Off,
}

impl ForwardedHeaders {
    /// Whether `X-Forwarded-*` are written.
    #[must_use]
    pub const fn x_forwarded(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    /// Whether `Forwarded` is written.
    #[must_use]
    pub const fn forwarded(self) -> bool {
        matches!(self, Self::Forwarded | Self::Both)
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where an engine serves HTTP: `http://host:port`, nothing after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUrl {
    authority: Authority,
}

impl EngineUrl {
    /// Host and port as written, for the `Host` header: `127.0.0.1:8080`.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host to resolve and connect to; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port to connect to; 80 when none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(80)
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// One line that says what a URL of an engine may be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the gate speaks plain HTTP to its engine: write `http://`".to_owned());
        }
        let uri: Uri =
            text.parse().map_err(|_| "expected a URL such as `http://127.0.0.1:8080`".to_owned())?;
        let parts = uri.into_parts();
        let (Some(authority), true) = (parts.authority, parts.scheme == Some(Scheme::HTTP)) else {
            return Err("expected a URL such as `http://127.0.0.1:8080`".to_owned());
        };
        if parts.path_and_query.is_some_and(|path| path.as_str() != "/") {
            return Err("an engine's URL has no path: callers bring their own".to_owned());
        }
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err("an engine's URL holds a host and a port, nothing else".to_owned());
        }
        Ok(Self { authority })
    }
}

impl Default for EngineUrl {
    fn default() -> Self {
        Self { authority: Authority::from_static("127.0.0.1:8080") }
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A filter for log events: levels, each for all targets or for one, as in `info,rime_gate::admission=debug`.
/// Every such text is a directive of `tracing`'s `EnvFilter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The names of the levels, quietest first.
    pub const LEVELS: [&'static str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// The filter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}
