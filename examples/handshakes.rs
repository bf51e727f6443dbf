//! Full TLS handshakes at a fixed rate, each with one request: what `cargo xtask drill certificates` loads a gateway with.
//!
//! `handshakes ADDRESS NAME CA RATE` goes on until its standard input ends. It says `shown SERIAL` when a certificate is
//! shown for the first time, `failed WHY` for each handshake or request that fails, and at its end `done COUNT P99_MS`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many are under way at most. More would wait for each other until they fail, on a machine that cannot do so many; as
/// it is, fewer come about, which is counted.
const UNDER_WAY: usize = 64;

struct Load {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    serials: BTreeSet<String>,
    took: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, ca, rate] = &words[..] else { return Err("ADDRESS NAME CA RATE".into()) };
    let load = Arc::new(Load {
        address: address.parse()?,
        name: ServerName::try_from(name.clone())?,
        connector: connector(ca)?,
        seen: Mutex::default(),
    });
    let rate: u32 = rate.parse()?;
    let mut due = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    // What could not be begun in time is made up for.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = tokio::task::JoinSet::new();
    let mut input = tokio::io::stdin();
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = input.read(&mut byte) => break,
            _ = due.tick(), if under_way.len() < UNDER_WAY => {
                let load = load.clone();
                under_way.spawn(async move { load.one().await });
            }
            Some(_) = under_way.join_next() => {}
        }
    }
    while under_way.join_next().await.is_some() {}
    let mut seen = load.seen();
    seen.took.sort_unstable();
    let p99 = seen.took.get((seen.took.len() * 99) / 100).copied().unwrap_or_default();
    println!("done {} {:.1}", seen.took.len(), p99.as_secs_f64() * 1e3);
    Ok(())
}

fn connector(ca: &str) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config).into())
}

impl Load {
    async fn one(&self) {
        let began = Instant::now();
        let outcome = tokio::time::timeout(PATIENCE, self.handshake()).await;
        match outcome.unwrap_or_else(|_| Err("it took too long".into())) {
            Ok(serial) => {
                let mut seen = self.seen();
                seen.took.push(began.elapsed());
                if seen.serials.insert(serial.clone()) {
                    println!("shown {serial}");
                }
            }
            Err(why) => println!("failed {why}"),
        }
    }

    /// A handshake and a request, after which the server must have found the handshake good, too.
    async fn handshake(&self) -> Result<String, Failure> {
        let tcp = TcpStream::connect(self.address).await?;
        let mut stream = self.connector.connect(self.name.clone(), tcp).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: drill.test\r\nConnection: close\r\n\r\n").await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        if &status != b"HTTP/1.1 200" {
            return Err(String::from_utf8_lossy(&status).into_owned().into());
        }
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
        let (_, certificate) = X509Certificate::from_der(leaf)?;
        Ok(certificate.serial.to_string())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
