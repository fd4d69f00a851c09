//! An answer's head: status and fields, and how its body is framed (RFC 9112 sections 4 to 6).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use httparse::Status;
use hyper::ext::ReasonPhrase;

use super::{AnswerError, Decoder, HEAD_BYTES_MAX, HEADERS_MAX, pass};
use crate::protocol::headers::decimal;

/// A head, and what is known from it about the rest.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) decoder: Decoder,
    /// The connection may carry another exchange once the body has ended.
    pub(crate) keeps: bool,
}

/// Takes a head out of `unread`. `None` where there is not all of it yet. Interim answers (1xx) are left out (RFC 9110 section
/// 15.2), but for a switch of protocols. `is_head`: the answer to `HEAD` has no body.
///
/// # Errors
///
/// [`AnswerError`] where the bytes are no head, or tell no certain length of what follows.
pub(crate) fn answer(unread: &mut Bytes, is_head: bool) -> Result<Option<Answer>, AnswerError> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let Status::Complete(length) =
            config.parse_response_with_uninit_headers(&mut parsed, unread, &mut fields)?
        else {
            return if unread.len() > HEAD_BYTES_MAX { Err(AnswerError::TooLong) } else { Ok(None) };
        };
        // The parser has filled in both, and takes three digits only.
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(AnswerError::Syntax(httparse::Error::Status))?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            pass(unread, length);
            continue;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        *head.headers_mut() = headers(parsed.headers, unread)?;
        let reason = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason));
        if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok()) {
            head.extensions_mut().insert(reason);
        }
        pass(unread, length);
        let said = Said::in_head(head.headers());
        let bodiless = is_head || status.is_informational() || matches!(status.as_u16(), 204 | 304);
        let decoder = if bodiless { Decoder::Length(0) } else { said.decoder(head.version())? };
        let keeps =
            said.keeps(head.version()) && decoder.is_delimited() && status != StatusCode::SWITCHING_PROTOCOLS;
        return Ok(Some(Answer { head, decoder, keeps }));
    }
}

/// Room for fields. The map of an answer is the one that hyper reads the next request on the caller's connection into, where
/// the gate's own come on top: one that had to grow for them would be moved on every request.
const FIELDS_ROOM: usize = 24;

/// The fields, their values still where they were read.
pub(super) fn headers(fields: &[httparse::Header<'_>], bytes: &Bytes) -> Result<HeaderMap, AnswerError> {
    let mut headers = HeaderMap::with_capacity(fields.len().max(FIELDS_ROOM));
    for field in fields {
        // The parser takes the same characters.
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| AnswerError::Syntax(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        let value = value.map_err(|_| AnswerError::Syntax(httparse::Error::HeaderValue))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What an answer's fields say of its body and of the connection: told in one pass, where every question would be a search.
#[derive(Default)]
struct Said {
    /// The last transfer coding is `chunked`, or another; `None` where there is none.
    chunked: Option<bool>,
    /// Or what is wrong with it.
    length: Option<Result<u64, &'static str>>,
    close: bool,
    keep_alive: bool,
}

impl Said {
    fn in_head(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            let items = || value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            match *name {
                TRANSFER_ENCODING => {
                    let last = items().next_back();
                    said.chunked = Some(last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")));
                }
                CONTENT_LENGTH => {
                    for item in items() {
                        let length = decimal(item).ok_or("Content-Length is no number");
                        said.length = match said.length {
                            Some(Ok(other)) if length.is_ok_and(|length| length != other) => {
                                Some(Err("Content-Length twice, and not the same"))
                            }
                            Some(Err(wrong)) => Some(Err(wrong)),
                            _ => Some(length),
                        };
                    }
                }
                CONNECTION => {
                    for item in items() {
                        said.close |= item.eq_ignore_ascii_case(b"close");
                        said.keep_alive |= item.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => {}
            }
        }
        said
    }

    /// Where the body ends (RFC 9112 section 6.3).
    fn decoder(&self, version: Version) -> Result<Decoder, AnswerError> {
        Ok(match self {
            Self { chunked: Some(_), .. } if version == Version::HTTP_10 => {
                return Err(AnswerError::Length("Transfer-Encoding in HTTP/1.0"));
            }
            Self { chunked: Some(true), .. } => Decoder::chunked(),
            Self { chunked: None, length: Some(length), .. } => {
                Decoder::Length(length.map_err(AnswerError::Length)?)
            }
            Self { .. } => Decoder::UntilClose,
        })
    }

    /// Whether the engine means to go on with the connection (RFC 9112 section 9.3).
    fn keeps(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(head: &'static str, is_head: bool) -> Result<Decoder, AnswerError> {
        answer(&mut Bytes::from_static(head.as_bytes()), is_head).map(|answer| answer.unwrap().decoder)
    }

    #[test]
    fn a_bad_length_counts_only_where_it_rules() {
        let bad = "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n";
        assert!(matches!(decoded(bad, false), Err(AnswerError::Length(_))));
        assert!(decoded(bad, true).is_ok_and(|decoder| decoder.is_ended()));
        let chunked = "HTTP/1.1 200 OK\r\nContent-Length: +5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(decoded(chunked, false).is_ok_and(|decoder| decoder.length().is_none()));
        let twice = "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n";
        assert!(matches!(decoded(twice, false), Err(AnswerError::Length(_))));
        let none = "HTTP/1.1 204 No Content\r\nContent-Length: 5, 6\r\n\r\n";
        assert!(decoded(none, false).is_ok_and(|decoder| decoder.is_ended()));
    }
}
