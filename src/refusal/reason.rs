//! Every reason for a "no": its code, status, and what it means. `docs/reasons.md` is printed from this table.

use http::StatusCode;

/// Why the gateway itself answered, and not an upstream.
#[derive(Debug)]
pub struct Reason {
    /// Short, stable, machine-readable: the same in bodies, logs, metrics and docs.
    pub code: &'static str,
    /// The status that goes with it.
    pub status: StatusCode,
    /// A few words for people.
    pub title: &'static str,
    /// The error type of RFC 9209 §2.3 that comes closest, where the fault lies between us and an upstream or in
    /// the request.
    pub proxy_error: &'static str,
    /// What happened, and who can mend it.
    pub meaning: &'static str,
}

macro_rules! reasons {
    ($($name:ident: $status:ident $code:literal, $title:literal, $proxy_error:literal, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: Reason = Reason {
                code: $code,
                status: StatusCode::$status,
                title: $title,
                proxy_error: $proxy_error,
                meaning: $meaning,
            };
        )*

        /// All reasons, by status.
        pub static REASONS: &[&Reason] = &[$(&$name),*];
    };
}

reasons! {
    BAD_HEAD: BAD_REQUEST "bad-request", "The request is malformed", "http_request_error",
        "The request head breaks the rules of HTTP in a way that another parser could read differently. The client must mend it.";
    BAD_HOST: BAD_REQUEST "bad-host", "The host is not a valid name", "http_request_error",
        "The `Host` or `:authority` of the request is missing or not a host name. The client must mend it.";
    BAD_PATH: BAD_REQUEST "bad-path", "The path cannot be read safely", "http_request_error",
        "The path climbs above its root, hides a separator in an escape, or holds an invalid escape. The client must mend it.";
    CODING_UNKNOWN: BAD_REQUEST "transfer-coding-unknown", "That transfer coding is not understood", "http_request_error",
        "The request body has a transfer coding other than `chunked`. The client must mend it.";
    BAD_BODY: BAD_REQUEST "bad-body", "The request body is malformed", "http_request_error",
        "The chunks of the request body break the rules of HTTP. The client must mend it.";
    CREDENTIALS_AMBIGUOUS: BAD_REQUEST "credentials-ambiguous", "There is more than one credential", "http_request_error",
        "The request has several `Authorization` fields, several API keys, or a token and an API key that the route looks at; servers could differ on which of them counts. The client must send one.";
    CREDENTIALS_MISSING: UNAUTHORIZED "credentials-missing", "Say who you are", "http_request_denied",
        "The route has `auth`, and the request says nothing of who asks. `WWW-Authenticate` says what is wanted.";
    CREDENTIALS_REFUSED: UNAUTHORIZED "credentials-refused", "The credential is not good", "http_request_denied",
        "The token is expired, for somebody else, not signed by its issuer, or malformed, or the API key is not known or expired: `detail` says which. The client is to get another one.";
    SCOPE_MISSING: FORBIDDEN "scope-missing", "A scope is missing", "http_request_denied",
        "The caller is known, and has not all of `auth.scopes` of the route; for tokens, `WWW-Authenticate` names them. The access line has the caller.";
    CALLER_REFUSED: FORBIDDEN "caller-refused", "Not for this caller", "http_request_denied",
        "The caller is known, and has none of `auth.roles`, or not a claim that `auth.claims` of the route asks for; or its certificate is one that no rule of `auth` is for. The access line has the caller.";
    MAY_NOT_PURGE: FORBIDDEN "may-not-purge", "Purging is not for this client", "http_request_denied",
        "`PURGE` came from an address that is not in `cache.purge_from`.";
    ADDRESS_REFUSED: FORBIDDEN "address-refused", "Not for clients at this address", "http_request_denied",
        "The client's address is in `ip.deny` of the route, or not in its `ip.allow`. It is the address that `trusted_proxies` tell; the access line has it.";
    ORIGIN_REFUSED: FORBIDDEN "origin-refused", "Not for pages of this origin", "http_request_denied",
        "A browser asked beforehand whether a page of another origin may make a request, and `cors` of the route does not list that origin.";
    NO_CLIENT_CERT: FORBIDDEN "client-certificate-missing", "A client certificate is needed here", "http_request_denied",
        "The route has `client_cert` or an `auth` that knows callers by their certificates alone, or its host wants a certificate of every client, and the client has shown none on this connection.";
    CLIENT_CERT_REFUSED: FORBIDDEN "client-certificate-refused", "Not for clients with this certificate", "http_request_denied",
        "The client has shown a good certificate, and `client_cert` of the route does not name it. The access line has its subject.";
    HOST_NOT_FOUND: NOT_FOUND "host-not-found", "No such host here", "http_request_denied",
        "No route is for this host. Check the name, or add a route.";
    ROUTE_NOT_FOUND: NOT_FOUND "route-not-found", "No such path here", "http_request_denied",
        "The host is served, but no route is for this path. Check the path, or add a route.";
    METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED "method-not-allowed", "That method is not served here", "http_request_denied",
        "Routes for this path do not accept the method; `Allow` lists those that they do.";
    BODY_STALLED: REQUEST_TIMEOUT "request-timeout", "The request did not arrive in time", "http_request_error",
        "The client stopped sending in the middle of its request, or sent it more slowly than `downstream.header_timeout`, `body_timeout` and `min_body_rate` allow.";
    BODY_TOO_LARGE: PAYLOAD_TOO_LARGE "body-too-large", "The request body is too large", "http_request_denied",
        "The body is larger than `max_body` of the route.";
    TARGET_TOO_LONG: URI_TOO_LONG "target-too-long", "The request target is too long", "http_request_denied",
        "The request line is larger than `downstream.max_header_size`.";
    EXPECTATION_FAILED: EXPECTATION_FAILED "expectation-failed", "That expectation cannot be met", "http_request_error",
        "The request has an `Expect` other than `100-continue`. The client must do without.";
    MISDIRECTED: MISDIRECTED_REQUEST "misdirected", "Not over this connection", "http_request_denied",
        "The connection was made for another host, of which less or something else is asked (`tls.hosts`), or before a change of that; or the certificate that the client has shown on it has been revoked since, or its authority was taken away. The client is to come by a connection made for this host.";
    LIMIT_EXCEEDED: TOO_MANY_REQUESTS "limit-exceeded", "Too many requests", "http_request_denied",
        "More was asked than `rate_limit` of the route allows; the detail names the limit, and `Retry-After` says when to ask again.";
    CONCURRENCY_EXCEEDED: TOO_MANY_REQUESTS "concurrency-exceeded", "Too many requests at once", "http_request_denied",
        "As many requests of this client, or of whoever shares its `key`, are under way as `concurrency` of the route allows; the detail names the rule. The client is to wait until one of them has ended.";
    HEAD_TOO_LARGE: REQUEST_HEADER_FIELDS_TOO_LARGE "head-too-large", "The request head is too large", "http_request_denied",
        "The head has more bytes or more fields than `downstream.max_header_size` and `max_headers` allow.";
    INTERNAL: INTERNAL_SERVER_ERROR "internal", "Something went wrong in the gateway", "proxy_internal_error",
        "A fault of the gateway itself. Please report it with the log line of the same request id.";
    UPSTREAM_UNREACHABLE: BAD_GATEWAY "upstream-unreachable", "The upstream cannot be reached", "destination_unavailable",
        "No connection to any server that was tried. See `/upstreams` on the admin listener.";
    UPSTREAM_TLS: BAD_GATEWAY "upstream-tls-failed", "No TLS with the upstream", "tls_protocol_error",
        "The server does not speak TLS, or does not let this gateway in: without a certificate where it wants one, or with one that it does not believe. The log of the gateway says which, and that of the server why. See `tls` of the upstream.";
    UPSTREAM_CERTIFICATE: BAD_GATEWAY "upstream-certificate-refused", "The upstream's certificate is not believed", "tls_certificate_error",
        "The server's certificate is of no authority that is believed, for another name, or over. The log of the gateway says which. Mend the certificate, or `tls.ca` and `tls.server_name` of the upstream.";
    UPSTREAM_BROKE_OFF: BAD_GATEWAY "upstream-broke-off", "The upstream broke off", "connection_terminated",
        "The server closed the connection before its answer was whole. See its log.";
    UPSTREAM_INVALID: BAD_GATEWAY "upstream-invalid", "The upstream's answer is not HTTP", "http_protocol_error",
        "The server's answer breaks the rules of HTTP. See its log.";
    NO_SERVER: SERVICE_UNAVAILABLE "no-server", "No server is up", "destination_unavailable",
        "Every server of the upstream is down, ejected or not resolved. See `/upstreams` on the admin listener.";
    CIRCUIT_OPEN: SERVICE_UNAVAILABLE "circuit-open", "The upstream is left alone for a while", "destination_unavailable",
        "Too much of what was sent to the upstream failed, and its `circuit_breaker` is open; `Retry-After` says when requests go through again. See `/upstreams` on the admin listener.";
    IDENTITY_UNAVAILABLE: SERVICE_UNAVAILABLE "identity-unavailable", "Callers cannot be verified now", "http_request_denied",
        "The issuer of the token has not been reached since the gateway started, so that none of its keys is known; or it is to be asked about each token and does not answer. The log of the gateway says why.";
    SATURATED: SERVICE_UNAVAILABLE "upstream-saturated", "The upstream is busy", "connection_limit_reached",
        "As many requests as `limits` of the upstream allow are in flight and waiting.";
    LIMITS_UNAVAILABLE: SERVICE_UNAVAILABLE "limits-unavailable", "Limits cannot be counted now", "http_request_denied",
        "Redis, in which gateways count together, does not answer, and `rate_limit` of the route says `on_store_failure = \"deny\"`; the detail names the limit. See the Redis, or let each gateway admit its part (`local`).";
    ROUTE_FULL: SERVICE_UNAVAILABLE "route-full", "Too much is under way here", "connection_limit_reached",
        "As many requests are under way as `concurrency` allows for the whole of the route, or for all routes that share its word; the detail names the rule. See how long they take.";
    UPSTREAM_REFUSED: SERVICE_UNAVAILABLE "upstream-refused", "The upstream takes no more", "connection_limit_reached",
        "The server refused the request before it looked at it (HTTP/2, `REFUSED_STREAM`), and so did those that were tried after it. See its load.";
    UPSTREAM_TIMEOUT: GATEWAY_TIMEOUT "upstream-timeout", "The upstream did not answer in time", "http_response_timeout",
        "No answer within `timeouts` of the upstream. See its load and its log.";
    CONNECT_TIMEOUT: GATEWAY_TIMEOUT "connect-timeout", "The upstream could not be reached in time", "connection_timeout",
        "No connection within `timeouts.connect`. See the network between gateway and server.";
    NOT_CACHED: GATEWAY_TIMEOUT "not-cached", "Not in the cache", "http_request_denied",
        "The client asked for a cached answer alone (`only-if-cached`), and there is none.";
    LOOP: LOOP_DETECTED "loop", "The request came back", "proxy_loop_detected",
        "The request passed this gateway before: a route's upstream leads back here.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own() {
        let codes: BTreeSet<_> = REASONS.iter().map(|reason| reason.code).collect();
        assert_eq!(codes.len(), REASONS.len());
        assert!(
            REASONS.iter().all(|reason| reason.status.is_client_error() || reason.status.is_server_error())
        );
    }

    #[test]
    fn the_table_is_in_the_order_of_statuses() {
        assert!(REASONS.windows(2).all(|pair| pair[0].status <= pair[1].status));
    }
}
