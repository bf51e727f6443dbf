//! Passwords and TLS on the way to the broker.

use std::fs::File;

use crate::a_relay::{amqp, drained};
use crate::broker::shared;
use crate::database::Home;
use crate::inbox::{Inbox, event};
use crate::support::{Service, eventually, program};

#[tokio::test]
async fn events_go_by_tls_to_the_broker_that_was_meant_alone() {
    let home = Home::new().await;
    let plain = shared().vhost();
    let url = shared().by_tls(&plain);
    let mut inbox = Inbox::bound(&plain, "#").await;
    let stranger = Service::start(&home, &amqp(&url)).await;
    stranger.create("ada").await;
    eventually("the event waits", || async {
        stranger.metric("user_service_events_backlog").await == 1
            && stranger.metric("user_service_broker_up").await == 0
    })
    .await;
    let trusting = format!("{}ca = {:?}\n", amqp(&url), shared().ca());
    let service = Service::start(&home, &trusting).await;
    assert_eq!(event(&inbox.next().await)["data"]["name"], "ada");
    drained(&service, 1).await;
}

#[tokio::test]
async fn a_password_of_the_broker_is_told_to_nobody() {
    let home = Home::new().await;
    let wrong = shared().vhost().replace("s%40crEt", "hunter2");
    let log = home.path().join("log");
    let mut command = program(&home);
    command.env("USER_SERVICE_AMQP", &wrong).stderr(File::create(&log).unwrap());
    let _service = Service::spawn(&mut command).await;
    let told = || std::fs::read_to_string(&log).unwrap();
    eventually("the refusal is told", || async { told().contains("ACCESS_REFUSED") }).await;
    assert!(!told().contains("hunter2"), "{}", told());

    let mut refused = program(&home);
    refused.args(["--amqp", "amqp://u:hunter2@mq.example"]).stderr(std::process::Stdio::piped());
    let output = refused.output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("amqps://") && !told.contains("hunter2"), "{told}");
}
