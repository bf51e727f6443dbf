//! The drills' origin: every answer comes from a function of the drill, one thread per connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Doing as _, Outcome};

/// A body shorter than this leaves in one write with its head.
const COPIED: usize = 64 << 10;

/// What was asked.
pub(crate) struct Question<'a> {
    /// Path and query.
    pub(crate) path: &'a str,
    /// At which of the origin's addresses.
    pub(crate) door: usize,
}

/// What is answered: always 200, with a length and without `Date`, whose whole seconds would count as age.
pub(crate) struct Reply {
    /// `Name: value`, each line with its end.
    pub(crate) fields: String,
    /// The content.
    pub(crate) body: Vec<u8>,
}

type Script = dyn Fn(&Question) -> Reply + Send + Sync;

/// Runs until the process ends.
pub(crate) struct Origin {
    doors: Vec<SocketAddr>,
    asked: Arc<AtomicU64>,
}

impl Origin {
    /// Listens at as many addresses as there are to be told apart. The script may take its time: it holds up its own
    /// connection only.
    pub(crate) fn start(
        doors: usize,
        script: impl Fn(&Question) -> Reply + Send + Sync + 'static,
    ) -> Outcome<Self> {
        let (script, asked): (Arc<Script>, _) = (Arc::new(script), Arc::new(AtomicU64::new(0)));
        let doors = (0..doors).map(|door| open(door, &script, &asked)).collect::<Outcome<_>>()?;
        Ok(Self { doors, asked })
    }

    /// Where it listens: door by door.
    pub(crate) fn door(&self, number: usize) -> SocketAddr {
        self.doors[number]
    }

    /// Requests that came so far.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

fn open(door: usize, script: &Arc<Script>, asked: &Arc<AtomicU64>) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").doing(|| "origin".to_owned())?;
    let address = listener.local_addr().doing(|| "origin".to_owned())?;
    let (script, asked) = (Arc::clone(script), Arc::clone(asked));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (script, asked) = (Arc::clone(&script), Arc::clone(&asked));
            std::thread::spawn(move || serve(&stream, door, &*script, &asked));
        }
    });
    Ok(address)
}

/// Answers every request head until the peer is gone. Requests have no body here.
fn serve(stream: &TcpStream, door: usize, script: &Script, asked: &AtomicU64) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    let (mut head, mut answer) = (String::new(), Vec::new());
    loop {
        head.clear();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).ok().filter(|&count| count > 0)?;
        }
        asked.fetch_add(1, Relaxed);
        let path = head.split(' ').nth(1)?;
        let Reply { fields, body } = script(&Question { path, door });
        answer.clear();
        write!(answer, "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).ok()?;
        // A long body is not copied: the origin's work is not to be what is measured.
        if body.len() < COPIED {
            answer.extend_from_slice(&body);
            writer.write_all(&answer).ok()?;
        } else {
            writer.write_all(&answer).and_then(|()| writer.write_all(&body)).ok()?;
        }
    }
}

/// The content that belongs to a path: 2 to 14 KiB of the path, over and over.
pub(crate) fn content(path: &str) -> Vec<u8> {
    path.bytes().cycle().take(length(path)).collect()
}

/// Whether `body` is the content that belongs to a path.
pub(crate) fn is_content(path: &str, body: &[u8]) -> bool {
    body.len() == length(path) && body.chunks(path.len()).all(|chunk| path.as_bytes().starts_with(chunk))
}

fn length(path: &str) -> usize {
    let sum = path.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (2 << 10) + sum % (12 << 10)
}

/// A number that looks drawn at random and is the same for the same `seed` every time.
pub(crate) fn drawn(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;
    use super::*;

    #[test]
    fn every_door_is_known_by_its_number() {
        let origin = Origin::start(2, |question| Reply {
            fields: format!("X-Path: {}\r\n", question.path),
            body: question.door.to_string().into_bytes(),
        })
        .unwrap();
        for door in 0..2 {
            let answer = Wire::to(origin.door(door)).get("/a?b").unwrap();
            assert_eq!(answer.body, door.to_string().into_bytes());
            assert_eq!(answer.field("x-path"), Some("/a?b"));
        }
        assert_eq!(origin.asked(), 2);
    }

    #[test]
    fn content_is_recognised_and_anything_else_is_not() {
        let body = content("/b/17");
        assert!(is_content("/b/17", &body));
        assert!(!is_content("/b/18", &body));
        assert!(!is_content("/b/17", &body[1..]));
        assert!(!is_content("/b/17", &body[..body.len() - 1]));
    }
}
