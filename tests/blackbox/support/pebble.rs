//! A real certification authority that speaks ACME: Pebble, Let's Encrypt's own for tests, with names of its own world.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ports::free_port;
use super::process::Process;
use super::{Certs, PATIENCE, eventually};

/// Ports where authorities look for proofs, and where that leads: nowhere until it is pointed at a gateway.
pub(crate) struct Relay {
    http: Way,
    tls: Way,
}

struct Way {
    port: u16,
    to: watch::Sender<Option<SocketAddr>>,
    came: Arc<AtomicUsize>,
}

impl Way {
    async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, led) = watch::channel(None::<SocketAddr>);
        let came = Arc::new(AtomicUsize::new(0));
        let count = came.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut led = led.clone();
                tokio::spawn(async move {
                    let Ok(to) = led.wait_for(Option::is_some).await.map(|to| to.unwrap()) else { return };
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        // Either end may leave as it likes.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, to, came }
    }
}

impl Relay {
    pub(crate) async fn open() -> Self {
        Self { http: Way::open().await, tls: Way::open().await }
    }

    /// Leads to these addresses from now on; connections that wait as well.
    pub(crate) fn point(&self, http: SocketAddr, tls: SocketAddr) {
        self.http.to.send_replace(Some(http));
        self.tls.to.send_replace(Some(tls));
    }

    /// Leads nowhere from now on: who comes waits.
    pub(crate) fn hold(&self) {
        self.http.to.send_replace(None);
        self.tls.to.send_replace(None);
    }

    /// Waits until an authority came to look.
    pub(crate) async fn is_asked(&self) {
        let came = || self.http.came.load(Ordering::Relaxed) + self.tls.came.load(Ordering::Relaxed);
        eventually(PATIENCE, "the authority looks for a proof", async || came() > 0).await;
    }
}

/// An authority, whose certificates live for so many seconds.
pub(crate) struct Pebble {
    certs: Certs,
    folder: TempDir,
    port: u16,
    management: u16,
    life: u32,
    demanding: bool,
    /// The authority, while it runs, and its names.
    running: Option<(Process, Process)>,
}

/// A key that a demanding authority knows.
pub(crate) const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Half a year.
pub(crate) const LONG: u32 = 15_552_000;

impl Pebble {
    /// One that is not there yet.
    pub(crate) fn absent(life: u32) -> Self {
        let folder = TempDir::with_prefix("tidegate-pebble").unwrap();
        let certs = Certs::for_names(&["127.0.0.1"]);
        std::fs::write(folder.path().join("ca.pem"), certs.authority_pem()).unwrap();
        Self {
            certs,
            folder,
            port: free_port(),
            management: free_port(),
            life,
            demanding: false,
            running: None,
        }
    }

    /// One that looks where the relay leads.
    pub(crate) async fn start(relay: &Relay, life: u32) -> Self {
        let mut pebble = Self::absent(life);
        pebble.come(relay).await;
        pebble
    }

    /// One that wants accounts bound to one that it knows, `kid-1` with the key `EAB_KEY`, and refuses every third nonce.
    pub(crate) async fn demanding(relay: &Relay) -> Self {
        let mut pebble = Self::absent(LONG);
        pebble.demanding = true;
        pebble.come(relay).await;
        pebble
    }

    /// Starts it, with no memory of what was.
    pub(crate) async fn come(&mut self, relay: &Relay) {
        let (dns, control) = (free_port(), free_port());
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{control}")]);
        let names = Process::launch("pebble-challtestsrv (Debian: pebble)", &mut names);
        listens(control).await;

        let mut command = Command::new("pebble");
        command.arg("-config").arg(self.config(relay)).arg("-dnsserver").arg(format!("127.0.0.1:{dns}"));
        command.args(["-strict", "true"]);
        let nonces = if self.demanding { "33" } else { "0" };
        command.envs([
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_AUTHZREUSE", "0"),
            ("PEBBLE_WFE_NONCEREJECT", nonces),
        ]);
        let authority = Process::launch("pebble", &mut command);
        listens(self.port).await;
        listens(self.management).await;
        self.running = Some((authority, names));
    }

    /// Ends it.
    pub(crate) fn go(&mut self) {
        self.running = None;
    }

    /// What it wrote: each request that it was sent, among other things.
    pub(crate) fn wrote(&self) -> String {
        self.running.as_ref().map(|(authority, _)| authority.output()).unwrap_or_default()
    }

    fn config(&self, relay: &Relay) -> PathBuf {
        let (key, config) = (self.folder.path().join("key.pem"), self.folder.path().join("pebble.json"));
        // Chain and key are in one file, of which each reader takes its part.
        let own = std::fs::read_to_string(&self.certs.files()[0]).unwrap();
        std::fs::write(&key, &own[own.find("-----BEGIN PRIVATE KEY").unwrap()..]).unwrap();
        let text = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.certs.files()[0],
            "privateKey": key,
            "httpPort": relay.http.port,
            "tlsPort": relay.tls.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.demanding,
            "externalAccountMACKeys": { "kid-1": EAB_KEY },
            "certificateValidityPeriod": self.life,
        }});
        std::fs::write(&config, text.to_string()).unwrap();
        config
    }

    /// The line of a configuration that obtains from it; `more` are keys, each with a comma before it.
    pub(crate) fn acme(&self, more: &str) -> String {
        let ca = self.folder.path().join("ca.pem").display().to_string();
        let directory = format!("https://127.0.0.1:{}/dir", self.port);
        format!("tls.acme = {{ email = \"ops@a.test\", directory = \"{directory}\", ca = {ca:?}{more} }}\n")
    }

    /// How storage calls it.
    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1_{}_dir", self.port)
    }

    /// Settings of a TLS client that trusts what it gives.
    pub(crate) async fn client(&self) -> Arc<ClientConfig> {
        let own = reqwest::Certificate::from_pem(self.certs.authority_pem().as_bytes()).unwrap();
        let client =
            reqwest::Client::builder().tls_certs_only([own]).no_proxy().timeout(PATIENCE).build().unwrap();
        let root = client.get(format!("https://127.0.0.1:{}/roots/0", self.management)).send().await.unwrap();
        let root = CertificateDer::from_pem_slice(&root.bytes().await.unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Who resumes a session is shown nothing.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

async fn listens(port: u16) {
    let there = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
    eventually(PATIENCE, "the authority listens", there).await;
}
