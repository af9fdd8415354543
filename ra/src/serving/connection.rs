//! One accepted TLS connection, in the form that tonic takes.
//!
//! Owns the place that the connection takes among the bounded number of them: it is free again when this is dropped.
//! A peer that finishes its handshake and then does not open HTTP/2 loses the place after a bounded time; once it has,
//! pings find out whether it is alive. What a request may know of its connection is [`Peer`].

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    opening: Option<Opening>,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Address and port, as the network tells them: for logs and limits, never for identity.
    pub address: SocketAddr,
    /// The certificates that it showed, leaf first, if it was asked and has the leaf's key. Nobody looked at them yet.
    certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// What is still missing of a peer's first words.
#[derive(Debug)]
struct Opening {
    bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl Peer {
    /// The certificates that it showed.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.certificates.as_deref()
    }
}

impl TlsConnection {
    /// `proven`: whether the peer has the key of the certificate that it showed.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        proven: bool,
        place: OwnedSemaphorePermit,
        patience: Duration,
    ) -> Self {
        let shown = stream.get_ref().1.peer_certificates().filter(|_| proven);
        let certificates = shown.map(|shown| shown.iter().cloned().map(CertificateDer::into_owned).collect());
        Self {
            stream,
            peer: Peer { address, certificates },
            opening: Some(Opening {
                bytes: PREFACE,
                patience: Box::pin(sleep(patience)),
            }),
            _place: place,
        }
    }

    /// Counts what was read, and says when the time for the first words is over.
    fn late(&mut self, read: usize, context: &mut Context<'_>) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        opening.bytes = opening.bytes.saturating_sub(read);
        if opening.bytes == 0 {
            self.opening = None;
            return false;
        }
        opening.patience.as_mut().poll(context).is_ready()
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.late(buffer.filled().len() - before, context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The bytes with which every HTTP/2 client begins (RFC 9113, 3.4).
const PREFACE: usize = 24;
