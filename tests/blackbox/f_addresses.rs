//! Routes for some clients only, by their address: whether what they ask for is stored or not.

use crate::support::cached::{get, is_hit};
use crate::support::{Cached, Gateway, PATIENCE, Raw, Reply, eventually, plain};

/// Trusted proxies name the clients; some may ask, and one of them may not after all.
async fn guarded() -> Cached {
    Cached::over(
        "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]",
        "[routes.all]\ncache = \"60s\"\nrate_limit = \"1000/s\"\nupstream = \"ORIGIN\"\n\
         ip = { allow = [\"203.0.113.0/24\", \"2001:db8::/32\"], deny = [\"203.0.113.66/32\"] }\n",
    )
    .await
}

const FOR: &str = "x-forwarded-for";

#[tokio::test]
async fn who_may_ask_gets_misses_and_hits() {
    let cached = guarded().await;
    for (client, path) in cached.clients() {
        cached.origin.answer(path, Reply::ok("kept"));
        for (number, address) in [
            "203.0.113.7",
            "203.0.113.8",
            "::ffff:203.0.113.9",
            "2001:db8::7",
            "1.1.1.1, 203.0.113.7, 10.0.0.1",
        ]
        .into_iter()
        .enumerate()
        {
            let answer = get(client, path, &[(FOR, address)]).await;
            assert_eq!((answer.status, is_hit(&answer)), (200, number > 0), "{address}");
        }
        assert_eq!(cached.origin.requests(path), 1);
    }
}

#[tokio::test]
async fn who_may_not_is_refused_on_hits_and_misses_alike() {
    let cached = guarded().await;
    for (client, path) in cached.clients() {
        cached.origin.answer(path, Reply::ok("kept"));
        assert_eq!(get(client, path, &[(FOR, "203.0.113.7")]).await.status, 200);

        for address in [
            "203.0.113.66",
            "::ffff:203.0.113.66",
            "198.51.100.7",
            "2001:db9::7",
            "203.0.113.7, 203.0.113.66",
            "203.0.113.7, 198.51.100.7, 10.0.0.1",
        ] {
            for target in [path.to_owned(), format!("{path}/not-kept")] {
                let answer = get(client, &target, &[(FOR, address)]).await;
                assert_eq!(answer.status, 403, "{address} {target}");
                assert_eq!(answer.field("content-type"), Some("application/problem+json"));
                assert_eq!(answer.json()["reason"], "address-refused");
                assert_eq!(answer.field("ratelimit"), None, "it is charged to no limit");
            }
        }
        // Without a word from the proxy it is the client itself.
        let answer = get(client, path, &[]).await;
        assert_eq!(answer.status, 403);
        let line = cached.gateway.access_line(&answer).await;
        assert_eq!((line["reason"].as_str(), line["route"].as_str()), (Some("address-refused"), Some("all")));
        assert_eq!(line["client"], "127.0.0.1");

        let answer = get(client, path, &[(FOR, "203.0.113.8")]).await;
        assert!(answer.status == 200 && is_hit(&answer), "others still get it: {answer:?}");
        assert_eq!(cached.origin.requests(path), 1);
    }
    let refused = "tidegate_refusals_total{route=\"all\",reason=\"address-refused\"}";
    assert_eq!(cached.gateway.count(refused).await, 2 * 13);
    assert_eq!(cached.origin.seen().len(), 2);
}

#[tokio::test]
async fn deny_alone_keeps_out_those_and_an_untrusted_word_does_not_help() {
    let gateway = Gateway::start(
        &(plain()
            + "[routes.all]\nip = { deny = [\"127.0.0.2/32\"] }\nrespond = { body = \"fine\" }\n\
               [routes.admin]\npath = \"/admin/*\"\nip = { allow = [\"127.0.0.2/32\"] }\nrespond = { body = \"in\" }\n"),
    )
    .await;

    for (from, path, status) in [
        ("127.0.0.1", "/", 200),
        ("127.0.0.2", "/", 403),
        ("127.0.0.1", "/admin/x", 403),
        ("127.0.0.2", "/admin/x", 200),
    ] {
        for claim in ["", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-For: 127.0.0.2\r\n"] {
            let mut client = Raw::tcp_from(from.parse().unwrap(), gateway.http()).await;
            let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{claim}\r\n")).await;
            assert_eq!(answer.status, status, "{from} {path} {claim:?}");
        }
    }
}

#[tokio::test]
async fn a_route_may_replace_the_lists_of_the_defaults() {
    let gateway = Gateway::start(
        &(plain()
            + "[defaults]\nip = { allow = [\"10.0.0.0/8\"] }\n\
               [policies.open]\nip = { allow = [\"127.0.0.0/8\"] }\n\
               [routes.inner]\nrespond = { body = \"in\" }\n\
               [routes.outer]\npath = \"/outer\"\nuse = [\"open\"]\nrespond = { body = \"out\" }\n"),
    )
    .await;
    let mut client = Raw::tcp(gateway.http()).await;
    for (path, status) in [("/", 403), ("/outer", 200)] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_around_its_rule() {
    let gateway = Gateway::start(
        &(plain()
            + "[routes.all]\nrespond = { body = \"open\" }\n\
               [routes.inner]\npath = \"/inner/*\"\nip = { deny = [\"127.0.0.0/8\"] }\nrespond = { body = \"shut\" }\n"),
    )
    .await;
    for (target, status) in [
        ("/outer/x", 200),
        ("/inner/x", 403),
        ("/inner", 403),
        ("//inner/x", 403),
        ("/./inner/x", 403),
        ("/outer/../inner/x", 403),
        ("/outer/%2e%2e/inner/x", 403),
        ("/outer/.%2E/inner/x", 403),
        ("/%69nner/x", 403),
        ("/%49nner/x", 200), // `/Inner`: paths have their case
        ("/inner/../inner/x?/outer", 403),
        ("http://a.test//%69nner/x", 403),
        ("/outer%2f..%2finner/x", 400),
        ("/outer%5c..%5cinner/x", 400),
        ("/outer\\..\\inner/x", 400),
        ("/outer/..;/inner/x", 400),
        ("/outer/%2e%2e;a=b/inner/x", 400),
        ("/inner%00/x", 400),
        ("/%2569nner/x", 200), // an escaped escape is a text of its own
    ] {
        let mut client = Raw::tcp(gateway.http()).await;
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{target}");
    }
}

#[tokio::test]
async fn a_list_in_a_file_is_watched_and_a_broken_one_changes_nothing() {
    let config =
        plain() + "[routes.all]\nrespond = { body = \"fine\" }\nip = { deny_file = \"denied.txt\" }\n";
    let gateway = Gateway::start_with(&config, &[("denied.txt", "127.0.0.7\n")]).await;
    let status = async |from: &str| {
        let mut client = Raw::tcp_from(from.parse().unwrap(), gateway.http()).await;
        client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status
    };
    let put = |text: &str| std::fs::write(gateway.folder().join("denied.txt"), text).unwrap();
    assert_eq!((status("127.0.0.7").await, status("127.0.0.8").await), (403, 200));

    put("127.0.0.8/32\n");
    let swapped = async || status("127.0.0.8").await == 403;
    eventually(PATIENCE, "the new list is in force", swapped).await;
    assert_eq!(status("127.0.0.7").await, 200);

    put("127.0.0.9\nno address\n");
    let said = async || gateway.wrote().contains("no address");
    eventually(PATIENCE, "the log says what is wrong", said).await;
    assert_eq!((status("127.0.0.8").await, status("127.0.0.9").await), (403, 200));
}

#[tokio::test]
async fn lists_may_stand_in_files() {
    let config = plain()
        + "[routes.all]\nrespond = { body = \"fine\" }\n\
           ip = { allow = [\"127.0.0.1/32\"], allow_file = \"allowed.txt\", deny_file = \"denied.txt\" }\n";
    let files =
        [("allowed.txt", "# more\n127.0.0.2\n127.0.1.0/24\n"), ("denied.txt", "127.0.1.7 # one of them\n")];
    let gateway = Gateway::start_with(&config, &files).await;

    for (from, status) in
        [("127.0.0.1", 200), ("127.0.0.2", 200), ("127.0.0.3", 403), ("127.0.1.6", 200), ("127.0.1.7", 403)]
    {
        let mut client = Raw::tcp_from(from.parse().unwrap(), gateway.http()).await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()).await;
        assert_eq!(answer.status, status, "{from}");
    }
}
