//! Pictures to words: made upright and clear, read by Tesseract as a process of its own, and put back where they stood.

mod raster;
mod skew;
mod rules;
mod tesseract;

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::raster::Placement;
pub(crate) use self::raster::Raster;
use self::tesseract::Line;
pub(crate) use self::tesseract::Tesseract;
use crate::document::{Block, Rect, Word};
use crate::layout::{self, PlacedWord, Sheet};
use crate::{ErrorKind, Limits};

/// Resolution that Tesseract was trained for.
pub(crate) const DPI: f32 = 300.0;
/// A page read this well is upright; others are tried in the other three directions too.
const CONFIDENCE_UPRIGHT: f32 = 0.65;
/// Of so few words confidence says nothing.
const WORDS_SURE: usize = 5;
/// Lines whose size is this close to most of the text have that size: heights of words are measured on a grid.
const SIZE_SNAP: f32 = 0.2;

/// A page's picture to read.
pub(crate) struct Scan {
    pub(crate) number: usize,
    pub(crate) raster: Raster,
    /// The page's size in points, which the whole picture fills.
    pub(crate) width: f32,
    pub(crate) height: f32,
}

/// What was read, in reading order.
pub(crate) struct Recognized {
    pub(crate) number: usize,
    pub(crate) words: Vec<Word>,
    pub(crate) blocks: Vec<Block>,
}

/// Reads the scans that `next` makes, on all cores; `done` is told how many are, by and by. A page's order is not kept.
pub(crate) fn recognize_all(
    engine: &Tesseract,
    limits: &Limits,
    next: &mut dyn FnMut() -> Result<Option<Scan>, ErrorKind>,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Recognized>, ErrorKind> {
    let deadline = Instant::now() + Duration::from_secs(limits.seconds_max);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (scans, waiting) = sync_channel::<Scan>(1);
    let waiting = Mutex::new(waiting);
    let (results, ready) = sync_channel(cores);
    thread::scope(|scope| {
        for _ in 0..cores {
            let (waiting, results) = (&waiting, results.clone());
            scope.spawn(move || {
                loop {
                    let scan = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(scan) = scan else { break };
                    if results.send(recognize(engine, scan, deadline)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let mut out = Vec::new();
        let mut take = |result: Result<Recognized, ErrorKind>| {
            out.push(result?);
            done(out.len());
            Ok::<(), ErrorKind>(())
        };
        while let Some(scan) = next()? {
            // A full queue is a reason to look for results, so that neither side waits for the other.
            let mut scan = Some(scan);
            while let Some(waits) = scan.take() {
                match scans.try_send(waits) {
                    Ok(()) => {}
                    Err(std::sync::mpsc::TrySendError::Full(back)) => {
                        scan = Some(back);
                        match ready.recv_timeout(Duration::from_millis(20)) {
                            Ok(result) => take(result)?,
                            Err(_) => continue,
                        }
                    }
                    Err(std::sync::mpsc::TrySendError::Disconnected(_)) => {
                        return Err(ErrorKind::Ocr("its threads have ended".into()));
                    }
                }
            }
        }
        drop(scans);
        for result in ready {
            take(result)?;
        }
        Ok(out)
    })
}

fn recognize(engine: &Tesseract, scan: Scan, deadline: Instant) -> Result<Recognized, ErrorKind> {
    let (width, height) = (scan.raster.width as f32, scan.raster.height as f32);
    let (clear, placement) = scan.raster.cleared();
    let sideways = skew::is_sideways(&clear);
    let first = if sideways { [1, 3, 0, 2] } else { [0, 2, 1, 3] };
    let mut best: Option<(f32, Vec<Line>, Placement, Raster)> = None;
    for turn in first {
        let (raster, placement) = upright(&clear, &placement, turn);
        let lines = engine.read(&raster, deadline)?;
        let (confidence, words) = confidence(&lines);
        let score = confidence * words as f32;
        if best.as_ref().is_none_or(|(least, ..)| score > *least) {
            best = Some((score, lines, placement, raster));
        }
        if confidence >= CONFIDENCE_UPRIGHT && words >= WORDS_SURE {
            break;
        }
    }
    let Some((_, lines, placement, raster)) = best else {
        return Ok(Recognized { number: scan.number, words: Vec::new(), blocks: Vec::new() });
    };
    // Laid out as the text stands, in points; then every place is put back onto the page.
    let points = 72.0 / DPI;
    let sheet = Sheet {
        words: placed(lines, points),
        rules: rules::rules(&raster, points),
        width: placement.width as f32 * points,
        height: placement.height as f32 * points,
    };
    let (mut words, mut blocks) = layout::arrange(sheet);
    let (to_x, to_y) = (scan.width / width, scan.height / height);
    let back = |rect: Rect| placement.back(rect, 1.0 / points, to_x, to_y);
    for word in &mut words {
        word.bbox = word.bbox.map(back);
    }
    for block in &mut blocks {
        if let Block::Table(table) = block {
            table.bbox = table.bbox.map(back);
        }
    }
    Ok(Recognized { number: scan.number, words, blocks })
}

/// The picture turned by quarters, then by what its lines still lean.
fn upright(raster: &Raster, placement: &Placement, turn: u8) -> (Raster, Placement) {
    let turned = raster.turned(turn);
    let placement = placement.turned(turn, &turned);
    let angle = skew::angle(&turned);
    if angle.abs() < skew::ANGLE_MIN {
        return (turned, placement);
    }
    let level = turned.rotated(-angle);
    let placement = placement.rotated(angle);
    (level, placement)
}

/// Mean of the words' confidence, weighted by their letters, and how many there are.
fn confidence(lines: &[Line]) -> (f32, usize) {
    let words = lines.iter().flat_map(|line| &line.words);
    let (mut sum, mut letters, mut count) = (0.0, 0.0, 0);
    for word in words {
        let length = word.text.chars().filter(|c| c.is_alphanumeric()).count() as f32;
        sum += word.confidence * length;
        letters += length;
        count += 1;
    }
    (if letters > 0.0 { sum / letters } else { 0.0 }, count)
}

/// Words in points, with the sizes of their lines.
fn placed(lines: Vec<Line>, points: f32) -> Vec<PlacedWord> {
    let mut sizes: Vec<f32> =
        lines.iter().flat_map(|line| vec![line.size(); line.words.len()]).collect();
    sizes.sort_by(f32::total_cmp);
    let body = sizes.get(sizes.len() / 2).copied().unwrap_or(1.0);
    let mut out = Vec::new();
    for line in lines {
        let own = line.size();
        let size = if (own / body - 1.0).abs() < SIZE_SNAP { body } else { own } * points;
        let baseline = line.baseline() * points;
        out.extend(line.words.into_iter().map(|word| PlacedWord {
            text: word.text,
            bbox: Rect {
                x0: word.bbox.x0 * points,
                y0: word.bbox.y0 * points,
                x1: word.bbox.x1 * points,
                y1: word.bbox.y1 * points,
            },
            baseline,
            size,
            bold: false,
            turn: 0,
            confidence: Some(word.confidence),
        }));
    }
    out
}
