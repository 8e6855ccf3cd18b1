//! Completes the description of the API with what holds for many operations:
//! who may call them, the answers that any of them can give, and the bounds of
//! paths and queries. What one operation alone does is said at its handler.

use serde_json::json;
use utoipa::{
    Number, OpenApi, PartialSchema,
    openapi::{
        self, Components, Content, Header, KnownFormat, Object, Ref, RefOr, Required, Response,
        Schema, SchemaFormat, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        security::{
            ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
        },
    },
};

use super::{
    problem::{CODES, ProblemDocument},
    shapes,
    surface::Surface,
};
use crate::domain::Currency;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "paystream",
        description = "Takes customers' payments and keeps their accounts. A payment answered with \
                       202 is on disk; it is applied exactly once, in its customer's order.\n\n\
                       Every failure is a problem document (RFC 9457) with a stable `code`."
    ),
    components(schemas(ProblemDocument<'static>))
)]
struct Description;

/// Where operators' operations are described, too.
const STRICTNESS: &str = " The operators' API refuses query parameters and fields that it does not \
                          know; other operations ignore them.";
/// The scheme that opens payments and customers.
const API: &str = "token";
/// The scheme that opens the operators' API.
const OPERATOR: &str = "operator_token";
/// Headers of a signed request, which stands for one with a token.
const SIGNED: [(&str, &str, &str); 2] = [
    (
        "signature_input",
        "Signature-Input",
        "HTTP Message Signatures (RFC 9421), in place of a token, with a key that is known of the \
         source: covers `@method`, `@authority`, `@path`, `@query` where there is one, and \
         `content-digest` where there is a body, which has the header `Content-Digest` with its \
         `sha-256` (RFC 9530) then. Its parameters have `created` and `keyid`.",
    ),
    ("signature", "Signature", "The signature (RFC 9421), under the same label"),
];
/// Carries many payments, and what was signed is kept with each.
const UNSIGNED: &str = "/api/v1/payments/batch";
/// Codes of what the proxy in front of the gateways answers by itself.
const PROXY_CODES: [&str; 1] = ["gateway_unavailable"];

/// An answer that many operations can give, never one of health: its status, name and
/// description, and the operations that can give it.
type SharedAnswer = (u16, &'static str, &'static str, fn(&Operation) -> bool);

const FAILURES: [SharedAnswer; 10] = [
    (400, "Malformed", "The body is not JSON, or the query is not valid", has_either),
    (401, "Unauthorized", "A valid bearer token is needed", any),
    (403, "Forbidden", "The token does not open this; the detail names the scope", any),
    (408, "BodyLate", "The body did not arrive in time", has_body),
    (413, "TooLarge", "The body is too large", has_body),
    (
        415,
        "WrongType",
        "The body has the wrong type, or a `Content-Encoding` such as gzip",
        has_body,
    ),
    (422, "Invalid", "The body is not valid; `errors` names the fields", has_body),
    (
        429,
        "RateLimited",
        "More payments or references than this source may send, or, from the proxy in front, too many \
         requests from this address; try again after `Retry-After`",
        any,
    ),
    (500, "Internal", "Something went wrong on our side; the log has it under `request_id`", any),
    (503, "Unavailable", "Not now; try again after `Retry-After`", any),
];

fn any(_: &Operation) -> bool {
    true
}

fn has_body(operation: &Operation) -> bool {
    operation.request_body.is_some()
}

fn has_either(operation: &Operation) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    let in_query = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.parameter_in == ParameterIn::Query);
    has_body(operation) || parameters.any(in_query)
}

pub(super) fn outline() -> openapi::OpenApi {
    Description::openapi()
}

/// The description with all that routes do not say, for this deployment.
pub(super) fn complete(mut document: openapi::OpenApi, currency: Currency) -> openapi::OpenApi {
    let surfaces: Vec<Surface> =
        document.paths.paths.keys().map(|path| Surface::of(path)).collect();
    if surfaces.contains(&Surface::Admin) {
        document.info.description.get_or_insert_default().push_str(STRICTNESS);
    }
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put];
        for operation in operations.into_iter().flatten() {
            complete_operation(path, operation);
        }
    }
    let components = document.components.get_or_insert_default();
    let schemes = [(API, Surface::Api), (OPERATOR, Surface::Admin)];
    for (name, _) in schemes.into_iter().filter(|(_, surface)| surfaces.contains(surface)) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(name, scheme);
    }
    if surfaces.contains(&Surface::Api) {
        for (name, header, description) in SIGNED {
            let scheme = ApiKeyValue::with_description(header, description);
            components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Header(scheme)));
        }
    }
    for (status, name, description, _) in FAILURES {
        components.responses.insert(name.to_owned(), problem(status, description).into());
    }
    let codes = CODES.iter().map(|(code, ..)| *code).chain(PROXY_CODES);
    if let Some(code) = property(components, "ProblemDocument", "code") {
        code.enum_values = Some(codes.map(|code| json!(code)).collect());
    }
    if let Some(RefOr::T(Schema::Object(ours))) = components.schemas.get_mut("Currency") {
        ours.enum_values = Some(vec![json!(currency.as_str())]);
    }
    document
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(names.map(|name| RefOr::T(path_parameter(name))));
    for parameter in parameters.iter_mut() {
        if let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(schema))), .. }) =
            parameter
        {
            bound(schema);
        }
    }
    // Health is open, and says by itself what it answers.
    if operation.security.is_none() {
        let needs = |token: &str| SecurityRequirement::new::<_, [&str; 0], &str>(token, []);
        let surface = Surface::of(path);
        let [(input, ..), (signature, ..)] = SIGNED;
        operation.security = Some(match surface == Surface::Admin {
            true => vec![needs(OPERATOR)],
            // A webhook is signed by its own headers.
            false if surface == Surface::Webhooks => vec![SecurityRequirement::default()],
            false if path == UNSIGNED => vec![needs(API)],
            false => vec![needs(API), needs(input).add::<_, [&str; 0], &str>(signature, [])],
        });
        for (status, name, _, can_give) in FAILURES {
            if can_give(operation) {
                let reference = RefOr::Ref(Ref::from_response_name(name));
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_string()).or_insert(reference);
            }
        }
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let status = status.parse().unwrap_or(0);
        match status >= 400 && response.content.is_empty() {
            true => *response = problem(status, &response.description),
            false => drop(response.headers.insert("x-request-id".to_owned(), request_id().into())),
        }
    }
}

fn problem(status: u16, description: &str) -> Response {
    let document = Ref::from_schema_name("ProblemDocument");
    let mut response = Response::new(description);
    let content = Content::new(Some(document));
    response.content.insert("application/problem+json".to_owned(), content.into());
    let text = |description: &str| Header::builder().description(Some(description)).build();
    let header = match status {
        401 => Some(("WWW-Authenticate", text("`Bearer`"))),
        429 | 503 => Some(("Retry-After", seconds())),
        _ => None,
    };
    let headers = header.into_iter().chain([("x-request-id", request_id())]);
    response.headers.extend(headers.map(|(name, header)| (name.to_owned(), header.into())));
    response
}

fn request_id() -> Header {
    Header::builder()
        .description(Some("Names the request in our logs; the one that was sent, if one was"))
        .build()
}

fn seconds() -> Header {
    let mut header = Header::new(Object::with_type(Type::Integer));
    header.description = Some("Seconds after which to try again".to_owned());
    header
}

/// A part of a path. What does not fit names nothing, and is answered 404.
fn path_parameter(name: &str) -> Parameter {
    let number = || RefOr::T(Schema::Object(Object::with_type(Type::Integer)));
    let (schema, description) = match name {
        "reference" => (shapes::ReferenceText::schema(), "The payment's reference"),
        "source" => (shapes::SourceText::schema(), "Who sends it"),
        "customer_id" => (shapes::CustomerIdText::schema(), "The customer's id"),
        "partition" => (number(), "The partition"),
        "sequence" => (number(), "The sequence in the partition"),
        _ => (number(), "The id"),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Says the bounds of a path's or query's value that its type has.
fn bound(schema: &mut Object) {
    if schema.schema_type == Type::Integer.into() {
        schema.format.get_or_insert(SchemaFormat::KnownFormat(KnownFormat::Int64));
        schema.minimum.get_or_insert(Number::Int(isize::MIN));
        schema.maximum.get_or_insert(Number::Int(isize::MAX));
    } else if schema.schema_type == Type::String.into() && schema.format.is_none() {
        // No store keeps NUL in a text.
        schema.pattern.get_or_insert_with(|| r"^[^\u0000]*$".to_owned());
    }
}

fn property<'a>(
    components: &'a mut Components,
    schema: &str,
    name: &str,
) -> Option<&'a mut Object> {
    let RefOr::T(Schema::Object(object)) = components.schemas.get_mut(schema)? else { return None };
    let RefOr::T(Schema::Object(property)) = object.properties.get_mut(name)? else { return None };
    Some(property)
}
