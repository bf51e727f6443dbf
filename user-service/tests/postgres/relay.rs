//! A way to a server on which a test can have all that is there fall silent, as when a machine is lost: nothing comes any more, and
//! nobody is told. Who connects anew gets through.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Relay {
    pub(crate) port: u16,
    silenced: watch::Sender<()>,
}

impl Relay {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let silenced = watch::Sender::new(());
        let told = silenced.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, port, told.subscribe()));
            }
        });
        Self { port: here, silenced }
    }

    pub(crate) fn silence(&self) {
        self.silenced.send_replace(());
    }
}

async fn carry(mut client: TcpStream, port: u16, mut silenced: watch::Receiver<()>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = silenced.changed() => {
            // The server sees them go, as it is another one in truth; clients hear nothing.
            drop(server);
            std::future::pending::<()>().await;
        }
    }
}
