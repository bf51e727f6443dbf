//! The proxies that are measured, set up alike: one core, HTTPS, the same certificate, cipher and key exchange.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::output;
use crate::{Doing as _, Outcome};

/// What all proxies share: where to listen, whom to ask, what to show.
pub(crate) struct Site {
    folder: PathBuf,
    address: SocketAddr,
    origin: SocketAddr,
}

impl Site {
    /// Makes the certificate and the clients' settings in `folder`, and finds a free port.
    pub(crate) fn prepare(folder: &Path, origin: SocketAddr) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "a free port".to_owned())?;
        let address = listener.local_addr().doing(|| "a free port".to_owned())?;
        let site = Self { folder: folder.to_owned(), address, origin };
        // One P-256 certificate, since that is what a server of today shows.
        let words =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=bench.test";
        let mut openssl = Command::new("openssl");
        openssl.args(words.split(' ')).args(["-addext", "subjectAltName=DNS:bench.test,IP:127.0.0.1"]);
        output(openssl.arg("-keyout").arg(site.file("key.pem")).arg("-out").arg(site.file("cert.pem")))?;
        site.write("client.cnf", CLIENT)?;
        Ok(site)
    }

    /// Where the proxy of the moment listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The OpenSSL settings of the load generators: one cipher, one group, so that all servers do the same work.
    pub(crate) fn client_settings(&self) -> PathBuf {
        self.file("client.cnf")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let file = self.file(name);
        fs::write(&file, text).doing(|| file.display().to_string())?;
        Ok(file)
    }
}

const CLIENT: &str = "\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
MinProtocol = TLSv1.3
";

/// A proxy under test.
pub(crate) enum Peer {
    /// Ours: the binary.
    Tidegate(PathBuf),
    /// Debian's nginx.
    Nginx(PathBuf),
}

impl Peer {
    /// Its name in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tidegate(_) => "tidegate",
            Self::Nginx(_) => "nginx",
        }
    }

    /// Writes its configuration and gives the command that runs it in the foreground.
    pub(crate) fn command(&self, site: &Site) -> Outcome<Command> {
        match self {
            Self::Tidegate(binary) => {
                let config = site.write("tidegate.toml", &tidegate(site))?;
                let mut command = Command::new(binary);
                command.args(["run", "--config"]).arg(config);
                Ok(command)
            }
            Self::Nginx(binary) => {
                let config = site.write("nginx.conf", &nginx(site))?;

                let mut command = Command::new(binary);
                command
                    .arg("-e")
                    .arg(site.file("nginx.log"))
                    .arg("-p")
                    .arg(&site.folder)
                    .arg("-c")
                    .arg(config);
                Ok(command)
            }
        }
    }
}

fn tidegate(site: &Site) -> String {
    let (address, origin, folder) = (site.address, site.origin, site.folder.display());
    format!(
        r#"listen = ["https://{address}"]
admin = "127.0.0.1:0"
threads = 1
log = {{ access = "off", level = "error" }}
tls.certs = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]

[routes.pass]
path = "/pass/*"
upstream = "{origin}"

[routes.hit]
path = "/hit/*"
upstream = "{origin}"
cache = "1h"
"#
    )
}

/// One worker, no master: a single process whose CPU time is all there is. Its cache is a folder,
/// which the kernel keeps in memory.
fn nginx(site: &Site) -> String {
    let (address, origin, folder) = (site.address, site.origin, site.folder.display());
    format!(
        r#"daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; server_tokens off;
  keepalive_timeout 300s; keepalive_requests 1000000000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=hits:16m max_size=256m use_temp_path=off;
  open_file_cache max=1000;
  upstream origin {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen {address} ssl http2 backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    location /pass/ {{ proxy_pass http://origin; }}
    location /hit/ {{ proxy_pass http://origin; proxy_cache hits; proxy_cache_lock on; }}
  }}
}}
"#
    )
}
