//! During and after the TLS handshake.

use std::sync::Arc;

use egress::AttemptError;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use rustls::{ConnectionTrafficSecrets, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::siege::{Aftermath, Attacker, Siege};
use crate::support::TIMEOUT;
use crate::support::authority::{Authority, provider, server};

/// The head of a handshake record (22) whose 512 bytes hold the start of a `ServerHello` (2) of 508.
const SERVER_HELLO: [u8; 9] = [22, 3, 3, 2, 0, 2, 0, 1, 0xfc];

async fn attacked_before_the_handshake(attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    let siege = Siege { timeouts: (TIMEOUT, TIMEOUT / 2), ..Siege::with_tls(&[]) };
    let siege = siege.run_raw(async |stream| {
        let mut attacker = Attacker::over(stream);
        attack(&mut attacker).await;
        attacker
    });
    siege.await
}

fn assert_no_connection(aftermath: Aftermath) {
    assert_eq!(aftermath.error(), AttemptError::ConnectTimeout(TIMEOUT / 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_stalls() {
    assert_no_connection(attacked_before_the_handshake(async |_| sleep(TIMEOUT).await).await);
    let half = async |attacker: &mut Attacker| {
        attacker.send(SERVER_HELLO).await;
        sleep(TIMEOUT).await;
    };
    assert_no_connection(attacked_before_the_handshake(half).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_byte_by_byte() {
    let drip = async |attacker: &mut Attacker| {
        attacker.drip(SERVER_HELLO.chunks(1)).await;
        attacker.drip(vec![[0]; 1000]).await;
    };
    assert_no_connection(attacked_before_the_handshake(drip).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_without_end() {
    // A certificate (11) of 16 MiB in a ServerHello's place.
    for start in
        [vec![22, 3, 3, 0x40, 0, 11, 0xff, 0xff, 0xff], vec![22, 3, 3, 0x40, 0, 2, 0, 0xff, 0xff], vec![]]
    {
        let flood = async |attacker: &mut Attacker| {
            attacker.send(&start).await;
            attacker.flood([0]).await;
        };
        let error = attacked_before_the_handshake(flood).await.error();
        assert!(matches!(error, AttemptError::Tls(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stalls_after_the_handshake() {
    let siege = Siege::with_tls(&[]).until_the_deadline();
    siege.run(async |_| sleep(TIMEOUT * 3 / 2).await).await.assert_timeout();
}

/// The TLS connection after its handshake, and TCP below it.
async fn handshake(tls: &ServerConfig, stream: TcpStream) -> (TcpStream, rustls::ServerConnection) {
    TlsAcceptor::from(Arc::new(tls.clone())).accept(stream).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_never_whole() {
    let siege = Siege::with_tls(&[]).until_the_deadline();
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        let mut attacker = Attacker::over(handshake(&tls, stream).await.0);
        // Application data of 16 KiB, most of which never comes.
        attacker.send([23, 3, 3, 0x40, 0, 1, 2, 3]).await;
        sleep(TIMEOUT * 3 / 2).await;
        attacker
    });
    aftermath.await.assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_the_handshake() {
    let siege = Siege::with_tls(&[]);
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        let mut attacker = Attacker::over(handshake(&tls, stream).await.0);
        attacker.flood([23, 3, 3, 0, 32, 1, 2, 3]).await;
        attacker
    });
    assert!(matches!(aftermath.await.error(), AttemptError::Tls(_)));
}

/// TLS 1.3's successor of renegotiation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_again_and_again() {
    let siege = Siege::with_tls(&[]);
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        let (stream, mut connection) = handshake(&tls, stream).await;
        let mut attacker = Attacker::over(stream);
        loop {
            connection.refresh_traffic_keys().unwrap();
            let mut update = Vec::new();
            connection.write_tls(&mut update).unwrap();
            if !attacker.send(update).await {
                return attacker;
            }
        }
    });
    let error = aftermath.await.error();
    assert!(matches!(error, AttemptError::Tls(_) | AttemptError::Protocol(_)), "{error:?}");
}

/// TLS 1.2 only, with keys that can be taken out.
fn of_old(authority: &Authority) -> ServerConfig {
    let provider =
        CryptoProvider { cipher_suites: vec![TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256], ..provider() };
    let (certificate, key) = authority.certificate("localhost", |_| {});
    let mut tls = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tls.enable_secret_extraction = true;
    tls
}

/// Writes `HelloRequest`s (RFC 5246 §7.4.1.1), each as a record of its own (RFC 7905).
struct Renegotiation {
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl Renegotiation {
    fn of(connection: rustls::ServerConnection) -> Self {
        let (sequence, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            panic!("another cipher")
        };
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap());
        Self { key, iv: iv.as_ref().to_vec(), sequence }
    }

    fn request(&mut self) -> Vec<u8> {
        let mut record = vec![0; 4];
        let mut nonce: [u8; 12] = self.iv.clone().try_into().unwrap();
        for (byte, of) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of;
        }
        let head = [self.sequence.to_be_bytes().as_slice(), &[22, 3, 3, 0, 4]].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(head), &mut record).unwrap();
        self.sequence += 1;
        [&[22, 3, 3, 0, 20], record.as_slice()].concat()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renegotiation_that_stalls() {
    let siege = Siege::with_tls_of(of_old).until_the_deadline();
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        let (stream, connection) = handshake(&tls, stream).await;
        let mut attacker = Attacker::over(stream);
        attacker.send(Renegotiation::of(connection).request()).await;
        sleep(TIMEOUT * 3 / 2).await;
        attacker
    });
    aftermath.await.assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renegotiations_without_end() {
    let siege = Siege::with_tls_of(of_old);
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        let (stream, connection) = handshake(&tls, stream).await;
        let mut attacker = Attacker::over(stream);
        let mut renegotiation = Renegotiation::of(connection);
        while attacker.send(renegotiation.request()).await {}
        attacker
    });
    let error = aftermath.await.error();
    assert!(matches!(error, AttemptError::Tls(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_beyond_measure() {
    let siege = Siege::with_tls_of(|authority| {
        let (certificate, key) = authority.certificate("localhost", |_| {});
        server(provider(), vec![certificate; 400], key)
    });
    let tls = siege.tls.clone().unwrap();
    let aftermath = siege.run_raw(async |stream| {
        match TlsAcceptor::from(Arc::new(tls)).accept(stream).into_fallible().await {
            Ok(_) => panic!("the client took 400 certificates"),
            Err((_, stream)) => Attacker::over(stream),
        }
    });
    let error = aftermath.await.error();
    assert_eq!(error, AttemptError::Tls("the server's certificates are longer than 64 KiB".to_owned()));
}
