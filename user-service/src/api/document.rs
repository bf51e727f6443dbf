//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

use http::Method;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{OpenApi as _, PartialSchema as _, ToSchema as _};

use super::admit;
use super::bulk;
use super::failure::{PROBLEM_JSON, Problem};
use crate::access::{GATEWAY_SECRET, Scope};
use crate::event::CloudEvent;

/// The name of the scheme by which callers show tokens.
const TOKEN: &str = "token";

/// The name of the scheme by which a gateway proves itself.
const GATEWAY: &str = "gateway";

/// The parts that are not said at a route.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "user-service",
        description = "Holds users. Reads may be cached; every change is versioned.\n\nA service that is open to whoever reaches it asks for none \
                       of the scopes."
    ),
    servers((url = "/", description = "This instance")),
    tags(
        (name = "users", description = "The users"),
        (name = "events", description = "What happens to the users"),
        (name = "operation", description = "For operators and balancers"),
    ),
    components(schemas(Problem, CloudEvent<'_>, bulk::End))
)]
struct Description;

/// The document without its paths.
pub fn bare() -> OpenApi {
    Description::openapi()
}

/// The OpenAPI 3.1 document.
pub fn whole() -> OpenApi {
    let (_, mut document) = super::routes().split_for_parts();
    schemes(document.components.get_or_insert_default());
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            parameters(operation);
            refuse(operation, "500", "A fault of the service");
            refuse(operation, "503", "Come again later");
            if let Some(scope) = admit::needed(path, &method) {
                guard(operation, scope);
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    fields(status, response);
                }
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn schemes(components: &mut Components) {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(
        "A token of the issuer that the service believes, with the scopes in `scope`; `users:admin` has all.",
    ));
    components.add_security_scheme(TOKEN, SecurityScheme::Http(token.build()));
    let secret = ApiKeyValue::with_description(
        GATEWAY_SECRET.as_str(),
        "Proves a gateway, which tells of its callers by `X-User-Id` and `X-Scopes`.",
    );
    components.add_security_scheme(GATEWAY, SecurityScheme::ApiKey(ApiKey::Header(secret)));
}

/// An optional field is absent, never null.
fn parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(header) = parameter
            && header.parameter_in == ParameterIn::Header
        {
            header.schema = Some(match header.name.as_str() {
                "Idempotency-Key" => key(),
                _ => String::schema(),
            });
        }
    }
}

/// What a key is made of.
fn key() -> RefOr<Schema> {
    let key = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
    // Bare, or a string of RFC 9651: what begins with a quotation mark ends with one.
    key.pattern(Some(r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#))
        .min_length(Some(1))
        .max_length(Some(255))
        .into()
}

/// Says what an operation asks for.
fn guard(operation: &mut Operation, scope: Scope) {
    let by = |scheme| SecurityRequirement::new(scheme, [scope.word()]);
    operation.security = Some(vec![by(TOKEN), by(GATEWAY)]);
    refuse(operation, "400", "Who asks is said twice, or badly");
    refuse(operation, "401", "Nobody has proven who asks");
    refuse(operation, "403", &format!("The scope `{}` is missing", scope.word()));
}

/// A refusal, unless the route has words of its own for it.
fn refuse(operation: &mut Operation, status: &str, meaning: &str) {
    let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
    let response = ResponseBuilder::new().description(meaning).content(PROBLEM_JSON, problem);
    operation.responses.responses.entry(status.to_owned()).or_insert(response.build().into());
}

/// Fields that an answer of this status has, whatever was asked.
fn fields(status: &str, response: &mut Response) {
    let mut field = |name: &str, meaning: &str| {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).build();
        let mut header = Header::new(text);
        header.description = Some(meaning.to_owned());
        response.headers.entry(name.to_owned()).or_insert(header.into());
    };
    field("X-Served-By", "Name of the instance");
    match status {
        "401" | "403" => field("WWW-Authenticate", "What is to be shown (RFC 6750)"),
        "503" => field("Retry-After", "Seconds after which it is worth trying again"),
        _ => {}
    }
}
