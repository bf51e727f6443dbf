//! Certificates that are renewed under a running gateway: taken when they are good, refused when they are not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

use crate::support::handshake::{handshake, is_served, leaf};
use crate::support::{Certs, Gateway, PATIENCE, eventually};

const NAMES: [&str; 2] = ["a.test", "b.test"];
const REFUSED_NOW: &str = "tidegate_certificates_refused";
const LOADED: &str = "tidegate_certificate_reloads_total{result=\"loaded\"}";

/// A pair in files of a test's own, `tls.crt` and `tls.key`, and a gateway that shows it.
struct Renewed {
    certs: Certs,
    folder: TempDir,
    gateway: Gateway,
}

impl Renewed {
    async fn start() -> Self {
        let certs = Certs::for_names(&NAMES);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &certs.issue(&NAMES));
        Self { gateway: showing(folder.path()).await, certs, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a text into a file by renaming a new one over it.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.file("draft"), text).unwrap();
        fs::rename(self.file("draft"), self.file(name)).unwrap();
    }

    /// What a client that was never here is shown.
    async fn shown(&self) -> CertificateDer<'static> {
        let mut stream = handshake(self.gateway.https(), "a.test", &self.certs.client(&[])).await.unwrap();
        is_served(&mut stream).await;
        leaf(&stream)
    }

    async fn comes_to_show(&self, certificate: &str) {
        let wanted = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        eventually(PATIENCE, "the new certificate is shown", async || self.shown().await == wanted).await;
    }

    /// Waits for a metric, which follows what it counts.
    async fn comes_to_count(&self, series: &str, value: f64) {
        let holds = async || self.gateway.metric(series).await == value;
        eventually(PATIENCE, &format!("{series} is {value}"), holds).await;
    }
}

fn write(folder: &Path, (certificate, key): &(String, String)) {
    fs::write(folder.join("tls.crt"), certificate).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
}

/// A gateway that answers everything itself under `tls.crt` and `tls.key` of a folder.
async fn showing(folder: &Path) -> Gateway {
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name).display().to_string());
    Gateway::start(&format!(
        "listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         tls.certs = [{{ cert = {cert:?}, key = {key:?} }}]\n\
         [routes.all]\nrespond = {{ status = 200, body = \"fine\" }}\n"
    ))
    .await
}

#[tokio::test]
async fn a_renewed_pair_is_shown_without_a_restart_and_open_connections_go_on() {
    let it = Renewed::start().await;
    let mut before = handshake(it.gateway.https(), "a.test", &it.certs.client(&[])).await.unwrap();
    is_served(&mut before).await;

    let (certificate, key) = it.certs.issue(&NAMES);
    it.put("tls.crt", &certificate);
    it.put("tls.key", &key);
    it.comes_to_show(&certificate).await;
    is_served(&mut before).await;

    it.comes_to_count(LOADED, 1.0).await;
    assert_eq!(it.gateway.metric(REFUSED_NOW).await, 0.0);
    // The first day of 4096.
    let expiry = it.gateway.metric("tidegate_certificate_expiry_seconds{name=\"a.test\"}").await;
    assert_eq!(expiry, 67_090_118_400.0);
    let said = async || it.gateway.wrote().contains("certificate loaded");
    eventually(PATIENCE, "the log says so", said).await;
}

#[tokio::test]
async fn a_folder_is_swapped_behind_a_symbolic_link() {
    let certs = Certs::for_names(&NAMES);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (old, new) = (certs.issue(&NAMES), certs.issue(&NAMES));
    for (name, pair) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(at(name)).unwrap();
        write(&at(name), pair);
    }
    symlink("..1", at("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let gateway = showing(folder.path()).await;
    let it = Renewed { certs, folder, gateway };
    it.comes_to_show(&old.0).await;

    symlink("..2", it.file("..data_tmp")).unwrap();
    fs::rename(it.file("..data_tmp"), it.file("..data")).unwrap();
    fs::remove_dir_all(it.file("..1")).unwrap();
    it.comes_to_show(&new.0).await;
}

#[tokio::test]
async fn a_bad_pair_is_refused_and_the_one_before_shown_until_a_good_one_comes() {
    let it = Renewed::start().await;
    let before = it.shown().await;
    let (certificate, key) = it.certs.issue(&NAMES);
    it.put("tls.key", &key);
    it.comes_to_count(REFUSED_NOW, 1.0).await;

    assert_eq!(it.shown().await, before);
    let counted = it.gateway.metric("tidegate_certificate_reloads_total{result=\"refused\"}").await;
    assert_eq!(counted, 1.0);
    let said = async || it.gateway.wrote().contains("certificate refused");
    eventually(PATIENCE, "the log says so", said).await;
    let wrote = it.gateway.wrote();
    let line = wrote.lines().find(|line| line.contains("certificate refused")).unwrap();
    let file = it.file("tls.key").display().to_string();
    assert!(line.contains(&file) && line.contains("does not belong to the first certificate"), "{line}");

    it.put("tls.crt", &certificate);
    it.comes_to_show(&certificate).await;
    it.comes_to_count(REFUSED_NOW, 0.0).await;
    it.comes_to_count(LOADED, 1.0).await;
    assert_eq!(it.gateway.wrote().matches("certificate refused").count(), 1);
}

#[tokio::test]
async fn what_ends_within_fourteen_days_is_warned_of_and_what_ends_later_is_not() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let certs = Certs::for_names(&NAMES);
    let pair = |days: u32| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([format!("d{days}.test")]).unwrap();
        params.not_after = (SystemTime::now() + days * DAY).into();
        certs.sign(&params, &key) + &key.serialize_pem()
    };
    let beside = [("soon.pem", pair(13)), ("later.pem", pair(15))];
    let beside: Vec<_> = beside.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_with(
        "listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         tls.certs = [\"soon.pem\", \"later.pem\"]\n[routes.all]\nrespond = { body = \"fine\" }\n",
        &beside,
    )
    .await;

    let warned = |file: &str| {
        let wrote = gateway.wrote();
        wrote.lines().filter(|line| line.contains(file) && line.contains("expires on")).count()
    };
    eventually(PATIENCE, "the log says so", async || warned("soon.pem") > 0).await;
    assert_eq!((warned("soon.pem"), warned("later.pem")), (1, 0), "{}", gateway.wrote());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    for days in [13.0, 15.0] {
        let end =
            gateway.metric(&format!("tidegate_certificate_expiry_seconds{{name=\"d{days}.test\"}}")).await;
        let left = (end - now) / DAY.as_secs_f64();
        assert!((days - 0.1..=days).contains(&left), "{left} days of {days}");
    }
}

#[tokio::test]
async fn no_handshake_fails_while_pairs_are_renewed() {
    let it = Renewed::start().await;
    let over = Arc::new(AtomicBool::new(false));
    let address = it.gateway.https();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            // Sessions are resumed where they can be: the keys of tickets outlive every renewal.
            let (config, over) = (it.certs.client(&[]), over.clone());
            tokio::spawn(async move {
                let mut handshakes = 0;
                while !over.load(Ordering::Relaxed) {
                    is_served(&mut handshake(address, "a.test", &config).await.unwrap()).await;
                    handshakes += 1;
                }
                handshakes
            })
        })
        .collect();
    // A look a second, and two for each: more of them would take their time. `listen` has a test of twenty.
    for _ in 0..4 {
        let (certificate, key) = it.certs.issue(&NAMES);
        it.put("tls.key", &key);
        it.put("tls.crt", &certificate);
        it.comes_to_show(&certificate).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    it.comes_to_count(LOADED, 4.0).await;
    assert_eq!(it.gateway.metric("tidegate_tls_handshake_failures_total").await, 0.0);
}
