//! Which route takes a request, under which path it reaches the origin, and what a route does with it.

use crate::support::{Answer, Certs, Client, Gateway, Origin, PATIENCE, Raw, eventually, h2, https, plain};

/// Asks a gateway that serves plain HTTP, target and host as they are given.
async fn ask(gateway: &Gateway, method: &str, host: &str, target: &str) -> Answer {
    let mut client = Raw::tcp(gateway.http()).await;
    client.ask(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}

async fn get(gateway: &Gateway, host: &str, target: &str) -> Answer {
    ask(gateway, "GET", host, target).await
}

/// Routes that each answer with their own name.
fn naming(routes: &[(&str, &str)]) -> String {
    let table = |(name, patterns): &(&str, &str)| {
        format!("[routes.{name}]\n{patterns}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
    };
    plain() + &routes.iter().map(table).collect::<String>()
}

#[tokio::test]
async fn the_most_specific_host_wins_whatever_the_order_in_the_file() {
    let gateway = Gateway::start(&naming(&[
        ("any", ""),
        ("wild", "host = \"*.a.test\""),
        ("deeper", "host = \"*.b.a.test\""),
        ("exact", "host = \"x.a.test\""),
        ("listed", "host = [\"one.test\", \"two.test\"]"),
    ]))
    .await;

    for (host, route) in [
        ("x.a.test", "exact"),
        ("X.A.Test.:8443", "exact"),
        ("y.a.test", "wild"),
        ("z.y.a.test", "wild"),
        ("z.b.a.test", "deeper"),
        ("b.a.test", "wild"),
        ("a.test", "any"),
        ("two.test", "listed"),
        ("127.0.0.1", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(get(&gateway, host, "/").await.text(), route, "{host}");
    }
}

#[tokio::test]
async fn the_longest_path_wins_by_whole_segments_and_then_the_method() {
    let gateway = Gateway::start(&naming(&[
        ("all", ""),
        ("users", "path = \"/users/*\""),
        ("me", "path = \"/users/me\""),
        ("writes", "path = \"/users/*\"\nmethods = [\"POST\", \"PUT\"]"),
        ("deep", "path = \"/users/a/b/*\""),
        ("several", "path = [\"/one\", \"/two/*\"]"),
    ]))
    .await;

    for (method, path, route) in [
        ("GET", "/users/me", "me"),
        ("GET", "/users/me/", "users"),
        ("GET", "/users", "users"),
        ("GET", "/users/", "users"),
        ("GET", "/usersx", "all"),
        ("POST", "/users/7", "writes"),
        ("PUT", "/users", "writes"),
        ("DELETE", "/users/7", "users"),
        ("GET", "/users/a/b/c", "deep"),
        ("GET", "/users/a/bc", "users"),
        ("GET", "/one", "several"),
        ("GET", "/one/more", "all"),
        ("GET", "/two/more", "several"),
    ] {
        assert_eq!(ask(&gateway, method, "a.test", path).await.text(), route, "{method} {path}");
    }
}

#[tokio::test]
async fn an_unknown_host_an_unknown_path_and_a_wrong_method_are_told_apart() {
    let gateway = Gateway::start(&naming(&[
        ("read", "host = \"a.test\"\npath = \"/users/*\"\nmethods = [\"GET\", \"HEAD\"]"),
        ("write", "host = \"a.test\"\npath = \"/users/*\"\nmethods = [\"POST\"]"),
    ]))
    .await;

    let answer = get(&gateway, "b.test", "/users").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (404, Some("host-not-found")));
    let answer = get(&gateway, "a.test", "/elsewhere").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (404, Some("route-not-found")));
    let answer = ask(&gateway, "DELETE", "a.test", "/users/7").await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (405, Some("method-not-allowed")));
    assert_eq!(answer.field("allow"), Some("GET, HEAD, POST"));
}

#[tokio::test]
async fn routing_and_the_origin_see_one_normal_form_of_a_path() {
    let origin = Origin::start("one").await;
    let address = origin.address();
    let gateway = Gateway::start(&format!(
        "{}[routes.open]\nupstream = \"{address}\"\n\
         [routes.admin]\npath = \"/admin/*\"\nrespond = {{ status = 403 }}\n",
        plain()
    ))
    .await;

    for (sent, seen) in [
        ("/users/7?b=2&a=1", "/users/7?b=2&a=1"),
        ("/%75sers/%7e", "/users/~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a//b///c", "/a/b/c"),
        ("/a/./b/../c", "/a/c"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a;x=1/b", "/a;x=1/b"),
        ("/a%20b%3F", "/a%20b%3F"),
        ("/a?x=/../%2e%2e//", "/a?x=/../%2e%2e//"),
        ("/?", "/?"),
        ("http://a.test/absolute?x", "/absolute?x"),
        ("http://a.test", "/"),
    ] {
        assert_eq!(get(&gateway, "a.test", sent).await.status, 200, "{sent}");
        assert_eq!(origin.seen().last().unwrap().target, seen, "{sent}");
    }
    let before = origin.seen().len();
    for sent in ["/admin", "/x/../admin/keys", "/%61dmin/", "//admin", "/x/%2e%2e/admin", "/./admin"] {
        assert_eq!(get(&gateway, "a.test", sent).await.status, 403, "{sent}");
    }
    assert_eq!(origin.seen().len(), before, "the origin was asked for what is guarded");
}

#[tokio::test]
async fn a_path_that_others_could_read_otherwise_is_refused_and_reaches_no_origin() {
    let origin = Origin::start("one").await;
    let gateway =
        Gateway::start(&format!("{}[routes.open]\nupstream = \"{}\"\n", plain(), origin.address())).await;

    for sent in [
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/..",
        "/a/../../b",
        "/%2e%2e/b",
        "/a%00",
        "/a%0d%0a",
        "/a%7f",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a/..;x/b",
        "/a/%2e%2e;/b",
        "/.;/a",
    ] {
        let answer = get(&gateway, "a.test", sent).await;
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some("bad-path")), "{sent}");
    }
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn http2_paths_are_held_to_the_same_form() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let config = format!("{}[routes.open]\nupstream = \"{}\"\n", https(&certs), origin.address());
    let gateway = Gateway::start(&config).await;
    let client = Client::http2(&gateway, &certs);

    assert_eq!(client.get("https://a.test/a//%75sers?x=%2F").await.status, 200);
    assert_eq!(origin.seen()[0].target, "/a/users?x=%2F");
    assert_eq!(client.get("https://a.test/a%2Fb").await.json()["reason"], "bad-path");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn characters_beyond_ascii_are_escaped_wherever_they_stand() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let config = format!(
        "{}log.access = \"json\"\n[routes.open]\nupstream = \"{}\"\n\
         [routes.moved]\npath = \"/old/*\"\nredirect = {{ to = \"https://www.test{{path}}{{query}}\" }}\n",
        https(&certs),
        origin.address()
    );
    let gateway = Gateway::start(&config).await;
    let fields = |path| [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path)];

    for path in ["/café?q=café", "/old/café?q=café"] {
        let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
        client.send([h2::PREFACE, &h2::request(&fields(path))].concat()).await;
        h2::verdict(&mut client).await;
    }

    eventually(PATIENCE, "both are answered", async || gateway.access_lines().len() == 2).await;
    let status: Vec<_> = gateway.access_lines().iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(status, [200, 308]);
    assert_eq!(origin.seen()[0].target, "/caf%C3%A9?q=caf%C3%A9");
}

#[tokio::test]
async fn a_host_that_is_no_name_is_refused() {
    let gateway = Gateway::start(&naming(&[("any", "")])).await;

    for host in ["a..test", "a.test:99999", "a.test:x", "[::1", "a%2etest", ":80", "a,b"] {
        let answer = get(&gateway, host, "/").await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_prefix_is_taken_off_and_a_path_rewritten_before_the_origin_sees_it() {
    let origin = Origin::start("one").await;
    let address = origin.address();
    let gateway = Gateway::start(&format!(
        r#"{}
[defaults]
upstream = "{address}"
[routes.strip]
path = "/api/*"
strip_prefix = "/api"
[routes.rewrite]
path = "/v1/*"
rewrite = {{ from = "^/v1/(?<kind>[a-z]+)/(.*)$", to = "/${{kind}}/by-id/$2" }}
[routes.both]
path = "/both/*"
strip_prefix = "/both/"
rewrite = {{ from = "^/old", to = "/new" }}
[routes.climb]
path = "/climb/*"
rewrite = {{ from = "^/climb/(.*?)-(.*)$", to = "/files/$1$2/secret" }}
"#,
        plain()
    ))
    .await;

    for (sent, seen) in [
        ("/api/users?x=1", "/users?x=1"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/api//x", "/x"),
        ("/v1/users/7", "/users/by-id/7"),
        ("/v1/Users/7", "/v1/Users/7"),
        ("/both/old/x?y", "/new/x?y"),
        ("/climb/a-b", "/files/ab/secret"),
    ] {
        assert_eq!(get(&gateway, "a.test", sent).await.status, 200, "{sent}");
        assert_eq!(origin.seen().last().unwrap().target, seen, "{sent}");
    }
}

#[tokio::test]
async fn a_rewrite_cannot_be_made_to_climb() {
    let origin = Origin::start("one").await;
    let gateway = Gateway::start(&format!(
        "{}[routes.climb]\nrewrite = {{ from = \"^/(.*?)-(.*)$\", to = \"/files/$1$2/x\" }}\nupstream = \"{}\"\n",
        plain(),
        origin.address()
    ))
    .await;

    for sent in ["/.-.", "/a/.-./b", "/.-./.-."] {
        let answer = get(&gateway, "a.test", sent).await;
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some("bad-path")), "{sent}");
    }
    assert_eq!(origin.seen().len(), 0);
    assert_eq!(get(&gateway, "a.test", "/a-b").await.status, 200);
    assert_eq!(origin.seen()[0].target, "/files/ab/x");
}

#[tokio::test]
async fn a_redirect_carries_the_parts_of_the_request_that_it_names() {
    let gateway = Gateway::start(&format!(
        r#"{}
[routes.moved]
host = "old.test"
redirect = {{ to = "https://www.test{{path}}{{query}}" }}
[routes.other]
path = "/other/*"
redirect = {{ to = "{{scheme}}://{{host}}/elsewhere?from={{path}}", status = 302 }}
[routes.see]
path = "/see"
redirect = {{ to = "/fixed", status = 303 }}
"#,
        plain()
    ))
    .await;

    for (host, target, status, location) in [
        ("old.test", "/a//b?c=%0d%0aX", 308, "https://www.test/a/b?c=%0d%0aX"),
        ("old.test:80", "/", 308, "https://www.test/"),
        ("OLD.test", "//evil.test/", 308, "https://www.test/evil.test/"),
        ("x.test", "/other/a?b", 302, "http://x.test/elsewhere?from=/other/a"),
        ("x.test", "/see?x", 303, "/fixed"),
    ] {
        let answer = get(&gateway, host, target).await;
        assert_eq!((answer.status, answer.field("location")), (status, Some(location)), "{host}{target}");
        assert!(answer.body.is_empty());
        assert!(answer.field("x-request-id").is_some());
    }
}

#[tokio::test]
async fn fixed_words_are_answered_without_an_upstream() {
    let gateway = Gateway::start(&format!(
        r#"{}
[routes.robots]
path = "/robots.txt"
respond = {{ body = "User-agent: *\n", content_type = "text/plain" }}
[routes.gone]
path = "/gone"
respond = {{ status = 410 }}
"#,
        plain()
    ))
    .await;

    let answer = get(&gateway, "a.test", "/robots.txt").await;
    assert_eq!((answer.status, answer.text()), (200, "User-agent: *\n"));
    assert_eq!(answer.field("content-type"), Some("text/plain"));
    let answer = ask(&gateway, "HEAD", "a.test", "/robots.txt").await;
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("14")));
    let answer = get(&gateway, "a.test", "/gone").await;
    assert_eq!((answer.status, answer.text()), (410, ""));
}

#[tokio::test]
async fn a_weighted_split_is_roughly_honoured() {
    let (blue, green, idle) =
        (Origin::start("blue").await, Origin::start("green").await, Origin::start("idle").await);
    let gateway = Gateway::start(&format!(
        "{}[upstreams.blue]\nservers = [\"{}\"]\n[upstreams.green]\nservers = [\"{}\"]\n\
         [upstreams.idle]\nservers = [\"{}\"]\n\
         [routes.all]\nupstream = {{ blue = 75, green = 25, idle = 0 }}\n",
        plain(),
        blue.address(),
        green.address(),
        idle.address()
    ))
    .await;

    let mut client = Raw::tcp(gateway.http()).await;
    for _ in 0..400 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 200);
    }

    // Drawn at random: 300 expected, with a deviation of 8.7; seven of them are never seen.
    let to_blue = blue.requests("/");
    assert!((240..=360).contains(&to_blue), "{to_blue} of 400");
    assert_eq!((to_blue + green.requests("/"), idle.requests("/")), (400, 0));
}

#[tokio::test]
async fn defaults_policies_and_a_routes_own_keys_are_merged_and_the_later_wins() {
    let origin = Origin::start("one").await;
    let gateway = Gateway::start(&format!(
        r#"{}
[defaults]
upstream = "{}"
max_body = "10B"
response_headers = {{ set = {{ x-layer = "defaults" }} }}
[policies.public]
response_headers = {{ set = {{ x-layer = "public" }} }}
rate_limit = "1000/s"
[policies.loud]
response_headers = {{ set = {{ x-layer = "loud" }} }}
[routes.plain]
[routes.public]
path = "/public"
use = ["public"]
[routes.loud]
path = "/loud"
use = ["public", "loud"]
[routes.own]
path = "/own"
use = ["loud"]
max_body = "20B"
response_headers = {{ set = {{ x-layer = "own" }} }}
"#,
        plain(),
        origin.address()
    ))
    .await;

    for (path, layer, limited) in [
        ("/", "defaults", false),
        ("/public", "public", true),
        ("/loud", "loud", true),
        ("/own", "own", false),
    ] {
        let answer = get(&gateway, "a.test", path).await;
        assert_eq!(answer.field("x-layer"), Some(layer), "{path}");
        assert_eq!(answer.field("ratelimit").is_some(), limited, "{path}");
    }
    let post = async |path: &str| {
        let mut client = Raw::tcp(gateway.http()).await;
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 15\r\n\r\n0123456789abcde");
        client.ask(request).await.status
    };
    assert_eq!((post("/public").await, post("/own").await), (413, 200));
}

#[tokio::test]
async fn header_fields_are_edited_on_the_way_in_and_out() {
    let origin = Origin::start("one").await;
    let reply = crate::support::Reply::ok("x").field("server", "secret/1.0").field("vary", "accept");
    origin.answer("/", reply.field("x-frame-options", "ALLOW"));
    let gateway = Gateway::start(&format!(
        r#"{}
[routes.all]
upstream = "{}"
[routes.all.request_headers]
set = {{ x-tenant = "main", host = "inner.test", x-forwarded-proto = "https" }}
add = {{ x-note = "two" }}
remove = ["cookie", "X-Debug"]
[routes.all.response_headers]
set = {{ x-frame-options = "DENY" }}
add = {{ vary = "accept-language" }}
remove = ["server", "via"]
[routes.own]
path = "/own"
respond = {{ body = "own" }}
response_headers = {{ set = {{ x-frame-options = "DENY" }} }}
"#,
        plain(),
        origin.address()
    ))
    .await;

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client
        .ask("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\nx-debug: 1\r\nX-Tenant: evil\r\nX-Note: one\r\n\r\n")
        .await;

    let seen = &origin.seen()[0];
    assert_eq!((seen.all("x-tenant"), seen.all("host")), (vec!["main"], vec!["inner.test"]));
    assert_eq!((seen.all("x-note"), seen.all("x-forwarded-proto")), (vec!["one", "two"], vec!["https"]));
    assert_eq!((seen.field("cookie"), seen.field("x-debug")), (None, None));
    assert_eq!(answer.all("x-frame-options"), ["DENY"]);
    assert_eq!(answer.all("vary"), ["accept", "accept-language"]);
    assert_eq!((answer.field("server"), answer.field("via")), (None, None));
    assert_eq!(get(&gateway, "a.test", "/own").await.field("x-frame-options"), Some("DENY"));
}

#[tokio::test]
async fn the_origin_sees_the_clients_host_or_its_own_address() {
    let origin = Origin::start("one").await;
    let address = origin.address();
    let gateway = Gateway::start(&format!(
        "{}[defaults]\nupstream = \"{address}\"\n[routes.own]\npath = \"/own\"\nupstream_host = \"upstream\"\n\
         [routes.clients]\n",
        plain()
    ))
    .await;

    get(&gateway, "a.test:8443", "/").await;
    get(&gateway, "a.test:8443", "/own").await;

    let seen = origin.seen();
    assert_eq!(seen[0].all("host"), ["a.test:8443"]);
    assert_eq!(seen[1].all("host"), [address.to_string()]);
    assert_eq!(seen[1].field("x-forwarded-host"), Some("a.test"), "what was asked for is not lost");
}

#[tokio::test]
async fn files_that_are_included_are_part_of_one_configuration() {
    let origin = Origin::start("one").await;
    let config = plain() + "include = [\"routes-*.toml\"]\n[routes.main]\nupstream = \"users\"\n";
    let upstream = format!("[upstreams.users]\nservers = [\"{}\"]\n", origin.address());
    let more = "[routes.fine]\npath = \"/fine\"\nrespond = { body = \"fine\" }\n";
    let files = [("routes-1.toml", upstream.as_str()), ("routes-2.toml", more), ("other.toml", "not = read")];
    let gateway = Gateway::start_with(&config, &files).await;

    assert_eq!(get(&gateway, "a.test", "/").await.text(), "one answers");
    assert_eq!(get(&gateway, "a.test", "/fine").await.text(), "fine");
}
