//! Packages in images: the same facts as of an environment, whatever the image is packed in, and nothing of what a layer removed.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use halfbyte_audit::{Limits, Query, Report, audit, gpus};
use serde_json::json;
use support::{Layer, distribution, install, library, stack, tar};

const SITE: &str = "usr/local/lib/python3.12/site-packages";

fn query(limits: Limits) -> Query {
    Query { gpu: Some(gpus::find("RTX 5090").unwrap()), limits, ..Query::default() }
}

fn run(path: &Path) -> Report {
    audit(&[path.to_owned()], &query(Limits::default())).unwrap()
}

/// What a report says, without where.
fn summary(report: &Report) -> String {
    let findings: Vec<&str> = report.findings.iter().map(|finding| finding.id).collect();
    let code: Vec<_> = report
        .libraries
        .iter()
        .map(|l| (&l.library.path, &l.library.size, &l.library.device_code))
        .collect();
    let packages: Vec<_> = report.packages.iter().map(|(name, it)| (name, &it.version)).collect();
    format!("{:?} {} {packages:?} {findings:?} {code:?}", report.works, report.python)
}

/// The stack of `bytes.rs`, with a library that is too large to be kept: its outline at the end, names of others at the start.
fn packages() -> Vec<Vec<(String, Vec<u8>)>> {
    let mut packages = stack(&[80, 90]);
    let large = library(
        &[(".rodata", false, vec![3; 11 << 20]), (".nv_fatbin", false, support::cubins(&[80, 90]))],
        &["libcublas.so.12"],
    );
    let core = packages[0].iter_mut().find(|(name, _)| name.ends_with("libtorch_cuda.so")).unwrap();
    core.1 = large;
    packages
}

/// A layer that installs them.
fn layer(packages: &[Vec<(String, Vec<u8>)>]) -> Layer {
    let files =
        packages.iter().flatten().map(|(name, bytes)| (format!("{SITE}/{name}"), bytes.clone()));
    files.collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Uncompressed)
}

fn file(name: &str, bytes: Vec<u8>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes)
}

/// `docker save`.
fn saved(layers: &[Vec<u8>]) -> Layer {
    let mut files: Layer = layers
        .iter()
        .enumerate()
        .map(|(at, bytes)| file(&format!("{at}/layer.tar"), bytes.clone()))
        .collect();
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let manifest = json!([{ "Config": "config.json", "Layers": names }]);
    files.push(file(
        "config.json",
        json!({ "config": { "Env": ["BNB_CUDA_VERSION=118", "A=b"] } }).to_string().into(),
    ));
    files.push(file("manifest.json", manifest.to_string().into()));
    files
}

/// The OCI layout, with an attestation beside the image.
fn oci(layers: &[Vec<u8>]) -> Layer {
    let mut files: Layer = layers
        .iter()
        .enumerate()
        .map(|(at, bytes)| file(&format!("blobs/sha256/{at}"), bytes.clone()))
        .collect();
    let digests: Vec<_> =
        (0..layers.len()).map(|at| json!({ "digest": format!("sha256:{at}") })).collect();
    let manifest = json!({ "config": { "digest": "sha256:c" }, "layers": digests });
    let image =
        json!({ "digest": "sha256:m", "platform": { "os": "linux", "architecture": "amd64" } });
    let other =
        json!({ "digest": "sha256:x", "platform": { "os": "unknown", "architecture": "unknown" } });
    files.push(file("blobs/sha256/c", b"{}".to_vec()));
    files.push(file("blobs/sha256/m", manifest.to_string().into()));
    files.push(file("index.json", json!({ "manifests": [other, image] }).to_string().into()));
    files.push(file("oci-layout", b"{}".to_vec()));
    files
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn an_image_says_what_its_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let packages = packages();
    let environment = folder.path().join("root");
    for files in &packages {
        install(&environment.join(SITE), files);
    }
    let expected = summary(&run(&environment));
    assert!(
        expected.contains("no_kernel_image") && expected.contains("needed_library_missing"),
        "{expected}"
    );
    // Two layers: torch below, the others above.
    let layers = [tar(&layer(&packages[..1])), tar(&layer(&packages[1..]))];
    let packed = [gzip(&layers[0]), zstd(&layers[1])];
    let root = tar(&layer(&packages));
    for (name, bytes) in [
        ("oci.tar", tar(&oci(&layers))),
        ("oci-packed.tar", tar(&oci(&packed))),
        ("export.tar", root.clone()),
        ("export.tar.gz", gzip(&root)),
        ("export.tar.zst", zstd(&root)),
        ("oci.tar.gz", gzip(&tar(&oci(&packed)))),
    ] {
        let path = write(folder.path(), name, &bytes);
        assert_eq!(summary(&run(&path)), expected, "{name}");
    }
    install(&folder.path().join("layout"), &oci(&packed));
    assert_eq!(summary(&run(&folder.path().join("layout"))), expected);
}

#[test]
fn variables_of_an_image_count() {
    let folder = tempfile::tempdir().unwrap();
    let layers = [tar(&layer(&packages()))];
    let report = run(&write(folder.path(), "saved.tar", &tar(&saved(&layers))));
    let bitsandbytes = report.bitsandbytes.unwrap();
    assert_ne!(
        bitsandbytes.loaded.as_deref(),
        Some("libbitsandbytes_cuda121.so"),
        "{bitsandbytes:?}"
    );
}

/// Versions that are left, after layers of so many files each.
#[track_caller]
fn check(layers: &[Layer], expected: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    for packed in [false, true] {
        let layers: Vec<Vec<u8>> = layers
            .iter()
            .map(|layer| if packed { gzip(&tar(layer)) } else { tar(layer) })
            .collect();
        let report = run(&write(folder.path(), "x.tar", &tar(&saved(&layers))));
        let found: Vec<(&str, &str)> =
            report.packages.iter().map(|(name, it)| (name.as_str(), it.version.as_str())).collect();
        assert_eq!(found, expected, "packed: {packed}");
    }
}

#[test]
fn layers_replace_and_remove_what_lies_below() {
    let package = |name: &str, version: &str| -> Layer {
        let code = [(format!("{name}/__init__.py"), b"".to_vec())];
        let code: Vec<(&str, Vec<u8>)> =
            code.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
        layer(&[distribution(name, version, "", &code)])
    };
    let removed = |path: &str| file(&format!("{SITE}/{path}"), Vec::new());
    let below = [package("aa", "1.0"), package("bb", "1.0")].concat();
    check(std::slice::from_ref(&below), &[("aa", "1.0"), ("bb", "1.0")]);
    let update = [package("aa", "2.0"), vec![removed(".wh.aa-1.0.dist-info")]].concat();
    check(&[below.clone(), update.clone()], &[("aa", "2.0"), ("bb", "1.0")]);
    // A whiteout stands for what is below its own layer, wherever in the layer it stands.
    let first = [vec![removed(".wh.aa-1.0.dist-info")], package("aa", "2.0")].concat();
    check(&[below.clone(), first], &[("aa", "2.0"), ("bb", "1.0")]);
    let opaque = [package("cc", "1.0"), vec![removed(".wh..wh..opq")]].concat();
    check(&[below.clone(), opaque], &[("cc", "1.0")]);
    let all = vec![file("usr/local/lib/.wh.python3.12", Vec::new())];
    check(&[below, all, package("dd", "1.0")], &[("dd", "1.0")]);
}

/// The error that a file gives, within seconds.
#[track_caller]
fn refused(name: &str, bytes: &[u8], limits: Limits) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), name, bytes);
    let start = Instant::now();
    let error = audit(&[path], &query(limits)).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    error
}

#[test]
fn images_made_to_hurt() {
    let limits = Limits::default();
    let small = tar(&layer(&stack(&[80])));
    let error = refused("x.tar", &tar(&[saved(&[]), saved(&[])].concat()), limits);
    assert!(error.contains("no installed Python packages"), "{error}");
    let two = json!([{ "Config": "c", "Layers": [] }, { "Config": "c", "Layers": [] }]).to_string();
    assert!(
        refused("x.tar", &tar(&vec![file("manifest.json", two.into())]), limits)
            .contains("2 images")
    );
    let outside = json!([{ "Config": "c", "Layers": ["../../etc/passwd"] }]).to_string();
    let error = refused("x.tar", &tar(&vec![file("manifest.json", outside.into())]), limits);
    assert!(error.contains("the archive has no `../../etc/passwd`"), "{error}");
    // Cut off, and packed text that is no archive.
    assert!(refused("x.tar", &small[..612], limits).contains("the archive is cut off"));
    assert!(refused("x.gz", &gzip(b"a log"), limits).contains("ends within a header"));
    let checksum = [&small[..148], b"7777777", &small[155..]].concat();
    assert!(refused("x.tar.gz", &gzip(&checksum), limits).contains("wrong checksum"));
    // 256 MB of zeros within a member, in 250 kB.
    let bomb = gzip(&tar(&vec![file(&format!("{SITE}/x.so"), vec![0; 256 << 20])]));
    let error = refused("x.tar.gz", &bomb, Limits { bytes_max: 64 << 20, ..limits });
    assert!(error.contains("bytes to read"), "{error}");
    let many: Layer = (0..50).map(|at| file(&format!("{at}"), Vec::new())).collect();
    let error = refused("x.tar", &tar(&many), Limits { entries_max: 20, ..limits });
    assert!(error.contains("more than 20 members"), "{error}");
}

#[test]
fn an_oci_folder_does_not_lead_out_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let files = oci(&[tar(&layer(&stack(&[80])))]);
    let layout = folder.path().join("layout");
    install(&layout, &files);
    let blob = layout.join("blobs/sha256/0");
    fs::rename(&blob, folder.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../../../outside", &blob).unwrap();
    let error = audit(&[layout], &query(Limits::default())).unwrap_err().to_string();
    assert!(error.contains("leads out of the image"), "{error}");
}
