//! One connection, and what it may make the server wait for.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer::{HEAD_TOO_LARGE, HEAD_TOO_SLOW, Refusal};
use crate::client::Network;
use crate::slots::Slot;

/// How long a refused client may go on sending. A connection that is closed while something is unread is reset, and the client
/// might never read why.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what a refused client goes on sending is read.
const LINGER_BYTES: usize = 256 * 1024;

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the first byte of a head to its last; from the connection to the first head, too.
    pub(crate) head: Duration,
    /// Bytes of a head.
    pub(crate) head_bytes: usize,
    /// Between an answer and the next head.
    pub(crate) idle: Duration,
    /// Until the client has taken what was sent.
    pub(crate) write: Duration,
}

/// Where a connection is. The application's side tells when requests begin and end, the connection reads it.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: Cell<Phase>,
    patience: Patience,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A head has to come.
    Waiting(Waiting),
    /// The application works on a request, and has bounds of its own.
    Serving,
    /// The client was told why it is not served; what it still sends is thrown away.
    Refused { until: Instant, bytes: usize },
    /// Nothing more is read.
    Over,
}

impl Phase {
    fn until(self) -> Option<Instant> {
        match self {
            Self::Waiting(Waiting { until, .. }) | Self::Refused { until, .. } => Some(until),
            Self::Serving | Self::Over => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    until: Instant,
    /// Bytes that were read meanwhile.
    read: usize,
    /// Whether what is read may be the rest of a body that nobody took: then it is no head, and nothing may be said.
    after_body: bool,
    /// Whether the parser has seen the last byte that a head may have.
    is_full: bool,
}

impl Progress {
    fn new(patience: Patience) -> Rc<Self> {
        let until = Instant::now() + patience.head;
        let waiting = Waiting { until, read: 0, after_body: false, is_full: false };
        Rc::new(Self { phase: Cell::new(Phase::Waiting(waiting)), patience })
    }

    /// A head is whole.
    pub(crate) fn begin(&self) {
        self.phase.set(Phase::Serving);
    }

    /// The answer is there; `after_body` if the request had a body.
    pub(crate) fn end(&self, after_body: bool) {
        let until = Instant::now() + self.patience.idle;
        self.phase.set(Phase::Waiting(Waiting { until, read: 0, after_body, is_full: false }));
    }
}

/// A connection with bounds.
pub(crate) struct Connection {
    io: TcpStream,
    progress: Rc<Progress>,
    /// Until when the client has to have taken what was sent.
    write_until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    _slot: Option<Slot<Network>>,
}

impl Connection {
    pub(crate) fn new(io: TcpStream, patience: Patience, slot: Option<Slot<Network>>) -> Self {
        let progress = Progress::new(patience);
        let timer = Box::pin(sleep_until(Instant::now() + patience.head));
        Self { io, progress, write_until: None, timer, _slot: slot }
    }

    /// What the application's side tells the progress of its requests.
    pub(crate) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    /// Fails when the client did not take what was sent, and sees to it that the task is woken when the next of its times is
    /// over. Called wherever the connection is looked at.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let now = Instant::now();
        if self.write_until.is_some_and(|until| until <= now) {
            counter!("http_connections_closed_total", "why" => "answer_not_taken").increment(1);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let times = [self.progress.phase.get().until(), self.write_until];
        // A time that is over was seen to, or will be with the next read.
        if let Some(next) = times.into_iter().flatten().filter(|until| *until > now).min() {
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    /// The end of what is read, as if the client had ended it.
    fn end(&mut self) -> Poll<io::Result<()>> {
        self.progress.phase.set(Phase::Over);
        Poll::Ready(Ok(()))
    }

    fn read_head(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut waiting: Waiting,
    ) -> Poll<io::Result<()>> {
        let patience = self.progress.patience;
        if waiting.until <= Instant::now() {
            if waiting.read == 0 || waiting.after_body {
                return self.end();
            }
            return self.refuse(cx, HEAD_TOO_SLOW);
        }
        let most = if waiting.after_body { buf.remaining() } else { patience.head_bytes - waiting.read };
        if most == 0 {
            if waiting.is_full {
                return self.refuse(cx, HEAD_TOO_LARGE);
            }
            // What was read may be a whole head: let it be looked at first.
            waiting.is_full = true;
            self.progress.phase.set(Phase::Waiting(waiting));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = most.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        if read == 0 {
            return self.end();
        }
        if waiting.read == 0 {
            waiting.until = Instant::now() + patience.head;
        }
        waiting.read += read;
        self.progress.phase.set(Phase::Waiting(waiting));
        Poll::Ready(Ok(()))
    }

    /// Says why, and throws away what comes.
    fn refuse(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Poll<io::Result<()>> {
        counter!("http_connections_closed_total", "why" => refusal.code()).increment(1);
        // Nothing is being sent to a client that has been silent or sends its head: there is room for this.
        let _ = self.io.try_write(&refusal.bytes());
        let until = Instant::now() + LINGER;
        self.progress.phase.set(Phase::Refused { until, bytes: LINGER_BYTES });
        self.discard(cx, until, LINGER_BYTES)
    }

    fn discard(&mut self, cx: &mut Context<'_>, until: Instant, mut bytes: usize) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        while bytes > 0 && until > Instant::now() {
            let mut rest = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                break;
            }
            bytes = bytes.saturating_sub(rest.filled().len());
            self.progress.phase.set(Phase::Refused { until, bytes });
        }
        self.end()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match this.progress.phase.get() {
            Phase::Waiting(waiting) => this.read_head(cx, buf, waiting),
            Phase::Serving => Pin::new(&mut this.io).poll_read(cx, buf),
            Phase::Refused { until, bytes } => this.discard(cx, until, bytes),
            Phase::Over => Poll::Ready(Ok(())),
        };
        this.watch(cx)?;
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        if written.is_pending() {
            let until = Instant::now() + this.progress.patience.write;
            this.write_until.get_or_insert(until);
            this.watch(cx)?;
        }
        written
    }

    /// Called when all that was to be sent is taken.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.write_until = None;
        this.watch(cx)?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
