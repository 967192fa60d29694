//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::generation;
use crate::error::ErrorBody;
use crate::{ApiError, App, Served};

/// The models that are served.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The model, under each of its names.
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Seconds since 1970 at which it was loaded.
    pub created: u64,
    /// `halfbyte`.
    pub owned_by: &'static str,
    /// The model that this is another name of, or its own.
    pub root: String,
    /// Most tokens of a request, prompt and answer together.
    pub max_model_len: usize,
}

fn card(served: &Served, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: served.created,
        owned_by: "halfbyte",
        root: served.name.clone(),
        max_model_len: served.context,
    }
}

/// The models that are served
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "openai",
    responses(
        (status = 200, description = "The model, under each of its names", body = ModelList),
        (status = 503, description = "The model is not ready", body = ErrorBody),
    )
)]
pub(super) async fn models(State(app): State<App>) -> Result<Json<ModelList>, ApiError> {
    let served = app.served()?;
    let names = std::iter::once(&served.name).chain(&served.aliases);
    let data = names.map(|name| card(served, name)).collect();
    Ok(Json(ModelList { object: "list", data }))
}

/// A model that is served
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "openai",
    params(("id" = String, Path, description = "Its name; a slash in it may be written as it is")),
    responses(
        (status = 200, description = "The model", body = ModelCard),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
    )
)]
pub(super) async fn model(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    Ok(Json(card(generation::served(&app, &id)?, &id)))
}

/// A model whose name is `ORG/NAME`.
pub(super) async fn model_of(
    State(app): State<App>,
    Path((org, name)): Path<(String, String)>,
) -> Result<Json<ModelCard>, ApiError> {
    let id = format!("{org}/{name}");
    Ok(Json(card(generation::served(&app, &id)?, &id)))
}
