//! A document as Markdown, text, CSV and JSON: pure functions of it.

use serde_json::{Value, json};

use crate::{Block, Cell, Document, Page, PageSource, Table};

impl Document {
    /// As Markdown, pages divided by a rule. A page that could not be read says so in a comment.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.pages.iter().map(Page::markdown).collect::<Vec<_>>().join("\n---\n\n")
    }

    /// As text: blocks divided by an empty line, cells by tabs, pages by a form feed.
    #[must_use]
    pub fn text(&self) -> String {
        self.pages.iter().map(Page::text).collect::<Vec<_>>().join("\u{c}")
    }
}

impl Page {
    /// The page as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        if let Some(label) = &self.label {
            out += &format!("<!-- {} -->\n\n", label.replace("--", "- -"));
        }
        if self.source == PageSource::NeedsOcr {
            out += &format!(
                "<!-- page {} is a picture and was not read: it needs OCR -->\n",
                self.number
            );
        }
        let mut previous: Option<&Block> = None;
        for block in &self.blocks {
            let list = |block: &Block| matches!(block, Block::ListItem { .. });
            if previous.is_some_and(|previous| !(list(previous) && list(block))) {
                out.push('\n');
            }
            out += &block_markdown(block);
            previous = Some(block);
        }
        out
    }

    /// The page as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            match block {
                Block::ListItem { number, passage, .. } => {
                    out += &number.map_or("- ".into(), |number| format!("{number}. "));
                    out += &passage.text;
                    out.push('\n');
                }
                Block::Heading { passage, .. } | Block::Paragraph { passage } => {
                    out += &passage.text;
                    out.push('\n');
                }
                Block::Table(table) => {
                    for row in &table.rows {
                        let cells: Vec<String> = row.iter().map(one_line).collect();
                        out += cells.join("\t").trim_end();
                        out.push('\n');
                    }
                }
            }
        }
        out
    }
}

fn block_markdown(block: &Block) -> String {
    match block {
        Block::Heading { level, passage } => {
            format!("{} {}\n", "#".repeat(usize::from(*level)), passage.text.replace('\n', " "))
        }
        Block::Paragraph { passage } => {
            let lines: Vec<String> = passage.text.lines().map(escape_line).collect();
            lines.join("\n") + "\n"
        }
        Block::ListItem { depth, number, passage } => {
            let indent = "  ".repeat(usize::from(*depth));
            let text = passage.text.replace('\n', &format!("\n{indent}  "));
            match number {
                Some(number) => format!("{indent}{number}. {text}\n"),
                None => format!("{indent}- {text}\n"),
            }
        }
        Block::Table(table) => table.markdown(),
    }
}

/// A line of a paragraph that would be read as a heading, a list, a table, a quotation or a rule is kept from it.
fn escape_line(line: &str) -> String {
    let number = line.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0);
    if let Some(at) = number
        && matches!(line.as_bytes()[at], b'.' | b')')
        && line[at + 1..].starts_with(' ')
    {
        return format!("{}\\{}", &line[..at], &line[at..]);
    }
    let marked = ["# ", "## ", "### ", "#### ", "##### ", "###### ", "- ", "* ", "+ ", "> ", "|"];
    let rule = |mark: char| line.len() > 2 && line.chars().all(|c| c == mark);
    let fence = line.starts_with("```") || line.starts_with("~~~");
    if fence || marked.iter().any(|mark| line.starts_with(mark)) || "-*_=".chars().any(rule) {
        return format!("\\{line}");
    }
    line.to_owned()
}

fn one_line(cell: &Cell) -> String {
    cell.passage.text.replace(['\n', '\t'], " ")
}

impl Table {
    /// As a table of Markdown, which has one row of headings: the table's own, joined if there are several, else empty ones.
    #[must_use]
    pub fn markdown(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        if columns == 0 {
            return String::new();
        }
        let text = |cell: &Cell| one_line(cell).replace('|', "\\|");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let (heads, body) = self.rows.split_at(self.header_rows.min(self.rows.len()));
        let head = (0..columns).map(|column| {
            let parts = heads.iter().filter_map(|row| row.get(column)).map(text);
            parts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
        });
        let mut out = line(head.collect());
        out += &format!("|{}\n", " --- |".repeat(columns));
        for row in body {
            out += &line(row.iter().map(text).collect());
        }
        out
    }

    /// As CSV (RFC 4180, lines ended by `\r\n`), headings included.
    #[must_use]
    pub fn csv(&self) -> String {
        let quoted = |text: &str| {
            if text.contains(['"', ',', '\n', '\r']) || text.trim() != text {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| quoted(&cell.passage.text)).collect();
            out += &cells.join(",");
            out += "\r\n";
        }
        out
    }

    /// As JSON: an array of rows, each an array of texts, headings included.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| row.iter().map(|cell| json!(cell.passage.text)).collect();
        Value::Array(self.rows.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{Format, Metadata};

    fn document() -> Document {
        let mut page = Page::without_size(1, None);
        page.push_heading(1, "Invoice  7");
        page.push_paragraph("1. not a list\n# nor a heading");
        for text in ["first", "second\nline"] {
            let passage = page.passage(text);
            page.blocks.push(Block::ListItem { depth: 0, number: None, passage });
        }
        let row = |cells: &[&str]| cells.iter().map(|text| (*text).to_owned()).collect();
        page.push_table(&[row(&["Item", "Sum"]), row(&["a|b, \"c\"", "1"]), row(&["d"])], 1);
        let mut picture = Page::without_size(2, Some("scan.png".into()));
        picture.source = PageSource::NeedsOcr;
        Document {
            format: Format::Docx,
            pages: vec![page, picture],
            metadata: Metadata::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn markdown_keeps_what_is_no_markup_from_being_read_as_such() {
        expect![[r#"
            # Invoice 7

            1\. not a list
            \# nor a heading

            - first
            - second
              line

            | Item | Sum |
            | --- | --- |
            | a\|b, "c" | 1 |
            | d |  |

            ---

            <!-- scan.png -->

            <!-- page 2 is a picture and was not read: it needs OCR -->
        "#]]
        .assert_eq(&document().markdown());
    }

    #[test]
    fn text_and_tables() {
        let document = document();
        assert_eq!(
            document.text(),
            "Invoice 7\n\n1. not a list\n# nor a heading\n\n- first\n\n- second\nline\n\nItem\tSum\na|b, \"c\"\t1\nd\n\u{c}"
        );
        let (page, table) = document.tables().next().unwrap();
        assert_eq!(page, 1);
        assert_eq!(table.csv(), "Item,Sum\r\n\"a|b, \"\"c\"\"\",1\r\nd,\r\n");
        assert_eq!(table.json(), json!([["Item", "Sum"], ["a|b, \"c\"", "1"], ["d", ""]]));
    }

    #[test]
    fn blocks_hold_the_words_of_the_page_in_order() {
        let document = document();
        let page = &document.pages[0];
        let mut next = 0;
        for block in &page.blocks {
            let words = block.words();
            assert_eq!(words.start, next);
            next = words.end;
        }
        assert_eq!(next, page.words.len());
        let back: Document =
            serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
        assert_eq!(back, document);
    }
}
