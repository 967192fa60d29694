//! The image's root filesystem, made by the script that the Dockerfile runs, and run under chroot: no container engine is needed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::peers;
use crate::shell::{output, run, works};

/// Bytes of all files of the image without Tesseract.
const BYTES_MAX: u64 = 100_000_000;

/// What is read in it: a PDF with text, and a picture of a receipt; and a word of each.
const TEXT: (&str, &str) = ("fixtures/documents/samples/invoice-ruled-typst.pdf", "Industrieweg");
const PICTURE: (&str, &str) = ("fixtures/documents/samples/receipt-100.png", "Harbour");

/// Time for the server to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The binary; otherwise one is built.
    pub(crate) binary: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        match arguments {
            [] => Ok(Options::default()),
            ["--binary", binary] => Ok(Options { binary: Some(binary.into()) }),
            other => {
                bail!("`{}` is no option of image; `cargo xtask help` lists them", other.join(" "))
            }
        }
    }
}

/// Makes both root filesystems, prints what is in them, and runs them.
pub(crate) fn image(root: &Path, options: &Options) -> Result<()> {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !Path::new("/etc/debian_version").exists() {
        println!(
            "left out: the image's root filesystem; `cargo xtask image` as root on Debian 12 or later adds it"
        );
        return Ok(());
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => peers::build(root)?,
    };
    let plain = Rootfs::make(root, &binary, "rootfs", false)?;
    let bytes = plain.bytes()?;
    ensure!(bytes < BYTES_MAX, "the image takes {bytes} bytes, {BYTES_MAX} or more");
    plain.check(root)?;
    if !works(Command::new("tesseract").arg("--version")) {
        println!("left out: the image with Tesseract; `apt-get install tesseract-ocr` adds it");
        return Ok(());
    }
    Rootfs::make(root, &binary, "rootfs-ocr", true)?.check(root)
}

struct Rootfs {
    folder: PathBuf,
    ocr: bool,
}

impl Rootfs {
    fn make(root: &Path, binary: &Path, name: &str, ocr: bool) -> Result<Rootfs> {
        let folder = root.join("target/image").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir_all(root.join("target/image"))?;
        let mut script = Command::new("deploy/rootfs.sh");
        script.arg(binary).arg(&folder);
        if ocr {
            script.arg("--ocr");
        }
        run(&mut script)?;
        Ok(Rootfs { folder, ocr })
    }

    /// Bytes of all files.
    fn bytes(&self) -> Result<u64> {
        let sizes =
            output(Command::new("find").arg(&self.folder).args(["-type", "f", "-printf", "%s\n"]))?;
        sizes.lines().map(|size| Ok(size.parse::<u64>()?)).sum()
    }

    /// `halfbyte` as the image's user, with nothing to write to but `/tmp`.
    fn halfbyte(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("deploy/run.sh");
        command.arg(&self.folder).arg("/usr/bin/halfbyte").args(arguments);
        command
    }

    /// Everything that the image is for, on this machine's CPU.
    fn check(&self, root: &Path) -> Result<()> {
        print!("{}", output(&mut self.halfbyte(&["--version"]))?);
        let facts = self.halfbyte(&["doctor", "--json"]).stderr(Stdio::inherit()).output()?;
        // Findings are this machine's; what counts is that it looks.
        ensure!([Some(0), Some(5)].contains(&facts.status.code()), "doctor: {}", facts.status);
        let facts: Value =
            serde_json::from_slice(&facts.stdout).context("doctor prints no JSON")?;
        ensure!(facts.get("findings").is_some(), "doctor names no findings: {facts}");
        // Documents are read by processes of their own, which find the program by /proc.
        if works(Command::new("unshare").args(["--mount", "true"])) {
            self.reads(root, TEXT)?;
            if self.ocr {
                self.reads(root, PICTURE)?;
            }
        } else {
            println!("left out: documents; a machine that allows root to mount adds them");
        }
        let outside = ["extract", "/models/document", "-o", "/usr/share"];
        ensure!(!works(&mut self.halfbyte(&outside)), "the image's user can write to /usr/share");
        self.serves()
    }

    /// `extract` of a document finds this word in it.
    fn reads(&self, root: &Path, (document, word): (&'static str, &str)) -> Result<()> {
        let ending = Path::new(document).extension().unwrap_or_default().to_string_lossy();
        let name = format!("models/document.{ending}");
        fs::copy(root.join(document), self.folder.join(&name)).context(document)?;
        let text = output(&mut self.halfbyte(&["extract", &format!("/{name}")]));
        fs::remove_file(self.folder.join(&name))?;
        ensure!(text?.contains(word), "{document}: `{word}` was not found in it");
        println!("read {document}");
        Ok(())
    }

    /// A server gets ready, answers a chat, and ends at SIGTERM with code 0.
    fn serves(&self) -> Result<()> {
        let start = Instant::now();
        let mut server = Server::start(self)?;
        while !ask(&server.address, "GET /ready", "")?.starts_with("HTTP/1.1 200") {
            ensure!(start.elapsed() < PATIENCE, "the server does not get ready");
            thread::sleep(Duration::from_millis(20));
        }
        let ready = start.elapsed();
        let body =
            r#"{"model":"demo","max_tokens":8,"messages":[{"role":"user","content":"Invoice 7"}]}"#;
        let answer = ask(&server.address, "POST /v1/chat/completions", body)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        ensure!(answer.contains("\"completion_tokens\""), "{answer}");
        server.end()?;
        println!("served: ready after {} ms, answered, ended by SIGTERM", ready.as_millis());
        Ok(())
    }
}

/// `serve demo` in the root filesystem, on a free port of this machine.
struct Server {
    child: Child,
    address: String,
    /// It says more on it, and ends if nobody can hear.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(rootfs: &Rootfs) -> Result<Server> {
        let arguments =
            ["serve", "demo", "--port", "0", "--json", "--device", "cpu", "--context", "1024"];
        // Every program on the way replaces itself by the next, so the child is the server.
        let mut child = rootfs.halfbyte(&arguments).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("the server has no output")?);
        stdout.read_line(&mut line)?;
        let mut server = Server { child, address: String::new(), _stdout: stdout };
        let said: Value =
            serde_json::from_str(&line).with_context(|| format!("serve says {line:?}"))?;
        let url = said["url"].as_str().context("serve names no URL")?;
        server.address = url.trim_start_matches("http://").to_owned();
        Ok(server)
    }

    fn end(&mut self) -> Result<()> {
        run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) => {
                    ensure!(status.success(), "the server ended with {status}");
                    return Ok(());
                }
                None if start.elapsed() > PATIENCE => bail!("the server does not end at SIGTERM"),
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a check that failed leaves it running; one that has ended cannot be killed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer.
fn ask(address: &str, what: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
