//! A PostgreSQL or a RabbitMQ of a test's own, to be killed, stopped, paused and wiped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;
use url::Url;

use crate::servers::Servers;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// PostgreSQL.
    Postgres,
    /// RabbitMQ.
    Rabbitmq,
}

impl ServerKind {
    /// The name, as in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

/// A server of a test's own: loopback only, a port that stays over restarts, data in a temporary folder.
///
/// `deploy/dev/private-server.sh` runs it and listens to this process. Dropped, all is gone; when this process is
/// killed the script notices and removes server and folder by itself.
#[derive(Debug)]
pub struct PrivateServer {
    kind: ServerKind,
    directory: PathBuf,
    url: Url,
    keeper: Arc<Mutex<Keeper>>,
}

/// The script that keeps the server.
#[derive(Debug)]
struct Keeper {
    process: Child,
    /// Closed, the script removes everything.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl PrivateServer {
    /// Starts an empty PostgreSQL (about 2 s).
    pub async fn postgres() -> Self {
        Self::start_new(ServerKind::Postgres).await
    }

    /// Starts an empty RabbitMQ (about 5 s).
    pub async fn rabbitmq() -> Self {
        Self::start_new(ServerKind::Rabbitmq).await
    }

    async fn start_new(kind: ServerKind) -> Self {
        let started = spawn_blocking(move || {
            let mut keeper = Keeper::spawn(kind);
            let answer = keeper.answer();
            (keeper, answer)
        });
        let (keeper, answer) = started.await.expect("the script can be run");
        let mut words = answer.split(' ');
        let (Some("ready"), Some(directory), Some(url)) = (words.next(), words.next(), words.next()) else {
            panic!("a private {} did not start: {answer}; its log is above", kind.as_str());
        };
        Self {
            kind,
            directory: directory.into(),
            url: url.parse().expect("the script writes a URL"),
            keeper: Arc::new(Mutex::new(keeper)),
        }
    }

    /// Which server it is.
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// Its URL, of a superuser.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The folder of its logs, gone with the server.
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Starts it again after its end, on the same port and data, and waits until it is ready.
    pub async fn start_again(&self) {
        self.command("start").await;
    }

    /// Ends it gracefully, with clients connected.
    pub async fn stop(&self) {
        self.command("stop").await;
    }

    /// Ends it, and its children, with SIGKILL.
    pub async fn kill9(&self) {
        self.command("kill").await;
    }

    /// Stops it, and its children, with SIGSTOP: connections stay, nothing is answered.
    pub async fn pause(&self) {
        self.command("pause").await;
    }

    /// Lets a paused one go on.
    pub async fn resume(&self) {
        self.command("resume").await;
    }

    /// Deletes the data of a RabbitMQ that does not run: started again, it is empty and has the same user.
    pub async fn wipe(&self) {
        self.command("wipe").await;
    }

    async fn command(&self, command: &'static str) {
        let keeper = self.keeper.clone();
        let answered = spawn_blocking(move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let commands = keeper.commands.as_mut().expect("the input is closed only when dropped");
            writeln!(commands, "{command}").map_or_else(|error| error.to_string(), |()| keeper.answer())
        });
        let answer = answered.await.expect("the script answers");
        assert!(answer == "ok", "{command} of {}: {answer}\n{}", self.kind.as_str(), self.log());
    }

    /// What was done to it.
    fn log(&self) -> String {
        read(&self.log_directory().join("private-server.log"))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

impl Keeper {
    fn spawn(kind: ServerKind) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/private-server.sh");
        let mut command = Command::new(&script);
        command.arg(kind.as_str()).env_clear();
        for name in ["PATH", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // Whoever ends this process's group must not end the one that cleans up behind it.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("standard output is piped"));
        Self { process, commands, answers }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => "the script ended".to_owned(),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}

/// A PostgreSQL and a RabbitMQ of a test's own.
#[derive(Debug)]
pub struct PrivateServers {
    /// The database server.
    pub postgres: PrivateServer,
    /// The broker.
    pub rabbitmq: PrivateServer,
}

impl PrivateServers {
    /// Starts both at the same time (about 5 s).
    pub async fn start() -> Self {
        let (postgres, rabbitmq) = tokio::join!(PrivateServer::postgres(), PrivateServer::rabbitmq());
        Self { postgres, rabbitmq }
    }

    /// The server of a kind.
    pub fn get(&self, kind: ServerKind) -> &PrivateServer {
        match kind {
            ServerKind::Postgres => &self.postgres,
            ServerKind::Rabbitmq => &self.rabbitmq,
        }
    }

    /// Where they are, for what is made on them.
    pub fn servers(&self) -> Servers {
        Servers::private(self.postgres.url().clone(), self.rabbitmq.url().to_string())
    }
}
