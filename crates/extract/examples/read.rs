//! Reads documents and prints what came out: `read [--text|--markdown|--json|--speed] FILE...`.
//!
//! `--json` prints a line per file; `--speed` reads every file five times and prints pages per second of this one thread.

use std::time::Instant;

use halfbyte_extract::{Input, Limits, read};

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let form = arguments.next_if(|first| first.starts_with("--")).unwrap_or("--text".into());
    let limits = Limits { bytes_max: usize::MAX, pages_max: usize::MAX, ..Limits::default() };
    let (mut pages, start) = (0, Instant::now());
    for name in arguments {
        let bytes = std::fs::read(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let input = Input { bytes: &bytes, name: &name, mime: None };
        let repeat = if form == "--speed" { 5 } else { 1 };
        for _ in 0..repeat {
            match (read(input, &limits, &mut |_| ()), form.as_str()) {
                (Ok(document), "--speed") => pages += document.pages.len(),
                (Ok(document), "--json") => {
                    println!("{}", serde_json::json!({"name": name, "document": document}));
                }
                (Ok(document), "--markdown") => print!("{}", document.markdown()),
                (Ok(document), _) => print!("{}", document.text()),
                (Err(error), "--json") => {
                    println!("{}", serde_json::json!({"name": name, "error": error.to_string()}));
                }
                (Err(error), _) => eprintln!("error: {error}"),
            }
        }
    }
    if form == "--speed" {
        let seconds = start.elapsed().as_secs_f64();
        println!("{pages} pages, {seconds:.3} s, {:.0} pages/s", pages as f64 / seconds);
    }
}
