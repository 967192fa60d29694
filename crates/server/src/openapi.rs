//! The description of the API for programs, `/openapi.json`, collected from the types and handlers.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder};

use crate::App;

/// What the document says before any route.
pub(crate) fn base(build: &str) -> OpenApi {
    let mut license = License::new("Apache-2.0 OR MIT");
    license.identifier = Some("Apache-2.0 OR MIT".to_owned());
    let info = InfoBuilder::new()
        .title("halfbyte")
        .version(build)
        .description(Some(
            "A 4-bit language model over HTTP. Errors have the form `{\"error\": {message, type, param, code}}` everywhere.",
        ))
        .license(Some(license));
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components =
        ComponentsBuilder::new().security_scheme("api_key", SecurityScheme::Http(scheme));
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("api_key", [])]))
        .build()
}

/// `/openapi.json`.
pub(crate) fn route(document: &OpenApi) -> Router<App> {
    let json = serde_json::to_string(document).unwrap_or_default();
    let answer =
        move || async move { ([(header::CONTENT_TYPE, "application/json")], json).into_response() };
    Router::new().route("/openapi.json", get(answer))
}
