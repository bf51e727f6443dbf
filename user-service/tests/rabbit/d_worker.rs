//! Welcomes: one for each new user.

use std::collections::HashSet;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::json;

use crate::a_relay::amqp;
use crate::broker::shared;
use crate::database::Home;
use crate::inbox::{Inbox, connect, event};
use crate::smtp::MailServer;
use crate::support::{Service, eventually};
use crate::worker::Worker;

/// A service that sends its events to this virtual host, for workers that come later as well.
async fn service(home: &Home, url: &str) -> Service {
    let config = format!("{}queues = {{ \"users.welcome\" = \"user.created\" }}\n", amqp(url));
    Service::start(home, &config).await
}

/// How many messages are in a queue and with nobody.
async fn waiting(url: &str, queue: &str) -> u32 {
    let (_connection, channel) = connect(url).await;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
}

/// Sends what says that a user was created.
async fn send(channel: &Channel, data: &[u8], properties: &BasicProperties) {
    let (exchange, key) = ("users.events".into(), "user.created".into());
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange, key, options, data, properties.clone()).await.unwrap();
}

fn id(path: &str) -> String {
    path.trim_start_matches("/users/").to_owned()
}

#[tokio::test]
async fn each_new_user_is_welcomed_once_however_often_it_is_told() {
    for home in Home::both().await {
        let url = shared().vhost();
        let service = service(&home, &url).await;
        let mut copies = Inbox::bound(&url, "user.created").await;
        let mut workers = [Worker::start(&home, &url, "").await, Worker::start(&home, &url, "").await];
        let mut users = HashSet::new();
        for number in 0..10 {
            users.insert(id(&service.create(&format!("user{number}")).await));
            let told = copies.next().await;
            for _ in 0..3 {
                send(copies.channel(), &told.data, &told.properties).await;
                copies.next().await;
            }
        }
        let welcomed = |workers: &[Worker; 2]| workers.iter().flat_map(Worker::welcomed).collect::<Vec<_>>();
        eventually("all is dealt with", || async {
            welcomed(&workers).len() + workers.iter().map(Worker::left_out).sum::<usize>() >= 40
        })
        .await;
        let (mut delivered, mut duplicates) = (0, 0);
        for worker in &workers {
            assert_eq!(worker.metric("user_service_worker_up").await, 1);
            delivered += worker.metric("user_service_worker_delivered_total").await;
            duplicates += worker.metric("user_service_worker_duplicates_total").await;
        }
        assert_eq!((delivered, duplicates), (10, 30));
        for worker in &mut workers {
            worker.signal("-TERM").await;
            assert!(worker.ended().await.success());
        }
        assert_eq!(waiting(&url, "users.welcome").await, 0, "all was acknowledged");
        let welcomed = welcomed(&workers);
        assert_eq!(welcomed.len(), 10, "none twice");
        assert_eq!(welcomed.into_iter().collect::<HashSet<_>>(), users);
        assert!(!workers.iter().any(|worker| worker.log().contains("example.com")));
    }
}

#[tokio::test]
async fn mail_that_is_refused_is_tried_again_for_a_while_and_then_with_the_dead_letters() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mail = MailServer::start().await;
        let service = service(&home, &url).await;
        let keys = format!("{}attempts = 4\nretry = \"20ms\"\n", mail.config());
        let worker = Worker::start(&home, &url, &keys).await;
        let ada = id(&service.create("ada").await);
        for name in ["third", "never", "nobody"] {
            service.create(name).await;
        }
        let mut dead = Inbox::of(&url, "users.welcome.dead").await;
        let mut names = Vec::new();
        for _ in 0..2 {
            names.push(event(&dead.next().await)["data"]["name"].as_str().unwrap().to_owned());
        }
        names.sort();
        assert_eq!(names, ["never", "nobody"]);
        eventually("the others have theirs", || async {
            mail.accepted("ada").len() == 1 && mail.accepted("third").len() == 1
        })
        .await;
        let tries = ["ada", "third", "never", "nobody"].map(|name| mail.tries(name));
        assert_eq!(tries, [1, 3, 4, 1]);
        let metric = |name: &'static str| worker.metric(name);
        assert_eq!(metric("user_service_worker_retried_total").await, 5);
        assert_eq!(metric("user_service_worker_dead_lettered_total").await, 2);
        eventually("both are counted", || async { metric("user_service_worker_delivered_total").await == 2 })
            .await;
        let message = mail.accepted("ada").remove(0);
        for line in [
            "From: Users <users@example.com>",
            "To: ada <ada@example.com>",
            "Subject: Welcome",
            &format!("Message-ID: <welcome.{ada}@example.com>"),
            "Hello ada,",
        ] {
            assert!(message.contains(line), "{line} is not in: {message}");
        }
        assert!(!worker.log().contains("@example.com"), "{}", worker.log());
    }
}

#[tokio::test]
async fn who_is_lost_while_sending_leaves_one_message_in_doubt_and_no_more() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mail = MailServer::start().await;
        let service = service(&home, &url).await;
        mail.hold(true);
        let mut first = Worker::start(&home, &url, &mail.config()).await;
        service.create("ada").await;
        service.create("grace").await;
        eventually("both are being sent", || async {
            mail.accepted("ada").len() + mail.accepted("grace").len() == 2
        })
        .await;
        first.signal("-KILL").await;
        first.ended().await;
        // The first got as far as putting down grace's, and not ada's, whose time is over.
        home.execute(
            "UPDATE welcomes SET until = 0; \
             UPDATE welcomes SET sent_at = 1 WHERE user_id = (SELECT id FROM users WHERE name = 'grace')",
        )
        .await;
        mail.hold(false);
        let mut second = Worker::start(&home, &url, &mail.config()).await;
        eventually("ada's is sent again", || async { mail.accepted("ada").len() == 2 }).await;
        eventually("grace's is left out", || async { second.left_out() == 1 }).await;
        second.signal("-TERM").await;
        assert!(second.ended().await.success());
        assert_eq!(waiting(&url, "users.welcome").await, 0);
        assert_eq!((mail.accepted("ada").len(), mail.accepted("grace").len()), (2, 1));
        let ids: HashSet<_> =
            mail.accepted("ada").iter().map(|message| line(message, "Message-ID")).collect();
        assert_eq!(ids.len(), 1, "a mail server can tell that it is the same");
    }
}

#[tokio::test]
async fn who_has_begun_with_a_user_is_not_disturbed() {
    for home in Home::both().await {
        let url = shared().vhost();
        let mail = MailServer::start().await;
        let service = service(&home, &url).await;
        mail.hold(true);
        let mut first = Worker::start(&home, &url, &mail.config()).await;
        let mut copies = Inbox::bound(&url, "user.created").await;
        service.create("ada").await;
        eventually("it is being sent", || async { mail.accepted("ada").len() == 1 }).await;
        // The same comes again meanwhile, to any of two.
        let mut second = Worker::start(&home, &url, &mail.config()).await;
        let told = copies.next().await;
        for _ in 0..4 {
            send(copies.channel(), &told.data, &told.properties).await;
        }
        // Asked to stop, it finishes what is at hand.
        first.signal("-TERM").await;
        mail.hold(false);
        assert!(first.ended().await.success());
        eventually("the rest is left out", || async { first.left_out() + second.left_out() == 4 }).await;
        second.signal("-TERM").await;
        assert!(second.ended().await.success());
        assert_eq!(mail.tries("ada"), 1);
        assert_eq!(waiting(&url, "users.welcome").await + waiting(&url, "users.welcome.dead").await, 0);
    }
}

#[tokio::test]
async fn what_is_no_creation_goes_to_the_dead_letters_at_once() {
    let home = Home::new().await;
    let url = shared().vhost();
    let _service = service(&home, &url).await;
    let _worker = Worker::start(&home, &url, "").await;
    let (_connection, channel) = connect(&url).await;
    let body = json!({ "type": "user.created", "data": { "id": "?" } }).to_string();
    send(&channel, body.as_bytes(), &BasicProperties::default()).await;
    let dead = Inbox::of(&url, "users.welcome.dead").await.next().await;
    assert_eq!(dead.data, body.as_bytes());
}

/// A line of a message by its name.
fn line(message: &str, name: &str) -> String {
    message.lines().find(|line| line.starts_with(name)).expect("a line of this name").to_owned()
}
