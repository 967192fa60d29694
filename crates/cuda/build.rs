//! Embeds the compiled kernels of `images`, if they are those of the sources in `kernels`; else the reason why not.
//!
//! With `HALFBYTE_REQUIRE_KERNELS=1` that reason fails the build.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value;
use sha2::{Digest, Sha256};

fn main() -> Result<(), String> {
    for path in ["build.rs", "kernels", "images"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=HALFBYTE_REQUIRE_KERNELS");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets no folder")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no output folder")?);
    let required = env::var_os("HALFBYTE_REQUIRE_KERNELS").is_some_and(|value| value == "1");
    let generated = match images(&root, required) {
        Ok(images) => images,
        Err(reason) if required => {
            return Err(format!("no CUDA kernels to embed: {reason}; run `cargo xtask kernels`"));
        }
        Err(reason) => absent(&reason),
    };
    fs::write(out.join("images.rs"), generated).map_err(|error| format!("images.rs: {error}"))
}

fn absent(reason: &str) -> String {
    format!(
        "const COMPILER: &str = \"\";\nconst ABSENT: Option<&str> = Some({reason:?});\nstatic IMAGES: &[Image] = &[];\n"
    )
}

/// The Rust source of the table of images, or why there is none.
fn images(root: &Path, required: bool) -> Result<String, String> {
    let folder = root.join("images");
    let Ok(manifest) = fs::read_to_string(folder.join("manifest.json")) else {
        return Err("they were not compiled".to_owned());
    };
    let manifest: Value =
        serde_json::from_str(&manifest).map_err(|error| format!("manifest.json: {error}"))?;
    let of_sources: BTreeMap<String, String> =
        serde_json::from_value(manifest["sources"].clone()).unwrap_or_default();
    let present = sources(&root.join("kernels"))?;
    // Of a part only the sources of that part count: whoever left something out knows.
    let is_current = match is_partial(&manifest) {
        true => of_sources.iter().all(|(name, hash)| present.get(name) == Some(hash)),
        false => of_sources == present,
    };
    if !is_current {
        return Err("their sources have changed since they were compiled".to_owned());
    }
    if required && is_partial(&manifest) {
        return Err("only some of them were compiled".to_owned());
    }
    let mut generated = format!(
        "const COMPILER: &str = {:?};\nconst ABSENT: Option<&str> = None;\nstatic IMAGES: &[Image] = &[\n",
        text(&manifest, "compiler")?
    );
    for image in manifest["images"].as_array().ok_or("manifest.json lists no images")? {
        let path = folder.join(text(image, "packed_path")?);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if hash(&bytes) != text(image, "packed_sha256")? {
            return Err(format!("{} is not what was compiled", path.display()));
        }
        let (file, target) = (text(image, "file")?, text(image, "target")?);
        let len = image["bytes"].as_u64().ok_or("manifest.json lacks `bytes`")?;
        writeln!(
            generated,
            "    Image {{ file: {file:?}, target: Target::of({target:?}), len: {len}, deflated: include_bytes!({path:?}) }},"
        )
        .map_err(|error| error.to_string())?;
    }
    generated.push_str("];\n");
    Ok(generated)
}

fn is_partial(manifest: &Value) -> bool {
    manifest["partial"].as_bool().unwrap_or(false)
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value[name].as_str().ok_or_else(|| format!("manifest.json lacks `{name}`"))
}

/// Hashes of the sources by file name.
fn sources(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut hashes = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "cu" || ending == "cuh") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            hashes.insert(name, hash(&fs::read(&path).map_err(failed)?));
        }
    }
    Ok(hashes)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
