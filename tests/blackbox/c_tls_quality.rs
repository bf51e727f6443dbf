//! What graders of TLS look at, asked by OpenSSL: old versions, weak suites, renegotiation; and the order of our own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustls::version::TLS13;
use rustls::{CipherSuite, NamedGroup};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::handshake::handshake;
use crate::support::{Certs, Gateway, https, must};

async fn gateway(certs: &Certs) -> Gateway {
    Gateway::start(&format!("{}[routes.all]\nrespond = {{ body = \"fine\" }}\n", https(certs))).await
}

/// What `openssl s_client` says of a connection over which it is told `input`.
async fn s_client(address: SocketAddr, words: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "a.test"]).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("openssl (Debian: openssl): {error}"));
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = must("openssl ends", child.wait_with_output()).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn old_versions_and_weak_suites_are_refused() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = gateway(&certs).await;
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(gateway.https(), &[version, "-cipher", "ALL:@SECLEVEL=0"], "").await;
        // Which of the two says what the greeting lacks first: the version, or what goes with it.
        let alerts = ["alert protocol version", "alert handshake failure"];
        assert!(alerts.iter().any(|alert| said.contains(alert)), "{version}: {said}");
    }
    for suite in [
        "AES128-SHA",
        "AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-RSA-AES128-SHA256",
        "DHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES128-CCM",
        "AECDH-AES128-SHA",
        "ECDHE-ECDSA-NULL-SHA",
    ] {
        let cipher = format!("{suite}:@SECLEVEL=0");
        let said = s_client(gateway.https(), &["-tls1_2", "-cipher", &cipher], "").await;
        assert!(said.contains("handshake failure"), "{suite}: {said}");
    }
    for suite in
        ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"]
    {
        let said = s_client(gateway.https(), &["-tls1_2", "-cipher", suite], "").await;
        assert!(said.contains(&format!("Cipher is {suite}")), "{said}");
        for word in ["Secure Renegotiation IS supported", "Compression: NONE", "Extended master secret: yes"]
        {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[tokio::test]
async fn the_order_is_ours_with_a_key_exchange_that_outlasts_quantum_computers_first() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = gateway(&certs).await;
    let stream = handshake(gateway.https(), "a.test", &certs.client_of(&[&TLS13], &[])).await.unwrap();
    let connection = stream.get_ref().1;
    let group = connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(suite, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));

    // Only who has no instructions for AES is asked first.
    for (offered, agreed) in [
        (["AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-GCM-SHA256"], "AES128-GCM-SHA256"),
        (["CHACHA20-POLY1305", "AES256-GCM-SHA384", "AES128-GCM-SHA256"], "CHACHA20-POLY1305"),
    ] {
        let offered = offered.map(|suite| format!("ECDHE-ECDSA-{suite}")).join(":");
        let said = s_client(gateway.https(), &["-tls1_2", "-cipher", &offered], "").await;
        assert!(said.contains(&format!("Cipher is ECDHE-ECDSA-{agreed}")), "{offered}: {said}");
    }
}

#[tokio::test]
async fn nobody_renegotiates() {
    let certs = Certs::for_names(&["a.test"]);
    let bounds = "downstream = { header_timeout = \"1s\", idle_timeout = \"1s\" }";
    let routes = "[routes.all]\nrespond = { body = \"fine\" }\n";
    let gateway = Gateway::start(&format!("{}{bounds}\n{routes}", https(&certs))).await;
    // Who insists waits until the connection ends.
    let [once, again] = ["", "R\n"].map(|input| s_client(gateway.https(), &["-tls1_2"], input));
    let (once, again) = (once.await, again.await);
    assert!(again.contains("RENEGOTIATING") && !once.contains("RENEGOTIATING"), "{again}");
    let shown = |said: &str| said.matches("depth=0").count();
    assert_eq!(shown(&again), shown(&once), "no certificate is shown again: {again}");
}

/// The suites of TLS 1.2 that are taken of all that OpenSSL knows, in the order of the server: those that were taken are
/// not offered again.
async fn taken(address: SocketAddr) -> Vec<String> {
    let mut taken = Vec::new();
    loop {
        let offered = [&["ALL:COMPLEMENTOFALL".to_owned()], &taken[..]].concat().join(":!") + ":@SECLEVEL=0";
        let said = s_client(address, &["-tls1_2", "-cipher", &offered], "").await;
        let suite = said.split("Cipher is ").nth(1).and_then(|rest| rest.split_whitespace().next());
        match suite.unwrap_or_else(|| panic!("no word of a suite: {said}")) {
            "(NONE)" => return taken,
            suite => taken.push(suite.to_owned()),
        }
    }
}

/// A certificate with an RSA key that signs itself, and the key, in one file.
async fn with_rsa(folder: &Path) -> PathBuf {
    let (cert, key) = (folder.join("rsa.pem"), folder.join("rsa.key"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=a.test"]);
    command.args(["-addext", "subjectAltName=DNS:a.test", "-keyout"]).arg(&key).arg("-out").arg(&cert);
    let made = must("openssl ends", command.stdin(Stdio::null()).output()).await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap()].concat();
    std::fs::write(&cert, both).unwrap();
    cert
}

#[tokio::test]
async fn of_all_suites_of_tls_1_2_those_with_forward_secrecy_and_sealed_records_are_taken_in_our_order() {
    let certs = Certs::for_names(&["a.test"]);
    let folder = tempfile::tempdir().unwrap();
    let rsa = with_rsa(folder.path()).await;
    for (key, file) in [("ECDSA", &certs.files()[0]), ("RSA", &rsa)] {
        let top =
            format!("listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntls.certs = [{file:?}]\n");
        let gateway = Gateway::start(&format!("{top}[routes.all]\nrespond = {{ body = \"fine\" }}\n")).await;
        let suites = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"];
        assert_eq!(taken(gateway.https()).await, suites.map(|suite| format!("ECDHE-{key}-{suite}")));
    }
}

#[tokio::test]
async fn a_grader_finds_the_new_version_preferred_its_suites_alone_and_hsts() {
    let certs = Certs::for_names(&["a.test"]);
    let hsts = "[defaults]\nhsts = { max_age = \"730d\" }\n";
    let routes = "[routes.all]\nrespond = { body = \"fine\" }\n";
    let gateway = Gateway::start(&format!("{}{hsts}{routes}", https(&certs))).await;

    let all = "TLS_AES_128_CCM_8_SHA256:TLS_AES_128_CCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
    let said = s_client(gateway.https(), &["-ciphersuites", all], "").await;
    assert!(said.contains("New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256"), "{said}");
    assert!(said.contains("Compression: NONE"), "{said}");
    for suite in ["TLS_AES_128_CCM_8_SHA256", "TLS_AES_128_CCM_SHA256"] {
        let said = s_client(gateway.https(), &["-tls1_3", "-ciphersuites", suite], "").await;
        assert!(said.contains("handshake failure"), "{suite}: {said}");
    }
    // Where a client lacks the hybrid key exchange, elliptic curves of 128 bits and more are agreed on.
    for (offered, agreed) in
        [("X25519:P-256", "X25519"), ("P-521:P-384", "secp384r1"), ("P-256", "prime256v1")]
    {
        let said = s_client(gateway.https(), &["-groups", offered], "").await;
        let key = said.lines().find(|line| line.contains("Temp Key")).unwrap_or_else(|| panic!("{said}"));
        assert!(key.contains(agreed), "{offered}: {key}");
    }
    let finite = s_client(gateway.https(), &["-tls1_3", "-groups", "ffdhe2048"], "").await;
    assert!(finite.contains("handshake failure"), "{finite}");

    let ask = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answer = s_client(gateway.https(), &["-quiet"], ask).await;
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age=63072000"), "{answer}");
}
