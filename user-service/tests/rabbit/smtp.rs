//! A mail server that does as its script says: who gets a message decides what is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Mail to `nobody@…` is refused for good, to `never@…` for now, to `third@…` for now the first two times.
pub(crate) struct MailServer {
    port: u16,
    state: Arc<State>,
}

struct State {
    tries: Mutex<HashMap<String, usize>>,
    accepted: Mutex<Vec<(String, String)>>,
    held: watch::Sender<bool>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            tries: Mutex::default(),
            accepted: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let server = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, server.clone()));
            }
        });
        Self { port, state }
    }

    /// Keys that send welcomes here.
    pub(crate) fn config(&self) -> String {
        format!("smtp = \"smtp://127.0.0.1:{}\"\nfrom = \"Users <users@example.com>\"\n", self.port)
    }

    /// Leaves whole messages without an answer, until told otherwise.
    pub(crate) fn hold(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// How often it was asked to take a message to this one.
    pub(crate) fn tries(&self, name: &str) -> usize {
        let address = format!("{name}@example.com");
        self.state.tries.lock().unwrap().get(&address).copied().unwrap_or(0)
    }

    /// The messages to this one that it took.
    pub(crate) fn accepted(&self, name: &str) -> Vec<String> {
        let address = format!("{name}@example.com");
        let accepted = self.state.accepted.lock().unwrap();
        accepted.iter().filter(|(to, _)| *to == address).map(|(_, message)| message.clone()).collect()
    }
}

async fn talk(stream: TcpStream, state: Arc<State>) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut to = String::new();
    writer.write_all(b"220 test\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let answer = match line.get(..4).unwrap_or_default() {
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                state.judge(&to)
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await.ok()?;
                let mut message = String::new();
                loop {
                    match lines.next_line().await.ok()?? {
                        end if end == "." => break,
                        part => message = message + &part + "\n",
                    }
                }
                let mut held = state.held.subscribe();
                state.accepted.lock().unwrap().push((to.clone(), message));
                held.wait_for(|held| !held).await.ok()?;
                "250 taken"
            }
            "QUIT" => "221 bye",
            _ => "250 test",
        };
        writer.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    }
    Some(())
}

impl State {
    fn judge(&self, to: &str) -> &'static str {
        let mut tries = self.tries.lock().unwrap();
        let tries = tries.entry(to.to_owned()).or_default();
        *tries += 1;
        match to.split('@').next() {
            Some("nobody") => "550 no such user",
            Some("never") => "451 come again",
            Some("third") if *tries < 3 => "451 come again",
            _ => "250 right",
        }
    }
}
