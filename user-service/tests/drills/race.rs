//! Writers who race: several change the same state of a user at once, by `If-Match`, each once. One wins, whatever dies meanwhile.
//!
//! Whose answer is lost may have won. The trail tells: each try goes by a name of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::agree::trail;
use crate::writers::{Known, Place, Users};

/// Who race for one state.
const RACERS: usize = 4;
/// States of one user that are raced for: its trail is a page then.
const ROUNDS: usize = 50;

/// What a try was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The state was what it was to be, and is another now.
    Won,
    /// Somebody else had been first (412).
    Beaten,
    /// No answer, or one that says that something is away: it may have won all the same, or win later.
    Lost,
}

/// The tries at one user, by the version that they were to change.
pub(crate) struct Race {
    id: String,
    email: String,
    tries: BTreeMap<u64, Vec<(String, Outcome)>>,
}

/// How many there were of what.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) states: usize,
    pub(crate) won: usize,
    pub(crate) beaten: usize,
    pub(crate) lost: usize,
    /// Of the lost ones, those that have won.
    pub(crate) found: usize,
}

/// Races for one user after the other until it is over, and for one at least.
pub(crate) async fn races(place: Arc<Place>, name: String) -> Vec<Race> {
    let mut races = vec![race(&place, &format!("{name}-0")).await];
    while !place.is_over() {
        races.push(race(&place, &format!("{name}-{}", races.len())).await);
    }
    races
}

async fn race(place: &Arc<Place>, name: &str) -> Race {
    let (id, known) = place.create(name).await;
    let mut race = Race { id, email: known.email, tries: BTreeMap::new() };
    for round in 0..ROUNDS {
        // Once it is over nobody dies, so that the next round has its losers at the latest.
        if place.is_over() && race.has_losers() {
            break;
        }
        race.run(place, &format!("{name} round {round}")).await;
    }
    // Once another state is there, no try that was lost can win any more.
    let (etag, user) = place.state(&race.id).await;
    let name = format!("{name} last");
    let (outcome, _) = place.rename_from(&etag, &race.id, &name).await;
    race.enter(version(&user), [(name, outcome)]);
    race
}

fn version(user: &Value) -> u64 {
    user["version"].as_u64().unwrap()
}

impl Race {
    /// All at once at the state that there is now.
    async fn run(&mut self, place: &Arc<Place>, name: &str) {
        let (etag, user) = place.state(&self.id).await;
        let version = version(&user);
        let mut tries = JoinSet::new();
        for racer in 0..RACERS {
            let (place, etag, id) = (place.clone(), etag.clone(), self.id.clone());
            let (email, name) = (self.email.clone(), format!("{name} racer {racer}"));
            let known = Known { email, name, version: version + 1, removed: false };
            tries.spawn(async move { (place.try_rename(&etag, &id, &known).await, known.name) });
        }
        let tries = tries.join_all().await;
        self.enter(version, tries.into_iter().map(|(outcome, name)| (name, outcome)));
    }

    fn has_losers(&self) -> bool {
        self.tries.values().flatten().any(|(_, outcome)| *outcome == Outcome::Beaten)
    }

    fn enter(&mut self, version: u64, tries: impl IntoIterator<Item = (String, Outcome)>) {
        self.tries.entry(version).or_default().extend(tries);
    }

    /// Holds each state to have been changed by one try, and by one that was not told otherwise; gives the user as it is to be.
    async fn settle(&self, place: &Place, tally: &mut Tally) -> Known {
        let mut trail = trail(place, &self.id).await.into_iter();
        assert_eq!(trail.next(), Some((1, None)), "{} was created", self.email);
        let (mut version, mut name) = (1, String::new());
        for (next, by) in trail {
            assert_eq!(next, version + 1, "the trail of {}", self.email);
            let winner = by.as_deref().and_then(|by| by.strip_prefix("caller:")).unwrap();
            self.assert_won(version, winner, tally);
            winner.clone_into(&mut name);
            version = next;
        }
        // Nobody was told of a change that is not there, nor of another one that was first where none was.
        assert_eq!(self.tries.last_key_value().map(|(last, _)| last + 1), Some(version), "{}", self.email);
        Known { email: self.email.clone(), name, version, removed: false }
    }

    /// This version was changed by the try of this name.
    fn assert_won(&self, version: u64, name: &str, tally: &mut Tally) {
        let tries = self.tries.get(&version).unwrap_or_else(|| panic!("nobody tried version {version}"));
        let of = |outcome| tries.iter().filter(move |(_, is)| *is == outcome);
        let winner = tries.iter().find(|(tried, _)| tried == name);
        let (_, outcome) =
            winner.unwrap_or_else(|| panic!("{name} has not tried version {version}: {tries:?}"));
        let won = usize::from(*outcome == Outcome::Won);
        assert_ne!(*outcome, Outcome::Beaten, "{name} has changed version {version}: {tries:?}");
        assert_eq!(of(Outcome::Won).count(), won, "{name} alone has changed version {version}: {tries:?}");
        tally.states += 1;
        tally.won += won;
        tally.found += 1 - won;
        tally.beaten += of(Outcome::Beaten).count();
        tally.lost += of(Outcome::Lost).count();
    }
}

/// Holds all races to have been fair, adds who was raced for to the users, and counts.
pub(crate) async fn settle(place: &Place, races: &[Race], users: &mut Users) -> Tally {
    let mut tally = Tally::default();
    for race in races {
        let known = race.settle(place, &mut tally).await;
        assert!(users.insert(race.id.clone(), known).is_none(), "an id is given once");
    }
    assert!(tally.won > 0 && tally.beaten > 0, "nobody has raced: {tally:?}");
    tally
}
