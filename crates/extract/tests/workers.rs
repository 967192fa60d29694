//! Hostile files and dying readers. This program is its own worker, which is why it has no usual harness.
#![allow(clippy::unwrap_used, reason = "these are tests, for all that no harness says so")]

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use halfbyte_extract::{
    Document, ErrorKind, ExtractError, Input, Limits, WorkerCommand, Workers, serve_worker,
};

const TESTS: [(&str, fn()); 5] = [
    ("many_files_through_few_workers", many_files_through_few_workers),
    ("what_becomes_of_a_worker_is_said", what_becomes_of_a_worker_is_said),
    ("without_an_engine_a_scan_needs_ocr", without_an_engine_a_scan_needs_ocr),
    ("bombs_end_one_job", bombs_end_one_job),
    ("corrupted_files_are_errors", corrupted_files_are_errors),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("--worker") {
        let served = serve_worker(&mut std::io::stdin().lock(), &mut std::io::stdout().lock());
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if has("--list") {
        let listed = TESTS.iter().filter(|_| !has("--ignored"));
        listed.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = arguments.iter().filter(|name| !name.starts_with('-')).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| name.contains(*wanted));
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let passed = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn workers(count: usize) -> Workers {
    Workers::new(WorkerCommand::of_this_program(&["--worker"]).unwrap(), count)
}

fn shell(script: &str) -> Workers {
    let arguments: Vec<OsString> = vec!["-c".into(), script.into()];
    Workers::new(WorkerCommand { program: "/bin/sh".into(), arguments }, 1)
}

fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/documents/samples");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending != "json")).collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

fn ask(
    workers: &Workers,
    name: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Document, ExtractError> {
    workers.read(Input { bytes, name, mime: None }, limits, &mut |_| ())
}

fn many_files_through_few_workers() {
    let workers = workers(2);
    let samples = samples();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for (name, bytes) in &samples {
                    let mut pages = 0;
                    let input = Input { bytes, name, mime: None };
                    let document = workers
                        .read(input, &Limits::default(), &mut |progress| pages = progress.pages)
                        .unwrap();
                    assert!(!document.pages.is_empty());
                    assert!(pages == 0 || pages == document.pages.len(), "{name}");
                }
            });
        }
    });
    let (name, bytes) = &samples[0];
    let seen =
        workers.picture(Input { bytes, name, mime: None }, 1, 50.0, &Limits::default()).unwrap();
    assert!(seen.png.starts_with(b"\x89PNG") && seen.width > 100);
}

fn what_becomes_of_a_worker_is_said() {
    let limits = Limits { seconds_max: 1, ..Limits::default() };
    let check = |script: &str, expected: &str| {
        let start = Instant::now();
        let workers = shell(script);
        for _ in 0..2 {
            let error = ask(&workers, "a.pdf", b"%PDF-", &limits).unwrap_err().to_string();
            assert!(error.starts_with("a.pdf: ") && error.contains(expected), "{script}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{script}");
    };
    check("exit 3", "exit code 3");
    check("kill -SEGV $$", "signal 11");
    check("sleep 100", "not read within 1 s");
    check("cat >/dev/null", "not read within 1 s");
    check("echo 'memory allocation of 8 bytes failed' >&2; kill -ABRT $$", "bytes of memory");
    check("echo \"thread 'main' panicked at x.rs:1:2:\nboom\" >&2; exit 101", "panicked (thread");
    check("echo 'fatal: has overflowed its stack' >&2; kill -ABRT $$", "overflowed its stack");
    check("printf '\\003\\000\\000\\000{x}'; sleep 100", "its reader");
    let nobody = WorkerCommand { program: "/nonexistent/reader".into(), arguments: Vec::new() };
    let error = ask(&Workers::new(nobody, 1), "a.pdf", b"%PDF-", &limits).unwrap_err();
    assert!(error.to_string().contains("cannot start /nonexistent/reader"), "{error}");
}

fn without_an_engine_a_scan_needs_ocr() {
    let this = std::env::current_exe().unwrap();
    let arguments: Vec<OsString> =
        vec!["HALFBYTE_TESSERACT=/nonexistent".into(), this.into(), "--worker".into()];
    let command = WorkerCommand { program: "/usr/bin/env".into(), arguments };
    let workers = Workers::new(command, 1);
    for (name, bytes) in samples().iter().filter(|(name, _)| name.starts_with("receipt")) {
        let document = ask(&workers, name, bytes, &Limits::default()).unwrap();
        assert_eq!(document.pages_that_need_ocr().collect::<Vec<_>>(), [1], "{name}");
        assert!(document.warnings[0].message.contains("HALFBYTE_TESSERACT"));
    }
}

/// Bounds under which a file that is made to waste must end soon.
fn tight() -> Limits {
    Limits { seconds_max: 5, memory_bytes_max: 1 << 30, ..Limits::default() }
}

/// A PDF of these objects; the first is the catalog.
fn pdf(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n".to_vec();
    let mut places = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend(format!("{} 0 obj\n", index + 1).bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let start = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    places.iter().for_each(|place| out.extend(format!("{place:010} 00000 n \n").bytes()));
    let size = objects.len() + 1;
    out.extend(format!("trailer\n<</Size {size}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF").bytes());
    out
}

fn stream(dictionary: &str, data: &[u8]) -> Vec<u8> {
    let mut out = format!("<<{dictionary}/Length {}>>\nstream\n", data.len()).into_bytes();
    out.extend(data);
    out.extend(b"\nendstream");
    out
}

/// A page whose content is object 4, with the XObjects `/F` (object 5) and `/G` (object 6).
fn page(content: Vec<u8>, more: &[Vec<u8>]) -> Vec<u8> {
    let mut objects = vec![
        b"<</Type/Catalog/Pages 2 0 R>>".to_vec(),
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>".to_vec(),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R\
          /Resources<</XObject<</F 5 0 R/G 6 0 R>>>>>>"
            .to_vec(),
        content,
    ];
    objects.extend_from_slice(more);
    pdf(&objects)
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    use std::io::Write;
    let deflate = |count: usize, piece: &[u8]| {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..count).for_each(|_| out.write_all(piece).unwrap());
        out.finish().unwrap()
    };
    let spaces = deflate(3000, &[b' '; 1 << 18]);
    let twice = {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(&spaces).unwrap();
        out.finish().unwrap()
    };
    let form = "/Type/XObject/Subtype/Form/BBox[0 0 9 9]";
    let own = format!("{form}/Resources<</XObject<</F 5 0 R/G 6 0 R>>>>");
    let fan = stream(&own, b"/G Do /G Do /G Do /G Do /G Do /G Do /G Do /G Do");
    let fan_back = stream(&own, b"/F Do /F Do /F Do /F Do /F Do /F Do /F Do /F Do");
    let mut png = samples().into_iter().find(|(name, _)| name.ends_with("png")).unwrap().1;
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let nested = |open: &str, count: usize| {
        [b"%PDF-1.7\n1 0 obj\n".to_vec(), open.repeat(count).into_bytes()].concat()
    };
    vec![
        ("750 MiB of spaces", page(stream("/Filter/FlateDecode", &spaces), &[])),
        ("deflated twice", page(stream("/Filter[/FlateDecode/FlateDecode]", &twice), &[])),
        (
            "a form in itself",
            page(stream("", b"/F Do"), &[stream(&own, b"/F Do"), stream(form, b"")]),
        ),
        ("8^50 forms", page(stream("", b"/F Do"), &[fan, fan_back])),
        (
            "pages in a circle",
            pdf(&[
                b"<</Type/Catalog/Pages 2 0 R>>".to_vec(),
                b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>".to_vec(),
            ]),
        ),
        ("arrays 2,000,000 deep", nested("[", 2_000_000)),
        ("dictionaries 1,000,000 deep", nested("<</A", 1_000_000)),
        ("states saved 3,000,000 times", page(stream("", "q ".repeat(3_000_000).as_bytes()), &[])),
        ("a picture of 2^32 pixels", png),
        ("a TIFF in a circle", [b"II*\0\x08\0\0\0".as_slice(), &[0, 0, 8, 0, 0, 0]].concat()),
    ]
}

fn bombs_end_one_job() {
    let workers = workers(1);
    let (good_name, good) = samples().into_iter().find(|(name, _)| name.ends_with("pdf")).unwrap();
    for (name, bytes) in bombs() {
        let start = Instant::now();
        let answer = ask(&workers, name, &bytes, &tight());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(8), "{name}: {took:?}");
        match &answer {
            Ok(document) => {
                assert!(document.pages.iter().all(|page| page.words.is_empty()), "{name}")
            }
            Err(error) => assert_eq!(error.name, name),
        }
        let outcome = answer.map_or_else(|error| error.to_string(), |_| format!("{name}: read"));
        println!("{outcome} ({took:.1?})");
        assert!(ask(&workers, &good_name, &good, &tight()).is_ok(), "after {name}");
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// The file cut off, with bits turned, a stretch of it gone, doubled, or overwritten.
fn corrupted(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (at, length) = (chance.below(bytes.len()), 1 + chance.below(200));
    let end = (at + length).min(out.len());
    match chance.below(5) {
        0 => out.truncate(at),
        1 => {
            for _ in 0..1 + chance.below(20) {
                let index = chance.below(out.len());
                out[index] ^= 1 << chance.below(8);
            }
        }
        2 => drop(out.drain(at..end)),
        3 => {
            let stretch = out[at..end].to_vec();
            out.splice(at..at, stretch);
        }
        _ => out[at..end].iter_mut().for_each(|byte| *byte = chance.below(256) as u8),
    }
    out
}

/// 100 variants, 1,000 when `cargo xtask soak` asks.
fn corrupted_files_are_errors() {
    let soak = std::env::var_os("HALFBYTE_SOAK").is_some();
    let (count, seed) = (if soak { 1000 } else { 100 }, 0x5eed);
    // Reading scans takes an engine's time; what is broken about pictures is found before it.
    let this = std::env::current_exe().unwrap();
    let arguments: Vec<OsString> =
        vec!["HALFBYTE_TESSERACT=/nonexistent".into(), this.into(), "--worker".into()];
    let command = WorkerCommand { program: "/usr/bin/env".into(), arguments };
    let workers = Workers::new(command, 1);
    let (samples, mut chance) = (samples(), Chance(seed));
    let (mut read, mut failed, mut slowest) = (0, 0, Duration::ZERO);
    for index in 0..count {
        let (name, bytes) = &samples[index % samples.len()];
        let bytes = corrupted(bytes, &mut chance);
        let start = Instant::now();
        let answer = ask(&workers, name, &bytes, &tight());
        slowest = slowest.max(start.elapsed());
        match answer {
            Ok(_) => read += 1,
            Err(error) => {
                failed += 1;
                let died =
                    matches!(error.kind, ErrorKind::ReaderDied(_) | ErrorKind::TimedOut { .. });
                if died {
                    println!("seed {seed:#x}, variant {index}: {error}");
                }
                assert_eq!(&error.name, name);
            }
        }
        assert!(slowest < Duration::from_secs(8), "seed {seed:#x}, variant {index}: {slowest:?}");
    }
    println!("{count} variants: {read} read, {failed} errors, the slowest took {slowest:.1?}");
    assert_eq!(read + failed, count);
}
