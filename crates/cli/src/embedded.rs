//! The model that this binary holds, and a document for it to read.

use anyhow::Result;
use bytes::Bytes;
use model::Checkpoint;

/// What the model is called wherever a MODEL is named.
pub(crate) const NAME: &str = "demo";

/// A document of the kind the model was made for, addressed to [`OUR_BUSINESS`].
pub(crate) const SAMPLE: &str = include_str!("../../../demo/samples/invoice.txt");

/// Whose books the sample is for.
pub(crate) const OUR_BUSINESS: &str = "Brightwater Studio Ltd";

/// A file of the model by its name.
macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../demo/model/", $name)).as_slice())
    };
}

static FILES: [(&str, &[u8]); 5] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
];

/// Opens the model. Its bytes are those of the program, and are not copied.
pub(crate) fn checkpoint() -> Result<Checkpoint> {
    let files = FILES.iter().map(|(name, bytes)| ((*name).to_owned(), Bytes::from_static(bytes)));
    Ok(Checkpoint::from_memory(NAME, files)?)
}
