//! `/prompt`, with its stages.

use utoipa_axum::router::OpenApiRouter;

use crate::App;

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
