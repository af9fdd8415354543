//! Lets in clients that give the socket's path as their `:authority`.
//!
//! gRPC's C core (Python, C++, Ruby) sends the path of a Unix socket percent-encoded, gRPC for Java sends it bare. Our HTTP/2
//! library takes neither for an authority and resets the stream (PROTOCOL_ERROR; hyperium/h2 pull request 487). The name
//! means nothing on a socket that belongs to one workload, so [`AnyAuthority`] looks at the first request of a
//! connection. If its authority is one, as Envoy's is, all bytes pass untouched from then on. Otherwise each header
//! block of the connection is written anew with `localhost`: plain literals, because compression has a state (RFC 7541)
//! that ends here. Leaves every other rule of HTTP/2 to the library behind it, which still sees every frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod frames;
#[cfg(test)]
mod tests;

use frames::Frames;

/// Bytes that are read at once while we look at them.
const CHUNK: usize = 4 * 1024;

/// Wraps the server's side of a connection.
pub(crate) struct AnyAuthority<T> {
    inner: T,
    /// `None`: all bytes pass untouched.
    frames: Option<Box<Frames>>,
}

// === impl AnyAuthority ===

impl<T> AnyAuthority<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            frames: Some(Box::default()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AnyAuthority<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while let Some(frames) = &mut this.frames {
            if frames.hand_over(buf) || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if frames.has_seen_enough() {
                this.frames = None;
                break;
            }
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            match read.filled() {
                [] => frames.end(),
                bytes => frames.take(bytes)?,
            }
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
