//! `user-chaos`: every process is killed or held up at random while users are written and read through the gateways. Nobody
//! is shown less than they were told, of those who race one wins; afterwards users, trail, events, the ledger of a consumer and the welcomes agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;

use crate::agree::{Told, assert_agreed};
use crate::race::{races, settle};
use crate::readers::{Read, reader};
use crate::scale::{pass, pick};
use crate::scene::{Scene, Victim};
use crate::stream::Reader;
use crate::writers::{Place, Users, writer};

const WRITERS: usize = 4;
const READERS: usize = 4;
/// Longest time between two events, and longest time that something is away.
const CALM_MS: u64 = 1_500;
const GONE_MS: u64 = 1_500;
/// All is to be told within this once all is back: a worker that is killed keeps its users for a minute.
const SETTLED_WITHIN: Duration = Duration::from_secs(240);
const GLANCE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn user_chaos() {
    let mut scene = Scene::start();
    let place = Place::new(scene.doors.clone(), scene.bases.clone());
    // Queues are declared by the first relay that reaches the broker, and what happens before is not sent.
    let first = writers(&place, "early", 1);
    wait_for(|| scene.consumer.look(|ledger| !ledger.versions.is_empty())).await;
    let readers: Vec<_> = (0..READERS).map(|_| tokio::spawn(reader(place.clone()))).collect();
    let all = writers(&place, "w", WRITERS);
    let racing = tokio::spawn(races(place.clone(), "raced".to_owned()));
    let events = torment(&mut scene, pick(Duration::from_secs(10), Duration::from_secs(300))).await;

    place.end();
    let mut users = Users::new();
    for writer in first.into_iter().chain(all) {
        users.extend(writer.await.unwrap());
    }
    let tally = settle(&place, &racing.await.unwrap(), &mut users).await;
    let mut read = Read::default();
    for reader in readers {
        read.add(&reader.await.unwrap());
    }
    let told = told(&place, &mut users).await;
    assert_agreed(&place, &users, &[], &told).await;
    wait_for(|| {
        scene.consumer.look(|ledger| {
            ledger.versions.len() == told.versions.len()
                && ledger.versions.values().map(Vec::len).sum::<usize>() == told.count()
        })
    })
    .await;
    scene.consumer.look(|ledger| assert_eq!(ledger.versions, told.versions, "the ledger of the consumer"));
    let again = assert_welcomed(&scene, &users, &events).await;
    println!("{events:?}");
    println!(
        "{} users, {} events, {} answers to writers, {} tries without one; {again} welcomes sent twice; {} pages and {} users read, \
         {} of them from caches, {} reads refused; {tally:?}",
        users.len(),
        told.count(),
        place.answered.load(Relaxed),
        place.lost.load(Relaxed),
        read.pages,
        read.held,
        read.hits,
        read.refused,
    );
}

fn writers(place: &Arc<Place>, name: &str, count: usize) -> Vec<tokio::task::JoinHandle<Users>> {
    (0..count).map(|number| tokio::spawn(writer(place.clone(), format!("{name}{number}")))).collect()
}

/// What happened to whom, and how often.
type Events = BTreeMap<(Victim, &'static str), usize>;

/// Kills or holds up one after the other until the time is over; all are back then.
async fn torment(scene: &mut Scene, time: Duration) -> Events {
    let until = Instant::now() + time;
    let mut events = Events::new();
    let mut queue: Vec<Victim> = Vec::new();
    while Instant::now() < until {
        pass(Duration::from_millis(fastrand::u64(..CALM_MS))).await;
        if queue.is_empty() {
            queue = victims();
            fastrand::shuffle(&mut queue);
        }
        let victim = queue.pop().expect("there are victims");
        let gone = Duration::from_millis(fastrand::u64(..GONE_MS));
        let held = fastrand::u8(..4) == 0 && scene.hold(victim, gone).await;
        if !held {
            scene.kill(victim, gone).await;
        }
        *events.entry((victim, if held { "held" } else { "killed" })).or_default() += 1;
    }
    events
}

/// Everybody once; in the short form but for workers, whose users wait for a minute, and the broker, which takes its time to start and is
/// killed by tests of its own.
fn victims() -> Vec<Victim> {
    use Victim::{Broker, Cache, Consumer, Gateway, Primary, Replica, Service, Worker};
    let mut all = vec![Service(0), Service(1), Gateway(0), Gateway(1), Cache, Consumer, Primary];
    all.extend([Replica(0), Replica(1)]);
    all.extend(pick(vec![], vec![Worker(0), Worker(1), Broker]));
    all
}

/// All events, once the last one is there.
async fn told(place: &Arc<Place>, users: &mut Users) -> Told {
    let (last, known) = place.create("last").await;
    users.insert(last.clone(), known);
    loop {
        if let Some(reader) = place.events().await {
            return Told::read(Reader::of(reader).await, &last).await;
        }
        pass(GLANCE).await;
    }
}

async fn wait_for(mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + SETTLED_WITHIN;
    while !reached() {
        assert!(Instant::now() < until, "not settled within {} s", SETTLED_WITHIN.as_secs());
        pass(GLANCE).await;
    }
}

/// Holds each user to have one welcome; how many were sent twice, which is what a worker may do that is killed over it.
async fn assert_welcomed(scene: &Scene, users: &Users, events: &Events) -> usize {
    let mut connection = PgConnection::connect(&scene.database()).await.unwrap();
    let until = Instant::now() + SETTLED_WITHIN;
    loop {
        let count = "SELECT count(*) FROM welcomes WHERE sent_at IS NOT NULL";
        let row = sqlx::query(count).fetch_one(&mut connection).await.unwrap();
        if usize::try_from(row.get::<i64, _>(0)).unwrap() == users.len() {
            break;
        }
        assert!(Instant::now() < until, "{} of {} users have a welcome", row.get::<i64, _>(0), users.len());
        pass(GLANCE).await;
    }
    let said = scene.workers_said();
    let mut sent: HashMap<&str, usize> = HashMap::new();
    for (_, id) in said.lines().filter_map(|line| line.split_once(" welcome user=")) {
        *sent.entry(id).or_default() += 1;
    }
    assert_eq!(sent.len(), users.len(), "each user has a welcome, and nobody else");
    let again = sent.values().filter(|&&times| times > 1).count();
    let lost: usize =
        events.iter().filter(|((victim, _), _)| can_repeat(*victim)).map(|(_, count)| count).sum();
    // Eight at a time are under way in a worker.
    assert!(again <= 8 * lost, "{again} welcomes twice over {lost} losses");
    again
}

/// Whose loss may come between a welcome and the note that it was sent.
fn can_repeat(victim: Victim) -> bool {
    matches!(victim, Victim::Worker(_) | Victim::Primary)
}
