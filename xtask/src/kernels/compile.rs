//! Compiling: one process a core, each fed with one job after the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::manifest::{Image, Manifest};
use super::sources::{Sources, hash};
use super::toolchain::Toolchain;
use super::{Options, resources};

/// What every file is compiled with. Without `--device-as-default-execution-space` NVRTC takes lambdas for functions of
/// the host; `-v` reports what each kernel takes.
const FLAGS: [&str; 3] =
    ["--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v"];

/// More takes four times as long for 1 % less.
const DEFLATE_LEVEL: u8 = 6;

/// Held while images are written: two runs at once would mix theirs.
const LOCK: &str = ".lock";

struct Job {
    file: String,
    target: String,
    key: String,
}

impl Job {
    fn is_ptx(&self) -> bool {
        self.target.starts_with("compute_")
    }

    fn path(&self) -> String {
        format!("{}.{}.{}", self.file, self.target, if self.is_ptx() { "ptx" } else { "cubin" })
    }
}

/// Compiles what has changed since the last time, and writes the manifest.
pub(super) fn compile(
    toolchain: &Toolchain,
    sources: &Sources,
    folder: &Path,
    options: &Options,
) -> Result<Manifest> {
    let start = Instant::now();
    let lock = File::create(folder.join(LOCK)).context(LOCK)?;
    lock.lock().context("cannot wait for another run")?;
    if let Some(unknown) =
        options.only.iter().find(|name| !sources.files().any(|file| file == *name))
    {
        bail!("crates/cuda/kernels holds no {unknown}.cu");
    }
    let (mut images, mut open, mut left_out) = (Vec::new(), Vec::new(), false);
    for job in jobs(toolchain, sources)? {
        match Image::read(folder, &job.path()).filter(|image| image.key == job.key) {
            Some(image) => images.push(image),
            None if options.wants(&job.file, &job.target) => open.push(job),
            None => left_out = true,
        }
    }
    let compiled = open.len();
    let (made, failed) = run(toolchain, sources, folder, open)?;
    images.extend(made);
    images.sort_by(|a, b| (&a.file, &a.target).cmp(&(&b.file, &b.target)));
    let manifest = Manifest {
        compiler: toolchain.name.clone(),
        // What did compile is kept: whoever works on one file can use the others.
        partial: left_out || !failed.is_empty(),
        sources: sources.hashes(images.iter().map(|image: &Image| image.file.as_str())),
        images,
    };
    manifest.write(folder)?;
    if !manifest.partial {
        remove_others(folder, &manifest)?;
    }
    if !failed.is_empty() {
        bail!("the kernels do not compile\n{}", failed.join("\n"));
    }
    if Sources::read(&sources.folder)? != *sources {
        bail!("the sources changed while they were compiled; run it again");
    }
    let megabytes =
        |bytes: fn(&Image) -> u64| manifest.images.iter().map(bytes).sum::<u64>() as f64 / 1e6;
    println!(
        "{} images, {:.1} MB ({:.1} MB deflated), {compiled} of them compiled now with {} in {:.1} s",
        manifest.images.len(),
        megabytes(|image| image.bytes),
        megabytes(|image| image.packed_bytes),
        manifest.compiler,
        start.elapsed().as_secs_f64(),
    );
    Ok(manifest)
}

/// Removes images that the manifest does not name, and what lies beside them.
fn remove_others(folder: &Path, manifest: &Manifest) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_of_image = name.contains(".cubin") || name.contains(".ptx");
        if is_of_image && !manifest.images.iter().any(|image| name.starts_with(&image.path)) {
            fs::remove_file(entry.path()).with_context(|| name)?;
        }
    }
    Ok(())
}

/// All files for all their targets, the largest file first.
fn jobs(toolchain: &Toolchain, sources: &Sources) -> Result<Vec<Job>> {
    let mut files: Vec<&str> = sources.files().collect();
    files.sort_by_key(|file| std::cmp::Reverse(sources.size(file)));
    let mut jobs = Vec::new();
    for file in files {
        let of_sources = sources.key(file);
        for target in sources.targets(file)? {
            let content = format!("{}\n{FLAGS:?}\n{target}\n{of_sources}", toolchain.name);
            let key = hash(content.as_bytes());
            jobs.push(Job { file: file.to_owned(), target: target.to_owned(), key });
        }
    }
    Ok(jobs)
}

/// Runs the jobs on all cores and prints how far it is: the images, and the messages about what does not compile.
fn run(
    toolchain: &Toolchain,
    sources: &Sources,
    folder: &Path,
    jobs: Vec<Job>,
) -> Result<(Vec<Image>, Vec<String>)> {
    let total = jobs.len();
    let workers = thread::available_parallelism().map_or(1, usize::from).min(total);
    let queue = Mutex::new(jobs.into_iter());
    let done = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let mut compiler = Compiler::start(toolchain, sources, folder)?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(job) = next else { return compiler.stop() };
            let start = Instant::now();
            let (image, log) = compiler.compile(&job)?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let (file, target) = (job.file.clone(), job.target.clone());
            done.push((job, image, log));
            println!(
                "[{}/{total}] {file} {target} {:.1} s",
                done.len(),
                start.elapsed().as_secs_f64()
            );
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let (mut images, mut warnings, mut failed) = (Vec::new(), Messages::new(), Messages::new());
    for (job, image, log) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let messages = if image.is_some() { &mut warnings } else { &mut failed };
        if image.is_none() || !log.is_empty() {
            messages.entry((job.file, log)).or_default().push(job.target);
        }
        images.extend(image);
    }
    lines(warnings).iter().for_each(|line| println!("{line}"));
    Ok((images, lines(failed)))
}

/// What the compiler says, by file and text, and for which targets: a fault of the source is one of all of them.
type Messages = BTreeMap<(String, String), Vec<String>>;

fn lines(messages: Messages) -> Vec<String> {
    let line = |((file, text), targets): (_, Vec<String>)| {
        format!("{file}.cu for {}:\n{text}", targets.join(", "))
    };
    messages.into_iter().map(line).collect()
}

/// A running `nvrtc.py`.
struct Compiler<'a> {
    process: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
    sources: &'a Sources,
    folder: &'a Path,
    flags: Vec<String>,
}

impl<'a> Compiler<'a> {
    fn start(
        toolchain: &Toolchain,
        sources: &'a Sources,
        folder: &'a Path,
    ) -> Result<Compiler<'a>> {
        let mut command = toolchain.compiler();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            command.spawn().context("cannot run python3, which loads the compiler")?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (jobs, answers) = pipes.context("no pipes to python3")?;
        let includes = toolchain.includes();
        let includes =
            includes.iter().chain([&sources.folder]).map(|path| format!("-I{}", path.display()));
        let flags = FLAGS.iter().map(|flag| (*flag).to_owned()).chain(includes).collect();
        let mut compiler =
            Compiler { process, jobs, answers: BufReader::new(answers), sources, folder, flags };
        let found = compiler.answer()?;
        let version = found["version"].as_str().unwrap_or_default();
        if !toolchain.name.contains(version) {
            bail!("the package is {}, the library in it says {version}", toolchain.name);
        }
        Ok(compiler)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the compiler ended with {}", self.process.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("the compiler says {line}"))
    }

    /// The image, if the source has no fault, and what the compiler says beside its report.
    fn compile(&mut self, job: &Job) -> Result<(Option<Image>, String)> {
        let output = self.folder.join(job.path());
        let architecture = format!("--gpu-architecture={}", job.target);
        let options: Vec<&String> = self.flags.iter().chain([&architecture]).collect();
        let source = self.sources.folder.join(format!("{}.cu", job.file));
        let request =
            json!({ "source": source, "options": options, "ptx": job.is_ptx(), "output": output });
        writeln!(self.jobs, "{request}").context("the compiler takes no more jobs")?;
        let answer = self.answer()?;
        let log = answer["log"].as_str().unwrap_or_default();
        if answer["ok"] != true {
            return Ok((None, log.to_owned()));
        }
        let bytes = fs::read(&output).with_context(|| output.display().to_string())?;
        let (kernels, warnings) = resources::parse(log);
        let packed = miniz_oxide::deflate::compress_to_vec(&bytes, DEFLATE_LEVEL);
        let image = Image {
            file: job.file.clone(),
            target: job.target.clone(),
            path: job.path(),
            sha256: hash(&bytes),
            bytes: bytes.len() as u64,
            packed_sha256: hash(&packed),
            packed_bytes: packed.len() as u64,
            key: job.key.clone(),
            kernels,
        };
        fs::write(self.folder.join(image.packed_path()), packed).context("the deflated image")?;
        image.write(self.folder)?;
        Ok((Some(image), warnings))
    }

    fn stop(mut self) -> Result<()> {
        drop(self.jobs);
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { bail!("the compiler ended with {status}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_its_file_and_target() {
        let job =
            |target: &str| Job { file: "gemv".into(), target: target.into(), key: String::new() };
        assert_eq!(job("sm_90a").path(), "gemv.sm_90a.cubin");
        assert_eq!(job("compute_80").path(), "gemv.compute_80.ptx");
    }
}
