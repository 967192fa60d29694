//! Bars of a benchmark, as SVG.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const PHASES: [&str; 2] = ["prefill", "decode"];
/// Keys of the report, what people call them, and their colours.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("int8", "halfbyte int8", "#2a6f97"),
    ("f32", "halfbyte f32", "#89c2d9"),
    ("llama_cpp", "llama.cpp", "#bc6c25"),
];

/// Width, height and place of the panels, in pixels.
const WIDTH: f64 = 640.0;
const PANEL_HEIGHT: f64 = 130.0;
const LEFT: f64 = 110.0;
const BAR: f64 = 24.0;

/// A rate over several rounds, in tokens a second.
#[derive(Debug, PartialEq)]
struct Rate {
    median: f64,
    min: f64,
    max: f64,
}

/// Draws what `bench/cpu_vs_llama_cpp.py` printed: a panel a phase, a bar a program, its range as a line.
pub(crate) fn plot(input: &Path, output: &Path) -> Result<()> {
    let text =
        fs::read_to_string(input).with_context(|| format!("cannot read {}", input.display()))?;
    let report: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", input.display()))?;
    let svg = draw(&report)
        .with_context(|| format!("{} is no report of the benchmark", input.display()))?;
    fs::write(output, svg).with_context(|| format!("cannot write {}", output.display()))
}

fn draw(report: &Value) -> Result<String> {
    let height = 30.0 + PHASES.len() as f64 * PANEL_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let title = format!(
        "{}, {} threads: tokens a second, median and range",
        report["shape"].as_str().context("`shape` is missing")?,
        report["threads"].as_u64().context("`threads` is missing")?
    );
    text(&mut svg, 10.0, 20.0, &title);
    for (index, phase) in PHASES.into_iter().enumerate() {
        panel(&mut svg, 36.0 + index as f64 * PANEL_HEIGHT, phase, report)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(svg: &mut String, top: f64, phase: &str, report: &Value) -> Result<()> {
    let rates = PROGRAMS.map(|(program, _, _)| rate(report, program, phase));
    let largest = rates.iter().flatten().map(|rate| rate.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - 90.0) / largest;
    text(svg, 10.0, top + 12.0, phase);
    for (index, (rate, (_, name, colour))) in rates.into_iter().zip(PROGRAMS).enumerate() {
        let rate = rate?;
        let y = top + 20.0 + index as f64 * (BAR + 6.0);
        let middle = y + BAR / 2.0;
        let (low, high) = (LEFT + rate.min * scale, LEFT + rate.max * scale);
        text(svg, 10.0, middle + 4.0, name);
        writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
             <path d=\"M{low:.1} {middle}H{high:.1}\" stroke=\"#000\" stroke-width=\"2\"/>",
            rate.median * scale
        )?;
        text(svg, high + 8.0, middle + 4.0, &format!("{:.1}", rate.median));
    }
    Ok(())
}

fn rate(report: &Value, program: &str, phase: &str) -> Result<Rate> {
    let rate = &report["tokens_per_second"][program][phase];
    let number = |key: &str| {
        let number = rate[key].as_f64().filter(|number| *number >= 0.0);
        number.with_context(|| format!("`tokens_per_second.{program}.{phase}.{key}` is no rate"))
    };
    Ok(Rate { median: number("median")?, min: number("min")?, max: number("max")? })
}

fn text(svg: &mut String, x: f64, y: f64, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    svg.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::draw;

    #[test]
    fn a_bar_is_as_long_as_its_median() {
        let rates = |median: f64| json!({ "median": median, "min": median, "max": 100.0 });
        let phases = |median| json!({ "prefill": rates(median), "decode": rates(median) });
        let report = json!({
            "shape": "a<b", "threads": 2,
            "tokens_per_second": { "int8": phases(100.0), "f32": phases(25.0), "llama_cpp": phases(50.0) },
        });
        let svg = draw(&report).unwrap();
        assert_eq!(svg.matches("width=\"440.0\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("width=\"220.0\"").count(), 2, "{svg}");
        assert!(svg.contains("a&lt;b, 2 threads"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = draw(&json!({ "shape": "a", "threads": 2 })).unwrap_err().to_string();
        assert!(error.contains("tokens_per_second.int8.prefill.median"), "{error}");
    }
}
