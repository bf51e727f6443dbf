//! TLS to the server: it must be the one that was meant.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::database::Home;
use crate::server::Server;
use crate::support::{Service, program};

/// A server with a certificate for this name, which takes no connection without TLS; and the certificate's file.
fn server(name: &str) -> (tempfile::TempDir, Server, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    let server = Server::start_with_files(
        "ssl = on\nssl_cert_file = '../cert.pem'\nssl_key_file = '../key.pem'\nhba_file = 'hba.conf'\n",
        &[
            ("cert.pem", &cert.pem()),
            ("key.pem", &signing_key.serialize_pem()),
            ("hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256\n"),
        ],
    );
    (directory, server, file.to_str().unwrap().to_owned())
}

/// The URL of a new database, by the server's name and with these parameters.
async fn url(server: &Server, parameters: &str) -> (Home, String) {
    let home = Home::on(server).await;
    let url = format!("{}?{parameters}", home.url().replace("127.0.0.1", "localhost"));
    (home, url)
}

#[tokio::test]
async fn users_and_passwords_go_by_tls() {
    let (_directory, server, ca) = server("localhost");
    let (home, url) = url(&server, &format!("sslmode=verify-full&sslrootcert={ca}")).await;
    let service = Service::spawn(program(&home).env("USER_SERVICE_DATABASE", &url)).await;
    service.create("ada").await;
    let mut database = PgConnection::connect(&home.url()).await.unwrap();
    let (secret, open): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) \
         FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'user-service'",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(secret > 0 && open == 0, "{secret} connections with TLS, {open} without");
}

#[tokio::test]
async fn another_server_than_the_one_meant_gets_no_password() {
    let (_directory, server, ca) = server("db.example");
    let (_other, other) = {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("other.pem");
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&file, made.cert.pem()).unwrap();
        (directory, file.to_str().unwrap().to_owned())
    };
    for (parameters, expected) in [
        (format!("sslmode=verify-full&sslrootcert={ca}"), "not valid for name"),
        (format!("sslmode=verify-ca&sslrootcert={other}"), "certificate"),
        ("sslmode=verify-full".to_owned(), "certificate"),
        ("sslmode=disable".to_owned(), "no encryption"),
    ] {
        let (home, url) = url(&server, &parameters).await;
        let mut command = program(&home);
        command.env("USER_SERVICE_DATABASE", &url).stderr(std::process::Stdio::piped());
        let output = command.output().await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{expected} is not in: {stderr}");
    }
}
