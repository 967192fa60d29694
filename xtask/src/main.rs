//! The repository's own commands. `cargo xtask help` lists them.

mod suites;
mod ci;
mod tidy;
mod kernels;
mod peers;
mod soak;
mod kill;
mod jobs;
mod dist;
mod image;
mod plot;
mod shell;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask <COMMAND>

  test                 build everything and run every test that needs no more than Rust
  ci                   what CI runs: rustfmt, clippy, rustdoc, tidy, the fuzz targets' build, the demo, then test
  tidy                 rules of the repository: paths in documents, layers, unsafe, sizes, versions
  kernels [--native] [--only FILE] [--target TARGET] [--report] [--disassemble] [--offline-check]
                       compile crates/cuda/kernels into crates/cuda/images, where the build finds them, and check
                       registers and local memory (the first time: about 100 MB of compiler, into target/nvrtc);
                       --native: for the GPUs of this machine alone, and nothing without one; --only, --target: a part
                       (both may be repeated); --report prints what each kernel takes, --disassemble looks for the
                       instructions that are meant, --offline-check compiles nothing
  peers [deploy | server | openai | proxy | metrics | spans | schemas | worker ...]
                       every fixture through the binary, its artefacts through transformers + bitsandbytes, and a server
                       through OpenAI's Python client, nginx, Prometheus' parser, an OpenTelemetry collector, and all test
                       schemas with jsonschema (the first time: about 1 GB of Python packages, into target/peers and
                       target/peers-server); with names: those of a server alone, which take little, or `deploy`: its files
                       before Kubernetes' schemas, hadolint and systemd (the first time: about 40 MB, into target/peers-deploy)
  jobs [--kills N] [--seed HEX]
                       jobs on a PostgreSQL of the system's packages, in a folder of its own: both stores by the same tests,
                       then three servers that share one, killed N times (8)
  documents            documents with known content through `extract`, beside pdftotext, PyMuPDF and Tesseract where they
                       are (the first time: about 150 MB of Python packages, into target/peers-documents)
  page                 the web page of `halfbyte serve demo` in headless Chromium, if there is one (HALFBYTE_CHROMIUM)
  soak [--cases N] [--kills N] [--pulls N] [--clients N] [--signals N] [--jobs N] [--seed HEX] [--runs N] [--target NAME]
                       property tests with N cases each (100000), `quantize` killed N times (100), a server that meets
                       N clients, most of them bad (2000), and one under load that gets SIGTERM, N times (100),
                       servers with jobs killed N times (100) on SQLite and on PostgreSQL, N runs of each fuzz target, or
                       of one (1000000, if cargo-fuzz is installed); 0 leaves one out; --seed repeats the clients,
                       signals and kills of another soak
  dist [--binary PATH] [--out DIR] [--local] [--check]
                       an archive and a Python wheel of the binary with what belongs to it, and SHA256SUMS, in target/dist; without
                       --binary one is built for glibc 2.28 and later (the first time: about 100 MB of zig, into target/zig);
                       --local: any glibc, and no kernels needed; --check installs both in empty places, and runs them
  image [--binary PATH]
                       the root filesystems of the container images, as deploy/Dockerfile makes them, run under chroot (as root on
                       Debian 12 or later): what they hold, sizes, and all that they are for
  plot IN.json OUT.svg bars of what bench/cpu_vs_llama_cpp.py measured
  help                 this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let root = root()?;
    env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test"] => suites::test(),
        ["ci"] => ci::ci(),
        ["tidy"] => tidy::tidy(&root),
        ["kernels", options @ ..] => kernels::kernels(&root, &kernels::Options::parse(options)?),
        ["peers"] => peers::peers(&root),
        ["peers", "deploy"] => peers::deploy(&root),
        ["peers", "server"] => peers::server(&root, &[]),
        ["peers", names @ ..] => peers::server(&root, names),
        ["jobs", options @ ..] => jobs::jobs(&jobs::Options::parse(options)?),
        ["documents"] => peers::documents(&root),
        ["page"] => peers::page(&root),
        ["soak", options @ ..] => soak::soak(&root, &soak::Options::parse(options)?),
        ["dist", options @ ..] => dist::dist(&root, &dist::Options::parse(options)?).map(drop),
        ["image", options @ ..] => image::image(&root, &image::Options::parse(options)?),
        ["plot", input, output] => plot::plot(Path::new(input), Path::new(output)),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        other => {
            bail!("`{}` is no command of xtask; `cargo xtask help` lists them", other.join(" "))
        }
    }
}

/// The root of the repository: the parent of this crate.
fn root() -> Result<PathBuf> {
    let manifest = env!("CARGO_MANIFEST_DIR");
    let root = Path::new(manifest).parent().context("xtask lies in no repository")?;
    Ok(root.to_path_buf())
}
