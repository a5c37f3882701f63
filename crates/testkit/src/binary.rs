//! Processes of the real binaries.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::eventually::{DEADLINE, eventually, eventually_ok};
use crate::http_client::HttpClient;
use crate::log::Log;
use crate::memory::Memory;

/// How to start a program.
#[derive(Debug, Clone)]
pub struct Binary {
    name: String,
    path: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: Option<PathBuf>,
    input: Option<String>,
}

/// What a binary that ran to its end left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Binary {
    /// `management-api`, `event-ingest`, `dispatcher` or `lokctl`, without arguments, in an environment that holds
    /// only `PATH` and `RUST_LOG=info`.
    pub fn new(name: &str) -> Self {
        Self::program(name, of_this_workspace(name))
    }

    /// Any program, by its path or by its name on the `PATH`, without arguments, in the same environment. Messages
    /// call it `name`.
    pub fn program(name: &str, program: impl Into<PathBuf>) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = [("PATH", path), ("RUST_LOG", "info".to_owned())];
        Self {
            name: name.to_owned(),
            path: program.into(),
            arguments: Vec::new(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            directory: None,
            input: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs(mut self, variables: &BTreeMap<String, String>) -> Self {
        self.environment.extend(variables.clone());
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it this text as standard input; without, it has none.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Runs on these CPUs only, from its start: a list such as `0-3,6`, as `taskset` of util-linux takes it, which has to be there
    /// and becomes the program: the process is the program's.
    #[must_use]
    pub fn on_cpus(mut self, cpus: impl Into<String>) -> Self {
        let program = std::mem::replace(&mut self.path, "taskset".into());
        let of_taskset = ["--cpu-list".to_owned(), cpus.into(), program.to_string_lossy().into_owned()];
        self.arguments.splice(..0, of_taskset);
        self
    }

    /// Runs it to its end; panics when it does not end within [`DEADLINE`].
    pub async fn output(&self) -> Output {
        let mut child = self.start();
        let (stdout, stderr) = (Log::default(), Log::default());
        let readers = [
            stdout.follow(child.stdout.take().expect("standard output is piped")),
            stderr.follow(child.stderr.take().expect("standard error is piped")),
        ];
        let mut child = Running(child);
        let status = child.ended(&self.name, DEADLINE).await;
        for reader in readers {
            reader.join().expect("the log was read");
        }
        Output { code: status.code(), stdout: stdout.text(), stderr: stderr.text() }
    }

    /// Starts it as a service.
    pub fn spawn(self) -> Service {
        let log = Log::default();
        let child = Some(self.start_logged(&log));
        Service { binary: self, child, log }
    }

    fn start_logged(&self, log: &Log) -> Running {
        log.begin_process();
        let mut child = self.start();
        drop(log.follow(child.stdout.take().expect("standard output is piped")));
        drop(log.follow(child.stderr.take().expect("standard error is piped")));
        Running(child)
    }

    fn start(&self) -> Child {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear().envs(&self.environment);
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().unwrap_or_else(|error| {
            let path = self.path.display();
            panic!("{path}: {error}; `cargo build --workspace --bins` builds the binaries of this workspace")
        });
        if let Some(mut stdin) = child.stdin.take() {
            let text = self.input.clone().unwrap_or_default();
            // A process that does not read to the end says so in its output.
            std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        }
        child
    }
}

/// The binary beside this program: a test is in `target/<profile>/deps`, a tool in `target/<profile>`.
fn of_this_workspace(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("the system tells the program's path");
    let directory = program.parent().expect("a program is in a directory");
    let profile = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    profile.expect("`deps` is in target/<profile>").join(name)
}

/// A process that is killed when dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    async fn ended(&mut self, name: &str, deadline: Duration) -> ExitStatus {
        eventually(&format!("{name} has ended"), deadline, async || {
            self.0.try_wait().expect("the process is ours")
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is ours and not waited for yet");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service's process; killed when dropped, its last log lines shown when the test panics.
#[derive(Debug)]
pub struct Service {
    binary: Binary,
    child: Option<Running>,
    log: Log,
}

impl Service {
    /// The binary's name.
    pub fn name(&self) -> &str {
        &self.binary.name
    }

    /// The id of the process that runs.
    pub fn pid(&self) -> u32 {
        self.running().0.id()
    }

    /// What the process takes, and took at most.
    pub fn memory(&self) -> Memory {
        Memory::of(self.pid())
            .unwrap_or_else(|| panic!("{} has ended\n{}", self.binary.name, self.log.tail()))
    }

    /// Everything it logged so far, over all restarts.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The lines it logged as JSON, over all restarts.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// `http://host:port` of its admin server.
    pub async fn admin_url(&mut self) -> String {
        self.address("admin server's address", |log| log.addresses().admin).await
    }

    /// `http://host:port` of its own HTTP server.
    pub async fn url(&mut self) -> String {
        self.address("HTTP server's address", |log| log.addresses().listening).await
    }

    /// `http://host:port` of its admin server, if the process that runs has said it yet.
    pub fn admin_url_now(&self) -> Option<String> {
        self.log.addresses().admin.map(|address| format!("http://{address}"))
    }

    /// `http://host:port` of its own HTTP server, if the process that runs has said it yet.
    pub fn url_now(&self) -> Option<String> {
        self.log.addresses().listening.map(|address| format!("http://{address}"))
    }

    async fn address(&mut self, what: &str, read: impl Fn(&Log) -> Option<SocketAddr>) -> String {
        let what = format!("{} logs its {what}", self.binary.name);
        eventually(&what, DEADLINE, async || {
            self.panic_if_ended();
            read(&self.log).map(|address| format!("http://{address}"))
        })
        .await
    }

    /// Waits until `/readyz` says so, for at most `deadline`.
    pub async fn wait_ready(&mut self, deadline: Duration) {
        let url = format!("{}/readyz", self.admin_url().await);
        let http = HttpClient::default();
        let what = format!("{} is ready", self.binary.name);
        eventually_ok(&what, deadline, async || {
            self.panic_if_ended();
            let request = http::Request::get(&url).body(bytes::Bytes::new()).expect("the URL is valid");
            match http.try_send(request).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(reason) => Err(reason),
            }
        })
        .await;
    }

    /// The value of a metric, the sum over its labels; 0 if it is not there yet.
    pub async fn metric(&mut self, name: &str) -> f64 {
        let url = format!("{}/metrics", self.admin_url().await);
        let text = HttpClient::default().get(&url).await.expect(200).text();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == name || series.strip_prefix(name)?.starts_with('{');
            is_it.then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.0.try_wait().expect("the process is ours").is_none())
    }

    /// How the process ended, if it has; told once. Then it can be started again.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.0.try_wait().expect("the process is ours")?;
        self.child = None;
        Some(status)
    }

    fn panic_if_ended(&mut self) {
        let child = self.child.as_mut().expect("the service was started");
        if let Some(status) = child.0.try_wait().expect("the process is ours") {
            panic!("{} ended by itself: {status}\n{}", self.binary.name, self.log.tail());
        }
    }

    fn running(&self) -> &Running {
        self.child.as_ref().expect("the service runs")
    }

    /// Sends SIGTERM and waits for the end, for at most `deadline`.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.running().signal(Signal::TERM);
        self.wait_ended(deadline).await
    }

    /// Sends SIGTERM.
    pub fn signal_terminate(&self) {
        self.running().signal(Signal::TERM);
    }

    /// Waits for the end, for at most `deadline`.
    pub async fn wait_ended(&mut self, deadline: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the service runs");
        child.ended(&self.binary.name, deadline).await
    }

    /// Ends it with SIGKILL, as a crash does.
    pub fn kill9(&mut self) {
        drop(self.child.take());
    }

    /// Stops it with SIGSTOP: it holds everything it has and does nothing.
    pub fn stop(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Lets a stopped one go on.
    pub fn cont(&self) {
        self.running().signal(Signal::CONT);
    }

    /// Starts it again after its end, as it was started before, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.start_again();
        self.wait_ready(DEADLINE).await;
    }

    /// Starts it again after its end, as it was started before.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "{} still runs", self.binary.name);
        self.child = Some(self.binary.start_logged(&self.log));
    }
}

impl Drop for Service {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its services logged")]
    fn drop(&mut self) {
        self.child = None;
        if std::thread::panicking() {
            eprintln!("--- {} logged {}\n---", self.binary.name, self.log.tail());
        }
    }
}
