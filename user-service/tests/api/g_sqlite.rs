//! What only a file gives reason to.

use crate::support::{Service, directory, problem, user};

#[tokio::test]
async fn tries_for_the_lock_of_another_process_are_counted() {
    let directory = directory().await;
    let service = Service::start(&directory, "store_patience = \"200ms\"").await;
    let hold = directory.hold_writes().await;
    problem(service.post(&user("grace")).send().await.unwrap(), 503, "store-busy").await;
    hold.release().await;
    assert!(service.metric("user_service_database_busy_retries_total").await > 0);
}
