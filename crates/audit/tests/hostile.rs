//! Files made to hurt: an error or a finding, in bounded time and memory, and never a panic.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use halfbyte_audit::{Limits, Query, Report, audit, gpus};
use proptest::prelude::*;
use support::{
    Layer, Packing, container, cubin, cubins, distribution, entry, install, library, ptx, stack,
    tar, wheel, zip,
};

fn run(path: &Path, limits: Limits) -> Result<Report, String> {
    let gpu = Some(gpus::find("RTX 5090").unwrap());
    let query = Query { gpu, limits, ..Query::default() };
    audit(&[path.to_owned()], &query).map_err(|error| error.to_string())
}

/// Audits bytes as a file of this name.
fn audit_bytes(name: &str, bytes: &[u8]) -> Result<Report, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let start = Instant::now();
    let result = run(&path, Limits::default());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    result
}

#[track_caller]
fn check(name: &str, bytes: &[u8], expected: &str) {
    let error = audit_bytes(name, bytes).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

fn good_library() -> Vec<u8> {
    let packed = container(&[
        entry(2, 90, &cubin(90, true), Packing::Zstd),
        entry(1, 120, &ptx("sm_120", "8.7"), Packing::Lz4),
    ]);
    library(&[(".nv_fatbin", false, [cubins(&[80, 120]), packed].concat())], &["libcudart.so.12"])
}

fn good_wheel() -> Vec<u8> {
    let files = distribution("x", "1.0", "", &[("x/a.so", good_library())]);
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    zip(&files, true)
}

/// The bytes with `value` at `at`.
fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

#[test]
fn files_cut_off_anywhere() {
    for (name, bytes) in [("x.so", good_library()), ("x.whl", good_wheel())] {
        for end in 0..bytes.len() {
            let _ = audit_bytes(name, &bytes[..end]);
        }
    }
}

#[test]
fn elf_that_points_past_its_end() {
    let good = good_library();
    check("x.so", &with(good.clone(), 40, &[0xff; 8]), "the section headers");
    check("x.so", &with(good.clone(), 32, &u64::MAX.to_le_bytes()), "the program headers");
    check("x.so", &with(good.clone(), 60, &[0xff, 0xff]), "the section headers");
    check(
        "x.so",
        &with(good.clone(), 120 + 32, &(1u64 << 40).to_le_bytes()),
        "the dynamic section",
    );
    check("x.so", &with(good, 4, &[1]), "32 bits");
    check("x.so", &[b"\x7fELF".to_vec(), vec![0; 9]].concat(), "ELF header");
}

#[test]
fn a_container_that_claims_more_than_there_is_is_a_finding() {
    let good = good_library();
    let at = find(&good, &0xba55_ed50_u32.to_le_bytes());
    for size in [u64::MAX, 100 << 30, 1 << 20] {
        let report = audit_bytes("x.so", &with(good.clone(), at + 8, &size.to_le_bytes())).unwrap();
        let damage = report.libraries[0].library.damage.clone().unwrap_or_default();
        // A size that overflows makes it no container at all.
        assert!(damage.contains("GPU code") || size == u64::MAX, "{size}: {damage}");
    }
    // A payload beyond its container, in the second entry.
    let second = at + 16 + 64 + 128;
    let report = audit_bytes("x.so", &with(good, second + 8, &u64::MAX.to_le_bytes())).unwrap();
    assert!(report.findings.iter().any(|finding| finding.id == "damaged_library"));
}

#[test]
fn zips_that_lie() {
    let good = good_wheel();
    let central = find(&good, b"PK\x01\x02");
    let end = find(&good, b"PK\x05\x06");
    check("x.whl", &with(good.clone(), end + 16, &[0xff, 0xff, 0xff, 0x7f]), "the zip directory");
    check("x.whl", &with(good.clone(), end + 10, &[0xff, 0x7f]), "members");
    check("x.whl", &good[..good.len() - 4], "no zip directory");
    // The first member claims 4 GB out of a few bytes, and another place.
    let claims = with(good.clone(), central + 24, &[0xfe, 0xff, 0xff, 0xff]);
    assert!(damage(&audit_bytes("x.whl", &claims)).contains("which deflate cannot do"));
    let elsewhere = with(good, central + 42, &[0xff, 0xff, 0, 0]);
    assert!(damage(&audit_bytes("x.whl", &elsewhere)).contains("a member"));
    check("x.whl", &zip(&[("a.txt", vec![])], false), "no wheel");
}

fn damage(result: &Result<Report, String>) -> String {
    let report = result.as_ref().unwrap();
    report.libraries[0].library.damage.clone().unwrap_or_default()
}

#[test]
fn a_member_of_a_hundred_gigabytes_by_its_64_bit_size() {
    let files = distribution("x", "1.0", "", &[("x/a.so", vec![0; 100])]);
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let mut bytes = zip(&files, false);
    // An extra field with the size, in the first entry of the directory.
    let central = find(&bytes, b"PK\x01\x02");
    let extra = [&[1u8, 0, 8, 0][..], &(100u64 << 30).to_le_bytes()].concat();
    bytes = with(bytes, central + 24, &[0xff; 4]);
    bytes = with(bytes, central + 30, &[extra.len() as u8, 0]);
    let at = central + 46 + "x/a.so".len();
    bytes.splice(at..at, extra.iter().copied());
    let end = find(&bytes, b"PK\x05\x06");
    let size = u32::from_le_bytes(bytes[end + 12..end + 16].try_into().unwrap());
    let bytes = with(bytes, end + 12, &(size + extra.len() as u32).to_le_bytes());
    check("x.whl", &bytes, "bytes in a member of an archive");
}

#[test]
fn a_bomb_stops_at_the_budget() {
    // 64 MB of zeros behind an ELF header, which deflate to 64 kB.
    let mut bomb = library(&[(".rodata", false, vec![0; 64 << 20])], &[]);
    bomb.truncate(bomb.len());
    let folder = tempfile::tempdir().unwrap();
    let files = distribution("x", "1.0", "", &[("x/a.so", bomb)]);
    let path = wheel(folder.path(), "x.whl", &files, true);
    let limits = Limits { bytes_max: 8 << 20, ..Limits::default() };
    let error = run(&path, limits).unwrap_err();
    assert!(error.contains("bytes to read"), "{error}");
    let limits = Limits { time_max: Duration::ZERO, ..Limits::default() };
    assert!(run(&path, limits).unwrap_err().contains("seconds"));
    let limits = Limits { entries_max: 2, ..Limits::default() };
    assert!(run(&path, limits).unwrap_err().contains("members of an archive"));
}

#[test]
fn names_and_links_that_lead_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.so"), good_library()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut files = distribution("x", "1.0", "", &[("x/a.so", good_library())]);
    let record = files.last_mut().unwrap();
    let secret = outside.path().join("secret.so");
    record.1.extend(format!("{},,\n../../secret.so,,\nx/link.so,,\n", secret.display()).bytes());
    install(folder.path(), &files);
    std::os::unix::fs::symlink(&secret, folder.path().join("x/link.so")).unwrap();
    let report = run(folder.path(), Limits::default()).unwrap();
    let read: Vec<&str> = report.libraries.iter().map(|l| l.library.path.as_str()).collect();
    assert_eq!(read, ["x/a.so", "x/link.so"]);
    assert!(report.libraries[1].library.damage.as_ref().unwrap().contains("leads out"));
}

#[test]
fn requirement_files_that_include_each_other() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "-r b.txt\n-c ../../etc/passwd\ntorch==2.3.1\n")
        .unwrap();
    fs::write(folder.path().join("b.txt"), "-r a.txt\n-r b.txt\n").unwrap();
    let report = run(&folder.path().join("a.txt"), Limits::default()).unwrap();
    assert!(report.not_known.iter().any(|evidence| evidence.value.contains("leads out")));
}

#[test]
fn python_that_never_ends_its_strings() {
    let source = format!("x = {}\nimport torch.a.b\n", "f'{".repeat(10_000));
    let files = distribution(
        "bitsandbytes",
        "1.0",
        "",
        &[("bitsandbytes/__init__.py", source.into_bytes())],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = wheel(folder.path(), "x.whl", &files, true);
    assert!(run(&path, Limits::default()).is_ok());
}

/// A file of every kind that is audited, whole.
fn good_files() -> Vec<(&'static str, Vec<u8>)> {
    let installed = |files: Vec<(String, Vec<u8>)>| {
        let site = "usr/lib/python3.11/site-packages";
        tar(&files.into_iter().map(|(name, bytes)| (format!("{site}/{name}"), bytes)).collect())
    };
    let root = installed(stack(&[80, 90]).concat());
    let manifest = br#"[{"Config": "c.json", "Layers": ["l.tar"]}]"#.to_vec();
    let image: Layer = vec![
        ("l.tar".to_owned(), gzip(&root)),
        ("c.json".to_owned(), br#"{"config": {"Env": ["A=b"]}}"#.to_vec()),
        ("manifest.json".to_owned(), manifest),
    ];
    let dockerfile = "ARG T=2.6.0\nFROM nvidia/cuda:12.4.1-runtime AS a\nENV BNB_CUDA_VERSION=124\n\
                      RUN pip install --index-url https://example.org/whl/cu124 torch==$T \\\n  bitsandbytes==0.45.0 && \\\n\
                      python -c \"import torch; assert torch.version.cuda == '12.4'\"\nCOPY <<EOF /x\ntext\nEOF\n";
    let requirements = "--index-url https://example.org/whl/cu124\ntorch[opt]==2.6.0 ; python_version >= '3.8'\n\
                        bitsandbytes>=0.45,<0.46 --hash=sha256:00\nnumpy @ https://example.org/numpy.whl\n";
    let log = "CUDA Setup failed despite GPU being available\nRuntimeError: 0 active drivers ([]).\n\
               NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible\n";
    let zstd =
        ruzstd::encoding::compress_to_vec(&root[..], ruzstd::encoding::CompressionLevel::Fastest);
    vec![
        ("x.so", good_library()),
        ("x.whl", good_wheel()),
        ("x.tar", root.clone()),
        ("x.tar.gz", gzip(&root)),
        ("x.tar.zst", zstd),
        ("image.tar", tar(&image)),
        ("Dockerfile", dockerfile.into()),
        ("requirements.txt", requirements.into()),
        ("x.log", log.into()),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bits flipped here and there, and files cut off: 1,000 of each kind with `HALFBYTE_SOAK=1`.
#[test]
fn corrupted_files_of_every_kind() {
    let count = if std::env::var_os("HALFBYTE_SOAK").is_some() { 1_000 } else { 25 };
    for (name, good) in good_files() {
        let whole = audit_bytes(name, &good);
        assert!(whole.is_ok(), "{name}: {whole:?}");
        // Any generator would do, if it is the same on every machine: this is splitmix64.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) % below as u64) as usize
        };
        for _ in 0..count {
            let mut bytes = good.clone();
            for _ in 0..1 + random(16) {
                let at = random(bytes.len());
                bytes[at] ^= 1 << random(8);
            }
            if random(3) == 0 {
                bytes.truncate(random(bytes.len()));
            }
            // An error or a report: what matters is that it comes, and in time.
            let _ = audit_bytes(name, &bytes);
        }
    }
}

/// A case writes files, so a soak of a hundred thousand stops at fewer.
fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(300).min(20_000), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn bytes_changed_at_random(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        for (name, mut bytes) in [("x.so", good_library()), ("x.whl", good_wheel())] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = audit_bytes(name, &bytes);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s)(.|FROM |RUN |pip install |-r |==|\\\\\n|<<EOF\n|'|\"|\\$\\{){0,60}") {
        for name in ["Dockerfile", "requirements.txt", "x.log"] {
            let _ = audit_bytes(name, text.as_bytes());
        }
    }
}
