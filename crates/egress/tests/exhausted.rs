//! The process may open no more files. In a process of its own: the limit is the process's.

mod support;

use egress::{AttemptError, Client, Outcome};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Receiver, config, loopback, post};

#[tokio::test]
async fn that_no_more_files_can_be_opened_is_not_laid_to_the_receiver() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut config = config(loopback());
    config.dns.name_servers = vec!["127.0.0.1:9".parse().unwrap()];
    let client = Client::new(config).unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let connecting = post(&client, &receiver.url()).await;
    let looking_up = post(&client, "http://name.example.com/").await;
    setrlimit(Resource::Nofile, before).unwrap();
    for attempt in [connecting, looking_up] {
        let Outcome::Failed(error) = &attempt.outcome else { panic!("{attempt:?}") };
        assert!(matches!(error, AttemptError::Exhausted(_)) && error.is_ours(), "{error:?}");
    }
    assert!(matches!(post(&client, &receiver.url()).await.outcome, Outcome::Responded(_)));
}
