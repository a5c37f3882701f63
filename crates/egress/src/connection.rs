//! A connection to a receiver, and what it may cost.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection as Connects};
use metrics::gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that a receiver may send beside its answers: TLS with the longest chain of certificates that is read (64 KiB),
/// session tickets, and what HTTP/2 tells of itself.
const OVERHEAD: i64 = 192 * 1024;

/// The connections of one client, and their bounds.
#[derive(Clone)]
pub(crate) struct Connections {
    /// Bytes that come for one answer, at most.
    answer: i64,
    /// When a connection ends, whatever goes on on it.
    lifetime: Duration,
    open: Arc<AtomicU32>,
}

impl Connections {
    pub(crate) fn new(answer: usize, lifetime: Duration) -> Self {
        Self { answer: signed(answer), lifetime, open: Arc::default() }
    }

    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn admit(&self, stream: TcpStream) -> Connection {
        self.open.fetch_add(1, Ordering::Relaxed);
        gauge!("egress_connections").increment(1);
        let opened = Instant::now();
        let usage =
            Usage { opened, answer: self.answer, answers: AtomicI64::new(0), left: AtomicI64::new(OVERHEAD) };
        Connection {
            stream,
            usage: Arc::new(usage),
            end: Box::pin(sleep_until(opened + self.lifetime)),
            open: self.open.clone(),
        }
    }
}

/// How far a connection has been used. Shared between the connection and the requests on it.
pub(crate) struct Usage {
    opened: Instant,
    answer: i64,
    /// Answers that are awaited.
    answers: AtomicI64,
    /// Bytes that the receiver may still send.
    left: AtomicI64,
}

impl Usage {
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// An answer may come, for as long as the guard lives.
    pub(crate) fn await_answer(self: &Arc<Self>) -> AwaitedAnswer {
        // In this order: an answer that ends meanwhile takes at most its own share back.
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.left.fetch_add(self.answer, Ordering::SeqCst);
        AwaitedAnswer(self.clone())
    }

    fn receive(&self, bytes: usize) -> io::Result<()> {
        let bytes = signed(bytes);
        if self.left.fetch_sub(bytes, Ordering::SeqCst) >= bytes {
            return Ok(());
        }
        Err(io::Error::other(Flood))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the receiver sent more than a response may have")]
struct Flood;

/// Counts an answer as awaited.
pub(crate) struct AwaitedAnswer(Arc<Usage>);

impl Drop for AwaitedAnswer {
    fn drop(&mut self) {
        let usage = &self.0;
        let others = usage.answers.fetch_sub(1, Ordering::SeqCst) - 1;
        // What it left is not saved up.
        usage.left.fetch_min(OVERHEAD + others * usage.answer, Ordering::SeqCst);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A TCP connection that ends in time and brings no more than its answers.
pub(crate) struct Connection {
    stream: TcpStream,
    usage: Arc<Usage>,
    end: Pin<Box<Sleep>>,
    open: Arc<AtomicU32>,
}

impl Connection {
    fn poll_alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.end.is_elapsed() || self.end.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection has had its time"));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        gauge!("egress_connections").decrement(1);
    }
}

impl Connects for Connection {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.usage.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.poll_alive(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut connection.stream).poll_read(context, buffer);
        connection.usage.receive(buffer.filled().len() - before)?;
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        connection.poll_alive(context)?;
        Pin::new(&mut connection.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        connection.poll_alive(context)?;
        Pin::new(&mut connection.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.poll_alive(context)?;
        Pin::new(&mut connection.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.poll_alive(context)?;
        Pin::new(&mut connection.stream).poll_shutdown(context)
    }
}
