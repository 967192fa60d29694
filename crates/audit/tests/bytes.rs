//! What is read out of libraries, wheels and environments.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::io;
use std::path::Path;

use halfbyte_audit::{Limits, Linking, Query, ReadAt, Report, audit, gpus, read_remote};
use support::{
    Packing, accelerated, container, cubin, cubins, distribution, entry, install, library, ptx,
    stack, wheel,
};

fn query(gpu: &str) -> Query {
    Query { gpu: Some(gpus::find(gpu).unwrap()), ..Query::default() }
}

fn report(target: &Path, gpu: &str) -> Report {
    audit(&[target.to_owned()], &query(gpu)).unwrap()
}

/// Targets of a library with these sections, as `linking kind target entries packing`.
#[track_caller]
fn check(sections: &[(&str, bool, Vec<u8>)], expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.so");
    fs::write(&path, library(sections, &["libcudart.so.12", "libc.so.6"])).unwrap();
    let report = report(&path, "RTX 5090");
    let library = &report.libraries[0].library;
    assert_eq!(library.needed, ["libc.so.6", "libcudart.so.12"]);
    assert_eq!(library.damage, None);
    let found: Vec<String> = library
        .device_code
        .iter()
        .map(|code| {
            let linking = if code.linking == Linking::Linked { "linked" } else { "object" };
            let version = code.ptx_version.as_ref().map_or(String::new(), |v| format!(" {v}"));
            format!(
                "{linking} {} x{} {}{version}",
                code.target,
                code.entries,
                code.packing.join("+")
            )
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn code_of_all_packings_and_architectures() {
    let packed = container(&[
        entry(2, 86, &cubin(86, false), Packing::Lz4),
        entry(2, 90, &cubin(90, true), Packing::Zstd),
        entry(2, 120, &cubin(120, true), Packing::Plain),
        accelerated(entry(2, 103, &cubin(103, false), Packing::Zstd)),
        entry(1, 90, &ptx("sm_90a", "8.3"), Packing::Lz4),
        entry(1, 120, &ptx("sm_120", "8.7"), Packing::Zstd),
        entry(16, 80, &[0; 64], Packing::Plain),
    ]);
    check(
        &[(".nv_fatbin", false, [packed, cubins(&[80, 86])].concat())],
        &[
            "linked sm_80 x1 none",
            "linked sm_86 x2 none+lz4",
            "linked sm_90a x1 zstd",
            "linked sm_103a x1 zstd",
            "linked sm_120a x1 none",
            "linked compute_90a x1 lz4 8.3",
            "linked compute_120 x1 zstd 8.7",
        ],
    );
}

#[test]
fn containers_hide_in_data_and_their_magic_in_instructions() {
    let text = [0xba55_ed50_u32.to_le_bytes().to_vec(), vec![1; 200]].concat();
    let data =
        [vec![0; 24], cubins(&[90]), vec![7; 1 << 20], cubins(&[120]), b"compute_120".to_vec()];
    check(
        &[
            (".text", true, [text, cubins(&[70])].concat()),
            (".rodata", false, data.concat()),
            ("__nv_relfatbin", false, cubins(&[80])),
        ],
        &["linked sm_90 x1 none", "linked sm_120 x1 none", "object sm_80 x1 none"],
    );
}

fn ids(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.id).collect()
}

#[test]
fn wheels_and_an_environment_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let site_packages = folder.path().join("lib/python3.12/site-packages");
    let mut wheels = Vec::new();
    for (at, files) in stack(&[80, 90]).iter().enumerate() {
        install(&site_packages, files);
        wheels.push(wheel(folder.path(), &format!("{at}.whl"), files, at != 1));
    }
    let installed = report(folder.path(), "RTX 5090");
    assert_eq!(installed.python, "3.12");
    let wheels =
        audit(&wheels, &Query { python: Some("3.12".into()), ..query("RTX 5090") }).unwrap();
    let same = ["no_kernel_image", "no_kernel_image", "import_missing"];
    assert_eq!(ids(&wheels), same);
    // Only of an environment is it known what is not installed.
    let missing = ["needed_library_missing", "needed_library_missing"];
    assert_eq!(ids(&installed), [&same[..], &missing].concat());
    assert_eq!(installed.works, Some(false));
    let code = |report: &Report| -> Vec<_> {
        report.libraries.iter().map(|l| l.library.device_code.clone()).collect()
    };
    assert_eq!(code(&installed), code(&wheels));
    let bitsandbytes = installed.bitsandbytes.unwrap();
    assert_eq!(bitsandbytes.loaded.as_deref(), Some("libbitsandbytes_cuda121.so"));
    assert_eq!(bitsandbytes.imports_hold, Some(false));
}

#[test]
fn a_card_that_the_code_is_for() {
    let folder = tempfile::tempdir().unwrap();
    for files in &stack(&[80, 86])[..1] {
        install(folder.path(), files);
    }
    let report = report(folder.path(), "RTX 4090");
    assert_eq!((report.works, ids(&report)), (None, vec!["needed_library_missing"]));
}

#[test]
fn files_of_two_releases_of_torch() {
    let check = |common: &str, expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mm = "from .mm_common import (\n    mm_configs,\n    mm_args,\n)\n";
        let files = [
            ("torch/_inductor/kernel/__init__.py", vec![]),
            ("torch/_inductor/kernel/mm.py", mm.into()),
            ("torch/_inductor/kernel/mm_common.py", common.into()),
            ("torch/version.py", b"cuda = '12.1'\n".to_vec()),
        ];
        install(folder.path(), &distribution("torch", "2.9.9", "", &files));
        assert_eq!(ids(&report(folder.path(), "RTX 4090")), expected, "{common}");
    };
    check("def mm_args():\n    pass\nmm_configs = 1\n", &[]);
    // Exactly this name.
    check("mm_args = int8_mm_configs = 1\n", &["mixed_files"]);
    check("mm_args = 1\nfrom .x import *\n", &[]);
}

/// A wheel on a server that breaks off at some length, and how much of it was read.
struct Elsewhere {
    bytes: Vec<u8>,
    there: usize,
    read: u64,
}

impl ReadAt for Elsewhere {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let end = start + buffer.len();
        let found = self.bytes.get(start..end).filter(|_| end <= self.there);
        buffer.copy_from_slice(found.ok_or_else(|| io::Error::other("the server broke off"))?);
        self.read += buffer.len() as u64;
        Ok(())
    }
}

#[test]
fn of_a_wheel_elsewhere_the_wanted_members_are_read() {
    let mut files = stack(&[80, 90]).remove(0);
    let at = files.len() - 1;
    files.insert(at, ("torch/include/all.h".to_owned(), vec![7; 8 << 20]));
    let folder = tempfile::tempdir().unwrap();
    let path = wheel(folder.path(), "torch-2.9.9-py3-none-any.whl", &files, false);
    let bytes = fs::read(&path).unwrap();
    let (name, len) = ("torch-2.9.9-py3-none-any.whl", bytes.len());
    let mut remote = Elsewhere { bytes: bytes.clone(), there: len, read: 0 };
    let package = read_remote(name, &mut remote, Limits::default()).unwrap();
    assert!(remote.read < 1 << 20, "{} of {len} bytes", remote.read);
    let with = |packages| Query { packages, ..query("RTX 5090") };
    let remote = audit(&[], &with(vec![package])).unwrap();
    let local = report(&path, "RTX 5090");
    assert_eq!((ids(&remote), &remote.targets[..]), (ids(&local), &[name.to_owned()][..]));
    let mut cut = Elsewhere { bytes, there: len - 1, read: 0 };
    let error = read_remote(name, &mut cut, Limits::default()).unwrap_err().to_string();
    assert_eq!(error, format!("{name}: cannot be read: the server broke off"));
}
