//! A client's connection: has a slot among all of them, is closed when the client does
//! not take what is written to it, and is not closed over what the client still sends.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::slots::Slot;

/// How long a client may take nothing of what is written to it.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long, and how much of, what a client still sends is read and dropped after the last
/// answer. Closed before, the connection would be reset, and the client would see that
/// instead of an answer such as 413.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;
const DROPPED_AT_ONCE: usize = 16 * 1024;

/// Whether the last request's body was not read to its end: its client may still send.
#[derive(Clone, Default)]
pub(super) struct BodyLeft(Arc<AtomicBool>);

impl BodyLeft {
    /// A body that notes here when it is dropped before its end.
    pub(super) fn watched(&self, body: Incoming) -> WatchedBody {
        self.0.store(false, Ordering::Relaxed);
        WatchedBody { body, ended: false, left: self.clone() }
    }
}

pub(super) struct WatchedBody {
    body: Incoming,
    ended: bool,
    left: BodyLeft,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.left.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A stream of bytes whose writes do not wait for ever.
pub(super) struct Connection<S> {
    stream: S,
    limit: Duration,
    waits: Option<Pin<Box<Sleep>>>,
    /// Set once nothing more is written: when reading ends, and what may come until then.
    lingers: Option<(Pin<Box<Sleep>>, usize)>,
    left: BodyLeft,
    _slot: Option<Slot<IpAddr>>,
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, limit: Duration, slot: Option<Slot<IpAddr>>) -> Self {
        let left = BodyLeft::default();
        Self { stream, limit, waits: None, lingers: None, left, _slot: slot }
    }

    pub(super) fn body_left(&self) -> BodyLeft {
        self.left.clone()
    }

    /// What a write came to, unless it has waited for too long.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Tells the client that nothing more comes, and drops what the client still sends of a
    /// body that nobody read to its end.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, lingers, left, .. } = &mut *self;
        if lingers.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
        }
        if !left.0.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let (end, most) =
            lingers.get_or_insert_with(|| (Box::pin(sleep(LINGER_MAX)), LINGER_BYTES_MAX));
        let mut dropped = [0; DROPPED_AT_ONCE];
        while *most > 0 && end.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            *most = most.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_reads_ends() {
        let (ours, _theirs) = duplex(8);
        let mut connection = Connection::new(ours, Duration::from_millis(10), None);
        let error = connection.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_comes_after_the_last_answer_is_dropped_up_to_a_bound() {
        let (ours, mut theirs) = duplex(1024);
        let mut connection = Connection::new(ours, WRITE_TIMEOUT, None);
        connection.left.0.store(true, Ordering::Relaxed);
        let sending = async {
            assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "nothing more comes");
            theirs.write_all(&vec![0; LINGER_BYTES_MAX]).await.unwrap();
        };
        let (closed, ()) = tokio::join!(connection.shutdown(), sending);
        closed.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_was_read_to_the_end_is_not_waited_for() {
        let (ours, _theirs) = duplex(1024);
        let mut connection = Connection::new(ours, WRITE_TIMEOUT, None);
        let closed =
            poll_fn(|context| Poll::Ready(Pin::new(&mut connection).poll_shutdown(context)));
        assert!(matches!(closed.await, Poll::Ready(Ok(()))));
    }
}
