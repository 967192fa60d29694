//! Tesseract, found at run time: the program that `HALFBYTE_TESSERACT` names, else `tesseract` on the path.

use std::env;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::raster::Raster;
use crate::ErrorKind;
use crate::document::Rect;

/// More output than a page can have.
const OUTPUT_MAX: u64 = 64 << 20;
/// Letters that reach below the baseline.
const DESCENDERS: &str = "gjpqy,;()[]{}Q|/ç";
/// Letters that end at the height of an x.
const LOW: &str = "acemnorsuvwxz.:-~_";
/// A word below this confidence without letters or digits is dirt.
const DIRT_CONFIDENCE: f32 = 0.4;

/// The engine.
#[derive(Debug, Clone)]
pub(crate) struct Tesseract {
    program: OsString,
    languages: String,
}

/// A line of text, in pixels.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) bbox: Rect,
    pub(super) words: Vec<OcrWord>,
}

#[derive(Debug)]
pub(super) struct OcrWord {
    pub(super) text: String,
    pub(super) bbox: Rect,
    /// From 0 to 1.
    pub(super) confidence: f32,
}

impl Line {
    /// Size of the font, from what each word's letters must measure of it; the middle of all words.
    pub(super) fn size(&self) -> f32 {
        let size = |word: &OcrWord| {
            let below = word.text.contains(|c| DESCENDERS.contains(c));
            let low = word.text.chars().all(|c| LOW.contains(c) || DESCENDERS.contains(c));
            let share = match (low, below) {
                (false, false) => 0.72,
                (false, true) => 0.93,
                (true, false) => 0.53,
                (true, true) => 0.74,
            };
            word.bbox.height() / share
        };
        let mut sizes: Vec<f32> = self.words.iter().map(size).collect();
        sizes.sort_by(f32::total_cmp);
        sizes.get(sizes.len() / 2).copied().unwrap_or(1.0).max(1.0)
    }

    /// Where the words stand that do not reach below it.
    pub(super) fn baseline(&self) -> f32 {
        let above =
            self.words.iter().filter(|word| !word.text.contains(|c| DESCENDERS.contains(c)));
        let mut bottoms: Vec<f32> = above.map(|word| word.bbox.y1).collect();
        bottoms.sort_by(f32::total_cmp);
        let middle = bottoms.get(bottoms.len() / 2).copied();
        middle.unwrap_or(self.bbox.y1 - 0.2 * self.size())
    }
}

impl Tesseract {
    /// The engine, if there is one. Asked once.
    pub(crate) fn find() -> Option<&'static Tesseract> {
        static FOUND: OnceLock<Option<Tesseract>> = OnceLock::new();
        FOUND.get_or_init(Tesseract::look).as_ref()
    }

    fn look() -> Option<Tesseract> {
        let program = env::var_os("HALFBYTE_TESSERACT").unwrap_or_else(|| "tesseract".into());
        let listed = Command::new(&program)
            .arg("--list-langs")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut installed =
            listed.lines().skip(1).map(str::trim).filter(|name| !name.is_empty() && *name != "osd");
        let languages = match env::var("HALFBYTE_TESSERACT_LANGUAGES") {
            Ok(languages) => languages,
            Err(_) if installed.clone().any(|name| name == "eng") => "eng".into(),
            Err(_) => installed.next()?.to_owned(),
        };
        Some(Tesseract { program, languages })
    }

    /// The lines of an upright picture.
    pub(super) fn read(&self, raster: &Raster, deadline: Instant) -> Result<Vec<Line>, ErrorKind> {
        let mut child = Command::new(&self.program)
            .args(["stdin", "stdout", "-l", &self.languages, "--psm", "3", "--dpi", "300", "tsv"])
            // A process for each page; threads within one gain little and take the other pages' cores.
            .env("OMP_THREAD_LIMIT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(&format!("cannot be started: {error}")))?;
        let output = talk(&mut child, raster, deadline);
        let status = child.wait();
        match output {
            None => Err(self.failed("took too long for a page and was stopped")),
            Some((tsv, errors)) => match status {
                Ok(status) if status.success() => Ok(lines(&tsv)),
                Ok(status) => Err(self.failed(&format!("{status}: {}", last_line(&errors)))),
                Err(error) => Err(self.failed(&error.to_string())),
            },
        }
    }

    fn failed(&self, what: &str) -> ErrorKind {
        let program = self.program.to_string_lossy();
        ErrorKind::Ocr(format!("{program} (languages {}): {what}", self.languages))
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

/// Gives the process its picture and takes what it writes; `None` if time is up, and then it has been killed.
fn talk(child: &mut Child, raster: &Raster, deadline: Instant) -> Option<(String, String)> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Some(Default::default());
    };
    let all = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        // What a process that breaks off has said is worth as much as the error.
        let _ = from.take(OUTPUT_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (ended, wait) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A process that has enough closes its end, and says why on the other.
            let _ = raster.write_pgm(&mut stdin).and_then(|()| stdin.flush());
        });
        let errors = scope.spawn(move || all(&mut { stderr }));
        let output = scope.spawn(move || {
            let text = all(&mut { stdout });
            let _ = ended.send(());
            text
        });
        let left = deadline.saturating_duration_since(Instant::now());
        let late = wait.recv_timeout(left.max(Duration::from_millis(1)));
        let late = matches!(late, Err(RecvTimeoutError::Timeout));
        if late {
            let _ = child.kill();
        }
        let texts = (output.join().ok()?, errors.join().ok()?);
        (!late).then_some(texts)
    })
}

/// Lines of Tesseract's TSV: level, page, block, paragraph, line, word, left, top, width, height, confidence, text.
fn lines(tsv: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in tsv.lines().skip(1) {
        let mut fields = row.split('\t');
        let mut number = || fields.next().and_then(|field| field.parse::<f32>().ok());
        let numbers: [Option<f32>; 11] = std::array::from_fn(|_| number());
        let [
            Some(level),
            _,
            _,
            _,
            _,
            _,
            Some(x),
            Some(y),
            Some(width),
            Some(height),
            Some(confidence),
        ] = numbers
        else {
            continue;
        };
        let bbox = Rect { x0: x, y0: y, x1: x + width, y1: y + height };
        if level == 4.0 {
            lines.push(Line { bbox, words: Vec::new() });
            continue;
        }
        let text = fields.next().unwrap_or("").trim();
        let confidence = (confidence / 100.0).clamp(0.0, 1.0);
        let dirt = confidence < DIRT_CONFIDENCE && !text.contains(char::is_alphanumeric);
        if level == 5.0
            && !text.is_empty()
            && !dirt
            && let Some(line) = lines.last_mut()
        {
            let words = text.split_whitespace();
            line.words.extend(words.map(|text| OcrWord { text: text.into(), bbox, confidence }));
        }
    }
    lines.retain(|line| !line.words.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tsv_is_read_and_dirt_left_out() {
        let tsv = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n\
            1\t1\t0\t0\t0\t0\t0\t0\t600\t400\t-1\t\n\
            4\t1\t1\t1\t1\t0\t10\t20\t200\t40\t-1\t\n\
            5\t1\t1\t1\t1\t1\t10\t20\t80\t29\t96.5\tTotal\n\
            5\t1\t1\t1\t1\t2\t110\t24\t90\t36\t91\t12,50\n\
            5\t1\t1\t1\t1\t3\t210\t24\t4\t36\t12\t|\n\
            nonsense\n";
        let lines = lines(tsv);
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        let texts: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["Total", "12,50"]);
        assert_eq!(line.words[0].confidence, 0.965);
        assert_eq!(line.baseline(), 49.0);
        assert!((38.0..42.0).contains(&line.size()), "{}", line.size());
    }
}
