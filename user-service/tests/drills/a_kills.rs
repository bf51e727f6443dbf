//! `user-kills`: services are killed at any moment, one or both, while many write. Whatever was begun is there whole or not at all,
//! and what was answered is there.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::agree::{Told, assert_agreed};
use crate::database::Home;
use crate::process::{Process, instance};
use crate::race::{races, settle};
use crate::scale::{pass, pick};
use crate::stream::Reader;
use crate::support::Service;
use crate::writers::{AUTHOR, Place, Users, importer, writer};

/// Those who write by single requests.
const WRITERS: usize = 6;
/// Longest time between two kills: some come before the service listens.
const CALM_MS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn user_kills() {
    let kills = pick(10, 100);
    for home in Home::both().await {
        play(&home, kills).await;
    }
}

async fn play(home: &Home, kills: usize) {
    let config =
        format!("database = {:?}\nstore_patience = \"20s\"\ncaller_header = {AUTHOR:?}\n", home.url());
    let instances = ["one", "other"].map(|name| instance(name, &config, home.path()));
    let (mut processes, bases): (Vec<_>, Vec<_>) = instances.into_iter().unzip();
    let place = Place::new(bases.clone(), bases);
    let writers: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(writer(place.clone(), format!("w{number}")))).collect();
    let importing = tokio::spawn(importer(place.clone(), "imported".to_owned()));
    let racing = tokio::spawn(races(place.clone(), "raced".to_owned()));
    let killed = kill(&mut processes, kills).await;

    place.end();
    let mut users = Users::new();
    for writer in writers {
        users.extend(writer.await.unwrap());
    }
    let imported = importing.await.unwrap();
    let tally = settle(&place, &racing.await.unwrap(), &mut users).await;
    let service = Service::start(home, "").await;
    let last = service.create("last").await;
    let last = last.rsplit('/').next().unwrap();
    let mut told = Told::read(Reader::follow(&service, Some("oldest")).await, last).await;
    told.versions.remove(last);
    service.delete(&format!("/users/{last}")).send().await.unwrap();
    assert_agreed(&place, &users, &imported, &told).await;
    println!(
        "{}: {killed} kills, {} users written and {} imported, {} events, {} answers, {} tries without one; {tally:?}",
        home.url().split(':').next().unwrap(),
        users.len(),
        imported.len(),
        told.count(),
        place.answered.load(Relaxed),
        place.lost.load(Relaxed),
    );
}

/// Kills one, or both at once, and starts them again; how many died.
async fn kill(processes: &mut [Process], kills: usize) -> usize {
    let mut killed = 0;
    while killed < kills {
        pass(Duration::from_millis(fastrand::u64(..CALM_MS))).await;
        let both = fastrand::u8(..4) == 0;
        let one = fastrand::usize(..processes.len());
        for (number, process) in processes.iter_mut().enumerate() {
            if both || number == one {
                process.kill().await;
                killed += 1;
                process.start_again();
            }
        }
    }
    killed
}
