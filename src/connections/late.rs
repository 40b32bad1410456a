//! Streams that come too late: a client may begin one in the moment in which it confirms that the connection is about to end. h2 passes
//! over such a stream's HEADERS, as it should, and takes the `WINDOW_UPDATE` that follows for one of a stream that nobody has begun, which
//! ends the connection at once, with all calls that were to come to their end. Here that frame becomes one of a type that nobody knows,
//! which HTTP/2 passes over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client says before its first frame.
const PREFACE: usize = 24;
/// A frame's header: three bytes of length, type, flags, four bytes of stream.
const HEADER: usize = 9;
/// Where its type, its flags and its stream begin.
const TYPE: usize = 3;
const FLAGS: usize = 4;
const STREAM: usize = 5;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// No frame's type.
const UNKNOWN: u8 = 0xff;
const ACK: u8 = 1;
/// What h2 sends with the PING whose answer ends a connection's streams.
const SHUTDOWN: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// A connection whose frames are looked at as they are read.
pub(super) struct Looked<S> {
    stream: S,
    frames: Frames,
}

impl<S> Looked<S> {
    /// `begun` becomes true with the client's first frame.
    pub(super) fn at(stream: S, begun: Arc<AtomicBool>) -> Self {
        Looked {
            stream,
            frames: Frames::new(begun),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Looked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.frames.read(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Looked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where in a connection's frames a reader is.
struct Frames {
    begun: Arc<AtomicBool>,
    /// Bytes to pass over until the next header.
    skip: usize,
    /// The header that comes in, and after a PING's what it brings.
    head: [u8; HEADER + SHUTDOWN.len()],
    have: usize,
    /// The newest stream that was begun before the end was confirmed.
    newest: u32,
    confirmed: bool,
}

impl Frames {
    fn new(begun: Arc<AtomicBool>) -> Self {
        Frames {
            begun,
            skip: PREFACE,
            head: [0; HEADER + SHUTDOWN.len()],
            have: 0,
            newest: 0,
            confirmed: false,
        }
    }

    fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let passed = self.skip.min(bytes.len() - at);
            self.skip -= passed;
            at += passed;
            let wanted = if self.have >= HEADER { self.head.len() } else { HEADER };
            let taken = (wanted - self.have).min(bytes.len() - at);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[at..at + taken]);
            self.have += taken;
            at += taken;
            // What was read before cannot be changed any more: a header that came in two parts just then goes on as it is.
            if self.have == wanted && self.is_late() && at >= HEADER - TYPE {
                bytes[at - (HEADER - TYPE)] = UNKNOWN;
            }
        }
    }

    /// Takes what has come of a frame, once it is enough. Whether the frame is to be passed over.
    fn is_late(&mut self) -> bool {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let (length, kind, flags) = (number(&self.head[..TYPE]) as usize, self.head[TYPE], self.head[FLAGS]);
        let stream = number(&self.head[STREAM..HEADER]) & (u32::MAX >> 1);
        if kind == SETTINGS {
            self.begun.store(true, Ordering::Relaxed);
        }
        if kind == PING && length == SHUTDOWN.len() {
            if self.have == HEADER {
                return false;
            }
            self.confirmed |= flags & ACK != 0 && self.head[HEADER..] == SHUTDOWN;
        } else {
            self.skip = length;
        }
        self.have = 0;
        if kind == HEADERS && !self.confirmed {
            self.newest = self.newest.max(stream);
        }
        kind == WINDOW_UPDATE && self.confirmed && stream > self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// What becomes of frames that are read in parts of so many bytes.
    fn read(frames: &[Vec<u8>], part: usize) -> Vec<u8> {
        let mut bytes = [vec![0; PREFACE], frames.concat()].concat();
        let mut reader = Frames::new(Arc::default());
        bytes.chunks_mut(part).for_each(|part| reader.read(part));
        bytes.split_off(PREFACE)
    }

    #[test]
    fn updates_of_late_streams_are_passed_over_and_nothing_else() {
        let update = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 5]);
        let begun = [
            frame(4, 0, 0, &[0; 12]),
            frame(HEADERS, 4, 1, b"fields"),
            update(1),
            frame(PING, 0, 0, &SHUTDOWN),
            frame(PING, ACK, 0, &[0; 8]),
            frame(HEADERS, 4, 3, &[8; 300]),
            update(5),
            frame(PING, ACK, 0, &SHUTDOWN),
        ];
        let after = [update(0), update(3), frame(HEADERS, 4, 5, b"late"), update(5)];
        let all = [begun.as_slice(), &after].concat();
        let whole = all.concat();
        let header = whole.len() - (HEADER + 4);
        let mut expected = whole.clone();
        expected[header + TYPE] = UNKNOWN;
        for part in 1..=whole.len() + PREFACE {
            // Where its type has been read before the rest of it.
            let cut = (TYPE + 1..HEADER).any(|byte| (PREFACE + header + byte).is_multiple_of(part));
            assert!(
                read(&all, part) == if cut { whole.clone() } else { expected.clone() },
                "{part}"
            );
        }
        assert_eq!(read(&begun, usize::MAX), begun.concat());
    }
}
