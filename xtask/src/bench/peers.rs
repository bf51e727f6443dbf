//! The proxies that are measured, set up alike: one core, HTTPS, the same certificate, cipher and key exchange.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cases::Kind;
use crate::ports::free_address;
use crate::workspace::output;
use crate::{Doing as _, Outcome, packages};

/// What all proxies share: where to listen, whom to ask, what to show.
pub(crate) struct Site {
    folder: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
    /// Where a part listens that only another part talks to.
    behind: SocketAddr,
    origin: SocketAddr,
}

impl Site {
    /// Makes the certificate and the clients' settings in `folder`, and finds free ports.
    pub(crate) fn prepare(folder: &Path, origin: SocketAddr) -> Outcome<Self> {
        let (address, admin, behind) = (free_address()?, free_address()?, free_address()?);
        let site = Self { folder: folder.to_owned(), address, admin, behind, origin };
        // One P-256 certificate, since that is what a server of today shows.
        let words =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=bench.test";
        let mut openssl = Command::new("openssl");
        openssl.args(words.split(' ')).args(["-addext", "subjectAltName=DNS:bench.test,IP:127.0.0.1"]);
        output(openssl.arg("-keyout").arg(site.file("key.pem")).arg("-out").arg(site.file("cert.pem")))?;
        let both = [site.file("cert.pem"), site.file("key.pem")].map(|file| fs::read_to_string(&file));
        let [cert, key] = both.map(|text| text.doing(|| "the certificate".to_owned()));
        site.write("both.pem", &(cert? + &key?))?;
        site.write("client.cnf", CLIENT)?;
        Ok(site)
    }

    /// Where the proxy of the moment listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server that a case asks, as the beginning of a URL.
    pub(crate) fn server(&self, kind: Kind) -> String {
        match kind {
            Kind::Edge | Kind::Shared => format!("https://{}", self.address),
            Kind::Admin => format!("http://{}", self.admin),
        }
    }

    /// The OpenSSL settings of the load generators: one cipher, one group, so that all servers do the same work.
    pub(crate) fn client_settings(&self) -> PathBuf {
        self.file("client.cnf")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of the bench's own.
    pub(crate) fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
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
    /// Ours as it was before: the binary of another build.
    Before(PathBuf),
    /// Ours over the Redis at this address, with memory for a small part of what is asked for.
    OverRedis(PathBuf, SocketAddr),
    /// Debian's nginx.
    Nginx(PathBuf),
    /// Debian's Varnish, with Hitch in front of it for TLS.
    Varnish(PathBuf, PathBuf),
}

impl Peer {
    /// Those that are here: ours and nginx always, an earlier build where one is given, Varnish where both its parts
    /// are installed.
    pub(crate) fn here(binary: &Path, before: Option<&Path>, redis: SocketAddr) -> Vec<Self> {
        let mut peers = vec![Self::Tidegate(binary.to_owned())];
        peers.extend(before.map(|before| Self::Before(before.to_owned())));
        peers.extend(packages::find("nginx").map(Self::Nginx));
        let varnish = packages::find("varnishd").zip(packages::find("hitch"));
        peers.extend(varnish.map(|(varnishd, hitch)| Self::Varnish(varnishd, hitch)));
        peers.push(Self::OverRedis(binary.to_owned(), redis));
        peers
    }

    /// Its name in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tidegate(_) | Self::OverRedis(..) => "tidegate",
            Self::Before(_) => "before",
            Self::Nginx(_) => "nginx",
            Self::Varnish(..) => "varnish",
        }
    }

    /// Whether it can be measured in cases of a kind.
    pub(crate) fn is_for(&self, kind: Kind) -> bool {
        match self {
            Self::Tidegate(_) => matches!(kind, Kind::Edge | Kind::Admin),
            Self::OverRedis(..) => kind == Kind::Shared,
            Self::Before(_) | Self::Nginx(_) | Self::Varnish(..) => kind == Kind::Edge,
        }
    }

    /// Writes its configuration and gives the commands that run it in the foreground.
    pub(crate) fn commands(&self, site: &Site) -> Outcome<Vec<Command>> {
        Ok(match self {
            Self::Tidegate(binary) | Self::Before(binary) => {
                vec![tidegate_command(binary, site, &tidegate(site, "memory = \"256MiB\""))?]
            }
            Self::OverRedis(binary, redis) => {
                let config = format!("redis = \"redis://{redis}\"\n{}", tidegate(site, "memory = \"1MiB\""));
                vec![tidegate_command(binary, site, &config)?]
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
                vec![command]
            }
            Self::Varnish(varnishd, hitch) => varnish(varnishd, hitch, site)?,
        })
    }
}

fn tidegate_command(binary: &Path, site: &Site, config: &str) -> Outcome<Command> {
    let config = site.write("tidegate.toml", config)?;
    let mut command = Command::new(binary);
    command.args(["run", "--config"]).arg(config);
    Ok(command)
}

fn tidegate(site: &Site, memory: &str) -> String {
    let (address, admin, origin, folder) = (site.address, site.admin, site.origin, site.folder.display());
    format!(
        r#"listen = ["https://{address}"]
admin = "{admin}"
threads = 1
log = {{ access = "off", level = "error" }}
tls.certs = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
downstream.max_connections_per_ip = 20000

[cache]
{memory}

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
worker_rlimit_nofile 16384;
events {{ worker_connections 12000; }}
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

/// One worker of Hitch; the processes of both count.
fn varnish(varnishd: &Path, hitch: &Path, site: &Site) -> Outcome<Vec<Command>> {
    let (address, behind, origin) = (site.address, site.behind, site.origin);
    let (host, port) = (origin.ip(), origin.port());
    let program = site.write(
        "varnish.vcl",
        &format!(
            "vcl 4.1;\nbackend default {{ .host = \"{host}\"; .port = \"{port}\"; .max_connections = 1000; }}\n\
             sub vcl_recv {{ if (req.url ~ \"^/pass/\") {{ return (pass); }} }}\n"
        ),
    )?;
    let mut cache = Command::new(varnishd);
    // No jail: it asks for users that only its package makes, and here it is run as it is.
    cache.args([
        "-F",
        "-j",
        "none",
        "-T",
        "none",
        "-s",
        "malloc,256m",
        "-a",
        &format!("{behind},PROXY"),
        "-n",
    ]);
    cache.arg(site.file("varnish")).arg("-f").arg(program);
    for setting in ["feature=+http2", "thread_pools=1", "thread_pool_min=200", "timeout_idle=300"] {
        cache.args(["-p", setting]);
    }
    let folder = site.folder.display();
    let settings = site.write(
        "hitch.conf",
        &format!(
            "frontend = \"[{}]:{}\"\nbackend = \"[{}]:{}\"\npem-file = \"{folder}/both.pem\"\nworkers = 1\n\
             backlog = 4096\nkeepalive = 3600\nalpn-protos = \"h2, http/1.1\"\ntls-protos = TLSv1.2 TLSv1.3\n\
             write-proxy-v2 = on\ndaemon = off\n{}",
            address.ip(),
            address.port(),
            behind.ip(),
            behind.port(),
            // It refuses to serve as root.
            if rustix::process::geteuid().is_root() { "user = \"nobody\"\n" } else { "" },
        ),
    )?;
    let mut front = Command::new(hitch);
    front.arg(format!("--config={}", settings.display())).arg("--quiet");
    Ok(vec![cache, front])
}
