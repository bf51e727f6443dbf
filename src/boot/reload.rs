//! From one configuration to the next, without a request lost: all of it, or nothing.
//!
//! The files are read and compiled, certificates loaded and new addresses bound before anything is changed. Only then is
//! the plan swapped. Requests that have begun keep the plan that they began with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::marker_key::MarkerKey;
use super::process::{FIRST_CHECKS, checked, https_port};
use super::source::{self, Compiled, Files, Source, Unusable, prints};
use crate::acme::Acme;
use crate::admin::{InForce, Refused};
use crate::feed::Feed;
use crate::gateway::Gateway;
use crate::listen::{CertWatch, Edge, Keyring, Listeners, Print};
use crate::plan::{self, Change, Plan, Running};
use crate::telemetry::timestamp::Timestamp;
use crate::telemetry::{Meters, chain};
use crate::upstream::Upstream;

/// What a reload replaces, and what it needs for that.
pub(super) struct Started {
    pub(super) source: Source,
    pub(super) files: Files,
    pub(super) meters: Arc<Meters>,
    pub(super) live: Arc<ArcSwap<Plan>>,
    pub(super) certs: Arc<CertWatch>,
    pub(super) acme: Arc<Acme>,
    pub(super) feed: Arc<Feed>,
    pub(super) marker_key: MarkerKey,
    pub(super) edge: Arc<Edge>,
    pub(super) https_port: Arc<AtomicU16>,
}

/// Puts configurations in force, one at a time.
pub(super) struct Reloader {
    it: Started,
    /// Held during a reload. Nothing once the gateway has stopped accepting.
    listeners: tokio::sync::Mutex<Option<Listeners<Gateway>>>,
    status: Mutex<Status>,
    stopping: watch::Sender<bool>,
}

struct Status {
    in_force: InForce,
    /// The files of the configuration in force, and of the one that was tried last.
    files: [Files; 2],
    /// How the files were when they were read last.
    tried: BTreeMap<PathBuf, Print>,
}

impl Reloader {
    /// With the configuration that the process was started with in force.
    pub(super) fn new(it: Started, listeners: Listeners<Gateway>) -> Arc<Self> {
        let in_force =
            InForce { generation: 1, since: SystemTime::now(), restart: Vec::new(), refused: None };
        let files = [it.files.clone(), Files::default()];
        let status = Status { in_force, tried: prints(&files), files };
        let reloader = Self {
            it,
            listeners: tokio::sync::Mutex::new(Some(listeners)),
            status: Mutex::new(status),
            stopping: watch::Sender::new(false),
        };
        reloader.count(&reloader.status.lock().in_force);
        Arc::new(reloader)
    }

    /// The plan in force.
    pub(super) fn plan(&self) -> Guard<Arc<Plan>> {
        self.it.live.load()
    }

    /// Where the plan in force is found.
    pub(super) fn live(&self) -> &Arc<ArcSwap<Plan>> {
        &self.it.live
    }

    /// What the cache follows.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.it.feed
    }

    /// Which configuration is in force.
    pub(super) fn in_force(&self) -> InForce {
        self.status.lock().in_force.clone()
    }

    /// The files to look at.
    pub(super) fn files(&self) -> [Files; 2] {
        self.status.lock().files.clone()
    }

    /// Whether the files were so when they were read last.
    pub(super) fn has_tried(&self, files: &BTreeMap<PathBuf, Print>) -> bool {
        self.status.lock().tried == *files
    }

    /// Reads the files and puts them in force, or changes nothing.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<(InForce, Change), Refused> {
        let reloader = self.clone();
        // A task of its own: whoever asked may leave, and a change that has begun is not left half-made.
        let done = tokio::spawn(async move { reloader.reload_one().await }).await;
        done.unwrap_or_else(|panic| {
            Err(Refused { report: format!("error: the reload failed: {}", chain(&panic)), wrong: false })
        })
    }

    async fn reload_one(self: Arc<Self>) -> Result<(InForce, Change), Refused> {
        let mut listeners = self.listeners.lock().await;
        let Some(listeners) = listeners.as_mut() else {
            return Err(Refused { report: "error: the gateway is ending".to_owned(), wrong: false });
        };
        match self.renew(listeners).await {
            Ok(change) => Ok((self.tell_done(&change), change)),
            Err(no) => Err(self.tell_refused(&no)),
        }
    }

    /// All that can fail, then all that cannot.
    async fn renew(self: &Arc<Self>, listeners: &mut Listeners<Gateway>) -> Result<Change, No> {
        let reloader = self.clone();
        let compiled = tokio::task::spawn_blocking(move || reloader.compile()).await;
        let Compiled { mut plan, files } = compiled.map_err(No::because)??;
        let running = self.plan().clone();
        let restart = plan::keep_until_restart(&mut plan, &running);
        let change = Change::between(&running, &plan, &restart);
        if let Some(acme) = &plan.acme {
            acme.prepare().map_err(No::because)?;
        }
        let lineup = listeners.line_up(&plan.listeners).map_err(No::because)?;

        self.warm_up(&plan, &running).await;
        self.it.marker_key.begin(&plan, Some(&running)).await;
        let (plan, tls) = plan.split_tls();
        let Started { live, certs, acme, feed, edge, https_port: port, .. } = &self.it;
        let plan = Arc::new(plan);
        let put_in_force = || {
            edge.set_bounds(plan.bounds);
            edge.set_trusted(plan.trusted_proxies.clone());
            port.store(https_port(lineup.listeners()), Ordering::Relaxed);
            // Nothing is waited for between the two: what connections are asked for, and what requests over them rest on.
            certs.hold_along(tls, || live.store(plan.clone()));
        };
        acme.follow(plan.acme.clone(), put_in_force).await;
        feed.follow(plan.cache.invalidate.clone());
        listeners.take(lineup).await;
        self.forget_former(files);
        Ok(change)
    }

    /// Looks at the files of the plan in force alone.
    fn forget_former(&self, files: Files) {
        let mut status = self.status.lock();
        status.files = [files, Files::default()];
        let paths = source::paths(&status.files);
        status.tried.retain(|file, _| paths.contains(file));
    }

    /// Reads the files and compiles them.
    fn compile(&self) -> Result<Compiled, No> {
        // Before they are read: a change in between is seen at the next look.
        let mut before = prints(&self.files());
        let compiled = self.compile_once();
        let files = match &compiled {
            Ok(Compiled { files, .. }) | Err(Unusable { files, .. }) => files.clone(),
        };
        self.status.lock().files[1] = files;
        // Files that were not known before are as they were found.
        let mut tried = prints(&self.files());
        for (file, print) in &mut tried {
            *print = before.remove(file).unwrap_or_else(|| print.clone());
        }
        self.status.lock().tried = tried;
        compiled.map_err(No::of)
    }

    fn compile_once(&self) -> Result<Compiled, Unusable> {
        let Started { source, meters, certs, .. } = &self.it;
        let (plan, tls): (_, Option<Keyring>) = (self.plan(), certs.held());
        source.compile(source.load()?, meters, Running { plan: Some(&plan), tls: tls.as_ref() })
    }

    /// Begins the checks and lookups of upstreams that are new or not as they were, and waits for the first of them where
    /// nobody would answer yet.
    async fn warm_up(&self, plan: &Plan, running: &Plan) {
        plan.providers.values().for_each(|provider| provider.start());
        let mut awaited = Vec::new();
        for (name, upstream) in &plan.upstreams {
            let before = running.upstreams.get(name);
            if before.is_some_and(|before| Arc::ptr_eq(before, upstream)) {
                continue;
            }
            Upstream::start(upstream);
            // Of what did not answer before, no better is expected.
            if before.is_none_or(|before| before.is_available()) {
                awaited.push(upstream.clone());
            }
        }
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            () = checked(&awaited, FIRST_CHECKS) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    }

    /// Stops accepting for good. A reload that has begun is waited for, and none begins after it.
    pub(super) async fn stop(&self) {
        self.stopping.send_replace(true);
        if let Some(mut listeners) = self.listeners.lock().await.take() {
            listeners.stop().await;
        }
    }

    fn tell_done(&self, change: &Change) -> InForce {
        let mut status = self.status.lock();
        let in_force = InForce {
            generation: status.in_force.generation + 1,
            since: SystemTime::now(),
            restart: change.restart.clone(),
            refused: None,
        };
        status.in_force = in_force.clone();
        drop(status);
        self.it.meters.config_reloads.with(["loaded"]).inc();
        self.count(&in_force);
        tracing::info!(generation = in_force.generation, changes = %change, "configuration reloaded");
        if !change.restart.is_empty() {
            tracing::warn!(options = change.restart.join(" "), "what changed here waits for a restart");
        }
        in_force
    }

    /// Logs every problem, unless they were the same at the last try.
    fn tell_refused(&self, no: &No) -> Refused {
        let mut status = self.status.lock();
        let since = clock(status.in_force.since);
        let stays = format!("the running configuration (loaded {since}) stays in force");
        let refused = Refused { report: format!("{}; {stays}", no.report), wrong: no.wrong };
        let news = status.in_force.refused.as_ref() != Some(&refused);
        status.in_force.refused = Some(refused.clone());
        let in_force = status.in_force.clone();
        drop(status);
        self.it.meters.config_reloads.with(["refused"]).inc();
        self.count(&in_force);
        if news {
            for problem in &no.lines {
                tracing::error!(%problem, "configuration refused");
            }
            tracing::warn!(loaded = since, "the running configuration stays in force");
        }
        refused
    }

    fn count(&self, InForce { generation, since, refused, .. }: &InForce) {
        let meters = &self.it.meters;
        let seconds = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        meters.config_loaded.with([]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
        meters.config_generation.with([]).set(i64::try_from(*generation).unwrap_or(i64::MAX));
        meters.config_refused.with([]).set(i64::from(refused.is_some()));
    }
}

/// Why nothing was changed.
#[derive(Debug)]
struct No {
    report: String,
    lines: Vec<String>,
    wrong: bool,
}

impl No {
    fn of(unusable: Unusable) -> Self {
        let Unusable { rejected, wrong, .. } = unusable;
        Self { report: rejected.render(false), lines: rejected.lines().collect(), wrong }
    }

    /// Something outside the configuration is in the way.
    fn because(error: impl std::error::Error) -> Self {
        let error = chain(&error);
        Self { report: format!("error: {error}"), lines: vec![error], wrong: false }
    }
}

/// The time of day in UTC, with the date where it is another day.
fn clock(time: SystemTime) -> String {
    let (text, now) = (Timestamp(time).to_string(), Timestamp(SystemTime::now()).to_string());
    match (text.split_once('T'), now.split_once('T')) {
        (Some((day, clock)), Some((today, _))) if day == today => clock[..clock.len().min(8)].to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_of_today_is_short() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        // At midnight the first may be of yesterday.
        let now = [0, 1].map(|_| clock(SystemTime::now())).into_iter().next_back().unwrap_or_default();
        assert!(now.len() == 8 || now.len() == 24, "{now}");
        assert_eq!(clock(SystemTime::now() - Duration::from_secs(90_000)).len(), 24);
    }
}
