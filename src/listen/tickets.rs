//! Session tickets: what a returning client shows to be spared a full handshake, sealed under keys that change.
//!
//! Time is cut into epochs. Each has a secret of its own, which is used while the epoch lasts and accepted during the
//! next, and is then forgotten: whoever takes it later can no longer tell what was in a ticket (RFC 8446 appendix C.4,
//! RFC 5077 section 5.5). Nodes of a fleet agree on the secret of each epoch, so that a session is resumed at any of
//! them; a node without a fleet goes on with those it has drawn itself.
//!
//! Every ticket is sealed under a key of its own, derived by HKDF (RFC 5869) from the secret of its epoch, from what its
//! listener asks of clients, and from 32 random bytes. So no nonce is ever used twice, however many tickets there are,
//! and a ticket that was given where no client certificate is asked for is worth nothing where one is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

/// How long an epoch lasts, and so for how long a ticket is good at least; at most twice as long.
pub const EPOCH: Duration = Duration::from_secs(6 * 60 * 60);

/// Secrets that are accepted for one epoch at most: nodes that could not agree have drawn one each.
const PER_EPOCH: usize = 4;

/// Random bytes from which the keys of an epoch are derived.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    fn draw() -> Result<Self, rustls::Error> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Self(bytes))
    }

    /// What another node has drawn; none unless it is of the right length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be told to other nodes, and nobody else.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// So many bytes that only who knows the secret can tell.
    fn derive<const N: usize>(&self, purpose: &[u8], parts: [&[u8]; 2]) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.0);
        let info = [purpose, parts[0], parts[1]];
        prk.expand(&info, Length(N)).ok()?.fill(&mut bytes).ok()?;
        Some(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The number of the epoch that a time lies in.
pub fn epoch_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / EPOCH.as_secs()
}

/// The keys of tickets. They live as long as the process, so that clients resume across reloads; clones are the same.
#[derive(Clone)]
pub struct Ticketing(Arc<ArcSwap<Ring>>);

/// The secrets by epoch: the first is used, and all are accepted.
type Ring = BTreeMap<u64, Vec<Secret>>;

impl Ticketing {
    /// Fresh keys. Fails only if the system has no randomness to give.
    pub fn new() -> Result<Self, rustls::Error> {
        let ticketing = Self(Arc::default());
        ticketing.turn(SystemTime::now())?;
        Ok(ticketing)
    }

    /// Draws secrets for the epoch of `now` and the next where there are none, and forgets those of epochs that are over
    /// for long enough. To be called several times in an epoch. Fails only if the system has no randomness to give.
    pub fn turn(&self, now: SystemTime) -> Result<(), rustls::Error> {
        let epoch = epoch_of(now);
        let drawn = [(epoch, Secret::draw()?), (epoch + 1, Secret::draw()?)];
        self.0.rcu(|ring| {
            let mut ring = Ring::clone(ring);
            ring.retain(|of, _| (epoch.saturating_sub(1)..=epoch + 1).contains(of));
            for (of, secret) in &drawn {
                ring.entry(*of).or_insert_with(|| vec![secret.clone()]);
            }
            ring
        });
        Ok(())
    }

    /// The secret that is used in an epoch, if there is one.
    pub fn secret(&self, epoch: u64) -> Option<Secret> {
        self.0.load().get(&epoch)?.first().cloned()
    }

    /// Uses a secret that other nodes use in an epoch; what was used before stays accepted. Whether that is news.
    pub fn adopt(&self, epoch: u64, secret: &Secret) -> bool {
        if self.secret(epoch).as_ref() == Some(secret) {
            return false;
        }
        self.0.rcu(|ring| {
            let mut ring = Ring::clone(ring);
            let known = ring.entry(epoch).or_default();
            known.retain(|known| known != secret);
            known.insert(0, secret.clone());
            known.truncate(PER_EPOCH);
            ring
        });
        true
    }

    /// What seals the tickets of listeners that ask the same of their clients, which `policy` tells from others.
    pub(super) fn ticketer(&self, policy: [u8; 32]) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer::new(self.clone(), policy))
    }
}

impl fmt::Debug for Ticketing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketing")
    }
}

/// Seals and opens tickets: name of the secret, salt, and what is sealed, with its tag.
#[derive(Debug)]
struct Ticketer {
    keys: Ticketing,
    policy: [u8; 32],
    names: ArcSwapOption<Names>,
}

/// The secrets of a ring, each with its epoch and its name, which are told apart for every ticket.
#[derive(Debug)]
struct Names {
    ring: Arc<Ring>,
    secrets: Vec<(u64, [u8; NAME], Secret)>,
}

const NAME: usize = 16;
const SALT: usize = 32;

impl Ticketer {
    fn new(keys: Ticketing, policy: [u8; 32]) -> Self {
        Self { keys, policy, names: ArcSwapOption::empty() }
    }

    /// The secrets that there are now, by name.
    fn names(&self) -> Option<Arc<Names>> {
        let ring = self.keys.0.load_full();
        if let Some(names) = &*self.names.load()
            && Arc::ptr_eq(&names.ring, &ring)
        {
            return Some(names.clone());
        }
        let with_name = |(of, secret): (u64, &Secret)| Some((of, self.name(secret)?, secret.clone()));
        let all = ring.iter().flat_map(|(of, secrets)| secrets.iter().map(|secret| (*of, secret)));
        let secrets = all.map(with_name).collect::<Option<_>>()?;
        let names = Arc::new(Names { ring: ring.clone(), secrets });
        self.names.store(Some(names.clone()));
        Some(names)
    }

    fn seal(&self, plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (names, epoch) = (self.names()?, epoch_of(now));
        let (_, name, secret) = names.secrets.iter().find(|(of, ..)| *of == epoch)?;
        let mut salt = [0; SALT];
        rand::fill(&mut salt).ok()?;
        let mut sealed = plain.to_vec();
        self.key(secret, &salt)?.seal_in_place_append_tag(once(), Aad::from(*name), &mut sealed).ok()?;
        Some([&name[..], &salt, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
        let (names, epoch) = (self.names()?, epoch_of(now));
        // The next one, too: the clock of the node that gave the ticket may be ahead of this one's.
        let accepted = epoch.saturating_sub(1)..=epoch + 1;
        let mut fits = names.secrets.iter().filter(|(of, known, _)| accepted.contains(of) && known == name);
        let key = self.key(&fits.next()?.2, salt)?;
        let mut sealed = sealed.to_vec();
        let length = key.open_in_place(once(), Aad::from(*name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }

    /// By which a ticket says under which secret it is sealed, and for whom; it tells nothing of either.
    fn name(&self, secret: &Secret) -> Option<[u8; NAME]> {
        secret.derive(b"tidegate ticket name 1", [&self.policy, b""])
    }

    /// The key of one ticket alone.
    fn key(&self, secret: &Secret, salt: &[u8; SALT]) -> Option<LessSafeKey> {
        let key: [u8; 32] = secret.derive(b"tidegate ticket key 1", [&self.policy, salt])?;
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }
}

/// The nonce of a key that seals one text in its life.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(EPOCH.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: [u8; 32] = [0; 32];
    const MEMBERS: [u8; 32] = [1; 32];

    fn ticketer(keys: &Ticketing, policy: [u8; 32]) -> Ticketer {
        Ticketer::new(keys.clone(), policy)
    }

    /// The middle of an epoch, a long time from now.
    fn noon() -> SystemTime {
        UNIX_EPOCH + EPOCH * 100_000 + EPOCH / 2
    }

    fn keys() -> Ticketing {
        let keys = Ticketing(Arc::default());
        keys.turn(noon()).unwrap();
        keys
    }

    #[test]
    fn what_is_sealed_is_opened_and_no_two_tickets_are_alike() {
        let ticketer = ticketer(&keys(), ANYBODY);
        let (one, other) =
            (ticketer.seal(b"session", noon()).unwrap(), ticketer.seal(b"session", noon()).unwrap());
        assert_eq!(ticketer.open(&one, noon()).unwrap(), b"session");
        assert_eq!(ticketer.open(&other, noon()).unwrap(), b"session");
        assert_eq!(one[..NAME], other[..NAME]);
        assert_ne!(one[NAME..NAME + SALT], other[NAME..NAME + SALT]);
        assert_ne!(one[NAME + SALT..], other[NAME + SALT..]);
    }

    #[test]
    fn a_ticket_that_was_tampered_with_is_not_opened() {
        let ticketer = ticketer(&keys(), ANYBODY);
        let ticket = ticketer.seal(b"session", noon()).unwrap();
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert_eq!(ticketer.open(&other, noon()), None, "byte {at}");
            assert_eq!(ticketer.open(&ticket[..at], noon()), None, "{at} bytes");
        }
        assert_eq!(ticketer.open(&[&ticket[..], b"x"].concat(), noon()), None);
    }

    #[test]
    fn a_ticket_is_worth_nothing_where_something_else_is_asked_of_clients() {
        let keys = keys();
        let ticket = ticketer(&keys, ANYBODY).seal(b"session", noon()).unwrap();
        assert_eq!(ticketer(&keys, MEMBERS).open(&ticket, noon()), None);
        // Nor with the name that would be right there.
        let mut posing = ticketer(&keys, MEMBERS).seal(b"session", noon()).unwrap();
        posing.splice(NAME.., ticket[NAME..].iter().copied());
        assert_eq!(ticketer(&keys, MEMBERS).open(&posing, noon()), None);
    }

    #[test]
    fn a_ticket_is_good_for_an_epoch_at_least_and_for_two_at_most() {
        let keys = keys();
        let ticketer = ticketer(&keys, ANYBODY);
        let ticket = ticketer.seal(b"session", noon()).unwrap();
        for (later, good) in [(0, true), (1, true), (2, false), (3, false)] {
            let now = noon() + EPOCH * later;
            assert_eq!(ticketer.open(&ticket, now).is_some(), good, "without a turn, {later} epochs later");
            keys.turn(now).unwrap();
            assert_eq!(ticketer.open(&ticket, now).is_some(), good, "{later} epochs later");
            assert!(ticketer.open(&ticketer.seal(b"new", now).unwrap(), now).is_some());
        }
        assert_eq!(keys.0.load().len(), 3, "what is over is forgotten");
    }

    #[test]
    fn without_a_turn_nothing_is_sealed_under_a_secret_that_is_over() {
        let ticketer = ticketer(&keys(), ANYBODY);
        assert!(ticketer.seal(b"session", noon() + EPOCH).is_some(), "the next secret is there beforehand");
        assert_eq!(ticketer.seal(b"session", noon() + EPOCH * 2), None);
    }

    #[test]
    fn nodes_that_agree_open_each_others_tickets_and_their_own_of_before() {
        let (one, other) = (keys(), keys());
        let epoch = epoch_of(noon());
        let before = ticketer(&other, ANYBODY).seal(b"before", noon()).unwrap();
        let ticket = ticketer(&one, ANYBODY).seal(b"session", noon()).unwrap();
        assert_eq!(ticketer(&other, ANYBODY).open(&ticket, noon()), None);

        let secret = one.secret(epoch).unwrap();
        assert!(other.adopt(epoch, &secret));
        assert!(!other.adopt(epoch, &secret), "it is known now");
        assert!(ticketer(&other, ANYBODY).open(&ticket, noon()).is_some());
        assert!(ticketer(&other, ANYBODY).open(&before, noon()).is_some());
        let back = ticketer(&other, ANYBODY).seal(b"back", noon()).unwrap();
        assert!(ticketer(&one, ANYBODY).open(&back, noon()).is_some());
        for _ in 0..10 {
            other.adopt(epoch, &Secret::draw().unwrap());
        }
        assert_eq!(other.0.load()[&epoch].len(), PER_EPOCH);
    }

    #[test]
    fn a_clock_that_is_ahead_is_borne() {
        let keys = keys();
        let ahead = ticketer(&keys, ANYBODY).seal(b"session", noon() + EPOCH).unwrap();
        assert!(ticketer(&keys, ANYBODY).open(&ahead, noon()).is_some());
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = keys();
        let shown = format!("{:?} {keys:?}", keys.secret(epoch_of(noon())).unwrap());
        assert_eq!(shown, "Secret Ticketing");
    }
}
