//! What graders of TLS look at, asked by OpenSSL: old versions, weak suites, renegotiation; and the order of our own.

use std::net::SocketAddr;
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
    assert_eq!(suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));

    let others_first =
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384";
    let said = s_client(gateway.https(), &["-tls1_2", "-cipher", others_first], "").await;
    assert!(said.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "{said}");
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
