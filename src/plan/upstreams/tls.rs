//! `tls` of an upstream: whom it believes, and what it shows.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;

use crate::config::upstream::{Server, UpstreamTls, UpstreamTlsTable};
use crate::config::{Place, Problem, Upstream};
use crate::listen::{Cert, CertSource, certs};
use crate::plan::tls::unusable;
use crate::upstream::tls::{BadAuthority, TlsSettings, Trust};
use crate::upstream::{Tls, resolve, tls};

use super::settings;

/// The authorities of the system, read when the first upstream asks for them.
#[derive(Debug, Default)]
pub(super) struct System(OnceCell<Vec<CertificateDer<'static>>>);

impl System {
    /// Those that can be read; none where there are none, which is told when the upstream comes into force.
    fn authorities(&self) -> &[CertificateDer<'static>] {
        self.0.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs().certs;
            // Bundles hold certificates of old that no verifier takes.
            found.into_iter().filter(tls::is_authority).collect()
        })
    }
}

/// How TLS is spoken with the servers of an upstream, if it is; files are relative to `directory`.
pub(super) fn tls(
    upstream: &Upstream,
    (directory, system): (&Path, &System),
    running: Option<&Arc<Tls>>,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Tls>> {
    let usual = UpstreamTlsTable::default();
    let table = match &upstream.tls {
        Some(UpstreamTls::Table(table)) => table,
        Some(UpstreamTls::Switch(_)) => &usual,
        None if upstream.servers.iter().any(is_secure) => &usual,
        None => return None,
    };
    let trust = trust(table, directory, system, place).map_err(|problem| problems.push(problem)).ok();
    let certificate = certificate(table, directory, place).map_err(|problem| problems.push(problem)).ok();
    let (trust, certificate) = (trust?, certificate?);
    // The check of the file lets nothing else through.
    let server_name = table.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
    let alpn = tls::alpn(settings::protocol(upstream.protocol));
    let followed = Tls::follow(TlsSettings { trust, server_name, certificate, alpn }, running);
    followed.map_err(|error| problems.push(bad_authority(table, directory, place, &error))).ok()
}

fn trust(
    table: &UpstreamTlsTable,
    directory: &Path,
    system: &System,
    place: &Place,
) -> Result<Trust, Problem> {
    let Some(file) = table.ca.as_ref().map(|file| directory.join(file)) else {
        return Ok(if table.verify {
            Trust::Authorities(system.authorities().to_vec())
        } else {
            Trust::Anybody
        });
    };
    if !table.verify {
        let message = "authorities are given, and certificates not verified";
        return Err(Problem::new(place.then("verify"), message, "leave `verify` out, or `ca`"));
    }
    let found = certs::read_chain(&file).map_err(|error| unusable(place.then("ca"), &error))?;
    if found.is_empty() {
        let message = format!("{} holds no certificate", file.display());
        let remedy = "it needs the `-----BEGIN CERTIFICATE-----` blocks of who signs servers' certificates";
        return Err(Problem::new(place.then("ca"), message, remedy));
    }
    Ok(Trust::Authorities(found))
}

fn certificate(
    table: &UpstreamTlsTable,
    directory: &Path,
    place: &Place,
) -> Result<Option<Arc<CertifiedKey>>, Problem> {
    let source = match (&table.cert, &table.key) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            let remedy = "add `cert`, or leave `key` out";
            return Err(Problem::new(place.then("key"), "a key without its certificate", remedy));
        }
        (Some(cert), None) => CertSource::Pem { path: directory.join(cert) },
        (Some(cert), Some(key)) => CertSource::Pair { cert: directory.join(cert), key: directory.join(key) },
    };
    let loaded = Cert::load(&source).map_err(|error| {
        let of_key = table.key.as_ref().is_some_and(|key| error.file() == Some(&directory.join(key)));
        unusable(place.then(if of_key { "key" } else { "cert" }), &error)
    })?;
    Ok(Some(loaded.certified_key().clone()))
}

fn bad_authority(table: &UpstreamTlsTable, directory: &Path, place: &Place, error: &BadAuthority) -> Problem {
    let file = table.ca.as_ref().map(|file| directory.join(file)).unwrap_or_default();
    let message = format!("{}: {error}", file.display());
    Problem::new(place.then("ca"), message, "`openssl x509 -text -in FILE` shows what is in it")
}

/// Servers of which some are under TLS and others not, or that have no name to verify.
pub(super) fn check(
    place: &Place,
    servers: &[Server],
    written: Option<&UpstreamTls>,
    problems: &mut Vec<Problem>,
) {
    let named = matches!(written, Some(UpstreamTls::Table(table)) if table.server_name.is_some());
    let some_secure = servers.iter().any(is_secure);
    for (index, server) in servers.iter().enumerate() {
        let address = server.address();
        if written.is_none() && some_secure && !is_secure(server) {
            let message = format!("{address} is spoken to without TLS, and others with it");
            let remedy = "write `https://` here too, or give it an upstream of its own";
            problems.push(Problem::new(place.then(index), message, remedy));
        }
        if written.is_some() && !named && !has_name(address) {
            let message = format!("{address} has no name that a certificate could have");
            let remedy = "add `tls = { server_name = \"…\" }` to the upstream";
            problems.push(Problem::new(place.then(index), message, remedy));
        }
    }
}

fn is_secure(server: &Server) -> bool {
    server.address().starts_with("https://")
}

fn has_name(address: &str) -> bool {
    let host = resolve::host(address);
    host.is_some_and(|host| tls::name_of_host(&host).is_some())
}
