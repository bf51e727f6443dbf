//! Events where transactions overlap and the server comes and goes.

use sqlx::{Connection as _, Executor as _};

use crate::database::Home;
use crate::server::Server;
use crate::stream::Reader;
use crate::support::{Service, eventually, service, user};

/// What a transaction writes that takes its time.
const LATE: &str = "INSERT INTO events (id, user_id, shard, kind, at, body) \
                    VALUES (gen_random_uuid(), gen_random_uuid(), 0, 'user.created', 0, '{\"late\":true}')";

#[tokio::test]
async fn who_commits_late_is_not_skipped() {
    let (directory, service) = service().await;
    let mut reader = Reader::follow(&service, None).await;
    let mut connection = directory.connect().await;
    let mut late = connection.begin().await.unwrap();
    late.execute(LATE).await.unwrap();
    service.create("ada").await;
    let ada = reader.next().await;
    assert_eq!((ada.id.as_str(), &ada.event["data"]["name"]), ("1", &"ada".into()));

    late.commit().await.unwrap();
    let late = reader.next().await;
    assert_eq!((late.id.as_str(), &late.event["late"]), ("2", &true.into()));
    service.create("grace").await;
    assert_eq!(reader.next().await.id, "3");
}

#[tokio::test]
async fn streams_outlive_a_crash_of_the_server_and_miss_nothing() {
    let server = Server::start("");
    let directory = Home::on(&server).await;
    let services = [Service::start(&directory, "").await, Service::start(&directory, "").await];
    let mut readers = [Reader::follow(&services[0], None).await, Reader::follow(&services[1], None).await];
    services[0].create("ada").await;
    server.crash();
    assert_eq!(services[0].post(&user("grace")).send().await.unwrap().status(), 503);
    server.restart();
    eventually("writes go on", || async {
        services[0].post(&user("grace")).send().await.unwrap().status() == 201
    })
    .await;
    for reader in &mut readers {
        let names: Vec<_> =
            reader.take(2).await.into_iter().map(|told| told.event["data"]["name"].clone()).collect();
        assert_eq!(names, ["ada", "grace"]);
    }
}
