//! A developer's server that verifies with the guide's own code.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

/// The longest that a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Lines of output kept of one server.
const MAX_LINES: usize = 10_000;

/// A language of the guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Node,
    Python,
    Php,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Node, Self::Python, Self::Php];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
            Self::Php => "php",
        }
    }

    /// The program and its arguments, from the checkout's root.
    fn command(self, port: u16) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Node => words(&["node", "deploy/demo/receivers/node.js"]),
            Self::Python => words(&[".dev/tools/python/bin/python", "deploy/demo/receivers/python.py"]),
            Self::Php => words(&["php", "-S", &format!("127.0.0.1:{port}"), "deploy/demo/receivers/php.php"]),
        }
    }
}

/// A port nobody listens on now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("the system has no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Where a server on this port takes its webhooks: the guide's path.
pub(crate) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/webhooks/lokroom")
}

/// A server in one of the languages; killed when dropped, and by the system should this process die.
pub(crate) struct Endpoint {
    pub(crate) name: &'static str,
    language: Language,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// Starts a server that knows this secret, and waits until it listens.
    pub(crate) async fn start(
        name: &'static str,
        language: Language,
        port: u16,
        secret: &str,
    ) -> anyhow::Result<Self> {
        let words = language.command(port);
        let script = words.last().map(Path::new).filter(|script| script.exists());
        script.with_context(|| format!("run this in the project's directory: no {:?} here", words.last()))?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(&words)
            .env("LOKROOM_WEBHOOK_SECRET", secret)
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", words.join(" ")))?;
        let lines = Arc::default();
        follow(child.stdout.take(), &lines);
        follow(child.stderr.take(), &lines);
        let mut endpoint = Self { name, language, child, lines };
        endpoint.listening(port).await?;
        Ok(endpoint)
    }

    async fn listening(&mut self, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the receiver {} ended: {status}\n{}", self.name, self.lines().join("\n"));
            }
            if Instant::now() > deadline {
                bail!("the receiver {} does not listen after {START_LIMIT:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What it wrote so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The event ids of the requests that it answered with this status.
    pub(crate) fn answered(&self, status: u16) -> Vec<String> {
        let start = format!("{} {status} ", self.language.name());
        let lines = self.lines();
        let requests = lines.iter().filter_map(|line| line.strip_prefix(&start));
        requests.filter_map(|rest| rest.split(' ').nth(1).map(str::to_owned)).collect()
    }

    /// Whether its handler wrote this line.
    pub(crate) fn wrote(&self, line: &str) -> bool {
        let line = format!("{} {line}", self.language.name());
        self.lines().contains(&line)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(output: Option<impl Read + Send + 'static>, lines: &Arc<Mutex<Vec<String>>>) {
    let Some(output) = output else { return };
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < MAX_LINES {
                lines.push(line);
            }
        }
    });
}
