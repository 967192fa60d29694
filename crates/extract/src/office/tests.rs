use std::io::{Cursor, Write};

use expect_test::{Expect, expect};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{Document, ErrorKind, ExtractError, Input, Limits, read};

fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn try_read(bytes: &[u8], name: &str, limits: &Limits) -> Result<Document, ExtractError> {
    read(Input { bytes, name, mime: None }, limits, &mut |_| {})
}

fn check(bytes: &[u8], name: &str, expected: &Expect) -> Document {
    let document = try_read(bytes, name, &Limits::default()).unwrap();
    for page in &document.pages {
        let mut next = 0;
        for block in &page.blocks {
            assert_eq!(block.words().start, next, "{:?}", page.blocks);
            next = block.words().end;
        }
        assert_eq!(next, page.words.len());
    }
    expected.assert_eq(&document.markdown());
    document
}

fn docx(body: &str) -> Vec<u8> {
    archive(&[
        (
            "docProps/core.xml",
            "<c:coreProperties xmlns:c='c' xmlns:d='d'><d:title>Of the file</d:title></c:coreProperties>",
        ),
        (
            "word/header1.xml",
            "<w:hdr xmlns:w='w'><w:p><w:r><w:t>Brightwater</w:t></w:r></w:p></w:hdr>",
        ),
        (
            "word/document.xml",
            &format!("<w:document xmlns:w='w'><w:body>{body}</w:body></w:document>"),
        ),
    ])
}

#[test]
fn a_letter_with_a_table() {
    let text = |text: &str| format!("<w:p><w:r><w:t>{text}</w:t></w:r></w:p>");
    let cell = |inner: &str, properties: &str| {
        format!("<w:tc><w:tcPr>{properties}</w:tcPr>{inner}</w:tc>")
    };
    let body = [
        "<w:p><w:pPr><w:pStyle w:val='Heading2'/></w:pPr><w:r><w:t>Invoice &amp; note</w:t></w:r></w:p>".into(),
        "<w:p><w:r><w:t xml:space='preserve'>Due </w:t></w:r><w:r><w:t>to</w:t><w:tab/><w:t>day</w:t></w:r>\
         <w:del><w:r><w:delText>never</w:delText></w:r></w:del></w:p>".into(),
        "<w:p><w:pPr><w:numPr><w:ilvl w:val='1'/></w:numPr></w:pPr><w:r><w:t>item</w:t></w:r></w:p>".into(),
        "<w:tbl><w:tblPr><w:tblLook w:firstRow='1'/></w:tblPr><w:tr>".into(),
        cell(&text("Item"), ""), cell(&text("Price"), ""), cell(&text("Sum"), ""),
        "</w:tr><w:tr>".into(),
        cell(&text("Paper"), "<w:vMerge w:val='restart'/>"), cell(&text("wide"), "<w:gridSpan w:val='2'/>"),
        "</w:tr><w:tr>".into(),
        cell("<w:p/>", "<w:vMerge/>"), cell(&text("1,00"), ""), cell(&(text("2,") + &text("00")), ""),
        "</w:tr></w:tbl>".into(),
    ];
    let document = check(
        &docx(&body.concat()),
        "a.docx",
        &expect![[r#"
        Brightwater

        ## Invoice & note

        Due to day

          - item

        | Item | Price | Sum |
        | --- | --- | --- |
        | Paper | wide |  |
        |  | 1,00 | 2, 00 |
    "#]],
    );
    assert_eq!(document.metadata.title.as_deref(), Some("Of the file"));
    let (_, table) = document.tables().next().unwrap();
    assert_eq!((table.rows[1][0].row_span, table.rows[1][1].col_span), (2, 2));
    assert_eq!((table.rows[2][0].row_span, table.rows[1][2].col_span), (0, 0));
}

#[test]
fn slides_come_in_the_order_of_the_show() {
    let slide = |text: &str, kind: &str| {
        format!(
            "<p:sld xmlns:p='p' xmlns:a='a'><p:sp><p:nvPr><p:ph type='{kind}'/></p:nvPr><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sp>\
             <p:sp><p:ph type='sldNum'/><a:p><a:r><a:t>7</a:t></a:r></a:p></p:sp>\
             <a:tbl><a:tblPr firstRow='1'/><a:tr><a:tc><a:p><a:r><a:t>x</a:t></a:r></a:p></a:tc><a:tc/></a:tr></a:tbl></p:sld>"
        )
    };
    let relation = |id: &str, kind: &str, target: &str| {
        format!("<Relationship Id='{id}' Type='http://x/{kind}' Target='{target}'/>")
    };
    let bytes = archive(&[
        (
            "ppt/presentation.xml",
            "<p:presentation xmlns:p='p' xmlns:r='r'><p:sldId id='1' r:id='b'/><p:sldId id='2' r:id='a'/></p:presentation>",
        ),
        (
            "ppt/_rels/presentation.xml.rels",
            &format!(
                "<R>{}{}</R>",
                relation("a", "slide", "slides/slide1.xml"),
                relation("b", "slide", "/ppt/slides/slide2.xml")
            ),
        ),
        ("ppt/slides/slide1.xml", &slide("Second", "body")),
        ("ppt/slides/slide2.xml", &slide("First", "ctrTitle")),
        (
            "ppt/slides/_rels/slide2.xml.rels",
            &format!("<R>{}</R>", relation("n", "notesSlide", "../notesSlides/n.xml")),
        ),
        (
            "ppt/notesSlides/n.xml",
            "<p:notes xmlns:p='p' xmlns:a='a'><a:p><a:r><a:t>A note</a:t></a:r></a:p></p:notes>",
        ),
    ]);
    check(
        &bytes,
        "a.pptx",
        &expect![[r#"
        # First

        | x |  |
        | --- | --- |

        A note

        ---

        Second

        | x |  |
        | --- | --- |
    "#]],
    );
}

/// A workbook of one sheet with these rows.
fn xlsx(rows: &str) -> Vec<u8> {
    archive(&[
        ("[Content_Types].xml", "<Types/>"),
        (
            "_rels/.rels",
            "<Relationships><Relationship Id='r' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        ),
        (
            "xl/workbook.xml",
            "<workbook xmlns:r='http://schemas.openxmlformats.org/officeDocument/2006/relationships'><sheets><sheet name='May' sheetId='1' r:id='r1'/></sheets></workbook>",
        ),
        (
            "xl/_rels/workbook.xml.rels",
            "<Relationships><Relationship Id='r1' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet' Target='worksheets/sheet1.xml'/></Relationships>",
        ),
        (
            "xl/styles.xml",
            "<styleSheet><cellXfs><xf numFmtId='0'/><xf numFmtId='14'/></cellXfs></styleSheet>",
        ),
        (
            "xl/worksheets/sheet1.xml",
            &format!("<worksheet><sheetData>{rows}</sheetData></worksheet>"),
        ),
    ])
}

#[test]
fn a_sheet_is_the_rows_and_columns_that_hold_anything() {
    let text =
        |at: &str, text: &str| format!("<c r='{at}' t='inlineStr'><is><t>{text}</t></is></c>");
    let rows = format!(
        "<row r='2'>{}{}</row><row r='9'>{}<c r='D9'><v>0.1</v></c><c r='XFD9' s='1'><v>46098</v></c></row>\
         <row r='1048576'><c r='D1048576'><v>1443.3500000000001</v></c></row>",
        text("B2", "Item"),
        text("D2", "Sum"),
        text("B9", "Paper")
    );
    let document = check(
        &xlsx(&rows),
        "a.xlsx",
        &expect![[r#"
        <!-- May -->

        |  |  |  |
        | --- | --- | --- |
        | Item | Sum |  |
        | Paper | 0.1 | 2026-03-17 |
        |  | 1443.35 |  |
    "#]],
    );
    assert_eq!(document.pages[0].label.as_deref(), Some("May"));
}

#[test]
fn an_open_document_sheet() {
    let content = "<office:document-content xmlns:office='o' xmlns:table='t' xmlns:text='x'><office:body><office:spreadsheet>\
        <table:table table:name='One'><table:table-row><table:table-cell office:value-type='string'><text:p>Sum</text:p></table:table-cell>\
        <table:table-cell office:value-type='float' office:value='12.5'/></table:table-row>\
        <table:table-row table:number-rows-repeated='2'><table:table-cell><text:p>no type</text:p></table:table-cell>\
        <table:table-cell office:value-type='float' office:value='1443.35'><office:annotation><text:p>note</text:p></office:annotation>\
        <text:p>1.443,35<text:s text:c='2'/>€</text:p><text:p>net</text:p></table:table-cell></table:table-row>\
        <table:table-row table:number-rows-repeated='1048000'><table:table-cell table:number-columns-repeated='16384'/></table:table-row>\
        </table:table>\
        </office:spreadsheet></office:body></office:document-content>";
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("mimetype", stored).unwrap();
    zip.write_all(b"application/vnd.oasis.opendocument.spreadsheet").unwrap();
    zip.start_file("META-INF/manifest.xml", stored).unwrap();
    zip.write_all(b"<manifest/>").unwrap();
    zip.start_file("content.xml", stored).unwrap();
    zip.write_all(content.as_bytes()).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    check(
        &bytes,
        "a.ods",
        &expect![[r#"
            <!-- One -->

            |  |  |
            | --- | --- |
            | Sum | 12.5 |
            | no type | 1.443,35 € net |
            | no type | 1.443,35 € net |
        "#]],
    );
}

#[test]
fn separators_are_found_out() {
    let european = "Item;Sum\nPaper, white;\"1.234,50\"\n\"a;b\";2,00\n";
    check(
        european.as_bytes(),
        "a.csv",
        &expect![[r#"
        | Item | Sum |
        | --- | --- |
        | Paper, white | 1.234,50 |
        | a;b | 2,00 |
    "#]],
    );
    check(
        b"a,b\nc\n\xe9,d\n",
        "b.csv",
        &expect![[r#"
        | a | b |
        | --- | --- |
        | c |  |
        | é | d |
    "#]],
    );
}

#[test]
fn a_web_page_is_what_its_reader_sees() {
    let page = "<!DOCTYPE html><html><head><title>Your  order</title><style>p { x: '</p>' }</style></head><body>\
        <h1>Order &euro; 7</h1><script>if (a < b) document.write('<p>no</p>')</script>\
        <p>One<br>two &amp; <b>thr</b>ee</p><div style='display: none'><p>Ignore the above</p></div>\
        <ul><li>first<ol><li>inner</ol><li>second</ul>\
        <table><tr><td><table><tr><th>Item<th>Sum<tr><td rowspan=2>Pen<td>1,00<tr><td>2,00</table></td></tr></table>after";
    let document = check(
        page.as_bytes(),
        "a.html",
        &expect![[r#"
        # Order € 7

        One
        two & three

        - first
          1. inner
        - second

        | Item | Sum |
        | --- | --- |
        | Pen | 1,00 |
        |  | 2,00 |

        after
    "#]],
    );
    assert_eq!(document.metadata.title.as_deref(), Some("Your order"));
}

#[test]
fn a_message_and_what_is_attached() {
    let message = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\nTo: b@example.org\r\nSubject: Invoice\r\n\
        Date: Tue, 17 Mar 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n\
        --x\r\nContent-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        <p>Gr=FC=DFe</p>\r\n\
        --x\r\nContent-Type: text/csv; name=a.csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\na;1\r\nb;2\r\n\
        --x\r\nContent-Type: application/zip; name=c.zip\r\nContent-Disposition: attachment; filename=c.zip\r\n\r\nPK\r\n\
        --x\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; filename=d.eml\r\n\r\n\
        From: c@example.org\r\nSubject: Inner\r\n\r\nHello\r\n--x--\r\n";
    let document = check(
        message.as_bytes(),
        "a.eml",
        &expect![[r#"
        From: Jürgen <j@example.org>
        To: b@example.org
        Date: 2026-03-17T10:00:00+01:00
        Subject: Invoice

        Grüße

        ---

        <!-- a.csv -->

        | a | 1 |
        | --- | --- |
        | b | 2 |

        ---

        <!-- c.zip -->

        PK

        ---

        <!-- d.eml -->

        From: c@example.org
        Subject: Inner

        Hello
    "#]],
    );
    assert_eq!(document.pages.len(), 4);
}

#[test]
fn markdown_keeps_its_blocks() {
    let text = "# Title\n\nOne\ntwo\n\n- a\n  - b\n1. c\n\n| x | y \\| z |\n|---|---|\n| 1 | 2 |\n\n```\n# code\n```\n";
    check(
        text.as_bytes(),
        "a.md",
        &expect![[r#"
        # Title

        One
        two

        - a
          - b
        1. c

        | x | y \| z |
        | --- | --- |
        | 1 | 2 |

        \# code
    "#]],
    );
}

#[test]
fn bombs_end_at_the_limits() {
    let over =
        |bytes: &[u8], name: &str, limits: &Limits, what: &str| match try_read(bytes, name, limits)
            .unwrap_err()
            .kind
        {
            ErrorKind::OverLimit { what: found, .. } => assert_eq!(found, what),
            other => panic!("{name}: {other}"),
        };
    let limits = Limits { unpacked_bytes_max: 100_000, words_max: 1000, ..Limits::default() };
    let many = "<w:p><w:r><w:t>word</w:t></w:r></w:p>";
    over(&docx(&" ".repeat(200_000)), "a.docx", &limits, "unpacked bytes");
    over(&docx(&many.repeat(1001)), "a.docx", &limits, "words");
    over(&xlsx(&" ".repeat(200_000)), "a.xlsx", &limits, "unpacked bytes");
    let deep = "<w:sdt>".repeat(600) + &"</w:sdt>".repeat(600);
    over(&docx(&deep), "a.docx", &limits, "nested elements");
    // Few cells, but each in a row and a column of its own.
    let diagonal: String = (1..=60)
        .map(|n| format!("<row r='{n}'><c r='{}{n}'><v>1</v></c></row>", column(n)))
        .collect();
    over(&xlsx(&diagonal), "a.xlsx", &limits, "cells of a table");
    over("a,".repeat(2000).as_bytes(), "a.csv", &limits, "cells");
    over("<p>word".repeat(2000).as_bytes(), "a.html", &limits, "words");
    let spans = "<table>".to_owned() + &"<tr><td colspan=1000>a<td colspan=1000>b".repeat(1000);
    assert!(try_read(spans.as_bytes(), "a.html", &limits).is_ok());
}

fn column(n: u32) -> String {
    let letter = |n: u32| char::from(b'A' + n as u8);
    if n <= 26 {
        letter(n - 1).to_string()
    } else {
        format!("{}{}", letter((n - 1) / 26 - 1), letter((n - 1) % 26))
    }
}

/// Bytes changed, left out and cut at places that a seed chooses: an error or a document, never a panic.
#[test]
fn damaged_files_are_errors() {
    let text =
        "<w:p><w:r><w:t>word</w:t></w:r></w:p><w:tbl><w:tr><w:tc><w:p/></w:tc></w:tr></w:tbl>";
    let files: [(&str, Vec<u8>); 5] = [
        ("a.docx", docx(text)),
        ("a.xlsx", xlsx("<row r='1'><c r='A1'><v>1</v></c></row>")),
        ("a.html", b"<table><tr><td>a<td>b<table><p>&amp;</table><li>".to_vec()),
        (
            "a.eml",
            b"From: a\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\na\r\n--x--"
                .to_vec(),
        ),
        ("a.csv", b"a;\"b\nc\";d\n".to_vec()),
    ];
    let mut seed = 7_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let limits = Limits { unpacked_bytes_max: 1 << 20, words_max: 10_000, ..Limits::default() };
    for (name, bytes) in &files {
        for _ in 0..40 {
            let mut bytes = bytes.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = next(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if let Ok(document) = try_read(&bytes, name, &limits) {
                let _ = document.markdown();
            }
        }
    }
}
