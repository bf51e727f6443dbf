//! From files to a plan, or everything that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use crate::auth::TakenBack;
use crate::config::{self, Loaded, Problem, Rejected, Sources};
use crate::limit::Nodes;
use crate::listen::{self, Print, Ticketing};
use crate::place;
use crate::plan::{self, Plan, Running, Surroundings};
use crate::redis::Redis;
use crate::telemetry::Meters;

/// Where development certificates are made, from where the process was started.
const DEV_CERTS: &str = "certs";

/// The configuration file, and what compiling it needs besides.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: PathBuf,
    around: Surroundings,
    ticketing: Ticketing,
}

/// A plan that nothing is wrong with, and what it was made of.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) plan: Plan,
    pub(super) files: Files,
}

/// Why there is no plan.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) rejected: Box<Rejected>,
    /// Whether what was written is wrong; else the surroundings are.
    pub(super) wrong: bool,
    /// What it was to be made of.
    pub(super) files: Files,
}

/// The files of a configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    sources: Sources,
    referred: Vec<PathBuf>,
}

/// How all files of these configurations are now, each with its path.
pub(super) fn prints(of: &[Files]) -> BTreeMap<PathBuf, Print> {
    let print = |file: PathBuf| {
        let print = Print::of(&file);
        (file, print)
    };
    paths(of).into_iter().map(print).collect()
}

/// All files of these configurations.
pub(super) fn paths(of: &[Files]) -> BTreeSet<PathBuf> {
    let paths = |Files { sources, referred }: &Files| [sources.files(), referred.clone()].concat();
    of.iter().flat_map(paths).collect()
}

impl Source {
    pub(super) fn new(path: &Path, ticketing: Ticketing) -> Self {
        Self { path: path.to_owned(), around: around(path), ticketing }
    }

    /// The keys of session tickets, which outlive plans.
    pub(super) fn ticketing(&self) -> &Ticketing {
        &self.ticketing
    }

    /// Shares over this Redis what outlives plans, too: who counts limits together, and tokens that were taken back.
    pub(super) fn join(&self, redis: &Redis, meters: &Meters) {
        self.around.nodes.join(redis.clone(), meters.limit_nodes.with([]));
        self.around.taken_back.join(redis.clone());
    }

    /// Keeps those up to date for as long as the process lives.
    pub(super) fn keep(&self) -> [JoinHandle<()>; 2] {
        let Surroundings { nodes, taken_back, .. } = &self.around;
        [tokio::spawn(nodes.clone().keep()), tokio::spawn(taken_back.clone().keep())]
    }

    /// Tokens that were taken back on any node, which outlive plans, too.
    pub(super) fn taken_back(&self) -> &TakenBack {
        &self.around.taken_back
    }

    /// Reads the files.
    pub(super) fn load(&self) -> Result<Loaded, Unusable> {
        read(&self.path).map_err(|rejected| {
            let files = Files { sources: rejected.sources().clone(), referred: Vec::new() };
            Unusable { rejected: Box::new(rejected), wrong: true, files }
        })
    }

    /// Makes a plan of what was read; state is taken over from what is running.
    pub(super) fn compile(
        &self,
        loaded: Loaded,
        meters: &Meters,
        running: Running<'_>,
    ) -> Result<Compiled, Unusable> {
        let Loaded { config, document, sources } = loaded;
        let referred = plan::files(&config, &self.around.directory);
        let files = Files { sources, referred };
        match plan::compile(&config, &self.around, &self.ticketing, meters, running) {
            Ok(plan) => Ok(Compiled { plan, files }),
            Err(problems) => {
                // A certificate that cannot be used is a fault of the surroundings, not of what was written.
                let outside = problems.iter().all(|problem| problem.place.starts_with(&["tls", "certs"]));
                Err(Unusable { rejected: Box::new(document.reject(problems)), wrong: !outside, files })
            }
        }
    }
}

/// Reads and compiles without running.
pub(super) fn check(path: &Path) -> Result<Loaded, Rejected> {
    let loaded = read(path)?;
    let problems = problems(&loaded, path);
    if problems.is_empty() { Ok(loaded) } else { Err(loaded.document.reject(problems)) }
}

fn read(path: &Path) -> Result<Loaded, Rejected> {
    config::load(path).map_err(|rejected| match rejected.rest().map(|rest| problems(rest, path)) {
        Some(more) => rejected.and(more),
        None => rejected,
    })
}

fn problems(loaded: &Loaded, path: &Path) -> Vec<Problem> {
    listen::tls::install_provider();
    let running = Running::default();
    match Ticketing::new() {
        Ok(ticketing) => {
            plan::compile(&loaded.config, &around(path), &ticketing, &Meters::new(), running).err()
        }
        Err(error) => {
            Some(vec![Problem::new(place!["tls"], error.to_string(), "this system has no randomness")])
        }
    }
    .unwrap_or_default()
}

fn around(path: &Path) -> Surroundings {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Surroundings {
        directory: directory.to_owned(),
        dev_certs: PathBuf::from(DEV_CERTS),
        nodes: Nodes::default(),
        taken_back: TakenBack::default(),
    }
}
