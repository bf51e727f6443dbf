//! A gateway with one route, for what passes through it.

use std::net::SocketAddr;

use super::{Answer, Certs, Gateway, Raw, https, plain};

/// A gateway over plain HTTP that sends everything to this address; `top` are keys before the first table.
pub(crate) async fn before(origin: SocketAddr, top: &str) -> Gateway {
    over(&(plain() + top), origin).await
}

/// The same over HTTPS.
pub(crate) async fn before_tls(origin: SocketAddr, certs: &Certs) -> Gateway {
    over(&https(certs), origin).await
}

async fn over(top: &str, origin: SocketAddr) -> Gateway {
    Gateway::start(&format!("{top}\n[routes.all]\nmax_body = \"32MiB\"\nupstream = \"{origin}\"\n")).await
}

/// `GET /` with these field lines.
pub(crate) async fn get(gateway: &Gateway, fields: &[&str]) -> Answer {
    let lines = [&["GET / HTTP/1.1", "Host: a.test"], fields, &["", ""]].concat();
    Raw::tcp(gateway.http()).await.ask(lines.join("\r\n")).await
}
