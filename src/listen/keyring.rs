//! The certificates of a plan with the files that they came from, and the authorities of clients with theirs: which have
//! changed, and what to make of it.
//!
//! Each source is judged by itself, so that one that is broken keeps no other from being renewed.
//!
//! Certificates that were obtained from an authority come after those from files, and change when they are put here.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::by_host::ByHost;
use super::certs::{Cert, CertError, CertSet, CertSource};
use super::changes::{Change, Changes};
use super::client_ca::{ClientCa, ClientCaSource, Policy};
use super::tickets::Ticketing;
use super::tls::{MinVersion, TlsTable};

/// An end that is nearer is warned of, unless a certificate's whole life is short: then one that is in its last third, or, of those
/// that are renewed here, in the last quarter, as that is behind the time of a renewal.
const SOON: Duration = Duration::from_secs(14 * DAY.as_secs());
/// How often it is warned of.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates of a plan, where they came from, and how they are offered to whom.
#[derive(Clone, Debug)]
pub struct Keyring {
    kept: Vec<Kept>,
    /// From no file; by the host that each was obtained for.
    obtained: Vec<(Box<str>, Kept)>,
    policies: ByHost<Policy>,
    authorities: Vec<Authorities>,
    ticketing: Ticketing,
}

impl Keyring {
    /// Loads all of `sources`, to be offered from TLS version `min` up; on failure, every source that failed, by its
    /// index, and why.
    ///
    /// What `running`, the ring in force, has of the same source is taken over as it is: whether its files have changed
    /// since is for [`look`](Self::look) to judge, and no reason to refuse a configuration.
    pub fn load(
        sources: Vec<CertSource>,
        min: MinVersion,
        ticketing: &Ticketing,
        running: Option<&Self>,
    ) -> Result<Self, Vec<(usize, CertError)>> {
        let (mut kept, mut errors) = (Vec::new(), Vec::new());
        for (index, source) in sources.into_iter().enumerate() {
            let mut held = running.into_iter().flat_map(|ring| &ring.kept);
            let known = held.find(|kept| kept.source.as_ref() == Some(&source));
            match known.map_or_else(|| Kept::load(source), |known| Ok(known.clone())) {
                Ok(loaded) => kept.push(loaded),
                Err(error) => errors.push((index, error)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let policies = ByHost::all(Policy { min, clients: None });
        let (obtained, authorities) = (Vec::new(), Vec::new());
        Ok(Self { kept, obtained, policies, authorities, ticketing: ticketing.clone() })
    }

    /// Offers them by these policies instead; loads the authorities of clients that the policies name, and takes over those
    /// that `running` has. On failure, every source that failed, and why.
    pub fn ask(
        &mut self,
        policies: ByHost<Policy>,
        running: Option<&Self>,
    ) -> Result<(), Vec<(Arc<ClientCaSource>, CertError)>> {
        let mut authorities: Vec<Authorities> = Vec::new();
        let mut errors: Vec<(Arc<ClientCaSource>, CertError)> = Vec::new();
        for source in policies.values().filter_map(|policy| policy.clients.as_ref()) {
            let is_it = |known: &&Authorities| known.ca.source == *source;
            if authorities.iter().any(|known| is_it(&known))
                || errors.iter().any(|(known, _)| known == source)
            {
                continue;
            }
            let known = running.into_iter().flat_map(|ring| &ring.authorities).find(is_it);
            match known.map_or_else(|| Authorities::load(source), |known| Ok(known.clone())) {
                Ok(loaded) => authorities.push(loaded),
                Err(error) => errors.push((source.clone(), error)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        (self.policies, self.authorities) = (policies, authorities);
        Ok(())
    }

    /// The certificates in force, ready for handshakes. The keys of tickets are always the same, so that clients go on
    /// resuming their sessions.
    pub fn table(&self) -> TlsTable {
        let certs = CertSet { certs: self.certs().cloned().collect() };
        let authorities: Vec<_> = self.authorities.iter().map(|known| known.ca.clone()).collect();
        TlsTable::by_host(&certs, &self.policies, &authorities, &self.ticketing)
    }

    /// Whether a certificate from a file names this host.
    pub fn covers(&self, host: &str) -> bool {
        self.kept.iter().any(|kept| kept.cert.covers(host))
    }

    /// Puts a certificate here that was obtained for a host, in place of the one before.
    pub(super) fn put(&mut self, host: &str, cert: Cert) {
        let kept = Kept::new(None, Changes::of(Vec::new()), cert);
        match self.obtained.iter_mut().find(|(of, _)| **of == *host) {
            Some((_, before)) => *before = kept,
            None => self.obtained.push((host.into(), kept)),
        }
    }

    /// Forgets what was obtained for other hosts than these.
    pub(super) fn keep_only(&mut self, hosts: &[Box<str>]) {
        self.obtained.retain(|(of, _)| hosts.contains(of));
    }

    /// Takes over what another ring has obtained, and what it has of the same files: that was loaded later, if either was.
    pub(super) fn take_over(&mut self, before: Self) {
        self.obtained = before.obtained;
        for kept in &mut self.kept {
            if let Some(known) = before.kept.iter().find(|known| known.source == kept.source) {
                *kept = known.clone();
            }
        }
        for asked in &mut self.authorities {
            if let Some(known) = before.authorities.iter().find(|known| known.ca.source == asked.ca.source) {
                *asked = known.clone();
            }
        }
    }

    /// The certificates in force: those from files in the order of the configuration, then those that were obtained.
    pub(super) fn certs(&self) -> impl Iterator<Item = &Cert> {
        self.kept.iter().chain(self.obtained.iter().map(|(_, kept)| kept)).map(|kept| &kept.cert)
    }

    /// How many certificates have files that are refused as they are now.
    pub(super) fn refused(&self) -> usize {
        let authorities = self.authorities.iter().map(|known| &known.changes);
        let all = self.kept.iter().map(|kept| &kept.changes).chain(authorities);
        all.filter(|changes| changes.are_refused()).count()
    }

    /// Looks at all files, loads what has changed, and says what came of it.
    pub(super) fn look(&mut self, now: SystemTime) -> Vec<News> {
        let certs = self.kept.iter_mut().filter_map(|kept| kept.look(now));
        certs.chain(self.authorities.iter_mut().filter_map(|known| known.look(now))).collect()
    }

    /// What is to be said at the time `now` of certificates that end soon or have ended; of each once a day.
    pub(super) fn reminders(&mut self, now: SystemTime) -> Vec<String> {
        let obtained = self.obtained.iter_mut().map(|(_, kept)| kept);
        let certs = self.kept.iter_mut().chain(obtained).filter_map(|kept| kept.reminder(now));
        certs.chain(self.authorities.iter_mut().filter_map(|known| known.reminder(now))).collect()
    }
}

/// What came of a change of files.
#[derive(Debug)]
pub(super) enum News {
    /// A certificate has taken the place of another.
    Loaded {
        /// The one in force now.
        cert: Cert,
        /// The one that was.
        before: Cert,
    },
    /// What is there now is not fit to be shown.
    Refused(CertError),
    /// What was refused has gone, and the certificate in force is there again.
    Mended(Cert),
    /// Other authorities of clients, or other revocations, are in force.
    Asked(Arc<ClientCaSource>),
    /// The authorities of clients in force are in their files again.
    AskedAgain(Arc<ClientCaSource>),
}

/// One certificate in force, and its files.
#[derive(Clone, Debug)]
struct Kept {
    /// Where it came from; none where it is in no file.
    source: Option<CertSource>,
    cert: Cert,
    changes: Changes,
    /// When its end was last warned of.
    reminded: Option<SystemTime>,
}

impl Kept {
    fn load(source: CertSource) -> Result<Self, CertError> {
        let changes = Changes::of(source.files());
        let cert = Cert::load(&source)?;
        Ok(Self::new(Some(source), changes, cert))
    }

    fn new(source: Option<CertSource>, changes: Changes, cert: Cert) -> Self {
        Self { source, cert, changes, reminded: None }
    }

    fn look(&mut self, now: SystemTime) -> Option<News> {
        let Self { source, cert, changes, .. } = self;
        let source = source.as_ref()?;
        match changes.look(|| find(source, cert, now))? {
            Change::Found(cert) => {
                self.reminded = None;
                let before = mem::replace(&mut self.cert, cert.clone());
                Some(News::Loaded { cert, before })
            }
            Change::Mended => Some(News::Mended(self.cert.clone())),
            Change::Refused(error) => Some(News::Refused(error)),
        }
    }

    fn reminder(&mut self, now: SystemTime) -> Option<String> {
        let today = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < DAY);
        if self.reminded.is_some_and(today) {
            return None;
        }
        let share = self.cert.life() / if self.source.is_some() { 3 } else { 4 };
        let ending = self.cert.ending(now, SOON.min(share))?;
        self.reminded = Some(now);
        Some(ending)
    }
}

/// Authorities of clients in force, and their files.
#[derive(Clone, Debug)]
struct Authorities {
    ca: ClientCa,
    changes: Changes,
    /// When it was last warned that their revocations end.
    reminded: Option<SystemTime>,
}

impl Authorities {
    /// Revocations that are over are no good start: nobody would be let in.
    fn load(source: &Arc<ClientCaSource>) -> Result<Self, CertError> {
        let changes = Changes::of(source.files());
        let ca = ClientCa::load(source)?;
        ca.is_current(SystemTime::now())?;
        Ok(Self { ca, changes, reminded: None })
    }

    fn look(&mut self, now: SystemTime) -> Option<News> {
        let Self { ca, changes, .. } = self;
        let find = || {
            let found = ClientCa::load(&ca.source)?;
            found.is_current(now)?;
            Ok((found.print != ca.print).then_some(found))
        };
        let source = ca.source.clone();
        match changes.look(find)? {
            Change::Found(ca) => {
                (self.ca, self.reminded) = (ca, None);
                Some(News::Asked(source))
            }
            Change::Mended => Some(News::AskedAgain(source)),
            Change::Refused(error) => Some(News::Refused(error)),
        }
    }

    fn reminder(&mut self, now: SystemTime) -> Option<String> {
        let today = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < DAY);
        // Lists are renewed in the last moment: what is over is told, not what ends soon.
        let over = self.ca.is_current(now).err().filter(|_| !self.reminded.is_some_and(today))?;
        self.reminded = Some(now);
        Some(format!("no client certificate is let in: {over}"))
    }
}

/// What is in the files, if it is fit to be shown: none if it is what is shown already.
fn find(source: &CertSource, shown: &Cert, now: SystemTime) -> Result<Option<Cert>, CertError> {
    let cert = Cert::load(source)?;
    if cert.is(shown) {
        return Ok(None);
    }
    cert.may_follow(shown, now)?;
    Ok(Some(cert))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};

    use rcgen::CertificateParams;
    use tempfile::TempDir;

    use super::*;
    use crate::listen::certs::tests::{Made, make, make_from};
    use crate::listen::changes::AGAIN_EVERY;
    use crate::listen::tls::install_provider;

    /// A ring of one certificate for `a.test` in a folder of its own, and hands to change it with.
    struct Desk {
        dir: TempDir,
        ring: Keyring,
        /// Each change gets a time of its own, however quickly they come.
        changes: u64,
    }

    impl Desk {
        fn new() -> Self {
            install_provider();
            let dir = tempfile::tempdir().unwrap();
            let made = make(dir.path(), "a", &["a.test"]);
            let ring = ring(vec![CertSource::Pair { cert: made.cert, key: made.key }]);
            Self { dir, ring, changes: 0 }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Puts a copy of `from` in place of the file `name` of the ring.
        fn put(&mut self, from: &Path, name: &str) {
            self.changes += 1;
            let draft = self.at("draft");
            fs::copy(from, &draft).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.changes);
            File::options().write(true).open(&draft).unwrap().set_modified(time).unwrap();
            fs::rename(&draft, self.at(name)).unwrap();
        }

        /// A pair beside the ring's.
        fn spare(&self, name: &str, hosts: &[&str]) -> Made {
            make(self.dir.path(), name, hosts)
        }

        fn look(&mut self) -> String {
            self.looks(1)
        }

        /// What so many looks bring to light.
        fn looks(&mut self, looks: u32) -> String {
            let mut said = String::new();
            for _ in 0..looks {
                for news in self.ring.look(SystemTime::now()) {
                    let this = match news {
                        News::Loaded { cert, .. } => format!("loaded {}. ", cert.names.join(" ")),
                        News::Refused(error) => format!("refused: {error}. "),
                        News::Mended(_) => "mended. ".to_owned(),
                        News::Asked(_) | News::AskedAgain(_) => "asked. ".to_owned(),
                    };
                    said.push_str(&this);
                }
            }
            said
        }

        fn shows(&self, made: &Made) -> bool {
            self.ring.kept[0].cert.key.cert[0] == made.leaf
        }
    }

    fn ring(sources: Vec<CertSource>) -> Keyring {
        Keyring::load(sources, MinVersion::Tls12, &Ticketing::new().unwrap(), None).unwrap()
    }

    #[test]
    fn a_change_is_taken_at_the_second_look_and_once() {
        let mut desk = Desk::new();
        assert_eq!(desk.looks(3), "");
        let next = desk.spare("b", &["a.test", "b.test"]);
        desk.put(&next.cert, "a.pem");
        desk.put(&next.key, "a.key");
        assert_eq!(desk.look(), "", "it may go on changing");
        assert_eq!(desk.look(), "loaded a.test b.test. ");
        assert!(desk.shows(&next));
        assert_eq!(desk.looks(100), "");
    }

    #[test]
    fn a_pair_that_is_half_written_for_a_while_is_not_refused() {
        let mut desk = Desk::new();
        let next = desk.spare("b", &["a.test"]);
        desk.put(&next.cert, "a.pem");
        assert_eq!(desk.looks(3), "", "its key may be on its way");
        desk.put(&next.key, "a.key");
        assert_eq!(desk.looks(2), "loaded a.test. ");
    }

    #[test]
    fn a_bad_pair_is_refused_once_and_the_one_before_kept_until_a_good_one_comes() {
        let mut desk = Desk::new();
        let next = desk.spare("b", &["a.test"]);
        desk.put(&next.cert, "a.pem");
        let said = desk.looks(100);
        assert!(said.starts_with("refused: ") && said.matches("refused").count() == 1, "{said}");
        assert!(said.contains("a.key does not belong to the first certificate in"), "{said}");
        assert_eq!(desk.ring.refused(), 1);
        assert!(!desk.shows(&next));

        desk.put(&desk.at("b.key"), "a.key");
        assert_eq!(desk.looks(2), "loaded a.test. ");
        assert_eq!(desk.ring.refused(), 0);
        assert!(desk.shows(&next));
    }

    #[test]
    fn what_was_loaded_meanwhile_is_not_lost_to_a_ring_that_was_made_before() {
        let mut desk = Desk::new();
        let (cert, key) = (desk.at("a.pem"), desk.at("a.key"));
        let source = CertSource::Pair { cert, key };
        let mut made_before =
            Keyring::load(vec![source], MinVersion::Tls12, &Ticketing::new().unwrap(), Some(&desk.ring))
                .unwrap();
        let next = desk.spare("b", &["a.test"]);
        desk.put(&next.cert, "a.pem");
        desk.put(&next.key, "a.key");
        assert_eq!(desk.looks(2), "loaded a.test. ");
        made_before.take_over(desk.ring.clone());
        desk.ring = made_before;
        assert!(desk.shows(&next));
    }

    #[test]
    fn what_is_put_back_mends_and_another_bad_change_is_another_refusal() {
        let mut desk = Desk::new();
        let first = desk.at("first.pem");
        fs::copy(desk.at("a.pem"), &first).unwrap();
        fs::write(desk.at("empty"), "").unwrap();
        desk.put(&desk.at("empty"), "a.pem");
        assert!(desk.looks(4).contains("a.pem holds no certificate"));
        fs::remove_file(desk.at("a.pem")).unwrap();
        assert!(desk.looks(4).contains("a.pem cannot be read: No such file"));
        assert_eq!(desk.ring.refused(), 1);
        desk.put(&first, "a.pem");
        assert_eq!(desk.looks(10), "mended. ");
        assert_eq!(desk.ring.refused(), 0);
    }

    #[test]
    fn a_new_time_or_mode_alone_changes_nothing() {
        let mut desk = Desk::new();
        let copy = desk.at("copy.pem");
        fs::copy(desk.at("a.pem"), &copy).unwrap();
        desk.put(&copy, "a.pem");
        assert_eq!(desk.looks(10), "");
    }

    #[test]
    fn a_folder_behind_a_symbolic_link_is_swapped_whole() {
        install_provider();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["1", "2"] {
            fs::create_dir(at(folder)).unwrap();
        }
        make(&at("1"), "tls", &["a.test"]);
        let next = make(&at("2"), "tls", &["a.test"]);
        std::os::unix::fs::symlink("1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/tls.pem", at("tls.pem")).unwrap();
        std::os::unix::fs::symlink("..data/tls.key", at("tls.key")).unwrap();
        let ring = ring(vec![CertSource::Pem { path: at("tls.pem") }]);
        let mut desk = Desk { dir, ring, changes: 0 };
        assert_eq!(desk.looks(2), "");

        std::os::unix::fs::symlink("2", desk.at("..new")).unwrap();
        fs::rename(desk.at("..new"), desk.at("..data")).unwrap();
        assert_eq!(desk.looks(2), "loaded a.test. ");
        assert!(desk.shows(&next));
    }

    #[test]
    fn a_broken_pair_keeps_no_other_from_being_renewed() {
        let mut desk = Desk::new();
        let b = desk.spare("b", &["b.test"]);
        let pem = |file: &Path| CertSource::Pem { path: file.to_owned() };
        desk.ring = ring(vec![pem(&desk.at("a.pem")), pem(&b.cert)]);
        fs::remove_file(desk.at("a.key")).unwrap();
        assert!(desk.looks(4).starts_with("refused: "));

        let next = desk.spare("c", &["b.test", "c.test"]);
        desk.put(&next.cert, "b.pem");
        desk.put(&next.key, "b.key");
        assert_eq!(desk.looks(4), "loaded b.test c.test. ");
        let table = desk.ring.table();
        assert!(table.names("a.test") && table.names("c.test"));
    }

    #[test]
    fn what_is_not_valid_yet_is_refused_and_taken_when_its_time_comes() {
        let mut desk = Desk::new();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2100, 1, 1);
        let early = make_from(desk.dir.path(), "early", &params);
        desk.put(&early.cert, "a.pem");
        desk.put(&early.key, "a.key");
        assert!(desk.looks(10).contains("is not valid before Fri, 01 Jan 2100"));
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(131 * 365 * DAY.as_secs());
        let news: Vec<_> = (0..AGAIN_EVERY).flat_map(|_| desk.ring.look(then)).collect();
        assert!(matches!(news[..], [News::Loaded { .. }]), "{news:?}");
    }

    #[test]
    fn the_end_is_warned_of_once_a_day_from_the_fourteenth_day_before() {
        let mut desk = Desk::new();
        let end = desk.ring.kept[0].cert.not_after;
        let mut said = |days: u64| desk.ring.reminders(end - DAY * u32::try_from(days).unwrap()).len();
        assert_eq!([said(15), said(14), said(14), said(13)], [0, 1, 0, 1]);
        assert_eq!(desk.ring.reminders(end + DAY).len(), 1);
    }

    #[test]
    fn a_short_life_is_warned_of_in_its_last_part_alone() {
        let mut desk = Desk::new();
        let begin = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (begin.into(), (begin + DAY * 6).into());
        let short = make_from(desk.dir.path(), "short", &params);
        let pair = CertSource::Pair { cert: short.cert, key: short.key };
        desk.ring = ring(vec![pair.clone()]);
        let hour = Duration::from_secs(60 * 60);
        let mut said = |hours: u32| desk.ring.reminders(begin + hour * hours).len();
        assert_eq!([said(1), said(95), said(97), said(98)], [0, 0, 1, 0]);
        // One that is renewed here is due by then, and may be under way.
        let mut ring = ring(Vec::new());
        ring.put("a.test", Cert::load(&pair).unwrap());
        let mut said = |hours: u32| ring.reminders(begin + hour * hours).len();
        assert_eq!([said(97), said(107), said(109)], [0, 0, 1]);
    }

    #[test]
    fn the_development_certificate_is_left_as_it_is() {
        install_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut ring = ring(vec![CertSource::Dev { dir: dir.path().to_owned() }]);
        fs::remove_file(dir.path().join("localhost.pem")).unwrap();
        assert!((0..5).all(|_| ring.look(SystemTime::now()).is_empty()));
    }
}
