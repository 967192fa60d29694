//! `halfbyte extract FILE…`: documents to Markdown, text, JSON, CSV, and to fields that are found in them.

mod ask;
mod record;
mod reading;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::extract::checks::Rules;
use ::extract::fields::Fields;
use ::extract::{Document, Limits, Workers};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::args::{ByteSize, ContextArgs, DeviceArgs, LoadArgs, PlaceArgs, PrecisionArgs};
use crate::commands::prompt::read_file;
use crate::output::{self, CliError};
use crate::{build, embedded, interrupt, progress};
use ask::{Asker, Ended};
use record::{Done, Record};

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads PDF, PNG, JPEG, TIFF, WebP, BMP, DOCX, XLSX, XLS, ODS, CSV, PPTX, HTML, EML, text and Markdown, on this machine.

With --fields or --schema a model fills in the fields. Every value is looked up in the document: what stands there comes \
with its page and box, what stands nowhere is null and listed as `ungrounded`. The rules of --rules and those that are \
built in check sums, dates and identifiers; results stand in `checks`, and nothing is corrected.

With -o each FILE becomes DIR/FILE.md, .txt, .json or .csv; a second run does only what is new, changed or failed.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad input or model (also if any FILE cannot be read: the others are done, and \
those that failed are listed at the end), 4 does not fit or device unusable.")]
pub(crate) struct ExtractArgs {
    /// Documents
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Fields to fill in, as number,date:date,total:number (types: string, number, integer, boolean, date)
    #[arg(long, value_name = "NAMES", conflicts_with = "schema", value_delimiter = ',')]
    fields: Vec<String>,
    /// File of a JSON Schema, or of an example as {"total": "number"}, to fill in
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The model that fills in fields
    #[arg(long, value_name = "MODEL", default_value = embedded::NAME)]
    model: String,
    /// File of more rules for `checks`, in TOML; may be repeated
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// Form of the result [default: markdown; json with fields]
    #[arg(long, value_enum)]
    format: Option<FormatChoice>,
    /// Write a file for each document into this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print a JSON line for each document
    #[arg(long)]
    pub(crate) json: bool,
    /// Largest document
    #[arg(long, value_name = "BYTES", default_value = "25MB")]
    max_size: ByteSize,
    /// Most pages of a document
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_pages: u32,
    /// Most tokens of an answer with fields
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// A form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatChoice {
    /// Headings, lists and tables as Markdown
    Markdown,
    /// Text alone
    Text,
    /// Pages with their words, blocks and tables; fields, where they were found, and checks
    Json,
    /// Tables, an empty line between two
    Csv,
}

impl FormatChoice {
    fn ending(self) -> &'static str {
        match self {
            FormatChoice::Markdown => "md",
            FormatChoice::Text => "txt",
            FormatChoice::Json => "json",
            FormatChoice::Csv => "csv",
        }
    }
}

/// Extracts.
pub(crate) fn run(args: &ExtractArgs) -> Result<()> {
    let fields = wanted(args)?;
    let rules = rules(&args.rules)?;
    let format = match (args.format, &fields) {
        (None, None) => FormatChoice::Markdown,
        (None | Some(FormatChoice::Json), _) => FormatChoice::Json,
        (Some(format), None) => format,
        (Some(_), Some(_)) => {
            let message = "fields are JSON: leave --format out, or write --format json";
            return Err(CliError::usage(message).into());
        }
    };
    let outputs = outputs(args, format)?;
    let mut record = match &args.output {
        Some(folder) => {
            let created = fs::create_dir_all(folder);
            created
                .map_err(|source| CliError::Write { what: folder.display().to_string(), source })?;
            Some(Record::open(folder, &asked(args, fields.as_ref(), &rules, format))?)
        }
        None => None,
    };
    let limits = Limits {
        bytes_max: usize::try_from(args.max_size.0).unwrap_or(usize::MAX),
        pages_max: args.max_pages as usize,
        ..Limits::default()
    };
    let todo: Vec<usize> = (0..args.files.len())
        .filter(|at| {
            !record.as_ref().is_some_and(|record| record.is_done(&args.files[*at], &outputs[*at]))
        })
        .collect();
    let skipped = args.files.len() - todo.len();
    let mut asker = match &fields {
        // A model that nothing is asked of need not be loaded.
        Some(fields) if !todo.is_empty() => Some(Asker::open(args, fields)?),
        _ => None,
    };
    let mut run = Run { args, rules: &rules, format, asker: asker.as_mut(), failures: Vec::new() };
    let bar = progress::count("documents", args.files.len() as u64);
    bar.set_position(skipped as u64);
    interrupt::listen();
    let paths: Vec<&Path> = todo.iter().map(|at| args.files[*at].as_path()).collect();
    let mut seen = 0;
    reading::each(&paths, &limits, |at, read| {
        let (file, to) = (paths[at], outputs[todo[at]].as_deref());
        let result = run.one(file, to, read);
        if result.as_ref().is_err_and(|error| error.is::<Ended>()) {
            return Ok(false);
        }
        seen += 1;
        bar.inc(1);
        match result {
            Ok(done) => {
                if let Some(record) = &mut record {
                    record.add(done)?;
                }
                Ok(!interrupt::requested())
            }
            Err(error) => run.failed(file, error).map(|()| !interrupt::requested()),
        }
    })?;
    bar.finish_and_clear();
    let left = todo.len() - seen;
    interrupt::clear();
    if skipped > 0 {
        output::note(&format!("{skipped} of {} were done already", args.files.len()));
    }
    run.report(seen, left)
}

/// What is wanted of each document, if fields are.
fn wanted(args: &ExtractArgs) -> Result<Option<Fields>> {
    if let Some(file) = &args.schema {
        let text = read_file("schema", file)?;
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::bad_input("schema", format!("{}: {error}", file.display()))
        };
        let schema: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let example = grammar::example_to_schema(&schema).map_err(|error| wrong(&error))?;
        let fields =
            Fields::from_schema(example.unwrap_or(schema)).map_err(|error| wrong(&error))?;
        return Ok(Some(fields));
    }
    if args.fields.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = args.fields.iter().map(String::as_str).collect();
    let fields = Fields::from_names(&names);
    Ok(Some(fields.map_err(|error| CliError::usage(format!("--{error}")))?))
}

/// The rules that are built in, and those of files.
pub(crate) fn rules(files: &[PathBuf]) -> Result<Rules> {
    let mut rules = Rules::built_in().map_err(|error| CliError::Failed(error.to_string()))?;
    for file in files {
        let text = read_file("rules", file)?;
        rules = rules.and(&text).map_err(|error| {
            CliError::bad_input("rules", format!("{}: {error}", file.display()))
        })?;
    }
    Ok(rules)
}

/// A document, read with the limits that hold unasked.
pub(crate) fn document(file: &Path) -> Result<Document> {
    Ok(reading::read(&reading::workers(1)?, file, &Limits::default()).document?)
}

/// Up to `count` processes of this program that read documents.
pub(crate) fn workers(count: usize) -> Result<Workers> {
    reading::workers(count)
}

/// What such a process does: it reads until the one that asks has ended.
pub(crate) fn serve_reader() -> Result<()> {
    reading::serve()
}

/// Refuses a document of pictures alone that nobody could read: no text is no result.
pub(crate) fn require_text(file: &Path, document: &Document) -> Result<()> {
    let unread = document.pages_that_need_ocr().count();
    if unread == 0 || unread < document.pages.len() {
        return Ok(());
    }
    let message = format!(
        "{}: needs OCR: its pages are pictures, and no OCR engine was found; install tesseract-ocr",
        file.display()
    );
    Err(CliError::bad_input("file", message).into())
}

/// Everything that the results depend on, beside the documents.
fn asked(
    args: &ExtractArgs,
    fields: Option<&Fields>,
    rules: &Rules,
    format: FormatChoice,
) -> String {
    let model = fields.map(|_| (&args.model, args.max_tokens, args.context.context, &args.load));
    format!(
        "{} {format:?} {:?} {model:?} {rules:?} {}",
        build::name(),
        fields.map(Fields::schema),
        args.max_pages
    )
}

/// Where each result goes; nowhere without a folder.
fn outputs(args: &ExtractArgs, format: FormatChoice) -> Result<Vec<Option<PathBuf>>> {
    let Some(folder) = &args.output else { return Ok(vec![None; args.files.len()]) };
    let mut outputs = Vec::new();
    let mut taken: HashMap<PathBuf, &Path> = HashMap::new();
    for file in &args.files {
        let Some(name) = file.file_name() else {
            let message = format!("{} names no file", file.display());
            return Err(CliError::usage(message).into());
        };
        let mut name = name.to_os_string();
        name.push(format!(".{}", format.ending()));
        let to = folder.join(name);
        if let Some(other) = taken.insert(to.clone(), file) {
            let message = format!(
                "{} and {} would both become {}; give them in two runs, with a folder each",
                other.display(),
                file.display(),
                to.display()
            );
            return Err(CliError::usage(message).into());
        }
        outputs.push(Some(to));
    }
    Ok(outputs)
}

/// What goes on for all documents.
struct Run<'a> {
    args: &'a ExtractArgs,
    rules: &'a Rules,
    format: FormatChoice,
    asker: Option<&'a mut Asker>,
    /// Documents that failed, and why.
    failures: Vec<(PathBuf, String)>,
}

impl Run<'_> {
    /// What becomes of a document that was read.
    fn one(&mut self, file: &Path, to: Option<&Path>, read: reading::Read) -> Result<Done> {
        let start = Instant::now();
        let reading::Read { document, sha256, seconds } = read;
        let document = document?;
        require_text(file, &document)?;
        let unread: Vec<usize> = document.pages_that_need_ocr().collect();
        let asked =
            self.asker.as_mut().map(|asker| asker.ask(&document, self.rules)).transpose()?;
        let text = self.rendered(file, &document, asked.as_ref());
        match to {
            Some(to) => write(to, &text)?,
            None if !self.args.json => output::print(&text)?,
            None => {}
        }
        for page in &unread {
            output::note(&format!("{}: page {page} needs OCR and was not read", file.display()));
        }
        for warning in &document.warnings {
            output::note(&format!("{}: {}", file.display(), warning.message));
        }
        if self.args.json {
            let words: usize = document.pages.iter().map(|page| page.words.len()).sum();
            let mut line = json!({
                "file": file.display().to_string(),
                "status": "done",
                "format": document.format,
                "pages": document.pages.len(),
                "words": words,
                "pages_that_need_ocr": unread,
                "warnings": document.warnings,
                "output": to.map(|to| to.display().to_string()),
                "seconds": seconds + start.elapsed().as_secs_f64(),
            });
            match (&asked, to, self.format) {
                (Some(asked), ..) => merge(&mut line, asked.clone()),
                (None, None, FormatChoice::Json) => line["document"] = whole(&document),
                (None, None, _) => line["text"] = text.into(),
                (None, Some(_), _) => {}
            }
            output::print_json(&line)?;
        }
        Ok(Done { file: file.to_owned(), sha256 })
    }

    fn rendered(&self, file: &Path, document: &Document, asked: Option<&Value>) -> String {
        match (self.format, asked) {
            (FormatChoice::Markdown, _) => document.markdown(),
            (FormatChoice::Text, _) => document.text(),
            (FormatChoice::Csv, _) => {
                document.tables().map(|(_, table)| table.csv()).collect::<Vec<_>>().join("\r\n")
            }
            (FormatChoice::Json, asked) => {
                let mut report = json!({ "file": file.display().to_string() });
                match asked {
                    Some(asked) => merge(&mut report, asked.clone()),
                    None => merge(&mut report, whole(document)),
                }
                report["build"] = build::name().into();
                format!("{report:#}\n")
            }
        }
    }

    /// Notes a document that could not be done. An error that no other document will escape ends the run.
    fn failed(&mut self, file: &Path, error: anyhow::Error) -> Result<()> {
        let is_its_own = error.is::<::extract::ExtractError>()
            || matches!(
                error.downcast_ref(),
                Some(CliError::BadInput { .. } | CliError::Failed(_))
            );
        if !is_its_own {
            return Err(error);
        }
        let message = error.to_string();
        if self.args.json {
            output::print_json(&json!({
                "file": file.display().to_string(), "status": "failed", "error": { "message": message },
            }))?;
        }
        self.failures.push((file.to_owned(), message));
        Ok(())
    }

    fn report(&self, seen: usize, left: usize) -> Result<()> {
        for (file, message) in &self.failures {
            let name = file.display().to_string();
            let named = if message.starts_with(&name) {
                message.clone()
            } else {
                format!("{name}: {message}")
            };
            output::note(&format!("failed: {named}"));
        }
        if left > 0 {
            let message =
                format!("ended by Ctrl-C; {left} documents were not read: run it again to go on");
            return Err(CliError::Failed(message).into());
        }
        match self.failures.len() {
            0 => Ok(()),
            count => {
                let message = format!("{count} of {seen} documents could not be done");
                Err(CliError::bad_input("file", message).into())
            }
        }
    }
}

/// A document with its tables as they are printed.
fn whole(document: &Document) -> Value {
    let mut value = json!(document);
    let tables =
        document.tables().map(|(page, table)| json!({ "page": page, "rows": table.json() }));
    value["tables"] = tables.collect();
    value
}

fn merge(into: &mut Value, other: Value) {
    if let (Value::Object(into), Value::Object(other)) = (into, other) {
        into.extend(other);
    }
}

/// Writes a result under its name once it is whole.
fn write(to: &Path, text: &str) -> Result<(), CliError> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, to));
    written.map_err(|source| CliError::Write { what: to.display().to_string(), source })
}
