//! HTTP/2 frames written by hand, and a connection that sends them whatever the protocol says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{self, soon};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header field that no table remembers (RFC 7541 section 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // Lengths of 127 and more take more than one byte.
        let length = text.len();
        if length < 127 {
            field.push(u8::try_from(length).unwrap());
        } else {
            field.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// A way into the gate, and what a synthesis looks like on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) grpc: bool,
}

impl Door {
    pub(crate) fn head(self) -> Vec<u8> {
        self.head_to(if self.grpc { "/rime.TextToSpeech/Synthesize" } else { "/" })
    }

    pub(crate) fn head_to(self, path: &str) -> Vec<u8> {
        let kind = if self.grpc { "application/grpc" } else { "application/json" };
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "gate"),
            ("content-type", kind),
            ("te", "trailers"),
        ];
        fields.iter().flat_map(|(name, value)| field(name, value)).collect()
    }

    pub(crate) fn body(self, characters: usize) -> Vec<u8> {
        if !self.grpc {
            return common::text(characters).into_bytes();
        }
        // Field 4 is the text.
        let text = "a".repeat(characters);
        let mut message = vec![0x22];
        let mut length = text.len();
        while length >= 128 {
            message.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        message.push(u8::try_from(length).unwrap());
        message.extend_from_slice(text.as_bytes());
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    /// The frames of a whole synthesis.
    pub(crate) fn synthesis(self, stream: u32, characters: usize) -> Vec<u8> {
        let mut frames = frame(HEADERS, END_HEADERS, stream, &self.head());
        for (number, piece) in self.body(characters).chunks(16_000).enumerate() {
            let last = (number + 1) * 16_000 >= self.body(characters).len();
            frames.extend(frame(DATA, if last { END_STREAM } else { 0 }, stream, piece));
        }
        frames
    }
}

/// An attacker's connection.
pub(crate) struct Attacker(TcpStream);

impl Attacker {
    /// With these settings.
    pub(crate) async fn to(door: Door, settings: &[(u16, u32)]) -> Self {
        let mut stream = soon("a connection", TcpStream::connect(door.address)).await.unwrap();
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        stream.write_all(&hello).await.unwrap();
        Self(stream)
    }

    /// Writes, reading what comes meanwhile; `false` once the gate has had enough.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let (mut from, mut to) = self.0.split();
        let reading = async {
            let mut space = [0; 65_536];
            while from.read(&mut space).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            written = to.write_all(bytes) => written.is_ok(),
            () = reading => false,
        }
    }

    /// Writes and never reads; `false` once the gate has had enough, or takes no more.
    pub(crate) async fn push(&mut self, bytes: &[u8]) -> bool {
        let patience = Duration::from_millis(500);
        matches!(tokio::time::timeout(patience, self.0.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next frame: its kind, flags, stream and payload. `None` at the connection's end.
    pub(crate) async fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// The gate makes room for more of a stream.
    #[track_caller]
    pub(crate) fn has_room(&mut self, wanted: u32) -> impl Future<Output = ()> {
        soon("room", async move {
            loop {
                let (kind, _, stream, _) = self.read().await.unwrap();
                if (kind, stream) == (WINDOW_UPDATE, wanted) {
                    return;
                }
            }
        })
    }

    /// The gate ends the connection, or says that it will.
    #[track_caller]
    pub(crate) fn is_thrown_out(&mut self) -> impl Future<Output = ()> {
        soon("the end of the attack", async {
            while let Some((kind, ..)) = self.read().await {
                if kind == GOAWAY {
                    return;
                }
            }
        })
    }
}
