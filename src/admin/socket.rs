//! Where the admin listener is bound: an address, or a file.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};

/// A bound socket that nobody is accepted from yet.
#[derive(Debug)]
pub enum Socket {
    /// At an address.
    Tcp(std::net::TcpListener),
    /// At a path, which is removed when this is dropped.
    Unix(std::os::unix::net::UnixListener, File),
}

/// The file of a socket, for as long as it is in use.
#[derive(Debug)]
pub struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Somebody else may have removed it, which is as well.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Binds an address.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        std::net::TcpListener::bind(address).map(Self::Tcp)
    }

    /// Binds a path, for the owner of this process alone. A socket that a process before left behind is replaced; a
    /// file of any other kind is not.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let left_behind = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
        };
        if left_behind(path) {
            fs::remove_file(path)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        let file = File(path.to_owned());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, file))
    }

    /// Where it is, as `admin` of the configuration says it; port 0 has become a port.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| address.to_string()),
            Self::Unix(_, file) => Ok(format!("unix:{}", file.0.display())),
        }
    }

    /// Hands it to the runtime.
    pub(super) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener).map(Listener::Tcp)
            }
            Self::Unix(listener, file) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener).map(|listener| Listener::Unix(listener, file))
            }
        }
    }
}

/// A socket that accepts.
pub(super) enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, #[expect(dead_code, reason = "removes the file when dropped")] File),
}

/// One connection: bytes, and the address of ours that it came to, where it has one.
pub(super) type Accepted = (Box<dyn Bytes>, Option<IpAddr>);

/// What a connection of either kind can do.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let local = stream.local_addr()?.ip();
                Ok((Box::new(stream), Some(local)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), None))
            }
        }
    }
}
