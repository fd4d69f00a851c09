//! From one TOML value to one Rust value, or to what the value must be. Knows no key, no file and no other value.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;
use toml::de::DeValue;

use super::bounds::{CONCURRENCY_MAX, DURATION_MAX, LIST_MAX, NAME_BYTES_MAX};
use super::read::{Wrong, list, nearest};
use super::values::{EngineUrl, FullStatus, LogFilter, QueueWaitMax, Threads};
use crate::target::{Target, TargetError};

impl Wrong {
    fn new(expected: impl Into<String>, label: impl Into<String>) -> Self {
        Self { expected: expected.into(), label: label.into(), help: None, element: None, within: None }
    }

    fn kind(expected: impl Into<String>, value: &DeValue<'_>) -> Self {
        let kind = match value {
            DeValue::String(_) => "this is a string",
            DeValue::Integer(_) => "this is an integer",
            DeValue::Float(_) => "this is a float",
            DeValue::Boolean(_) => "this is a boolean",
            DeValue::Datetime(_) => "this is a date or time",
            DeValue::Array(_) => "this is an array",
            DeValue::Table(_) => "this is a table",
        };
        Self::new(expected, kind)
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

fn text<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| Wrong::kind(expected, value))
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    // Digits beyond 128 bits are out of every range, as the end of the type is.
    Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
}

/// A whole number within `range`.
pub(super) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = integer(value) else {
            let wrong = Wrong::kind(expected, value);
            let quoted = value.as_str().is_some_and(|text| text.parse::<u64>().is_ok());
            return Err(if quoted { wrong.help("write the number without quotes") } else { wrong });
        };
        let label = if number < i128::from(*range.start()) { "too small" } else { "too large" };
        let within = u64::try_from(number).ok().filter(|number| range.contains(number));
        within.and_then(|number| T::try_from(number).ok()).ok_or_else(|| Wrong::new(expected, label))
    }
}

/// A number within `range`, whole or not.
pub(super) fn factor(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Result<f64, Wrong> {
    move |value| {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = match value {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => integer.as_str().parse::<f64>().ok(),
            _ => return Err(Wrong::kind(expected, value)),
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| Wrong::new(expected, "out of range"))
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    let expected = "`true` or `false`";
    value.as_bool().ok_or_else(|| match value.as_str() {
        Some("true" | "false") => Wrong::kind(expected, value).help("write it without quotes"),
        _ => Wrong::kind(expected, value),
    })
}

/// A duration from `min` to [`DURATION_MAX`].
pub(super) fn duration(min: Duration) -> impl Fn(&DeValue<'_>) -> Result<Duration, Wrong> {
    move |value| {
        let expected = "a duration such as `500ms`, `1s` or `2m`";
        if let Some(number) = integer(value) {
            return Err(Wrong::new(expected, "the unit is missing")
                .help(format!("write `\"{number}s\"` for seconds, `\"{number}ms\"` for milliseconds")));
        }
        let text = text(value, expected)?;
        let found =
            humantime::parse_duration(text).map_err(|error| Wrong::new(expected, error.to_string()))?;
        if found < min {
            let label = if found.is_zero() { "zero is not a time to wait" } else { "too short" };
            return Err(
                Wrong::new(expected, label).help(format!("at least {}", humantime::format_duration(min)))
            );
        }
        if found > DURATION_MAX {
            return Err(Wrong::new(expected, "too long").help("at most 24h"));
        }
        Ok(found)
    }
}

/// Shortest duration where zero makes no sense.
pub(super) const POSITIVE: Duration = Duration::from_millis(1);

pub(super) fn queue_wait_max(value: &DeValue<'_>) -> Result<QueueWaitMax, Wrong> {
    if value.as_str() == Some("auto") {
        return Ok(QueueWaitMax::Auto);
    }
    duration(POSITIVE)(value).map(QueueWaitMax::Fixed).map_err(|wrong| {
        let wrong = Wrong { expected: format!("`auto` or {}", wrong.expected), ..wrong };
        if wrong.label.starts_with("zero") {
            wrong.help("to refuse at once, set `when_full = \"reject\"`")
        } else {
            wrong
        }
    })
}

/// At least 1, at most [`CONCURRENCY_MAX`].
pub(super) fn concurrency_max(value: &DeValue<'_>) -> Result<NonZeroU32, Wrong> {
    let number = whole::<u32>(1..=CONCURRENCY_MAX)(value)?;
    // The range begins at 1, so nothing is replaced here.
    Ok(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
}

pub(super) fn threads(value: &DeValue<'_>) -> Result<Threads, Wrong> {
    if value.as_str() == Some("auto") {
        return Ok(Threads::Auto);
    }
    let number = whole::<usize>(1..=Threads::COUNT_MAX)(value);
    let number =
        number.map_err(|wrong| Wrong { expected: format!("`auto` or {}", wrong.expected), ..wrong })?;
    // The range begins at 1, so nothing is replaced here.
    Ok(Threads::Count(NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)))
}

pub(super) fn full_status(value: &DeValue<'_>) -> Result<FullStatus, Wrong> {
    match integer(value) {
        Some(429) => Ok(FullStatus::TooManyRequests),
        Some(503) => Ok(FullStatus::ServiceUnavailable),
        Some(_) => Err(Wrong::new("429 or 503", "")),
        None => Err(Wrong::kind("429 or 503", value)),
    }
}

/// One of the names of an enum.
pub(super) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let expected = match names.as_slice() {
            [only] => format!("`{only}`"),
            many => format!("one of {}", list(many)),
        };
        let text = text(value, &expected)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let wrong = Wrong::new(expected, "");
            match nearest(text, names.iter().copied()) {
                Some(near) => wrong.help(format!("did you mean `{near}`?")),
                None => wrong,
            }
        })
    }
}

pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let expected = "an IP address and a port, such as `0.0.0.0:8800` or `[::]:8800`";
    let text = text(value, expected)?;
    text.parse().map_err(|_| {
        let wrong = Wrong::new(expected, "");
        if text.parse::<std::net::IpAddr>().is_ok() {
            wrong.help("the port is missing")
        } else if let Some(port) = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()) {
            wrong.help(format!("for every address of the machine, write `0.0.0.0:{port}`"))
        } else if text.parse::<u16>().is_ok() {
            wrong.help(format!("for every address of the machine, write `0.0.0.0:{text}`"))
        } else if let Some(port) = text.strip_prefix("localhost:") {
            wrong.help(format!("write `127.0.0.1:{port}`"))
        } else {
            wrong
        }
    })
}

pub(super) fn engine_url(value: &DeValue<'_>) -> Result<EngineUrl, Wrong> {
    let expected = "a URL such as `http://127.0.0.1:8080`";
    EngineUrl::parse(text(value, expected)?).map_err(|label| Wrong::new(expected, label))
}

/// A path of a URL, without query.
pub(super) fn path(value: &DeValue<'_>) -> Result<String, Wrong> {
    let expected = "a path such as `/` or `/readyz`";
    let text = text(value, expected)?;
    let wrong = |label: &str| Err(Wrong::new(expected, label));
    if !text.starts_with('/') {
        return wrong("a path begins with `/`");
    }
    if text.len() > NAME_BYTES_MAX {
        return wrong("too long");
    }
    if text.contains(['?', '#']) {
        return wrong("a path has no query and no fragment");
    }
    if text.parse::<http::uri::PathAndQuery>().is_err() || !text.is_ascii() {
        return wrong("not allowed in a path; write it percent-encoded");
    }
    Ok(text.to_owned())
}

/// A name for people and labels: printable, not empty.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let expected = "a name of printable characters";
    let text = text(value, expected)?;
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return Err(Wrong::new(
            expected,
            "empty, or with spaces around it, or with control characters in it",
        ));
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Wrong::new(expected, "too long"));
    }
    Ok(text.to_owned())
}

/// A pseudonym in `Via`: a token (RFC 9110 section 5.6.2), or nothing.
pub(super) fn via(value: &DeValue<'_>) -> Result<Option<String>, Wrong> {
    let expected = "a word such as `rime-gate`, or empty for no `Via`";
    let text = text(value, expected)?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.len() > NAME_BYTES_MAX || !text.bytes().all(is_token) {
        return Err(Wrong::new(expected, "not a token of RFC 9110"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A header that carries a request id: any but those that HTTP itself lives by.
pub(super) fn request_id_header(value: &DeValue<'_>) -> Result<HeaderName, Wrong> {
    const RESERVED: [&str; 14] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let expected = "the name of a header such as `x-request-id`";
    let text = text(value, expected)?;
    let header: HeaderName = text.parse().map_err(|_| Wrong::new(expected, "not a header name"))?;
    if RESERVED.contains(&header.as_str()) {
        return Err(Wrong::new(expected, "this header has a meaning of its own"));
    }
    Ok(header)
}

pub(super) fn target(value: &DeValue<'_>) -> Result<Target, Wrong> {
    let expected = format!("a target such as `{}`", Target::GUIDE);
    text(value, &expected)?.parse().map_err(|TargetError { message, span }| Wrong {
        within: Some(span),
        ..Wrong::new(expected, message)
    })
}

pub(super) fn log_filter(value: &DeValue<'_>) -> Result<LogFilter, Wrong> {
    let expected = "a level such as `info`, or `info,rime_gate::admission=debug`";
    let text = text(value, expected)?;
    LogFilter::parse(text).map_err(|(level, within)| {
        let wrong = Wrong { within: Some(within), ..Wrong::new(expected, "not a level") };
        match nearest(level, LogFilter::LEVELS.into_iter()) {
            Some(near) => wrong.help(format!("did you mean `{near}`?")),
            None => wrong.help(format!("the levels are {}", list(&LogFilter::LEVELS))),
        }
    })
}

/// A list without repetition, each element read by `read`.
pub(super) fn list_of<T: PartialEq>(
    min: usize,
    read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
) -> impl Fn(&DeValue<'_>) -> Result<Vec<T>, Wrong> {
    move |value| {
        let expected = format!("a list of {min} to {LIST_MAX} strings");
        let Some(array) = value.as_array() else { return Err(Wrong::kind(expected, value)) };
        if array.len() < min || array.len() > LIST_MAX {
            return Err(Wrong::new(expected, format!("this list has {}", array.len())));
        }
        let mut found = Vec::with_capacity(array.len());
        for element in array {
            let one =
                read(element.get_ref()).map_err(|wrong| Wrong { element: Some(element.span()), ..wrong })?;
            if !found.contains(&one) {
                found.push(one);
            }
        }
        Ok(found)
    }
}
